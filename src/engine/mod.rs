//! The engine: a sharded bitcask. Segments, index, group commit, recovery, hints, compaction.
//!
//! It owns one data directory and knows nothing of other members, clients or Kubernetes; threads are its
//! own, there is no async here. What it promises the floors above:
//!
//! * an append is *durable* once `durable_gsn` reached it, and then survives what its durability names;
//! * reads show committed entries only, and `applied` says up to which gsn;
//! * a batch is whole or absent, everywhere: in the log, after a crash, in chunks, in watches;
//! * a failed write or sync ends the engine's life: nothing is acknowledged after it.

mod append;
mod batch;
mod chunk;
mod commit;
mod compaction;
mod damage;
pub mod db;
mod direct;
mod error;
mod fault;
mod file_keys;
mod files;
pub(crate) mod filter;
pub(crate) mod format;
mod full_sync;
pub(crate) mod hint;
pub(crate) mod index;
pub mod inspect;
mod listener;
mod log;
mod log_reader;
mod log_time;
mod member;
mod meta;
mod options;
mod overlay;
mod read;
pub(crate) mod recovery;
mod reserve;
mod segment;
mod shard;
mod shard_state;
mod shared;
pub mod slot;
mod spare;
mod sync;
mod tree;
mod truncate;
mod value;
mod verify;
mod wait_cell;
mod watch;

pub use batch::{Appended, Condition, Expect, Version, WriteBatch, WriteOp};
pub use chunk::{ChunkEntry, EntryOp, LogChunk, TailRead};
pub use compaction::{HousekeepingReport, LogKeeper};
pub use damage::{Mended, Wanted};
pub use db::{Db, DbEvent, DbOptions, DbPosition, DbScan, DbTree, DbWatch, WriteOutcome};
pub use error::{AppendError, BelowFloor, ChunkError, EngineError, TruncateError};
pub use full_sync::{FullSync, SnapshotFile, SnapshotManifest, SnapshotPin};
pub use listener::EngineListener;
pub use log_reader::ShardLogReader;
pub use member::{Engine, SpaceReport};
pub use meta::{Format, InitState, LastConfig, NodeMeta};
pub use options::{Background, CompactionOptions, Durability, EngineOptions, Retention};
pub use shard::Shard;
pub use shard_state::ShardState;
pub use tree::{TreeId, TreeInfo, TreeKind};
pub use value::{ScanPage, ScanRange, Value};
pub use verify::{Damage, VerifyReport};
pub use watch::{WatchEvent, WatchKind, WatchReader};

#[cfg(test)]
mod tests;
