//! What a cluster survives: its pods, its nodes, its operator, the API server. An application works all the while, and
//! everything it was promised is checked afterwards.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use armdb::client::{ReadLevel, ReadOptions};
use futures::FutureExt as _;
use serde_json::json;

use crate::support::harness::harness_outcome;
use crate::support::operator::{Cluster, NAMESPACE, operator};
use crate::support::workload::Workload;
use crate::support::{case, case_alone, definitions, eventually, get, harness, kubectl};

/// A cluster, Ready, and an application at work on it.
async fn working<'a>(namespace: &'a str, spec: serde_json::Value) -> (Cluster<'a>, Workload) {
    operator().await;
    let cluster = Cluster::apply(namespace, "kv", spec).await;
    cluster.ready().await;
    let workload = Workload::start(&cluster.client().await, namespace, 4);
    workload.acknowledges(200).await;
    (cluster, workload)
}

async fn finish(what: &str, workload: Workload) -> usize {
    let history = workload.finish().await;
    let failures = history.failures().len();
    let (acknowledged, silence) = (history.acknowledged(), history.longest_silence());
    println!("{what}: {acknowledged} writes acknowledged, {failures} operations failed, longest silence {silence:?}");
    failures
}

async fn delete(namespace: &str, arguments: &[&str]) {
    let deleted = kubectl([&["-n", namespace, "delete", "--wait=false"], arguments].concat()).await;
    deleted.unwrap_or_else(|complaint| panic!("kubectl delete {}: {complaint}", arguments.join(" ")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_pod_is_deleted_hands_over_and_no_request_fails() {
    case("pod-deleted", async |namespace| {
        let (cluster, workload) = working(namespace, json!({})).await;
        let leader = cluster.leader().await;
        delete(namespace, &["pod", &leader]).await;
        cluster.another_leader(&leader).await;
        workload.acknowledges(200).await;
        cluster.ready().await;
        assert_eq!(finish("pod deleted", workload).await, 0, "it was planned");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_pod_is_taken_without_grace_is_replaced() {
    case("pod-forced", async |namespace| {
        let (cluster, workload) = working(namespace, json!({})).await;
        let leader = cluster.leader().await;
        delete(namespace, &["pod", &leader, "--grace-period=0", "--force"]).await;
        cluster.another_leader(&leader).await;
        workload.acknowledges(200).await;
        cluster.ready().await;
        finish("pod taken", workload).await;
    })
    .await;
}

/// Whoever stands on the cut-off side may put, and must not be told that it is done; what was put there is gone when
/// the node is back, on the leader of old as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_on_an_unplugged_node_acknowledges_nothing_is_replaced_and_follows_without_its_tail() {
    case_alone("node-lost", async |namespace| {
        let (cluster, workload) = working(namespace, json!({})).await;
        let leader = cluster.leader().await;
        let pod = get(namespace, "pod", &leader).await.expect("it is there");
        let node = pod["spec"]["nodeName"].as_str().expect("it is placed").to_owned();
        let number = node.strip_prefix("node").expect("nodes are numbered");
        let old = format!("{}:7400", pod["status"]["podIP"].as_str().expect("an address"));
        let put = async |key: &str| {
            let armdb = [env!("CARGO_BIN_EXE_armdb"), "--endpoints", &old, "put", "--timeout", "3", key, "lost"];
            harness_outcome(&[&["node-run", number], &armdb[..]].concat()).await
        };
        put("orphan/reached").await.expect("from its node, too, the leader is reached");

        harness(&["node-down", number]).await;
        let at_once = put("orphan/at-once").await;
        at_once.expect_err("nobody else has it");
        cluster.another_leader(&leader).await;
        put("orphan/later").await.expect_err("another one leads");
        workload.acknowledges(200).await;
        harness(&["node-up", number]).await;
        cluster.ready().await;
        let after = get(namespace, "pod", &leader).await.expect("it is there");
        assert_eq!(after["metadata"]["uid"], pod["metadata"]["uid"], "the pod was left alone");

        let client = cluster.client().await;
        let written = client.put("orphan/end", "found").await.expect("it is taken");
        let here = ReadOptions { level: ReadLevel::AtLeast(written.token), member: Some(old), timeout: None };
        for (key, there) in [("reached", true), ("at-once", false), ("later", false), ("end", true)] {
            let read = client.get_with(format!("orphan/{key}"), &here).await.expect("the leader of old follows");
            assert_eq!(read.is_some(), there, "{key} on {leader}");
        }
        finish("node unplugged", workload).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_dies_together_with_a_leader_holds_nothing_up() {
    case_alone("operator-lost", async |namespace| {
        let (cluster, workload) = working(namespace, json!({})).await;
        let (leader, epoch) = (cluster.leader().await, cluster.epoch().await);
        let lease = get(NAMESPACE, "lease", "armdb").await.expect("there is one");
        let holder = lease["spec"]["holderIdentity"].as_str().expect("somebody holds it").to_owned();
        delete(NAMESPACE, &["pod", &holder, "--grace-period=0", "--force"]).await;
        harness(&["signal", "KILL", namespace, &leader]).await;
        workload.acknowledges(200).await;
        cluster.led_anew(epoch).await;
        cluster.ready().await;
        finish("operator and leader lost", workload).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_the_api_server_is_away_and_failover_resumes_when_it_is_back() {
    case_alone("api-server-away", async |namespace| {
        let (cluster, workload) = working(namespace, json!({})).await;
        let leader = cluster.leader().await;
        harness(&["stop", "kube-apiserver"]).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        workload.acknowledges(200).await;
        harness(&["start", "kube-apiserver"]).await;
        eventually("it is back", async || kubectl(["get", "--raw", "/readyz"]).await.ok()).await;
        assert_eq!(cluster.leader().await, leader, "its absence was no reason to move the lead");
        let epoch = cluster.epoch().await;
        harness(&["signal", "KILL", namespace, &leader]).await;
        workload.acknowledges(200).await;
        cluster.led_anew(epoch).await;
        cluster.ready().await;
        finish("API server away", workload).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_volume_is_given_up_comes_back_blank_and_votes_again() {
    case("volume-lost", async |namespace| {
        let (cluster, workload) = working(namespace, json!({})).await;
        let leader = cluster.leader().await;
        let members = cluster.status().await.partitions[0].members.clone();
        let lost = members.iter().find(|member| member.name != leader).expect("a follower");
        delete(namespace, &["pvc", &format!("data-{}", lost.name)]).await;
        delete(namespace, &["pod", &lost.name]).await;
        eventually("it has new storage and votes", async || {
            let status = cluster.status().await;
            let member = status.partitions[0].members.iter().find(|member| member.name == lost.name)?.clone();
            (member.sid != lost.sid && member.role == armdb::api::MemberRole::Follower).then_some(())
        })
        .await;
        cluster.ready().await;
        finish("volume lost", workload).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_deleted_at_once_come_back_with_everything() {
    case("all-deleted", async |namespace| {
        let (cluster, workload) = working(namespace, json!({})).await;
        delete(namespace, &["pods", "-l", "armdb.io/cluster=kv"]).await;
        workload.acknowledges(200).await;
        cluster.ready().await;
        finish("all deleted", workload).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_held_back_is_told_with_its_lag_until_it_has_caught_up() {
    case("held-back", async |namespace| {
        let (cluster, workload) = working(namespace, json!({})).await;
        let leader = cluster.leader().await;
        let members = cluster.status().await.partitions[0].members.clone();
        let held = members.iter().find(|member| member.name != leader).expect("a follower").name.clone();
        harness(&["signal", "STOP", namespace, &held]).await;
        let lag = async || {
            let status = cluster.status().await;
            let member = status.partitions[0].members.iter().find(|member| member.name == held)?.clone();
            Some((member.lag_bytes, status.lag?.max_bytes))
        };
        eventually("its lag is told", async || lag().await.filter(|(own, max)| *own > 0 && max >= own)).await;
        assert_eq!(cluster.condition("ReplicationHealthy").await.0, "False");
        assert_eq!(cluster.condition("Ready").await.0, "False");
        assert_eq!(cluster.condition("Available").await.0, "True");
        harness(&["signal", "CONT", namespace, &held]).await;
        cluster.ready().await;
        let failures = finish("follower held back", workload).await;
        assert_eq!(failures, 0, "the others were enough");
        eventually("there is no lag", async || (lag().await? == (0, 0)).then_some(())).await;
    })
    .await;
}

/// A definition that lets everything through, and an object of which the operator can make nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_nobody_can_read_fails_over_all_the_same_and_is_in_nobodys_way() {
    case_alone("unreadable", async |namespace| {
        let (cluster, workload) = working(namespace, json!({})).await;
        let scenario = AssertUnwindSafe(async {
            let anything = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
            let patch = json!([{"op": "replace", "path": "/spec/versions/0/schema", "value": anything}]).to_string();
            kubectl(["patch", "crd", "armdbclusters.armdb.io", "--type=json", "-p", &patch]).await.expect("patched");
            eventually("nonsense is let in", async || {
                let patch = json!({"spec": {"replication": "a lot"}}).to_string();
                kubectl(["-n", namespace, "patch", "armdb", "kv", "--type=merge", "-p", &patch]).await.ok()
            })
            .await;
            let (leader, epoch) = (cluster.leader().await, cluster.epoch().await);
            harness(&["signal", "KILL", namespace, &leader]).await;
            workload.acknowledges(200).await;
            // Nobody writes a status: the register tells.
            eventually("a later epoch is led", async || {
                let register = get(namespace, "armdbpartition", "kv-0").await?["status"]["register"].clone();
                (register["epoch"].as_i64()? > epoch && register["phase"] == "Leading").then_some(())
            })
            .await;
            Cluster::apply(namespace, "other", json!({})).await.ready().await;
        });
        let outcome = scenario.catch_unwind().await;
        definitions().await;
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        cluster.change(json!({"replication": null})).await;
        finish("unreadable", workload).await;
    })
    .await;
}
