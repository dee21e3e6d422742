//! The memory behind one file of the crash disk, lent out again when nobody uses it any more.
//!
//! A crash test makes a disk for every outcome it looks at, a hundred thousand times a dozen files. Mapping, faulting
//! in and unmapping would be most of that: a mapping that is given back is cleared as far as it was used and kept.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;

/// Address space reserved a file, and so its largest length. Untouched pages cost nothing.
pub(super) const RESERVED_BYTES: usize = 256 << 20;
/// Mappings kept for the next ones.
const KEPT: usize = 128;
/// One that was used beyond this is not worth clearing.
const WORTH_CLEARING_BYTES: usize = 256 << 10;

static FREE: Mutex<Vec<MmapRaw>> = Mutex::new(Vec::new());

/// Reserved address space, zeros where it was not written.
pub(super) struct CacheMap {
    /// `None` only while it is dropped.
    map: Option<MmapRaw>,
    /// Nothing was written from here on.
    used: AtomicUsize,
}

impl CacheMap {
    pub(super) fn new() -> io::Result<Self> {
        let kept = FREE.lock().pop();
        let map = match kept {
            Some(map) => map,
            None => MmapRaw::from(MmapOptions::new().len(RESERVED_BYTES).no_reserve_swap().map_anon()?),
        };
        Ok(Self { map: Some(map), used: AtomicUsize::new(0) })
    }

    fn map(&self) -> &MmapRaw {
        self.map.as_ref().expect("it is there until it is dropped")
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.map().as_ptr()
    }

    pub(super) fn as_mut_ptr(&self) -> *mut u8 {
        self.map().as_mut_ptr()
    }

    /// Bytes below `end` may be written from now on.
    pub(super) fn touched(&self, end: usize) {
        self.used.fetch_max(end, Ordering::Relaxed);
    }
}

impl Drop for CacheMap {
    fn drop(&mut self) {
        let (Some(map), used) = (self.map.take(), *self.used.get_mut()) else { return };
        if used > WORTH_CLEARING_BYTES {
            return;
        }
        // SAFETY: `used` is within the reservation, and nobody else has the mapping any more.
        unsafe { std::ptr::write_bytes(map.as_mut_ptr(), 0, used) };
        let mut free = FREE.lock();
        if free.len() < KEPT {
            free.push(map);
        }
    }
}
