//! From an object as the API server gave it to a cluster that may be acted upon, or to the reasons why not.
//!
//! Pure. The API server has judged the object by the same rules already, but perhaps by older ones, or by a
//! definition that somebody changed: nothing is built from what breaks a rule, and the running cluster stays as it
//! is. What is not wrong but not done either, or unwise, is a [`Warning`]: it is told, and everything else goes on.

use std::collections::BTreeMap;

use kube::core::DynamicObject;
use serde_json::Value;

use crate::api::spec::TlsMode;
use crate::api::{self, ArmdbCluster, ArmdbClusterSpec, LostVolumePolicy};
use crate::ident::ClusterId;

/// A cluster whose spec may be acted upon.
#[derive(Debug, Clone, PartialEq)]
pub struct ValidatedCluster {
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// This object; another one may have had its name before.
    pub uid: String,
    /// Of the spec.
    pub generation: i64,
    /// One-shot requests among them.
    pub annotations: BTreeMap<String, String>,
    /// What is asked for.
    pub spec: ArmdbClusterSpec,
}

/// What exists of the cluster and cannot be changed any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Existing {
    /// Partitions that the cluster was created with.
    pub partitions: Option<i32>,
    /// Shards that the volumes are formatted with.
    pub shards: Option<i32>,
    /// Storage class of the volumes there are.
    pub storage_class: Option<String>,
}

/// Why nothing is done about a spec: one sentence a fault, each with a remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Refused(pub Vec<String>);

/// Something that is asked for and not done, or done though it is unwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// One word in CamelCase.
    pub reason: &'static str,
    /// The sentence.
    pub text: String,
}

/// The cluster that `object` describes, if it may be acted upon.
pub fn validate(object: &DynamicObject, existing: &Existing) -> Result<ValidatedCluster, Refused> {
    let meta = &object.metadata;
    let (Some(name), Some(namespace), Some(uid)) = (&meta.name, &meta.namespace, &meta.uid) else {
        return Err(Refused(vec![
            "the object has no name, namespace or uid: it did not come from an API server".into(),
        ]));
    };
    let spec = object.data.get("spec").cloned().unwrap_or(Value::Null);
    let spec: ArmdbClusterSpec = serde_json::from_value(spec).map_err(|error| {
        Refused(vec![format!(
            "spec is not understood ({error}): write what kubectl explain armdb.spec says, and upgrade the \
             definitions together with the operator"
        )])
    })?;
    let mut cluster = ArmdbCluster::new(name, spec);
    cluster.metadata.namespace = Some(namespace.clone());
    let mut faults: Vec<String> = api::validate(&cluster).iter().map(ToString::to_string).collect();
    faults.extend(contradictions(&cluster.spec, existing));
    faults.extend(unsupported(&cluster.spec));
    if !faults.is_empty() {
        return Err(Refused(faults));
    }
    Ok(ValidatedCluster {
        namespace: namespace.clone(),
        name: name.clone(),
        uid: uid.clone(),
        generation: meta.generation.unwrap_or(0),
        annotations: meta.annotations.clone().unwrap_or_default(),
        spec: cluster.spec,
    })
}

/// What the volumes and registers there are do not allow, should the rules on update have been got around.
fn contradictions(spec: &ArmdbClusterSpec, existing: &Existing) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fixed = |field: &str, have: Option<i32>, want: i32| {
        if let Some(have) = have.filter(|have| *have != want) {
            faults.push(format!(
                "{field}: the cluster was created with {have} and {want} is asked for, which cannot be changed: put \
                 {have} back"
            ));
        }
    };
    fixed("spec.partitions", existing.partitions, spec.partitions);
    fixed("spec.storage.shards", existing.shards, spec.storage.shards);
    if let (Some(have), Some(want)) = (&existing.storage_class, &spec.storage.storage_class_name)
        && have != want
    {
        faults.push(format!(
            "spec.storage.storageClassName: the volumes are of class {have} and {want} is asked for, which is fixed when \
             the cluster is created: put {have} back"
        ));
    }
    faults
}

