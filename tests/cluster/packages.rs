//! The package index of a machine, loaded while leaders are killed.

use std::collections::BTreeMap;

use armdb::client::{ReadOptions, Scan};
use rustix::process::Signal;

use crate::support::{Cluster, Manifest, eventually, packages, process, skip};

const KILLS: u64 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_index_survives_five_kills_of_the_leader_while_it_is_loaded() {
    let Some(index) = packages::index() else {
        return skip("a package index survives five kills", "apt-cache dumpavail has no package index");
    };
    let cluster = Cluster::start(Manifest::members(3)).await;
    let file = cluster.scratch().join("packages.jsonl");
    packages::write(&file, &index);

    let total = index.len() as u64;
    let commit = async || cluster.leader().await.commit.unwrap_or(0) as u64;
    let before = commit().await;
    // A small window, so that the load takes longer than five failovers.
    let load =
        cluster.command(["load", file.to_str().expect("a path"), "--window", "128", "-o", "json", "--give-up", "100"]);
    let load = tokio::spawn(process::output(load));
    let mut killed = Vec::new();
    for kill in 1..=KILLS {
        let goal = before + kill * total / (KILLS + 1);
        eventually(&format!("{goal} entries are committed"), async || {
            assert!(!load.is_finished(), "the load ended before the leader was killed {KILLS} times");
            (commit().await >= goal).then_some(())
        })
        .await;
        let leader = cluster.leader().await;
        cluster.signal(leader.pid.expect("it runs"), Signal::KILL);
        cluster.leader_after(&leader.name).await;
        killed.push(leader.name);
    }
    let output = load.await.expect("no panic");
    assert!(output.status.success(), "after kills of {killed:?}: {}", process::told(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["entries"], total, "{report}");

    // It ended well, so every entry was acknowledged.
    cluster.healthy().await;
    let client = cluster.client().await;
    let mark = client.put("~", "the end").await.expect("a write");
    let mut readers = vec![("the leader".to_owned(), ReadOptions::default())];
    readers.extend(cluster.names().into_iter().map(|name| {
        let options = cluster.reading_from(&name, &mark.token);
        (name, options)
    }));
    for (whom, options) in readers {
        let mut found = BTreeMap::new();
        let mut scan = client.scan(Scan::range("", "~").read(options));
        while let Some(page) = scan.next_page().await.unwrap_or_else(|e| panic!("reading from {whom}: {e}")) {
            for entry in page.entries {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
                found.insert(text(&entry.key), text(&entry.value.bytes));
            }
        }
        let missing: Vec<_> = index.keys().filter(|key| !found.contains_key(*key)).collect();
        assert!(
            missing.is_empty(),
            "{} are missing on {whom}: {:?} ...",
            missing.len(),
            &missing[..missing.len().min(5)]
        );
        assert!(found == index, "{whom} holds other text than was loaded");
    }
}
