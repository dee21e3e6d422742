//! The faults that the machine room can make: an unplugged node, a power cut, a lost volume, an API server that is away.

use std::path::Path;

use serde_json::Value;

use crate::support::members::{IMAGE, members, running};
use crate::support::{apply, case_alone, eventually, get, harness, kubectl};

async fn wait(arguments: &[&str]) {
    let all = [&["wait", "--timeout=300s"], arguments].concat();
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
    case_alone("nodes", async |namespace| {
        apply(namespace, &members(IMAGE, 3)).await;
        running(namespace).await;
        let (node, volume, path) = place(namespace, "kv-0-1").await;
        let number = node.strip_prefix("node").expect("nodes are numbered");
        let (node_meta, kept) = (Path::new(&path).join("armdb/node.meta"), Path::new(&path).join("kept"));
        eventually("the member formats its volume", async || node_meta.exists().then_some(())).await;
        std::fs::write(&kept, "kept").expect("the volume is a directory of this machine");
        let container = async || {
            let pod = get(namespace, "pod", "kv-0-1").await.expect("it is there");
            pod["status"]["containerStatuses"][0].clone()
        };
        let before = container().await;

        harness(&["node-down", number]).await;
        wait(&["--for=condition=Ready=Unknown", &format!("node/{node}")]).await;
        // Everything on it runs on: the very same process answers on the node itself.
        let id = before["containerID"].as_str().and_then(|id| id.strip_prefix("containerd://")).expect("it runs");
        let tasks = harness(&["node-run", number, "ctr", "--namespace", "k8s.io", "tasks", "list"]).await;
        assert!(tasks.lines().any(|task| task.starts_with(id) && task.ends_with("RUNNING")), "{tasks}");
        harness(&["node-up", number]).await;
        wait(&["--for=condition=Ready", &format!("node/{node}")]).await;
        assert_eq!(container().await["containerID"], before["containerID"], "an unplugged node's pod was left alone");

        harness(&["power-cut", number]).await;
        wait(&["--for=condition=Ready=Unknown", &format!("node/{node}")]).await;
        harness(&["power-on", number]).await;
        wait(&["--for=condition=Ready", &format!("node/{node}")]).await;
        eventually("the member runs anew", async || {
            let now = container().await;
            (now["containerID"] != before["containerID"] && now["state"]["running"].is_object()).then_some(())
        })
        .await;
        assert!(kept.exists() && node_meta.exists(), "the disk outlives the power");

        // A claim that goes takes its data along; the volume is offered again.
        kubectl(["-n", namespace, "delete", "statefulset", "kv-0"]).await.expect("deleted");
        kubectl(["-n", namespace, "delete", "pvc", "--all"]).await.expect("deleted");
        eventually("the volume is offered again", async || {
            let volume = get("", "pv", &volume).await?;
            (volume["status"]["phase"] == "Available").then_some(())
        })
        .await;
        assert_eq!(std::fs::read_dir(&path).expect("it is there").count(), 0, "a volume is offered empty");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_was_away_comes_back_with_everything_it_knew() {
    case_alone("api-server", async |namespace| {
        harness(&["stop", "kube-apiserver"]).await;
        let complaint = kubectl(["get", "--raw", "/readyz"]).await.expect_err("nobody is there");
        assert!(complaint.contains("refused"), "{complaint}");
        harness(&["start", "kube-apiserver"]).await;
        eventually("it is back", async || kubectl(["get", "--raw", "/readyz"]).await.ok()).await;
        assert!(get("", "namespace", namespace).await.is_some());
    })
    .await;
}
