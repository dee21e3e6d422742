//! A file that compaction writes: records in gsn order under a temporary name, durable before it gets its own.
//!
//! Its number is given out at the very end, under the lock on the set of files, so that no file with a higher
//! number can be listed before it. Dropped before that, it takes its temporary file along, unless the engine has failed
//! meanwhile.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::DiskFile;
use crate::engine::error::EngineError;
use crate::engine::format::manifest::{FileEnd, FileEntry};
use crate::engine::format::record::{Record, chain};
use crate::engine::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::engine::index::Location;
use crate::engine::segment::{Segment, io_error};
use crate::engine::shard::Shard;
use crate::position::{EpochTable, Gsn, LogPosition, LogTail};

/// Bytes gathered for one write.
const WRITE_BYTES: usize = 1 << 20;

/// A live record that was copied.
pub(super) struct Move {
    pub(super) hash: u64,
    pub(super) from: Location,
    /// Where it is in the output, in bytes.
    pub(super) to: u64,
}

/// See the module's comment.
pub(super) struct Output<'a> {
    shard: &'a Shard,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    buf: Vec<u8>,
    /// Bytes of the file, the buffered ones included.
    len: u64,
    first_gsn: Gsn,
    last_gsn: Gsn,
    chain: u32,
    pub(super) moves: Vec<Move>,
    /// Whether the file still has its temporary name.
    temporary: bool,
}

impl<'a> Output<'a> {
    /// An empty one; `number` tells the outputs of one compaction apart.
    pub(super) fn create(shard: &'a Shard, number: usize) -> Result<Self, EngineError> {
        let path = shard.dir.join(format!("compaction-{number}.tmp"));
        let disk = &shard.shared.disk;
        if disk.exists(&path).map_err(io_error("look for", &path))? {
            disk.remove_file(&path).map_err(io_error("remove", &path))?;
        }
        let file = disk.create(&path).map_err(io_error("create", &path))?;
        Ok(Self {
            shard,
            path,
            file,
            buf: Vec::new(),
            len: SEGMENT_HEADER_BYTES,
            first_gsn: 0,
            last_gsn: 0,
            chain: 0,
            moves: Vec::new(),
            temporary: true,
        })
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Adds a record, whose gsn is above all before it; where it is now.
    pub(super) fn push(&mut self, record: &Record<'_>) -> Result<u64, EngineError> {
        let at = self.len;
        debug_assert!(record.gsn() > self.last_gsn, "outputs ascend");
        if self.first_gsn == 0 {
            self.first_gsn = record.gsn();
        }
        self.last_gsn = record.gsn();
        self.chain = chain(self.chain, record.crc());
        self.buf.extend_from_slice(record.bytes());
        self.len += record.len() as u64;
        if self.buf.len() >= WRITE_BYTES {
            self.flush()?;
        }
        Ok(at)
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        let offset = self.len - self.buf.len() as u64;
        self.file.write_at(&[IoSlice::new(&self.buf)], offset).map_err(io_error("write", &self.path))?;
        self.buf.clear();
        Ok(())
    }

    /// Makes all records durable.
    pub(super) fn finish(&mut self) -> Result<(), EngineError> {
        self.flush()?;
        self.file.sync_data().map_err(io_error("sync", &self.path))
    }

    /// Gives it its number and name, under the lock on the set of files; the switch that lists it syncs the
    /// directory.
    pub(super) fn name(&mut self, id: u32, slot: u32, epochs: &EpochTable) -> Result<Arc<Segment>, EngineError> {
        let shared = &self.shard.shared;
        let header = SegmentHeader {
            shard: self.shard.id,
            compacted: true,
            cluster_id: *shared.cluster_id.read(),
            file_id: id,
            base_gsn: self.first_gsn,
            epoch: epochs.epoch_at(self.first_gsn - 1),
            chain: 0,
        };
        self.file.write_at(&[IoSlice::new(&header.encode())], 0).map_err(io_error("write", &self.path))?;
        self.file.sync_data().map_err(io_error("sync", &self.path))?;
        let path = self.shard.dir.join(Segment::file_name(id));
        shared.disk.rename(&self.path, &path).map_err(io_error("rename", &self.path))?;
        self.path.clone_from(&path);
        let segment = Segment::planned(slot, header);
        segment.adopt(path, self.file.clone(), self.len, self.len, false)?;
        let last = LogPosition { epoch: header.epoch, gsn: self.last_gsn };
        segment.set_end(FileEnd { len: self.len, last: LogTail { last, chain: self.chain } });
        segment.synced.store(true, Ordering::Release);
        segment.listed.store(true, Ordering::Release);
        Ok(Arc::new(segment))
    }

    /// The manifest lists it: it stays.
    pub(super) fn keep(&mut self) {
        self.temporary = false;
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        // If a switch has failed nobody knows whether the disk lists it: then it must stay. The next open knows, and
        // removes what is not listed.
        if self.temporary
            && !self.shard.shared.poison.is_set()
            && let Err(error) = self.shard.shared.disk.remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "what a compaction wrote stays until the next open");
        }
    }
}

/// How the manifest lists an output.
pub(super) fn entry(segment: &Segment) -> FileEntry {
    FileEntry {
        id: segment.id(),
        compacted: true,
        before: segment.header.before(),
        end: segment.end(),
        prepared: false,
    }
}
