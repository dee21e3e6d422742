//! Whole looks after clusters, with an API server and without members.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::build::{authority_of, certificate_of};
use super::super::cache::{Cache, Key, WATCHED};
use super::super::context::Context;
use super::super::drivers::{Drivers, Parts};
use super::super::events::Events;
use super::super::kinds::Kind;
use super::super::metrics::Metrics;
use super::super::{controller, reconcile};
use super::fake_api::FakeApi;

/// The operator around a server: what acts, without its lease.
struct Running {
    server: FakeApi,
    context: Arc<Context>,
    stop: CancellationToken,
    acting: watch::Sender<bool>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn operator(server: FakeApi) -> Running {
    let (to_controller, for_controller) = mpsc::unbounded_channel();
    let (to_drivers, for_drivers) = mpsc::unbounded_channel();
    let notify = to_controller.clone();
    let cache = Arc::new(Cache::new(move |_, key| {
        let _ = to_drivers.send(key.clone());
        let _ = notify.send(key);
    }));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    for kind in WATCHED {
        cache.expect(kind, None);
        tokio::spawn(Arc::clone(&cache).keep(server.client(), kind, None, stop.clone()));
    }
    let metrics = Arc::new(Metrics::default());
    let (events, publishing) = Events::new(server.kube(), "op-0".into());
    tokio::spawn(publishing);
    let parts = Parts {
        identity: "op-0".into(),
        kube: server.kube(),
        cache: Arc::clone(&cache),
        events: events.clone(),
        metrics: Arc::clone(&metrics),
        changed: to_controller,
    };
    let drivers = Drivers::new(parts, &tasks, &stop);
    let (acting, holds) = watch::channel(true);
    tokio::spawn(Arc::clone(&drivers).run(for_drivers, holds.clone()));
    let context = Arc::new(Context { kube: server.kube(), cache, drivers, events, metrics });
    tokio::spawn(controller::run(Arc::clone(&context), for_controller, holds, stop.clone()));
    context.cache.synced().await;
    Running { server, context, stop, acting }
}

fn manifest(name: &str, spec: &Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "prod"}, "spec": spec})
}

fn least() -> Value {
    json!({"image": "a/armdb:0.1.0", "storage": {"size": "1Gi"}})
}

impl Running {
    fn status(&self, name: &str) -> Value {
        self.server.get(Kind::Cluster, "prod", name).map(|cluster| cluster["status"].clone()).unwrap_or_default()
    }

    fn condition(&self, name: &str, kind: &str) -> Value {
        let status = self.status(name);
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
    }

    /// Waits until `is` holds; whatever waits for ever is cut off by the test runner's patience, with a panic here.
    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok(), "never: {what}");
    }

    fn exists(&self, kind: Kind, name: &str) -> bool {
        self.server.get(kind, "prod", name).is_some()
    }
}

#[tokio::test]
async fn a_cluster_gets_every_object_and_a_status_that_claims_nothing_yet() {
    let running = operator(FakeApi::default()).await;
    running.server.put(Kind::Cluster, manifest("kv", &least()));
    running.until("its members' owner", |r| r.exists(Kind::StatefulSet, "kv-0")).await;
    for (kind, name) in [
        (Kind::ServiceAccount, "kv-member"),
        (Kind::Secret, "kv-ca"),
        (Kind::Secret, "kv-member-tls"),
        (Kind::ConfigMap, "kv-0-config"),
        (Kind::Service, "kv-rw"),
        (Kind::Service, "kv-ro"),
        (Kind::Service, "kv-r"),
        (Kind::Service, "kv-nodes"),
        (Kind::DisruptionBudget, "kv-0"),
        (Kind::Partition, "kv-0"),
    ] {
        assert!(running.exists(kind, name), "{kind:?} {name}");
    }
    running.until("a status", |r| r.status("kv")["observedGeneration"] == 1).await;
    assert_ne!(running.condition("kv", "Ready")["status"], "True");
    let id = running.status("kv")["clusterID"].clone();
    let set = running.server.get(Kind::StatefulSet, "prod", "kv-0").expect("there");
    assert_eq!(set["metadata"]["labels"]["armdb.io/cluster-id"], id);
}

