//! One client that waits for each answer: nobody comes after it whose write would wake what its own did not.

use std::time::Duration;

use armdb::client::ReadOptions;

use crate::support::{Cluster, Manifest};

/// Far above what a disk or a processor makes a write wait.
const TIMEOUT: Duration = Duration::from_secs(30);
const WRITES: u32 = 3000;

async fn everything_is_answered(manifest: Manifest) {
    let cluster = Cluster::start(manifest).await;
    let client = cluster.impatient(TIMEOUT).await;
    let names = cluster.names();
    for number in 0..WRITES {
        let (key, value) = (format!("key/{}", number % 100), number.to_string());
        let written = match client.put(key.clone(), value.clone()).await {
            Ok(written) => written,
            Err(error) => panic!("the write {number} of one who writes alone: {error}"),
        };
        // Of a follower, who has it a moment later.
        if number % 5 == 0 {
            let asked = &names[number as usize / 5 % names.len()];
            let reading = ReadOptions { timeout: Some(TIMEOUT), ..cluster.reading_from(asked, &written.token) };
            match client.get_with(key, &reading).await {
                Ok(found) => assert_eq!(found.map(|found| found.bytes), Some(value.into()), "{asked}"),
                Err(error) => panic!("the read {number} of {asked} by one who reads alone: {error}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_and_reads_alone_to_three_members_is_answered_every_time() {
    everything_is_answered(Manifest::members(3)).await;
}

/// Nothing waits for a disk: acknowledgements arrive while the leader still tells of its own append.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_writes_and_reads_alone_to_four_members_that_do_not_sync_is_answered_every_time() {
    everything_is_answered(Manifest::members(4).with("replication: {durability: Os}")).await;
}
