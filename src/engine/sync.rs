//! Sync rounds: what was appended reaches its file, then the disk. One scheduler a directory runs them.
//!
//! While one round's fdatasync runs, the next batch gathers. A round writes everything that was appended up
//! to its start, syncs, and only then moves the durable mark, wakes waiters and (embedded) commits. A full
//! disk leaves the pieces queued for the next round; any other error ends the engine's life.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::error::EngineError;
use super::format::manifest::{FileEntry, Manifest};
use super::log::{Log, Piece};
use super::segment::Segment;
use super::shard::Shard;
use super::shared::{Shared, is_full};
use crate::position::{Gsn, LogTail};

/// How often `Os` syncs in the background.
const RELAXED_PERIOD: Duration = Duration::from_millis(50);
/// A shard that was idle for so long gets a closing MARK.
const IDLE: Duration = Duration::from_secs(1);
/// How often the scheduler looks around unasked.
const LOOK: Duration = Duration::from_millis(250);
/// Rounds that carried more appends than this come from few writers with much: nobody waits for their like.
const GATHER_APPENDS: u64 = 1024;
/// The part of the last round's time that the next may be put off by.
const GATHER_PART: u32 = 8;
/// Buffers handed to one write.
const GATHER: usize = 512;

/// One shard's part of a round between write and sync.
struct Round<'a> {
    shard: &'a Shard,
    _io: MutexGuard<'a, ()>,
    target: LogTail,
    dirty: Vec<Arc<Segment>>,
}

/// Rounds until everything that is applied is durable here.
///
/// # Errors
/// [`EngineError::DiskFull`] if there is no room for the log's end; a failed engine.
pub(crate) fn until_applied(shard: &Arc<Shard>) -> Result<(), EngineError> {
    let target = shard.applied();
    while shard.synced() < target {
        round(&shard.shared, std::slice::from_ref(shard))?;
        if shard.synced() < target && shard.shared.no_room.load(Ordering::Acquire) {
            return Err(EngineError::DiskFull("the log's end could not be written, and this rests on it".into()));
        }
    }
    Ok(())
}

/// What a round over the shards came to.
pub(crate) struct Rounded {
    /// There was something to do.
    pub(crate) worked: bool,
    /// What could not be written for lack of room waits to be tried again.
    starved: bool,
}

/// One round over the shards.
pub(crate) fn round(shared: &Shared, shards: &[Arc<Shard>]) -> Result<Rounded, EngineError> {
    shared.poison.check()?;
    let (mut rounds, mut starved) = (Vec::new(), false);
    for shard in shards {
        let begun = match shard.begin_round() {
            // Leadership hangs on it: what was queued before the barrier is written with it.
            Err(error) if is_full(&error) && shard.barrier_waits() && shared.spend_reserve() => shard.begin_round(),
            other => other,
        };
        match begun {
            Ok(round) => rounds.extend(round),
            Err(error) if is_full(&error) => {
                starved = true;
                if shared.ran_out_of_room() {
                    tracing::warn!(%error, shard = shard.id, "no room for the log: what is queued waits, no write is taken");
                }
            }
            Err(error) => {
                shared.fail(&error);
                return Err(error);
            }
        }
    }
    let worked = !rounds.is_empty();
    for round in rounds {
        shared.failing(round.finish())?;
    }
    Ok(Rounded { worked, starved })
}

/// What the next round is likely to be like.
#[derive(Default)]
struct LastRound {
    /// Counted up to its start.
    until: u64,
    appends: u64,
    took: Duration,
}

impl LastRound {
    /// Waits a little for the writers that the last round woke: they are about to write again, and a round that starts
    /// with the first of them makes all others wait for the one after it. One writer waits for nobody.
    fn gather(&self, shared: &Shared, stop: impl Fn() -> bool) {
        if !(2..=GATHER_APPENDS).contains(&self.appends) {
            return;
        }
        let wanted = self.until + self.appends;
        shared.wanted_appends.store(wanted, Ordering::SeqCst);
        let enough = || shared.appends.load(Ordering::SeqCst) >= wanted || stop();
        shared.work.wait(Some(self.took / GATHER_PART), enough);
    }
}

