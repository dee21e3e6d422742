//! What the scenarios stand on: a cluster, its processes, a load with its books, the package index.

pub mod cluster;
pub mod counters;
pub mod data;
pub mod http;
pub mod ledger;
pub mod packages;
pub mod process;
pub mod small_disk;
pub mod writers;

pub use cluster::Cluster;
pub use data::Manifest;
pub use ledger::Ledger;
pub use writers::Writers;

use std::time::Duration;

/// A wait that takes longer has found a hang, not a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at something that cannot wake us.
pub const LOOK: Duration = Duration::from_millis(10);

/// Waits until `found` finds what it looks for; fails with `what` when patience ends.
pub async fn eventually<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(value) = found().await {
                return value;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(value) => value,
        Err(_) => panic!("never within {} s: {what}", PATIENCE.as_secs()),
    }
}

/// Tells the test runner that a test could not run on this machine.
pub fn skip(test: &str, why: &str) {
    use std::io::Write as _;
    eprintln!("SKIPPED {test}: {why}");
    if let Some(log) = std::env::var_os("ARMDB_SKIP_LOG") {
        let line = format!("{test}: {why}\n");
        let written = std::fs::OpenOptions::new().append(true).create(true).open(log);
        written.and_then(|mut file| file.write_all(line.as_bytes())).expect("the skip is noted");
    }
}
