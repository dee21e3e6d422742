//! A follower that misses much: it comes back from log files; a blank one under its name by a full copy.

use armdb::api::{MemberRole, MemberState};
use armdb::client::{Batch, WriteError};
use bytes::Bytes;
use std::time::{Duration, Instant};

use crate::support::{Cluster, Ledger, Manifest, Writers};

/// What a follower logs when it is made whole.
const FULL_COPY: &str = "a full copy from the leader begins";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_missed_a_million_entries_comes_back_from_the_logs_files() {
    // Little memory: what the follower missed is no longer in it.
    let cluster = Cluster::start(Manifest::members(3).with("engine: {memoryBudget: 32Mi}")).await;
    let absent = cluster.followers().await[0].name.clone();
    let down = cluster.keep_down(&absent).await;
    let passed = pass(&cluster, 1_000_000, 10).await;
    let behind = cluster.leader().await.commit.unwrap_or(0);
    down.release();

    let writers = Writers::start(&cluster, 2).await;
    cluster
        .member(&absent, "has caught up", |member| {
            member.state == MemberState::InSync && member.commit.unwrap_or(0) >= behind
        })
        .await;
    let leader = cluster.healthy().await;
    let from_files = "catches up from the log's files";
    assert!(cluster.logged(&leader.name).contains(from_files), "what it missed came from nowhere");
    assert!(!cluster.logged(&absent).contains(FULL_COPY), "the log held everything: no full copy was needed");
    writers.acknowledge(100).await;
    let mut books = writers.finish().await;
    books.merge(passed);
    books.compare_everywhere(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blank_member_under_an_old_name_is_made_whole_as_a_learner_while_writes_go_on() {
    // Little of the log is kept once its entries are old: a blank member finds its beginning gone.
    let kept =
        "engine: {logRetention: {minSize: 1Mi, minAgeSeconds: 0, maxSize: 1Mi}, compaction: {minGarbagePercent: 5}}";
    let cluster = Cluster::start(Manifest::members(3).with(kept)).await;
    let passed = pass(&cluster, 400_000, 500).await;
    let behind = cluster.leader().await.commit.unwrap_or(0);
    let leader = cluster.healthy().await;
    let name = cluster.followers().await[0].name.clone();
    let old = cluster.member(&name, "is known", |member| member.sid.is_some()).await.sid;

    let writers = Writers::start(&cluster, 2).await;
    let down = cluster.keep_down(&name).await;
    std::fs::remove_dir_all(cluster.dir().join(&name).join("data")).expect("removed");
    down.release();
    let blank =
        cluster.member(&name, "comes back as somebody else", |member| member.sid.is_some() && member.sid != old).await;
    assert_ne!(blank.role, MemberRole::Follower, "a blank member votes: {blank:?}");
    cluster
        .member(&name, "has become a voter again", |member| {
            if member.sid == old || member.role != MemberRole::Follower {
                return false;
            }
            let whole = member.commit.unwrap_or(0) >= behind && member.state != MemberState::Syncing;
            assert!(whole, "it votes before it is whole: {member:?}");
            true
        })
        .await;
    writers.acknowledge(200).await;
    let mut books = writers.finish().await;
    assert_eq!(cluster.healthy().await.sid, leader.sid, "the leader had no reason to change");
    assert!(cluster.logged(&name).contains(FULL_COPY), "it was made whole from nowhere");
    books.merge(passed);
    books.compare_everywhere(&cluster).await;
}

const BATCH: u64 = 500;
/// On a slow machine fewer entries pass.
const ENOUGH: Duration = Duration::from_secs(45);

/// Writes until so many entries are acknowledged, or time is up; every hundredth batch goes into the books.
async fn pass(cluster: &Cluster, entries: u64, value_bytes: usize) -> Ledger {
    // Half of the keys are written twice.
    let keys = entries / 2;
    let entry = |i: u64| (Bytes::from(format!("many/{:07}", i % keys)), Bytes::from(format!("{i:0value_bytes$}")));
    let client = cluster.client().await;
    let begun = Instant::now();
    let mut books = Ledger::default();
    let mut under_way = Vec::new();
    let mut passed = 0;
    while passed < entries && begun.elapsed() < ENOUGH {
        let mut batch = Batch::new();
        for i in passed..passed + BATCH {
            let (key, value) = entry(i);
            batch = batch.put(key, value);
        }
        let (client, number) = (client.clone(), passed / BATCH);
        under_way.push(tokio::spawn(async move { (number, client.write(batch).await) }));
        passed += BATCH;
        // Batches of one key stay in order: half of all entries lie between them.
        if under_way.len() < 64 && passed < entries {
            continue;
        }
        for write in under_way.drain(..) {
            let (number, outcome) = write.await.expect("no panic");
            outcome.expect("acknowledged: the leader and a follower are there");
            if number % 100 == 0 {
                for (key, value) in (number * BATCH..(number + 1) * BATCH).map(entry) {
                    books.enter(key, Some(value), &Ok::<_, WriteError>(()));
                }
            }
        }
    }
    eprintln!("{passed} entries passed in {:.1} s", begun.elapsed().as_secs_f64());
    books
}