/// The scheduler's thread, until the engine stops.
pub(crate) fn run(shared: &Shared, shards: &[Arc<Shard>]) {
    let mut last_work = Instant::now();
    let mut last_look = Instant::now();
    let mut last_round = LastRound::default();
    let stop = || shared.stopping.load(Ordering::Acquire) || shared.poison.is_set();
    while !stop() {
        if shared.relaxed() {
            shared.work.wait(Some(RELAXED_PERIOD), stop);
        } else {
            shared.work.wait(Some(LOOK), || shared.dirty.load(Ordering::Acquire) || stop());
        }
        if stop() {
            break;
        }
        if shared.dirty.swap(false, Ordering::AcqRel) {
            last_round.gather(shared, stop);
            last_work = Instant::now();
            let until = shared.appends.load(Ordering::SeqCst);
            let Ok(done) = round(shared, shards) else { break };
            last_round = LastRound { until, appends: until - last_round.until, took: last_work.elapsed() };
            // Somebody may have found room since, or believe so: what could not be written waits all the same.
            let lacks_room = || shared.no_room.load(Ordering::Acquire);
            if done.starved || shards.iter().any(|shard| shard.log.lock().has_unwritten()) && lacks_room() {
                // The disk is full: what is queued is tried again, without spinning.
                shared.dirty.store(true, Ordering::Release);
                std::thread::sleep(RELAXED_PERIOD);
            }
        } else if last_work.elapsed() >= IDLE {
            let marked = shards.iter().filter(|shard| shard.close_batch()).count();
            if marked > 0 && round(shared, shards).is_err() {
                break;
            }
        }
        if last_look.elapsed() >= LOOK {
            last_look = Instant::now();
            if let Err(error) = shared.refresh_space() {
                tracing::warn!(%error, "the room on the disk is not known");
            }
        }
    }
}

/// Where a shard's log ended when it was looked at last.
#[derive(Default)]
struct Seen {
    active: Option<Arc<Segment>>,
    tail_gsn: Gsn,
    offset: u64,
}

impl Seen {
    /// The segment that is appended to, and how far. The log's lock is taken only where another segment is: who holds it
    /// for a moment, and loses the processor then, holds up every writer.
    fn active(&mut self, shard: &Shard) -> Option<(&Arc<Segment>, u64)> {
        let tail_gsn = shard.tail_gsn();
        let offset = self.active.as_ref().map_or(0, |active| active.written());
        if self.active.is_none() || (tail_gsn != self.tail_gsn && offset == self.offset) {
            self.active = shard.log.lock().active.clone().filter(|active| active.is_listed());
        }
        let active = self.active.as_ref()?;
        (self.tail_gsn, self.offset) = (tail_gsn, active.written());
        Some((active, self.offset))
    }
}

/// Keeps zeros ahead of mapped appends, so that no append has to wait for them.
pub(crate) fn run_ahead(shared: &Shared, shards: &[Arc<Shard>]) {
    let stop = || shared.stopping.load(Ordering::Acquire) || shared.poison.is_set();
    let options = &shared.options;
    let mut seen: Vec<Seen> = shards.iter().map(|_| Seen::default()).collect();
    while !stop() {
        let mut worked = false;
        for (shard, seen) in shards.iter().zip(&mut seen) {
            let Some((active, offset)) = seen.active(shard) else { continue };
            if shard.wants_spares(offset) {
                shared.spares.wake_all();
            }
            // Far enough for the file system to pause, which it does when its journal commits.
            let wanted = (offset + 2 * options.zero_ahead_bytes).min(options.segment_bytes);
            if active.zeroed() < wanted {
                worked = true;
                // An error here is met again, and answered, by the append that needs the room.
                if active.zero_to(wanted, 0, options.segment_bytes).is_err() {
                    worked = false;
                }
            }
        }
        if !worked {
            shared.work.wait(Some(Duration::from_millis(2)), stop);
        }
    }
}

impl Shard {
    /// Whether the newest epoch's BARRIER is not durable yet.
    fn barrier_waits(&self) -> bool {
        let log = self.log.lock();
        log.epochs.starts().last().is_some_and(|start| start.gsn > log.synced.last.gsn)
    }

