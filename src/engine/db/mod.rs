//! The engine as a plain embedded library: one directory, one process, no cluster.
//!
//! ```
//! use armdb::engine::{Db, DbOptions, Expect, ScanRange, TreeKind, WriteBatch};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temp = tempfile::tempdir()?;
//! # let path = temp.path().join("db");
//! let db = Db::open(&path, DbOptions::default())?;
//! db.put("apple", "red")?;
//! db.put("pear", "green")?;
//! assert_eq!(db.get("apple")?.as_deref(), Some(&b"red"[..]));
//! assert_eq!(db.get_with("pear", |value| value.len())?, Some(5), "read in place, not copied");
//!
//! // All or nothing, and only if the conditions hold.
//! let batch = WriteBatch::new().put("plum", "blue").delete("pear").expect("plum", Expect::Absent);
//! assert!(db.write(&batch)?.is_written());
//! assert!(!db.write(&batch)?.is_written(), "there is a plum by now");
//!
//! let keys: Vec<_> = db.scan(ScanRange::prefix(b"p")).map(|entry| Ok(entry?.0)).collect::<Result<_, armdb::engine::EngineError>>()?;
//! assert_eq!(keys, ["plum"]);
//!
//! let sessions = db.create_tree("sessions", TreeKind::Hash)?;
//! sessions.put_for("s1", "alice", Duration::from_secs(3600))?;
//! assert!(sessions.get("s1")?.is_some() && db.get("s1")?.is_none());
//!
//! // What has happened since a position, also one that was kept from an earlier run.
//! let position = db.position();
//! db.delete("apple")?;
//! let mut watch = db.watch(&position)?;
//! assert_eq!(watch.next(10, Duration::ZERO)?.len(), 1);
//! db.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! A write returns once it is what its [`Durability`](super::Durability) says, and is visible to every reader
//! then. `Db` is a handle: clone it, share it between threads. The directory is locked; a second open is
//! refused, and so is the directory of a cluster's member. Every open begins an epoch of its own, so that a
//! version or position of what a crash took is never mistaken for another entry's.

mod scan;
mod tree;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

pub use scan::DbScan;
pub use tree::DbTree;
pub use watch::{DbEvent, DbPosition, DbWatch};

use super::append::SingleOp;
use super::batch::{Appended, Condition, Version, WriteBatch, WriteOp};
use super::error::{AppendError, EngineError};
use super::format::node_meta::Purpose;
use super::member::Engine;
use super::meta::Format;
use super::options::{CompactionOptions, Durability, EngineOptions, Retention};
use super::shard::Shard;
use super::shard_state::ShardState;
use super::slot::shard_of;
use super::tree::{TreeId, TreeInfo, TreeKind};
use super::value::{ScanRange, Value};
use super::verify::VerifyReport;
use crate::disk::{Disk, RealDisk};
use crate::ident::{InstanceId, Sid};
use crate::position::{Epoch, Gsn};

/// How long a write waits for a full disk before it says so.
const FULL_DISK_PATIENCE: Duration = Duration::from_secs(1);

/// What a database is opened with.
#[derive(Debug, Clone, PartialEq)]
pub struct DbOptions {
    /// When a write returns.
    pub durability: Durability,
    /// Logs in the directory, fixed when it is made. One is best but for write rates of millions a second.
    pub shards: u16,
    /// Bytes of one log segment; a batch may take a quarter of it.
    pub segment_bytes: u64,
    /// Memory for what is written but not yet durable.
    pub memory_budget_bytes: u64,
    /// Longest value that is accepted.
    pub max_value_bytes: u32,
    /// How much log is kept for watchers.
    pub retention: Retention,
    /// When and how fast compaction runs.
    pub compaction: CompactionOptions,
}

impl Default for DbOptions {
    fn default() -> Self {
        let engine = EngineOptions::default();
        Self {
            durability: engine.durability,
            shards: 1,
            segment_bytes: engine.segment_bytes,
            memory_budget_bytes: engine.memory_budget_bytes,
            max_value_bytes: engine.max_value_bytes,
            retention: engine.retention,
            compaction: engine.compaction,
        }
    }
}