/// What this version would have to pretend.
fn unsupported(spec: &ArmdbClusterSpec) -> Vec<String> {
    let mut faults = Vec::new();
    if spec.tls.client.mode != TlsMode::Disabled {
        faults.push(
            "spec.tls.client.mode: this version serves clients without TLS only, and does not pretend otherwise: set it \
             to Disabled, or wait for a version that can"
                .to_owned(),
        );
    }
    if spec.auth.secret_name.is_some() {
        faults.push(
            "spec.auth.secretName: this version does not authenticate clients, and does not pretend otherwise: leave it \
             out and keep the network closed, or wait for a version that can"
                .to_owned(),
        );
    }
    faults
}

/// What is unwise or left undone in a spec that is acted upon.
pub fn warnings(cluster: &ValidatedCluster) -> Vec<Warning> {
    let spec = &cluster.spec;
    let mut warnings = Vec::new();
    let mut warn = |reason, text: &str| warnings.push(Warning { reason, text: text.to_owned() });
    if spec.storage.lost_volume.policy == LostVolumePolicy::NodeDeleted {
        warn(
            "LostVolumePolicyIgnored",
            "spec.storage.lostVolume.policy: this version gives no volume up by itself: NodeDeleted is treated as Manual",
        );
    }
    if spec.monitoring.pod_monitor || spec.monitoring.rules {
        warn(
            "MonitoringIgnored",
            "spec.monitoring: this version creates no objects for the Prometheus operator: scrape the port http of the \
             members",
        );
    }
    if let Some(seconds) = grace_seconds(spec)
        && seconds < 30
    {
        let text = format!(
            "spec.podTemplate: a terminationGracePeriodSeconds of {seconds} may end a leader before it has handed over: \
             30 are used"
        );
        warn("GraceTooShort", &text);
    }
    warnings
}

/// What the user's pod template says of the time to stop in.
pub(super) fn grace_seconds(spec: &ArmdbClusterSpec) -> Option<i64> {
    spec.pod_template.as_ref()?.get("spec")?.get("terminationGracePeriodSeconds")?.as_i64()
}