    /// Writes what was appended; `None` if there is nothing to sync.
    fn begin_round(&self) -> Result<Option<Round<'_>>, EngineError> {
        let io = self.io.lock();
        let (pieces, target) = {
            let mut log = self.log.lock();
            log.freeze();
            let target = log.tail;
            if log.relaxed {
                let mut dirty = std::mem::take(&mut log.unsynced);
                if target == log.synced && dirty.is_empty() {
                    return Ok(None);
                }
                log.need_mark = true;
                dirty.extend(log.active.clone().filter(|active| active.is_open()));
                return Ok(Some(Round { shard: self, _io: io, target, dirty }));
            }
            let queued = std::mem::take(&mut log.queue);
            log.in_flight.extend(queued);
            if log.in_flight.is_empty() {
                return Ok(None);
            }
            log.need_mark = true;
            (log.in_flight.clone(), target)
        };
        let mut dirty: Vec<Arc<Segment>> = Vec::new();
        let mut rest = pieces.as_slice();
        while let Some(first) = rest.first() {
            let segment = &first.segment;
            let len = rest.iter().take(GATHER).take_while(|p| Arc::ptr_eq(&p.segment, segment)).count();
            let (now, later) = rest.split_at(len);
            if dirty.last().is_some_and(|last| !Arc::ptr_eq(last, segment)) {
                // What follows in the next segment is acknowledged only on top of a durable SEAL.
                for segment in dirty.drain(..) {
                    segment.sync()?;
                    segment.synced.store(true, Ordering::Release);
                }
            }
            if !segment.is_listed() {
                self.open_segment(segment, segment.header.before())?;
            }
            self.write_pieces(segment, now)?;
            if dirty.is_empty() {
                dirty.push(segment.clone());
            }
            self.log.lock().in_flight.drain(..len);
            rest = later;
        }
        let mut log = self.log.lock();
        log.written = target;
        self.trim_memory(&mut log);
        drop(log);
        Ok(Some(Round { shard: self, _io: io, target, dirty }))
    }

    fn write_pieces(&self, segment: &Segment, pieces: &[Piece]) -> Result<(), EngineError> {
        let options = &self.shared.options;
        let len: u64 = pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
        let offset = pieces[0].offset;
        segment.zero_to(offset + len, options.zero_ahead_bytes, options.segment_bytes)?;
        let bufs: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(&piece.bytes)).collect();
        segment.write(&bufs, offset, len)
    }

    /// Gives a planned segment its file and its place in the manifest.
    pub(crate) fn open_segment(&self, segment: &Segment, mark: LogTail) -> Result<(), EngineError> {
        let mut files = self.files.lock();
        self.list_segment(&mut files, segment, mark)
    }

    fn list_segment(
        &self,
        files: &mut super::files::Files,
        segment: &Segment,
        mark: LogTail,
    ) -> Result<(), EngineError> {
        let (shared, options) = (&self.shared, &self.shared.options);
        if !segment.is_open() {
            let ahead = options.zero_ahead_bytes;
            segment.create(&shared.disk, &self.dir, options.segment_bytes, ahead, shared.relaxed())?;
        }
        let segments = self.log_segments();
        files.switch(shared, &self.dir, |manifest| {
            self.refresh(manifest, &segments, mark);
            manifest.next_file_id = manifest.next_file_id.max(segment.id() + 1);
            manifest.add_log_file(FileEntry::active(segment.id(), segment.header.before()));
        })?;
        segment.listed.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes into a manifest what is known today: positions, ends of segments, trees.
    pub(crate) fn refresh(&self, manifest: &mut Manifest, segments: &[Arc<Segment>], mark: LogTail) {
        if mark.last.gsn >= manifest.mark.last.gsn {
            manifest.mark = mark;
        }
        manifest.commit = manifest.commit.max(self.commit().min(mark.last.gsn));
        manifest.committed_time_ms = manifest.committed_time_ms.max(self.told_time_ms());
        manifest.log_floor = manifest.log_floor.max(1);
        if self.id == 0 {
            manifest.trees = self.shared.trees.load().as_ref().clone();
        }
        for file in manifest.files.iter_mut().filter(|file| file.prepared) {
            if let Some(segment) = segments.iter().find(|segment| segment.id() == file.id) {
                *file = FileEntry::active(file.id, segment.header.before());
            }
        }
        for file in manifest.files.iter_mut().filter(|file| file.end.is_none()) {
            file.end = segments
                .iter()
                .find(|s| s.id() == file.id && s.synced.load(Ordering::Acquire))
                .and_then(|segment| segment.end());
        }
        // Looked at after the ends: the epochs of a file that has ended are all known.
        let view = self.view.load();
        manifest.epochs = view.epochs.clone();
        let dir = &self.dir;
        let exists = |id: u32| self.shared.disk.exists(&dir.join(Segment::file_name(id))).unwrap_or(true);
        let planned = |id: u32| view.segments.iter().flatten().any(|s| s.id() == id && !s.is_listed());
        manifest.drops.retain(|id| planned(*id) || exists(*id));
    }

    /// `Os`: ends the active segment, if it has no room, and opens the next.
    pub(crate) fn rotate_file(&self, bytes: u64) -> Result<(), EngineError> {
        let mut files = self.files.lock();
        let mut log = self.log.lock();
        let active = log.active.clone().filter(|active| !active.is_listed());
        let segment = match active {
            // An earlier attempt found no room on the disk.
            Some(planned) => planned,
            None if log.has_room(bytes) || !log.spares.is_empty() => return Ok(()),
            None => {
                self.zero_for_seal(&log)?;
                let slot = self.take_slot(&mut log);
                let segment = log.rotate(slot);
                self.view.rcu(|view| view.with_segment(segment.clone()));
                segment
            }
        };
        self.list_segment(&mut files, &segment, log.synced)
    }

    /// Under `Os` the SEAL of the segment that ends is stored in its file, which may have been cut to its last record,
    /// or not have found room for more.
    pub(super) fn zero_for_seal(&self, log: &Log) -> Result<(), EngineError> {
        match &log.active {
            Some(active) if log.relaxed => {
                let need = log.offset + super::format::notes::SEAL_BYTES as u64;
                active.zero_to(need, 0, self.shared.options.segment_bytes)
            }
            _ => Ok(()),
        }
    }

    /// Puts a closing MARK if entries were synced that none vouches for; whether it did.
    pub(crate) fn close_batch(&self) -> bool {
        let mut log = self.log.lock();
        if !log.mark_due || !log.active.as_ref().is_some_and(|active| active.is_listed()) {
            return false;
        }
        if !log.has_room(0) {
            log.mark_due = false;
            return false;
        }
        if log.relaxed
            && let Some(active) = &log.active
        {
            let need = log.offset + super::format::notes::MARK_BYTES as u64;
            let options = &self.shared.options;
            if active.zero_to(need, options.zero_ahead_bytes, options.segment_bytes).is_err() {
                return false;
            }
        }
        let (commit, time_ms) = (self.commit(), self.told_time_ms());
        log.put_mark(commit, time_ms);
        if log.relaxed {
            // The mark itself has to be synced although no entry has.
            let active = log.active.clone();
            log.unsynced.extend(active);
        }
        true
    }
}

impl Round<'_> {
    fn finish(self) -> Result<(), EngineError> {
        let shard = self.shard;
        for segment in &self.dirty {
            // Its end is looked at first: what is appended meanwhile is not covered.
            let written = segment.written();
            let ended = segment.end().is_some_and(|end| end.len == written);
            if shard.shared.relaxed() {
                segment.sync_stored(written)?;
            } else {
                segment.sync()?;
            }
            if ended {
                segment.synced.store(true, Ordering::Release);
            }
        }
        {
            let mut log = shard.log.lock();
            log.mark_due |= self.target.last.gsn > log.synced.last.gsn;
            log.synced = self.target;
            shard.synced_gsn.store(self.target.last.gsn, Ordering::Release);
        }
        drop(self._io);
        let gsn = self.target.last.gsn;
        let woken = if shard.shared.auto_commit { shard.commit_and_apply(gsn) } else { shard.apply_committed() };
        if !woken {
            shard.shared.progress.wake_all();
        }
        if !shard.shared.relaxed() {
            shard.shared.tell(|listener| listener.durable(shard.id, gsn));
        }
        Ok(())
    }
}
