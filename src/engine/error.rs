//! The engine's errors: each names what failed and what the reader can do. One enum per kind of call, so
//! that a caller can match on everything that call can answer.

use std::io;
use std::path::PathBuf;

use super::shard_state::ShardState;
use crate::position::{Gsn, LogPosition, LogTail};

/// What can go wrong with a data directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The file system refused.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process has the directory open.
    #[error("{0} is in use by another process: stop it first, or choose another directory")]
    Locked(PathBuf),
    /// Nothing was ever formatted here.
    #[error("{0} holds no data: format it first")]
    NotFormatted(PathBuf),
    /// Formatting wants an empty directory.
    #[error("{0} is not empty: only an empty directory is formatted")]
    NotEmpty(PathBuf),
    /// `node.meta` cannot be trusted.
    #[error(
        "{path} cannot be read as node metadata ({reason}): the directory is kept as it is; `armdb inspect` says more"
    )]
    Meta {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Written by a newer version.
    #[error("{path} has format {found}, this version reads {min} to {max}: run a newer version")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Oldest format read here.
        min: u32,
        /// Newest format read here.
        max: u32,
    },
    /// `Db::open` on the directory of a cluster's member.
    #[error("{0} belongs to a member of a cluster: reach it through the cluster, never as an embedded database")]
    MemberDirectory(PathBuf),
    /// Options that contradict each other or the directory.
    #[error("option {name}: {reason}")]
    Options {
        /// The option.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The shard is not in a state to serve this.
    #[error("shard {shard} is {state}: {operation} needs a ready shard")]
    NotReady {
        /// The shard.
        shard: u16,
        /// Its state.
        state: ShardState,
        /// What was asked.
        operation: &'static str,
    },
    /// A record or file does not verify.
    #[error("shard {shard}: {what}; the shard is to be rebuilt from another member")]
    Corrupt {
        /// The shard.
        shard: u16,
        /// What and where.
        what: String,
    },
    /// No tree has this id.
    #[error("tree {0} is unknown: create it first")]
    UnknownTree(u16),
    /// `Db::open` on a directory whose data cannot be trusted.
    #[error("shard {shard} in {path} is {reason}: its files are kept as they are; `armdb inspect` says more")]
    Unsound {
        /// The directory.
        path: PathBuf,
        /// The shard.
        shard: u16,
        /// Its state, and why.
        reason: String,
    },
    /// A position of an embedded database that is none of its history.
    #[error("shard {shard} has no {position:?} in its history (a crash took what was not durable): start over")]
    PositionLost {
        /// The shard.
        shard: u16,
        /// The position asked for.
        position: LogPosition,
    },
    /// The embedded database was closed.
    #[error("the database is closed: open it again")]
    Closed,
    /// An earlier failure ended this engine's life.
    #[error("the engine has stopped after a failure: {0}; restart the process")]
    Failed(String),
    /// No room, not even in the reserve.
    #[error("the disk is full: {0}")]
    DiskFull(String),
    /// This version cannot do it.
    #[error("{0} is not supported by this version")]
    Unsupported(&'static str),
    /// The log no longer holds it.
    #[error(transparent)]
    BelowFloor(#[from] BelowFloor),
    /// A batch through the embedded database was refused.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A full sync that would lose or mix data.
    #[error("full sync refused: {0}")]
    FullSync(String),
}

/// Why a batch was not appended. Nothing of it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The epoch is not open on this shard.
    #[error("this member does not lead: ask the leader")]
    NotLeader,
    /// A batch without operations and without conditions.
    #[error("the batch is empty")]
    EmptyBatch,
    /// An operation or condition with an empty key.
    #[error("the key is empty")]
    EmptyKey,
    /// A key over the limit.
    #[error("the key is longer than {limit} bytes")]
    KeyTooLarge {
        /// Largest key, in bytes.
        limit: u64,
    },
    /// A value over the limit.
    #[error("the value is longer than {limit} bytes")]
    ValueTooLarge {
        /// Largest value, in bytes.
        limit: u64,
    },
    /// A batch over the limit.
    #[error("the batch is larger than {limit} bytes with its headers: split it")]
    BatchTooLarge {
        /// Largest batch, record headers included, in bytes.
        limit: u64,
    },
    /// A tree that was never created.
    #[error("tree {0} is unknown: create it first")]
    UnknownTree(String),
    /// A tree exists under this name with another kind, or no id is left.
    #[error("tree {name:?} cannot be created: {reason}")]
    TreeRefused {
        /// The name.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// Puts are refused so that deletes and reads can go on.
    #[error("the disk is full: puts are refused until space is freed; reads and deletes go on")]
    DiskFull,
    /// Too much is uncommitted: wait for the commit to advance.
    #[error("too many bytes are waiting for their commit: try again")]
    MemoryFull,
    /// A record that decides whether a condition holds is not what was written: where.
    #[error("a condition cannot be judged: {0}")]
    Damaged(String),
    /// The shard is not ready.
    #[error("the shard is {0}: it takes no writes")]
    NotReady(ShardState),
    /// An earlier failure ended this engine's life.
    #[error("the engine has stopped after a failure: restart the process")]
    Failed,
}

/// Why a chunk of another member's log was not appended. Nothing of it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// The chunk does not follow the own tail.
    #[error("the chunk does not follow the log's end at {tail:?}")]
    Gap {
        /// The own tail.
        tail: LogTail,
    },
    /// Same position, other history.
    #[error("the logs differ at or before {tail:?} although the positions agree")]
    Diverged {
        /// The own tail.
        tail: LogTail,
    },
    /// The chunk's bytes do not verify.
    #[error("the chunk is damaged: {0}")]
    Corrupt(String),
    /// An epoch is open here: a leader takes nobody's entries.
    #[error("epoch {0} is open on this member: it takes no entries from others")]
    Leading(u64),
    /// Too much is uncommitted.
    #[error("too many bytes are waiting for their commit: try again")]
    MemoryFull,
    /// No room on the disk.
    #[error("the disk is full")]
    DiskFull,
    /// The shard is not ready.
    #[error("the shard is {0}: it takes no entries")]
    NotReady(ShardState),
    /// An earlier failure ended this engine's life.
    #[error("the engine has stopped after a failure: restart the process")]
    Failed,
}

/// Why a log was not truncated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TruncateError {
    /// Committed entries are never truncated.
    #[error("truncating to {gsn} would drop committed entries: the commit is {commit}")]
    BelowCommit {
        /// Where to.
        gsn: Gsn,
        /// The commit.
        commit: Gsn,
    },
    /// The point lies inside an atomic batch.
    #[error("{0} is not the end of a batch")]
    InsideBatch(Gsn),
    /// The point lies above the tail.
    #[error("{gsn} is beyond the log's end {tail}")]
    BeyondTail {
        /// Where to.
        gsn: Gsn,
        /// The tail.
        tail: Gsn,
    },
    /// Anything else.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The log no longer reaches back that far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log starts at {log_floor}: what is older can only be had by a full copy")]
pub struct BelowFloor {
    /// First gsn that the log still holds.
    pub log_floor: Gsn,
}
