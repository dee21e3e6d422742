//! A case: a namespace of its own, and if it fails, everything about it in a folder.

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures::FutureExt as _;
use serde_json::json;
use tokio::sync::RwLock;

use super::{apply, harness, kubectl};

/// Held by cases while they run: shared by those that keep to their namespace, alone by those that break what all use.
static ROOM: RwLock<()> = RwLock::const_new(());

/// Runs `scenario` in the new namespace `name`, which is deleted afterwards unless the scenario fails. Other cases may
/// run beside it.
pub async fn case(name: &str, scenario: impl AsyncFnOnce(&str)) {
    let _beside = ROOM.read().await;
    run(name, false, scenario).await;
}

/// The same for a scenario that breaks nodes, the operator or the API server, or measures: nothing runs beside it, and
/// what it has broken when it fails is mended for those that follow.
pub async fn case_alone(name: &str, scenario: impl AsyncFnOnce(&str)) {
    let _alone = ROOM.write().await;
    run(name, true, scenario).await;
}

async fn run(name: &str, alone: bool, scenario: impl AsyncFnOnce(&str)) {
    if !harness::is_running() {
        skip(name, "no Kubernetes: tests/run kubernetes starts one");
        return;
    }
    let began = Instant::now();
    let failed = AssertUnwindSafe(async {
        make_namespace(name).await;
        scenario(name).await;
    })
    .catch_unwind()
    .await;
    if let Err(panic) = failed {
        let folder = harness::collect(name).await;
        eprintln!("{name} FAILED: logs, objects and events are in {}", folder.display());
        if alone {
            harness::harness(&["mend"]).await;
        }
        std::panic::resume_unwind(panic);
    }
    println!("{name}: {} s", began.elapsed().as_secs());
    // With its claims, so that the next case finds the volumes free. Not awaited: nobody else has this name.
    kubectl(["delete", "namespace", name, "--wait=false"]).await.expect("the namespace can be deleted");
}

/// One that enforces what the project promises of its pods.
async fn make_namespace(name: &str) {
    // What a case left that failed in this cluster before.
    kubectl(["delete", "namespace", name, "--ignore-not-found"]).await.expect("the namespace can be deleted");
    let labels = json!({
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    apply("default", &[namespace]).await;
    // Pods are refused until there is one.
    kubectl(["-n", name, "wait", "--for=create", "serviceaccount/default", "--timeout=300s"])
        .await
        .expect("the namespace gets its service account");
}

/// Tells the test runner that a case could not run on this machine.
fn skip(case: &str, why: &str) {
    eprintln!("SKIPPED {case}: {why}");
    if let Some(log) = std::env::var_os("ARMDB_SKIP_LOG") {
        let line = format!("kubernetes, {case}: {why}\n");
        let written = std::fs::OpenOptions::new().append(true).create(true).open(log);
        written.and_then(|mut file| file.write_all(line.as_bytes())).expect("the skip is noted");
    }
}
