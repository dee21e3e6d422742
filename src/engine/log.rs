//! What a shard's lock protects: the log's end, what is buffered, the overlay, the in-memory tail.
//!
//! Nothing here does I/O except storing through the writable mapping under `Os`. Under `Disk` records gather
//! in `buf`, which is frozen into *pieces* for the scheduler (contiguous in the file, notes included) and
//! *chunks* for followers (entries of one epoch); both share the same bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::format::manifest::FileEnd;
use super::format::notes::{MARK_BYTES, Mark, SEAL_BYTES, Seal};
use super::format::record::{Draft, Record, chain};
use super::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::index::{Location, MAX_SEGMENTS};
use super::log_time::LogTime;
use super::overlay::{ENTRY_BYTES, Overlay};
use super::segment::Segment;
use super::spare::Spare;
use crate::position::{Epoch, EpochTable, Gsn, LogPosition, LogTail};

/// A chunk of the tail is closed at this size.
const CHUNK_BYTES: usize = 256 << 10;

/// Bytes that are to be written to a place.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
}

/// Entries of one epoch, for followers.
#[derive(Debug, Clone)]
pub(crate) struct TailChunk {
    pub(crate) prev: LogTail,
    pub(crate) last: LogTail,
    pub(crate) bytes: Bytes,
}

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) shard: u16,
    /// Appends go through the mapping at once.
    pub(crate) relaxed: bool,
    /// Whether appended bytes are kept in memory at all.
    pub(crate) buffered: bool,
    pub(crate) segment_bytes: u64,
    pub(crate) cluster_id: u128,

    pub(crate) tail: LogTail,
    /// The epoch of the next entry.
    pub(crate) epoch: Epoch,
    pub(crate) epochs: EpochTable,
    /// The epoch this member leads.
    pub(crate) open: Option<Epoch>,
    pub(crate) active: Option<Arc<Segment>>,
    pub(crate) offset: u64,

    buf: BytesMut,
    buf_offset: u64,
    buf_prev: LogTail,
    pub(crate) queue: Vec<Piece>,
    /// Taken by the scheduler, not yet written.
    pub(crate) in_flight: Vec<Piece>,
    pub(crate) ring: VecDeque<TailChunk>,

    pub(crate) overlay: Overlay,
    pub(crate) time: LogTime,
    /// Whether the next append begins a group-commit batch, with a MARK at its head.
    pub(crate) need_mark: bool,
    /// Whether entries were synced that no MARK vouches for.
    pub(crate) mark_due: bool,
    pub(crate) written: LogTail,
    pub(crate) synced: LogTail,
    pub(crate) applied: LogTail,
    /// Segments that were left behind un-synced (`Os`).
    pub(crate) unsynced: Vec<Arc<Segment>>,
    /// Files that are ready for the next segments (`Os`).
    pub(crate) spares: VecDeque<Spare>,
    pub(crate) next_file_id: u32,
    pub(crate) next_slot: u32,
    /// Counts truncations: what was read from the log before may be another history.
    pub(crate) generation: u64,
}

impl Log {
    pub(crate) fn new(shard: u16, relaxed: bool, buffered: bool, segment_bytes: u64, cluster_id: u128) -> Self {
        Self {
            shard,
            relaxed,
            buffered,
            segment_bytes,
            cluster_id,
            tail: LogTail::default(),
            epoch: 0,
            epochs: EpochTable::new(),
            open: None,
            active: None,
            offset: 0,
            buf: BytesMut::new(),
            buf_offset: 0,
            buf_prev: LogTail::default(),
            queue: Vec::new(),
            in_flight: Vec::new(),
            ring: VecDeque::new(),
            overlay: Overlay::default(),
            time: LogTime::default(),
            need_mark: true,
            mark_due: false,
            written: LogTail::default(),
            synced: LogTail::default(),
            applied: LogTail::default(),
            unsynced: Vec::new(),
            spares: VecDeque::new(),
            next_file_id: 1,
            next_slot: 0,
            generation: 0,
        }
    }

    /// Whether a batch of so many bytes fits the active segment, with a MARK before and a SEAL after it.
    pub(crate) fn has_room(&self, batch_bytes: u64) -> bool {
        let around = (MARK_BYTES + SEAL_BYTES) as u64;
        self.active.is_some() && self.offset + batch_bytes + around <= self.segment_bytes
    }

    /// Ends the active segment, if there is one, and makes the next one active. The caller publishes it in the
    /// view; under `Os` it has to make its file before anything is appended. `slot` is free.
    pub(crate) fn rotate(&mut self, slot: u32) -> Arc<Segment> {
        let file_id = self.next_file_id;
        self.next_file_id += 1;
        self.go_on(file_id, |header| Segment::planned(slot, header))
    }

