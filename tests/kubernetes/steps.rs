//! The operator's own death in the midst of `ChangeEpoch`, at every step of it, and two of them at it at once.

use serde_json::json;

use crate::support::operator::{Cluster, operator};
use crate::support::replicas::{Replica, ended, fresh_replicas, replicas};
use crate::support::workload::Workload;
use crate::support::{audit, case_alone, eventually, get, harness, kubectl};

/// Where an operator ends: before and after everything that a failover asks of the register and of members. Before
/// DECIDE is after TARGET and CHOOSE; ASSEMBLE has a case of its own, because most failovers have nothing to assemble.
const PLACES: [&str; 9] = [
    "before-alloc",
    "after-alloc",
    "before-fence",
    "after-fence",
    "before-decide",
    "after-decide",
    "before-promote",
    "after-promote",
    "before-follow",
];

/// The register of the first partition: epoch, and whether somebody leads it.
async fn register(namespace: &str) -> (i64, bool) {
    let partition = get(namespace, "armdbpartition", "kv-0").await.expect("it is there");
    let register = &partition["status"]["register"];
    (register["epoch"].as_i64().expect("an epoch"), register["phase"] == "Leading")
}

/// Waits until the status tells what the register says, with a leader; who leads which epoch.
async fn settled(namespace: &str, cluster: &Cluster<'_>) -> (String, i64) {
    cluster.ready().await;
    eventually("the status tells the epoch of the register", async || {
        let partition = cluster.status().await.partitions.into_iter().next()?;
        let leader = partition.leader.clone()?;
        (register(namespace).await == (partition.epoch, true)).then_some((leader, partition.epoch))
    })
    .await
}

async fn arm(replicas: &[Replica], namespace: &str, place: &str, deed: &str) {
    for replica in replicas {
        replica.arm(namespace, "kv-0", place, deed).await;
    }
}

/// Both replicas end at the same place, one after the other: what one begins the next one finds, ends at the same
/// place itself, and is found by the first when that is back.
#[tokio::test(flavor = "multi_thread")]
async fn operators_that_end_at_any_step_of_a_failover_leave_nothing_that_cannot_be_finished() {
    case_alone("steps", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        cluster.ready().await;
        let workload = Workload::start(&cluster.client().await, namespace, 4);
        workload.acknowledges(100).await;
        for place in PLACES {
            let replicas = fresh_replicas().await;
            let (leader, epoch) = settled(namespace, &cluster).await;
            arm(&replicas, namespace, place, "exit").await;
            // Frozen and not killed: Kubernetes lets a container that ends often wait for longer and longer.
            harness(&["signal", "STOP", namespace, &leader]).await;
            eventually(&format!("{place}: somebody ends there"), async || {
                (!ended(&replicas).await.is_empty()).then_some(())
            })
            .await;
            cluster.led_anew(epoch).await;
            workload.acknowledges(100).await;
            harness(&["signal", "CONT", namespace, &leader]).await;
            println!("{place}: {} of {} replicas ended there", ended(&replicas).await.len(), replicas.len());
        }
        fresh_replicas().await;
        settled(namespace, &cluster).await;
        let history = workload.finish().await;
        println!("{} writes acknowledged, {} failed", history.acknowledged(), history.failures().len());
    })
    .await;
}

/// A switchover by hand to the member that lacks the most: it must fetch entries before anything is decided.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_ends_while_the_next_leader_fetches_what_it_lacks_loses_none_of_it() {
    case_alone("assemble", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({"failover": {"policy": "Manual"}})).await;
        cluster.ready().await;
        let workload = Workload::start(&cluster.client().await, namespace, 4);
        for place in ["before-assemble", "after-assemble"] {
            let operators = fresh_replicas().await;
            let (leader, epoch) = settled(namespace, &cluster).await;
            let behind = ["kv-0-0", "kv-0-1", "kv-0-2"].into_iter().find(|name| *name != leader).expect("another");
            // Their volumes bind both to their nodes: they come back when those take pods again.
            take_away(namespace, behind).await;
            workload.acknowledges(200).await;
            take_away(namespace, &leader).await;
            bring_back(namespace, behind).await;
            arm(&operators, namespace, place, "exit").await;
            let request = json!({"armdb.io/switchover": format!("{behind}@{place}")});
            cluster.patch(json!({"metadata": {"annotations": request}})).await;
            eventually(&format!("{place}: somebody ends there"), async || {
                (!ended(&operators).await.is_empty()).then_some(())
            })
            .await;
            cluster.led_anew(epoch).await;
            workload.acknowledges(100).await;
            bring_back(namespace, &leader).await;
        }
        fresh_replicas().await;
        settled(namespace, &cluster).await;
        let history = workload.finish().await;
        println!("{} writes acknowledged, {} failed", history.acknowledged(), history.failures().len());
    })
    .await;
}

async fn node_of(namespace: &str, pod: &str) -> String {
    let claim = get(namespace, "pvc", &format!("data-{pod}")).await.expect("it is there");
    let volume = get("", "pv", claim["spec"]["volumeName"].as_str().expect("it is bound")).await.expect("it is there");
    let terms = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
    terms[0]["matchExpressions"][0]["values"][0].as_str().expect("a local volume").to_owned()
}

/// Ends a member for as long as its node takes no pod.
async fn take_away(namespace: &str, pod: &str) {
    kubectl(["cordon", &node_of(namespace, pod).await]).await.expect("cordoned");
    // Waits until its process has ended.
    kubectl(["-n", namespace, "delete", "pod", pod]).await.expect("deleted");
}

async fn bring_back(namespace: &str, pod: &str) {
    kubectl(["uncordon", &node_of(namespace, pod).await]).await.expect("uncordoned");
    let running = "--for=jsonpath={.status.phase}=Running";
    let waited = kubectl(["-n", namespace, "wait", running, &format!("pod/{pod}"), "--timeout=300s"]).await;
    waited.expect("it runs again");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_that_propose_at_once_the_register_takes_one() {
    case_alone("at-once", async |namespace| {
        operator().await;
        let cluster = Cluster::apply(namespace, "kv", json!({})).await;
        let (leader, epoch) = settled(namespace, &cluster).await;
        let workload = Workload::start(&cluster.client().await, namespace, 4);
        workload.acknowledges(100).await;
        let replicas = replicas().await;
        assert_eq!(replicas.len(), 2, "{replicas:?}");
        arm(&replicas, namespace, "before-alloc", "hold").await;
        harness(&["signal", "STOP", namespace, &leader]).await;
        // Each has read the register and wants the next epoch of it.
        for replica in &replicas {
            replica.held(namespace, "kv-0").await;
        }
        assert_eq!(register(namespace).await, (epoch, true));
        let mark = audit::mark();
        futures::future::join_all(replicas.iter().map(|replica| replica.release(namespace, "kv-0"))).await;
        cluster.led_anew(epoch).await;
        let swaps = audit::outcomes_since(mark, &format!("update armdbpartitions/status {namespace}/kv-0"));
        println!("swaps of the register, in their order: {swaps:?}");
        assert!(swaps.contains(&200) && swaps.contains(&409), "one is first, the other conflicts: {swaps:?}");
        workload.acknowledges(100).await;
        harness(&["signal", "CONT", namespace, &leader]).await;
        settled(namespace, &cluster).await;
        workload.finish().await;
    })
    .await;
}
