//! Staged files become the shard's data.
//!
//! First, without any lock, everything is read: lengths, checksums, every record, the joins of the log, and
//! the indexes are built. Then, under the shard's locks, the files move to their names, one manifest switch
//! makes them the shard's, and the running shard's log end, view and positions are replaced. A crash before
//! the switch leaves the old files in force, one after it the new.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::manifest::{SnapshotFile, SnapshotManifest};
use super::staging::Staging;
use super::{UntilSwitch, aside};
use crate::engine::error::EngineError;
use crate::engine::files::Files;
use crate::engine::format::manifest::{FileEnd, FileEntry};
use crate::engine::format::notes::decode_catalog;
use crate::engine::format::record::Kind;
use crate::engine::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::engine::index::HashIndex;
use crate::engine::log_time::LogTime;
use crate::engine::recovery::{Scan, load, scan};
use crate::engine::segment::{Segment, View, io_error};
use crate::engine::shard::Shard;
use crate::engine::shard_state::ShardState;
use crate::position::{EpochTable, LogPosition, LogTail};

/// What one staged file is.
struct Staged {
    file: SnapshotFile,
    segment: Arc<Segment>,
    before: LogTail,
    end: FileEnd,
}

/// All of them, in the manifest's order: segments by gsn, then outputs of compaction.
#[derive(Default)]
struct Contents {
    files: Vec<Staged>,
    /// Segments; those below the log's floor first. Of these some may be missing: compaction took them.
    segments: Vec<(Arc<Segment>, Scan)>,
    compacted: Vec<Arc<Segment>>,
}

/// Why an installation did not happen.
enum Trouble {
    /// The files are not what a sound shard consists of.
    Unsound(String),
    Error(EngineError),
}

impl From<EngineError> for Trouble {
    fn from(error: EngineError) -> Self {
        Self::Error(error)
    }
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Unsound(why)
    }
}

impl Shard {
    /// See the module's comment.
    pub(super) fn install(
        &self,
        manifest: &SnapshotManifest,
        staging: &mut Staging,
        until_switch: UntilSwitch,
    ) -> Result<LogTail, EngineError> {
        if let Some(file) = manifest.files.iter().find(|file| staging.have(&file.name) != file.len) {
            let have = staging.have(&file.name);
            let why = format!("{} is not whole: {have} of {} bytes are here", file.name, file.len);
            return Err(EngineError::FullSync(why));
        }
        let result = self.read_staged(manifest, staging).and_then(|contents| {
            let view = self.view_of(manifest, &contents)?;
            let replace = || self.replace(manifest, staging, contents.files, view);
            Ok(match until_switch {
                UntilSwitch::Syncing => replace(),
                UntilSwitch::Itself => self.out_of_use(replace),
            }?)
        });
        match result {
            Ok(()) => {
                staging.discard();
                tracing::info!(shard = self.id, gsn = manifest.g0.last.gsn, "a full sync is in place");
                self.shared.progress.wake_all();
                self.shared.tell(|listener| {
                    listener.durable(self.id, manifest.g0.last.gsn);
                    listener.applied(self.id, manifest.g0.last.gsn);
                });
                Ok(manifest.g0)
            }
            Err(Trouble::Error(error)) => Err(error),
            Err(Trouble::Unsound(why)) => {
                staging.discard();
                Err(EngineError::FullSync(format!("shard {}: what was staged is unsound: {why}", self.id)))
            }
        }
    }

    /// Reads everything that was staged and checks it.
    fn read_staged(&self, manifest: &SnapshotManifest, staging: &Staging) -> Result<Contents, Trouble> {
        let first_id = self.reserve_ids(manifest.files.len() as u32)?;
        let mut contents = Contents::default();
        for (i, file) in (0u32..).zip(&manifest.files) {
            let (staged, scan) = self.read_file(file, staging, i, first_id + i)?;
            match scan {
                Some(scan) => contents.segments.push((staged.segment.clone(), scan)),
                None => contents.compacted.push(staged.segment.clone()),
            }
            contents.files.push(staged);
        }
        contents.files.sort_by_key(|s| (s.segment.header.compacted, s.before.last.gsn, s.segment.id()));
        contents.segments.sort_by_key(|(segment, _)| (segment.base_gsn(), segment.id()));
        let disk = &self.shared.disk;
        disk.sync_dir(staging.dir()).map_err(io_error("sync", staging.dir()))?;

        let below = contents.segments.partition_point(|(_, scan)| scan.tail.last.gsn < manifest.log_floor);
        contents.segments[..below].iter().for_each(|(segment, _)| segment.set_cold());
        let log = &contents.segments[below..];
        let first = log.first().map_or(manifest.g0, |(segment, _)| segment.header.before());
        if first.last.gsn + 1 > manifest.log_floor {
            let floor = manifest.log_floor;
            return Err(format!("its log begins at {}, above its floor {floor}", first.last.gsn + 1).into());
        }
        let mut tail = first;
        let mut starts: Vec<LogPosition> =
            manifest.epoch_table.starts().iter().copied().filter(|start| start.gsn <= first.last.gsn).collect();
        for (segment, scan) in log {
            let before = segment.header.before();
            if before != tail {
                return Err(format!("a file begins after {before:?}, the log before it ends at {tail:?}").into());
            }
            starts.extend(&scan.epochs);
            tail = scan.tail;
        }
        if let Some(s) = contents.files.iter().find(|s| s.end.last.last.gsn > manifest.g0.last.gsn) {
            return Err(format!("{} goes beyond the snapshot's end", s.file.name).into());
        }
        if tail != manifest.g0 {
            return Err(format!("its log ends at {tail:?}, it should at {:?}", manifest.g0).into());
        }
        if starts != manifest.epoch_table.starts() {
            return Err(format!("its epochs are {starts:?}, they should be {:?}", manifest.epoch_table.starts()).into());
        }
        Ok(contents)
    }

