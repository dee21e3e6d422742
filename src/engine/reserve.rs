//! The reserve: a file of zeros that is given up when the disk has no room left for what must be written all the same.
//!
//! That is what leadership and freeing room depend on: a BARRIER and what is queued before it, a log that was promised
//! to be durable, a manifest. Ordinary writes never take it; they are refused long before, by the figures of the file
//! system. It is kept by housekeeping, as soon as there is room to spare, and spent whole: the next write after that
//! finds its blocks free. Others on the same file system may be faster; then the write fails, and is told by name.
//! It is twice what a segment takes at once: one, and the manifest that lists it, find room in it. What is rewritten in
//! its place (`node.meta`, `shard.meta`) needs none.

use std::sync::atomic::Ordering;

use super::error::EngineError;
use super::segment::io_error;
use super::shared::{Shared, is_full};

/// Its name in the data directory.
pub(crate) const RESERVE: &str = "reserve";

impl Shared {
    /// Makes the reserve if it is not there and the disk has room to spare. Failing costs nothing but the reserve.
    pub(crate) fn keep_reserve(&self) {
        if self.reserve_kept.load(Ordering::Acquire) {
            return;
        }
        match self.make_reserve() {
            Ok(kept) => self.reserve_kept.store(kept, Ordering::Release),
            Err(error) => tracing::debug!(%error, "no reserve for a full disk yet"),
        }
    }

    fn make_reserve(&self) -> Result<bool, EngineError> {
        let (disk, path, bytes) = (&self.disk, self.dir.join(RESERVE), 2 * self.options.zero_ahead_bytes);
        let exists = disk.exists(&path).map_err(io_error("look for", &path))?;
        let file = if exists {
            disk.open(&path)
        } else {
            let space = disk.space(&self.dir).map_err(io_error("measure the room of", &self.dir))?;
            if space.available_bytes < self.reserve_bytes(space.total_bytes).saturating_add(bytes) {
                return Ok(false);
            }
            disk.create(&path)
        };
        let file = file.map_err(io_error("open", &path))?;
        let len = file.len().map_err(io_error("measure", &path))?;
        // Zeros that are there: a promise of blocks would be broken by some file systems.
        file.zero_ahead(len.min(bytes), bytes - len.min(bytes)).map_err(io_error("zero", &path))?;
        file.sync_data().map_err(io_error("sync", &path))?;
        disk.sync_dir(&self.dir).map_err(io_error("sync", &self.dir))?;
        Ok(true)
    }

    /// Gives the reserve up; false if there is none.
    pub(crate) fn spend_reserve(&self) -> bool {
        let path = self.dir.join(RESERVE);
        if self.disk.remove_file(&path).is_err() {
            return false;
        }
        self.reserve_kept.store(false, Ordering::Release);
        // Some file systems give blocks back only with the transaction that removed them.
        let _ = self.disk.sync_dir(&self.dir);
        tracing::warn!(path = %path.display(), "no room on the disk: the reserve is spent on what must be written");
        true
    }

    /// Does what must succeed also on a full disk: once more, with the reserve, if there was no room.
    pub(crate) fn with_reserve<T>(&self, mut write: impl FnMut() -> Result<T, EngineError>) -> Result<T, EngineError> {
        match write() {
            Err(error) if is_full(&error) && self.spend_reserve() => write(),
            other => other,
        }
    }
}
