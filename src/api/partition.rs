//! `ArmdbPartition`: the internal object that holds the register of one partition.
//!
//! Users do not write it. `spec` is what the failover driver must know of the cluster, copied here so that it
//! reads one object alone and an unreadable `ArmdbCluster` still fails over. `status.register` is the
//! compare-and-swap register of `ChangeEpoch`; its fields are topology's, and unknown ones are preserved,
//! because a structural schema would drop them from a write that then reports success.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::FailoverPolicy;
use super::defaults;
use super::spec::open_object;

/// What the failover driver must know.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
// Two columns of one type are no duplicate.
#[expect(clippy::duplicated_attributes)]
#[kube(
    group = "armdb.io",
    version = "v1alpha1",
    kind = "ArmdbPartition",
    plural = "armdbpartitions",
    singular = "armdbpartition",
    namespaced,
    status = "ArmdbPartitionStatus",
    derive = "PartialEq",
    doc = "Internal: the register of one partition of an ArmdbCluster. Written by the operator alone; deleting it is refused while the cluster lives.",
    printcolumn(name = "Partition", type_ = "integer", json_path = ".spec.partition"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.register.epoch"),
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.failoverPolicy"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ArmdbPartitionSpec {
    /// Name of the cluster it belongs to.
    #[schemars(length(min = 1, max = 40))]
    pub cluster: String,

    /// Identity of the cluster's data, 32 hex digits: what a new partition is founded with.
    #[serde(rename = "clusterID")]
    #[schemars(length(min = 32, max = 32))]
    pub cluster_id: String,

    /// Number of the partition in its cluster, from 0.
    #[schemars(range(min = 0, max = 63))]
    pub partition: i32,

    /// Partitions that the cluster was created with.
    #[schemars(range(min = 1, max = 64))]
    pub partitions: i32,

    /// Members that shall vote.
    #[schemars(range(min = 1, max = 9))]
    pub replicas: i32,

    /// Shards that its volumes are formatted with.
    #[schemars(range(min = 1, max = 64))]
    pub shards: i32,

    /// Stops planned moves and changes of membership, never a failover.
    #[serde(default)]
    pub paused: bool,

    /// A cluster whose volumes may become a register again although some of them are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 32, max = 32))]
    pub adopt: Option<String>,

    /// Automatic or Manual: whether an unreachable leader is replaced without being asked.
    #[serde(default)]
    pub failover_policy: FailoverPolicy,

    /// How long a leader may be silent, in milliseconds.
    #[serde(default = "defaults::leader_timeout_millis")]
    #[schemars(range(min = 300, max = 60_000))]
    pub leader_timeout_millis: i32,

    /// The number of voters below which the partition never shrinks by itself.
    #[schemars(range(min = 1, max = 9))]
    pub min_voters: i32,

    /// How many voters must hold an entry before it is committed: Majority or All.
    #[serde(default)]
    pub write_quorum: WriteQuorumRule,
}

/// How many voters must hold an entry before it is committed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteQuorumRule {
    /// More than half of the voters.
    #[default]
    Majority,
    /// Every voter.
    All,
}

impl WriteQuorumRule {
    /// W for `voters` voters.
    pub const fn write_quorum(self, voters: u32) -> u32 {
        match self {
            Self::Majority => voters / 2 + 1,
            Self::All => voters,
        }
    }
}

impl From<super::Ack> for WriteQuorumRule {
    /// The commit rule follows `spec.replication.ack`; `Leader` only says what a request waits for.
    fn from(ack: super::Ack) -> Self {
        match ack {
            super::Ack::Leader | super::Ack::Quorum => Self::Majority,
            super::Ack::All => Self::All,
        }
    }
}

/// The register.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ArmdbPartitionStatus {
    /// The compare-and-swap register; changed only by replacing the status at its resourceVersion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "open_object")]
    pub register: Option<serde_json::Map<String, serde_json::Value>>,
}

impl ArmdbPartitionSpec {
    /// What partition number `partition` of the cluster `name` is run by.
    pub fn of(name: &str, cluster_id: &str, cluster: &super::ArmdbClusterSpec, partition: i32) -> Self {
        let adopt = cluster.bootstrap.as_ref().and_then(|bootstrap| bootstrap.adopt.as_ref());
        Self {
            cluster: name.to_owned(),
            cluster_id: cluster_id.to_owned(),
            partition,
            partitions: cluster.partitions,
            replicas: cluster.replicas,
            shards: cluster.storage.shards,
            paused: cluster.paused,
            adopt: adopt.map(|adopt| adopt.cluster_id.clone()),
            failover_policy: cluster.failover.policy,
            leader_timeout_millis: cluster.failover.leader_timeout_millis,
            min_voters: cluster.min_voters(),
            write_quorum: cluster.replication.ack.into(),
        }
    }
}
