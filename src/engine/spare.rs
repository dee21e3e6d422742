//! The next segments' files, made before they are needed: a rotation under `Os` then does no I/O, and no writer waits for it.
//!
//! A file is made of zeros, its name synced, and listed in the manifest as *prepared* (one switch, which also says what
//! became of the one before it). Its zeros are not synced: what the machine's death takes of them says that no segment
//! began there. A rotation takes it in memory: it stores the header, which says where in the log
//! the segment begins, through the mapping, as it does the records after it. What a crash leaves of that explains itself:
//! a prepared file with a sound header is a segment of the log, and one without is not begun. Whoever comes to a
//! rotation before the next file is there makes it on the spot, as `Disk` does always.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::error::EngineError;
use super::files::Files;
use super::format::manifest::FileEntry;
use super::format::segment_header::SEGMENT_HEADER_BYTES;
use super::segment::{Segment, io_error, zero};
use super::shard::Shard;
use super::shared::{Shared, is_full};
use crate::disk::{Disk, DiskFile, DiskMap};

/// How often one is tried to make after an attempt that failed.
const RETRY: Duration = Duration::from_secs(1);
/// The part of the active segment that is used before the next files are made: who writes little needs none.
const WORTH_PART: u64 = 8;
/// With fewer than this, more are made: on a busy disk that takes as long as filling a segment does.
const FEW: usize = 4;
/// So many there are then: one switch for all that are made.
const ENOUGH: usize = 6;
/// Zeros a file begins with: as the log comes to it, they are made ahead of it as in every segment.
const AHEAD_BYTES: u64 = 2 << 20;

/// A file for a segment that has not begun.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) id: u32,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) map: Arc<dyn DiskMap>,
    /// Bytes of it that exist.
    pub(crate) zeroed: u64,
}

impl Spare {
    /// Makes the file: zeros ahead, mapping. Neither it nor its name is durable yet.
    pub(crate) fn make(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        id: u32,
        bytes: u64,
        ahead: u64,
        writable: bool,
    ) -> Result<Self, EngineError> {
        let path = dir.join(Segment::file_name(id));
        let fail = |operation| io_error(operation, &path);
        // A leftover of an attempt that failed for want of room: nothing refers to it.
        if disk.exists(&path).map_err(fail("look for"))? {
            disk.remove_file(&path).map_err(fail("remove"))?;
        }
        let file = disk.create(&path).map_err(fail("create"))?;
        let zeroed = ahead.clamp(SEGMENT_HEADER_BYTES, bytes);
        let zeroed = zero(&*file, 0, zeroed, SEGMENT_HEADER_BYTES).map_err(fail("zero"))?;
        let map = file.map(bytes, writable).map_err(fail("map"))?;
        Ok(Self { id, path, file, map, zeroed })
    }
}

/// Keeps files ready for the next segments of each shard, until the engine stops.
pub(crate) fn run(shared: &Shared, shards: &[Arc<Shard>]) {
    let stop = || shared.stopping.load(Ordering::Acquire) || shared.poison.is_set();
    let wanted = || shards.iter().any(|shard| shard.wants_spares(shard.log.lock().offset));
    while !stop() {
        // Looked at by itself now and then; the zeros' thread, which sees the log grow, wakes it.
        if !shared.spares.wait(Some(RETRY), || wanted() || stop()) {
            continue;
        }
        for shard in shards {
            if let Err(error) = shard.prepare_spares() {
                tracing::warn!(shard = shard.id, %error, "the next segment's file is made when it is needed");
                shared.spares.wait(Some(RETRY), stop);
            }
        }
    }
}

impl Shard {
    /// Whether files for the next segments are due, the active one being used up to `offset`.
    pub(crate) fn wants_spares(&self, offset: u64) -> bool {
        let shared = &self.shared;
        self.spares.load(Ordering::Relaxed) < FEW
            && offset >= shared.options.segment_bytes / WORTH_PART
            && shared.relaxed()
            && self.ready.load(Ordering::Acquire)
            && !shared.puts_refused.load(Ordering::Acquire)
    }

    /// Makes files for the next segments if they are due; whether it did. A full disk, or one that is about to be, costs
    /// the files; any other failure the engine's life.
    pub(crate) fn prepare_spares(&self) -> Result<bool, EngineError> {
        // Held throughout: nobody replaces the log, or makes the next file after all, meanwhile.
        let mut files = self.files.lock();
        let ids = {
            let mut log = self.log.lock();
            if !log.active.as_ref().is_some_and(|active| active.is_listed()) || !self.wants_spares(log.offset) {
                return Ok(false);
            }
            let first = log.next_file_id;
            log.next_file_id += ENOUGH.saturating_sub(log.spares.len()) as u32;
            first..log.next_file_id
        };
        match self.list_spares(&mut files, ids.clone()) {
            Ok(made) => {
                let mut log = self.log.lock();
                log.spares.extend(made);
                self.spares.store(log.spares.len(), Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if is_full(&error) => {
                Files::unlink(&self.shared, &self.dir, ids);
                Err(error)
            }
            Err(error) => self.shared.failing(Err(error)),
        }
    }

    fn list_spares(&self, files: &mut Files, ids: Range<u32>) -> Result<Vec<Spare>, EngineError> {
        let (shared, options) = (&self.shared, &self.shared.options);
        let ahead = options.zero_ahead_bytes.min(AHEAD_BYTES);
        let mut made = Vec::new();
        for id in ids.clone() {
            made.push(Spare::make(&shared.disk, &self.dir, id, options.segment_bytes, ahead, true)?);
        }
        for spare in &made {
            spare.map.populate(0, spare.zeroed);
        }
        let mark = self.log.lock().synced;
        let segments = self.log_segments();
        // The switch makes the names durable before it lists them.
        files.switch(shared, &self.dir, |manifest| {
            self.refresh(manifest, &segments, mark);
            manifest.next_file_id = manifest.next_file_id.max(ids.end);
            ids.for_each(|id| manifest.add_log_file(FileEntry::prepared(id)));
        })?;
        Ok(made)
    }
}
