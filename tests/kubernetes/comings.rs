//! Clusters that go and come back, and an operator that does.

use serde_json::json;

use crate::support::operator::{Cluster, NAMESPACE, NEXT, chart, helm, image, install, operator};
use crate::support::{case, case_alone, eventually, get, harness, kubectl};

async fn gone(namespace: &str) {
    eventually("its members are gone", async || {
        let pods = kubectl(["-n", namespace, "get", "pods", "-l", "armdb.io/cluster=kv", "-o", "name"]).await.ok()?;
        pods.trim().is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_deleted_comes_back_to_its_volumes_with_its_data() {
    case("coming-back", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;
        cluster.client().await.put("kept", "data").await.expect("it is taken");
        let id = cluster.status().await.cluster_id;
        kubectl(["-n", namespace, "delete", "armdb", "kv"]).await.expect("deleted");
        gone(namespace).await;
        assert!(get(namespace, "pvc", "data-kv-0-0").await.is_some(), "volumes stay");

        let again = Cluster::apply(namespace, "kv", json!({})).await;
        again.ready().await;
        assert_eq!(again.status().await.cluster_id, id);
        let read = again.client().await.get("kept").await.expect("it is answered");
        assert_eq!(read.expect("it is there").bytes, "data");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namesake_that_is_applied_while_the_old_one_goes_waits_for_it() {
    case("namesake", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;
        cluster.client().await.put("kept", "data").await.expect("it is taken");
        let before = cluster.pods().await;
        kubectl(["-n", namespace, "delete", "armdb", "kv", "--wait=false"]).await.expect("deleted");
        let namesake = Cluster::apply(namespace, "kv", json!({})).await;
        namesake.ready().await;
        let after = namesake.pods().await;
        assert!(before.iter().all(|(name, pod)| after.get(name).is_some_and(|now| now.0 != pod.0)), "{after:?}");
        let read = namesake.client().await.get("kept").await.expect("it is answered");
        assert_eq!(read.expect("it is there").bytes, "data");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_that_shall_go_with_their_cluster_go() {
    case("going", async |namespace| {
        operator().await;
        let storage = json!({"storage": {
            "storageClassName": "nvme-local", "size": "1Gi", "retention": {"whenDeleted": "Delete"}}});
        let cluster = Cluster::apply(namespace, "kv", storage).await;
        cluster.ready().await;
        eventually("its claims are its own", async || {
            let claim = get(namespace, "pvc", "data-kv-0-2").await?;
            (claim["metadata"]["ownerReferences"][0]["kind"] == "ArmdbCluster").then_some(())
        })
        .await;
        kubectl(["-n", namespace, "delete", "armdb", "kv"]).await.expect("deleted");
        eventually("they are gone", async || {
            let claims = kubectl(["-n", namespace, "get", "pvc", "-o", "name"]).await.ok()?;
            claims.trim().is_empty().then_some(())
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_upgraded_rolled_back_taken_away_and_back_restarts_no_member() {
    case_alone("operator-upgrade", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;
        let before = cluster.pods().await;
        let register = get(namespace, "armdbpartition", "kv-0").await.expect("it is there")["status"].clone();
        let next = image(NEXT);
        let upgrade = ["upgrade", "armdb", &chart(), "--namespace", NAMESPACE, "--set-string", &next, "--wait"];
        helm(&upgrade).await;
        cluster.ready().await;
        helm(&["rollback", "armdb", "--namespace", NAMESPACE, "--wait"]).await;
        cluster.ready().await;
        let after = get(namespace, "armdbpartition", "kv-0").await.expect("it is there")["status"].clone();
        assert_eq!(after, register, "nobody moved the lead, and no field is lost");

        // Taken away, it leaves everything as it is; back, it goes on where it was.
        helm(&["uninstall", "armdb", "--namespace", NAMESPACE, "--wait"]).await;
        let client = cluster.client().await;
        client.put("without", "an operator").await.expect("it is served without one");
        assert!(get(namespace, "armdb", "kv").await.is_some(), "the definitions stay, and so do clusters");
        install().await;
        assert_eq!(cluster.pods().await, before);
        let (leader, epoch) = (cluster.leader().await, cluster.epoch().await);
        harness(&["signal", "KILL", namespace, &leader]).await;
        cluster.led_anew(epoch).await;
        let read = client.get("without").await.expect("it is answered");
        assert_eq!(read.expect("it is there").bytes, "an operator");
        cluster.ready().await;
    })
    .await;
}
