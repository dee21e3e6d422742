//! The disk of this machine: `std::fs`, `rustix` for what std lacks, `memmap2` for mappings.
//!
//! Owns nothing but file descriptors. Directory locks are `flock`s on a file `LOCK` inside the directory,
//! which [`Disk::list`] does not show: a directory that was only ever locked still counts as empty.
//! An error is passed on as the system gave it, except that a full quota is told as `StorageFull`, as a full
//! disk is. Nothing is retried but interrupted calls: after a failed `fdatasync` the caller must not go on.

use std::alloc::Layout;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{Advice, FlockOperation, Mode, OFlags};

use super::fault::{Noting, Tracked};
use super::{DirEntry, DirLock, Disk, DiskFile, DiskMap, FAULT_NOTE_BYTES, FaultWatch, NO_FAULT, Space};

/// Name of the file whose `flock` is a directory's lock.
const LOCK_NAME: &str = "LOCK";
/// Zeros are written from one buffer of this size, repeated: a single 4 MiB `pwritev` of 64 of these costs
/// least, and the pages it makes are cheap to fault in afterwards (unlike merely `fallocate`d space).
const ZEROS_LEN: usize = 64 * 1024;
static ZEROS: [u8; ZEROS_LEN] = [0; ZEROS_LEN];
/// Linux takes at most this many buffers a call.
const MAX_IOVECS: usize = 1024;
/// Unit of mappings.
const PAGE_BYTES: u64 = 4096;
/// Offset, length and memory of a direct read are multiples of this.
const DIRECT_ALIGN: usize = 4096;
/// Largest bounce buffer of a direct read.
const DIRECT_CHUNK: usize = 1024 * 1024;

/// The file systems of this machine.
#[derive(Debug, Clone, Default)]
pub struct RealDisk {
    _private: (),
}