#[tokio::test]
async fn members_get_a_certificate_of_their_clusters_own_authority_and_never_its_key() {
    let running = operator(FakeApi::default()).await;
    running.server.put(Kind::Cluster, manifest("kv", &least()));
    running.server.put(Kind::Cluster, manifest("other", &least()));
    let secret = |name: &str| {
        let object = running.server.get(Kind::Secret, "prod", name).expect("there");
        serde_json::from_value::<kube::core::DynamicObject>(object).expect("an object")
    };
    for name in ["kv", "other"] {
        running.until("its members' owner", |r| r.exists(Kind::StatefulSet, &format!("{name}-0"))).await;
        let (_, authority) = authority_of(&secret(&format!("{name}-ca")), name).expect("an authority");
        let members = secret(&format!("{name}-member-tls"));
        let certificate = certificate_of(&members).expect("a certificate");
        assert_eq!(certificate.authority_pem, authority.certificate_pem());
        let now = std::time::SystemTime::now();
        assert_eq!(certificate.check(&format!("{name}-0-1.{name}-nodes.prod.svc"), now), Ok(()));
        let set = running.server.get(Kind::StatefulSet, "prod", &format!("{name}-0")).expect("there").to_string();
        assert!(set.contains(&format!("member.{name}-nodes.prod.svc")), "{set}");
        assert_eq!(members.data["data"].as_object().expect("entries").len(), 3, "no key of the authority");
    }
    let authority = |name| authority_of(&secret(&format!("{name}-ca")), name).expect("an authority").1;
    assert_ne!(authority("kv").certificate_pem(), authority("other").certificate_pem());
}

#[tokio::test]
async fn objects_that_make_no_sense_harm_nobody_else() {
    let server = FakeApi::default();
    server.put(Kind::Cluster, manifest("broken", &json!({"replicas": {"not": "a number"}})));
    server.put(Kind::Cluster, manifest("empty", &Value::Null));
    let running = operator(server).await;
    running.server.put(Kind::Cluster, manifest("kv", &least()));
    running.until("the sound one's members", |r| r.exists(Kind::StatefulSet, "kv-0")).await;
    running
        .until("what is wrong with the other", |r| r.condition("broken", "ConfigurationWarning")["status"] == "True")
        .await;
    assert_eq!(running.condition("broken", "Ready")["reason"], "ConfigurationRefused");
    assert!(!running.exists(Kind::StatefulSet, "broken-0"));
}

#[tokio::test]
async fn a_spec_that_slips_through_leaves_the_running_cluster_untouched() {
    let running = operator(FakeApi::default()).await;
    running.server.put(Kind::Cluster, manifest("kv", &least()));
    running.until("its members' owner", |r| r.exists(Kind::StatefulSet, "kv-0")).await;
    running.until("a status", |r| r.status("kv")["observedGeneration"] == 1).await;
    let before = running.server.get(Kind::StatefulSet, "prod", "kv-0").expect("there");
    running.server.change(Kind::Cluster, "prod", "kv", |cluster| {
        cluster["spec"]["image"] = "a/armdb".into();
        cluster["spec"]["storage"]["shards"] = 4.into();
    });
    running.until("the warning", |r| r.condition("kv", "ConfigurationWarning")["reason"] == "Refused").await;
    let told = running.condition("kv", "ConfigurationWarning")["message"].to_string();
    assert!(told.contains("spec.image") && told.contains("spec.storage.shards"), "{told}");
    assert_eq!(running.server.get(Kind::StatefulSet, "prod", "kv-0").expect("there"), before);
}

