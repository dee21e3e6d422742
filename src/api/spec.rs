//! `ArmdbCluster.spec`: what a user asks for.
//!
//! Field documentation is written for users: it is what `kubectl explain armdb.spec` prints. Bounds stand on
//! the fields; rules that a bound cannot say stand in [`super::rules`] and are attached here, as close to
//! their field as a transition rule allows (an optional field's at its parent, with the `has()` form, because
//! a rule on the field itself never sees it appear or go).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Toleration};
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::defaults;
use super::rules;
use super::status::ArmdbClusterStatus;

/// A replicated key-value store on local volumes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "armdb.io",
    version = "v1alpha1",
    kind = "ArmdbCluster",
    plural = "armdbclusters",
    singular = "armdbcluster",
    shortname = "armdb",
    namespaced,
    status = "ArmdbClusterStatus",
    derive = "PartialEq",
    doc = "A replicated key-value store on local volumes: members, partitions and how they are run.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.summary.leader"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.summary.ready"),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.summary.lag"),
    printcolumn(
        name = "Safe",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"QuorumSafe\")].status"
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = &rules::NAME
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::IMAGE_PINNED)]
#[x_kube(validation = &rules::MIN_VOTERS_AMONG_REPLICAS)]
#[x_kube(validation = &rules::LOST_VOLUME_NEEDS_THREE)]
#[x_kube(validation = &rules::PARTITIONS_FIXED)]
pub struct ArmdbClusterSpec {
    /// Image of every member, pinned by tag or digest: never derived from the operator's own version, so that
    /// upgrading the operator restarts no member. Not used by `armdb local`.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,

    /// When a node pulls the image: Always, IfNotPresent or Never.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,

    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// Members of each partition, the leader included. With 1 there is no failover. 2 go on when one is lost, but
    /// that one then holds the data alone. 3 and more lose nothing and go on while a majority lives.
    #[serde(default = "defaults::replicas")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: i32,

    /// Replication groups that the key space is spread over; each has its own leader. Fixed at creation.
    #[serde(default = "defaults::partitions")]
    #[schemars(range(min = 1, max = 64))]
    pub partitions: i32,

    /// The volumes.
    pub storage: StorageSpec,

    /// What an acknowledged write means.
    #[serde(default)]
    pub replication: ReplicationSpec,

    /// When and how leadership moves without being asked.
    #[serde(default)]
    pub failover: FailoverSpec,

    /// Where members run.
    #[serde(default)]
    pub placement: PlacementSpec,

    /// How members are replaced when the spec changes.
    #[serde(default)]
    pub update: UpdateSpec,

    /// Services for clients.
    #[serde(default)]
    pub services: ServicesSpec,

    /// Limits and tunables of the storage engine.
    #[serde(default)]
    pub engine: EngineSpec,

    /// Stops changes of objects, rollouts and planned moves. Failover goes on: only
    /// `failover.policy: Manual` stops that.
    #[serde(default)]
    pub paused: bool,

    /// CPU and memory of each member.
    #[serde(default)]
    pub resources: ResourceRequirements,

    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// A partial pod template, merged over the operator's and checked by a dry run: labels, annotations,
    /// affinity, security context, volumes, sidecars. What the operator must own (names, ports, probes of the
    /// member) wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "open_object")]
    pub pod_template: Option<serde_json::Map<String, serde_json::Value>>,

    /// Encryption of the client port. Members always speak mutual TLS to each other in Kubernetes.
    #[serde(default)]
    pub tls: TlsSpec,

    /// Who may use the client port.
    #[serde(default)]
    pub auth: AuthSpec,

    /// Objects for the Prometheus operator.
    #[serde(default)]
    pub monitoring: MonitoringSpec,

    /// How a cluster without a register begins. Left out: a new, empty cluster if every volume is blank, and
    /// never a bootstrap over existing data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
}

