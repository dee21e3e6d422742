//! Counters that only rise, each with one writer and two readers: a read that shows less than what was acknowledged
//! before it began, or less than an earlier read, is stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use armdb::client::{Client, ReadLevel, ReadOptions};
use tokio::task::JoinHandle;

use super::Cluster;

/// Counters at work.
pub struct Counters {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<u64>>,
}

impl Counters {
    /// Starts `count` of them. Every task has a client of its own, as strangers have.
    pub async fn start(cluster: &Cluster, count: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for counter in 0..count {
            let key = format!("counter/{counter}");
            let acknowledged = Arc::new(AtomicU64::new(0));
            let writer = raise(cluster.client().await, key.clone(), Arc::clone(&acknowledged), Arc::clone(&stop));
            tasks.push(tokio::spawn(writer));
            for level in [ReadLevel::Linearizable, ReadLevel::ReadIndex] {
                let client = cluster.client().await;
                tasks.push(tokio::spawn(watch(
                    client,
                    key.clone(),
                    level,
                    Arc::clone(&acknowledged),
                    Arc::clone(&stop),
                )));
            }
        }
        Self { stop, tasks }
    }

    /// Stops them; fails if any read was stale.
    pub async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let answered = task.await.expect("no stale read");
            assert!(answered > 0, "somebody was never answered: nothing is shown by that");
        }
    }
}

async fn raise(client: Client, key: String, acknowledged: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> u64 {
    let mut answered = 0;
    for number in 1_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if client.put(key.clone(), number.to_string()).await.is_ok() {
            acknowledged.store(number, Ordering::SeqCst);
            answered += 1;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    answered
}

async fn watch(
    client: Client,
    key: String,
    level: ReadLevel,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> u64 {
    let options = ReadOptions::level(level);
    let (mut answered, mut seen) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let least = acknowledged.load(Ordering::SeqCst).max(seen);
        if let Ok(value) = client.get_with(key.clone(), &options).await {
            let found = value
                .map_or(0, |value| std::str::from_utf8(&value.bytes).expect("text").parse::<u64>().expect("a number"));
            assert!(found >= least, "a stale read of {key} ({options:?}): {found}, and {least} was there before");
            seen = found;
            answered += 1;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    answered
}
