//! A port that another program has: told by name; the rest of the cluster goes on.

use std::net::TcpListener;

use rustix::process::Signal;

use crate::support::{Cluster, Manifest, eventually, process};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_told_by_its_number_and_the_others_serve_without_that_member() {
    let mut cluster = Cluster::start(Manifest::members(3)).await;
    assert!(cluster.end(Signal::TERM).await.success());
    let address = cluster.entry("kv-0-1").client;
    let taken = TcpListener::bind(address).expect("free");
    cluster.run();
    let leader = cluster.leader().await;
    assert_ne!(leader.name, "kv-0-1");
    eventually("the port is named", async || {
        let said = cluster.said();
        (said.contains("kv-0-1 is not started") && said.contains(&format!("client port {address}"))).then_some(())
    })
    .await;
    cluster.client().await.put("a", "1").await.expect("two of three serve");
    drop(taken);
    cluster.healthy().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_names_the_port_and_the_flag_and_says_that_it_may_be_tried_again() {
    let home = tempfile::tempdir().expect("a directory");
    let secret = home.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef").expect("written");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for flag in ["--client", "--peer", "--http"] {
        let data = home.path().join("data");
        let mut node = process::armdb(["node", "--cluster", "kv", "--name", "kv-0-0"]);
        node.arg("--data").arg(&data).arg("--secret-file").arg(&secret);
        for other in ["--client", "--peer", "--http"] {
            node.args([other, if other == flag { &address } else { "127.0.0.1:0" }]);
        }
        let refused = process::output(node).await;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(75), "{said}");
        assert!(said.contains(&address) && said.contains(flag), "{said}");
        assert!(!data.exists(), "data was touched before the ports were known to be free");
    }
}