/// When a node pulls the image.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ImagePullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// The volumes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::SIZE)]
#[x_kube(validation = &rules::SHARDS_FIXED)]
#[x_kube(validation = &rules::STORAGE_CLASS_FIXED)]
pub struct StorageSpec {
    /// Storage class of the volumes; the default class when left out. Local NVMe is what armdb is made for.
    /// Fixed at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,

    /// Size of each member's volume, a Kubernetes quantity such as 100Gi.
    #[schemars(length(min = 1, max = 32))]
    pub size: String,

    /// Logs a member writes in parallel. One commits fastest on almost every disk; raise it only where the
    /// append lock is the bound (2-3 million puts a second). Fixed at creation.
    #[serde(default = "defaults::shards")]
    #[schemars(range(min = 1, max = 64))]
    pub shards: i32,

    /// What becomes of volumes that no member uses any more.
    #[serde(default)]
    pub retention: StorageRetentionSpec,

    /// What happens when a volume went away with its node.
    #[serde(default)]
    pub lost_volume: LostVolumeSpec,
}

/// What becomes of volumes that no member uses any more.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StorageRetentionSpec {
    /// Retain or Delete the volumes when the cluster is deleted. A retained cluster can be created again under
    /// its name and finds its data.
    #[serde(default)]
    pub when_deleted: RetentionPolicy,

    /// Retain or Delete the volume of a member that was scaled away; deleted only after the cluster no longer
    /// counts on it.
    #[serde(default)]
    pub when_scaled: RetentionPolicy,
}

/// Keep a volume or delete it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RetentionPolicy {
    #[default]
    Retain,
    Delete,
}

/// What happens when a volume went away with its node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LostVolumeSpec {
    /// Manual: the status shows the command that gives the volume up. NodeDeleted: a volume whose Node object
    /// was deleted is given up after delaySeconds and the member starts anew elsewhere, one at a time and only
    /// while the rest has a safe quorum. This version takes NodeDeleted for Manual, with a warning.
    #[serde(default)]
    pub policy: LostVolumePolicy,

    /// How long the Node object must be gone, in seconds. Without effect in this version.
    #[serde(default = "defaults::lost_volume_delay_seconds")]
    #[schemars(range(min = 30, max = 86400))]
    pub delay_seconds: i32,
}

/// Who gives a lost volume up.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LostVolumePolicy {
    #[default]
    Manual,
    NodeDeleted,
}

/// What an acknowledged write means.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationSpec {
    /// Which members hold a write before it is acknowledged. Leader: the leader alone (a failover may lose it).
    /// Quorum: a majority. All: every voter.
    #[serde(default)]
    pub ack: Ack,

    /// When a member counts as holding a write. Disk: after fdatasync. Os: once the operating system has it (it
    /// survives a kill of the process, not a power cut).
    #[serde(default)]
    pub durability: Durability,

    /// Which followers answer reads.
    #[serde(default)]
    pub follower_reads: FollowerReadsSpec,
}

/// Which members hold a write before it is acknowledged.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ack {
    Leader,
    #[default]
    Quorum,
    All,
}

/// When a member counts as holding a write.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Durability {
    #[default]
    Disk,
    Os,
}

/// Which followers answer reads: those behind either bound leave the read-only service. Never an input to failover.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::MAX_LAG)]
pub struct FollowerReadsSpec {
    /// Bytes a follower may be behind, a quantity such as 64Mi.
    #[serde(default = "defaults::max_lag")]
    #[schemars(length(min = 1, max = 32))]
    pub max_lag: String,

    /// Milliseconds a follower may be behind.
    #[serde(default = "defaults::max_lag_millis")]
    #[schemars(range(min = 100, max = 3_600_000))]
    pub max_lag_millis: i32,
}

