//! Objects brought about on an API server.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::apply::{Applier, ApplyError, Compared, Outcome};
use super::super::build::{Desired, Mode};
use super::super::cache::Cache;
use super::super::kinds::Kind;
use super::super::metrics::Metrics;
use super::fake_api::FakeApi;

struct Given {
    server: FakeApi,
    cache: Arc<Cache>,
    compared: Compared,
    stop: CancellationToken,
}

impl Drop for Given {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn given() -> Given {
    let server = FakeApi::default();
    // As a real one does: a default that no client asked for.
    server.admit(|collection, object| {
        if collection.ends_with("statefulsets") {
            let spec = object["spec"].as_object_mut().expect("a spec");
            spec.entry("minReadySeconds").or_insert(0.into());
        }
    });
    let cache = Arc::new(Cache::new(|_, _| {}));
    let stop = CancellationToken::new();
    for kind in [Kind::StatefulSet, Kind::ConfigMap] {
        cache.expect(kind, None);
        tokio::spawn(Arc::clone(&cache).keep(server.client(), kind, None, stop.clone()));
    }
    cache.synced().await;
    Given { server, cache, compared: Compared::default(), stop }
}

impl Given {
    async fn apply(&mut self, desired: &Desired) -> Result<Outcome, ApplyError> {
        let (kube, metrics) = (self.server.kube(), Metrics::default());
        let mut applier = Applier {
            kube: &kube,
            cache: &self.cache,
            metrics: &metrics,
            owner: "owner",
            compared: &mut self.compared,
        };
        applier.apply(desired).await
    }

