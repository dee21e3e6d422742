//! One shard: an append-only log and the index of its committed state.
//!
//! Locks, always taken in this order, none of them waited for by reads:
//! the turn of `housekeeping` (one step of hints or compaction, or a change of state) ->
//! `io` (one sync round or truncation at a time) -> `files` (manifest and state) -> `apply` (moving committed
//! entries into the index) -> `log` (the log's end; held for a copy, never for I/O under `Disk`).
//! Positions that others ask for all the time are atomics beside the locks.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::compaction::Housekeeping;
use super::damage::Watch;
use super::error::EngineError;
use super::files::Files;
use super::format::record::Record;
use super::index::Location;
use super::log::Log;
use super::segment::{Segment, View};
use super::shard_state::ShardState;
use super::shared::Shared;
use crate::position::{EpochTable, Gsn, LogTail};

/// One shard of a member.
#[derive(Debug)]
pub struct Shard {
    pub(crate) id: u16,
    pub(crate) dir: PathBuf,
    pub(crate) shared: Arc<Shared>,
    pub(crate) io: Mutex<()>,
    pub(crate) files: Mutex<Files>,
    pub(crate) apply: Mutex<()>,
    pub(crate) housekeeping: Housekeeping,
    pub(crate) damage: Watch,
    pub(crate) log: Mutex<Log>,
    pub(crate) view: ArcSwap<View>,
    /// Files that are ready for the next segments.
    pub(crate) spares: AtomicUsize,
    /// Whether the state is Ready, or Damaged.
    pub(crate) ready: AtomicBool,
    /// Whether a full sync of it is under way: its log takes nothing meanwhile.
    pub(crate) staging: AtomicBool,
    pub(crate) synced_gsn: AtomicU64,
    pub(crate) tail_gsn: AtomicU64,
    pub(crate) commit_gsn: AtomicU64,
    pub(crate) applied_gsn: AtomicU64,
    /// Largest time that was told.
    pub(crate) told_time_ms: AtomicU64,
    /// The time that reads show.
    pub(crate) committed_time_ms: AtomicU64,
}

impl Shard {
    /// Its number.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// What its data is worth.
    pub fn state(&self) -> ShardState {
        self.files.lock().state().clone()
    }

    /// Changes the state, durably. No compaction runs meanwhile, nor afterwards unless the state is Ready.
    pub fn set_state(&self, state: ShardState) -> Result<(), EngineError> {
        self.change_state(|_| Some(state)).map(drop)
    }

    /// As [`Self::set_state`], to what `decide` makes of the present one, which nobody else changes meanwhile; whether it
    /// made anything of it. A state that was looked at before may have become another: an alarm is not called damage,
    /// nor a file whole that was found damaged just now.
    pub fn change_state(&self, decide: impl FnOnce(&ShardState) -> Option<ShardState>) -> Result<bool, EngineError> {
        self.shared.poison.check()?;
        let _stopped = self.stop_housekeeping();
        let mut files = self.files.lock();
        let Some(state) = decide(files.state()) else { return Ok(false) };
        if files.is_void() && (state.is_usable() || state == ShardState::Amnesic) {
            let (shard, was) = (self.id, files.state().clone());
            return Err(EngineError::NotReady { shard, state: was, operation: "calling its unread data sound" });
        }
        if *files.state() == ShardState::Syncing && state != ShardState::Syncing {
            super::full_sync::discard_staged(&self.shared.disk, &self.dir);
        }
        self.ready.store(false, Ordering::Release);
        let ready = state.is_usable();
        self.shared.failing(files.set_state(&self.shared, &self.dir, state))?;
        self.ready.store(ready, Ordering::Release);
        Ok(true)
    }

    /// The log's end.
    pub fn tail(&self) -> LogTail {
        self.log.lock().tail
    }

    /// Gsn of the log's end; takes no lock.
    pub fn tail_gsn(&self) -> Gsn {
        self.tail_gsn.load(Ordering::Acquire)
    }

    /// Highest gsn that is durable here, as the options' durability defines it: synced, or with `Os` written.
    pub fn durable_gsn(&self) -> Gsn {
        let gsn = if self.shared.relaxed() { &self.tail_gsn } else { &self.synced_gsn };
        gsn.load(Ordering::Acquire)
    }

    /// Highest gsn known to be committed.
    pub fn commit(&self) -> Gsn {
        self.commit_gsn.load(Ordering::Acquire)
    }

    /// Highest gsn that reads show.
    pub fn applied(&self) -> Gsn {
        self.applied_gsn.load(Ordering::Acquire)
    }

    /// First gsn that the log still holds.
    pub fn log_floor(&self) -> Gsn {
        self.files.lock().manifest().log_floor
    }

    /// Tombstones up to this gsn may have been dropped.
    pub fn tombstone_floor(&self) -> Gsn {
        self.files.lock().manifest().tombstone_floor
    }

    /// The epochs of the log.
    pub fn epoch_table(&self) -> EpochTable {
        self.log.lock().epochs.clone()
    }