impl RealDisk {
    /// A handle; holds nothing.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(full)?;
        Ok(RealFile::shared(file, path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(RealFile::shared(OpenOptions::new().read(true).write(true).open(path)?, path))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(RealFile::shared(File::open(path)?, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to).map_err(full)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path).map_err(full)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{name:?} in {} is not UTF-8", dir.display()))
            })?;
            if name == LOCK_NAME {
                continue;
            }
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed between the two calls.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let is_dir = metadata.is_dir();
            entries.push(DirEntry { name, is_dir, len: if is_dir { 0 } else { metadata.len() } });
        }
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let path = dir.join(LOCK_NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(full)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock { _file: file, path }))
    }

    fn is_locked(&self, dir: &Path) -> io::Result<bool> {
        let inode = match std::fs::metadata(dir.join(LOCK_NAME)) {
            Ok(metadata) => metadata.ino().to_string(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        // `1: FLOCK  ADVISORY  WRITE 4711 08:02:131073 0 EOF`. The device is not compared: some file systems
        // show another one here than in their files' metadata.
        let locks = std::fs::read_to_string("/proc/locks")?;
        let is_ours = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(1) == Some(&"FLOCK")
                && fields.iter().any(|f| f.split(':').count() == 3 && f.rsplit(':').next() == Some(&inode))
        };
        Ok(locks.lines().any(is_ours))
    }

    fn note_faults(&self, dir: &Path, note: &Path) -> io::Result<Box<dyn FaultWatch>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(note).map_err(full)?;
        if file.metadata()?.len() < FAULT_NOTE_BYTES as u64 {
            // Written now, so that writing a note later needs no room.
            file.write_all_at(&NO_FAULT, 0).map_err(full)?;
            file.sync_all()?;
            self.sync_dir(dir)?;
        }
        Ok(Box::new(Noting::start(dir, file)?))
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Space {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

/// A full quota is a full disk to its user.
fn full(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::QuotaExceeded { io::Error::new(io::ErrorKind::StorageFull, error) } else { error }
}

#[derive(Debug)]
struct RealLock {
    /// Closing it gives the lock back, also when the process is killed.
    _file: File,
    #[expect(dead_code, reason = "shown by Debug")]
    path: PathBuf,
}

impl DirLock for RealLock {}

impl FaultWatch for Noting {}

#[derive(Debug)]
struct RealFile {
    file: Arc<File>,
    path: PathBuf,
    /// The same file opened for direct reads, made at the first one; `None` where the file system has none.
    direct: OnceLock<Option<File>>,
}

impl RealFile {
    fn shared(file: File, path: &Path) -> Arc<dyn DiskFile> {
        Arc::new(Self { file: Arc::new(file), path: path.to_owned(), direct: OnceLock::new() })
    }

    fn direct(&self) -> Option<&File> {
        self.direct
            .get_or_init(|| {
                // Through /proc, so that it is this file even after a rename or an unlink.
                let by_fd = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
                rustix::fs::open(by_fd.as_str(), flags, Mode::empty()).ok().map(File::from)
            })
            .as_ref()
    }

    /// One aligned direct read for the start of `buf`: the bytes it gave, 0 at the end of the file.
    fn read_direct(direct: &File, bounce: &mut AlignedBuffer, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = offset / DIRECT_ALIGN as u64 * DIRECT_ALIGN as u64;
        let skip = (offset - start) as usize;
        let want = (skip + buf.len()).next_multiple_of(DIRECT_ALIGN).min(bounce.len());
        let got = retry(|| rustix::io::pread(direct, &mut bounce.as_mut_slice()[..want], start))?;
        let n = got.saturating_sub(skip).min(buf.len());
        buf[..n].copy_from_slice(&bounce.as_mut_slice()[skip..skip + n]);
        Ok(n)
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let n = retry(|| rustix::io::pread(&self.file, &mut buf[done..], offset + done as u64))?;
            if n == 0 {
                break;
            }
            done += n;
        }
        Ok(done)
    }

    fn read_at_uncached(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if let Some(direct) = self.direct() {
            let mut bounce = AlignedBuffer::new((buf.len() + 2 * DIRECT_ALIGN).min(DIRECT_CHUNK));
            let mut done = 0;
            loop {
                match Self::read_direct(direct, &mut bounce, &mut buf[done..], offset + done as u64) {
                    Ok(0) => return Ok(done),
                    Ok(n) => done += n,
                    // The file system takes the flag but not this alignment: read it the other way.
                    Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
                    Err(e) => return Err(e),
                }
                if done == buf.len() {
                    return Ok(done);
                }
            }
        }
        // Best effort: pages that are mapped or dirty stay in the cache.
        rustix::fs::fadvise(&self.file, offset, std::num::NonZeroU64::new(buf.len() as u64), Advice::DontNeed)?;
        self.read_at(buf, offset)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let mut owned: Vec<IoSlice<'_>> = bufs.iter().filter(|b| !b.is_empty()).copied().collect();
        let mut rest = owned.as_mut_slice();
        while !rest.is_empty() {
            let take = rest.len().min(MAX_IOVECS);
            let n = retry(|| rustix::io::pwritev(&self.file, &rest[..take], offset)).map_err(full)?;
            if n == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::WriteZero,
                    format!("{} takes no bytes at {offset}", self.path.display()),
                ));
            }
            offset += n as u64;
            IoSlice::advance_slices(&mut rest, n);
        }
        Ok(())
    }

    fn zero_ahead(&self, mut offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        while offset < end {
            let mut bufs = Vec::with_capacity(64);
            let mut left = end - offset;
            while left > 0 && bufs.len() < 64 {
                let n = left.min(ZEROS_LEN as u64);
                bufs.push(IoSlice::new(&ZEROS[..n as usize]));
                left -= n;
            }
            self.write_at(&bufs, offset)?;
            offset = end - left;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not retried, not even when interrupted: whether the first call lost something is unknowable.
        rustix::fs::fdatasync(&self.file).map_err(io::Error::from)
    }

    fn sync_mapped(&self, map: &dyn DiskMap, offset: u64, len: u64) -> io::Result<()> {
        let start = offset / PAGE_BYTES * PAGE_BYTES;
        let end = (offset + len).min(map.len() as u64);
        if end <= start {
            return Ok(());
        }
        // Linux syncs the range of the file, as `fdatasync` does the whole. Not retried either.
        // SAFETY: the range lies within the mapping, which outlives the call; no byte is changed.
        let synced = unsafe {
            let at = map.as_ptr().cast_mut().add(start as usize);
            rustix::mm::msync(at.cast(), (end - start) as usize, rustix::mm::MsyncFlags::SYNC)
        };
        synced.map_err(io::Error::from)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn map(&self, len: u64, writable: bool) -> io::Result<Arc<dyn DiskMap>> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut options = MmapOptions::new();
        options.len(len);
        let map = if writable { options.map_raw(&*self.file)? } else { options.map_raw_read_only(&*self.file)? };
        let tracked = Tracked::new(map.as_ptr(), map.len(), &self.file, &self.path);
        Ok(Arc::new(RealMap { _tracked: tracked, map, writable }))
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

#[derive(Debug)]
struct RealMap {
    /// Before the mapping: it is dropped first.
    _tracked: Tracked,
    map: MmapRaw,
    writable: bool,
}

impl DiskMap for RealMap {
    fn as_ptr(&self) -> *const u8 {
        self.map.as_ptr()
    }

    fn as_mut_ptr(&self) -> *mut u8 {
        assert!(self.writable, "the mapping was made read-only");
        self.map.as_mut_ptr()
    }

    fn populate(&self, offset: u64, len: u64) {
        let start = offset / PAGE_BYTES * PAGE_BYTES;
        let end = (offset + len).min(self.map.len() as u64);
        if !self.writable || end <= start {
            return;
        }
        // SAFETY: the range lies within the mapping, which lives as long as `self`; populating changes no byte.
        // A kernel that does not know the advice refuses it, and the writer takes the faults.
        let _ = unsafe {
            rustix::mm::madvise(
                self.map.as_mut_ptr().add(start as usize).cast(),
                (end - start) as usize,
                rustix::mm::Advice::LinuxPopulateWrite,
            )
        };
    }

    fn len(&self) -> usize {
        self.map.len()
    }
}

/// Memory aligned for direct reads.
struct AlignedBuffer {
    ptr: std::ptr::NonNull<u8>,
    layout: Layout,
}

impl AlignedBuffer {
    fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len.next_multiple_of(DIRECT_ALIGN).max(DIRECT_ALIGN), DIRECT_ALIGN)
            .expect("a bounce buffer is far below isize::MAX");
        // SAFETY: the layout is not empty.
        let ptr = unsafe { std::alloc::alloc_zeroed(layout) };
        let ptr = std::ptr::NonNull::new(ptr).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        Self { ptr, layout }
    }

    fn len(&self) -> usize {
        self.layout.size()
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: the memory is ours alone, zeroed when made, and lives as long as the borrow.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.layout.size()) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, freed once.
        unsafe { std::alloc::dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn gathered_buffers_are_written_one_after_the_other_and_a_mapping_sees_them() {
        let dir = dir();
        let disk = RealDisk::new();
        let path = dir.path().join("a");
        let file = disk.create(&path).unwrap();
        assert_eq!(disk.create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let map = file.map(1 << 20, false).unwrap();
        let many: Vec<[u8; 3]> = (0..3000u32).map(|i| [i as u8, (i >> 8) as u8, 7]).collect();
        let bufs: Vec<IoSlice<'_>> = many.iter().map(|b| IoSlice::new(b)).collect();
        file.write_at(&bufs, 5).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 5 + 9000);
        // SAFETY: within the file's length, and nobody writes.
        let seen = unsafe { std::slice::from_raw_parts(map.as_ptr().add(5), 9000) };
        assert_eq!(seen, many.concat());
        let mut back = vec![0; 20_000];
        assert_eq!(file.read_at(&mut back, 5).unwrap(), 9000);
        assert_eq!(back[..9000], many.concat());
    }

    #[test]
    fn an_uncached_read_gives_the_same_bytes_at_any_offset_and_stops_at_the_end() {
        let dir = dir();
        let disk = RealDisk::new();
        let file = disk.create(&dir.path().join("a")).unwrap();
        let bytes: Vec<u8> = (0..3_000_001u32).map(|i| (i * 31 % 251) as u8).collect();
        file.write_at(&[IoSlice::new(&bytes)], 0).unwrap();
        for (offset, len) in [(0, 10), (4095, 2), (1, 2_500_000), (2_999_990, 100), (3_000_001, 5), (4_000_000, 5)] {
            let mut buf = vec![0; len];
            let n = file.read_at_uncached(&mut buf, offset as u64).unwrap();
            let want = &bytes[offset.min(bytes.len())..(offset + len).min(bytes.len())];
            assert_eq!(&buf[..n], want, "{offset}+{len}");
        }
    }

    #[test]
    fn zeroing_ahead_extends_the_file_with_zeros() {
        let dir = dir();
        let file = RealDisk::new().create(&dir.path().join("a")).unwrap();
        file.write_at(&[IoSlice::new(b"head")], 0).unwrap();
        file.zero_ahead(4, (5 << 20) + 13).unwrap();
        assert_eq!(file.len().unwrap(), 4 + (5 << 20) + 13);
        let mut buf = vec![1; 100];
        assert_eq!(file.read_at(&mut buf, (5 << 20) - 50).unwrap(), 67);
        assert!(buf[..67].iter().all(|b| *b == 0));
    }

    #[test]
    fn a_writable_mapping_writes_the_file() {
        let dir = dir();
        let file = RealDisk::new().create(&dir.path().join("a")).unwrap();
        file.zero_ahead(0, 8192).unwrap();
        let map = file.map(1 << 20, true).unwrap();
        // SAFETY: within the file's length; this thread alone uses it.
        unsafe { std::ptr::copy_nonoverlapping(b"hello".as_ptr(), map.as_mut_ptr().add(5000), 5) };
        let mut buf = [0; 5];
        file.read_at(&mut buf, 5000).unwrap();
        assert_eq!(&buf, b"hello");
    }

    #[test]
    fn a_directory_has_one_holder_and_its_lock_file_is_not_listed() {
        let dir = dir();
        let disk = RealDisk::new();
        let lock = disk.lock_dir(dir.path()).unwrap();
        assert_eq!(disk.lock_dir(dir.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(disk.list(dir.path()).unwrap(), []);
        assert!(disk.is_locked(dir.path()).unwrap());
        drop(lock);
        assert!(!disk.is_locked(dir.path()).unwrap());
        disk.lock_dir(dir.path()).unwrap();
    }

    #[test]
    fn names_are_listed_sorted_and_renames_replace() {
        let dir = dir();
        let disk = RealDisk::new();
        disk.create_dir_all(&dir.path().join("z/y")).unwrap();
        disk.create(&dir.path().join("b")).unwrap().write_at(&[IoSlice::new(b"123")], 0).unwrap();
        disk.create(&dir.path().join("a")).unwrap();
        disk.rename(&dir.path().join("b"), &dir.path().join("a")).unwrap();
        disk.sync_dir(dir.path()).unwrap();
        let names: Vec<_> = disk.list(dir.path()).unwrap().into_iter().map(|e| (e.name, e.is_dir, e.len)).collect();
        assert_eq!(names, [("a".into(), false, 3), ("z".into(), true, 0)]);
        disk.remove_dir_all(&dir.path().join("z")).unwrap();
        assert!(!disk.exists(&dir.path().join("z")).unwrap());
        let space = disk.space(dir.path()).unwrap();
        assert!(space.total_bytes >= space.available_bytes && space.available_bytes > 0);
    }
}