/// When and how leadership moves without being asked.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FailoverSpec {
    /// Automatic or Manual. Manual is the only switch that stops failover.
    #[serde(default)]
    pub policy: FailoverPolicy,

    /// How long a leader may be silent before the others replace it, in milliseconds. Members send a heartbeat
    /// every 100 ms; a leader whose process is gone is replaced without waiting for this.
    #[serde(default = "defaults::leader_timeout_millis")]
    #[schemars(range(min = 300, max = 60_000))]
    pub leader_timeout_millis: i32,

    /// The number of voters below which the cluster never shrinks by itself, so that a partition of the
    /// network cannot leave one member acknowledging alone. Left out: a majority of replicas; 1 with two
    /// replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9))]
    pub min_voters: Option<i32>,
}

/// Whether the cluster replaces an unreachable leader by itself.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum FailoverPolicy {
    #[default]
    Automatic,
    Manual,
}

/// Where members run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PlacementSpec {
    /// Members of one partition on different nodes: Required, Preferred or Disabled.
    #[serde(default = "defaults::anti_affinity")]
    pub anti_affinity: SpreadPolicy,

    /// Members of one partition in different zones: Required, Preferred or Disabled.
    #[serde(default = "defaults::zone_spread")]
    pub zone_spread: SpreadPolicy,

    /// Labels a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that are tolerated. Not-ready and unreachable nodes always are, without limit: a pod on local
    /// storage can run nowhere else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
}

/// How strictly members are kept apart.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SpreadPolicy {
    Required,
    Preferred,
    Disabled,
}

/// How members are replaced when the spec changes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct UpdateSpec {
    /// What happens to the leader, last of all members. Switchover: a follower takes over first, no request
    /// fails. Restart: it is restarted in place.
    #[serde(default)]
    pub leader_update: LeaderUpdate,

    /// How long a replaced member must be in sync before the next one, in seconds.
    #[serde(default = "defaults::min_ready_seconds")]
    #[schemars(range(min = 0, max = 3600))]
    pub min_ready_seconds: i32,

    /// How long the first replaced member may make no progress before the last good template is put back, in
    /// seconds.
    #[serde(default = "defaults::pod_timeout_seconds")]
    #[schemars(range(min = 30, max = 86_400))]
    pub pod_timeout_seconds: i32,
}

/// What happens to the leader in a rollout.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LeaderUpdate {
    #[default]
    Switchover,
    Restart,
}

/// Services for clients.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServicesSpec {
    /// The services `<name>-rw`, `<name>-ro` and `<name>-r`.
    #[serde(default)]
    pub client: ClientServiceSpec,
}

/// The services that clients use.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientServiceSpec {
    /// ClusterIP, NodePort or LoadBalancer.
    #[serde(default, rename = "type")]
    pub service_type: ServiceType,

    /// Annotations of the services.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

/// Type of a Kubernetes service.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

/// Limits and tunables of the storage engine.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::MEMORY_BUDGET)]
#[x_kube(validation = &rules::MAX_VALUE_SIZE)]
pub struct EngineSpec {
    /// Memory of a member for entries not yet committed and for the tail that followers stream from, a
    /// quantity from 32Mi to 64Gi. Writes wait when it is full.
    #[serde(default = "defaults::memory_budget")]
    #[schemars(length(min = 1, max = 32))]
    pub memory_budget: String,

    /// Largest value a client may write, a quantity from 1Ki to 15Mi.
    #[serde(default = "defaults::max_value_size")]
    #[schemars(length(min = 1, max = 32))]
    pub max_value_size: String,

    /// How much of the log is kept so that followers and watchers can reconnect without a full sync.
    #[serde(default)]
    pub log_retention: LogRetentionSpec,

    /// How overwritten and deleted data is reclaimed.
    #[serde(default)]
    pub compaction: CompactionSpec,
}

/// How much of the log is kept uncompacted.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::LOG_RETENTION_SIZES)]
pub struct LogRetentionSpec {
    /// Kept always, unless it is older than minAgeSeconds: a quantity.
    #[serde(default = "defaults::log_retention_min_size")]
    #[schemars(length(min = 1, max = 32))]
    pub min_size: String,

