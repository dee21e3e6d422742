//! What all shards of one engine share: the disk, the options, the failure, the memory budget, the trees.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::{Mutex, RwLock};

use super::error::EngineError;
use super::listener::EngineListener;
use super::options::{Background, Durability, EngineOptions};
use super::segment::{Poison, io_error};
use super::tree::{TreeId, TreeInfo, TreeKind};
use super::wait_cell::WaitCell;
use crate::disk::{Disk, Space};

/// Segments of room that are kept on a disk of any size: 2 GiB of the usual ones.
const RESERVED_SEGMENTS: u64 = 32;

/// See the module's comment.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) options: EngineOptions,
    pub(crate) hash_seed: u64,
    /// What new segments name as their cluster; 0 before there is one.
    pub(crate) cluster_id: RwLock<u128>,
    /// Whether what is durable (under `Os`: written) is committed: the embedded library.
    pub(crate) auto_commit: bool,
    pub(crate) poison: Poison,
    listener: ArcSwapOption<Arc<dyn EngineListener>>,
    has_listener: AtomicBool,
    /// Bytes of log buffers and overlays in memory.
    pub(crate) memory_bytes: AtomicU64,
    pub(crate) trees: ArcSwap<Vec<TreeInfo>>,
    /// Whether something waits for the scheduler.
    pub(crate) dirty: AtomicBool,
    /// Counts appends, where a scheduler waits for them.
    pub(crate) appends: AtomicU64,
    /// The append that the scheduler is woken by while it gathers.
    pub(crate) wanted_appends: AtomicU64,
    /// Wakes the scheduler.
    pub(crate) work: WaitCell,
    /// Wakes housekeeping.
    pub(crate) background: WaitCell,
    /// Wakes who makes the next segments' files.
    pub(crate) spares: WaitCell,
    /// Wakes who merges what is noted for the ordered indexes.
    pub(crate) ordering: WaitCell,
    /// Whether there is enough of it.
    pub(crate) unordered: AtomicBool,
    /// Until when no log floor is raised.
    pub(crate) floor_hold: Mutex<Option<Duration>>,
    started: Instant,
    /// What the caller told last, in nanoseconds; only with [`Background::Manual`].
    told_now: AtomicU64,
    /// Wakes whoever waits for durability or commit.
    pub(crate) progress: WaitCell,
    pub(crate) puts_refused: AtomicBool,
    /// The room on the disk, when it was last looked at.
    pub(crate) space: Mutex<Space>,
    /// Whether even the log's own end found no room: nothing is taken until there is some again.
    pub(crate) no_room: AtomicBool,
    /// Whether the reserve is known to be there.
    pub(crate) reserve_kept: AtomicBool,
    pub(crate) stopping: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        options: EngineOptions,
        hash_seed: u64,
        cluster_id: u128,
        auto_commit: bool,
    ) -> Self {
        let default = TreeInfo { id: TreeId::DEFAULT, name: "default".into(), kind: TreeKind::Ordered };
        Self {
            disk,
            dir,
            options,
            hash_seed,
            cluster_id: RwLock::new(cluster_id),
            auto_commit,
            poison: Poison::default(),
            listener: ArcSwapOption::empty(),
            has_listener: AtomicBool::new(false),
            memory_bytes: AtomicU64::new(0),
            trees: ArcSwap::from_pointee(vec![default]),
            dirty: AtomicBool::new(false),
            appends: AtomicU64::new(0),
            wanted_appends: AtomicU64::new(0),
            work: WaitCell::default(),
            background: WaitCell::default(),
            spares: WaitCell::default(),
            ordering: WaitCell::default(),
            unordered: AtomicBool::new(false),
            floor_hold: Mutex::new(None),
            started: Instant::now(),
            told_now: AtomicU64::new(0),
            progress: WaitCell::default(),
            puts_refused: AtomicBool::new(false),
            space: Mutex::default(),
            no_room: AtomicBool::new(false),
            reserve_kept: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    pub(crate) fn relaxed(&self) -> bool {
        self.options.durability == Durability::Os
    }

    /// Whether a tail for followers is kept in memory.
    pub(crate) fn keeps_tail(&self) -> bool {
        !self.auto_commit
    }

    pub(crate) fn manual(&self) -> bool {
        self.options.background == Background::Manual
    }

    /// Time since the engine was opened; with [`Background::Manual`] what the caller told last.
    pub(crate) fn now(&self) -> Duration {
        if self.manual() { Duration::from_nanos(self.told_now.load(Ordering::Acquire)) } else { self.started.elapsed() }
    }

    /// Manual background: it is this late.
    pub(crate) fn set_now(&self, now: Duration) {
        self.told_now.store(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Hash of a key: what the index and the hints know it by.
    pub(crate) fn hash(&self, tree: u16, key: &[u8]) -> u64 {
        let seed = self.hash_seed ^ u64::from(tree).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        xxhash_rust::xxh3::xxh3_64_with_seed(key, seed)
    }

    pub(crate) fn set_listener(&self, listener: Arc<dyn EngineListener>) {
        self.listener.store(Some(Arc::new(listener)));
        self.has_listener.store(true, Ordering::Release);
    }

    /// Tells the listener, if there is one. Never under a shard's lock.
    pub(crate) fn tell(&self, what: impl FnOnce(&dyn EngineListener)) {
        if self.has_listener.load(Ordering::Acquire)
            && let Some(listener) = self.listener.load().as_ref()
        {
            what(listener.as_ref().as_ref());
        }
    }

    /// Ends the engine's life: nothing is acknowledged from here on.
    pub(crate) fn fail(&self, error: &EngineError) {
        let reason = error.to_string();
        if self.poison.set(reason.clone()) {
            tracing::error!(%reason, "the engine has failed");
            self.tell(|listener| listener.failed(&reason));
        }
        self.work.wake_all();
        self.background.wake_all();
        self.progress.wake_all();
    }

    /// As [`Self::fail`] for an error that is handed on.
    pub(crate) fn failing<T>(&self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        if let Err(error) = &result {
            self.fail(error);
        }
        result
    }

    /// Tells the scheduler that there is something to sync.
    pub(crate) fn mark_dirty(&self) {
        if self.relaxed() {
            // It looks by itself. Loaded first: many writers share the line.
            if !self.dirty.load(Ordering::Relaxed) {
                self.dirty.store(true, Ordering::Release);
            }
            return;
        }
        let appends = self.appends.fetch_add(1, Ordering::SeqCst) + 1;
        let first = !self.dirty.load(Ordering::Relaxed) && !self.dirty.swap(true, Ordering::SeqCst);
        if first || appends == self.wanted_appends.load(Ordering::SeqCst) {
            self.work.wake_all();
        }
    }

    /// The tree of an id.
    pub(crate) fn tree_kind(&self, tree: u16) -> Option<TreeKind> {
        self.trees.load().iter().find(|t| t.id.0 == tree).map(|t| t.kind)
    }

    /// Adds a tree whose creation is committed.
    pub(crate) fn add_tree(&self, tree: &TreeInfo) {
        self.trees.rcu(|trees| {
            let mut trees = trees.as_ref().clone();
            if !trees.iter().any(|t| t.id == tree.id) {
                trees.push(tree.clone());
            }
            trees
        });
    }

    /// Bytes that are kept for deletes, for compaction, which frees more, and for the log's own end: a fiftieth of the
    /// disk, but two segments at the least and [`RESERVED_SEGMENTS`] at the most. What deletes and compaction need does
    /// not grow with the disk, and a fiftieth of a large one is room that a user has paid for.
    pub(crate) fn reserve_bytes(&self, total_bytes: u64) -> u64 {
        let segment = self.options.segment_bytes;
        (total_bytes / 50).clamp(2 * segment, RESERVED_SEGMENTS * segment)
    }

    /// Looks at the room left and refuses or admits puts accordingly.
    pub(crate) fn refresh_space(&self) -> Result<Space, EngineError> {
        let space = self.disk.space(&self.dir).map_err(io_error("measure the room of", &self.dir))?;
        *self.space.lock() = space;
        let reserve_bytes = self.reserve_bytes(space.total_bytes);
        // Once refused, until the largest batch fits beside the reserve: not in turns from one batch to the next.
        let more = if self.puts_refused.load(Ordering::Acquire) { self.options.max_batch_bytes() } else { 0 };
        let refused = space.available_bytes < reserve_bytes.saturating_add(more);
        if space.available_bytes >= self.options.zero_ahead_bytes {
            self.no_room.store(false, Ordering::Release);
        }
        if self.puts_refused.swap(refused, Ordering::AcqRel) != refused {
            let (dir, available_bytes) = (self.dir.display(), space.available_bytes);
            if refused {
                tracing::warn!(
                    %dir, available_bytes, reserve_bytes,
                    "the disk is full: puts are refused until more than the reserve is free; reads and deletes go on"
                );
            } else {
                tracing::warn!(%dir, available_bytes, reserve_bytes, "there is room on the disk again: puts are taken");
            }
        }
        Ok(space)
    }
}

impl Shared {
    /// A write of the log found no room; whether that is news.
    pub(crate) fn ran_out_of_room(&self) -> bool {
        self.puts_refused.store(true, Ordering::Release);
        !self.no_room.swap(true, Ordering::AcqRel)
    }
}

/// Whether an error says that the disk is full: tried again later, not fatal.
pub(crate) fn is_full(error: &EngineError) -> bool {
    matches!(error, EngineError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
}
