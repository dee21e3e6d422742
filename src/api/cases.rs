//! What each rule refuses and lets pass, as data: `cases.yaml` read into manifests.
//!
//! Two judges take the same cases: the unit tests of [`super::rules`] and, in `tests/kubernetes`, a real API server.
//! That one includes this file by its path, so nothing here may name anything else of the crate.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// One of them.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// What it is about.
    pub(crate) name: String,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    spec: Value,
    old: Option<Value>,
    /// Paths of the rules that must refuse it: all of them, and nothing else may.
    #[serde(default)]
    pub(crate) refused: BTreeSet<String>,
}

impl Case {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        serde_yaml::from_str(include_str!("cases.yaml")).expect("cases.yaml holds cases")
    }

    /// The manifest that is judged.
    pub(crate) fn manifest(&self) -> Value {
        self.over_a_valid_one(&self.spec)
    }

    /// The manifest that it replaces, if it is an update.
    pub(crate) fn old_manifest(&self) -> Option<Value> {
        Some(self.over_a_valid_one(self.old.as_ref()?))
    }

    fn over_a_valid_one(&self, spec: &Value) -> Value {
        let mut object = json!({
            "apiVersion": "armdb.io/v1alpha1", "kind": "ArmdbCluster",
            "metadata": {"name": "kv"},
            "spec": {"image": "armdb:0.1.0", "storage": {"size": "1Gi"}},
        });
        merge(&mut object["metadata"], &self.metadata);
        merge(&mut object["spec"], spec);
        object
    }
}

fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                merge(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}