impl DbOptions {
    fn engine(&self) -> EngineOptions {
        EngineOptions {
            durability: self.durability,
            segment_bytes: self.segment_bytes,
            memory_budget_bytes: self.memory_budget_bytes,
            max_value_bytes: self.max_value_bytes,
            retention: self.retention,
            compaction: self.compaction,
            ..EngineOptions::default()
        }
    }
}

/// What became of a batch that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It is written; the version of its last operation.
    Written(Version),
    /// This condition, by its place in the batch, did not hold: nothing was written.
    ConditionFailed(usize),
}

impl WriteOutcome {
    /// Whether it is written.
    pub fn is_written(&self) -> bool {
        matches!(self, Self::Written(_))
    }
}

/// An embedded database. See the module's comment.
#[derive(Debug, Clone)]
pub struct Db {
    inner: Arc<Inner>,
    default: DbTree,
}

/// What all handles of one open database share.
#[derive(Debug)]
struct Inner {
    engine: Arc<Engine>,
    epoch: Epoch,
    closed: AtomicBool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.engine.close() {
            tracing::warn!(%error, "the database was not closed cleanly; the next open recovers it");
        }
    }
}

impl Db {
    /// Opens the database in a directory, or makes one in an absent or empty directory.
    pub fn open(path: impl AsRef<Path>, options: DbOptions) -> Result<Self, EngineError> {
        Self::open_on(Arc::new(RealDisk::new()), path, options)
    }

    /// As [`Self::open`], on another disk.
    pub fn open_on(disk: Arc<dyn Disk>, path: impl AsRef<Path>, options: DbOptions) -> Result<Self, EngineError> {
        let dir = path.as_ref();
        if !Engine::is_formatted(&disk, dir)? {
            let format = Format { sid: Sid::random(), shards: options.shards };
            Engine::format_for(&disk, dir, &format, Purpose::Embedded)?;
        }
        let engine = Engine::open_for(disk, dir, options.engine(), InstanceId::random(), Purpose::Embedded)?;
        // From here on dropping it ends it, cleanly where that is possible.
        let mut inner = Inner { engine, epoch: 0, closed: AtomicBool::new(false) };
        let shards = inner.engine.meta().shards;
        if shards != options.shards {
            let reason =
                format!("{} has {shards} and that never changes, {} were asked for", dir.display(), options.shards);
            return Err(EngineError::Options { name: "shards", reason });
        }
        for shard in inner.engine.shards() {
            match shard.state() {
                ShardState::Ready | ShardState::Damaged { .. } => {}
                // A crash may have come between the making of the directory and this.
                ShardState::Blank => shard.set_state(ShardState::Ready)?,
                state => {
                    let (path, shard) = (dir.to_owned(), shard.id());
                    return Err(EngineError::Unsound { path, shard, reason: state.to_string() });
                }
            }
        }
        inner.epoch = inner.engine.shards().iter().map(|shard| shard.tail().last.epoch).max().unwrap_or(0) + 1;
        for shard in inner.engine.shards() {
            shard.open_epoch(inner.epoch, clock_ms())?;
        }
        inner.engine.sync_all()?;
        for shard in inner.engine.shards() {
            // Also what the last run wrote without living to see it durable.
            shard.advance_commit(shard.tail_gsn());
        }
        let inner = Arc::new(inner);
        let info = TreeInfo { id: TreeId::DEFAULT, name: "default".into(), kind: TreeKind::Ordered };
        Ok(Self { default: DbTree::new(inner.clone(), info), inner })
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, EngineError> {
        self.default.get(key)
    }

    /// Calls `read` with the value of a key where it lies, without copying it. See [`DbTree::get_with`].
    pub fn get_with<R>(&self, key: impl AsRef<[u8]>, read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, EngineError> {
        self.default.get_with(key, read)
    }

    /// The value of a key with its version and expiry.
    pub fn get_value(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, EngineError> {
        self.default.get_value(key)
    }

    /// The values of many keys, in their order: faster than one by one.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Bytes>>, EngineError> {
        self.default.multi_get(keys)
    }

    /// Sets a key.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Version, EngineError> {
        self.default.put(key, value)
    }

    /// Sets a key for a time.
    pub fn put_for(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        live: Duration,
    ) -> Result<Version, EngineError> {
        self.default.put_for(key, value, live)
    }

    /// Removes a key, whether or not it is there.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<Version, EngineError> {
        self.default.delete(key)
    }

