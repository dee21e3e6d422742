//! One open segment: a file, its mapping, and how far it may be read.
//!
//! Mapped read-only from its creation (writable for the active one under `Os`), so that a read never cares
//! whether it is sealed. `written` is the protocol that makes sharing the mapping sound: bytes below it are
//! never changed again, and whoever loads it (acquire) sees them. A segment of the log may exist before its
//! file does: under `Disk` the scheduler makes the file when it first has something to write there.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::error::EngineError;
use super::file_keys::{FileKeys, Rotten, is_of};
use super::format::manifest::{FILE_ID_MAX, FileEnd};
use super::format::record::Record;
use super::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::index::Location;
use super::shared::Shared;
use super::spare::Spare;
use crate::disk::{Disk, DiskFile, DiskMap};
use crate::position::{EpochTable, Gsn};

const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Its place in the shard's segment table, as locations name it.
    pub(crate) slot: u32,
    pub(crate) header: SegmentHeader,
    /// Its file's id here. What a full sync brought keeps the header (and the notes that name it) of the
    /// member that wrote it.
    id: u32,
    opened: OnceLock<Opened>,
    /// Bytes that may be read.
    written: AtomicU64,
    /// Bytes of the file that exist (zeroed or written).
    zeroed: AtomicU64,
    /// Bytes that were stored through the mapping and synced since.
    stored: AtomicU64,
    /// Serialises zeroing ahead.
    zeroing: Mutex<()>,
    /// Where it ends, once nothing more is appended; a truncation moves it down.
    end: Mutex<Option<FileEnd>>,
    /// Whether the manifest lists it.
    pub(crate) listed: AtomicBool,
    /// Whether every byte up to its end is durable.
    pub(crate) synced: AtomicBool,
    /// Length and CRC of its first bytes, once somebody has asked.
    crc: Mutex<Option<(u64, u32)>>,
    /// Bytes of records that were overwritten or deleted since.
    pub(crate) dead_bytes: AtomicU64,
    /// Whether the contiguous log begins behind it: it is still data, but no longer log.
    cold: AtomicBool,
    /// What is known of its keys, once it does not change any more and is wholly committed.
    keys: OnceLock<FileKeys>,
    /// Records that were found not to verify, by their offsets.
    pub(crate) rotten: Mutex<BTreeMap<u64, Rotten>>,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    map: Arc<dyn DiskMap>,
    /// Where the mapping starts: between a probe of the index and the record it names stands nothing but this.
    base: Base,
}

#[derive(Debug, Clone, Copy)]
struct Base(*const u8);

// SAFETY: an address; whoever reads there keeps to the protocol of `written` and holds the segment, and with it the map.
unsafe impl Send for Base {}
// SAFETY: as above.
unsafe impl Sync for Base {}

impl Opened {
    fn new(path: PathBuf, file: Arc<dyn DiskFile>, map: Arc<dyn DiskMap>) -> Self {
        let base = Base(map.as_ptr());
        Self { path, file, map, base }
    }

    /// The first bytes of the file: as many as are published.
    fn bytes(&self, written: u64) -> &[u8] {
        // SAFETY: the mapping is at least `written` bytes long and lives as long as `self`; the file is never
        // shortened; bytes below `written` were complete before it was published and are never changed again.
        unsafe { std::slice::from_raw_parts(self.base.0, written as usize) }
    }