    /// Ids that no other file gets.
    fn reserve_ids(&self, count: u32) -> Result<u32, EngineError> {
        let files = self.files.lock();
        let mut log = self.log.lock();
        let mut first = log.next_file_id.max(files.manifest().next_file_id);
        for entry in self.shared.disk.list(&self.dir).map_err(io_error("list", &self.dir))? {
            first = first.max(Segment::id_of(&entry.name).map_or(0, |id| id.saturating_add(1)));
        }
        log.next_file_id =
            first.checked_add(count).ok_or_else(|| EngineError::FullSync("no file id is left".into()))?;
        Ok(first)
    }

    fn read_file(
        &self,
        file: &SnapshotFile,
        staging: &Staging,
        slot: u32,
        id: u32,
    ) -> Result<(Staged, Option<Scan>), Trouble> {
        let path = staging.path(&file.name);
        let handle = self.shared.disk.open(&path).map_err(io_error("open", &path))?;
        handle.sync_data().map_err(io_error("sync", &path))?;
        let len = handle.len().map_err(io_error("measure", &path))?;
        let mut head = [0; SEGMENT_HEADER_BYTES as usize];
        let got = handle.read_at(&mut head, 0).map_err(io_error("read", &path))?;
        let name = &file.name;
        let header = SegmentHeader::decode(&head[..got]).map_err(|e| format!("{name}: {e}"))?;
        // Its id is not compared: what is itself the fruit of a full sync keeps its first one in the header.
        if len != file.len || header.shard != self.id {
            return Err(format!("{name} is a file of shard {} with {len} bytes", header.shard).into());
        }
        let cluster = *self.shared.cluster_id.read();
        if header.cluster_id != 0 && cluster != 0 && header.cluster_id != cluster {
            return Err(format!("{name} belongs to cluster {:032x}", header.cluster_id).into());
        }
        let segment = Arc::new(Segment::under_id(slot, id, header));
        // It is opened where it is staged, and has its final name when anyone is told of it.
        segment.adopt(self.dir.join(Segment::file_name(id)), handle, len, len, false)?;
        let bytes = segment.bytes();
        if crc32fast::hash(bytes) != file.crc {
            return Err(format!("{name} does not match its checksum").into());
        }
        let scan = scan(bytes, &header, Some(len));
        let end = FileEnd { len, last: scan.tail };
        if let Some(what) = scan.differs_from(&end) {
            return Err(format!("{name}: {what}").into());
        }
        if scan.end != len {
            return Err(format!("{name} goes on after its end at {}", scan.end).into());
        }
        segment.set_end(end);
        segment.synced.store(true, Ordering::Release);
        segment.listed.store(true, Ordering::Release);
        let scan = (!header.compacted).then_some(scan);
        Ok((Staged { file: file.clone(), segment, before: header.before(), end }, scan))
    }

    /// The view and indexes of the staged files.
    fn view_of(&self, manifest: &SnapshotManifest, contents: &Contents) -> Result<View, EngineError> {
        let mut view = View { epochs: manifest.epoch_table.clone(), ..View::default() };
        let mut keys = 0;
        manifest.trees.iter().for_each(|tree| self.shared.add_tree(tree));
        for staged in &contents.files {
            view = view.with_segment(staged.segment.clone());
        }
        for (segment, scan) in &contents.segments {
            keys += scan.entries.len() as u64;
            for entry in scan.entries.iter().filter(|entry| entry.kind == Kind::Catalog) {
                let tree = segment.peek(entry.offset).and_then(|record| decode_catalog(&record));
                tree.iter().for_each(|tree| self.shared.add_tree(tree));
            }
        }
        view.index = Arc::new(HashIndex::with_capacity(keys));
        let time_ms = load(&self.shared, &mut view, &contents.segments, &contents.compacted, manifest.g0.last.gsn)?;
        self.show_time(time_ms.max(manifest.committed_time_ms));
        Ok(view)
    }

