//! The image, as a pod that a strict platform admits, and everything in the machine room that a member needs.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::http::http_get;
use crate::support::members::{HTTP, IMAGE, members, running};
use crate::support::operator::image_archive;
use crate::support::{apply, case, eventually, get, harness, kubectl};

/// Of the image that is shipped.
const MAX_BYTES: u64 = 25_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn the_image_runs_under_the_restricted_standard_on_a_local_volume_and_is_reached_by_every_address() {
    case("image", async |namespace| {
        apply(namespace, &members(IMAGE, 1)).await;
        running(namespace).await;

        let pod = get(namespace, "pod", "kv-0-0").await.expect("it is there");
        let by_ip = (pod["status"]["podIP"].as_str().expect("it has an address").to_owned(), HTTP);
        let service = get(namespace, "service", "kv").await.expect("it is there");
        let by_service = (service["spec"]["clusterIP"].as_str().expect("it has an address").to_owned(), HTTP);
        let by_name = (format!("kv.{namespace}.svc.cluster.local"), HTTP);
        let by_short_name = (format!("kv-0-0.kv-nodes.{namespace}"), HTTP);
        for (host, port) in [by_ip, by_service, by_name, by_short_name] {
            // Names and service addresses follow the pod; nobody wakes us.
            eventually(&format!("{host}:{port} answers"), async || {
                let answer = http_get((host.as_str(), port), "/livez").await.ok()?;
                answer.starts_with("HTTP/1.1 200").then_some(())
            })
            .await;
        }
        let resolved = format!("kv-0-0.kv-nodes.{namespace}:{HTTP}").to_socket_addrs().expect("it is a name");
        let ip: IpAddr = pod["status"]["podIP"].as_str().expect("an address").parse().expect("an address");
        assert!(resolved.into_iter().all(|address| address.ip() == ip), "the headless service names the pod itself");

        // From within a pod, too: the static binary must find names without the C library's modules.
        let printed = run_once(namespace, "asks-by-name", IMAGE, &["--endpoints", "kv:7400", "get", "key"]).await;
        assert!(!printed.contains("lookup"), "kv is resolved inside: {printed}");
        assert_eq!(exit_code(namespace, "asks-by-name").await, 3, "a blank member cannot answer: {printed}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_an_image_to_upgrade_to_and_one_that_ends_at_once() {
    case("images", async |namespace| {
        let version = run_once(namespace, "upgraded", "registry.test/armdb:2", &["--version"]).await;
        assert_eq!(version.trim(), concat!("armdb ", env!("CARGO_PKG_VERSION")));
        assert_eq!(exit_code(namespace, "upgraded").await, 0);
        let complaint = run_once(namespace, "broken", "registry.test/armdb:broken", &["--version"]).await;
        assert!(complaint.contains("broken on purpose"), "{complaint}");
        assert_eq!(exit_code(namespace, "broken").await, 1);
    })
    .await;
}

/// What anybody pulls: what is shipped is built with the profile `release`, and only that is small.
#[tokio::test(flavor = "multi_thread")]
async fn the_image_holds_one_static_program_for_a_user_without_rights_and_is_small() {
    case("archive", async |_| {
        let archive = image_archive(IMAGE);
        let archive = archive.to_str().expect("a path in UTF-8");
        let manifest: Value =
            serde_json::from_slice(&output("tar", &["-xOf", archive, "manifest.json"])).expect("JSON");
        let config = manifest[0]["Config"].as_str().expect("a name");
        let config: Value = serde_json::from_slice(&output("tar", &["-xOf", archive, config])).expect("JSON");
        assert_eq!(config["config"]["User"], "65532:65532", "a number: Kubernetes sees that it is not root");
        assert_eq!(config["config"]["Entrypoint"], json!(["/armdb"]));

        let folder = tempfile::tempdir().expect("a folder");
        let into = folder.path().to_str().expect("a path in UTF-8");
        for layer in manifest[0]["Layers"].as_array().expect("a list") {
            output("tar", &["-xf", archive, "-C", into, layer.as_str().expect("a name")]);
            let layer = folder.path().join(layer.as_str().expect("a name"));
            output("tar", &["-xf", layer.to_str().expect("a path in UTF-8"), "-C", into]);
            std::fs::remove_file(layer).expect("it is there");
        }
        let files: Vec<_> = std::fs::read_dir(into).expect("it is there").flatten().map(|e| e.file_name()).collect();
        assert_eq!(files, ["armdb"], "no shell, no library, no user database");
        let program = folder.path().join("armdb");
        let headers = output("readelf", &["--program-headers", program.to_str().expect("a path in UTF-8")]);
        assert!(!String::from_utf8_lossy(&headers).contains("INTERP"), "it needs no loader: it is static");

        let bytes = std::fs::metadata(archive).expect("it is there").len();
        println!("the image has {} kB", bytes / 1000);
        if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
            assert!(bytes < MAX_BYTES, "{bytes} bytes, at most {MAX_BYTES}");
        }
    })
    .await;
}

fn output(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().expect("it is installed");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Runs `armdb` in a pod of its own to its end; what it printed.
async fn run_once(namespace: &str, name: &str, image: &str, arguments: &[&str]) -> String {
    let container = json!({
        "name": "armdb", "image": image, "args": arguments,
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    let spec = json!({
        "restartPolicy": "Never", "containers": [container],
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
    });
    apply(namespace, &[json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})]).await;
    let pod = format!("pod/{name}");
    let ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    kubectl(["-n", namespace, "wait", ended, &pod, "--timeout=300s"]).await.expect("it ends");
    kubectl(["-n", namespace, "logs", &pod]).await.expect("its logs are there")
}

async fn exit_code(namespace: &str, pod: &str) -> Value {
    let pod = get(namespace, "pod", pod).await.expect("it is there");
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_from_outside_meets_the_program_as_the_kernel_would_send_it() {
    case("signals", async |namespace| {
        apply(namespace, &members(IMAGE, 1)).await;
        running(namespace).await;
        harness(&["signal", "KILL", namespace, "kv-0-0"]).await;
        let restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1";
        let waited = kubectl(["-n", namespace, "wait", restarted, "pod/kv-0-0", "--timeout=300s"]).await;
        waited.expect("it is started again");
        let pod = get(namespace, "pod", "kv-0-0").await.expect("it is there");
        let ended = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
        assert_eq!(ended["exitCode"], 137, "killed: {ended}");
    })
    .await;
}
