//! What the drivers of a partition must know of the cluster. The register, its status, is never written from here.

use super::{Desired, Identity, partition_meta};
use crate::api::{ArmdbPartition, ArmdbPartitionSpec, names};
use crate::operator::kinds::Kind;
use crate::operator::validate::ValidatedCluster;

pub(super) fn build(cluster: &ValidatedCluster, identity: &Identity, partition: i32) -> Desired {
    let name = names::register(&cluster.name, partition);
    let spec = ArmdbPartitionSpec::of(&cluster.name, &identity.id.to_string(), &cluster.spec, partition);
    let mut object = ArmdbPartition::new(&name, spec);
    object.metadata = partition_meta(cluster, identity, partition, name);
    Desired::new(Kind::Partition, &object)
}
