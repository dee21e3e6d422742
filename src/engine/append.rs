//! Appending: batches of this member's own as a leader, chunks of another member's log as a follower.
//!
//! Everything that can be done before the lock is: limits, encoding, hashing, checksums of bodies, and
//! touching the records that conditions and overwrites will need. Under the lock: judge, give gsns, stamp
//! headers, copy.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::batch::{Appended, Condition, Expect, WriteBatch, WriteOp};
use super::chunk::LogChunk;
use super::error::{AppendError, ChunkError, EngineError};
use super::format::notes::{Barrier, decode_catalog, encode_catalog};
use super::format::record::chain as chain_of;
use super::format::record::{Draft, Kind, Parsed, Record, stamp};
use super::log::Log;
use super::overlay::ENTRY_BYTES;
use super::segment::View;
use super::shard::Shard;
use super::shard_state::ShardState;
use super::shared::is_full;
use super::tree::{TreeId, TreeInfo};
use crate::position::{Epoch, Gsn, LogPosition, LogTail};

/// Longest key, in bytes.
pub(crate) const MAX_KEY_BYTES: u64 = u16::MAX as u64;

/// A batch as bytes, all but gsns and checksums.
#[derive(Default)]
pub(crate) struct Encoded {
    bytes: Vec<u8>,
    records: Vec<EncodedRecord>,
    has_put: bool,
}

struct EncodedRecord {
    start: usize,
    len: usize,
    body_crc: u32,
    kind: Kind,
    hash: Option<u64>,
}

thread_local! {
    /// Reused: a put allocates nothing.
    static ENCODED: RefCell<Encoded> = RefCell::default();
}

/// Buffers above this are given back after use.
const KEEP_BYTES: usize = 1 << 20;

impl Encoded {
    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEEP_BYTES);
        self.records.clear();
        self.has_put = false;
    }

    fn push(&mut self, draft: &Draft<'_>, hash: u64) {
        let start = self.bytes.len();
        let body_crc = draft.encode(&mut self.bytes);
        let len = self.bytes.len() - start;
        self.has_put |= draft.kind == Kind::Put;
        self.records.push(EncodedRecord { start, len, body_crc, kind: draft.kind, hash: Some(hash) });
    }

    fn push_catalog(&mut self, tree: &TreeInfo, more: bool) {
        let start = self.bytes.len();
        let body_crc = encode_catalog(tree, more, &mut self.bytes);
        let len = self.bytes.len() - start;
        self.has_put = true;
        self.records.push(EncodedRecord { start, len, body_crc, kind: Kind::Catalog, hash: None });
    }
}

/// One put or delete, borrowed: what the embedded library appends without building a batch.
#[derive(Clone, Copy)]
pub(crate) struct SingleOp<'a> {
    pub(crate) tree: TreeId,
    pub(crate) key: &'a [u8],
    /// `None`: delete.
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) value_type: u8,
}

impl<'a> SingleOp<'a> {
    /// Its record; `more`: of a batch that goes on.
    pub(crate) fn draft(&self, more: bool) -> Draft<'a> {
        Draft {
            kind: if self.value.is_some() { Kind::Put } else { Kind::Delete },
            more,
            tree: self.tree.0,
            value_type: self.value_type,
            expires_ms: self.expires_ms,
            key: self.key,
            value: self.value.unwrap_or_default(),
        }
    }
}

/// What making room answered.
pub(crate) enum Room<'a> {
    Here(MutexGuard<'a, Log>),
    /// The lock was given up meanwhile: everything judged before is void.
    Again,
}

