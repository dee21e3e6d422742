//! Judges a cluster by everything that the API server would: the schema's bounds and the rules of [`super::rules`].
//!
//! Pure. The operator calls it before it builds anything (an object that got in under older rules must not be
//! acted on), `armdb local` through [`super::manifest`]. An empty answer means: valid.

use serde_json::Value;

use super::rules::{self, Holds};
use super::schema::{self, Path};
use super::spec::{ArmdbCluster, TlsMode};

/// A rule or a bound that an object breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Violation {
    /// The field, from the root: `spec.storage.size`.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// Everything that is wrong with `cluster` by itself.
pub fn validate(cluster: &ArmdbCluster) -> Vec<Violation> {
    let mut violations = bounds(cluster);
    violations.extend(broken(cluster));
    violations
}

/// Everything that is wrong with `new`, by itself or as the successor of `old`.
pub fn validate_update(old: &ArmdbCluster, new: &ArmdbCluster) -> Vec<Violation> {
    let mut violations = validate(new);
    violations.extend(rules::ALL.iter().filter_map(|rule| match rule.holds {
        Holds::OnUpdate(holds) if !holds(old, new) => Some(violation(rule)),
        _ => None,
    }));
    violations
}

/// What `cluster` asks for that only Kubernetes can give: `armdb local` refuses it rather than pretend.
pub fn refused_locally(cluster: &ArmdbCluster) -> Vec<Violation> {
    let mut violations = Vec::new();
    if cluster.spec.tls.client.mode != TlsMode::Disabled {
        violations.push(Violation {
            path: "spec.tls.client.mode".to_owned(),
            message: "a local cluster listens on loopback without TLS: set it to Disabled for armdb local".to_owned(),
        });
    }
    if cluster.spec.auth.secret_name.is_some() {
        violations.push(Violation {
            path: "spec.auth.secretName".to_owned(),
            message: "a local cluster has no Secrets to authenticate by: leave it out for armdb local".to_owned(),
        });
    }
    violations
}

/// The rules that `cluster` breaks by itself.
pub(crate) fn broken(cluster: &ArmdbCluster) -> impl Iterator<Item = Violation> + '_ {
    rules::ALL.iter().filter_map(move |rule| match rule.holds {
        Holds::Always(holds) if !holds(cluster) => Some(violation(rule)),
        _ => None,
    })
}

fn violation(rule: &rules::Rule) -> Violation {
    Violation { path: rule.path.to_owned(), message: rule.message.to_owned() }
}

/// The bounds that `cluster` breaks: judged by the very schema that the API server has.
fn bounds(cluster: &ArmdbCluster) -> Vec<Violation> {
    let spec = serde_json::to_value(&cluster.spec).unwrap_or(Value::Null);
    schema::judge(&schema::CLUSTER["properties"]["spec"], &spec, &Path::of_fields("spec"))
        .into_iter()
        .map(|fault| Violation { path: fault.path.to_string(), message: fault.message })
        .collect()
}