    /// Replaces data that are in use: nobody reads, compacts or takes a log meanwhile.
    fn out_of_use(&self, replace: impl FnOnce() -> Result<(), EngineError>) -> Result<(), EngineError> {
        let _stopped = self.stop_housekeeping();
        self.keeps_itself()?;
        self.ready.store(false, Ordering::Release);
        let replaced = replace();
        self.ready.store(self.state().is_usable(), Ordering::Release);
        replaced
    }

    /// The switch, and the running shard with it.
    fn replace(
        &self,
        manifest: &SnapshotManifest,
        staging: &Staging,
        staged: Vec<Staged>,
        view: View,
    ) -> Result<(), EngineError> {
        let (shared, g0) = (&self.shared, manifest.g0);
        let _io = self.io.lock();
        let mut files = self.files.lock();
        let _apply = self.apply.lock();
        let own = files.manifest().commit.max(self.commit());
        if let Some(epoch) = self.log.lock().open {
            return Err(EngineError::FullSync(format!("shard {} leads epoch {epoch} by now", self.id)));
        }
        if g0.last.gsn < own {
            return Err(EngineError::FullSync(format!("the commit is {own} by now: take a newer snapshot")));
        }
        for s in &staged {
            let (from, to) = (staging.path(&s.file.name), self.dir.join(Segment::file_name(s.segment.id())));
            shared.disk.rename(&from, &to).map_err(io_error("rename", &from))?;
        }
        // The switch makes the new names durable before it makes them the shard's.
        let new: Vec<u32> = staged.iter().map(|s| s.segment.id()).collect();
        let present = shared.disk.list(&self.dir).map_err(io_error("list", &self.dir))?;
        let dropped: Vec<u32> =
            present.iter().filter_map(|e| Segment::id_of(&e.name)).filter(|id| !new.contains(id)).collect();
        let entries: Vec<FileEntry> = staged
            .iter()
            .map(|s| FileEntry {
                id: s.segment.id(),
                compacted: s.segment.header.compacted,
                before: s.before,
                end: Some(s.end),
                prepared: false,
            })
            .collect();
        let next_file_id = new.iter().chain(&dropped).map(|id| id.saturating_add(1)).max().unwrap_or(1);
        let committed_time_ms = self.committed_time_ms();
        // The files that were damaged are not among the new ones.
        let state = match files.state() {
            ShardState::Damaged { .. } => ShardState::Ready,
            other => other.clone(),
        };
        let switched = files.switch_to(shared, &self.dir, state, |next| {
            next.next_file_id = next.next_file_id.max(next_file_id);
            next.log_floor = manifest.log_floor;
            next.tombstone_floor = manifest.tombstone_floor;
            next.commit = g0.last.gsn;
            next.committed_time_ms = committed_time_ms;
            next.mark = g0;
            next.epochs = manifest.epoch_table.clone();
            next.adopted = new.iter().copied().collect();
            next.files = entries;
            next.drops = dropped.clone();
            if self.id == 0 {
                next.trees = shared.trees.load().as_ref().clone();
            }
        });
        shared.failing(switched)?;
        files.set_void(false);
        {
            let mut log = self.log.lock();
            let freed = log.install(g0, manifest.epoch_table.clone(), staged.len() as u32);
            log.next_file_id = log.next_file_id.max(next_file_id);
            log.time = LogTime::new(committed_time_ms);
            self.spares.store(0, Ordering::Relaxed);
            shared.memory_bytes.fetch_sub(freed, Ordering::Relaxed);
            self.view.store(Arc::new(view));
            for position in [&self.tail_gsn, &self.synced_gsn, &self.commit_gsn, &self.applied_gsn] {
                position.store(g0.last.gsn, Ordering::Release);
            }
        }
        // Whoever still reads the old files holds them open.
        Files::unlink(shared, &self.dir, dropped);
        Ok(())
    }

    /// Makes a shard empty whose files were not usable and whose rebuilding was decided: the log comes from
    /// its very beginning.
    pub(crate) fn drop_unusable(&self) -> Result<(), EngineError> {
        let mut files = self.files.lock();
        if !files.is_void() {
            return Ok(());
        }
        aside::finish(&self.shared.disk, &self.dir, files.in_force())?;
        let present = self.shared.disk.list(&self.dir).map_err(io_error("list", &self.dir))?;
        let dropped: Vec<u32> = present.iter().filter_map(|e| Segment::id_of(&e.name)).collect();
        let next_file_id = dropped.iter().map(|id| id.saturating_add(1)).max().unwrap_or(1);
        let switched = files.switch(&self.shared, &self.dir, |next| {
            next.next_file_id = next.next_file_id.max(next_file_id);
            (next.log_floor, next.tombstone_floor, next.commit, next.mark) = (1, 0, 0, LogTail::default());
            next.epochs = EpochTable::new();
            next.files.clear();
            next.adopted.clear();
            next.trees.clear();
            next.drops = dropped.clone();
        });
        self.shared.failing(switched)?;
        files.set_void(false);
        let mut log = self.log.lock();
        log.next_file_id = log.next_file_id.max(next_file_id);
        drop(log);
        Files::unlink(&self.shared, &self.dir, dropped);
        Ok(())
    }
}
