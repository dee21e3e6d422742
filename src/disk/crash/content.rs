//! What one file of the crash disk holds: the page cache that everybody sees, and the medium beneath it.
//!
//! The cache is one reserved anonymous mapping, so that mappings of the file are live and its memory never
//! moves. Un-synced is whatever differs between cache and medium, page by page, so that stores through a
//! writable mapping count too. A failed sync leaves its pages *lost*: seen in the cache, clean to the
//! kernel, never written by a later sync unless they are changed again.
//! Names, faults and operation counts are the parent's; which of it a crash keeps is `moment`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::cache::{CacheMap, RESERVED_BYTES};
use crate::disk::DiskMap;

/// Unit of write-back.
pub(super) const PAGE: usize = 4096;
/// Unit that a medium writes whole.
pub(super) const SECTOR: usize = 512;

/// Never changed once it is shared: what a moment remembers costs a pointer a page.
pub(super) type Page = Arc<[u8; PAGE]>;
/// Pages by number; an absent one is zeros.
pub(super) type Pages = BTreeMap<u64, Page>;

pub(super) struct Content {
    cache: Arc<CacheMap>,
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    len: u64,
    media_len: u64,
    media: Pages,
    /// Written since the last sync through `write`.
    dirty: BTreeSet<u64>,
    /// What a dirty page held before each later write to it, oldest first: write-back may have come in between.
    earlier: BTreeMap<u64, Vec<Page>>,
    /// Somebody has had a writable mapping: any page may have changed.
    mapped_writable: bool,
    /// Pages whose write-back failed, as they were then.
    lost: Pages,
}

/// A page that a crash may keep or not.
#[derive(Clone)]
pub(super) struct DirtyPage {
    pub(super) number: u64,
    pub(super) cached: Page,
    /// As [`State::earlier`].
    pub(super) earlier: Vec<Page>,
}

/// One file at one moment, apart from its cache.
#[derive(Clone)]
pub(super) struct FileMoment {
    state: State,
    pub(super) dirty: Vec<DirtyPage>,
    /// Every page in which cache and medium differ, the lost ones too, as the cache has it.
    differing: Pages,
}

impl FileMoment {
    /// Bytes on the medium and in the cache.
    pub(super) fn lengths(&self) -> (u64, u64) {
        (self.state.media_len, self.state.len)
    }

    pub(super) fn medium(&self, page: u64) -> Page {
        self.state.medium(page)
    }

    /// The medium's pages.
    pub(super) fn media(&self) -> &Pages {
        &self.state.media
    }

    /// The same cache and medium in memory of its own. Mappings of the original are none of the copy, but what
    /// they changed stays un-synced.
    pub(super) fn fork(&self) -> io::Result<Arc<Content>> {
        let copy = Content::new()?;
        for (page, bytes) in self.state.media.iter().filter(|(page, _)| !self.differing.contains_key(page)) {
            copy.store(&bytes[..], page * PAGE as u64);
        }
        for (page, bytes) in &self.differing {
            copy.store(&bytes[..], page * PAGE as u64);
        }
        *copy.state.lock() = self.state.clone();
        Ok(copy)
    }
}

