//! The members' configuration file. Mounted as a directory, and no part of the pod template: changing it restarts
//! nobody by itself. What only a restart can bring into force enters the spec hash instead.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::{Desired, Identity, partition_meta};
use crate::api::names;
use crate::node::config::{LogFormat, NodeConfig};
use crate::operator::kinds::Kind;
use crate::operator::validate::ValidatedCluster;

/// The file's name in the ConfigMap and in the pods.
pub(super) const FILE: &str = "config.yaml";

pub(super) fn build(cluster: &ValidatedCluster, identity: &Identity, partition: i32) -> Desired {
    let config = NodeConfig { log_format: LogFormat::Json, ..NodeConfig::of(&cluster.spec) };
    Desired::new(
        Kind::ConfigMap,
        &ConfigMap {
            metadata: partition_meta(cluster, identity, partition, names::config_map(&cluster.name, partition)),
            data: Some(BTreeMap::from([(FILE.to_owned(), config.to_yaml())])),
            ..ConfigMap::default()
        },
    )
}
