//! `ArmdbCluster.status`: what is told back. `armdb status -o json` prints the same shape.
//!
//! Nothing here is an input to a decision: it is written from what controllers observe, and a lost or stale
//! status costs nothing but the view. Values that move all the time (lag) are rounded by the writer, so that a
//! quiet cluster writes nothing. Enums carry `Unknown` last for what could not be observed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Condition types of an `ArmdbCluster`.
pub mod condition {
    /// This generation observed, writes served, every member on the wanted spec and in sync, nothing progressing.
    pub const READY: &str = "Ready";
    /// Every partition serves writes.
    pub const AVAILABLE: &str = "Available";
    /// A transition, rollout or sync is under way.
    pub const PROGRESSING: &str = "Progressing";
    /// A member is missing, though writes may be served.
    pub const DEGRADED: &str = "Degraded";
    /// Every follower is in sync and within the lag bound.
    pub const REPLICATION_HEALTHY: &str = "ReplicationHealthy";
    /// One more member can be lost without losing a write or the ability to fail over.
    pub const QUORUM_SAFE: &str = "QuorumSafe";
    /// A failover now would succeed.
    pub const FAILOVER_READY: &str = "FailoverReady";
    /// No rollout has failed.
    pub const ROLLOUT_HEALTHY: &str = "RolloutHealthy";
    /// No volume is lost, full, quarantined or of another size than wanted.
    pub const STORAGE_HEALTHY: &str = "StorageHealthy";
    /// `spec.paused` is set.
    pub const PAUSED: &str = "Paused";
    /// The spec asks for something that is not done, and why.
    pub const CONFIGURATION_WARNING: &str = "ConfigurationWarning";
    /// All of them, in the order they are told.
    pub const ALL: [&str; 11] = [
        READY,
        AVAILABLE,
        PROGRESSING,
        DEGRADED,
        REPLICATION_HEALTHY,
        QUORUM_SAFE,
        FAILOVER_READY,
        ROLLOUT_HEALTHY,
        STORAGE_HEALTHY,
        PAUSED,
        CONFIGURATION_WARNING,
    ];
}

/// Transitions kept in the status.
pub const RECENT_TRANSITIONS: usize = 10;

/// What is told about a cluster.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ArmdbClusterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// One word for the whole, derived from the conditions; never an input to anything. One of Pending, Bootstrapping, Healthy,
    /// Progressing, Degraded, FailingOver, Unavailable, Paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// Members that exist per partition.
    #[serde(default)]
    pub replicas: i32,

    /// Members of all partitions that are in sync or lead.
    #[serde(default)]
    pub ready_members: i32,

    /// Label selector of the members, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Version of armdb that the members run; the lowest while they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// Identity of the cluster's data.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,

    /// What the columns of `kubectl get armdb` show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,

    /// The follower furthest behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<LagStatus>,

    /// Each partition. Above 16 partitions only members that are not in sync are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["id"]))]
    pub partitions: Vec<PartitionStatus>,

    /// The last changes of leadership, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub recent_transitions: Vec<Transition>,

    /// What became of the last one-shot request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_request: Option<RequestStatus>,

    /// Ready, Available, Progressing, Degraded, ReplicationHealthy, QuorumSafe, FailoverReady, RolloutHealthy,
    /// StorageHealthy, Paused, ConfigurationWarning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What became of a one-shot request.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RequestStatus {
    /// The id its author gave it.
    pub id: String,
    /// The request, as it was written.
    #[serde(default)]
    pub request: String,
    /// In words.
    #[serde(default)]
    pub outcome: String,
}

/// One word for the whole cluster.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing runs yet.
    Pending,
    /// The first epoch is being made.
    Bootstrapping,
    /// All members in sync, nothing under way.
    Healthy,
    /// A rollout, a sync or a planned move is under way.
    Progressing,
    /// Writes are served, a member is missing.
    Degraded,
    /// A partition is choosing a leader.
    FailingOver,
    /// A partition serves no writes.
    Unavailable,
    /// `spec.paused` is set.
    Paused,
}

/// What the columns of `kubectl get armdb` show.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The leader; with more than one partition, how many have one: `4/4`.
    #[serde(default)]
    pub leader: String,
    /// Members ready of members wanted: `3/3`.
    #[serde(default)]
    pub ready: String,
    /// Lag of the follower furthest behind: `4Ki`.
    #[serde(default)]
    pub lag: String,
}

