//! The hash index: linear hashing in 64-byte buckets, one cache line a probe, lock-free for readers.
//!
//! A slot is 24 hash bits and a 40-bit location; 0 is empty. A bucket's number is the low bits of the hash,
//! the slot keeps the bits from [`FIRST_CHUNK_BITS`] on, so a split needs no record. Growth splits one bucket
//! a step: no pause. Writers are serialised by a lock; readers take none:
//!
//! * an overwrite is one atomic store: a reader sees the old location or the new one;
//! * an entry that moves (a split, or overflow folded back after one) is copied, then `state` is published,
//!   then the old place is cleared. Whoever saw a cleared or reused place sees the new `state` too, because
//!   every store is a release and every load an acquire. So a *hit* is right at once (the caller verifies
//!   the key), and a *miss* is trusted only if `state` did not change meanwhile.
//!
//! Overflow buckets are used again; a reader that strays into another chain so finds foreign entries, which
//! do not verify, and misses under a changed `state`.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::buckets::{Bucket, Buckets, FIRST_CHUNK_BITS, SLOTS};
use super::{LOCATION_BITS, Location};

/// Entries a hundred buckets hold before one more is split off. Chosen by measuring: memory a key against
/// length of chains.
const FILL_PER_HUNDRED: u64 = 350;
const MIN_BUCKETS: u64 = 1 << FIRST_CHUNK_BITS;
/// `state` = changes << COUNT_BITS | number of buckets.
const COUNT_BITS: u32 = 36;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
const TAG_MASK: u64 = (1 << (64 - LOCATION_BITS)) - 1;

/// Key hash to location. See the module's comment for what readers may rely on.
pub(crate) struct HashIndex {
    state: AtomicU64,
    primary: Buckets,
    overflow: Buckets,
    len: AtomicU64,
    /// Overflow buckets in use.
    chained: AtomicU64,
    writer: Mutex<Writer>,
}

#[derive(Default)]
struct Writer {
    /// Overflow buckets ever made.
    overflow_made: u64,
    /// Overflow buckets that no chain has any more.
    free: Vec<u64>,
}

impl Bucket {
    /// Which slots have this tag, a bit each. Without a branch: in which slot a key is cannot be predicted, and a
    /// processor that guesses wrong forgets the reads it has begun beyond.
    #[inline]
    fn matches(&self, tag: u64) -> u32 {
        let (tag, mut matches) = (tag << LOCATION_BITS, 0);
        for (i, slot) in self.slots.iter().enumerate() {
            // Of a slot of this tag the location is left, which is never 0; of any other, more than that.
            let location = slot.load(Ordering::Acquire) ^ tag;
            matches |= u32::from(location.wrapping_sub(1) < (1 << LOCATION_BITS) - 1) << i;
        }
        matches
    }
}

impl Default for HashIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for HashIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HashIndex").field("len", &self.len()).field("memory_bytes", &self.memory_bytes()).finish()
    }
}

impl HashIndex {
    /// An empty index.
    pub(crate) fn new() -> Self {
        Self::with_capacity(0)
    }

    /// An empty index that takes `keys` entries without a split: for recovery.
    pub(crate) fn with_capacity(keys: u64) -> Self {
        let buckets = (keys * 100 / FILL_PER_HUNDRED + 1).max(MIN_BUCKETS);
        let primary = Buckets::new();
        let mut last = 1;
        while last < buckets {
            primary.ensure(last - 1);
            last *= 2;
        }
        primary.ensure(buckets - 1);
        Self {
            state: AtomicU64::new(buckets),
            primary,
            overflow: Buckets::new(),
            len: AtomicU64::new(0),
            chained: AtomicU64::new(0),
            writer: Mutex::new(Writer::default()),
        }
    }

