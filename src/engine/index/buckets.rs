//! Memory for a hash index: cache lines of slots that never move.
//!
//! Bucket numbers map to chunks that double in size, so that growth allocates address space seldom, moves
//! nothing under a reader, and touches memory only as buckets come into use.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use memmap2::{Advice, MmapMut, MmapOptions};
use parking_lot::Mutex;

/// Slots a bucket.
pub(super) const SLOTS: usize = 7;
/// The first chunk holds `2^FIRST_CHUNK_BITS` buckets, and so does the second; then each twice the one before.
pub(super) const FIRST_CHUNK_BITS: u32 = 10;
const CHUNKS: usize = 28;
/// From this size on a chunk asks for huge pages: a probe is then one miss, not two.
const HUGE_PAGES_FROM_BYTES: usize = 2 << 20;

/// One cache line. All zeros is an empty bucket without overflow.
#[repr(C, align(64))]
pub(super) struct Bucket {
    pub(super) slots: [AtomicU64; SLOTS],
    /// Number of the overflow bucket that goes on, plus one; 0 at the end of the chain.
    pub(super) link: AtomicU64,
}

/// A growing array of buckets.
pub(super) struct Buckets {
    chunks: [AtomicPtr<Bucket>; CHUNKS],
    memory: Mutex<Vec<MmapMut>>,
}

impl Buckets {
    pub(super) fn new() -> Self {
        Self { chunks: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())), memory: Mutex::new(Vec::new()) }
    }

    /// Makes bucket `index` exist.
    ///
    /// # Panics
    /// If the process has no address space left, as any allocation would.
    pub(super) fn ensure(&self, index: u64) {
        let (chunk, _) = place(index);
        if !self.chunks[chunk].load(Ordering::Relaxed).is_null() {
            return;
        }
        let mut memory = self.memory.lock();
        let buckets = 1u64 << (FIRST_CHUNK_BITS + (chunk as u32).saturating_sub(1));
        let bytes = usize::try_from(buckets).expect("64-bit") * size_of::<Bucket>();
        let mut map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon().expect("memory for the index");
        if bytes >= HUGE_PAGES_FROM_BYTES {
            // Without huge pages it is slower, no more.
            let _ = map.advise(Advice::HugePage);
        }
        self.chunks[chunk].store(map.as_mut_ptr().cast(), Ordering::Release);
        memory.push(map);
    }

    /// Bucket `index`, which exists: `ensure` ran for it before its number was published.
    pub(super) fn get(&self, index: u64) -> &Bucket {
        let (chunk, offset) = place(index);
        let start = self.chunks[chunk].load(Ordering::Acquire);
        assert!(!start.is_null(), "bucket {index} was never made");
        // SAFETY: the chunk is page-aligned zeroed memory (a valid `Bucket` is any bit pattern), lives as
        // long as `self`, and `offset` is below its length by construction of `place`. Only atomics are
        // ever touched in it.
        unsafe { &*start.add(offset) }
    }

    /// Hints the processor that bucket `index` will be read.
    pub(super) fn prefetch(&self, index: u64) {
        #[cfg(target_arch = "x86_64")]
        {
            let (chunk, offset) = place(index);
            let start = self.chunks[chunk].load(Ordering::Relaxed);
            // SAFETY: a prefetch never faults, whatever the address; SSE is part of x86-64.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset).cast());
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = index;
    }
}

/// Chunk of a bucket, and its place there.
fn place(index: u64) -> (usize, usize) {
    match index.checked_ilog2() {
        Some(log) if log >= FIRST_CHUNK_BITS => ((log - FIRST_CHUNK_BITS + 1) as usize, (index - (1 << log)) as usize),
        _ => (0, index as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_number_has_a_place_of_its_own_and_chunks_are_filled_from_their_start() {
        let mut expected = (0, 0);
        for index in 0..100_000 {
            let got = place(index);
            if got != expected {
                assert_eq!(got, (expected.0 + 1, 0), "bucket {index}");
                assert_eq!(expected.1 as u64, 1 << (FIRST_CHUNK_BITS as u64 + (expected.0 as u64).saturating_sub(1)));
            }
            expected = (got.0, got.1 + 1);
        }
    }
}
