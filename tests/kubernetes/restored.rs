//! etcd, put back to an older state: the register is then older than the data. Run by name: all of Kubernetes goes back.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::etcd::Backup;
use crate::support::harness::harness_outcome;
use crate::support::operator::{Cluster, operator};
use crate::support::workload::Workload;
use crate::support::{case_alone, eventually, get, harness, kubectl};

async fn register(namespace: &str) -> Value {
    get(namespace, "armdbpartition", "kv-0").await.expect("it is there")["status"]["register"].clone()
}

async fn epoch(namespace: &str) -> i64 {
    register(namespace).await["epoch"].as_i64().expect("a number")
}

/// Kills a member's process. What the API server says of containers went back too, until their kubelets tell it anew.
async fn kill(namespace: &str, member: &str) {
    let kill = async || harness_outcome(&["signal", "KILL", namespace, member]).await.ok();
    eventually("its kubelet has told of its container, and it is killed", kill).await;
}

/// The leader is killed, and another epoch is led; which.
async fn failover(namespace: &str, cluster: &Cluster<'_>) -> i64 {
    let (leader, before) = (cluster.leader().await, cluster.epoch().await);
    kill(namespace, &leader).await;
    cluster.led_anew(before).await;
    cluster.ready().await;
    cluster.epoch().await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "puts all of Kubernetes back"]
async fn a_register_that_went_back_with_etcd_is_brought_forward_by_all_voters_and_not_without_one() {
    case_alone("restored", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;
        let workload = Workload::start(&cluster.client().await, namespace, 4);
        workload.acknowledges(200).await;

        println!("restored: all voters answer");
        let backup = Backup::take().await;
        let old = epoch(namespace).await;
        let newest = failover(namespace, &cluster).await;
        workload.acknowledges(200).await;
        assert!(newest > old, "{newest} {old}");
        backup.restore().await;
        // The status went back as well: an older one may say what is waited for.
        cluster.led_anew(newest).await;
        cluster.ready().await;
        workload.acknowledges(200).await;

        println!("restored: a voter is lost");
        let backup = Backup::take().await;
        let newest = failover(namespace, &cluster).await;
        workload.acknowledges(200).await;
        let leader = cluster.leader().await;
        let members = cluster.status().await.partitions[0].members.clone();
        let lost = members.iter().find(|member| member.name != leader).expect("a follower").clone();
        let node = lost.node.clone().expect("it is placed");
        let number = node.strip_prefix("node").expect("nodes are numbered");
        harness(&["node-down", number]).await;
        backup.restore().await;
        let old = epoch(namespace).await;
        assert!(old < newest, "{old} {newest}");

        // Whoever leads goes on, for those who know it. By the register somebody else leads.
        workload.acknowledges(200).await;
        let message = cluster.until("Available", "False", "ConfigRegressed").await;
        for word in [lost.sid.as_deref().expect("it has storage"), "adopt cluster"] {
            assert!(message.contains(word), "{message}");
        }
        kill(namespace, &leader).await;
        // Time for many attempts, if any were made.
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(epoch(namespace).await, old, "an epoch was begun without the voter that may know of a later one");

        let id = cluster.status().await.cluster_id.expect("it has an id");
        cluster.patch(json!({"spec": {"bootstrap": {"adopt": {"clusterID": id}}}})).await;
        // The status went back as well: an older one may say what is waited for.
        cluster.led_anew(newest).await;
        workload.acknowledges(200).await;
        harness(&["node-up", number]).await;
        kubectl(["-n", namespace, "delete", "pvc", &format!("data-{}", lost.name), "--wait=false"])
            .await
            .expect("taken");
        kubectl(["-n", namespace, "delete", "pod", &lost.name, "--wait=false"]).await.expect("taken");
        eventually("it has new storage and votes", async || {
            let status = cluster.status().await;
            let member = status.partitions[0].members.iter().find(|member| member.name == lost.name)?.clone();
            (member.sid != lost.sid && member.role == armdb::api::MemberRole::Follower).then_some(())
        })
        .await;
        cluster.patch(json!({"spec": {"bootstrap": null}})).await;
        cluster.ready().await;
        workload.acknowledges(200).await;
        let history = workload.finish().await;
        println!("restored: {} writes acknowledged", history.acknowledged());
    })
    .await;
}
