//! Planned moves under load.

use rustix::process::Signal;

use crate::support::{Cluster, Manifest, Writers, counters::Counters, process};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_the_lead_is_moved_from_member_to_member() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let writers = Writers::start(&cluster, 8).await;
    let mut targets = cluster.names();
    targets.extend(cluster.names());
    for target in &targets {
        writers.acknowledge(100).await;
        cluster.healthy().await;
        let moved = cluster.ask(["switchover", target, "-o", "json"]).await;
        assert!(moved.status.success(), "to {target}: {}", process::told(&moved));
        let report: serde_json::Value = serde_json::from_slice(&moved.stdout).expect("JSON");
        assert_eq!(report["leader"], **target, "{report}");
        assert_eq!(cluster.leader().await.name, *target);
    }
    let old = cluster.healthy().await.name;
    let moved = cluster.ask(["switchover"]).await;
    assert!(moved.status.success(), "to any: {}", process::told(&moved));
    cluster.leader_after(&old).await;
    writers.acknowledge(100).await;
    let books = writers.finish().await;
    assert!(books.refused.is_empty(), "{} requests failed: {:?}", books.refused.len(), books.refused.first());
    assert_eq!(books.unknown, 0, "requests of unknown outcome");
    books.compare_everywhere(&cluster).await;

    let nobody = cluster.ask(["switchover", "kv-0-9"]).await;
    assert_eq!(nobody.status.code(), Some(2), "{}", process::told(&nobody));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("kv-0-2"), "{}", process::told(&nobody));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_every_member_is_restarted_in_turn() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let writers = Writers::start(&cluster, 8).await;
    let counters = Counters::start(&cluster, 2).await;
    for name in cluster.names() {
        writers.acknowledge(100).await;
        cluster.healthy().await;
        let before = cluster.member(&name, "runs", |member| member.pid.is_some()).await.pid;
        cluster.signal(before.expect("a pid"), Signal::TERM);
        cluster.member(&name, "runs again", |member| member.pid.is_some() && member.pid != before).await;
    }
    // Whoever led when its turn came has handed over.
    cluster.healthy().await;
    writers.acknowledge(100).await;
    counters.finish().await;
    let books = writers.finish().await;
    assert!(books.refused.is_empty(), "{} requests failed: {:?}", books.refused.len(), books.refused.first());
    assert_eq!(books.unknown, 0, "requests of unknown outcome");
    books.compare_everywhere(&cluster).await;
}