#[tokio::test]
async fn looking_again_at_what_is_as_it_shall_be_writes_nothing() {
    let running = operator(FakeApi::default()).await;
    running.server.put(Kind::Cluster, manifest("kv", &least()));
    running.until("a status", |r| r.status("kv")["observedGeneration"] == 1).await;
    // Nobody else acts: what is looked at here is all there is.
    running.acting.send_replace(false);
    let key = Key::new("prod", "kv");
    let mut memory = super::super::memory::Memory::default();
    let mut quiet = 0;
    for _ in 0..200 {
        running.server.writes();
        let _ = reconcile::reconcile(&running.context, &key, &mut memory).await;
        quiet = if running.server.writes().is_empty() { quiet + 1 } else { 0 };
        if quiet == 3 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("every look wrote something");
}

#[tokio::test]
async fn a_paused_cluster_is_left_as_it_is_but_its_drivers_hear_of_it() {
    let running = operator(FakeApi::default()).await;
    running.server.put(Kind::Cluster, manifest("kv", &least()));
    running.until("its members' owner", |r| r.exists(Kind::StatefulSet, "kv-0")).await;
    running.server.change(Kind::Cluster, "prod", "kv", |cluster| {
        cluster["spec"]["paused"] = true.into();
        cluster["spec"]["image"] = "a/armdb:0.2.0".into();
    });
    running
        .until("the drivers' object", |r| {
            r.server.get(Kind::Partition, "prod", "kv-0").is_some_and(|partition| partition["spec"]["paused"] == true)
        })
        .await;
    running.until("the condition", |r| r.condition("kv", "Paused")["status"] == "True").await;
    let set = running.server.get(Kind::StatefulSet, "prod", "kv-0").expect("there").to_string();
    assert!(set.contains("armdb:0.1.0") && !set.contains("armdb:0.2.0"));
}

#[tokio::test]
async fn a_cluster_that_comes_back_to_its_volumes_has_its_id_and_one_with_two_has_to_be_told_which() {
    let server = FakeApi::default();
    let claim = |name: &str, id: &str| {
        json!({"metadata": {"name": name, "namespace": "prod", "labels": {
            "armdb.io/cluster": "kv", "armdb.io/cluster-id": id, "app.kubernetes.io/managed-by": "armdb-operator"}}})
    };
    let (a, b) = ("000000000000000000000000000000aa", "000000000000000000000000000000bb");
    server.put(Kind::VolumeClaim, claim("data-kv-0-0", a));
    let running = operator(server).await;
    running.server.put(Kind::Cluster, manifest("kv", &least()));
    running.until("its id", |r| r.status("kv")["clusterID"] == a).await;
    running.server.remove(Kind::Cluster, "prod", "kv");
    for name in ["kv-ca", "kv-member-tls"] {
        running.until("its Secrets", |r| r.exists(Kind::Secret, name)).await;
        running.server.remove(Kind::Secret, "prod", name);
    }
    running.server.put(Kind::VolumeClaim, claim("data-kv-0-1", b));
    running.server.put(Kind::Cluster, manifest("kv", &least()));
    running
        .until("the refusal", |r| {
            r.condition("kv", "ConfigurationWarning")["message"].to_string().contains("belong to several clusters")
        })
        .await;
    assert!(!running.exists(Kind::Secret, "kv-ca"));
}

#[tokio::test]
async fn a_request_that_is_none_is_answered_and_taken_off() {
    let running = operator(FakeApi::default()).await;
    let mut cluster = manifest("kv", &least());
    cluster["metadata"]["annotations"] = json!({"armdb.io/switchover": "nobody@7"});
    running.server.put(Kind::Cluster, cluster);
    running.until("the answer", |r| r.status("kv")["lastRequest"]["id"] == "7").await;
    assert!(running.status("kv")["lastRequest"]["outcome"].to_string().contains("no member of kv"));
    running
        .until("its end", |r| {
            let cluster = r.server.get(Kind::Cluster, "prod", "kv").expect("there");
            cluster["metadata"]["annotations"]["armdb.io/switchover"].is_null()
        })
        .await;
}
