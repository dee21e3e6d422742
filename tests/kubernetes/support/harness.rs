//! The machine room: cables, power, components. See `harness.sh`.

use std::path::{Path, PathBuf};

use tokio::process::Command;

/// Whether this process stands inside a running cluster; otherwise every case is skipped.
pub fn is_running() -> bool {
    std::env::var_os("ARMDB_KUBERNETES_INSIDE").is_some()
}

/// Runs `harness.sh` with these arguments; fails the case if it complains.
pub async fn harness(arguments: &[&str]) -> String {
    let outcome = harness_outcome(arguments).await;
    outcome.unwrap_or_else(|complaint| panic!("harness.sh {}: {complaint}", arguments.join(" ")))
}

/// The same; what it complained of is for whoever asks.
pub async fn harness_outcome(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(script()).args(arguments).output().await.expect("the harness is there");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Where everything is left that tells why `name` failed.
pub fn failures(name: &str) -> PathBuf {
    std::env::var_os("ARMDB_KUBERNETES_FAILURES").map_or_else(std::env::temp_dir, PathBuf::from).join(name)
}

/// Writes everything that tells what happened into a folder for `name`; where that is.
pub async fn collect(name: &str) -> PathBuf {
    let folder = failures(name);
    harness(&["collect", folder.to_str().expect("a path in UTF-8")]).await;
    folder
}

/// The cluster's directory.
pub fn root() -> PathBuf {
    std::env::var_os("ARMDB_KUBERNETES_INSIDE").expect("this runs inside the harness").into()
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/harness.sh")
}
