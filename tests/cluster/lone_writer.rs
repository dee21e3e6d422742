//! One writer that waits for each answer: nobody comes after it whose write would wake what its own did not.

use std::time::Duration;

use crate::support::{Cluster, Manifest};

/// Far above what a disk or a processor makes a write wait.
const TIMEOUT: Duration = Duration::from_secs(30);
const WRITES: u32 = 3000;

async fn every_write_is_acknowledged(manifest: Manifest) {
    let cluster = Cluster::start(manifest).await;
    let client = cluster.impatient(TIMEOUT).await;
    for number in 0..WRITES {
        if let Err(error) = client.put(format!("key/{}", number % 100), number.to_string()).await {
            panic!("the write {number} of one who writes alone: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_alone_to_three_members_is_answered_every_time() {
    every_write_is_acknowledged(Manifest::members(3)).await;
}

/// Nothing waits for a disk: acknowledgements arrive while the leader still tells of its own append.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_alone_to_four_members_that_do_not_sync_is_answered_every_time() {
    every_write_is_acknowledged(Manifest::members(4).with("replication: {durability: Os}")).await;
}