    /// The entries of a range, in order or against it.
    pub fn scan(&self, range: ScanRange) -> DbScan {
        self.default.scan(range)
    }

    /// Writes all of a batch or nothing, if all its conditions hold. With several shards its keys must lie in
    /// one: give them a common `{hash tag}`.
    pub fn write(&self, batch: &WriteBatch) -> Result<WriteOutcome, EngineError> {
        self.inner.write(batch)
    }

    /// The tree that always exists, which this handle's own operations are on.
    pub fn default_tree(&self) -> &DbTree {
        &self.default
    }

    /// Makes a tree, or finds the one of this name; refused if that is of another kind.
    pub fn create_tree(&self, name: &str, kind: TreeKind) -> Result<DbTree, EngineError> {
        if self.inner.engine.tree(name).is_none_or(|tree| tree.kind != kind) {
            self.inner.write(&WriteBatch::new().op(WriteOp::CreateTree { name: name.to_owned(), kind }))?;
        }
        self.tree(name).ok_or_else(|| EngineError::Failed(format!("tree {name} was made and is not there")))
    }

    /// The tree of a name.
    pub fn tree(&self, name: &str) -> Option<DbTree> {
        self.inner.engine.tree(name).map(|info| DbTree::new(self.inner.clone(), info))
    }

    /// All trees.
    pub fn trees(&self) -> Vec<TreeInfo> {
        self.inner.engine.trees()
    }

    /// Where the database is now: what was written before is at or below it.
    pub fn position(&self) -> DbPosition {
        DbPosition::of(self.inner.engine.shards())
    }

    /// Follows what is written after a position.
    pub fn watch(&self, after: &DbPosition) -> Result<DbWatch, EngineError> {
        DbWatch::new(self.inner.clone(), after)
    }

    /// Reads every record and checks it.
    pub fn verify(&self) -> Vec<VerifyReport> {
        self.inner.engine.shards().iter().map(|shard| shard.verify()).collect()
    }

    /// Returns once everything written so far is on the disk, with [`Durability::Os`] too.
    pub fn sync(&self) -> Result<(), EngineError> {
        self.inner.engine.sync_all()
    }

    /// Memory of the hash index, in bytes: what a get looks into.
    pub fn index_memory_bytes(&self) -> u64 {
        self.inner.engine.shards().iter().map(|shard| shard.index_bytes()).sum()
    }

    /// Keys with a value, expired ones included until compaction drops them.
    pub fn keys(&self) -> u64 {
        self.inner.engine.shards().iter().map(|shard| shard.keys()).sum()
    }

    /// Ends it cleanly, for all handles: everything is on the disk when this returns, and the next open has
    /// nothing to recover. Dropping the last handle does the same without telling of errors.
    pub fn close(&self) -> Result<(), EngineError> {
        self.inner.closed.store(true, Ordering::Release);
        self.inner.engine.close()
    }
}

impl Inner {
    fn shard(&self, key: &[u8]) -> &Arc<Shard> {
        let shards = self.engine.shards();
        &shards[usize::from(shard_of(key, shards.len() as u16))]
    }

    /// The time that reads are judged by: it never goes back, whatever the clock does.
    fn now_ms(&self, shard: &Shard) -> u64 {
        shard.note_committed_time(clock_ms(), 0);
        shard.committed_time_ms()
    }

