//! The node's configuration file: YAML, every key has a default, an unknown key is refused with its place.
//!
//! Only what may differ between two members of one cluster by intent is here; identity (cluster, partition,
//! name, shards, addresses) is on the command line, and roles, peers and quorums come from controllers alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api::{self, quantity};
use crate::engine::{CompactionOptions, Durability, EngineOptions, Retention};
use crate::ident::ClusterId;
use crate::net::proto;

/// What a configuration file may say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeConfig {
    /// The cluster this volume must belong to, if known: a volume of another one is refused at start.
    pub cluster_id: Option<ClusterId>,
    /// When an append counts as durable.
    pub durability: DurabilityLevel,
    /// What a write waits for when its request does not say.
    pub ack: Ack,
    /// Bytes of one log segment; one write may take a quarter of it.
    pub segment_bytes: u64,
    /// Memory for uncommitted entries and the replication tail.
    pub memory_budget_bytes: u64,
    /// Longest value.
    pub max_value_bytes: u32,
    /// Longest request message; 0: as large as a write can be, and a little more.
    pub max_request_bytes: u64,
    /// Requests being worked on for one connection (and operations for one stream); more wait.
    pub max_in_flight_requests: u32,
    /// Bytes of requests and answers held for one connection; more wait, or are refused as overloaded.
    pub max_in_flight_bytes: u64,
    /// Bytes of requests held for all connections together.
    pub max_buffered_bytes: u64,
    /// Connections on the client port; one more is closed at once.
    pub max_connections: u32,
    /// How much log is kept for watchers and followers to reconnect.
    pub retention: RetentionConfig,
    /// Bytes a second that compaction may read and write together.
    pub compaction_bytes_per_second: u64,
    /// Share of a file's bytes that must be reclaimable before it is compacted, in percent.
    pub compaction_min_garbage_percent: u32,
    /// How logs are written.
    pub log_format: LogFormat,
}

/// See [`NodeConfig::durability`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DurabilityLevel {
    /// Synced to the disk.
    #[default]
    Disk,
    /// In the operating system's page cache.
    Os,
}

/// See [`NodeConfig::ack`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Ack {
    /// The leader alone.
    Leader,
    /// As many voters as make it survive a failover.
    #[default]
    Quorum,
    /// Every voter.
    All,
}

/// See [`NodeConfig::log_format`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// See [`NodeConfig::retention`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Log that is kept at least, unless it is older than `minAgeSeconds`.
    pub min_bytes: u64,
    /// Log younger than this is kept, up to `minBytes`.
    pub min_age_seconds: u64,
    /// Log kept for laggards at most; absent: the larger of 1 GiB and a tenth of the disk.
    pub max_bytes: Option<u64>,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        let Retention { min_bytes, min_age, max_bytes } = Retention::default();
        Self { min_bytes, min_age_seconds: min_age.as_secs(), max_bytes }
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        let engine = EngineOptions::default();
        Self {
            cluster_id: None,
            durability: DurabilityLevel::Disk,
            ack: Ack::Quorum,
            segment_bytes: engine.segment_bytes,
            memory_budget_bytes: engine.memory_budget_bytes,
            max_value_bytes: engine.max_value_bytes,
            max_request_bytes: 0,
            max_in_flight_requests: 1024,
            max_in_flight_bytes: 64 << 20,
            max_buffered_bytes: 512 << 20,
            max_connections: 4096,
            retention: RetentionConfig::default(),
            compaction_bytes_per_second: engine.compaction.rate_bytes_per_s,
            compaction_min_garbage_percent: (engine.compaction.min_garbage_ratio * 100.0).round() as u32,
            log_format: LogFormat::Text,
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not what is expected; the source names the field and its place.
    #[error("the configuration {path} is not understood: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: serde_yaml::Error,
    },
    /// Values that contradict each other or a bound.
    #[error("configuration {key}: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with it, and what would do.
        reason: String,
    },
}

/// Bounds of the client port, computed from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub max_request_bytes: usize,
    pub max_in_flight_requests: usize,
    pub max_in_flight_bytes: usize,
    pub max_buffered_bytes: usize,
    pub max_connections: usize,
}

/// What a message needs beside the values it carries: keys, tree names, field tags.
const MESSAGE_OVERHEAD_BYTES: u64 = 64 << 10;