impl Shard {
    /// Opens `epoch` with a BARRIER: from now on appends are taken for this epoch only.
    pub fn open_epoch(&self, epoch: Epoch, time_ms: u64) -> Result<LogTail, EngineError> {
        self.shared.poison.check()?;
        let refused = |operation| EngineError::NotReady { shard: self.id, state: self.state(), operation };
        if !self.ready.load(Ordering::Acquire) {
            return Err(refused("opening an epoch"));
        }
        let mut bytes = Vec::new();
        loop {
            let log = self.log.lock();
            if epoch <= log.tail.last.epoch {
                return Err(EngineError::Options {
                    name: "epoch",
                    reason: format!("{epoch} does not follow {} of the log", log.tail.last.epoch),
                });
            }
            let time_ms = time_ms.max(self.time_of(&log));
            bytes.clear();
            let body_crc = Barrier { epoch, time_ms }.encode(&mut bytes);
            let mut log = match self.make_room(log, bytes.len() as u64, true)? {
                Room::Here(log) => log,
                Room::Again => continue,
            };
            log.enter_epoch(epoch);
            log.begin_batch(self.commit(), self.told_time_ms());
            let crc = stamp(&mut bytes, log.tail.last.gsn + 1, body_crc);
            let location = log.put_entry(&bytes, crc);
            log.end_batch();
            let tail = log.tail;
            log.overlay.push(None, location, Kind::Barrier, true, tail);
            // A follower may have been told a time together with entries that it never got, and nobody will have.
            log.time.cut(tail.last.gsn, self.committed_time_ms());
            log.time.go_on(time_ms, tail.last.gsn);
            log.time.judged(tail.last.gsn);
            log.open = Some(epoch);
            self.account(&log, bytes.len() as u64, 1);
            self.publish_epochs(&log);
            self.tail_gsn.store(tail.last.gsn, Ordering::Release);
            drop(log);
            self.appended(tail.last.gsn);
            return Ok(tail);
        }
    }

    /// The largest time that was told, or that a BARRIER of the log says: no epoch begins before it.
    pub fn log_time_ms(&self) -> u64 {
        self.time_of(&self.log.lock())
    }

    fn time_of(&self, log: &Log) -> u64 {
        let view = self.view.load();
        let barriers = log.overlay.iter().filter(|entry| entry.kind == Kind::Barrier).filter_map(|entry| {
            let record = log.unwritten(entry.location).or_else(|| view.peek(entry.location))?;
            Barrier::decode(&record).ok().map(|barrier| barrier.time_ms)
        });
        let told = self.told_time_ms().max(log.time.end_ms());
        barriers.fold(told, u64::max)
    }

    /// Appends answer `NotLeader` from now on.
    pub fn close_epoch(&self) {
        self.log.lock().open = None;
    }

    /// Judges the conditions and appends the batch.
    pub fn append(&self, epoch: Epoch, batch: &WriteBatch) -> Result<Appended, AppendError> {
        ENCODED.with_borrow_mut(|encoded| {
            encoded.clear();
            let view = self.direct_view();
            let dynamic = self.encode(batch, view.as_deref(), encoded)?;
            self.append_encoded(epoch, encoded, &batch.conditions, dynamic.then_some(batch), view.as_deref())
        })
    }

    /// As [`Self::append`], for one operation.
    pub(crate) fn append_single(&self, epoch: Epoch, op: SingleOp<'_>) -> Result<Appended, AppendError> {
        if self.is_direct()
            && let Some(appended) = self.append_direct(epoch, &op)?
        {
            return Ok(appended);
        }
        ENCODED.with_borrow_mut(|encoded| {
            encoded.clear();
            let view = self.direct_view();
            self.encode_single(&op, false, view.as_deref(), encoded)?;
            self.append_encoded(epoch, encoded, &[], None, view.as_deref())
        })
    }

    /// Whether what is written is committed, so that it may be applied to the index at once.
    fn is_direct(&self) -> bool {
        self.shared.auto_commit && self.shared.relaxed()
    }

    /// What is put is applied at once to the index of this view, where that is so. It need not stay the newest.
    fn direct_view(&self) -> Option<arc_swap::Guard<Arc<View>>> {
        self.is_direct().then(|| self.view.load())
    }

    fn check_key(&self, tree: TreeId, key: &[u8]) -> Result<(), AppendError> {
        if key.is_empty() {
            return Err(AppendError::EmptyKey);
        }
        if key.len() as u64 > MAX_KEY_BYTES {
            return Err(AppendError::KeyTooLarge { limit: MAX_KEY_BYTES });
        }
        if tree != TreeId::DEFAULT && self.shared.tree_kind(tree.0).is_none() {
            return Err(AppendError::UnknownTree(tree.to_string()));
        }
        Ok(())
    }

    /// Refuses what no log takes.
    pub(super) fn check_single(&self, op: &SingleOp<'_>) -> Result<(), AppendError> {
        self.check_key(op.tree, op.key)?;
        let value_bytes = op.value.map_or(0, <[u8]>::len) as u64;
        let limit = u64::from(self.shared.options.max_value_bytes);
        if value_bytes > limit {
            return Err(AppendError::ValueTooLarge { limit });
        }
        let limit = self.shared.options.max_batch_bytes();
        if value_bytes + op.key.len() as u64 > limit {
            return Err(AppendError::BatchTooLarge { limit });
        }
        Ok(())
    }