    /// The time that lives begin at.
    fn birth_ms(&self, shard: &Shard) -> u64 {
        shard.note_committed_time(clock_ms(), 0);
        shard.told_time_ms()
    }

    fn write_single(&self, op: SingleOp<'_>) -> Result<Version, EngineError> {
        let shard = self.shard(op.key);
        match self.append(shard, || shard.append_single(self.epoch, op))? {
            WriteOutcome::Written(version) => Ok(version),
            WriteOutcome::ConditionFailed(_) => unreachable!("an operation without conditions"),
        }
    }

    fn write(&self, batch: &WriteBatch) -> Result<WriteOutcome, EngineError> {
        let shard = self.shard_of_batch(batch)?;
        shard.note_committed_time(clock_ms(), 0);
        self.append(shard, || shard.append(self.epoch, batch))
    }

    fn shard_of_batch(&self, batch: &WriteBatch) -> Result<&Arc<Shard>, EngineError> {
        let of_op = |op: &WriteOp| match op {
            WriteOp::Put { key, .. } | WriteOp::Delete { key, .. } => self.shard(key),
            // Trees are created on the first shard, for all.
            WriteOp::CreateTree { .. } => &self.engine.shards()[0],
        };
        let of_condition = |condition: &Condition| self.shard(&condition.key);
        let mut shards = batch.ops.iter().map(of_op).chain(batch.conditions.iter().map(of_condition));
        let first = shards.next().ok_or(AppendError::EmptyBatch)?;
        if shards.any(|shard| shard.id() != first.id()) {
            let reason = "its keys lie in different shards: give them a common {hash tag}, or use one shard".into();
            return Err(EngineError::Options { name: "batch", reason });
        }
        Ok(first)
    }

    /// Appends, waiting for memory where that is needed, and then for what the durability promises.
    fn append(
        &self,
        shard: &Arc<Shard>,
        attempt: impl Fn() -> Result<Appended, AppendError>,
    ) -> Result<WriteOutcome, EngineError> {
        let shared = self.engine.shared();
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(EngineError::Closed);
            }
            match attempt() {
                Ok(Appended::Written { position, .. }) => {
                    self.settle(shard, position.gsn)?;
                    return Ok(WriteOutcome::Written(position));
                }
                Ok(Appended::ConditionFailed { index, judged_at }) => {
                    self.settle(shard, judged_at)?;
                    return Ok(WriteOutcome::ConditionFailed(index));
                }
                Err(AppendError::MemoryFull) => {
                    let used = shared.memory_bytes.load(Ordering::Relaxed);
                    let freed = || shared.memory_bytes.load(Ordering::Relaxed) < used || shared.poison.is_set();
                    if !shared.progress.wait(Some(FULL_DISK_PATIENCE), freed)
                        && shared.puts_refused.load(Ordering::Acquire)
                    {
                        return Err(AppendError::DiskFull.into());
                    }
                }
                Err(AppendError::Failed) => {
                    shared.poison.check()?;
                    return Err(AppendError::Failed.into());
                }
                // Nobody takes the lead from an embedded database but its own closing.
                Err(AppendError::NotLeader) => return Err(EngineError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until `gsn` is durable, and so applied.
    fn settle(&self, shard: &Shard, gsn: Gsn) -> Result<(), EngineError> {
        let shared = self.engine.shared();
        let reached = || shard.applied() >= gsn;
        while !reached() {
            let timeout = Some(FULL_DISK_PATIENCE);
            let woken = shared.progress.wait(timeout, || reached() || shared.poison.is_set());
            if reached() {
                break;
            }
            shared.poison.check()?;
            if !woken && shared.puts_refused.load(Ordering::Acquire) {
                return Err(EngineError::DiskFull(
                    "the write is queued and becomes durable once there is room: whether it will is not known".into(),
                ));
            }
        }
        Ok(())
    }
}

/// The wall clock in unix milliseconds, to the scheduler's tick: expiry needs no more.
fn clock_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
mod tests;