/// The follower furthest behind.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LagStatus {
    /// Bytes, rounded.
    #[serde(default)]
    pub max_bytes: i64,
    /// Entries, rounded.
    #[serde(default)]
    pub max_entries: i64,
    /// Since when a follower is behind the bound; absent while none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}

/// A partition.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PartitionStatus {
    /// Number of the partition, from 0.
    pub id: i32,
    /// Epoch of the present configuration; 0 before the first.
    #[serde(default)]
    pub epoch: i64,
    /// Name of the leader; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Bootstrapping, Available (serves writes), Transitioning (leadership is moving), NoQuorum (a leader that
    /// cannot commit or does not answer), NoLeader (the register is lost), Unknown.
    #[serde(default)]
    pub state: PartitionState,
    /// One more member can be lost without losing a write or the ability to fail over.
    #[serde(default)]
    pub quorum_safe: bool,
    /// The members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub members: Vec<MemberStatus>,
}

/// Whether a partition serves.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartitionState {
    /// The first epoch is being made.
    Bootstrapping,
    /// Serves writes.
    Available,
    /// Leadership is moving.
    Transitioning,
    /// There is a leader, but it cannot commit or does not answer.
    NoQuorum,
    /// The register, which says who leads, is lost.
    NoLeader,
    /// Could not be observed.
    #[default]
    Unknown,
}

/// A member.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its name: an address, not an identity.
    pub name: String,
    /// Leader, Follower (votes), Learner (does not vote yet), Unknown.
    #[serde(default)]
    pub role: MemberRole,
    /// InSync, CatchingUp (from the log), Syncing (a full copy), Blank, Amnesic, Quarantined, Damaged, Draining, Unreachable,
    /// Unknown.
    #[serde(default)]
    pub state: MemberState,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Identity of its storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The newest epoch it knows.
    #[serde(default)]
    pub epoch: i64,
    /// Bytes behind the leader.
    #[serde(default)]
    pub lag_bytes: i64,
    /// Entries behind the leader.
    #[serde(default)]
    pub lag_entries: i64,
    /// Age of the oldest entry it has not acknowledged, in milliseconds.
    #[serde(default)]
    pub lag_millis: i64,
    /// The lag is not known now: what is shown is the last that was known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// Entries it knows to be committed, over all shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<i64>,
    /// Its process; local mode only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
}

/// What a member does.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberRole {
    /// Leads the partition.
    Leader,
    /// Follows and votes.
    Follower,
    /// Follows and does not vote yet.
    Learner,
    /// Could not be observed.
    #[default]
    Unknown,
}

/// How a member's data stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberState {
    /// Equal to the leader, or the leader.
    InSync,
    /// Behind, and reading the log.
    CatchingUp,
    /// Taking a full copy.
    Syncing,
    /// Formatted, without data.
    Blank,
    /// Lost its page cache under `durability: Os`: acknowledged entries may be missing.
    Amnesic,
    /// Its data is unsound; it never votes.
    Quarantined,
    /// Some committed records are unreadable and being repaired.
    Damaged,
    /// Going away on purpose.
    Draining,
    /// Does not answer.
    Unreachable,
    /// Could not be observed.
    #[default]
    Unknown,
}

/// A change of leadership that happened.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// Bootstrap, Failover, Switchover, Reconfiguration (voters changed), Adoption, UnsafeRecovery.
    #[serde(rename = "type")]
    pub transition_type: TransitionType,
    /// The partition.
    #[serde(default)]
    pub partition: i32,
    /// The leader before, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The leader after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The epoch it made.
    pub epoch: i64,
    /// From the first sign until writes were served again.
    #[serde(default)]
    pub duration_millis: i64,
    /// Why, in one word.
    pub reason: String,
    /// When it ended.
    pub at: Time,
}

/// Kind of a change of leadership.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransitionType {
    /// The first epoch.
    Bootstrap,
    /// The leader was lost.
    Failover,
    /// It was asked for.
    Switchover,
    /// The voters changed, the leader stayed.
    Reconfiguration,
    /// The register was rebuilt from the members.
    Adoption,
    /// Most volumes were lost; somebody made one member's data the truth.
    UnsafeRecovery,
}
