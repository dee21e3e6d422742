//! From `helm install` to a cluster that serves, and the first failure it survives.

use std::path::Path;

use armdb::api::names;
use armdb::client::{Client, ClientOptions, ReadLevel, ReadOptions};
use serde_json::json;

use crate::support::operator::{Cluster, operator};
use crate::support::workload::Workload;
use crate::support::{case, harness, objects};

#[tokio::test(flavor = "multi_thread")]
async fn an_applied_cluster_becomes_ready_and_serves_by_its_services() {
    case("install", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;

        let client = cluster.client().await;
        let written = client.put("greeting", "hello").await.expect("the leader takes it");
        for service in [names::service_read_only, names::service_any, names::service_nodes] {
            let address = cluster.address(service);
            let reader = Client::connect(ClientOptions::new([address.clone()])).await.expect("the service answers");
            let options = ReadOptions::level(ReadLevel::AtLeast(written.token.clone()));
            let read = reader.get_with("greeting", &options).await.expect("it is answered");
            assert_eq!(read.expect("it is there").bytes, "hello", "{address}");
        }

        let workload = Workload::start(&client, "undisturbed", 4);
        workload.acknowledges(500).await;
        let history = workload.finish().await;
        assert_eq!(history.failures().len(), 0, "{:?}", history.failures());
    })
    .await;
}

/// Everything of a cluster as the API server has it: what the operator builds, and what Kubernetes makes of it.
#[tokio::test(flavor = "multi_thread")]
async fn the_objects_of_a_cluster_are_as_they_were() {
    case("golden-objects", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;
        let have = objects::of(namespace, "kv").await;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/golden/objects.yaml");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &have).expect("the golden file can be written");
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        let difference = have.lines().zip(golden.lines()).find(|(have, golden)| have != golden);
        assert!(have == golden, "run it with UPDATE=1 and read the difference; the first one is {difference:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    case("leader-killed", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;
        let (leader, epoch) = (cluster.leader().await, cluster.epoch().await);

        let workload = Workload::start(&cluster.client().await, "killed", 4);
        workload.acknowledges(300).await;
        harness(&["signal", "KILL", namespace, &leader]).await;
        workload.acknowledges(300).await;
        cluster.led_anew(epoch).await;
        cluster.ready().await;
        let history = workload.finish().await;
        println!(
            "{} writes acknowledged, {} operations failed, longest silence {:?}",
            history.acknowledged(),
            history.failures().len(),
            history.longest_silence()
        );
    })
    .await;
}