impl Content {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { cache: Arc::new(CacheMap::new()?), state: Mutex::new(State::default()) }))
    }

    /// A file that has `len` bytes, these pages and nothing un-synced.
    pub(super) fn synced(len: u64, pages: &Pages) -> io::Result<Arc<Self>> {
        let content = Self::new()?;
        for (page, bytes) in pages {
            content.store(&bytes[..], page * PAGE as u64);
        }
        *content.state.lock() = State { len, media_len: len, media: pages.clone(), ..State::default() };
        Ok(content)
    }

    /// What it is now.
    pub(super) fn moment(&self) -> FileMoment {
        let state = self.state.lock().clone();
        let numbers = self.unsynced_pages(&state);
        let mut differing: Pages = state.lost.clone();
        let mut dirty = Vec::with_capacity(numbers.len());
        for number in numbers {
            let cached = self.page(number);
            differing.insert(number, cached.clone());
            let medium = state.medium(number);
            let mut earlier = state.earlier.get(&number).cloned().unwrap_or_default();
            earlier.retain(|page| *page != cached && *page != medium);
            earlier.dedup();
            dirty.push(DirtyPage { number, cached, earlier });
        }
        FileMoment { state, dirty, differing }
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
        let end = offset + bytes.len() as u64;
        let pages = offset / PAGE as u64..end.div_ceil(PAGE as u64);
        for page in pages.clone().filter(|page| state.dirty.contains(page)).collect::<Vec<_>>() {
            let before = self.page(page);
            state.earlier.entry(page).or_default().push(before);
        }
        self.store(bytes, offset);
        state.len = state.len.max(end);
        for page in pages {
            state.dirty.insert(page);
            state.lost.remove(&page);
        }
    }

    pub(super) fn zero(&self, offset: u64, len: u64) {
        self.write(&vec![0; len as usize], offset);
    }

    pub(super) fn sync(&self) {
        let len = self.state.lock().len;
        self.sync_part(0, len);
    }

    /// Syncs the pages that `[offset, offset + len)` touches, and as much length as they need.
    pub(super) fn sync_part(&self, offset: u64, len: u64) {
        let mut state = self.state.lock();
        let pages = offset / PAGE as u64..(offset + len).div_ceil(PAGE as u64);
        for page in self.unsynced_pages(&state).into_iter().filter(|page| pages.contains(page)) {
            let bytes = self.page(page);
            state.media.insert(page, bytes);
            state.lost.remove(&page);
        }
        state.media_len = state.media_len.max(state.len.min(pages.end * PAGE as u64));
        state.dirty.retain(|page| !pages.contains(page));
        state.earlier.retain(|page, _| !pages.contains(page));
    }

    /// A sync that failed: nothing reached the medium, and nobody will try again.
    pub(super) fn sync_failed(&self) {
        let mut state = self.state.lock();
        for page in self.unsynced_pages(&state) {
            let bytes = self.page(page);
            state.lost.insert(page, bytes);
        }
        state.dirty.clear();
        state.earlier.clear();
    }

    pub(super) fn map(&self, len: u64, writable: bool) -> io::Result<Arc<dyn DiskMap>> {
        if len > RESERVED_BYTES as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a file of the crash disk ends at {RESERVED_BYTES}"),
            ));
        }
        let mut state = self.state.lock();
        state.mapped_writable |= writable;
        if writable {
            self.cache.touched(len as usize);
        }
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
            Arc::make_mut(&mut medium)[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&bytes[(from - offset) as usize..(to - offset) as usize]);
            state.media.insert(page, medium);
        }
    }

    fn unsynced_pages(&self, state: &State) -> Vec<u64> {
        let differs = |page: &u64| {
            let bytes = self.page(*page);
            let same = match state.media.get(page) {
                Some(medium) => bytes == *medium,
                None => *bytes == [0; PAGE],
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
        let mut page_bytes: Page = Arc::new([0; PAGE]);
        let bytes = Arc::make_mut(&mut page_bytes);
        // SAFETY: callers name pages below the file's length, so within the reservation (a multiple of the
        // page size). A racing store through a mapping gives some mixture, as write-back would.
        unsafe {
            std::ptr::copy_nonoverlapping(self.cache.as_ptr().add(page as usize * PAGE), bytes.as_mut_ptr(), PAGE);
        }
        page_bytes
    }

    fn store(&self, bytes: &[u8], offset: u64) {
        // SAFETY: `growth` has checked that the range lies in the reservation. Readers of the same bytes
        // through a mapping follow a protocol of their own, as with a real shared mapping.
        unsafe {
            let to = self.cache.as_mut_ptr().add(offset as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        self.cache.touched(offset as usize + bytes.len());
    }
}

impl State {
    fn medium(&self, page: u64) -> Page {
        self.media.get(&page).cloned().unwrap_or_else(|| Arc::new([0; PAGE]))
    }
}

struct CrashMap {
    cache: Arc<CacheMap>,
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