    /// Refuses what this log does not take now.
    pub(super) fn check_open(&self, has_put: bool) -> Result<(), AppendError> {
        if self.shared.poison.is_set() {
            return Err(AppendError::Failed);
        }
        if !self.ready.load(Ordering::Acquire) {
            return Err(AppendError::NotReady(self.state()));
        }
        // Deletes go on in what is kept for them, until not even that is left.
        let full = if has_put { &self.shared.puts_refused } else { &self.shared.no_room };
        if full.load(Ordering::Relaxed) {
            return Err(AppendError::DiskFull);
        }
        Ok(())
    }

    fn encode_single(
        &self,
        op: &SingleOp<'_>,
        more: bool,
        view: Option<&Arc<View>>,
        encoded: &mut Encoded,
    ) -> Result<(), AppendError> {
        self.check_single(op)?;
        let hash = self.shared.hash(op.tree.0, op.key);
        if let Some(view) = view {
            // What the put replaces: on its way while the record is encoded and written.
            view.prefetch(hash);
        }
        let draft = op.draft(more);
        let limit = self.shared.options.max_batch_bytes();
        if (encoded.bytes.len() + draft.len()) as u64 > limit {
            return Err(AppendError::BatchTooLarge { limit });
        }
        encoded.push(&draft, hash);
        Ok(())
    }

    /// Encodes a batch; `true` if it creates trees and so has to be encoded under the lock again.
    fn encode(&self, batch: &WriteBatch, view: Option<&Arc<View>>, encoded: &mut Encoded) -> Result<bool, AppendError> {
        if batch.ops.is_empty() {
            return Err(AppendError::EmptyBatch);
        }
        for condition in &batch.conditions {
            self.check_key(condition.tree, &condition.key)?;
        }
        let mut dynamic = false;
        for (i, op) in batch.ops.iter().enumerate() {
            let more = i + 1 < batch.ops.len();
            match op {
                WriteOp::Put { tree, key, value, expires_ms, value_type } => {
                    let op = SingleOp {
                        tree: *tree,
                        key,
                        value: Some(value),
                        expires_ms: *expires_ms,
                        value_type: *value_type,
                    };
                    self.encode_single(&op, more, view, encoded)?;
                }
                WriteOp::Delete { tree, key } => {
                    let op = SingleOp { tree: *tree, key, value: None, expires_ms: None, value_type: 0 };
                    self.encode_single(&op, more, view, encoded)?;
                }
                WriteOp::CreateTree { name, kind } => {
                    let refuse = |reason| AppendError::TreeRefused { name: name.clone(), reason };
                    if self.id != 0 {
                        return Err(refuse("trees are created on shard 0"));
                    }
                    if name.is_empty() || name.len() > 255 {
                        return Err(refuse("a name has 1 to 255 bytes"));
                    }
                    dynamic = true;
                    encoded.push_catalog(&TreeInfo { id: TreeId::DEFAULT, name: name.clone(), kind: *kind }, more);
                }
            }
        }
        let limit = self.shared.options.max_batch_bytes();
        if encoded.bytes.len() as u64 > limit {
            return Err(AppendError::BatchTooLarge { limit });
        }
        Ok(dynamic)
    }

    /// Gives the trees that a batch creates their ids, now that nobody else can.
    fn number_trees(&self, log: &Log, batch: &WriteBatch, encoded: &mut Encoded) -> Result<(), AppendError> {
        let mut known = self.shared.trees.load().as_ref().clone();
        let view = self.view.load();
        let pending = log.overlay.iter().filter(|entry| entry.kind == Kind::Catalog);
        known.extend(
            pending.filter_map(|entry| {
                decode_catalog(&log.unwritten(entry.location).or_else(|| view.peek(entry.location))?)
            }),
        );
        for (record, op) in encoded.records.iter_mut().zip(&batch.ops) {
            let WriteOp::CreateTree { name, kind } = op else { continue };
            let refuse = |reason| AppendError::TreeRefused { name: name.clone(), reason };
            let id = match known.iter().find(|tree| tree.name == *name) {
                Some(tree) if tree.kind == *kind => tree.id,
                Some(_) => return Err(refuse("it exists with another kind")),
                None => {
                    let newest = known.iter().map(|tree| tree.id.0).max().unwrap_or(0);
                    TreeId(newest.checked_add(1).ok_or_else(|| refuse("no tree id is left"))?)
                }
            };
            known.push(TreeInfo { id, name: name.clone(), kind: *kind });
            encoded.bytes[record.start + 18..record.start + 20].copy_from_slice(&id.0.to_le_bytes());
            // The tree id is in the header: the body's checksum stays.
            record.hash = None;
        }
        Ok(())
    }

