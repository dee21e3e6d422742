//! What an engine is opened with. Every size is bytes, every default is the product's.

use std::time::Duration;

/// When an append counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Once `fdatasync` covered it: survives power loss.
    #[default]
    Disk,
    /// Once it is in the operating system's page cache: survives the death of the process, not of the
    /// machine. Synced in the background within 50 ms.
    Os,
}

/// Who runs the engine's background work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Background {
    /// Threads of the engine's own.
    #[default]
    Threads,
    /// Nothing runs by itself: the caller calls `sync_now` and `compact_step`. For simulations and crash tests.
    Manual,
}

/// How much log is kept for watchers and followers to reconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Log behind the tail that is kept at least, unless it is older than [`Self::min_age`].
    pub min_bytes: u64,
    /// Log younger than this is kept, up to [`Self::min_bytes`].
    pub min_age: Duration,
    /// Log that may be kept for laggards at most; `None`: the larger of 1 GiB and a tenth of the disk.
    pub max_bytes: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { min_bytes: 256 << 20, min_age: Duration::from_secs(600), max_bytes: None }
    }
}

/// When and how fast compaction runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompactionOptions {
    /// Bytes a second that compaction may read and write together.
    pub rate_bytes_per_s: u64,
    /// Share of a file's bytes that must be reclaimable before it is rewritten.
    pub min_garbage_ratio: f64,
    /// Share of tombstones in a file from which it pulls in the oldest overlapping files.
    pub tombstone_ratio: f64,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self { rate_bytes_per_s: 64 << 20, min_garbage_ratio: 0.5, tombstone_ratio: 0.25 }
    }
}

/// What an engine is opened with.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// When an append counts as durable.
    pub durability: Durability,
    /// Bytes of one log segment, header included. A batch may take a quarter of it.
    pub segment_bytes: u64,
    /// How far ahead of the log zeros are written.
    pub zero_ahead_bytes: u64,
    /// Memory for uncommitted entries and the replication tail, for all shards together.
    pub memory_budget_bytes: u64,
    /// Longest value that is accepted.
    pub max_value_bytes: u32,
    /// Who runs the background work.
    pub background: Background,
    /// The machine's boot, for the amnesia rule; `None`: asked of the operating system.
    pub boot_id: Option<[u8; 16]>,
    /// How much log is kept.
    pub retention: Retention,
    /// When and how fast compaction runs.
    pub compaction: CompactionOptions,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Disk,
            segment_bytes: 64 << 20,
            zero_ahead_bytes: 4 << 20,
            memory_budget_bytes: 128 << 20,
            max_value_bytes: 8 << 20,
            background: Background::Threads,
            boot_id: None,
            retention: Retention::default(),
            compaction: CompactionOptions::default(),
        }
    }
}

impl EngineOptions {
    /// The largest batch, record headers included, that this engine writes in one piece.
    pub fn max_batch_bytes(&self) -> u64 {
        self.segment_bytes / 4
    }
}
