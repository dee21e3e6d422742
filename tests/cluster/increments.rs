//! A counter raised by compare-and-swap from many clients while leaders go: never less than what was acknowledged,
//! never more than what was attempted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use armdb::client::Client;
use rustix::process::Signal;

use crate::support::{Cluster, Manifest, eventually};

async fn number(client: &Client) -> Option<(u64, armdb::client::Version)> {
    let value = client.get("count").await.ok()??;
    Some((std::str::from_utf8(&value.bytes).expect("text").parse().expect("a number"), value.version))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_increment_counts_once_whoever_leads() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    cluster.client().await.put("count", "0").await.expect("a write");
    let stop = Arc::new(AtomicBool::new(false));
    let (done, unknown) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let client = cluster.client().await;
        let (stop, done, unknown) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&unknown));
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let Some((count, version)) = number(&client).await else { continue };
                match client.compare_and_swap("count", &version, (count + 1).to_string()).await {
                    Ok(outcome) => {
                        done.fetch_add(u64::from(outcome.applied()), Ordering::Relaxed);
                    }
                    Err(error) if error.is_indeterminate() => {
                        unknown.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => {}
                }
            }
        }));
    }
    for round in 0..4 {
        let goal = done.load(Ordering::Relaxed) + 100;
        eventually("a hundred more increments", async || (done.load(Ordering::Relaxed) >= goal).then_some(())).await;
        let leader = cluster.leader().await;
        if round % 2 == 0 {
            cluster.signal(leader.pid.expect("it runs"), Signal::KILL);
            cluster.leader_after(&leader.name).await;
        } else {
            cluster.healthy().await;
            assert!(cluster.ask(["switchover"]).await.status.success());
        }
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("no panic");
    }
    let (count, _) = number(&cluster.client().await).await.expect("a read");
    let (done, unknown) = (done.load(Ordering::Relaxed), unknown.load(Ordering::Relaxed));
    assert!(
        count >= done && count <= done + unknown,
        "{count} after {done} increments and {unknown} of unknown outcome"
    );
}
