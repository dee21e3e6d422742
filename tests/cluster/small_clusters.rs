//! Clusters of one and of two.

use rustix::process::Signal;

use crate::support::{Cluster, Manifest, Writers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_alone_is_killed_and_goes_on_where_it_was() {
    let mut cluster = Cluster::start(Manifest::members(1)).await;
    let writers = Writers::start(&cluster, 4).await;
    for _ in 0..2 {
        writers.acknowledge(200).await;
        cluster.signal(cluster.leader().await.pid.expect("it runs"), Signal::KILL);
    }
    writers.acknowledge(200).await;
    let books = writers.finish().await;
    books.compare_everywhere(&cluster).await;
    assert!(cluster.end(Signal::TERM).await.success());
    cluster.run();
    cluster.healthy().await;
    books.compare_everywhere(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_members_either_goes_on_without_the_other_and_takes_it_back() {
    let cluster = Cluster::start(Manifest::members(2)).await;
    let writers = Writers::start(&cluster, 4).await;
    writers.acknowledge(200).await;
    // The follower first, then the leader: both times the other one must give it up as a voter to go on.
    let follower = cluster.followers().await.remove(0).name;
    let down = cluster.keep_down(&follower).await;
    writers.acknowledge(200).await;
    down.release();
    let leader = cluster.healthy().await.name;
    let down = cluster.keep_down(&leader).await;
    assert_eq!(cluster.leader_after(&leader).await.name, follower);
    writers.acknowledge(200).await;
    down.release();
    cluster.healthy().await;
    writers.acknowledge(200).await;
    writers.finish().await.compare_everywhere(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_grows_to_three_and_to_five_while_it_is_written_to() {
    let mut cluster = Cluster::start(Manifest::members(1)).await;
    let writers = Writers::start(&cluster, 4).await;
    for replicas in [3, 5] {
        writers.acknowledge(200).await;
        assert!(cluster.end(Signal::TERM).await.success());
        cluster.change(Manifest::members(replicas));
        cluster.run();
        cluster.healthy().await;
    }
    // Two of five may go.
    let followers = cluster.followers().await;
    let down = [cluster.keep_down(&followers[0].name).await, cluster.keep_down(&followers[1].name).await];
    writers.acknowledge(200).await;
    for down in down {
        down.release();
    }
    cluster.healthy().await;
    writers.finish().await.compare_everywhere(&cluster).await;
}