    /// The location of the key with this hash that `verify` recognises. Takes no lock. `verify` may be given
    /// locations of other keys, and one location twice.
    // Inlined with what verifies: a read's two cache misses overlap with the next one's only while all that is done
    // between them fits the processor's window of some 500 instructions.
    #[inline(always)]
    pub(crate) fn get(&self, hash: u64, mut verify: impl FnMut(Location) -> bool) -> Option<Location> {
        let wanted = tag(hash);
        loop {
            let state = self.state.load(Ordering::Acquire);
            let mut bucket = self.primary.get(bucket_of(hash, state & COUNT_MASK));
            loop {
                let mut matches = bucket.matches(wanted);
                while matches != 0 {
                    let word = bucket.slots[matches.trailing_zeros() as usize].load(Ordering::Acquire);
                    matches &= matches - 1;
                    // Loaded again: it may have gone meanwhile, to where it is found if `state` says so.
                    if word != 0 && word >> LOCATION_BITS == wanted {
                        let location = Location::unpack(word);
                        if verify(location) {
                            return Some(location);
                        }
                    }
                }
                match bucket.link.load(Ordering::Acquire) {
                    0 => break,
                    link => bucket = self.overflow.get(link - 1),
                }
            }
            // The loads above are acquires: this one cannot come before them.
            if self.state.load(Ordering::Acquire) == state {
                return None;
            }
        }
    }

    /// Whether exactly this entry is there. Takes no lock.
    pub(crate) fn contains(&self, hash: u64, location: Location) -> bool {
        self.get(hash, |candidate| candidate == location).is_some()
    }

    /// Where the key with this hash most likely is, if it is there; anywhere if not: for hints.
    #[inline]
    pub(crate) fn candidate(&self, hash: u64) -> Location {
        let buckets = self.state.load(Ordering::Acquire) & COUNT_MASK;
        let bucket = self.primary.get(bucket_of(hash, buckets));
        let slot = bucket.matches(tag(hash)).trailing_zeros() as usize % SLOTS;
        Location::unpack(bucket.slots[slot].load(Ordering::Relaxed))
    }

    /// Hints the processor that `hash` will be looked up.
    pub(crate) fn prefetch(&self, hash: u64) {
        self.primary.prefetch(bucket_of(hash, self.state.load(Ordering::Relaxed) & COUNT_MASK));
    }

    /// Replaces the entry `(hash, expected)` by `(hash, new)`, or, if nothing is expected, adds the latter.
    /// The caller knows that the key is not there in the second case. `false`, and nothing changed, if the
    /// expected entry is not there.
    pub(crate) fn insert_or_replace(&self, hash: u64, expected: Option<Location>, new: Location) -> bool {
        let mut writer = self.writer.lock();
        let word = word(hash, new);
        if let Some(expected) = expected {
            return match self.find(hash, expected) {
                Some(slot) => {
                    slot.store(word, Ordering::Release);
                    true
                }
                None => false,
            };
        }
        let buckets = self.state.load(Ordering::Relaxed) & COUNT_MASK;
        self.insert(&mut writer, self.primary.get(bucket_of(hash, buckets)), buckets, word);
        true
    }

    fn insert(&self, writer: &mut Writer, start: &Bucket, buckets: u64, word: u64) {
        self.add(writer, start, word);
        let len = self.len.load(Ordering::Relaxed) + 1;
        self.len.store(len, Ordering::Relaxed);
        if len * 100 > buckets * FILL_PER_HUNDRED && buckets < COUNT_MASK {
            self.split(writer);
        }
    }

    /// Points the key with this hash, which `is_it` recognises, to `new`; if it is not there, calls `coming` and adds it.
    /// No entry moves meanwhile.
    #[inline]
    pub(crate) fn put(&self, hash: u64, new: Location, mut is_it: impl FnMut(Location) -> bool, coming: impl FnOnce()) {
        let (wanted, word) = (tag(hash), word(hash, new));
        let mut writer = self.writer.lock();
        let buckets = self.state.load(Ordering::Relaxed) & COUNT_MASK;
        let start = self.primary.get(bucket_of(hash, buckets));
        let mut at = Some(start);
        while let Some(bucket) = at {
            let mut matches = bucket.matches(wanted);
            while matches != 0 {
                let slot = &bucket.slots[matches.trailing_zeros() as usize];
                matches &= matches - 1;
                if is_it(Location::unpack(slot.load(Ordering::Relaxed))) {
                    slot.store(word, Ordering::Release);
                    return;
                }
            }
            at = self.next(bucket);
        }
        coming();
        self.insert(&mut writer, start, buckets, word);
    }

