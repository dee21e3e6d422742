//! Both followers gone: nothing is acknowledged, everybody is told so, and it heals.

use std::time::Duration;

use armdb::client::{Refusal, WriteError};
use bytes::Bytes;

use crate::support::{Cluster, Ledger, Manifest, Writers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_followers_no_write_is_acknowledged_the_answers_say_so_and_it_heals() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let writers = Writers::start(&cluster, 4).await;
    writers.acknowledge(300).await;
    let mut books = writers.finish().await;

    let leader = cluster.leader().await;
    let followers = cluster.followers().await;
    let mut down = Vec::new();
    for follower in &followers {
        down.push(cluster.keep_down(&follower.name).await);
    }
    let client = cluster.impatient(Duration::from_millis(1500)).await;
    let mut alone = Ledger::default();
    let mut said = Vec::new();
    for number in 0..100 {
        let key = Bytes::from(format!("alone/{}", number % 5));
        let value = Bytes::from(number.to_string());
        let outcome = client.put(key.clone(), value.clone()).await;
        match &outcome {
            Ok(_) => panic!("a write was acknowledged by the leader alone"),
            // The first ones are appended and wait for followers that do not come.
            Err(WriteError::Indeterminate { .. }) => {}
            Err(WriteError::NotDone(Refusal::TimedOut { last, .. } | Refusal::NoLeader { last, .. })) => {
                said.push(last.clone());
            }
            Err(other) => panic!("told in the wrong words: {other}"),
        }
        alone.enter(key, Some(value), &outcome);
        if said.len() >= 5 {
            break;
        }
    }
    assert!(said.iter().any(|why| why.contains("too few members answer")), "nobody is told why: {said:#?}");
    // Whoever asks on the command line is told by the exit code: 3 = certainly not done, 4 = unknown.
    let put = cluster.ask(["put", "alone/cli", "1", "--timeout", "1"]).await;
    assert!(matches!(put.status.code(), Some(3 | 4)), "{}", crate::support::process::told(&put));

    let stands = cluster.metric(&leader.name, "armdb_cannot_commit_seconds").await;
    assert!(stands > 1.0, "no write quorum has answered for {stands} s");

    for guard in down {
        guard.release();
    }
    cluster.healthy().await;
    let writers = Writers::start(&cluster, 4).await;
    writers.acknowledge(300).await;
    books.merge(alone);
    // The same keys again: the later books replace the earlier ones.
    books.merge(writers.finish().await);
    books.compare_everywhere(&cluster).await;
}
