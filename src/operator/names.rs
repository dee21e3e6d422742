//! Labels, selectors and owner references of everything the operator makes; the names are in [`crate::api::names`].

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::validate::ValidatedCluster;
use crate::api::names::label;
use crate::api::{self, names};
use crate::ident::ClusterId;

type Labels = BTreeMap<String, String>;

fn labels<const N: usize>(pairs: [(&str, String); N]) -> Labels {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// On every object of the cluster.
pub fn cluster_labels(cluster: &str, id: ClusterId) -> Labels {
    labels([
        (label::NAME, label::APP_NAME.into()),
        (label::INSTANCE, cluster.into()),
        (label::MANAGED_BY, label::OPERATOR.into()),
        (label::CLUSTER, cluster.into()),
        (label::CLUSTER_ID, id.to_string()),
    ])
}

/// On every object of a partition. No version in it: it is in pod templates.
pub fn partition_labels(cluster: &str, id: ClusterId, partition: i32) -> Labels {
    let mut all = cluster_labels(cluster, id);
    all.insert(label::PARTITION.into(), partition.to_string());
    all
}

/// The members of a partition.
pub fn partition_selector(cluster: &str, partition: i32) -> Labels {
    labels([(label::CLUSTER, cluster.into()), (label::PARTITION, partition.to_string())])
}

/// The members of the cluster.
pub fn cluster_selector(cluster: &str) -> Labels {
    labels([(label::CLUSTER, cluster.into()), (label::NAME, label::APP_NAME.into())])
}

/// Leaders.
pub fn leader_selector(cluster: &str) -> Labels {
    labels([(label::CLUSTER, cluster.into()), (label::ROLE, label::LEADER.into())])
}

/// Followers that answer reads.
pub fn reader_selector(cluster: &str) -> Labels {
    labels([(label::CLUSTER, cluster.into()), (label::SERVES_READS, "true".into())])
}

/// What the operator watches.
pub fn managed_selector() -> String {
    format!("{}={}", label::MANAGED_BY, label::OPERATOR)
}

/// The cluster controls it: with the cluster it goes.
pub fn controller_reference(cluster: &ValidatedCluster) -> OwnerReference {
    OwnerReference {
        api_version: api::API_VERSION.into(),
        kind: "ArmdbCluster".into(),
        name: cluster.name.clone(),
        uid: cluster.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// As [`controller_reference`] for what somebody else controls: with the cluster it goes, that is all.
pub fn owner_reference(cluster: &ValidatedCluster) -> OwnerReference {
    OwnerReference { controller: None, block_owner_deletion: None, ..controller_reference(cluster) }
}

/// The ordinal of a member of this partition, if `name` is one.
pub fn ordinal(cluster: &str, partition: i32, name: &str) -> Option<i32> {
    let (its_cluster, its_partition, ordinal) = names::parse_member(name)?;
    (its_cluster == cluster && its_partition == partition).then_some(ordinal)
}

/// The ordinal of a member, whatever it belongs to.
pub fn ordinal_of(member: &str) -> Option<i32> {
    names::parse_member(member).map(|(_, _, ordinal)| ordinal)
}
