//! `armdb bench failover` measures, and leaves nothing behind.

use std::process::Stdio;
use std::time::Duration;

use armdb::client::Scan;
use rustix::process::Signal;

use crate::support::{Cluster, Manifest, eventually, process};

async fn keys(cluster: &Cluster) -> Vec<bytes::Bytes> {
    let mut scan = cluster.client().await.scan(Scan::prefix("bench/").keys_only(true));
    let mut keys = Vec::new();
    while let Some(entry) = scan.next().await.expect("a scan") {
        keys.push(entry.key);
    }
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_measurement_of_failovers_leaves_no_key_behind_whether_it_ends_or_is_interrupted() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let measured = cluster.ask(["bench", "failover", "--kills", "1", "--switchovers", "1", "-o", "json"]).await;
    assert!(measured.status.success(), "{}", process::told(&measured));
    let report: serde_json::Value = serde_json::from_slice(&measured.stdout).expect("JSON");
    assert_eq!((&report["kills"]["events"], &report["lost"]), (&1.into(), &0.into()), "{report}");
    assert!(report["acknowledged"].as_u64() > Some(0), "{report}");
    assert_eq!(keys(&cluster).await, [""; 0]);

    let mut endless = cluster.command(["bench", "failover", "--kills", "0", "--switchovers", "1000"]);
    let mut endless = endless.stdout(Stdio::null()).spawn().expect("it starts");
    eventually("it writes", async || (!keys(&cluster).await.is_empty()).then_some(())).await;
    assert!(process::signal(i32::try_from(endless.id()).expect("a pid"), Signal::INT));
    let ended = tokio::task::spawn_blocking(move || process::wait(&mut endless, Duration::from_secs(30)));
    let status = ended.await.expect("no panic").expect("it ends");
    assert_eq!(status.code(), Some(130), "as shells have it");
    assert_eq!(keys(&cluster).await, [""; 0]);
}
