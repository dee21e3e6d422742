//! The faults that the machine room can make: an unplugged node, a power cut, a lost volume, an API server that is away.

use serde_json::Value;

use crate::support::members::{IMAGE, members};
use crate::support::{apply, case, eventually, get, harness, kubectl};

async fn wait(arguments: &[&str]) {
    let all = [&["wait", "--timeout=120s"], arguments].concat();
    kubectl(&all).await.unwrap_or_else(|complaint| panic!("kubectl {}: {complaint}", all.join(" ")));
}

/// The node and the volume's directory of a member.
async fn place(namespace: &str, pod: &str) -> (String, String, String) {
    let found = get(namespace, "pod", pod).await.expect("it is there");
    let node = found["spec"]["nodeName"].as_str().expect("it is placed").to_owned();
    let claim = get(namespace, "pvc", &format!("data-{pod}")).await.expect("it is there");
    let volume = claim["spec"]["volumeName"].as_str().expect("it is bound").to_owned();
    let volume_object: Value = get(namespace, "pv", &volume).await.expect("it is there");
    let path = volume_object["spec"]["local"]["path"].as_str().expect("it is local").to_owned();
    (node, volume, path)
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_can_be_unplugged_and_lose_their_power_and_volumes_outlive_both() {
    case("nodes", async |namespace| {
        apply(namespace, &members(IMAGE, 3)).await;
        let pods = ["pod/kv-0-0", "pod/kv-0-1", "pod/kv-0-2"];
        wait(&[&["-n", namespace, "--for=jsonpath={.status.phase}=Running"], &pods[..]].concat()).await;
        let (node, volume, path) = place(namespace, "kv-0-1").await;
        let number = node.strip_prefix("node").expect("nodes are numbered");
        let node_meta = std::path::Path::new(&path).join("armdb/node.meta");
        let formatted = eventually("the member formats its volume", async || std::fs::read(&node_meta).ok()).await;
        let started = async || get(namespace, "pod", "kv-0-1").await.expect("it is there")["status"]["containerStatuses"][0].clone();
        let before = started().await;

        harness(&["node-down", number]).await;
        wait(&["--for=condition=Ready=Unknown", &format!("node/{node}")]).await;
        // Everything on it runs on: the very same process answers on the node itself.
        let id = before["containerID"].as_str().and_then(|id| id.strip_prefix("containerd://")).expect("it runs");
        let tasks = harness(&["node-run", number, "ctr", "--namespace", "k8s.io", "tasks", "list"]).await;
        assert!(tasks.lines().any(|task| task.starts_with(id) && task.ends_with("RUNNING")), "{tasks}");
        harness(&["node-up", number]).await;
        wait(&["--for=condition=Ready", &format!("node/{node}")]).await;
        assert_eq!(started().await["containerID"], before["containerID"], "an unplugged node's pod was left alone");

        harness(&["power-cut", number]).await;
        wait(&["--for=condition=Ready=Unknown", &format!("node/{node}")]).await;
        harness(&["power-on", number]).await;
        wait(&["--for=condition=Ready", &format!("node/{node}")]).await;
        eventually("the member runs anew", async || {
            let now = started().await;
            (now["containerID"] != before["containerID"] && now["state"]["running"].is_object()).then_some(())
        })
        .await;
        let sid = |meta: &[u8]| meta.len();
        assert_eq!(sid(&std::fs::read(&node_meta).expect("it is there")), sid(&formatted), "the disk outlives the power");

        // A claim that goes takes its data along; the volume is offered again.
        kubectl(["-n", namespace, "delete", "statefulset", "kv-0"]).await.expect("deleted");
        kubectl(["-n", namespace, "delete", "pvc", "--all"]).await.expect("deleted");
        wait(&["--for=jsonpath={.status.phase}=Available", &format!("pv/{volume}")]).await;
        assert_eq!(std::fs::read_dir(&path).expect("it is there").count(), 0, "a volume is offered empty");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_was_away_comes_back_with_everything_it_knew() {
    case("api-server", async |namespace| {
        harness(&["stop", "kube-apiserver"]).await;
        let complaint = kubectl(["get", "--raw", "/readyz"]).await.expect_err("nobody is there");
        assert!(complaint.contains("refused"), "{complaint}");
        harness(&["start", "kube-apiserver"]).await;
        eventually("it is back", async || kubectl(["get", "--raw", "/readyz"]).await.ok()).await;
        assert!(get("", "namespace", namespace).await.is_some());
    })
    .await;
}
