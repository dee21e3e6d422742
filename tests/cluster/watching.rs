//! A watch that outlives leaders.

use std::collections::HashMap;

use armdb::client::{Watch, WatchOptions};
use bytes::Bytes;
use rustix::process::Signal;

use crate::support::{Cluster, Manifest, PATIENCE, Writers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_every_acknowledged_change_once_and_in_order_whoever_leads() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let client = cluster.client().await;
    let mut watch = client.watch(WatchOptions { prefix: "counter/".into(), after: None });
    watch.start().await.expect("a watch");
    let watching = tokio::spawn(async move { follow(&mut watch).await });

    let writers = Writers::start(&cluster, 2).await;
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        let end = (round + 1) * 300;
        for number in round * 300..end {
            // Others write in between; of what is watched every write is acknowledged or certainly not done.
            let key = format!("counter/{}", number % 7);
            match client.put(key, number.to_string()).await {
                Ok(_) => acknowledged.push(number),
                Err(error) => assert!(error.is_indeterminate(), "{error}"),
            }
        }
        let leader = cluster.leader().await;
        if round % 2 == 0 {
            cluster.signal(leader.pid.expect("it runs"), Signal::KILL);
            cluster.leader_after(&leader.name).await;
        } else {
            cluster.healthy().await;
            assert!(cluster.ask(["switchover"]).await.status.success());
        }
    }
    client.put("counter/end", "end").await.expect("a write");
    let seen = tokio::time::timeout(PATIENCE, watching).await.expect("the end is seen").expect("no panic");
    writers.finish().await;
    let missed: Vec<_> = acknowledged.iter().filter(|number| !seen.contains_key(*number)).collect();
    assert!(missed.is_empty(), "{} acknowledged changes were not told: {missed:?}", missed.len());
}

/// Every number told until the end; each once, and rising within a key.
async fn follow(watch: &mut Watch) -> HashMap<i32, ()> {
    let mut seen = HashMap::new();
    let mut last: HashMap<Bytes, i32> = HashMap::new();
    loop {
        for change in watch.next().await.expect("the history is kept").changes {
            let value = change.value.expect("nothing was deleted").bytes;
            if value == "end" {
                return seen;
            }
            let number: i32 = std::str::from_utf8(&value).expect("text").parse().expect("a number");
            assert!(seen.insert(number, ()).is_none(), "{number} was told twice");
            let before = last.insert(change.key, number);
            assert!(before.is_none_or(|before| before < number), "{number} came after {before:?}");
        }
    }
}