    fn append_encoded(
        &self,
        epoch: Epoch,
        encoded: &mut Encoded,
        conditions: &[Condition],
        creates: Option<&WriteBatch>,
        view: Option<&Arc<View>>,
    ) -> Result<Appended, AppendError> {
        self.check_open(encoded.has_put)?;
        // Touched before the lock, so that judging under it finds the records in the cache.
        for condition in conditions {
            let hash = self.shared.hash(condition.tree.0, &condition.key);
            let sound = self.find(hash, condition.tree.0, &condition.key, |_, record, _| record.is_sound());
            if sound != Some(true)
                && let Some(what) = self.damaged(hash)
            {
                return Err(AppendError::Damaged(what));
            }
        }
        loop {
            let mut log = self.log.lock();
            if log.open != Some(epoch) {
                return Err(AppendError::NotLeader);
            }
            if let Some((index, judged_at)) = self.judge(&mut log, conditions) {
                log.time.judged(judged_at);
                return Ok(Appended::ConditionFailed { index, judged_at });
            }
            if let Some(batch) = creates {
                self.number_trees(&log, batch, encoded)?;
            }
            if self.over_budget(&log, encoded.bytes.len() as u64) {
                return Err(AppendError::MemoryFull);
            }
            let mut log = match self.make_room(log, encoded.bytes.len() as u64, false) {
                Ok(Room::Here(log)) => log,
                Ok(Room::Again) => continue,
                Err(error) => return Err(no_room(&error)),
            };
            let written = self.put_batch(&mut log, encoded, view);
            if !conditions.is_empty() {
                log.time.judged(written.position.gsn);
            }
            return Ok(written.finish(self, log));
        }
    }

    /// With a view, which need not be the newest, what is put is applied at once.
    fn put_batch(&self, log: &mut Log, encoded: &mut Encoded, view: Option<&Arc<View>>) -> Written {
        log.begin_batch(self.commit(), self.told_time_ms());
        let first_gsn = log.tail.last.gsn + 1;
        let view = view.filter(|_| log.overlay.len() == 0);
        let direct = view.is_some();
        let count = encoded.records.len();
        for (i, record) in encoded.records.iter().enumerate() {
            let bytes = &mut encoded.bytes[record.start..record.start + record.len];
            let crc = stamp(bytes, log.tail.last.gsn + 1, record.body_crc);
            let location = log.put_entry(bytes, crc);
            match view {
                Some(view) => self.apply_record(view, record.kind, record.hash, location, bytes),
                None => {
                    let tail = log.tail;
                    log.overlay.push(record.hash, location, record.kind, i + 1 == count, tail);
                }
            }
        }
        log.end_batch();
        if direct {
            log.applied = log.tail;
            self.take_time(log);
            let gsn = log.tail.last.gsn;
            self.commit_gsn.store(gsn, Ordering::Release);
            self.applied_gsn.store(gsn, Ordering::Release);
        } else {
            self.account(log, encoded.bytes.len() as u64, count as u64);
        }
        self.tail_gsn.store(log.tail.last.gsn, Ordering::Release);
        Written { position: log.tail.last, first_gsn, direct }
    }

