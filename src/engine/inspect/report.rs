//! What an inspection says. Every figure is as found on disk.

use std::path::PathBuf;

use serde::Serialize;

use crate::engine::tree::TreeInfo;
use crate::ident::{ClusterId, Sid};
use crate::position::{Epoch, EpochTable, Gsn, LogPosition, LogTail};

/// Everything found at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// Whether every directory is.
    pub sound: bool,
    /// The data directories, by path.
    pub directories: Vec<DirectoryReport>,
}

/// One data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryReport {
    /// Where it is.
    pub path: PathBuf,
    /// Whether nothing unsound was found.
    pub sound: bool,
    /// Whether a process has it open: what is found at the log's end may be a write under way.
    pub in_use: bool,
    /// Who it is; none if `node.meta` cannot be read.
    pub node: Option<NodeReport>,
    /// What is to be said of the directory as such.
    pub findings: Vec<Finding>,
    /// Its shards.
    pub shards: Vec<ShardInspection>,
}

/// What `node.meta` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// `member` of a cluster, or `embedded`.
    pub purpose: &'static str,
    /// The storage's identity.
    pub sid: Sid,
    /// The cluster it belongs to.
    pub cluster_id: Option<ClusterId>,
    /// Its lineage.
    pub lineage: u64,
    /// How often it was opened.
    pub open_count: u64,
    /// Whether the last run ended cleanly.
    pub clean: bool,
    /// When writes of the last run were acknowledged: `Disk` or `Os`.
    pub durability: &'static str,
    /// Highest epoch promised.
    pub promised: Epoch,
    /// Highest epoch led.
    pub led: Epoch,
    /// How far its bootstrap got.
    pub init: &'static str,
    /// The last configuration it was told.
    pub last_config: Option<ConfigReport>,
    /// Shards it was formatted with.
    pub shards: u16,
    /// Format level in force.
    pub format_level: u32,
    /// Oldest and newest level its last version read.
    pub format_range: (u32, u32),
}

/// A configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigReport {
    /// Its epoch.
    pub epoch: Epoch,
    /// Who votes.
    pub voters: Vec<Sid>,
    /// Voters that must hold an entry.
    pub write_quorum: u32,
    /// Voters below which it never shrinks.
    pub min_voters: u32,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardInspection {
    /// Its number.
    pub shard: u16,
    /// Its state as persisted; none if it cannot be read.
    pub state: Option<String>,
    /// The manifest in force.
    pub manifest: Option<ManifestReport>,
    /// The end of the log that a recovery would find.
    pub log_end: Option<LogTail>,
    /// Its files, by name.
    pub files: Vec<FileReport>,
    /// Full syncs that did not end.
    pub staging: Vec<StagingReport>,
    /// What is to be said of it.
    pub findings: Vec<Finding>,
}

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestReport {
    /// Its file.
    pub name: String,
    /// The id that the next file gets.
    pub next_file_id: u32,
    /// First gsn that the contiguous log holds.
    pub log_floor: Gsn,
    /// Tombstones up to this gsn may have been dropped.
    pub tombstone_floor: Gsn,
    /// Lower bound of the commit.
    pub commit: Gsn,
    /// Committed time, unix milliseconds.
    pub committed_time_ms: u64,
    /// What was durable when it was written.
    pub mark: LogTail,
    /// The epochs then.
    pub epochs: EpochTable,
    /// The trees (shard 0 only).
    pub trees: Vec<TreeInfo>,
    /// Files it no longer wants.
    pub drops: Vec<u32>,
}

/// What a file is to its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FileKind {
    /// A segment of the contiguous log.
    Log,
    /// A segment below the log's floor: data, no longer log.
    Cold,
    /// An output of compaction.
    Compacted,
    /// Not in the manifest.
    Unlisted,
}

/// One file of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Its length.
    pub file_bytes: u64,
    /// Bytes of it that hold records that count.
    pub used_bytes: u64,
    /// Gsns of its first and last record; none: it has none.
    pub gsns: Option<(Gsn, Gsn)>,
    /// Epochs that begin in it.
    pub epochs: Vec<LogPosition>,
    /// Entries.
    pub records: u64,
    /// Of these, puts.
    pub puts: u64,
    /// Of these, deletes.
    pub deletes: u64,
    /// Marks of its member.
    pub marks: u64,
    /// Whether a seal ends it.
    pub sealed: bool,
    /// Whether a full sync brought it.
    pub adopted: bool,
    /// Of a segment of the log: whether it continues the one before it.
    pub joins: Option<bool>,
}

/// What a full sync has staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StagingReport {
    /// Its directory.
    pub name: String,
    /// Files in it.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// What a crash leaves behind: the next open cuts it off or cleans it up, and nothing acknowledged is lost.
    Torn,
    /// Data or metadata that was durable is damaged or gone: the shard would be quarantined.
    Unsound,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// In which file, relative to the directory.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: Option<u64>,
    /// What.
    pub what: String,
}

impl Finding {
    pub(super) fn new(severity: Severity, file: &str, offset: Option<u64>, what: impl Into<String>) -> Self {
        Self { severity, file: file.to_owned(), offset, what: what.into() }
    }
}
