//! What changes while a cluster serves: its leader, its image, its size; and what foreign hands do to its objects.

use serde_json::json;

use crate::support::members::IMAGE;
use crate::support::operator::{Cluster, NEXT, kubectl_armdb, operator};
use crate::support::workload::Workload;
use crate::support::{case, case_alone, eventually, get, harness, kubectl};

/// A release whose program ends at once.
const BROKEN: &str = "registry.test/armdb:broken";

async fn ready<'a>(namespace: &'a str, spec: serde_json::Value) -> Cluster<'a> {
    operator().await;
    let mut whole = json!({"update": {"minReadySeconds": 1, "podTimeoutSeconds": 30}});
    whole.as_object_mut().expect("a mapping").extend(spec.as_object().cloned().unwrap_or_default());
    let cluster = Cluster::apply(namespace, "kv", whole).await;
    cluster.ready().await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_is_carried_out_once_told_and_fails_no_request() {
    case("switchover", async |namespace| {
        let cluster = ready(namespace, json!({})).await;
        let workload = Workload::start(&cluster.client().await, "switchover", 4);
        workload.acknowledges(100).await;
        let leader = cluster.leader().await;
        let target = ["kv-0-0", "kv-0-1", "kv-0-2"].into_iter().find(|name| *name != leader).expect("another");
        let request = format!("{target}@first");
        cluster.patch(json!({"metadata": {"annotations": {"armdb.io/switchover": request}}})).await;
        assert_eq!(cluster.another_leader(&leader).await, target);
        eventually("it is told, and the annotation gone", async || {
            let told = cluster.status().await.last_request.is_some_and(|told| told.id == "first");
            let object = get(namespace, "armdb", "kv").await?;
            (told && object["metadata"]["annotations"]["armdb.io/switchover"].is_null()).then_some(())
        })
        .await;
        workload.acknowledges(100).await;
        // As people ask for it.
        let told = kubectl_armdb(&["-n", namespace, "promote", "kv", &leader]).await.expect("it is done");
        assert_eq!(cluster.leader().await, leader, "{told}");
        workload.acknowledges(100).await;
        let history = workload.finish().await;
        println!("two switchovers: longest silence {:?}", history.longest_silence());
        assert_eq!(history.failures().len(), 0, "{:?}", history.failures());
        let nonsense = json!({"metadata": {"annotations": {"armdb.io/switchover": "nobody@second"}}});
        cluster.patch(nonsense).await;
        eventually("it is refused in words", async || {
            let told = cluster.status().await.last_request.filter(|told| told.id == "second")?;
            told.outcome.contains("no member of kv").then_some(())
        })
        .await;
        let status = kubectl_armdb(&["-n", namespace, "status", "kv"]).await.expect("it is printed");
        assert!(["kv-0-0", "kv-0-1", "kv-0-2"].iter().all(|member| status.contains(member)), "{status}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_image_reaches_every_member_and_no_request_fails() {
    case("image-change", async |namespace| {
        let cluster = ready(namespace, json!({})).await;
        let workload = Workload::start(&cluster.client().await, "image", 4);
        workload.acknowledges(100).await;
        cluster.change(json!({"image": NEXT})).await;
        let pods = cluster.pods().await;
        assert!(pods.len() == 3 && pods.values().all(|(_, image)| image == NEXT), "{pods:?}");
        workload.acknowledges(100).await;
        let history = workload.finish().await;
        println!("image change: longest silence {:?}", history.longest_silence());
        assert_eq!(history.failures().len(), 0, "{:?}", history.failures());
        assert_eq!(cluster.status().await.version.as_deref(), Some("2"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_costs_one_member_for_a_while_and_is_mended_by_a_second_edit() {
    case("bad-image", async |namespace| {
        // Long, so that the edit comes before the first template could have lasted that long.
        let cluster = ready(namespace, json!({"update": {"minReadySeconds": 120, "podTimeoutSeconds": 30}})).await;
        let before = cluster.pods().await;
        let workload = Workload::start(&cluster.client().await, "bad-image", 4);
        cluster.patch(json!({"spec": {"image": BROKEN, "update": {"minReadySeconds": 1}}})).await;
        let why = cluster.until("RolloutHealthy", "False", "TakenBack").await;
        assert!(why.contains("armdb.io/retry-rollout"), "{why}");
        // The failed canary is the one pod that was replaced, and it comes back on the good image.
        eventually("three members on the good image", async || {
            let pods = cluster.pods().await;
            (pods.len() == 3 && pods.values().all(|(_, image)| image == IMAGE)).then_some(())
        })
        .await;
        eventually("all in sync", async || (cluster.status().await.ready_members == 3).then_some(())).await;
        let after = cluster.pods().await;
        let replaced = before.iter().filter(|(name, pod)| after[*name].0 != pod.0).count();
        assert_eq!(replaced, 1, "{before:?} {after:?}");
        assert_eq!(cluster.condition("Ready").await.0, "False");
        // A healthy member that goes comes back good, not bad.
        let healthy = before.keys().find(|name| after[*name].0 == before[*name].0).expect("one").clone();
        kubectl(["-n", namespace, "delete", "pod", &healthy]).await.expect("deleted");
        eventually("it is back on the good image", async || {
            let pod = cluster.pods().await.get(&healthy)?.clone();
            (pod.0 != after[&healthy].0 && pod.1 == IMAGE).then_some(())
        })
        .await;
        cluster.change(json!({"image": NEXT})).await;
        assert!(cluster.pods().await.values().all(|(_, image)| image == NEXT));
        assert_eq!(cluster.condition("RolloutHealthy").await.0, "True");
        workload.acknowledges(100).await;
        workload.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_added_and_taken_away_while_it_serves() {
    case("scaling", async |namespace| {
        let apart = json!({"placement": {"antiAffinity": "Preferred"}, "storage": {
            "storageClassName": "nvme-local", "size": "1Gi", "retention": {"whenScaled": "Delete"}}});
        let cluster = ready(namespace, apart).await;
        let workload = Workload::start(&cluster.client().await, "scaling", 4);
        workload.acknowledges(100).await;
        kubectl(["-n", namespace, "scale", "armdb/kv", "--replicas=5"]).await.expect("it can be scaled");
        cluster.ready().await;
        assert_eq!(cluster.status().await.ready_members, 5);
        // Whoever leads then may be among those that go.
        cluster.patch(json!({"metadata": {"annotations": {"armdb.io/switchover": "kv-0-4@away"}}})).await;
        eventually("it leads", async || (cluster.leader().await == "kv-0-4").then_some(())).await;
        kubectl(["-n", namespace, "scale", "armdb/kv", "--replicas=3"]).await.expect("it can be scaled");
        cluster.ready().await;
        assert_eq!(cluster.pods().await.len(), 3);
        eventually("their volumes are gone", async || {
            (get(namespace, "pvc", "data-kv-0-4").await.is_none()
                && get(namespace, "pvc", "data-kv-0-3").await.is_none())
            .then_some(())
        })
        .await;
        assert!(get(namespace, "pvc", "data-kv-0-2").await.is_some());
        workload.acknowledges(100).await;
        workload.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_foreign_hands_do_to_its_objects_is_undone_and_restarts_nobody() {
    case("intruders", async |namespace| {
        let cluster = ready(namespace, json!({})).await;
        let before = cluster.pods().await;
        let workload = Workload::start(&cluster.client().await, "foreign", 4);
        let set = async || get(namespace, "statefulset", "kv-0").await;
        for hand in [
            &["set", "env", "statefulset/kv-0", "FOREIGN=1"][..],
            &["label", "statefulset/kv-0", "foreign=1"],
            &["rollout", "restart", "statefulset/kv-0"],
        ] {
            kubectl([&["-n", namespace], hand].concat()).await.expect("it is let in");
        }
        eventually("every trace is gone", async || {
            let set = set().await?.to_string().to_lowercase();
            (!set.contains("foreign") && !set.contains("restartedat")).then_some(())
        })
        .await;
        assert_eq!(cluster.pods().await, before, "nobody was restarted");

        kubectl(["-n", namespace, "scale", "statefulset/kv-0", "--replicas=1"]).await.expect("it is let in");
        eventually("three are wanted again", async || (set().await?["spec"]["replicas"] == 3).then_some(())).await;
        cluster.ready().await;
        kubectl(["-n", namespace, "delete", "statefulset", "kv-0", "--wait=false"]).await.expect("it is let in");
        eventually("it is there again", async || {
            let set = set().await?;
            (set["metadata"]["deletionTimestamp"].is_null() && set["status"]["readyReplicas"] == 3).then_some(())
        })
        .await;
        cluster.ready().await;
        workload.acknowledges(100).await;
        workload.finish().await;

        let refused = kubectl(["-n", namespace, "delete", "armdbpartition", "kv-0"]).await.expect_err("refused");
        assert!(refused.contains("holds the register"), "{refused}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_cluster_waits_with_everything_but_failover() {
    case("paused", async |namespace| {
        let cluster = ready(namespace, json!({})).await;
        let before = cluster.pods().await;
        cluster.patch(json!({"spec": {"paused": true, "image": NEXT}})).await;
        cluster.until("Paused", "True", "Asked").await;
        cluster.until("Ready", "False", "Paused").await;
        let (leader, epoch) = (cluster.leader().await, cluster.epoch().await);
        harness(&["signal", "KILL", namespace, &leader]).await;
        cluster.led_anew(epoch).await;
        assert_eq!(cluster.pods().await, before);
        cluster.change(json!({"paused": false})).await;
        assert!(cluster.pods().await.values().all(|(_, image)| image == NEXT));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_failover_is_manual_nobody_takes_over_unasked() {
    case_alone("manual", async |namespace| {
        let cluster = ready(namespace, json!({"failover": {"policy": "Manual"}})).await;
        assert_eq!(cluster.condition("FailoverReady").await, ("False".into(), "ManualPolicy".into()));
        let client = cluster.client().await;
        client.put("kept", "data").await.expect("it is taken");
        let leader = cluster.leader().await;
        let pod = get(namespace, "pod", &leader).await.expect("it is there");
        let node = pod["spec"]["nodeName"].as_str().expect("it is placed");
        // Its volume is on this node: it can run nowhere else.
        kubectl(["cordon", node]).await.expect("cordoned");
        kubectl(["-n", namespace, "delete", "pod", &leader]).await.expect("deleted");
        eventually("nobody leads", async || (cluster.condition("Available").await.0 == "False").then_some(())).await;
        let heir = ["kv-0-0", "kv-0-1", "kv-0-2"].into_iter().find(|name| *name != leader).expect("another");
        kubectl_armdb(&["-n", namespace, "promote", "kv", heir]).await.expect("it is done");
        eventually("it leads", async || (cluster.leader().await == heir).then_some(())).await;
        let read = client.get("kept").await.expect("it is answered");
        assert_eq!(read.expect("it is there").bytes, "data");
        kubectl(["uncordon", node]).await.expect("uncordoned");
        cluster.ready().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_that_promises_what_is_not_there_is_refused_in_words_and_touches_nothing() {
    case("refused", async |namespace| {
        let cluster = ready(namespace, json!({})).await;
        let before = cluster.pods().await;
        cluster.patch(json!({"spec": {"image": NEXT, "tls": {"client": {"mode": "Mutual"}}}})).await;
        let why = cluster.until("ConfigurationWarning", "True", "Refused").await;
        assert!(why.contains("spec.tls.client.mode"), "{why}");
        assert_eq!(cluster.condition("Ready").await, ("False".into(), "ConfigurationRefused".into()));
        assert_eq!(cluster.condition("Available").await.0, "True");
        assert_eq!(cluster.pods().await, before, "nothing of it is done");
        cluster.change(json!({"tls": {"client": {"mode": "Disabled"}}})).await;
        assert!(cluster.pods().await.values().all(|(_, image)| image == NEXT));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_that_no_node_fits_says_so() {
    case("no-node", async |namespace| {
        operator().await;
        let nowhere = json!({"replicas": 1, "placement": {"nodeSelector": {"disk": "golden"}}});
        let cluster = Cluster::apply(namespace, "kv", nowhere).await;
        let why = eventually("the scheduler's word", async || {
            let conditions = cluster.status().await.conditions;
            conditions.into_iter().map(|c| c.message).find(|message| message.contains("nodes are available"))
        })
        .await;
        assert!(why.contains("kv-0-0"), "{why}");
        // Mending the spec is enough: nobody has to delete the pod.
        cluster.patch(json!({"spec": {"placement": {"nodeSelector": {"disk": null}}}})).await;
        cluster.ready().await;
    })
    .await;
}
