//! One budget a partition: a budget over all of them would hold back unrelated drains.
//!
//! Members that are not ready may be evicted only while the others are enough without them; otherwise an unready
//! member counts like any other, so that a drain cannot take the last copy that is catching up.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Desired, Identity, PartitionFacts, partition_meta};
use crate::api::names;
use crate::operator::kinds::Kind;
use crate::operator::names::partition_selector;
use crate::operator::validate::ValidatedCluster;

pub(super) fn build(
    cluster: &ValidatedCluster,
    identity: &Identity,
    partition: i32,
    facts: &PartitionFacts,
) -> Desired {
    let unhealthy = if facts.evict_unhealthy { "AlwaysAllow" } else { "IfHealthyBudget" };
    Desired::new(
        Kind::DisruptionBudget,
        &PodDisruptionBudget {
            metadata: partition_meta(cluster, identity, partition, names::disruption_budget(&cluster.name, partition)),
            spec: Some(PodDisruptionBudgetSpec {
                max_unavailable: Some(IntOrString::Int(1)),
                selector: Some(LabelSelector {
                    match_labels: Some(partition_selector(&cluster.name, partition)),
                    ..LabelSelector::default()
                }),
                unhealthy_pod_eviction_policy: Some(unhealthy.into()),
                ..PodDisruptionBudgetSpec::default()
            }),
            ..PodDisruptionBudget::default()
        },
    )
}
