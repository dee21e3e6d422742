//! `kubectl`, as a user types it.

use std::ffi::OsStr;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Runs `kubectl`; what it printed, or what it complained of.
pub async fn kubectl<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<String, String> {
    kubectl_reading("", arguments).await
}

/// The same with something on its standard input.
pub async fn kubectl_reading<S: AsRef<OsStr>>(
    input: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Result<String, String> {
    let mut child = Command::new("kubectl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("kubectl is on the PATH of the harness");
    let mut stdin = child.stdin.take().expect("it was piped");
    let input = input.to_owned();
    // Beside reading what it prints: neither may wait for the other.
    let writing = tokio::spawn(async move {
        // kubectl may end without reading; what it says then is the answer.
        let _ = stdin.write_all(input.as_bytes()).await;
    });
    let output = child.wait_with_output().await.expect("kubectl can be waited for");
    writing.await.expect("no panic");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// `kubectl apply` of one or more manifests in `namespace`.
pub async fn apply(namespace: &str, manifests: &[Value]) {
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": manifests});
    let applied = kubectl_reading(&list.to_string(), ["-n", namespace, "apply", "-f", "-"]).await;
    applied.unwrap_or_else(|complaint| panic!("kubectl apply: {complaint}"));
}

/// An object, if it is there.
pub async fn get(namespace: &str, kind: &str, name: &str) -> Option<Value> {
    match kubectl(["-n", namespace, "get", kind, name, "-o", "json"]).await {
        Ok(text) => Some(serde_json::from_str(&text).expect("kubectl prints JSON")),
        Err(complaint) if complaint.contains("(NotFound)") => None,
        Err(complaint) => panic!("kubectl get {kind} {name}: {complaint}"),
    }
}
