//! What the cases stand on: the command line of Kubernetes, the harness, a namespace a case, the operator with its
//! clusters, and applications that keep a history which is judged afterwards.

pub mod audit;
pub mod case;
pub mod definitions;
pub mod etcd;
pub mod harness;
pub mod history;
pub mod http;
pub mod kubectl;
pub mod members;
pub mod objects;
pub mod operator;
pub mod processes;
pub mod replicas;
pub mod workload;

pub use case::{case, case_alone};
pub use definitions::definitions;
pub use harness::harness;
pub use kubectl::{apply, get, kubectl, kubectl_reading};

use std::time::Duration;

/// A wait that takes longer has found a hang, not a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Between two looks at something that cannot wake us.
pub const LOOK: Duration = Duration::from_millis(100);

/// Waits until `found` finds what it looks for; fails with `what` when patience ends.
pub async fn eventually<T>(what: &str, found: impl AsyncFnMut() -> Option<T>) -> T {
    match patiently(found).await {
        Some(value) => value,
        None => panic!("never within {} s: {what}", PATIENCE.as_secs()),
    }
}

/// Waits until `found` finds what it looks for; `None` when patience ends.
pub async fn patiently<T>(mut found: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let looking = async {
        loop {
            if let Some(value) = found().await {
                return value;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.ok()
}
