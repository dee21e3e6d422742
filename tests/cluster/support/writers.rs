//! A load: writers that put and delete their own keys one after another, and keep books.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use armdb::client::Client;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::{Cluster, Ledger, eventually};

/// Keys of each writer: few, so that each is overwritten and deleted many times.
const KEYS: u64 = 400;

/// Writers at work.
pub struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Ledger>>,
}

impl Writers {
    /// Starts `count` of them, each with one write under way.
    pub async fn start(cluster: &Cluster, count: u64) -> Self {
        Self::start_with(cluster.client().await, count)
    }

    /// As [`Self::start`], through this client.
    pub fn start_with(client: Client, count: u64) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..count)
            .map(|writer| tokio::spawn(write(client.clone(), writer, Arc::clone(&stop), Arc::clone(&acknowledged))))
            .collect();
        Self { stop, acknowledged, tasks }
    }

    /// Waits until this many more writes are acknowledged.
    pub async fn acknowledge(&self, more: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        eventually(&format!("{more} more writes are acknowledged"), async || {
            (self.acknowledged.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// Stops them and returns the books.
    pub async fn finish(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut books = Ledger::default();
        for task in self.tasks {
            books.merge(task.await.expect("a writer ends"));
        }
        books
    }
}

async fn write(client: Client, writer: u64, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) -> Ledger {
    let mut books = Ledger::default();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = Bytes::from(format!("writer/{writer}/{:04}", number % KEYS));
        let (content, outcome) = if number % 11 == 10 {
            (None, client.delete(key.clone()).await)
        } else {
            let value = Bytes::from(format!("{number} of {writer} {}", "x".repeat((number % 7 * 40) as usize)));
            (Some(value.clone()), client.put(key.clone(), value).await)
        };
        if outcome.is_ok() {
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        books.enter(key, content, &outcome);
        // A load that saturated the machine would starve the heartbeats of a small one.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    books
}
