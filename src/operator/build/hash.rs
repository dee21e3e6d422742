//! The spec hash: what a member must be restarted for, as users set it.
//!
//! `v1:` and the SHA-256 of the fields below, without those that are at their default. It is not a hash of the pod
//! template: a new operator that builds another template from the same wishes changes no hash and restarts nobody. A
//! pod is compared in the version it carries, so that a new version of the hash restarts nobody either; a version
//! this operator does not know (it was rolled back) counts as equal, for the same reason.
//!
//! Once released, the list of a version never changes: a field that is added later belongs to the next version.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::api::ArmdbClusterSpec;

/// What version 1 covers: image and pod first, then what members read once, when they start.
const V1: [&str; 9] = [
    "/image",
    "/imagePullSecrets",
    "/priorityClassName",
    "/resources",
    "/placement",
    "/podTemplate",
    "/replication/durability",
    "/replication/ack",
    "/engine",
];

/// The hash of what is wanted.
pub fn spec_hash(spec: &ArmdbClusterSpec) -> String {
    format!("v1:{}", digest(&covered(spec)))
}

/// Whether a pod that carries `hash` runs what is wanted.
pub fn is_current(hash: &str, wanted: &str) -> bool {
    let version = |text: &str| text.split_once(':').map(|(version, _)| version.to_owned());
    match version(hash) {
        Some(version) if version == "v1" => hash == wanted,
        // Of a newer operator: it cannot be compared, and is no reason to restart anybody.
        Some(_) => true,
        None => false,
    }
}

/// A short hash of any object, for names.
pub fn short(value: &Value) -> String {
    digest(value)[..10].to_owned()
}

fn covered(spec: &ArmdbClusterSpec) -> Value {
    let value = serde_json::to_value(spec).expect("a spec is JSON");
    let default = json!({"image": "", "storage": {"size": ""}});
    let default: ArmdbClusterSpec = serde_json::from_value(default).expect("the least spec");
    let default = serde_json::to_value(default).expect("a spec is JSON");
    let mut covered = Map::new();
    for path in V1 {
        if let Some(set) = value.pointer(path)
            && let Some(set) = beyond(set, default.pointer(path).unwrap_or(&Value::Null))
        {
            covered.insert(path.to_owned(), set);
        }
    }
    Value::Object(covered)
}

/// `value` without what equals `default` and without what is empty.
fn beyond(value: &Value, default: &Value) -> Option<Value> {
    if value == default {
        return None;
    }
    match value {
        Value::Null => None,
        Value::Object(fields) => {
            let kept: Map<_, _> = fields
                .iter()
                .filter_map(|(key, field)| {
                    Some((key.clone(), beyond(field, default.get(key).unwrap_or(&Value::Null))?))
                })
                .collect();
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        other => Some(other.clone()),
    }
}

fn digest(value: &Value) -> String {
    // `serde_json`'s maps keep their keys sorted: equal values have equal texts.
    let mut text = String::with_capacity(64);
    for byte in &Sha256::digest(value.to_string())[..16] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(mut with: Value) -> String {
        let mut spec = json!({"image": "a/armdb:0.1.0", "storage": {"size": "1Gi"}});
        super::super::merge::merge(&mut spec, &with.take());
        spec_hash(&serde_json::from_value(spec).expect("a spec"))
    }

    #[test]
    fn the_first_version_is_what_it_always_was() {
        // If this fails, every cluster would restart its members on an upgrade of the operator: make a new version.
        assert_eq!(hash(json!({})), "v1:995191e0c71a5ea21b40dc7d06c6b9ad");
        assert_eq!(
            hash(json!({"resources": {"requests": {"cpu": "2"}}, "engine": {"memoryBudget": "256Mi"}})),
            "v1:901dff83def6a250afc7a7ab56aec788"
        );
    }

    #[test]
    fn what_needs_no_restart_changes_no_hash() {
        for with in [
            json!({"replicas": 5}),
            json!({"paused": true}),
            json!({"failover": {"leaderTimeoutMillis": 2000}}),
            json!({"services": {"client": {"type": "NodePort"}}}),
            json!({"update": {"minReadySeconds": 1}}),
            json!({"storage": {"size": "2Gi", "retention": {"whenDeleted": "Delete"}}}),
            json!({"imagePullPolicy": "Never"}),
        ] {
            assert_eq!(hash(with.clone()), hash(json!({})), "{with}");
        }
    }

    #[test]
    fn what_needs_a_restart_changes_it() {
        let plain = hash(json!({}));
        for with in [
            json!({"image": "a/armdb:0.2.0"}),
            json!({"resources": {"limits": {"memory": "1Gi"}}}),
            json!({"placement": {"nodeSelector": {"disk": "nvme"}}}),
            json!({"podTemplate": {"metadata": {"labels": {"a": "b"}}}}),
            json!({"replication": {"durability": "Os"}}),
            json!({"engine": {"maxValueSize": "1Mi"}}),
        ] {
            assert_ne!(hash(with.clone()), plain, "{with}");
        }
    }

    #[test]
    fn a_default_that_is_spelt_out_is_no_change() {
        let spelt = json!({"placement": {"antiAffinity": "Required"}, "engine": {"memoryBudget": "128Mi"},
            "replication": {"ack": "Quorum", "durability": "Disk"}});
        assert_eq!(hash(spelt), hash(json!({})));
    }

    #[test]
    fn a_pod_is_compared_in_the_version_it_carries() {
        assert!(is_current("v1:a", "v1:a"));
        assert!(!is_current("v1:a", "v1:b"));
        assert!(is_current("v2:a", "v1:b"), "an operator that was rolled back restarts nobody");
        assert!(!is_current("", "v1:b"));
    }
}