    /// The time that reads are judged by, unix milliseconds; it never goes back. It goes on with what
    /// [`Self::note_committed_time`] is told and with applied BARRIERs.
    pub fn committed_time_ms(&self) -> u64 {
        self.committed_time_ms.load(Ordering::Acquire)
    }

    /// Largest time that this shard was told of since it was opened, or that its files said then. What it shows is never
    /// later; what conditions are judged by is only through a BARRIER that is not applied ([`Self::log_time_ms`]).
    pub fn told_time_ms(&self) -> u64 {
        self.told_time_ms.load(Ordering::Acquire)
    }

    /// Tells a leader time that enough voters have acknowledged; `after` is what the leader had committed when it showed
    /// that time, 0 for the leader itself. Conditions are judged by it from now on, and reads once everything before it
    /// is applied (see `log_time`). Waits for nothing: where the log is being written, a leader takes the time up with
    /// the next condition or commit (the embedded library with the next write), and a follower is told again.
    pub fn note_committed_time(&self, time_ms: u64, after: Gsn) {
        if time_ms <= self.committed_time_ms() {
            return;
        }
        self.told_time_ms.fetch_max(time_ms, Ordering::AcqRel);
        if let Some(mut log) = self.log.try_lock() {
            if log.open.is_none() {
                log.time.go_on(time_ms, after);
            }
            self.take_time(&mut log);
        }
    }

    /// Takes up what a leader was told, and shows what is due.
    pub(crate) fn take_time(&self, log: &mut Log) {
        if log.open.is_some() {
            log.time.go_on(self.told_time_ms(), 0);
        }
        if let Some(time_ms) = log.time.reach(log.applied.last.gsn) {
            self.show_time(time_ms);
        }
    }

    /// Reads are judged by a time from now on: what came before it in the log is applied.
    pub(crate) fn show_time(&self, time_ms: u64) {
        self.committed_time_ms.fetch_max(time_ms, Ordering::AcqRel);
        self.told_time_ms.fetch_max(time_ms, Ordering::AcqRel);
    }

    /// What conditions are judged by now.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn judging_time_ms(&self) -> u64 {
        let mut log = self.log.lock();
        self.take_time(&mut log);
        log.time.end_ms()
    }

    /// Keys with a value, expired ones included until compaction drops them.
    pub fn keys(&self) -> u64 {
        self.view.load().index.len()
    }

    /// Memory of the hash index, in bytes.
    pub fn index_bytes(&self) -> u64 {
        self.view.load().index.memory_bytes()
    }

    /// Memory of the ordered indexes beside it, in bytes, about. Walks them.
    pub fn ordered_index_bytes(&self) -> u64 {
        self.view.load().ordered.iter().flatten().map(|ordered| ordered.memory_bytes()).sum()
    }

    /// Log bytes in `(from, to]`, estimated from the segments' sizes.
    pub fn log_bytes_between(&self, from: Gsn, to: Gsn) -> u64 {
        if to <= from {
            return 0;
        }
        let (segments, tail, offset) = {
            let log = self.log.lock();
            (self.log_segments(), log.tail.last.gsn, log.offset)
        };
        let mut bytes = 0.0;
        for (i, segment) in segments.iter().enumerate() {
            let base = segment.base_gsn();
            let last = segments.get(i + 1).map_or(tail, |next| next.base_gsn() - 1);
            let len = segment.end().map_or(offset, |end| end.len);
            if last < base || to < base || from >= last {
                continue;
            }
            let covered = to.min(last) - from.max(base - 1);
            bytes += len as f64 * covered as f64 / (last - base + 1) as f64;
        }
        bytes as u64
    }

    /// The segments of the contiguous log, by gsn.
    pub(crate) fn log_segments(&self) -> Vec<Arc<Segment>> {
        let view = self.view.load();
        let mut segments: Vec<_> = view.segments.iter().flatten().filter(|s| !s.is_cold()).cloned().collect();
        segments.sort_by_key(|s| (s.base_gsn(), s.id()));
        segments
    }

    /// Calls `read` with the committed record of a key, its checksum not checked; takes no lock.
    #[inline]
    pub(crate) fn find<R>(
        &self,
        hash: u64,
        tree: u16,
        key: &[u8],
        read: impl FnOnce(&View, Record<'_>, Location) -> R,
    ) -> Option<R> {
        loop {
            let view = self.view.load();
            let (mut stale, mut found) = (false, None);
            view.index.get(hash, |location| {
                let Some(segment) = view.segment(location.segment) else {
                    stale = true;
                    return false;
                };
                let record = segment.fetch(location.offset_bytes()).filter(|r| r.tree() == tree && r.key() == key);
                found = record.map(|record| (record, location));
                found.is_some()
            });
            match found {
                Some((record, location)) => return Some(read(&view, record, location)),
                // The index knew a segment that this view does not: the view has been replaced since.
                None if stale && !Arc::ptr_eq(&view, &self.view.load()) => {}
                None => return None,
            }
        }
    }
}