    /// Hints the processor that the bytes from `offset` on will be written: the next append, and the locks around it,
    /// then do not wait for lines that another core has zeroed.
    #[inline]
    fn prefetch_write(&self, offset: u64) {
        #[cfg(target_arch = "x86_64")]
        for line in 0..4 {
            let at = self.base.0.wrapping_add(offset as usize + line * 64);
            // SAFETY: it reads nothing and cannot fault, whatever the address; processors without it do nothing.
            unsafe {
                std::arch::asm!("prefetchw [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    fn prefetch(&self, offset: u64) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = self.base.0.wrapping_add(offset as usize).cast::<i8>();
            // SAFETY: a prefetch reads nothing and cannot fault, whatever the address.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(at);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(64));
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(128));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }
}

impl Segment {
    /// A segment without a file yet.
    pub(crate) fn planned(slot: u32, header: SegmentHeader) -> Self {
        Self::under_id(slot, header.file_id, header)
    }

    /// As [`Self::planned`], with an id that is not the header's.
    pub(crate) fn under_id(slot: u32, id: u32, header: SegmentHeader) -> Self {
        Self {
            slot,
            header,
            id,
            opened: OnceLock::new(),
            written: AtomicU64::new(0),
            zeroed: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            zeroing: Mutex::new(()),
            end: Mutex::new(None),
            listed: AtomicBool::new(false),
            synced: AtomicBool::new(false),
            crc: Mutex::new(None),
            rotten: Mutex::default(),
            dead_bytes: AtomicU64::new(0),
            cold: AtomicBool::new(header.compacted),
            keys: OnceLock::new(),
        }
    }

    /// The file name of a segment.
    pub(crate) fn file_name(id: u32) -> String {
        format!("{id:010}.seg")
    }

    /// The id in a segment's file name; none of an id that is never given out ([`FILE_ID_MAX`]).
    pub(crate) fn id_of(name: &str) -> Option<u32> {
        let id = name.strip_suffix(".seg").filter(|digits| digits.len() == 10)?.parse().ok()?;
        (id <= FILE_ID_MAX).then_some(id)
    }

    /// Its file's id.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Gsn of its first entry.
    pub(crate) fn base_gsn(&self) -> Gsn {
        self.header.base_gsn
    }

    /// Makes the file, durably under its name: header, zeros ahead, mapping. It is not yet in the manifest.
    pub(crate) fn create(
        &self,
        disk: &Arc<dyn Disk>,
        dir: &Path,
        bytes: u64,
        ahead: u64,
        writable: bool,
    ) -> Result<(), EngineError> {
        let made = Spare::make(disk, dir, self.id(), bytes, ahead, writable)?;
        let fail = |operation| io_error(operation, &made.path);
        made.file.write_at(&[IoSlice::new(&self.header.encode())], 0).map_err(fail("write"))?;
        made.file.sync_data().map_err(fail("sync"))?;
        disk.sync_dir(dir).map_err(fail("sync the directory of"))?;
        made.map.populate(0, made.zeroed);
        self.open(made);
        Ok(())
    }

    /// Begins a segment in a file that is ready for it and that the manifest lists as prepared.
    pub(crate) fn begin(slot: u32, header: SegmentHeader, spare: Spare) -> Self {
        let segment = Self::planned(slot, header);
        let bytes = header.encode();
        assert!(bytes.len() as u64 <= spare.zeroed, "a file has room for its header");
        // SAFETY: the range lies within the file and its mapping; nobody else knows of it yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), spare.map.as_mut_ptr(), bytes.len()) };
        segment.open(spare);
        segment.listed.store(true, Ordering::Release);
        segment
    }

    /// Its file is there, with its header.
    fn open(&self, made: Spare) {
        self.zeroed.store(made.zeroed, Ordering::Release);
        self.written.store(SEGMENT_HEADER_BYTES, Ordering::Release);
        let opened = self.opened.set(Opened::new(made.path, made.file, made.map));
        debug_assert!(opened.is_ok(), "a segment's file is made once, under the shard's locks");
    }

    /// Adopts an existing file, readable up to `written`.
    pub(crate) fn adopt(
        &self,
        path: PathBuf,
        file: Arc<dyn DiskFile>,
        bytes: u64,
        written: u64,
        writable: bool,
    ) -> Result<(), EngineError> {
        let len = file.len().map_err(io_error("measure", &path))?;
        let map = file.map(bytes.max(len), writable).map_err(io_error("map", &path))?;
        self.zeroed.store(len, Ordering::Release);
        self.written.store(written, Ordering::Release);
        let opened = self.opened.set(Opened::new(path, file, map));
        debug_assert!(opened.is_ok(), "a segment is adopted once");
        Ok(())
    }

    /// Where it ends, once nothing more is appended.
    pub(crate) fn end(&self) -> Option<FileEnd> {
        *self.end.lock()
    }

    /// Ends it.
    pub(crate) fn set_end(&self, end: FileEnd) {
        *self.end.lock() = Some(end);
    }

    /// What may be read of it as log: up to its end.
    pub(crate) fn log_bytes(&self) -> &[u8] {
        let bytes = self.bytes();
        let len = self.end().map_or(bytes.len(), |end| bytes.len().min(end.len as usize));
        &bytes[..len]
    }

    /// CRC-32 of its first `len` bytes, which must be readable; remembered, because they never change.
    pub(crate) fn crc_of(&self, len: u64) -> u32 {
        if let Some((known, crc)) = *self.crc.lock()
            && known == len
        {
            return crc;
        }
        let crc = crc32fast::hash(&self.bytes()[..len as usize]);
        *self.crc.lock() = Some((len, crc));
        crc
    }

    /// Whether it has a file that the manifest lists.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    /// Whether it is data only, not part of the contiguous log: below the log's floor, or an output of compaction.
    pub(crate) fn is_cold(&self) -> bool {
        self.cold.load(Ordering::Acquire)
    }

    /// The log's floor, as persisted, lies above it.
    pub(crate) fn set_cold(&self) {
        self.cold.store(true, Ordering::Release);
    }

    /// What is known of its keys.
    pub(crate) fn keys(&self) -> Option<&FileKeys> {
        self.keys.get()
    }

    /// Remembers what is known of its keys.
    pub(crate) fn set_keys(&self, keys: FileKeys) {
        // Whoever comes second knows the same.
        let _ = self.keys.set(keys);
    }

    /// Counts a record of it that something newer replaced.
    pub(crate) fn bury(&self, bytes: u64) {
        self.dead_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether it may hold a record of this key hash that is older than `gsn`: `false` only if that is sure.
    pub(crate) fn may_hold_older(&self, hash: u64, gsn: Gsn) -> bool {
        self.base_gsn() < gsn && self.keys().is_none_or(|keys| keys.filter.may_contain(hash))
    }

    /// Recovery: nothing beyond `to` may be read; appending goes on there.
    pub(crate) fn rewind(&self, to: u64) {
        self.written.store(to, Ordering::Release);
    }

    /// Whether it has a file.
    pub(crate) fn is_open(&self) -> bool {
        self.opened.get().is_some()
    }

    fn opened(&self) -> &Opened {
        self.opened.get().expect("only open segments are read, written or synced")
    }

    /// Its file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.opened().path
    }

    /// Bytes that may be read.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Everything written, header included; empty if there is no file yet.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.opened.get().map_or(&[], |opened| opened.bytes(self.written()))
    }

    /// The record at an offset, its checksum not checked; `None` if nothing readable is there.
    pub(crate) fn peek(&self, offset: u64) -> Option<Record<'_>> {
        Record::peek(self.bytes().get(offset as usize..)?)
    }