    /// As [`Self::rotate`], into the file that is ready for it.
    pub(crate) fn rotate_into(&mut self, spare: Spare, slot: u32) -> Arc<Segment> {
        self.go_on(spare.id, |header| Segment::begin(slot, header, spare))
    }

    fn go_on(&mut self, file_id: u32, segment: impl FnOnce(SegmentHeader) -> Segment) -> Arc<Segment> {
        if let Some(active) = self.active.take() {
            let mut seal = Vec::with_capacity(SEAL_BYTES);
            Seal { file_id: active.id(), offset: self.offset, last: self.tail }.encode(&mut seal);
            self.active = Some(active.clone());
            self.put_note(&seal);
            active.set_end(FileEnd { len: self.offset, last: self.tail });
            self.freeze();
            if self.relaxed {
                self.unsynced.push(active);
            }
        }
        let header = SegmentHeader {
            shard: self.shard,
            compacted: false,
            cluster_id: self.cluster_id,
            file_id,
            base_gsn: self.tail.last.gsn + 1,
            epoch: self.tail.last.epoch,
            chain: self.tail.chain,
        };
        let segment = Arc::new(segment(header));
        self.active = Some(segment.clone());
        self.offset = SEGMENT_HEADER_BYTES;
        segment
    }

    /// The next place in the segment table, which may be taken.
    pub(crate) fn take_slot(&mut self) -> u32 {
        let slot = self.next_slot;
        self.next_slot = (slot + 1) % MAX_SEGMENTS;
        slot
    }

    fn active(&self) -> &Arc<Segment> {
        self.active.as_ref().expect("room was made in a segment before anything is put there")
    }

    /// Begins a group-commit batch if one is due.
    pub(crate) fn begin_batch(&mut self, commit: Gsn, committed_time_ms: u64) {
        if !self.need_mark {
            return;
        }
        self.need_mark = false;
        self.put_mark(commit, committed_time_ms);
    }

    /// Puts a MARK for what is synced.
    pub(crate) fn put_mark(&mut self, commit: Gsn, committed_time_ms: u64) {
        let mark = Mark {
            file_id: self.active().id(),
            offset: self.offset,
            durable: self.synced,
            commit: commit.min(self.synced.last.gsn),
            committed_time_ms,
        };
        let mut bytes = Vec::with_capacity(MARK_BYTES);
        mark.encode(&mut bytes);
        self.mark_due = false;
        self.put_note(&bytes);
    }

    /// Puts a node-local record.
    fn put_note(&mut self, bytes: &[u8]) {
        if self.relaxed {
            self.active().store(bytes, self.offset);
            self.freeze();
        } else {
            self.freeze();
            let piece =
                Piece { segment: self.active().clone(), offset: self.offset, bytes: Bytes::copy_from_slice(bytes) };
            self.queue.push(piece);
        }
        self.offset += bytes.len() as u64;
    }

    /// Puts an entry and returns its place. Room was made before.
    pub(crate) fn put_entry(&mut self, bytes: &[u8], crc: u32) -> Location {
        let location = Location::at(self.active().slot, self.offset);
        if self.relaxed {
            self.active().store(bytes, self.offset);
        }
        if self.buffered {
            if self.buf.is_empty() {
                self.buf_offset = self.offset;
                self.buf_prev = self.tail;
            }
            self.buf.extend_from_slice(bytes);
        }
        self.advance(bytes.len(), crc);
        location
    }

    /// Puts an entry under `Os`, where nothing is buffered: it is written to its place and nowhere else.
    pub(crate) fn put_direct(&mut self, draft: &Draft<'_>, body_crc: u32) -> Location {
        debug_assert!(self.relaxed && !self.buffered, "what is buffered has to be so in order");
        let active = self.active();
        let location = Location::at(active.slot, self.offset);
        let (gsn, len) = (self.tail.last.gsn + 1, draft.len());
        let crc = active.store_with(self.offset, len, |to| draft.write(to, gsn, body_crc));
        self.advance(len, crc);
        location
    }

    /// The log goes on behind an entry of so many bytes.
    fn advance(&mut self, bytes: usize, crc: u32) {
        self.offset += bytes as u64;
        self.tail.last = LogPosition { epoch: self.epoch, gsn: self.tail.last.gsn + 1 };
        self.tail.chain = chain(self.tail.chain, crc);
        if self.relaxed {
            self.written = self.tail;
        }
    }