    /// Kept always, unless it is more than minSize: seconds.
    #[serde(default = "defaults::log_retention_min_age_seconds")]
    #[schemars(range(min = 0, max = 604_800))]
    pub min_age_seconds: i32,

    /// Kept at most for a follower that is behind (or a tenth of the volume, if that is more): a quantity. A
    /// follower further behind gets a full sync.
    #[serde(default = "defaults::log_retention_max_size")]
    #[schemars(length(min = 1, max = 32))]
    pub max_size: String,
}

/// How overwritten and deleted data is reclaimed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::COMPACTION_RATE)]
pub struct CompactionSpec {
    /// Bytes a second that compaction may read and write on a member, a quantity of at least 1Mi.
    #[serde(default = "defaults::compaction_rate")]
    #[schemars(length(min = 1, max = 32))]
    pub rate: String,

    /// Share of a file that must be reclaimable before it is compacted, in percent.
    #[serde(default = "defaults::compaction_min_garbage_percent")]
    #[schemars(range(min = 5, max = 95))]
    pub min_garbage_percent: i32,
}

/// Encryption of the client port.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// The client port.
    #[serde(default)]
    pub client: TlsClientSpec,
}

/// Encryption of the client port.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TlsClientSpec {
    /// Disabled: plain text. Server: clients verify the members. Mutual: members verify clients too. This version
    /// refuses all but Disabled.
    #[serde(default)]
    pub mode: TlsMode,

    /// Secret with tls.crt, tls.key and ca.crt; the operator makes one when left out. Without effect in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
}

/// Encryption of a port.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TlsMode {
    #[default]
    Disabled,
    Server,
    Mutual,
}

/// Who may use the client port.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// Secret whose entries are the tokens clients may present. Left out: no authentication. This version refuses
    /// a spec that names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
}

/// Objects for the Prometheus operator.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MonitoringSpec {
    /// Create a PodMonitor. This version does not: it is ignored with a warning.
    #[serde(default)]
    pub pod_monitor: bool,

    /// Create a PrometheusRule with the alerts. This version does not: it is ignored with a warning.
    #[serde(default)]
    pub rules: bool,

    /// Labels of both objects, for the selector of a Prometheus.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
}

/// How a cluster without a register begins: exactly one of the fields.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::BOOTSTRAP_ONE_OF)]
#[x_kube(validation = &rules::BOOTSTRAP_RESTORE_RESERVED)]
pub struct Bootstrap {
    /// A new, empty cluster; refused unless every volume is blank. The same as no bootstrap at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty: Option<BootstrapEmpty>,

    /// Take over the volumes of an existing cluster whose register was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<BootstrapAdopt>,

    /// Reserved for restoring a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "open_object")]
    pub restore: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A new, empty cluster.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
pub struct BootstrapEmpty {}

/// Take over existing volumes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = &rules::ADOPT_CLUSTER_ID)]
pub struct BootstrapAdopt {
    /// Identity of the cluster the volumes belong to, 32 hex digits: in the label armdb.io/cluster-id of the
    /// volume claims, or from `armdb inspect`.
    #[serde(rename = "clusterID")]
    #[schemars(length(min = 32, max = 32))]
    pub cluster_id: String,
}

/// An object whose fields are somebody else's.
pub(crate) fn open_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

impl FailoverSpec {
    /// `minVoters`, or what it means when left out: a majority of `replicas`, and 1 for two replicas.
    pub fn min_voters_for(&self, replicas: i32) -> i32 {
        self.min_voters.unwrap_or(if replicas <= 2 { 1 } else { replicas / 2 + 1 })
    }
}

impl ArmdbClusterSpec {
    /// The number of voters below which a partition never shrinks by itself.
    pub fn min_voters(&self) -> i32 {
        self.failover.min_voters_for(self.replicas)
    }
}
