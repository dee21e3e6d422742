//! Recovery of one shard: from files to a shard that goes on where it ended.
//!
//! A record that does not verify is *torn* if no sound note vouches for it: the log is cut at the last batch
//! end before it. If a MARK, a later segment's MARK or the manifest says that it had been durable, it is
//! *corruption*: the shard is quarantined and nothing is changed. So is whatever else cannot be explained by
//! a crash: a missing file, an unknown one, metadata that does not verify.
//!
//! Files below the log's floor (outputs of compaction among them) are *cold*: data, but no log any more. Of
//! them, and of log segments that have one, only the hint is read.

mod load;
mod scan;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

pub(crate) use load::load;
pub(crate) use scan::{Found, Scan, Stop, scan, vouched_in, walk};

use super::compaction::Housekeeping;
use super::damage::Watch;
use super::error::EngineError;
use super::fault;
use super::file_keys::{FileKeys, hint_of, stored_hint};
use super::files::{Files, SHARD_META};
use super::format::manifest::{FileEnd, FileEntry, Manifest};
use super::format::notes::decode_catalog;
use super::format::record::{Kind, Record};
use super::format::segment_header::SegmentHeader;
use super::format::shard_meta::{SHARD_META_MAGIC, ShardMeta};
use super::format::slots;
use super::full_sync::{discard_staged, is_staging};
use super::hint::HintEntry;
use super::index::Location;
use super::log::Log;
use super::log_time::LogTime;
use super::overlay::ENTRY_BYTES;
use super::segment::{Segment, View, io_error};
use super::shard::Shard;
use super::shard_state::ShardState;
use super::shared::{Shared, is_full};
use super::tree::TreeInfo;
use crate::disk::{Disk, DiskFile, FaultNote};
use crate::position::{EpochTable, Gsn, LogPosition, LogTail};

/// A shard whose files were read, its index not yet built.
pub(crate) struct Read {
    id: u16,
    dir: PathBuf,
    files: Files,
    log: Vec<(Arc<Segment>, Scan)>,
    cold: Vec<Arc<Segment>>,
    /// Files made for a next segment that did not begin, and the gsn that notes in them vouch for all the same.
    unused: Vec<u32>,
    vouched: Gsn,
    /// Set when the log has to be cut: in which slot, at which offset.
    cut: Option<(u32, u64)>,
    tail: LogTail,
    epochs: EpochTable,
    commit: u64,
    committed_time_ms: u64,
    next_slot: u32,
    /// Trees whose creation is committed.
    pub(crate) trees: Vec<TreeInfo>,
    /// A file is not on the disk as the page cache shows it: what was acknowledged from there may be missing.
    pub(crate) lost: bool,
}

/// Why a shard cannot be used: kept as it is, told, rebuilt from others.
struct Unsound(String);

impl From<String> for Unsound {
    fn from(reason: String) -> Self {
        Self(reason)
    }
}

/// Either an error that stops the opening, or a finding that quarantines the shard.
enum Trouble {
    Error(EngineError),
    Unsound(String),
}

impl From<EngineError> for Trouble {
    fn from(error: EngineError) -> Self {
        Self::Error(error)
    }
}

impl From<Unsound> for Trouble {
    fn from(Unsound(reason): Unsound) -> Self {
        Self::Unsound(reason)
    }
}

fn unsound<T>(reason: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Unsound(reason.into()))
}