    /// Hints the processor that a record will be read.
    pub(crate) fn prefetch(&self, offset: u64) {
        if let Some(opened) = self.opened.get() {
            opened.prefetch(offset);
        }
    }

    /// As [`Self::peek`], where the record is likely to be far away: all of a short one is asked for at once, not what
    /// its header says once that has come.
    #[inline]
    pub(crate) fn fetch(&self, offset: u64) -> Option<Record<'_>> {
        let opened = self.opened.get()?;
        opened.prefetch(offset);
        Record::peek(opened.bytes(self.written()).get(offset as usize..)?)
    }

    /// Makes sure that the file reaches `to`, zeroing `ahead` beyond it, up to `limit`.
    pub(crate) fn zero_to(&self, to: u64, ahead: u64, limit: u64) -> Result<(), EngineError> {
        if self.zeroed.load(Ordering::Acquire) >= to {
            return Ok(());
        }
        // To a whole huge page: the file system then keeps the zeros in such, and reads miss the TLB seldom.
        let end = (to + ahead).next_multiple_of(HUGE_PAGE_BYTES).min(limit).max(to);
        // In steps: whoever waits for the first goes on while the others are made.
        loop {
            let _one_at_a_time = self.zeroing.lock();
            let from = self.zeroed.load(Ordering::Acquire);
            if from >= end {
                return Ok(());
            }
            let opened = self.opened();
            let step = (from + 1).next_multiple_of(HUGE_PAGE_BYTES).min(end);
            let least = step.min(to).max(from + 1);
            let step = match zero(&*opened.file, from, step, least) {
                Ok(step) => step,
                // What is ahead of what is needed can wait for room.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull && from >= to => return Ok(()),
                Err(error) => return Err(io_error("zero", &opened.path)(error)),
            };
            opened.map.populate(from, step - from);
            self.zeroed.store(step, Ordering::Release);
        }
    }

    /// Bytes of the file that exist.
    pub(crate) fn zeroed(&self) -> u64 {
        self.zeroed.load(Ordering::Acquire)
    }

    /// Writes buffers from `offset` and publishes them.
    pub(crate) fn write(&self, bufs: &[IoSlice<'_>], offset: u64, len: u64) -> Result<(), EngineError> {
        let opened = self.opened();
        opened.file.write_at(bufs, offset).map_err(io_error("write", &opened.path))?;
        self.written.store(offset + len, Ordering::Release);
        Ok(())
    }

    /// Copies bytes to `offset` through the writable mapping and publishes them.
    ///
    /// The caller holds the shard's lock (one appender), has zeroed the file up to the end of the bytes, and
    /// writes exactly where `written` is.
    pub(crate) fn store(&self, bytes: &[u8], offset: u64) {
        self.store_with(offset, bytes.len(), |to| to.copy_from_slice(bytes));
    }

    /// As [`Self::store`], of what `fill` writes there.
    #[inline]
    pub(crate) fn store_with<R>(&self, offset: u64, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let opened = self.opened();
        let end = offset + len as u64;
        assert!(
            self.written.load(Ordering::Relaxed) == offset
                && end <= self.zeroed.load(Ordering::Relaxed)
                && end <= opened.map.len() as u64,
            "an append continues the segment, within its file"
        );
        // SAFETY: the range lies within the mapping and the file (asserted); nobody reads at or beyond
        // `written`, and the shard's lock makes this the only writer.
        let to = unsafe { std::slice::from_raw_parts_mut(opened.map.as_mut_ptr().add(offset as usize), len) };
        let filled = fill(to);
        self.written.store(end, Ordering::Release);
        opened.prefetch_write(end);
        filled
    }

    /// Makes what was stored through the mapping durable, up to `end`. One caller at a time: the round that syncs.
    pub(crate) fn sync_stored(&self, end: u64) -> Result<(), EngineError> {
        let opened = self.opened();
        let from = self.stored.load(Ordering::Relaxed);
        if from < end {
            opened.file.sync_mapped(&*opened.map, from, end - from).map_err(io_error("sync", &opened.path))?;
            self.stored.store(end, Ordering::Relaxed);
        }
        Ok(())
    }

    /// `fdatasync`.
    pub(crate) fn sync(&self) -> Result<(), EngineError> {
        let opened = self.opened();
        opened.file.sync_data().map_err(io_error("sync", &opened.path))
    }
}

