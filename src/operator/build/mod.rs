//! The objects that make up a cluster, as they shall be: one file a kind.
//!
//! Pure: what is built depends on the validated cluster, its identity and a few facts of what exists, and on
//! nothing else, so that equal input gives equal objects and nothing is written twice. The order of the answer is
//! the order of applying: what others need comes first, the pods' owner last.
//!
//! Does not do: decide when a template may change ([`super::rollout`]) or how many members there are
//! ([`super::scale`]); both are facts here.

mod config;
mod disruption_budget;
pub mod hash;
mod merge;
mod partition;
pub mod pod;
mod secrets;
mod service_account;
mod services;
mod stateful_set;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use serde_json::Value;

pub use secrets::{authority_of, certificate_of};

use super::kinds::Kind;
use super::names;
use super::validate::ValidatedCluster;
use crate::ident::ClusterId;
use crate::net::pki::{self, Authority};

/// How an object is brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Made equal to what is wanted, whatever is there.
    Replace,
    /// Made once; what is there stays.
    CreateOnly,
}

/// An object that shall exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Its kind.
    pub kind: Kind,
    /// As it shall be.
    pub object: DynamicObject,
    /// How.
    pub mode: Mode,
}

impl Desired {
    fn new<T: serde::Serialize>(kind: Kind, typed: &T) -> Self {
        Self { kind, object: kind.object(typed), mode: Mode::Replace }
    }

    fn create_only<T: serde::Serialize>(kind: Kind, typed: &T) -> Self {
        Self { mode: Mode::CreateOnly, ..Self::new(kind, typed) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }
}

/// Who the cluster is, and what its members know each other by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Of its data.
    pub id: ClusterId,
    /// What issues its certificates.
    pub authority: Authority,
    /// The certificate that its members share.
    pub certificate: pki::Identity,
}

#[cfg(test)]
impl Identity {
    /// One that can be built from, and means nothing.
    pub(super) fn of_a_test(id: ClusterId) -> Self {
        let certificate = pki::Identity {
            certificate_pem: "certificate".into(),
            key_pem: "PRIVATE key".into(),
            authority_pem: "authority".into(),
        };
        Self { id, authority: Authority::from_pem("kv", "authority".into(), "PRIVATE authority".into()), certificate }
    }
}

/// What else decides how the objects of a partition shall be.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionFacts {
    /// Members that shall exist: those that are wanted, and those that still vote.
    pub replicas: i32,
    /// The pod template in force.
    pub template: Value,
    /// The claim templates there are; they cannot be changed.
    pub claim_templates: Option<Value>,
    /// The hash that a failed rollout was taken back from.
    pub rejected: Option<String>,
    /// The request to try a failed rollout again that was heeded last.
    pub retried: Option<String>,
    /// Members that are not ready may be evicted: the others are enough.
    pub evict_unhealthy: bool,
}

/// Everything that shall exist, in the order of applying.
pub fn build(
    cluster: &ValidatedCluster,
    identity: &Identity,
    partitions: &BTreeMap<i32, PartitionFacts>,
) -> Vec<Desired> {
    let mut all = vec![service_account::build(cluster, identity)];
    all.extend(secrets::build(cluster, identity));
    all.extend(services::build(cluster, identity));
    for partition in partitions.keys() {
        all.push(config::build(cluster, identity, *partition));
    }
    for (partition, facts) in partitions {
        all.push(disruption_budget::build(cluster, identity, *partition, facts));
    }
    for partition in partitions.keys() {
        all.push(partition::build(cluster, identity, *partition));
    }
    for (partition, facts) in partitions {
        all.push(stateful_set::build(cluster, identity, *partition, facts));
    }
    all
}

/// Metadata of an object of the cluster.
fn cluster_meta(cluster: &ValidatedCluster, identity: &Identity, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(names::cluster_labels(&cluster.name, identity.id)),
        owner_references: Some(vec![names::controller_reference(cluster)]),
        ..ObjectMeta::default()
    }
}

/// Metadata of an object of a partition.
fn partition_meta(cluster: &ValidatedCluster, identity: &Identity, partition: i32, name: String) -> ObjectMeta {
    ObjectMeta {
        labels: Some(names::partition_labels(&cluster.name, identity.id, partition)),
        ..cluster_meta(cluster, identity, name)
    }
}