/// The whole of a file.
fn read_all(disk: &Arc<dyn Disk>, path: &Path) -> Result<Vec<u8>, EngineError> {
    let file = disk.open_read(path).map_err(io_error("open", path))?;
    let mut bytes = vec![0; file.len().map_err(io_error("measure", path))? as usize];
    let len = file.read_at(&mut bytes, 0).map_err(io_error("read", path))?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Reads a shard's files. What is unsound is told in the shard's state; an error stops the opening.
pub(crate) fn read(
    shared: &Arc<Shared>,
    id: u16,
    dir: PathBuf,
    noted: Option<&FaultNote>,
) -> Result<Read, EngineError> {
    let mut read = Read {
        id,
        dir,
        files: Files::unreadable(id, "not read".into()),
        log: Vec::new(),
        cold: Vec::new(),
        unused: Vec::new(),
        vouched: 0,
        cut: None,
        tail: LogTail::default(),
        epochs: EpochTable::new(),
        commit: 0,
        committed_time_ms: 0,
        next_slot: 0,
        trees: Vec::new(),
        lost: false,
    };
    match read.read(shared, noted) {
        Ok(()) => {}
        Err(Trouble::Error(error)) => return Err(error),
        Err(Trouble::Unsound(reason)) => {
            if *read.files.state() == ShardState::Syncing {
                // It counts for nothing until it is rebuilt: there is no worse state to be told of.
                tracing::warn!(shard = id, %reason, "the shard is rebuilt from its beginning");
            } else {
                tracing::error!(shard = id, %reason, "the shard is quarantined");
                read.files.quarantine(reason);
            }
            read.files.set_void(true);
            read.log.clear();
            read.cold.clear();
            read.unused.clear();
            read.trees.clear();
            read.cut = None;
            (read.tail, read.epochs, read.commit) = (LogTail::default(), EpochTable::new(), 0);
        }
    }
    Ok(read)
}

impl Read {
    fn read(&mut self, shared: &Arc<Shared>, noted: Option<&FaultNote>) -> Result<(), Trouble> {
        let manifest = self.read_meta(shared)?;
        match self.files.state() {
            // What is there is not looked at: a quarantine ends by a full copy.
            ShardState::Quarantined { .. } => {
                self.files.set_void(true);
                return Ok(());
            }
            ShardState::Blank
            | ShardState::Ready
            | ShardState::Damaged { .. }
            | ShardState::Amnesic
            | ShardState::Syncing => {}
        }
        if let Some(note) = noted {
            self.check_fault(shared, &manifest, note)?;
        }
        // Before what files tell: of two records of one tree the first counts.
        self.trees.extend(manifest.trees.iter().cloned());
        self.read_segments(shared, &manifest)?;
        self.join(&manifest)?;
        self.commit = self.commit.max(manifest.commit).max(manifest.log_floor.saturating_sub(1));
        if self.commit > self.tail.last.gsn {
            return unsound(format!("the log ends at {}, below its commit {}", self.tail.last.gsn, self.commit));
        }
        self.committed_time_ms = self.committed_time_ms.max(manifest.committed_time_ms);
        for (segment, scan) in &self.log {
            for entry in scan.entries.iter().filter(|e| e.kind == Kind::Catalog && e.tail.last.gsn <= self.commit) {
                self.trees.extend(segment.peek(entry.offset).and_then(|record| decode_catalog(&record)));
            }
        }
        Ok(())
    }

    /// The last process could not read a page: is the file that it belongs to whole?
    fn check_fault(&mut self, shared: &Shared, manifest: &Manifest, note: &FaultNote) -> Result<(), Trouble> {
        let file = Path::new(&note.file);
        let Some(name) = self.dir.file_name().and_then(|own| file.strip_prefix(own).ok()?.to_str()) else {
            return Ok(());
        };
        let (shard, offset) = (self.id, note.offset);
        if is_staging(name) {
            tracing::warn!(shard, file = note.file, offset, "what was staged could not be read: it is thrown away");
            discard_staged(&shared.disk, &self.dir);
            return Ok(());
        }
        let Some(entry) = Segment::id_of(name).and_then(|id| manifest.files.iter().find(|entry| entry.id == id)) else {
            tracing::warn!(
                shard,
                file = note.file,
                offset,
                "a file that could not be read is no part of the shard now"
            );
            return Ok(());
        };
        match fault::check(&shared.disk, &self.dir.join(name), note, entry.end.map_or(0, |end| end.len))? {
            None => {
                let what = "the last process was ended because a page could not be read; it can be read now";
                tracing::warn!(shard, file = note.file, offset, "{what}");
                Ok(())
            }
            Some(reason) => {
                if *self.files.state() != ShardState::Syncing {
                    // Persisted: without the note, what is left of the file may look like a torn tail.
                    let state = ShardState::Quarantined { reason: reason.clone(), alarm: false };
                    self.files.set_state(shared, &self.dir, state)?;
                }
                unsound(reason)
            }
        }
    }

    /// `shard.meta`, the manifest, and what else is in the directory.
    fn read_meta(&mut self, shared: &Shared) -> Result<Manifest, Trouble> {
        let (disk, dir) = (&shared.disk, self.dir.clone());
        let path = dir.join(SHARD_META);
        if !disk.exists(&path).map_err(io_error("look for", &path))? {
            return unsound("shard.meta is missing");
        }
        // What a process that was killed wrote and did not sync is seen, and may yet be lost: nothing is removed upon it
        // before it is durable. After a failed sync the page cache shows what the disk does not hold.
        let file = disk.open(&path).map_err(io_error("open", &path))?;
        file.sync_data().map_err(io_error("sync", &path))?;
        let len = file.len().map_err(io_error("measure", &path))?;
        let Some(newest) = slots::newest(SHARD_META_MAGIC, &read_uncached(&file, &path, len)?) else {
            return unsound("neither slot of shard.meta can be read");
        };
        let meta = ShardMeta::decode(&newest.payload).map_err(Unsound)?;
        let older = newest.older.as_deref().map(ShardMeta::decode).transpose().map_err(Unsound)?;
        let both = older.is_some();
        let older_manifest = older.map_or(0, |older| older.manifest);
        let keep = [meta.manifest, older_manifest];
        // Known from here on, so that whatever is found below, a change of state goes into the older slot.
        let none = Manifest { shard: self.id, next_file_id: 1, log_floor: 1, ..Manifest::default() };
        self.files = Files::new(self.id, newest.seq, newest.slot, meta.clone(), older_manifest, none);
        let mut manifest = Manifest { shard: self.id, next_file_id: 1, log_floor: 1, ..Manifest::default() };
        if meta.manifest != 0 {
            let path = dir.join(Manifest::name(meta.manifest));
            if !disk.exists(&path).map_err(io_error("look for", &path))? {
                return unsound(format!("{} is missing", Manifest::name(meta.manifest)));
            }
            let bytes = read_all(disk, &path)?;
            if bytes.len() != meta.manifest_len as usize || crc32fast::hash(&bytes) != meta.manifest_crc {
                return unsound(format!("{} is not the one that shard.meta names", Manifest::name(meta.manifest)));
            }
            manifest = Manifest::decode(&bytes).map_err(Unsound)?;
            if manifest.shard != self.id || manifest.seq != meta.manifest {
                return unsound(format!("the manifest is shard {}'s, number {}", manifest.shard, manifest.seq));
            }
        }
        self.files = Files::new(self.id, newest.seq, newest.slot, meta, older_manifest, manifest.clone());
        self.tidy(shared, &manifest, both, keep)?;
        Ok(manifest)
    }

    /// Removes what a switch that did not happen left behind, and refuses what cannot be explained.
    fn tidy(&self, shared: &Shared, manifest: &Manifest, both: bool, keep: [u64; 2]) -> Result<(), Trouble> {
        let (disk, dir) = (&shared.disk, &self.dir);
        let listed: BTreeSet<u32> = manifest.files.iter().map(|file| file.id).collect();
        let mut removed = false;
        let mut remove = |name: &str| -> Result<(), EngineError> {
            removed = true;
            let path = dir.join(name);
            disk.remove_file(&path).map_err(io_error("remove", &path))
        };
        let mut present = BTreeSet::new();
        for entry in disk.list(dir).map_err(io_error("list", dir))? {
            let name = entry.name.as_str();
            if entry.is_dir {
                if is_staging(name) && both && *self.files.state() != ShardState::Syncing {
                    let path = dir.join(name);
                    disk.remove_dir_all(&path).map_err(io_error("remove", &path))?;
                }
            } else if let Some(id) = Segment::id_of(name) {
                if listed.contains(&id) {
                    present.insert(id);
                } else if !both {
                    // One slot is lost: it may have named this file. Only an empty one is none's loss.
                    let bytes = read_all(disk, &dir.join(name))?;
                    if bytes.iter().skip(64).any(|&b| b != 0) {
                        return unsound(format!("{name} has records, is not listed, and a slot of shard.meta is lost"));
                    }
                } else if id >= manifest.next_file_id || manifest.drops.contains(&id) {
                    remove(name)?;
                } else {
                    return unsound(format!("{name} is not listed although its id was given out"));
                }
            } else if let Some(seq) = Manifest::seq_of(name) {
                if both && !keep.contains(&seq) {
                    remove(name)?;
                }
            } else if name.ends_with(".tmp") && both {
                remove(name)?;
            } else if let Some(id) = name.strip_suffix(".hint").and_then(|id| id.parse::<u32>().ok())
                && both
                && !listed.contains(&id)
            {
                remove(name)?;
            }
        }
        if let Some(missing) = listed.difference(&present).next() {
            return unsound(format!("{} is missing", Segment::file_name(*missing)));
        }
        if removed {
            disk.sync_dir(dir).map_err(io_error("sync", dir))?;
        }
        Ok(())
    }

    /// Opens every file and reads its hint or itself, in parallel.
    fn read_segments(&mut self, shared: &Arc<Shared>, manifest: &Manifest) -> Result<(), Trouble> {
        let jobs: Vec<(u32, &FileEntry)> = (0u32..).zip(&manifest.files).collect();
        self.next_slot = jobs.len() as u32;
        let dir = &self.dir;
        let shard = self.id;
        let work = |(slot, entry): &(u32, &FileEntry)| read_segment(shared, dir, shard, *slot, entry, manifest);
        let workers = if shared.manual() { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
        let results: Vec<Result<FileRead, Trouble>> = if workers == 1 || jobs.len() < 2 {
            jobs.iter().map(work).collect()
        } else {
            let next = AtomicU64::new(0);
            let done = Mutex::new(Vec::new());
            std::thread::scope(|scope| {
                for _ in 0..workers.min(jobs.len()) {
                    scope.spawn(|| {
                        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                            let result = work(job);
                            done.lock().push((job.0, result));
                        }
                    });
                }
            });
            let mut done = done.into_inner();
            done.sort_by_key(|(slot, _)| *slot);
            done.into_iter().map(|(_, result)| result).collect()
        };
        for result in results {
            match result? {
                FileRead::Log { segment, scan, lost } => {
                    self.log.push((segment, scan));
                    self.lost |= lost;
                }
                FileRead::Cold { segment, committed_time_ms, trees } => {
                    self.cold.push(segment);
                    self.committed_time_ms = self.committed_time_ms.max(committed_time_ms);
                    self.trees.extend(trees);
                }
                FileRead::Unused { id, vouched } => {
                    self.unused.push(id);
                    self.vouched = self.vouched.max(vouched);
                }
            }
        }
        self.log.sort_by_key(|(segment, _)| (segment.base_gsn(), segment.id()));
        Ok(())
    }

    /// Follows the log through its segments and finds its end.
    fn join(&mut self, manifest: &Manifest) -> Result<(), Trouble> {
        let mut tail = match self.log.first() {
            Some((first, _)) => first.header.before(),
            None => manifest.mark,
        };
        if tail.last.gsn >= manifest.log_floor {
            return unsound(format!("the log begins after {}, its floor is {}", tail.last.gsn, manifest.log_floor));
        }
        let mut stop = None;
        for i in 0..self.log.len() {
            let (segment, scan) = &self.log[i];
            let name = Segment::file_name(segment.id());
            if let Some(what) = &scan.contradiction {
                return unsound(format!("{name}: {what}"));
            }
            if segment.header.before() != tail {
                return unsound(format!(
                    "{name} begins after {:?}, the log before it ends at {tail:?}",
                    segment.header.before()
                ));
            }
            tail = scan.tail;
            self.commit = self.commit.max(scan.commit);
            self.committed_time_ms = self.committed_time_ms.max(scan.committed_time_ms);
            let last = i + 1 == self.log.len();
            let joins = |next: &Arc<Segment>| next.header.before() == tail;
            let whole = match (&scan.stop, segment.end()) {
                (_, Some(end)) => match scan.differs_from(&end) {
                    None => true,
                    Some(why) => return unsound(format!("{name}: {why}")),
                },
                (Stop::Sealed, None) => true,
                // A missing SEAL is no fault if the next segment joins.
                (Stop::Zeros, None) => !scan.unfinished && (last || joins(&self.log[i + 1].0)),
                (Stop::Length | Stop::Broken(_), None) => false,
            };
            if !whole {
                stop = Some(i);
                break;
            }
        }
        if let Some(at) = stop {
            let x = tail.last.gsn + 1;
            let (segment, scan) = &self.log[at];
            let vouched =
                self.log[at..].iter().map(|(_, scan)| scan.vouched).max().unwrap_or(0).max(manifest.mark.last.gsn);
            if vouched >= x {
                return unsound(format!(
                    "{}: gsn {x} is damaged ({:?}), and was durable: {vouched} is vouched for",
                    Segment::file_name(segment.id()),
                    scan.stop
                ));
            }
            tracing::warn!(shard = self.id, gsn = tail.last.gsn, stop = ?scan.stop, "the log's torn tail is cut");
            self.cut = Some((segment.slot, scan.end));
        }
        let durable = manifest.mark.last.gsn.max(self.vouched);
        if tail.last.gsn < durable {
            return unsound(format!("the log ends at {}, but {durable} was durable", tail.last.gsn));
        }
        self.tail = tail;
        self.epochs = self.epochs(manifest)?;
        Ok(())
    }

    /// How many files of the log have a part in it: behind a torn tail there is none.
    fn kept(&self) -> usize {
        let cut = self.cut.and_then(|(slot, _)| self.log.iter().position(|(segment, _)| segment.slot == slot));
        cut.map_or(self.log.len(), |at| at + 1)
    }

    /// The epochs of the recovered log: of what is in files, those that the files show; before, the manifest's.
    fn epochs(&self, manifest: &Manifest) -> Result<EpochTable, Trouble> {
        let log = &self.log[..self.kept()];
        let before = self.log.first().map_or(self.tail, |(first, _)| first.header.before());
        let mut starts: Vec<LogPosition> = manifest.epochs.starts().to_vec();
        starts.retain(|start| start.gsn <= before.last.gsn);
        starts.extend(log.iter().flat_map(|(_, scan)| scan.epochs.iter().copied()));
        starts.retain(|start| start.gsn <= self.tail.last.gsn);
        let epochs = EpochTable::from_starts(starts).map_err(Unsound)?;
        let ends = log.iter().map(|(_, scan)| scan.tail.last);
        if let Some(end) = std::iter::once(before.last).chain(ends).find(|end| epochs.epoch_at(end.gsn) != end.epoch) {
            return unsound(format!("the log has {end:?}, by its epochs that is of {}", epochs.epoch_at(end.gsn)));
        }
        Ok(epochs)
    }

    /// Makes the shard: cuts the torn tail, builds index and overlay.
    pub(crate) fn build(self, shared: &Arc<Shared>, buffered: bool) -> Result<Arc<Shard>, EngineError> {
        let kept = self.kept();
        let manifest = self.files.manifest();
        let cluster_id = *shared.cluster_id.read();
        let mut log = Log::new(self.id, shared.relaxed(), buffered, shared.options.segment_bytes, cluster_id);
        log.next_file_id = manifest.next_file_id;
        log.next_slot = self.next_slot;
        (log.tail, log.written, log.synced) = (self.tail, self.tail, self.tail);
        log.epoch = self.tail.last.epoch;
        log.epochs = self.epochs.clone();
        log.applied = self.log.first().map_or(self.tail, |(first, _)| first.header.before());
        let mut view =
            View { index: Arc::default(), segments: Vec::new(), epochs: self.epochs.clone(), ordered: Vec::new() };
        for segment in self.log.iter().map(|(segment, _)| segment).chain(&self.cold) {
            view = view.with_segment(segment.clone());
        }
        let mut waiting = 0;
        for (segment, scan) in &self.log[..kept] {
            if segment.keys().is_some() {
                // It has a hint, so all of it is committed.
                log.applied = scan.tail;
            }
            for entry in &scan.entries {
                if entry.tail.last.gsn <= self.commit {
                    log.applied = entry.tail;
                    continue;
                }
                let location = Location::at(segment.slot, entry.offset);
                let hash = matches!(entry.kind, Kind::Put | Kind::Delete)
                    .then(|| segment.peek(entry.offset).map(|r| shared.hash(r.tree(), r.key())))
                    .flatten();
                log.overlay.push(hash, location, entry.kind, entry.batch_end, entry.tail);
                waiting += 1;
            }
        }
        shared.memory_bytes.fetch_add(waiting * ENTRY_BYTES, Ordering::Relaxed);
        let cut_slot = self.cut.map(|(slot, _)| slot);
        for (i, (segment, scan)) in self.log[..kept].iter().enumerate() {
            if segment.end().is_some() || cut_slot == Some(segment.slot) {
                continue;
            }
            if i + 1 < self.log.len() || scan.stop == Stop::Sealed {
                // The next segment joins it, or was never opened. It was synced when it was read.
                segment.set_end(FileEnd { len: scan.end, last: scan.tail });
                segment.synced.store(true, Ordering::Release);
            } else {
                log.active = Some(segment.clone());
                log.offset = scan.end;
            }
        }
        let hinted = view.segments.iter().flatten().filter(|segment| segment.keys().is_some()).count();
        tracing::debug!(shard = self.id, files = view.segments.len(), hinted, "the shard's files are read");
        let ready = self.files.state().is_usable();
        let (tail, applied) = (log.tail.last.gsn, log.applied.last.gsn);
        let loaded_time_ms = load(shared, &mut view, &self.log[..kept], &self.cold, applied)?;
        let time_ms = self.committed_time_ms.max(loaded_time_ms);
        log.time = LogTime::new(time_ms);
        let shard = Arc::new(Shard {
            id: self.id,
            dir: self.dir,
            shared: shared.clone(),
            io: Mutex::new(()),
            files: Mutex::new(self.files),
            apply: Mutex::new(()),
            housekeeping: Housekeeping::default(),
            damage: Watch::default(),
            log: Mutex::new(log),
            view: ArcSwap::from_pointee(view),
            spares: AtomicUsize::new(0),
            ready: AtomicBool::new(ready),
            staging: AtomicBool::new(false),
            synced_gsn: AtomicU64::new(tail),
            tail_gsn: AtomicU64::new(tail),
            commit_gsn: AtomicU64::new(applied),
            applied_gsn: AtomicU64::new(applied),
            told_time_ms: AtomicU64::new(time_ms),
            committed_time_ms: AtomicU64::new(time_ms),
        });
        if let Some((slot, offset)) = self.cut {
            let mut files = shard.files.lock();
            let mut log = shard.log.lock();
            shard.cut_files(&mut files, &mut log, self.tail, slot, offset)?;
        }
        if !self.unused.is_empty() {
            let mut files = shard.files.lock();
            match files.switch(shared, &shard.dir, |manifest| manifest.drop_files(&self.unused)) {
                Ok(()) => Files::unlink(shared, &shard.dir, self.unused),
                Err(error) if is_full(&error) => {
                    tracing::warn!(shard = shard.id, %error, "a file made ahead stays until there is room to drop it");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(shard)
    }
}

/// One file, as far as it had to be read.
enum FileRead {
    /// Part of the log; `lost`: the page cache shows another one than the disk holds.
    Log { segment: Arc<Segment>, scan: Scan, lost: bool },
    /// Made for a segment that did not begin, or whose beginning was lost.
    Unused { id: u32, vouched: Gsn },
    /// Data only.
    Cold { segment: Arc<Segment>, committed_time_ms: u64, trees: Vec<TreeInfo> },
}

fn read_segment(
    shared: &Arc<Shared>,
    dir: &Path,
    shard: u16,
    slot: u32,
    entry: &FileEntry,
    manifest: &Manifest,
) -> Result<FileRead, Trouble> {
    let path = dir.join(Segment::file_name(entry.id));
    let file = shared.disk.open(&path).map_err(io_error("open", &path))?;
    let len = file.len().map_err(io_error("measure", &path))?;
    let mut head = [0; 64];
    let got = file.read_at(&mut head, 0).map_err(io_error("read", &path))?;
    let name = Segment::file_name(entry.id);
    let header = match SegmentHeader::decode(&head[..got]) {
        Ok(header) => header,
        // Its header was as durable as what is behind it.
        Err(_) if entry.prepared => {
            file.sync_data().map_err(io_error("sync", &path))?;
            let vouched = vouched_in(&read_uncached(&file, &path, len)?, entry.id);
            return Ok(FileRead::Unused { id: entry.id, vouched });
        }
        Err(error) => return unsound(format!("{name}: {error}")),
    };
    let cluster = *shared.cluster_id.read();
    let adopted = manifest.adopted.contains(&entry.id);
    if (header.file_id != entry.id && !adopted) || header.shard != shard || header.compacted != entry.compacted {
        return unsound(format!("{name} says it is file {} of shard {}", header.file_id, header.shard));
    }
    if header.cluster_id != 0 && cluster != 0 && header.cluster_id != cluster {
        return unsound(format!("{name} belongs to cluster {:032x}", header.cluster_id));
    }
    if header.before() != entry.before && !entry.prepared {
        return unsound(format!("{name} begins after {:?}, the manifest says {:?}", header.before(), entry.before));
    }
    if let Some(end) = entry.end
        && end.len > len
    {
        return unsound(format!("{name} has {len} bytes, the manifest says {}", end.len));
    }
    let segment = Arc::new(Segment::under_id(slot, entry.id, header));
    segment.listed.store(true, Ordering::Release);
    if let Some(end) = entry.end {
        segment.set_end(end);
        segment.synced.store(true, Ordering::Release);
    }
    let mut uncached = None;
    if entry.end.is_none() {
        // After a failed sync the page cache shows what the disk does not hold.
        file.sync_data().map_err(io_error("sync", &path))?;
        uncached = Some(read_uncached(&file, &path, len)?);
    }
    let writable = shared.relaxed() && entry.end.is_none();
    segment.adopt(path, file, shared.options.segment_bytes, len, writable)?;
    if let Some(end) = entry.end {
        segment.rewind(end.len);
        if entry.compacted || end.last.last.gsn < manifest.log_floor {
            return read_cold(shared, segment);
        }
        if let Some(hint) = stored_hint(shared, &segment) {
            let epochs = manifest.epochs.starts().iter().copied();
            let inside = |start: &LogPosition| (entry.before.last.gsn + 1..=end.last.last.gsn).contains(&start.gsn);
            let scan = Scan::of_committed(&end, hint.committed_time_ms, epochs.filter(inside).collect());
            segment.set_keys(FileKeys::of(hint));
            return Ok(FileRead::Log { segment, scan, lost: false });
        }
    } else if entry.compacted {
        return unsound(format!("{name} is an output of compaction without an end"));
    }
    let lost = uncached.as_deref().is_some_and(|uncached| uncached != segment.bytes());
    let bytes = uncached.as_deref().unwrap_or_else(|| segment.bytes());
    let scan = scan(bytes, &segment.header, entry.end.map(|end| end.len));
    // Appending goes on where the log ends, not where the zeros do.
    segment.rewind(scan.end.max(entry.end.map_or(0, |end| end.len)));
    Ok(FileRead::Log { segment, scan, lost })
}

/// A file that is no log any more: its hint says all there is to know. What is damaged was durable before the
/// log's floor passed it.
fn read_cold(shared: &Arc<Shared>, segment: Arc<Segment>) -> Result<FileRead, Trouble> {
    let hint = hint_of(shared, &segment).map_err(|error| match error {
        EngineError::Corrupt { what, .. } => Trouble::Unsound(what),
        other => Trouble::Error(other),
    })?;
    let catalogs = hint.entries().filter(|entry| entry.kind == Kind::Catalog);
    let sound = |entry: HintEntry<'_>| segment.peek(entry.offset_bytes).filter(Record::is_sound);
    let trees = catalogs.filter_map(|entry| decode_catalog(&sound(entry)?)).collect();
    let committed_time_ms = hint.committed_time_ms;
    segment.set_keys(FileKeys::of(hint));
    segment.set_cold();
    Ok(FileRead::Cold { segment, committed_time_ms, trees })
}

fn read_uncached(file: &Arc<dyn DiskFile>, path: &Path, len: u64) -> Result<Vec<u8>, EngineError> {
    let mut bytes = vec![0; len as usize];
    let mut at = 0;
    while at < bytes.len() {
        let got = file.read_at_uncached(&mut bytes[at..], at as u64).map_err(io_error("read", path))?;
        if got == 0 {
            break;
        }
        at += got;
    }
    bytes.truncate(at);
    Ok(bytes)
}