/// The id that the cluster's data has or shall have: what is asked for, else what the volumes say, else none yet.
pub fn cluster_id<'a>(
    adopt: Option<&str>,
    known: Option<ClusterId>,
    claims: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Option<ClusterId>, Refused> {
    if let Some(known) = known {
        return Ok(Some(known));
    }
    if let Some(adopt) = adopt {
        return adopt
            .parse()
            .map(Some)
            .map_err(|error| Refused(vec![format!("spec.bootstrap.adopt.clusterID: {error}")]));
    }
    let mut found: BTreeMap<ClusterId, Vec<&str>> = BTreeMap::new();
    for (claim, id) in claims {
        let id = id.parse().map_err(|error| {
            Refused(vec![format!(
                "the volume claim {claim} has a label armdb.io/cluster-id that is no id ({error}): mend or remove it"
            )])
        })?;
        found.entry(id).or_default().push(claim);
    }
    if found.len() > 1 {
        let told: Vec<_> = found.iter().map(|(id, claims)| format!("{id} ({})", claims.join(", "))).collect();
        return Err(Refused(vec![format!(
            "the volume claims of this name belong to several clusters: {}: say in spec.bootstrap.adopt.clusterID which \
             one this is, and remove the others",
            told.join(" and ")
        )]));
    }
    Ok(found.into_keys().next())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(spec: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "armdb.io/v1alpha1", "kind": "ArmdbCluster",
            "metadata": {"name": "kv", "namespace": "prod", "uid": "u-1", "generation": 3},
            "spec": spec,
        }))
        .expect("an object")
    }

    fn least() -> Value {
        json!({"image": "a/armdb:0.1.0", "storage": {"size": "1Gi"}})
    }

    fn refused(spec: Value, existing: &Existing) -> String {
        validate(&object(spec), existing).expect_err("refused").to_string()
    }

    #[test]
    fn the_least_manifest_is_valid_and_has_its_defaults() {
        let cluster = validate(&object(least()), &Existing::default()).expect("valid");
        assert_eq!((cluster.name.as_str(), cluster.namespace.as_str(), cluster.generation), ("kv", "prod", 3));
        assert_eq!(cluster.spec.replicas, 3);
        assert_eq!(warnings(&cluster), []);
    }

    #[test]
    fn an_object_of_another_shape_is_refused_with_what_does_not_fit() {
        let text =
            refused(json!({"image": "a:1", "replicas": "three", "storage": {"size": "1Gi"}}), &Existing::default());
        assert!(text.contains("three") && text.contains("kubectl explain"), "{text}");
        assert!(refused(Value::Null, &Existing::default()).contains("spec is not understood"));
    }

    #[test]
    fn every_fault_is_told_at_once_by_field() {
        let text = refused(json!({"image": "a", "replicas": 30, "storage": {"size": "much"}}), &Existing::default());
        for field in ["spec.image", "spec.replicas", "spec.storage.size"] {
            assert!(text.contains(field), "{text}");
        }
    }

    #[test]
    fn what_is_formatted_is_not_contradicted() {
        let existing = Existing { partitions: Some(2), shards: Some(2), storage_class: Some("nvme".into()) };
        let text = refused(
            json!({"image": "a:1", "partitions": 1, "storage": {"size": "1Gi", "shards": 4, "storageClassName": "slow"}}),
            &existing,
        );
        for words in ["spec.partitions", "created with 2 and 4", "of class nvme"] {
            assert!(text.contains(words), "{text}");
        }
        let spec = json!({"image": "a:1", "partitions": 2, "storage": {"size": "1Gi", "shards": 2}});
        validate(&object(spec), &existing).expect("a class left out contradicts nothing");
    }

    #[test]
    fn protection_that_is_not_there_is_refused_rather_than_pretended() {
        let text = refused(
            json!({"image": "a:1", "storage": {"size": "1Gi"}, "tls": {"client": {"mode": "Mutual"}},
                   "auth": {"secretName": "tokens"}}),
            &Existing::default(),
        );
        assert!(text.contains("spec.tls.client.mode") && text.contains("spec.auth.secretName"), "{text}");
    }

    #[test]
    fn what_is_left_undone_is_told_and_does_not_stop_the_rest() {
        let spec = json!({
            "image": "a:1", "storage": {"size": "1Gi", "lostVolume": {"policy": "NodeDeleted"}},
            "monitoring": {"podMonitor": true}, "podTemplate": {"spec": {"terminationGracePeriodSeconds": 5}},
        });
        let cluster = validate(&object(spec), &Existing::default()).expect("valid");
        let reasons: Vec<_> = warnings(&cluster).into_iter().map(|warning| warning.reason).collect();
        assert_eq!(reasons, ["LostVolumePolicyIgnored", "MonitoringIgnored", "GraceTooShort"]);
    }

    #[test]
    fn the_id_is_the_known_one_then_the_adopted_then_that_of_the_volumes() {
        let (a, b) = (ClusterId(1), ClusterId(2));
        let (text_a, text_b) = (a.to_string(), b.to_string());
        let claims = [("data-kv-0-0", text_a.as_str()), ("data-kv-0-1", text_a.as_str())];
        assert_eq!(cluster_id(Some(&text_b), Some(a), claims), Ok(Some(a)));
        assert_eq!(cluster_id(Some(&text_b), None, claims), Ok(Some(b)));
        assert_eq!(cluster_id(None, None, claims), Ok(Some(a)));
        assert_eq!(cluster_id(None, None, []), Ok(None));
    }

    #[test]
    fn volumes_of_two_clusters_are_refused_by_name() {
        let (a, b) = (ClusterId(1).to_string(), ClusterId(2).to_string());
        let text = cluster_id(None, None, [("data-kv-0-0", a.as_str()), ("data-kv-0-1", b.as_str())])
            .expect_err("refused")
            .to_string();
        for word in [&a, &b, "data-kv-0-0", "data-kv-0-1", "spec.bootstrap.adopt.clusterID"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(cluster_id(None, None, [("data-kv-0-0", "x")]).is_err());
    }
}
