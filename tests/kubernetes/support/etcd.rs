//! Everything that Kubernetes knows, as it was once: etcd's data, copied and put back.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::harness::{harness, root};
use super::http::http_with;
use super::{eventually, kubectl};

const ADDRESS: &str = "127.0.0.1:2379";
/// Revisions that may have been told between the question for the last one and the end of etcd.
const MARGIN: i64 = 100;

/// A copy of etcd's data.
#[derive(Debug)]
pub struct Backup(PathBuf);

impl Backup {
    /// Takes one; etcd is away for a moment.
    pub async fn take() -> Self {
        let backup = Self(root().join("etcd-backup"));
        harness(&["stop", "etcd"]).await;
        replace(&data(), &backup.0);
        harness(&["start", "etcd"]).await;
        answers().await;
        backup
    }

    /// Puts it back: what was written since is as if it had never been. Revisions go on behind the last one that was
    /// told, as Kubernetes asks of whoever restores etcd (`etcdutl snapshot restore --bump-revision`): whoever watches
    /// would miss everything until the old numbers come round again.
    pub async fn restore(&self) {
        let told = revision().await.expect("etcd answers") + MARGIN;
        for component in ["kube-apiserver", "etcd"] {
            harness(&["stop", component]).await;
        }
        replace(&self.0, &data());
        harness(&["start", "etcd"]).await;
        let mut now = eventually("etcd answers", async || revision().await).await;
        while now <= told {
            let put = ask("put", &json!({"key": "cmV2aXNpb24=", "value": ""})).await;
            now = put.expect("etcd takes it");
        }
        harness(&["start", "kube-apiserver"]).await;
        answers().await;
        // They remember generations of objects that went back, and wait for those ("informer cache is out of date"): Services
        // would go on pointing at pods that are gone. Kubernetes asks for it too.
        for component in ["kube-controller-manager", "kube-scheduler"] {
            harness(&["stop", component]).await;
            harness(&["start", component]).await;
        }
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until the API server does.
async fn answers() {
    eventually("the API server answers", async || kubectl(["get", "--raw", "/readyz"]).await.ok()).await;
}

fn data() -> PathBuf {
    root().join("etcd")
}

fn replace(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} cannot be copied", from.display());
}

async fn revision() -> Option<i64> {
    ask("range", &json!({"key": "AA=="})).await
}

/// The revision that etcd answers one of its calls with.
async fn ask(call: &str, question: &Value) -> Option<i64> {
    let answer = http_with(ADDRESS, "POST", &format!("/v3/kv/{call}"), &question.to_string()).await.ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let body: Value = serde_json::from_str(body).ok()?;
    body["header"]["revision"].as_str()?.parse().ok()
}