/// Zeros from `from` to `end`, or, where there is no room for that, at least to `least`; how far.
pub(crate) fn zero(file: &dyn DiskFile, from: u64, end: u64, least: u64) -> std::io::Result<u64> {
    match file.zero_ahead(from, end - from) {
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull && least < end => {
            file.zero_ahead(from, least - from).map(|()| least)
        }
        other => other.map(|()| end),
    }
}

/// Wraps an I/O error with what was tried on which path.
pub(crate) fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EngineError + use<> {
    let path = path.to_owned();
    move |source| EngineError::Io { operation, path, source }
}

/// What a read needs: the index, the segments by slot that its locations name, and the epochs that turn gsns
/// into versions. Replaced whole, so that a reader works on one consistent value without a lock.
#[derive(Debug, Default, Clone)]
pub(crate) struct View {
    /// Where the newest committed record of a key is; another one only after a full sync.
    pub(crate) index: Arc<super::index::HashIndex>,
    pub(crate) segments: Vec<Option<Arc<Segment>>>,
    pub(crate) epochs: EpochTable,
    /// The trees' ordered indexes by tree id.
    pub(crate) ordered: Vec<Option<Arc<super::index::OrderedIndex>>>,
}

impl View {
    /// The segment in a slot.
    pub(crate) fn segment(&self, slot: u32) -> Option<&Arc<Segment>> {
        self.segments.get(slot as usize)?.as_ref()
    }

    /// The record at a location, its checksum not checked.
    pub(crate) fn peek(&self, location: Location) -> Option<Record<'_>> {
        self.segment(location.segment)?.peek(location.offset_bytes())
    }

    /// Hints the processor that the record of a key with this hash, if there is one, will be looked for.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        // Nothing here depends on whether it is there: the processor goes on while the bucket is on its way.
        let location = self.index.candidate(hash);
        if let Some(segment) = self.segment(location.segment) {
            segment.prefetch(location.offset_bytes());
        }
    }

    /// The same view with another segment.
    pub(crate) fn with_segment(&self, segment: Arc<Segment>) -> Self {
        let mut segments = self.segments.clone();
        let slot = segment.slot as usize;
        if segments.len() <= slot {
            segments.resize(slot + 1, None);
        }
        segments[slot] = Some(segment);
        Self { segments, ..self.clone() }
    }

    /// The same view without some segments.
    pub(crate) fn without(&self, gone: &[Arc<Segment>]) -> Self {
        let mut segments = self.segments.clone();
        for slot in &mut segments {
            if slot.as_ref().is_some_and(|segment| gone.iter().any(|gone| Arc::ptr_eq(gone, segment))) {
                *slot = None;
            }
        }
        Self { segments, ..self.clone() }
    }

    /// Whether a record is of this tree and key; see [`is_of`].
    pub(crate) fn is_key(&self, shared: &Shared, location: Location, tree: u16, key: &[u8]) -> bool {
        let segment = self.segment(location.segment);
        segment.is_some_and(|segment| is_of(shared, segment, location.offset_bytes(), tree, key))
    }
}

/// A failure that ends the engine's life.
#[derive(Debug, Default)]
pub(crate) struct Poison {
    set: AtomicBool,
    reason: ArcSwapOption<String>,
}

impl Poison {
    /// Whether the engine has failed.
    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Why.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.load().as_ref().map(|reason| reason.as_str().to_owned())
    }

    /// Records the first failure; `true` if this is it.
    pub(crate) fn set(&self, reason: String) -> bool {
        let first = self.reason.rcu(|old| old.clone().or_else(|| Some(Arc::new(reason.clone())))).is_none();
        self.set.store(true, Ordering::Release);
        first
    }

    /// An error if the engine has failed.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        if self.is_set() { Err(EngineError::Failed(self.reason().unwrap_or_default())) } else { Ok(()) }
    }
}