    /// To be called after each whole batch.
    pub(crate) fn end_batch(&mut self) {
        if self.buf.len() >= CHUNK_BYTES {
            self.freeze();
        }
    }

    /// Opens an epoch: the next entry is its BARRIER.
    pub(crate) fn enter_epoch(&mut self, epoch: Epoch) {
        self.freeze();
        self.epoch = epoch;
        self.epochs.open(epoch, self.tail.last.gsn + 1);
    }

    /// Closes the buffer: what is in it becomes a piece and a chunk.
    pub(crate) fn freeze(&mut self) {
        if self.buf.is_empty() {
            return;
        }
        let bytes = self.buf.split().freeze();
        if !self.relaxed {
            self.queue.push(Piece { segment: self.active().clone(), offset: self.buf_offset, bytes: bytes.clone() });
        }
        self.ring.push_back(TailChunk { prev: self.buf_prev, last: self.tail, bytes });
    }

    /// The record at a location that may not have been written yet.
    pub(crate) fn unwritten(&self, location: Location) -> Option<Record<'_>> {
        let at = location.offset_bytes();
        let within = |piece: &&Piece| {
            piece.segment.slot == location.segment && piece.offset <= at && at < piece.offset + piece.bytes.len() as u64
        };
        if let Some(active) = &self.active
            && active.slot == location.segment
            && !self.buf.is_empty()
            && at >= self.buf_offset
        {
            return Record::peek(self.buf.get((at - self.buf_offset) as usize..)?);
        }
        let piece = self.queue.iter().rev().find(within).or_else(|| self.in_flight.iter().rev().find(within))?;
        Record::peek(&piece.bytes[(at - piece.offset) as usize..])
    }

    /// Whether anything waits to be written.
    pub(crate) fn has_unwritten(&self) -> bool {
        let all_written = self.buf.is_empty() && self.queue.is_empty() && self.in_flight.is_empty();
        !self.relaxed && !all_written
    }

    /// Drops chunks that are written, oldest first, while `over` says so; returns the bytes freed.
    pub(crate) fn trim_ring(&mut self, mut over: impl FnMut(u64) -> bool) -> u64 {
        let mut freed = 0;
        while let Some(chunk) = self.ring.front() {
            if chunk.last.last.gsn > self.written.last.gsn || !over(freed) {
                break;
            }
            freed += chunk.bytes.len() as u64;
            self.ring.pop_front();
        }
        freed
    }

    /// The log's end at a gsn that the overlay holds or that is the newest applied.
    pub(crate) fn tail_at(&self, gsn: Gsn) -> Option<(LogTail, bool)> {
        if gsn == self.applied.last.gsn {
            return Some((self.applied, true));
        }
        self.overlay.get(gsn).map(|entry| (entry.tail, entry.batch_end))
    }

    /// Forgets everything: the log ends at `to`, in files that are complete and use the first `slots` slots.
    /// Returns the bytes freed.
    pub(crate) fn install(&mut self, to: LogTail, epochs: EpochTable, slots: u32) -> u64 {
        let chunks: usize = self.ring.iter().map(|chunk| chunk.bytes.len()).sum();
        let freed = (chunks + self.buf.len()) as u64 + self.overlay.len() as u64 * ENTRY_BYTES;
        let (relaxed, buffered) = (self.relaxed, self.buffered);
        let fresh = Self::new(self.shard, relaxed, buffered, self.segment_bytes, self.cluster_id);
        *self = Self {
            tail: to,
            written: to,
            synced: to,
            applied: to,
            epoch: to.last.epoch,
            epochs,
            next_file_id: self.next_file_id,
            next_slot: slots,
            generation: self.generation + 1,
            ..fresh
        };
        freed
    }

    /// Resets the end of the log after a truncation to `to`; everything was written before. Returns the bytes
    /// freed.
    pub(crate) fn cut(&mut self, to: LogTail) -> u64 {
        debug_assert!(self.buf.is_empty() && self.queue.is_empty() && self.in_flight.is_empty());
        let mut freed = 0;
        while let Some(chunk) = self.ring.back() {
            if chunk.last.last.gsn <= to.last.gsn {
                break;
            }
            freed += chunk.bytes.len() as u64;
            self.ring.pop_back();
        }
        self.overlay.truncate(to.last.gsn);
        self.epochs.truncate(to.last.gsn);
        self.tail = to;
        self.epoch = to.last.epoch;
        self.written = to;
        self.synced = to;
        self.open = None;
        self.generation += 1;
        self.need_mark = true;
        freed
    }
}