    /// Removes the entry `(hash, location)`; `false` if it is not there.
    pub(crate) fn remove(&self, hash: u64, location: Location) -> bool {
        let _writer = self.writer.lock();
        match self.find(hash, location) {
            Some(slot) => {
                slot.store(0, Ordering::Release);
                self.len.fetch_sub(1, Ordering::Relaxed);
                true
            }
            None => false,
        }
    }

    /// Entries.
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Memory of the buckets in use.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let buckets = (self.state.load(Ordering::Relaxed) & COUNT_MASK) + self.chained.load(Ordering::Relaxed);
        buckets * size_of::<Bucket>() as u64
    }

    /// Visits every entry once. Writers wait meanwhile.
    #[cfg(test)]
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Location)) {
        let _writer = self.writer.lock();
        for index in 0..self.state.load(Ordering::Relaxed) & COUNT_MASK {
            let mut at = Some(self.primary.get(index));
            while let Some(bucket) = at {
                let words = bucket.slots.iter().map(|slot| slot.load(Ordering::Relaxed));
                words.filter(|word| *word != 0).for_each(|word| visit(Location::unpack(word)));
                at = self.next(bucket);
            }
        }
    }

    fn next(&self, bucket: &Bucket) -> Option<&Bucket> {
        match bucket.link.load(Ordering::Relaxed) {
            0 => None,
            link => Some(self.overflow.get(link - 1)),
        }
    }

    /// Under the writer's lock: the slot of exactly this entry.
    fn find(&self, hash: u64, location: Location) -> Option<&AtomicU64> {
        let word = word(hash, location);
        let mut at = Some(self.primary.get(bucket_of(hash, self.state.load(Ordering::Relaxed) & COUNT_MASK)));
        while let Some(bucket) = at {
            if let Some(slot) = bucket.slots.iter().find(|slot| slot.load(Ordering::Relaxed) == word) {
                return Some(slot);
            }
            at = self.next(bucket);
        }
        None
    }

    /// Puts a word into the first free slot of the chain that starts at `bucket`.
    fn add<'a>(&'a self, writer: &mut Writer, mut bucket: &'a Bucket, word: u64) {
        loop {
            if let Some(slot) = bucket.slots.iter().find(|slot| slot.load(Ordering::Relaxed) == 0) {
                slot.store(word, Ordering::Release);
                return;
            }
            match self.next(bucket) {
                Some(next) => bucket = next,
                None => break,
            }
        }
        let index = writer.free.pop().unwrap_or_else(|| {
            writer.overflow_made += 1;
            writer.overflow_made - 1
        });
        self.overflow.ensure(index);
        // Filled before it is linked: whoever follows the link finds the entry.
        self.overflow.get(index).slots[0].store(word, Ordering::Release);
        bucket.link.store(index + 1, Ordering::Release);
        self.chained.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells readers that entries have a second place now, and will lose the first.
    fn publish(&self, buckets: u64) {
        let changes = (self.state.load(Ordering::Relaxed) >> COUNT_BITS).wrapping_add(1);
        self.state.store(changes << COUNT_BITS | buckets, Ordering::Release);
    }

    /// One step of growth: splits the next bucket of this round.
    fn split(&self, writer: &mut Writer) {
        let buckets = self.state.load(Ordering::Relaxed) & COUNT_MASK;
        let level = buckets.ilog2();
        let moves = |word: u64| word != 0 && word >> LOCATION_BITS >> (level - FIRST_CHUNK_BITS) & 1 == 1;
        let source = self.primary.get(buckets - (1 << level));
        self.primary.ensure(buckets);
        let target = self.primary.get(buckets);

        let mut movers = Vec::with_capacity(2 * SLOTS);
        let mut at = Some(source);
        while let Some(bucket) = at {
            movers.extend(bucket.slots.iter().filter(|slot| moves(slot.load(Ordering::Relaxed))));
            at = self.next(bucket);
        }
        for slot in &movers {
            self.add(writer, target, slot.load(Ordering::Relaxed));
        }
        self.publish(buckets + 1);
        for slot in movers {
            slot.store(0, Ordering::Release);
        }
        if source.link.load(Ordering::Relaxed) != 0 {
            self.fold(writer, source, buckets + 1);
        }
    }

    /// Moves what is left in a chain's overflow into free slots nearer its start, and gives back the
    /// overflow buckets that are empty then.
    fn fold(&self, writer: &mut Writer, start: &Bucket, buckets: u64) {
        let mut chain = vec![start];
        while let Some(next) = self.next(chain[chain.len() - 1]) {
            chain.push(next);
        }
        let slots: Vec<&AtomicU64> = chain.iter().flat_map(|bucket| &bucket.slots).collect();
        let (mut free, mut last) = (0, slots.len());
        let mut moved = Vec::new();
        loop {
            while free < last && slots[free].load(Ordering::Relaxed) != 0 {
                free += 1;
            }
            while last > free && slots[last - 1].load(Ordering::Relaxed) == 0 {
                last -= 1;
            }
            if free >= last {
                break;
            }
            slots[free].store(slots[last - 1].load(Ordering::Relaxed), Ordering::Release);
            moved.push(slots[last - 1]);
            last -= 1;
        }
        let kept = free.div_ceil(SLOTS).max(1);
        if moved.is_empty() && kept == chain.len() {
            return;
        }
        self.publish(buckets);
        for slot in moved {
            slot.store(0, Ordering::Release);
        }
        for pair in chain[kept - 1..].windows(2) {
            let link = pair[0].link.swap(0, Ordering::AcqRel);
            writer.free.push(link - 1);
            self.chained.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The bits kept in a slot.
fn tag(hash: u64) -> u64 {
    hash >> FIRST_CHUNK_BITS & TAG_MASK
}

fn word(hash: u64, location: Location) -> u64 {
    tag(hash) << LOCATION_BITS | location.pack()
}

/// Linear hashing: buckets below the split point of this round have one more bit than the others.
fn bucket_of(hash: u64, buckets: u64) -> u64 {
    let level = buckets.ilog2();
    let wide = hash & ((2 << level) - 1);
    if wide < buckets { wide } else { wide & ((1 << level) - 1) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn mix(x: u64) -> u64 {
        let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// Keys are numbers; a location's offset names the key, its segment the version.
    fn place(key: u32, version: u32) -> Location {
        Location { segment: version & 0x1_ffff, offset: key + 1 }
    }

    fn get(index: &HashIndex, key: u32) -> Option<Location> {
        index.get(mix(u64::from(key)), |location| location.offset == key + 1)
    }

    #[test]
    fn a_million_keys_take_at_most_24_bytes_each_and_are_all_found() {
        let index = HashIndex::new();
        for key in 0..1_000_000 {
            index.insert_or_replace(mix(u64::from(key)), None, place(key, 0));
            if key % 100_000 == 99_999 {
                let per_key = index.memory_bytes() as f64 / index.len() as f64;
                println!("{} keys: {per_key:.1} B a key", key + 1);
                assert!(per_key <= 24.0, "{per_key} bytes a key at {key}");
            }
        }
        for key in 0..1_000_000 {
            assert_eq!(get(&index, key), Some(place(key, 0)));
        }
        assert_eq!(get(&index, 1_000_001), None);
        let mut seen = 0;
        index.for_each(|_| seen += 1);
        assert_eq!(seen, 1_000_000);
    }

    #[test]
    fn an_index_made_for_so_many_keys_is_like_one_that_grew() {
        let index = HashIndex::with_capacity(20_000);
        let before = index.memory_bytes();
        for key in 0..19_000 {
            index.insert_or_replace(mix(u64::from(key)), None, place(key, 1));
        }
        assert!(index.memory_bytes() < before + before / 3);
        assert!((0..19_000).all(|key| get(&index, key) == Some(place(key, 1))));
    }

    #[test]
    fn equal_hashes_are_told_apart_by_verification() {
        let index = HashIndex::new();
        for key in 0..100 {
            index.insert_or_replace(42, None, place(key, 0));
        }
        for key in 0..100 {
            assert_eq!(index.get(42, |l| l.offset == key + 1), Some(place(key, 0)));
        }
        assert!(!index.insert_or_replace(42, Some(place(3, 7)), place(3, 8)), "what is expected is not there");
        assert!(index.remove(42, place(3, 0)) && !index.remove(42, place(3, 0)));
        assert_eq!(index.get(42, |l| l.offset == 4), None);
    }

    #[test]
    fn a_random_history_agrees_with_a_map() {
        for seed in 1..=5u64 {
            let index = HashIndex::new();
            let mut model: HashMap<u32, Location> = HashMap::new();
            let mut random = mix(seed);
            for step in 0..200_000u32 {
                random = mix(random.wrapping_add(0x9e37_79b9_7f4a_7c15));
                let key = (random % 30_000) as u32;
                // Few hashes for some keys: long chains, which splits do not shorten.
                let hash = if key.is_multiple_of(10) { u64::from(key % 500) } else { mix(u64::from(key)) };
                let old = model.get(&key).copied();
                assert_eq!(index.get(hash, |l| l.offset == key + 1), old, "seed {seed} step {step}");
                if random >> 60 < 5 {
                    if let Some(old) = old {
                        assert!(index.remove(hash, old));
                        model.remove(&key);
                    }
                } else {
                    assert!(index.insert_or_replace(hash, old, place(key, step)));
                    model.insert(key, place(key, step));
                }
            }
            assert_eq!(index.len(), model.len() as u64);
            let mut seen = Vec::new();
            index.for_each(|location| seen.push(location));
            seen.sort();
            let mut want: Vec<_> = model.into_values().collect();
            want.sort();
            assert_eq!(seen, want, "seed {seed}");
        }
    }

    #[test]
    fn readers_never_miss_a_key_while_the_index_grows_and_keys_are_overwritten() {
        const OLD: u32 = 20_000;
        let index = HashIndex::new();
        for key in 0..OLD {
            index.insert_or_replace(mix(u64::from(key)), None, place(key, 0));
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2u64)
                .map(|reader| {
                    let (index, done) = (&index, &done);
                    scope.spawn(move || {
                        let (mut reads, mut last) = (0u64, vec![0; OLD as usize]);
                        while !done.load(Ordering::Relaxed) || reads < 100_000 {
                            let key = (mix(reads * 2 + reader) % u64::from(OLD)) as u32;
                            let found = get(index, key).unwrap_or_else(|| panic!("key {key} missed, read {reads}"));
                            assert!(found.segment >= last[key as usize], "key {key} went back");
                            last[key as usize] = found.segment;
                            reads += 1;
                        }
                    })
                })
                .collect();
            let mut versions = vec![0; OLD as usize];
            for i in 0..600_000u32 {
                let new = OLD + i;
                index.insert_or_replace(mix(u64::from(new)), None, place(new, 0));
                let key = (mix(u64::from(i)) % u64::from(OLD)) as u32;
                let version = &mut versions[key as usize];
                assert!(index.insert_or_replace(
                    mix(u64::from(key)),
                    Some(place(key, *version)),
                    place(key, *version + 1)
                ));
                *version += 1;
                if i % 3 == 0 {
                    // Freed and reused slots and overflow buckets under the readers.
                    assert!(index.remove(mix(u64::from(new)), place(new, 0)));
                }
            }
            done.store(true, Ordering::Relaxed);
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }
}
