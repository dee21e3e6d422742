//! The disk seam: everything the engine asks of a file system, and nothing more.
//!
//! Two implementations: [`RealDisk`] and the in-memory
//! [`CrashDisk`], which may keep or drop any un-synced page in any order at a crash. The
//! engine holds an `Arc<dyn Disk>` and never touches `std::fs`.
//!
//! Invariants every implementation keeps: a successful [`DiskFile::sync_data`] makes every earlier write
//! to that file (and its length) survive a crash; names survive only after [`Disk::sync_dir`] of their
//! directory; [`Disk::rename`] is atomic. A mapping shows writes made through the same file at once, and
//! files are never shortened by the engine, so a mapping never faults for that reason. For what is left, a disk
//! that fails and strangers who shorten files, there is [`Disk::note_faults`].

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

mod crash;
mod fault;
mod fault_note;
mod real;

pub use crash::{CrashDisk, Fault, FaultOn, Image, Keep, Moment, Unsynced};
pub(crate) use fault_note::{FAULT_NOTE_BYTES, FaultNote, NO_FAULT};
pub use real::RealDisk;

/// A file system, as far as the engine needs one. Paths are absolute or relative to the process as usual.
pub trait Disk: Send + Sync + Debug {
    /// Creates a new, empty file, open for reading and writing. `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file for reading only.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Atomically gives `from` the name `to`, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name. Mappings and open handles stay valid.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and everything below it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its missing parents.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes the names in a directory survive a crash.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Whether a file or directory of this name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Takes the exclusive lock on a directory, held until the guard is dropped; `WouldBlock` if another holder has it.
    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>>;
    /// Whether somebody holds the lock on a directory; takes no lock itself, so it disturbs nobody who wants it.
    fn is_locked(&self, dir: &Path) -> io::Result<bool>;
    /// From now on, until the guard is dropped, a page of a file mapped below `dir` that cannot be read is noted in
    /// the file `note`, which lies in `dir`, before it ends the process. What has no such pages does nothing.
    fn note_faults(&self, dir: &Path, note: &Path) -> io::Result<Box<dyn FaultWatch>>;
    /// Size of the file system that holds `path`, and what of it a user without privileges may still take.
    fn space(&self, path: &Path) -> io::Result<Space>;
}

/// One open file. All offsets and lengths are bytes.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads into `buf` from `offset`; fewer bytes only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As [`Self::read_at`], past the page cache where the implementation can: after a failed sync the
    /// cache shows what the disk does not hold.
    fn read_at_uncached(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all the buffers one after the other from `offset`. An error may leave any part written.
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Fills `[offset, offset + len)` with zeros, extending the file; `StorageFull` if there is no room.
    fn zero_ahead(&self, offset: u64, len: u64) -> io::Result<()>;
    /// `fdatasync`: data and length survive a crash once this returns.
    fn sync_data(&self) -> io::Result<()>;
    /// As [`Self::sync_data`] for `[offset, offset + len)`, which was written through `map`, a mapping of this file. What
    /// lies elsewhere may stay as it is: pages that are zeroed ahead need not be written twice, nor be made writable
    /// again after a sync.
    fn sync_mapped(&self, map: &dyn DiskMap, offset: u64, len: u64) -> io::Result<()> {
        let _ = (map, offset, len);
        self.sync_data()
    }
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Maps `[0, len)` for reading and, if `writable`, for writing. `len` may pass the end of the file; the
    /// caller touches only what lies within its present length.
    fn map(&self, len: u64, writable: bool) -> io::Result<Arc<dyn DiskMap>>;
}

/// A shared mapping of a file. Other threads may write the same bytes: the holder reads only ranges
/// that a protocol of its own has published, and every record it reads carries a CRC.
pub trait DiskMap: Send + Sync + Debug {
    /// First byte of the mapping.
    fn as_ptr(&self) -> *const u8;
    /// First byte of a writable mapping.
    ///
    /// # Panics
    /// If the mapping was made read-only.
    fn as_mut_ptr(&self) -> *mut u8;
    /// Hints that `[offset, offset + len)`, which the file has, will be written soon: the page faults are taken here
    /// and not by the writer. A hint: nothing depends on it.
    fn populate(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
    /// Mapped bytes.
    fn len(&self) -> usize;
    /// Whether nothing is mapped.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Holds a directory's exclusive lock until dropped.
pub trait DirLock: Send + Sync + Debug {}

/// Has unreadable pages noted until dropped.
pub trait FaultWatch: Send + Sync + Debug {}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name, without its directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Length in bytes (0 for a directory).
    pub len: u64,
}

/// Size of a file system, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What may still be taken.
    pub available_bytes: u64,
}