    /// Waits until the cache has what the server has.
    async fn caught_up(&self, kind: Kind, name: &str) {
        let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        loop {
            let have = self.cache.get(kind, &super::super::cache::Key::new("prod", name));
            let want = self.server.get(kind, "prod", name).as_ref().and_then(version);
            if have.as_ref().and_then(|object| object.metadata.resource_version.clone()) == want {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn desired(kind: Kind, body: Value) -> Desired {
    let mut object = body;
    object["metadata"]["namespace"] = "prod".into();
    object["metadata"]["labels"] = json!({"armdb.io/cluster": "kv", "app.kubernetes.io/managed-by": "armdb-operator"});
    object["metadata"]["ownerReferences"] = json!([{"apiVersion": "armdb.io/v1alpha1", "kind": "ArmdbCluster", "name": "kv", "uid": "owner", "controller": true}]);
    Desired { kind, object: kind.object(&object), mode: Mode::Replace }
}

fn set(replicas: i32) -> Desired {
    desired(
        Kind::StatefulSet,
        json!({"metadata": {"name": "kv-0"}, "spec": {"replicas": replicas, "template": {"metadata": {}, "spec": {}}}}),
    )
}

#[tokio::test]
async fn what_is_as_it_shall_be_is_found_so_once_and_then_costs_nothing() {
    let mut given = given().await;
    assert_eq!(given.apply(&set(3)).await, Ok(Outcome::Created));
    given.server.writes();
    assert_eq!(given.apply(&set(3)).await, Ok(Outcome::Unchanged));
    assert_eq!(given.server.writes(), ["try PUT apis/apps/v1/statefulsets/prod/kv-0"]);
    for _ in 0..3 {
        assert_eq!(given.apply(&set(3)).await, Ok(Outcome::Unchanged));
    }
    given.server.change(Kind::StatefulSet, "prod", "kv-0", |set| set["status"]["replicas"] = 3.into());
    given.caught_up(Kind::StatefulSet, "kv-0").await;
    assert_eq!(given.apply(&set(3)).await, Ok(Outcome::Unchanged), "its status is nobody's wish");
    assert_eq!(given.server.writes(), [""; 0]);
}

#[tokio::test]
async fn whatever_a_foreign_hand_did_to_a_stateful_set_is_undone() {
    let mut given = given().await;
    given.apply(&set(3)).await.expect("created");
    for change in [
        (|set| set["spec"]["replicas"] = 1.into()) as fn(&mut Value),
        |set| set["spec"]["template"]["spec"]["hostNetwork"] = true.into(),
        |set| set["metadata"]["labels"]["team"] = "blue".into(),
        |set| set["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/restartedAt": "now"}),
    ] {
        let before = given.server.get(Kind::StatefulSet, "prod", "kv-0").expect("there");
        given.server.change(Kind::StatefulSet, "prod", "kv-0", change);
        given.caught_up(Kind::StatefulSet, "kv-0").await;
        assert_eq!(given.apply(&set(3)).await, Ok(Outcome::Replaced));
        let after = given.server.get(Kind::StatefulSet, "prod", "kv-0").expect("there");
        assert_eq!(after["spec"], before["spec"]);
        assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
        assert!(after["metadata"]["annotations"].is_null());
    }
}

#[tokio::test]
async fn of_other_kinds_foreign_annotations_stay_and_content_does_not() {
    let mut given = given().await;
    let wanted = desired(Kind::ConfigMap, json!({"metadata": {"name": "kv-0-config"}, "data": {"config.yaml": "a"}}));
    given.apply(&wanted).await.expect("created");
    given.server.change(Kind::ConfigMap, "prod", "kv-0-config", |map| {
        map["metadata"]["annotations"] = json!({"other": "controller"});
        map["data"]["more"] = "b".into();
    });
    given.caught_up(Kind::ConfigMap, "kv-0-config").await;
    assert_eq!(given.apply(&wanted).await, Ok(Outcome::Replaced));
    let map = given.server.get(Kind::ConfigMap, "prod", "kv-0-config").expect("there");
    assert_eq!(
        (&map["data"], &map["metadata"]["annotations"]["other"]),
        (&json!({"config.yaml": "a"}), &json!("controller"))
    );
}

#[tokio::test]
async fn what_belongs_to_a_deleted_namesake_is_never_touched() {
    let mut given = given().await;
    let mut old = serde_json::to_value(&set(3).object).expect("JSON");
    old["metadata"]["ownerReferences"][0]["uid"] = "namesake".into();
    given.server.put(Kind::StatefulSet, old);
    given.caught_up(Kind::StatefulSet, "kv-0").await;
    assert!(matches!(given.apply(&set(3)).await, Err(ApplyError::Remains { .. })));
    given.server.change(Kind::StatefulSet, "prod", "kv-0", |set| set["metadata"]["ownerReferences"] = json!([]));
    given.caught_up(Kind::StatefulSet, "kv-0").await;
    assert!(matches!(given.apply(&set(3)).await, Err(ApplyError::Foreign { .. })));
    given.server.change(Kind::StatefulSet, "prod", "kv-0", |set| {
        set["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "armdb.io/v1alpha1", "kind": "ArmdbCluster", "name": "kv", "uid": "owner", "controller": true}]);
        set["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    });
    given.caught_up(Kind::StatefulSet, "kv-0").await;
    assert!(matches!(given.apply(&set(3)).await, Err(ApplyError::Terminating { .. })));
    assert_eq!(given.server.writes(), [""; 0]);
}

#[tokio::test]
async fn an_object_whose_labels_were_taken_off_is_found_all_the_same() {
    let mut given = given().await;
    given.server.put(
        Kind::Service,
        serde_json::to_value(&desired(Kind::Service, json!({"metadata": {"name": "kv-rw"}})).object).expect("JSON"),
    );
    let wanted = desired(Kind::Service, json!({"metadata": {"name": "kv-rw"}, "spec": {"type": "ClusterIP"}}));
    // Services are not watched in this test: to the cache there is none.
    assert_eq!(given.apply(&wanted).await, Ok(Outcome::Replaced));
}

#[tokio::test]
async fn what_the_api_server_does_not_take_is_told_as_such() {
    let mut given = given().await;
    given.server.fail("POST", 422);
    assert!(matches!(given.apply(&set(3)).await, Err(ApplyError::Refused(_))));
    given.server.fail("POST", 503);
    assert!(matches!(given.apply(&set(3)).await, Err(ApplyError::Kube(_))));
}