impl NodeConfig {
    /// Reads and checks a file; an empty file is the default configuration.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = if text.trim().is_empty() {
            Self::default()
        } else {
            serde_yaml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?
        };
        config.check()?;
        Ok(config)
    }

    /// The keys of a manifest that are a member's business; the manifest was found valid.
    pub fn of(cluster: &api::ArmdbClusterSpec) -> Self {
        let (replication, engine) = (&cluster.replication, &cluster.engine);
        // Valid: every one is a quantity within its bounds, and no integer is negative.
        let bytes = |text: &str| quantity::bytes(text).unwrap_or(0);
        let unsigned = |value: i32| u32::try_from(value).unwrap_or(0);
        let kept = &engine.log_retention;
        Self {
            durability: match replication.durability {
                api::Durability::Disk => DurabilityLevel::Disk,
                api::Durability::Os => DurabilityLevel::Os,
            },
            ack: match replication.ack {
                api::Ack::Leader => Ack::Leader,
                api::Ack::Quorum => Ack::Quorum,
                api::Ack::All => Ack::All,
            },
            memory_budget_bytes: bytes(&engine.memory_budget),
            max_value_bytes: u32::try_from(bytes(&engine.max_value_size)).unwrap_or(u32::MAX),
            retention: RetentionConfig {
                min_bytes: bytes(&kept.min_size),
                min_age_seconds: u64::from(unsigned(kept.min_age_seconds)),
                max_bytes: Some(bytes(&kept.max_size).max(bytes(&cluster.storage.size) / 10)),
            },
            compaction_bytes_per_second: bytes(&engine.compaction.rate),
            compaction_min_garbage_percent: unsigned(engine.compaction.min_garbage_percent),
            ..Self::default()
        }
    }

    /// As a file that [`Self::read`] reads.
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("a configuration has nothing that YAML cannot say")
    }

    /// Refuses values that contradict each other or a bound.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, reason: String| Err(ConfigError::Value { key, reason });
        if !(64 << 10..=1 << 30).contains(&self.segment_bytes) {
            return refuse("segmentBytes", format!("{} is not within 65536 and 1073741824", self.segment_bytes));
        }
        let batch_bytes = self.segment_bytes / 4;
        if u64::from(self.max_value_bytes) == 0 || u64::from(self.max_value_bytes) > batch_bytes {
            return refuse(
                "maxValueBytes",
                format!(
                    "{} is not within 1 and a quarter of segmentBytes ({batch_bytes}): one write must fit a batch",
                    self.max_value_bytes
                ),
            );
        }
        if self.memory_budget_bytes < 2 * batch_bytes {
            return refuse(
                "memoryBudgetBytes",
                format!("{} is below twice the largest batch ({})", self.memory_budget_bytes, 2 * batch_bytes),
            );
        }
        let smallest = u64::from(self.max_value_bytes) + MESSAGE_OVERHEAD_BYTES;
        if self.max_request_bytes != 0 && !(smallest..=1 << 30).contains(&self.max_request_bytes) {
            return refuse(
                "maxRequestBytes",
                format!(
                    "{} is not within maxValueBytes and 65536 more ({smallest}) and 1073741824",
                    self.max_request_bytes
                ),
            );
        }
        if self.max_in_flight_requests == 0 {
            return refuse("maxInFlightRequests", "0 would take no request: set 1 or more".to_owned());
        }
        let request = self.limits().max_request_bytes as u64;
        if self.max_in_flight_bytes < request {
            return refuse(
                "maxInFlightBytes",
                format!("{} is below the longest request ({request})", self.max_in_flight_bytes),
            );
        }
        if self.max_buffered_bytes < self.max_in_flight_bytes {
            return refuse(
                "maxBufferedBytes",
                format!("{} is below maxInFlightBytes ({})", self.max_buffered_bytes, self.max_in_flight_bytes),
            );
        }
        if !(1..=99).contains(&self.compaction_min_garbage_percent) {
            return refuse(
                "compactionMinGarbagePercent",
                format!("{} is not within 1 and 99", self.compaction_min_garbage_percent),
            );
        }
        if self.max_connections == 0 {
            return refuse("maxConnections", "0 would take no client: set 1 or more".to_owned());
        }
        Ok(())
    }

    /// The engine's part.
    pub fn engine_options(&self) -> EngineOptions {
        EngineOptions {
            durability: match self.durability {
                DurabilityLevel::Disk => Durability::Disk,
                DurabilityLevel::Os => Durability::Os,
            },
            segment_bytes: self.segment_bytes,
            zero_ahead_bytes: EngineOptions::default().zero_ahead_bytes.min(self.segment_bytes),
            memory_budget_bytes: self.memory_budget_bytes,
            max_value_bytes: self.max_value_bytes,
            retention: Retention {
                min_bytes: self.retention.min_bytes,
                min_age: Duration::from_secs(self.retention.min_age_seconds),
                max_bytes: self.retention.max_bytes,
            },
            compaction: CompactionOptions {
                rate_bytes_per_s: self.compaction_bytes_per_second,
                min_garbage_ratio: f64::from(self.compaction_min_garbage_percent) / 100.0,
                ..CompactionOptions::default()
            },
            ..EngineOptions::default()
        }
    }

    /// What a write waits for when it does not say.
    pub(crate) fn default_ack(&self) -> proto::AckLevel {
        match self.ack {
            Ack::Leader => proto::AckLevel::Leader,
            Ack::Quorum => proto::AckLevel::Quorum,
            Ack::All => proto::AckLevel::All,
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let request = match self.max_request_bytes {
            0 => self.segment_bytes / 4 + MESSAGE_OVERHEAD_BYTES,
            set => set,
        };
        Limits {
            max_request_bytes: bytes(request),
            max_in_flight_requests: self.max_in_flight_requests as usize,
            max_in_flight_bytes: bytes(self.max_in_flight_bytes),
            max_buffered_bytes: bytes(self.max_buffered_bytes),
            max_connections: self.max_connections as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<NodeConfig, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, text).expect("written");
        NodeConfig::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_the_default_configuration() {
        assert_eq!(parse("").expect("read"), NodeConfig::default());
        NodeConfig::default().check().expect("the defaults agree with each other");
        assert!(NodeConfig::default().limits().max_request_bytes > 16 << 20, "a whole batch fits a request");
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_and_place() {
        let error = parse("durability: Os\nfrobnicate: 3\n").expect_err("refused");
        assert!(error.contains("frobnicate") && error.contains("line 2"), "{error}");
        let error = parse("ack: Sometimes\n").expect_err("refused");
        assert!(error.contains("Sometimes") && error.contains("Quorum"), "{error}");
    }

    #[test]
    fn values_that_contradict_each_other_are_refused_by_key() {
        for (text, key) in [
            ("segmentBytes: 1000\n", "segmentBytes"),
            ("segmentBytes: 65536\n", "maxValueBytes"),
            ("maxInFlightBytes: 1000\n", "maxInFlightBytes"),
            ("maxRequestBytes: 1000\n", "maxRequestBytes"),
            ("maxConnections: 0\n", "maxConnections"),
            ("compactionMinGarbagePercent: 100\n", "compactionMinGarbagePercent"),
            ("maxInFlightRequests: 0\n", "maxInFlightRequests"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let config = NodeConfig { ack: Ack::All, cluster_id: Some(ClusterId(5)), ..NodeConfig::default() };
        assert_eq!(parse(&config.to_yaml()).expect("read"), config);
    }

    fn spec(yaml: &str) -> api::ArmdbClusterSpec {
        let cluster: api::ArmdbCluster = serde_yaml::from_str(&format!(
            "apiVersion: armdb.io/v1alpha1\nkind: ArmdbCluster\nmetadata: {{name: kv}}\nspec:\n  image: a/b:1\n{yaml}"
        ))
        .expect("a manifest");
        cluster.spec
    }

    #[test]
    fn what_the_manifest_says_of_the_engine_reaches_the_members() {
        let spec = spec(
            "  storage: {size: 100Gi}\n  replication: {ack: Leader, durability: Os}\n  engine: {memoryBudget: 64Mi, \
             maxValueSize: 1Mi, logRetention: {minSize: 1Mi, minAgeSeconds: 5, maxSize: 2Gi}, compaction: {rate: \
             8Mi, minGarbagePercent: 30}}\n",
        );
        let config = NodeConfig::of(&spec);
        config.check().expect("sound");
        assert_eq!((config.durability, config.ack), (DurabilityLevel::Os, Ack::Leader));
        assert_eq!((config.memory_budget_bytes, config.max_value_bytes), (64 << 20, 1 << 20));
        let kept = RetentionConfig { min_bytes: 1 << 20, min_age_seconds: 5, max_bytes: Some(10 << 30) };
        assert_eq!(config.retention, kept);
        assert_eq!((config.compaction_bytes_per_second, config.compaction_min_garbage_percent), (8 << 20, 30));
    }

    #[test]
    fn the_smallest_and_largest_manifests_make_configurations_that_members_take() {
        for engine in
            ["memoryBudget: 32Mi", "maxValueSize: 15Mi", "maxValueSize: 1Ki", "compaction: {minGarbagePercent: 95}"]
        {
            let spec = spec(&format!("  storage: {{size: 1Gi}}\n  engine: {{{engine}}}\n"));
            NodeConfig::of(&spec).check().unwrap_or_else(|error| panic!("{engine}: {error}"));
        }
    }
}
