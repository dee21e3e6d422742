//! What one file of the crash disk holds: the page cache that everybody sees, and the medium beneath it.
//!
//! The cache is one reserved anonymous mapping, so that mappings of the file are live and its memory never
//! moves. Un-synced is whatever differs between cache and medium, page by page, so that stores through a
//! writable mapping count too. A failed sync leaves its pages *lost*: seen in the cache, clean to the
//! kernel, never written by a later sync unless they are changed again.
//! Names, faults and operation counts are the parent's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;

use crate::disk::DiskMap;

/// Unit of write-back.
pub(super) const PAGE: usize = 4096;
/// Unit that a medium writes whole.
pub(super) const SECTOR: usize = 512;
/// Address space reserved a file, and so its largest length. Untouched pages cost nothing.
const RESERVED_BYTES: usize = 256 << 20;

type Page = Box<[u8; PAGE]>;

pub(super) struct Content {
    cache: Arc<MmapRaw>,
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    len: u64,
    media_len: u64,
    /// Pages of the medium; an absent one is zeros.
    media: BTreeMap<u64, Page>,
    /// Written since the last sync through `write`.
    dirty: BTreeSet<u64>,
    /// Somebody has had a writable mapping: any page may have changed.
    mapped_writable: bool,
    /// Pages whose write-back failed, as they were then.
    lost: BTreeMap<u64, Page>,
}

