//! What a field means when it is left out: one function a default, named after its field.
//!
//! Serde and the schema read the same functions, so a manifest means the same to the API server, which
//! fills defaults in on admission, and to `armdb local`, which reads the file itself.

use super::spec::{
    CompactionSpec, FollowerReadsSpec, LogRetentionSpec, LostVolumeSpec, StorageRetentionSpec, TlsClientSpec,
};
use super::{
    EngineSpec, FailoverPolicy, FailoverSpec, LeaderUpdate, LostVolumePolicy, PlacementSpec, RetentionPolicy,
    SpreadPolicy, UpdateSpec,
};

/// `spec.replicas`: survives one member without losing writes or service.
pub const fn replicas() -> i32 {
    3
}

/// `spec.partitions`.
pub const fn partitions() -> i32 {
    1
}

/// `spec.storage.shards`: one log stream a disk commits faster than several.
pub const fn shards() -> i32 {
    1
}

/// `spec.storage.lostVolume.delaySeconds`.
pub const fn lost_volume_delay_seconds() -> i32 {
    300
}

/// `spec.failover.leaderTimeoutMillis`: ten missed heartbeats.
pub const fn leader_timeout_millis() -> i32 {
    1000
}

/// `spec.replication.followerReads.maxLagMillis`.
pub const fn max_lag_millis() -> i32 {
    10_000
}

/// `spec.replication.followerReads.maxLag`.
pub fn max_lag() -> String {
    "64Mi".to_owned()
}

/// `spec.update.minReadySeconds`.
pub const fn min_ready_seconds() -> i32 {
    10
}

/// `spec.update.podTimeoutSeconds`.
pub const fn pod_timeout_seconds() -> i32 {
    600
}

/// `spec.engine.memoryBudget`: uncommitted entries and the tail that followers stream from.
pub fn memory_budget() -> String {
    "128Mi".to_owned()
}

/// `spec.engine.maxValueSize`.
pub fn max_value_size() -> String {
    "8Mi".to_owned()
}

/// `spec.engine.logRetention.minSize`.
pub fn log_retention_min_size() -> String {
    "256Mi".to_owned()
}

/// `spec.engine.logRetention.minAgeSeconds`.
pub const fn log_retention_min_age_seconds() -> i32 {
    600
}

/// `spec.engine.logRetention.maxSize`: what is kept for a laggard before it needs a full sync.
pub fn log_retention_max_size() -> String {
    "1Gi".to_owned()
}

/// `spec.engine.compaction.rate`, bytes a second.
pub fn compaction_rate() -> String {
    "64Mi".to_owned()
}

/// `spec.engine.compaction.minGarbagePercent`.
pub const fn compaction_min_garbage_percent() -> i32 {
    40
}

impl Default for FollowerReadsSpec {
    fn default() -> Self {
        Self { max_lag: max_lag(), max_lag_millis: max_lag_millis() }
    }
}

impl Default for FailoverSpec {
    fn default() -> Self {
        Self { policy: FailoverPolicy::default(), leader_timeout_millis: leader_timeout_millis(), min_voters: None }
    }
}

impl Default for PlacementSpec {
    fn default() -> Self {
        Self {
            anti_affinity: SpreadPolicy::Required,
            zone_spread: SpreadPolicy::Preferred,
            node_selector: Default::default(),
            tolerations: Vec::new(),
        }
    }
}

impl Default for UpdateSpec {
    fn default() -> Self {
        Self {
            leader_update: LeaderUpdate::default(),
            min_ready_seconds: min_ready_seconds(),
            pod_timeout_seconds: pod_timeout_seconds(),
        }
    }
}

impl Default for LostVolumeSpec {
    fn default() -> Self {
        Self { policy: LostVolumePolicy::default(), delay_seconds: lost_volume_delay_seconds() }
    }
}

impl Default for StorageRetentionSpec {
    fn default() -> Self {
        Self { when_deleted: RetentionPolicy::Retain, when_scaled: RetentionPolicy::Retain }
    }
}

impl Default for EngineSpec {
    fn default() -> Self {
        Self {
            memory_budget: memory_budget(),
            max_value_size: max_value_size(),
            log_retention: LogRetentionSpec::default(),
            compaction: CompactionSpec::default(),
        }
    }
}

impl Default for LogRetentionSpec {
    fn default() -> Self {
        Self {
            min_size: log_retention_min_size(),
            min_age_seconds: log_retention_min_age_seconds(),
            max_size: log_retention_max_size(),
        }
    }
}

impl Default for CompactionSpec {
    fn default() -> Self {
        Self { rate: compaction_rate(), min_garbage_percent: compaction_min_garbage_percent() }
    }
}

impl Default for TlsClientSpec {
    fn default() -> Self {
        Self { mode: super::spec::TlsMode::Disabled, secret_name: None }
    }
}

/// `spec.placement.antiAffinity`.
pub const fn anti_affinity() -> SpreadPolicy {
    SpreadPolicy::Required
}

/// `spec.placement.zoneSpread`.
pub const fn zone_spread() -> SpreadPolicy {
    SpreadPolicy::Preferred
}
