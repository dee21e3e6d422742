//! Everybody killed at once, with and without the supervisor: nothing that was acknowledged is gone.

use rustix::process::Signal;

use crate::support::{Cluster, Manifest, Writers, eventually, process};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_all_members_are_killed_at_once() {
    let cluster = Cluster::start(Manifest::members(3).shards(2)).await;
    let writers = Writers::start(&cluster, 8).await;
    for _ in 0..2 {
        writers.acknowledge(500).await;
        let pids: Vec<i32> = cluster.file().members.iter().filter_map(|member| member.pid).map(|p| p as i32).collect();
        assert_eq!(pids.len(), 3);
        for pid in pids {
            cluster.signal(pid, Signal::KILL);
        }
        writers.acknowledge(200).await;
        cluster.healthy().await;
    }
    writers.finish().await.compare_everywhere(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_supervisor_leaves_no_member_behind_and_its_successor_finds_everything() {
    let mut cluster = Cluster::start(Manifest::members(3)).await;
    let writers = Writers::start(&cluster, 4).await;
    writers.acknowledge(300).await;
    let status = cluster.end(Signal::KILL).await;
    assert!(!status.success());
    let dir = cluster.dir();
    eventually("no member is left", async || process::naming(&dir).is_empty().then_some(())).await;
    cluster.run();
    cluster.healthy().await;
    writers.acknowledge(300).await;
    writers.finish().await.compare_everywhere(&cluster).await;
}