impl Content {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let cache = MmapOptions::new().len(RESERVED_BYTES).no_reserve_swap().map_anon()?;
        Ok(Arc::new(Self { cache: Arc::new(MmapRaw::from(cache)), state: Mutex::new(State::default()) }))
    }

    /// The same cache and medium in memory of its own.
    pub(super) fn fork(&self) -> io::Result<Arc<Self>> {
        let copy = Self::new()?;
        let state = self.state.lock().clone();
        for page in 0..state.len.div_ceil(PAGE as u64) {
            let bytes = self.page(page);
            if bytes.iter().any(|b| *b != 0) {
                copy.store(&bytes[..], page * PAGE as u64);
            }
        }
        // Mappings of the original are not mappings of the copy, but what they changed must stay found.
        *copy.state.lock() = state;
        Ok(copy)
    }

    pub(super) fn len(&self) -> u64 {
        self.state.lock().len
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let n = self.len().saturating_sub(offset).min(buf.len() as u64) as usize;
        // SAFETY: `offset + n` is within the file's length, and so within the reservation. Others may write
        // the same bytes through a mapping; a plain copy then gives some mixture, as a real read does.
        unsafe { std::ptr::copy_nonoverlapping(self.cache.as_ptr().add(offset as usize), buf.as_mut_ptr(), n) };
        n
    }

    /// As a direct read: dirty pages are written back first, lost ones show the medium.
    pub(super) fn read_uncached(&self, buf: &mut [u8], offset: u64) -> usize {
        let n = self.read(buf, offset);
        let state = self.state.lock();
        for (&page, snapshot) in &state.lost {
            if *self.page(page) != **snapshot {
                continue;
            }
            let medium = state.medium(page);
            let start = page * PAGE as u64;
            let (from, to) = (start.max(offset), (start + PAGE as u64).min(offset + n as u64));
            if from < to {
                buf[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&medium[(from - start) as usize..(to - start) as usize]);
            }
        }
        n
    }

    /// How much longer a write of `[offset, offset + len)` makes the file.
    pub(super) fn growth(&self, offset: u64, len: u64) -> io::Result<u64> {
        let end = offset.checked_add(len).filter(|end| *end <= RESERVED_BYTES as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, format!("a file of the crash disk ends at {RESERVED_BYTES}"))
        })?;
        Ok(end.saturating_sub(self.len()))
    }

    /// Writes to the cache; [`Self::growth`] has judged the range.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        self.store(bytes, offset);
        let end = offset + bytes.len() as u64;
        state.len = state.len.max(end);
        for page in offset / PAGE as u64..end.div_ceil(PAGE as u64) {
            state.dirty.insert(page);
            state.lost.remove(&page);
        }
    }

    pub(super) fn zero(&self, offset: u64, len: u64) {
        self.write(&vec![0; len as usize], offset);
    }

    pub(super) fn sync(&self) {
        let mut state = self.state.lock();
        for page in self.unsynced_pages(&state) {
            let bytes = self.page(page);
            state.media.insert(page, bytes);
            state.lost.remove(&page);
        }
        state.media_len = state.len;
        state.dirty.clear();
    }

    /// A sync that failed: nothing reached the medium, and nobody will try again.
    pub(super) fn sync_failed(&self) {
        let mut state = self.state.lock();
        for page in self.unsynced_pages(&state) {
            let bytes = self.page(page);
            state.lost.insert(page, bytes);
        }
        state.dirty.clear();
    }

    pub(super) fn map(&self, len: u64, writable: bool) -> io::Result<Arc<dyn DiskMap>> {
        if len > RESERVED_BYTES as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a file of the crash disk ends at {RESERVED_BYTES}"),
            ));
        }
        self.state.lock().mapped_writable |= writable;
        Ok(Arc::new(CrashMap { cache: self.cache.clone(), len: len as usize, writable }))
    }

    /// Overwrites cache and medium alike: rot.
    pub(super) fn rot(&self, bytes: &[u8], offset: u64) {
        self.write(bytes, offset);
        let mut state = self.state.lock();
        for page in offset / PAGE as u64..(offset + bytes.len() as u64).div_ceil(PAGE as u64) {
            let mut medium = state.medium(page);
            let start = page * PAGE as u64;
            let (from, to) = (start.max(offset), (start + PAGE as u64).min(offset + bytes.len() as u64));
            medium[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&bytes[(from - offset) as usize..(to - offset) as usize]);
            state.media.insert(page, medium);
        }
    }

    /// The un-synced length (from, to) and pages, for a crash to choose from.
    pub(super) fn unsynced(&self) -> (Option<(u64, u64)>, Vec<u64>) {
        let state = self.state.lock();
        let length = (state.len != state.media_len).then_some((state.media_len, state.len));
        (length, self.unsynced_pages(&state))
    }

    /// What the medium holds once `len` and the chosen sectors of un-synced pages have reached it.
    pub(super) fn after_crash(&self, len: u64, kept: &[(u64, u8)]) -> io::Result<Arc<Self>> {
        let survivor = Self::new()?;
        let state = self.state.lock();
        let mut media = state.media.clone();
        for &(page, sectors) in kept {
            let cached = self.page(page);
            let mut bytes = state.medium(page);
            for sector in (0..PAGE / SECTOR).filter(|s| sectors & (1 << s) != 0) {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                bytes[range.clone()].copy_from_slice(&cached[range]);
            }
            media.insert(page, bytes);
        }
        media.retain(|page, _| page * (PAGE as u64) < len);
        if let Some(mut last) = media.last_entry() {
            // What lies beyond the end is not part of the file.
            let beyond = (len - last.key() * PAGE as u64).min(PAGE as u64) as usize;
            last.get_mut()[beyond..].fill(0);
        }
        for (page, bytes) in &media {
            survivor.store(&bytes[..], page * PAGE as u64);
        }
        *survivor.state.lock() = State { len, media_len: len, media, ..State::default() };
        Ok(survivor)
    }

    fn unsynced_pages(&self, state: &State) -> Vec<u64> {
        let differs = |page: &u64| {
            let bytes = self.page(*page);
            let same = match state.media.get(page) {
                Some(medium) => bytes == *medium,
                None => bytes.iter().all(|b| *b == 0),
            };
            !same && state.lost.get(page).is_none_or(|snapshot| bytes != *snapshot)
        };
        if state.mapped_writable {
            (0..state.len.div_ceil(PAGE as u64)).filter(differs).collect()
        } else {
            state.dirty.iter().copied().filter(differs).collect()
        }
    }

    fn page(&self, page: u64) -> Page {
        let mut bytes = Box::new([0; PAGE]);
        // SAFETY: callers name pages below the file's length, so within the reservation (a multiple of the
        // page size). A racing store through a mapping gives some mixture, as write-back would.
        unsafe {
            std::ptr::copy_nonoverlapping(self.cache.as_ptr().add(page as usize * PAGE), bytes.as_mut_ptr(), PAGE);
        }
        bytes
    }

    fn store(&self, bytes: &[u8], offset: u64) {
        // SAFETY: `growth` has checked that the range lies in the reservation. Readers of the same bytes
        // through a mapping follow a protocol of their own, as with a real shared mapping.
        unsafe {
            let to = self.cache.as_mut_ptr().add(offset as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }
}

impl State {
    fn medium(&self, page: u64) -> Page {
        self.media.get(&page).cloned().unwrap_or_else(|| Box::new([0; PAGE]))
    }
}

struct CrashMap {
    cache: Arc<MmapRaw>,
    len: usize,
    writable: bool,
}

impl std::fmt::Debug for CrashMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CrashMap").field("len", &self.len).field("writable", &self.writable).finish()
    }
}

impl DiskMap for CrashMap {
    fn as_ptr(&self) -> *const u8 {
        self.cache.as_ptr()
    }

    fn as_mut_ptr(&self) -> *mut u8 {
        assert!(self.writable, "the mapping was made read-only");
        self.cache.as_mut_ptr()
    }

    fn len(&self) -> usize {
        self.len
    }
}