    /// The first condition that does not hold, and the gsn whose commit makes that answer true.
    fn judge(&self, log: &mut Log, conditions: &[Condition]) -> Option<(usize, Gsn)> {
        if conditions.is_empty() {
            return None;
        }
        self.take_time(log);
        let (now_ms, shown_with) = (log.time.end_ms(), log.time.shown_with());
        let log = &*log;
        let view = self.view.load();
        for (index, condition) in conditions.iter().enumerate() {
            let (tree, key) = (condition.tree.0, &condition.key[..]);
            let hash = self.shared.hash(tree, key);
            let read = |location| log.unwritten(location).or_else(|| view.peek(location));
            let is_key = |record: &Record<'_>| record.tree() == tree && record.key() == key;
            let live = |record: &Record<'_>| {
                record.kind() == Kind::Put && record.expires_ms().is_none_or(|expires_ms| expires_ms > now_ms)
            };
            let waiting = log.overlay.find(hash, |entry| read(entry.location).is_some_and(|record| is_key(&record)));
            let (found, judged_at) = match waiting {
                Some(entry) => {
                    let present = read(entry.location).is_some_and(|record| live(&record));
                    (present.then_some(entry.tail.last), entry.tail.last.gsn)
                }
                None => {
                    let found = self.find(hash, tree, key, |view, record, _| {
                        live(&record).then(|| LogPosition::new(view.epochs.epoch_at(record.gsn()), record.gsn()))
                    });
                    (found.flatten(), log.applied.last.gsn)
                }
            };
            let holds = match condition.expect {
                Expect::Absent => found.is_none(),
                Expect::Present => found.is_some(),
                Expect::Version(version) => found == Some(version),
            };
            if !holds {
                return Some((index, judged_at.max(shown_with)));
            }
        }
        None
    }

    /// Makes room for a batch in the active segment, for one that `must` be written also with the reserve. May give
    /// the lock up.
    pub(super) fn make_room<'a>(
        &'a self,
        mut log: MutexGuard<'a, Log>,
        bytes: u64,
        must: bool,
    ) -> Result<Room<'a>, EngineError> {
        let written = |mut write: &mut dyn FnMut() -> Result<(), EngineError>| {
            let result = if must { self.shared.with_reserve(&mut write) } else { write() };
            result.inspect_err(|error| {
                if is_full(error) {
                    self.shared.ran_out_of_room();
                } else {
                    self.shared.fail(error);
                }
            })
        };
        if log.relaxed
            && !log.has_room(bytes)
            && !log.spares.is_empty()
            && log.active.as_ref().is_some_and(|active| active.is_listed())
        {
            written(&mut || self.zero_for_seal(&log))?;
            let spare = log.spares.pop_front().expect("there is one");
            self.spares.store(log.spares.len(), Ordering::Relaxed);
            let slot = self.take_slot(&mut log);
            let segment = log.rotate_into(spare, slot);
            self.view.rcu(|view| view.with_segment(segment.clone()));
        }
        if log.relaxed && !(log.has_room(bytes) && log.active.as_ref().is_some_and(|active| active.is_listed())) {
            drop(log);
            written(&mut || self.rotate_file(bytes))?;
            return Ok(Room::Again);
        }
        if !log.has_room(bytes) {
            let slot = self.take_slot(&mut log);
            let segment = log.rotate(slot);
            self.view.rcu(|view| view.with_segment(segment.clone()));
        }
        if log.relaxed
            && let Some(active) = &log.active
        {
            let options = &self.shared.options;
            let need = log.offset + bytes + super::format::notes::MARK_BYTES as u64;
            // No more than it takes: everybody waits. To zero ahead is another thread's.
            written(&mut || active.zero_to(need, 0, options.segment_bytes))?;
        }
        Ok(Room::Here(log))
    }

    /// Whether so many more bytes would pass the memory budget, after dropping what followers can read from
    /// files.
    fn over_budget(&self, log: &Log, bytes: u64) -> bool {
        let budget = self.shared.options.memory_budget_bytes;
        let used = self.shared.memory_bytes.load(Ordering::Relaxed);
        if used + bytes <= budget {
            return false;
        }
        // What the ring could give back does not count.
        let reclaimable: u64 = log
            .ring
            .iter()
            .take_while(|chunk| chunk.last.last.gsn <= log.written.last.gsn)
            .map(|chunk| chunk.bytes.len() as u64)
            .sum();
        used - reclaimable.min(used) + bytes > budget
    }

    /// Counts what an append put into memory and gives back what the budget wants.
    fn account(&self, log: &Log, bytes: u64, entries: u64) {
        let buffered = if log.buffered { bytes } else { 0 };
        self.shared.memory_bytes.fetch_add(buffered + entries * ENTRY_BYTES, Ordering::Relaxed);
    }

    /// Drops written chunks while the member is over its budget (or keeps no tail at all).
    pub(crate) fn trim_memory(&self, log: &mut Log) {
        let keeps = self.shared.keeps_tail();
        let used = self.shared.memory_bytes.load(Ordering::Relaxed);
        // Room for what comes next, so that appends need not wait for the trimming.
        let goal = self.shared.options.memory_budget_bytes / 4 * 3;
        let freed = log.trim_ring(|freed| !keeps || used.saturating_sub(freed) > goal);
        self.shared.memory_bytes.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Makes the epochs of the log those that versions are told by.
    pub(crate) fn publish_epochs(&self, log: &Log) {
        self.view.rcu(|view| View { epochs: log.epochs.clone(), ..view.as_ref().clone() });
    }

    /// After the lock: tells scheduler and listener.
    pub(super) fn appended(&self, tail: Gsn) {
        self.shared.mark_dirty();
        self.shared.tell(|listener| {
            listener.appended(self.id, tail);
            if self.shared.relaxed() {
                listener.durable(self.id, tail);
            }
        });
    }

    /// Appends another member's records.
    pub fn append_chunk(&self, chunk: &LogChunk) -> Result<LogTail, ChunkError> {
        if self.shared.poison.is_set() {
            return Err(ChunkError::Failed);
        }
        if !self.ready.load(Ordering::Acquire) {
            // An amnesic shard catches up; a syncing one is filled from the start of a log, or after a full copy.
            match self.state() {
                ShardState::Ready | ShardState::Damaged { .. } | ShardState::Amnesic => {}
                ShardState::Syncing if !self.staging.load(Ordering::Acquire) => {
                    self.drop_unusable().map_err(|_| ChunkError::Failed)?;
                }
                other => return Err(ChunkError::NotReady(other)),
            }
        }
        let batches = self.check_chunk(chunk)?;
        let log = self.log.lock();
        let tail = log.tail;
        if let Some(epoch) = log.open {
            return Err(ChunkError::Leading(epoch));
        }
        if self.staging.load(Ordering::Acquire) {
            return Err(ChunkError::NotReady(ShardState::Syncing));
        }
        if chunk.prev != tail {
            let same = chunk.prev.last == tail.last;
            return Err(if same { ChunkError::Diverged { tail } } else { ChunkError::Gap { tail } });
        }
        if self.over_budget(&log, chunk.bytes.len() as u64) {
            return Err(ChunkError::MemoryFull);
        }
        if self.shared.no_room.load(Ordering::Acquire) && batches.first().is_none_or(|first| first.opens.is_none()) {
            return Err(ChunkError::DiskFull);
        }
        let (mut log, taken) = match self.put_batches(log, chunk, &batches) {
            Ok(log) => (log, Ok(())),
            // What came before the batch that found no room is in the log.
            Err(error) => (self.log.lock(), Err(error)),
        };
        self.trim_memory(&mut log);
        let tail = log.tail;
        self.tail_gsn.store(tail.last.gsn, Ordering::Release);
        drop(log);
        self.appended(tail.last.gsn);
        taken.map(|()| tail)
    }

    /// Puts a chunk's batches at the log's end, one by one.
    fn put_batches<'a>(
        &'a self,
        mut log: MutexGuard<'a, Log>,
        chunk: &LogChunk,
        batches: &[ChunkBatch],
    ) -> Result<MutexGuard<'a, Log>, ChunkError> {
        let mut at = 0;
        let mut batches = batches.iter().peekable();
        while let Some(batch) = batches.peek() {
            let before = log.tail;
            let bytes = &chunk.bytes[at..at + batch.bytes];
            log = match self.make_room(log, bytes.len() as u64, batch.opens.is_some()) {
                Ok(Room::Here(log)) => log,
                Ok(Room::Again) => {
                    log = self.log.lock();
                    if log.tail != before || log.open.is_some() {
                        return Err(ChunkError::Gap { tail: log.tail });
                    }
                    continue;
                }
                Err(error) if is_full(&error) => return Err(ChunkError::DiskFull),
                Err(_) => return Err(ChunkError::Failed),
            };
            if let Some(epoch) = batch.opens {
                log.enter_epoch(epoch);
                self.publish_epochs(&log);
                // Places beyond this end were in another history.
                let end = log.tail.last.gsn;
                log.time.cut(end, self.committed_time_ms());
            }
            log.begin_batch(self.commit(), self.told_time_ms());
            let mut offset = 0;
            while let Some(record) = bytes.get(offset..).and_then(Record::peek) {
                let hash = matches!(record.kind(), Kind::Put | Kind::Delete)
                    .then(|| self.shared.hash(record.tree(), record.key()));
                let location = log.put_entry(record.bytes(), record.crc());
                let tail = log.tail;
                log.overlay.push(hash, location, record.kind(), !record.more(), tail);
                offset += record.len();
            }
            log.end_batch();
            self.account(&log, bytes.len() as u64, log.tail.last.gsn - before.last.gsn);
            at += batch.bytes;
            batches.next();
        }
        Ok(log)
    }

    /// Checks everything about a chunk that does not depend on the own log, and finds its batches.
    fn check_chunk(&self, chunk: &LogChunk) -> Result<Vec<ChunkBatch>, ChunkError> {
        let corrupt = |what: String| ChunkError::Corrupt(what);
        // It is another member's word: also that there are gsns for all of it.
        let follows = chunk.prev.last.gsn.checked_add(1) == Some(chunk.first_gsn)
            && chunk.first_gsn.checked_add(chunk.bytes.len() as u64).is_some();
        if chunk.shard != self.id || !follows || chunk.bytes.is_empty() {
            return Err(corrupt(format!("it claims shard {} from {}", chunk.shard, chunk.first_gsn)));
        }
        let mut batches = Vec::new();
        let (mut at, mut batch_start) = (0, 0);
        let (mut gsn, mut chain, mut opens) = (chunk.first_gsn, chunk.prev.chain, None);
        let mut open_batch = false;
        while at < chunk.bytes.len() {
            let record = match Record::parse(&chunk.bytes[at..]) {
                Parsed::Record(record) if record.kind().is_entry() => record,
                Parsed::Invalid(why) => return Err(corrupt(format!("gsn {gsn}: {why}"))),
                _ => return Err(corrupt(format!("gsn {gsn}: no entry"))),
            };
            if record.gsn() != gsn {
                return Err(corrupt(format!("gsn {} where {gsn} is due", record.gsn())));
            }
            if record.kind() == Kind::Barrier {
                let barrier = Barrier::decode(&record).map_err(|e| corrupt(e.to_string()))?;
                if at != 0 || barrier.epoch != chunk.epoch || chunk.prev.last.epoch >= chunk.epoch || record.more() {
                    return Err(corrupt(format!("a barrier of epoch {} at {gsn}", barrier.epoch)));
                }
                opens = Some(barrier.epoch);
            } else if at == 0 && chunk.prev.last.epoch != chunk.epoch {
                return Err(corrupt(format!("epoch {} does not begin with its barrier", chunk.epoch)));
            }
            at += record.len();
            chain = chain_of(chain, record.crc());
            gsn += 1;
            open_batch = record.more();
            if !open_batch {
                batches.push(ChunkBatch { bytes: at - batch_start, opens: opens.take() });
                batch_start = at;
            }
            if (at - batch_start) as u64 > self.shared.options.max_batch_bytes() {
                return Err(corrupt(format!("a batch above {} bytes", self.shared.options.max_batch_bytes())));
            }
        }
        let last = LogTail { last: LogPosition { epoch: chunk.epoch, gsn: gsn - 1 }, chain };
        if open_batch {
            return Err(corrupt("it ends inside a batch".into()));
        }
        if last != chunk.last {
            return Err(corrupt(format!("it ends at {last:?} and claims {:?}", chunk.last)));
        }
        Ok(batches)
    }
}

/// What an append answers that finds no room.
pub(super) fn no_room(error: &EngineError) -> AppendError {
    if is_full(error) { AppendError::DiskFull } else { AppendError::Failed }
}

struct ChunkBatch {
    bytes: usize,
    opens: Option<Epoch>,
}

/// A batch that is in the log.
struct Written {
    position: LogPosition,
    first_gsn: Gsn,
    direct: bool,
}

impl Written {
    fn finish(self, shard: &Shard, mut log: MutexGuard<'_, Log>) -> Appended {
        if log.buffered && shard.shared.memory_bytes.load(Ordering::Relaxed) > shard.shared.options.memory_budget_bytes
        {
            shard.trim_memory(&mut log);
        }
        drop(log);
        shard.appended(self.position.gsn);
        if shard.shared.auto_commit && shard.shared.relaxed() && !self.direct {
            shard.advance_commit(self.position.gsn);
        }
        Appended::Written { position: self.position, first_gsn: self.first_gsn }
    }
}
