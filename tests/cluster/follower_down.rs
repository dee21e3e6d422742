//! A follower that misses much: it comes back from log files; a blank one under its name by a full copy.

use armdb::api::{MemberRole, MemberState};
use armdb::client::Batch;
use bytes::Bytes;
use std::time::{Duration, Instant};

use crate::support::{Cluster, Ledger, Manifest, Writers};

const ENTRIES: u64 = 1_000_000;
const BATCH: u64 = 500;
/// On a slow machine fewer entries pass.
const ENOUGH: Duration = Duration::from_secs(45);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_missed_a_million_entries_comes_back_and_a_blank_one_is_made_whole_as_a_learner() {
    // Little memory: what the follower missed is no longer in it.
    let cluster = Cluster::start(Manifest::members(3).with("engine: {memoryBudget: 32Mi}")).await;
    let absent = cluster.followers().await[0].name.clone();
    let down = cluster.keep_down(&absent).await;
    let passed = pass_many(&cluster).await;
    let behind = cluster.leader().await.commit.unwrap_or(0);
    down.release();

    let writers = Writers::start(&cluster, 2).await;
    cluster
        .member(&absent, "has caught up", |member| {
            member.state == MemberState::InSync && member.commit.unwrap_or(0) >= behind
        })
        .await;
    let first_sid = cluster.healthy().await.sid;
    passed.compare_everywhere(&cluster).await;
    let said = cluster.logged(&absent);
    assert!(!said.contains("full sync"), "the log held everything: no full copy was needed");

    // The same name with an empty directory is somebody else.
    let before = cluster.member(&absent, "is known", |member| member.sid.is_some()).await.sid;
    let down = cluster.keep_down(&absent).await;
    std::fs::remove_dir_all(cluster.dir().join(&absent).join("data")).expect("removed");
    down.release();
    let learner =
        cluster.member(&absent, "comes back as a learner", |member| member.sid.is_some() && member.sid != before).await;
    assert_ne!(learner.role, MemberRole::Follower, "a blank member votes: {learner:?}");
    cluster
        .member(&absent, "has become a voter again", |member| {
            if member.sid != before && member.role == MemberRole::Follower {
                assert_eq!(member.state, MemberState::InSync, "it votes before it is whole");
                return true;
            }
            false
        })
        .await;
    writers.acknowledge(200).await;
    let books = writers.finish().await;
    assert_eq!(cluster.healthy().await.sid, first_sid, "the leader had no reason to change");
    books.compare_everywhere(&cluster).await;
    passed.compare_everywhere(&cluster).await;
}

/// Writes until a million entries are acknowledged, or time is up; every hundredth batch goes into the books.
async fn pass_many(cluster: &Cluster) -> Ledger {
    let client = cluster.client().await;
    let begun = Instant::now();
    let mut books = Ledger::default();
    let mut under_way = Vec::new();
    let mut entries = 0;
    while entries < ENTRIES && begun.elapsed() < ENOUGH {
        let number = entries / BATCH;
        let mut batch = Batch::new();
        for i in entries..entries + BATCH {
            // Half of the keys are written twice.
            batch = batch.put(format!("many/{:07}", i % (ENTRIES / 2)), i.to_string());
        }
        let client = client.clone();
        under_way.push(tokio::spawn(async move { (number, client.write(batch).await) }));
        entries += BATCH;
        // Batches of one key stay in order: half a million entries lie between them.
        if under_way.len() >= 64 {
            for write in under_way.drain(..) {
                enter(&mut books, write.await.expect("no panic"));
            }
        }
    }
    for write in under_way {
        enter(&mut books, write.await.expect("no panic"));
    }
    eprintln!("{entries} entries passed in {:.1} s", begun.elapsed().as_secs_f64());
    books
}

fn enter<T, E: std::fmt::Debug>(books: &mut Ledger, (number, outcome): (u64, Result<T, E>)) {
    outcome.expect("acknowledged: the leader and a follower are there");
    if number % 100 != 0 {
        return;
    }
    for i in number * BATCH..(number + 1) * BATCH {
        let key = Bytes::from(format!("many/{:07}", i % (ENTRIES / 2)));
        books.enter(key, Some(Bytes::from(i.to_string())), &Ok::<_, armdb::client::WriteError>(()));
    }
}
