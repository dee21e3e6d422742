//! The ordered index of a tree: keys in byte order with their locations, for scans.
//!
//! It stands beside the hash index, which answers gets; overwrites of a key change the location here too, so
//! that a scan reads records directly. Keys lie in *dense leaves* of up to [`LEAF_KEYS`]: one array of
//! entries in order, one of key bytes; a map finds the leaf by the lowest key it may hold. That is half the
//! memory of a map of boxed keys, and a scan walks arrays. Keys added in ascending order fill leaves whole.
//! Readers share a lock and hold it only while they copy a bounded page of keys: visitors read no records
//! and wait for nothing.

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::RwLock;

use super::{LOCATION_BITS, Location};

/// Keys of a leaf at most.
const LEAF_KEYS: usize = 128;
/// A leaf of more key bytes than this is split even if it has few keys, as long as it has two.
const LEAF_KEY_BYTES: usize = 64 << 10;
/// A leaf with fewer keys joins its successor if both fit well.
const SPARSE_KEYS: usize = LEAF_KEYS / 4;
/// Room is added in small steps: doubling would waste what density gains.
const STEP_KEYS: usize = 16;
const STEP_KEY_BYTES: usize = 256;
/// What a leaf costs beside its arrays: its place in the map and the lowest key.
const LEAF_OVERHEAD_BYTES: usize = 160;

/// Keys of one tree in order.
pub(crate) struct OrderedIndex {
    keys: RwLock<Keys>,
}

struct Keys {
    /// By the lowest key a leaf may hold; the first has the empty key, so that every key has a leaf.
    leaves: BTreeMap<Box<[u8]>, Leaf>,
    len: u64,
}

#[derive(Default)]
struct Leaf {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// Bytes of removed keys.
    dead_bytes: usize,
}

/// Place of the key in the leaf's bytes; location and length of the key share a word. Twelve bytes.
#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    low: u32,
    high: u32,
}

impl Entry {
    fn new(start: usize, len: usize, location: Location) -> Self {
        debug_assert!(len < 1 << (64 - LOCATION_BITS));
        let word = (len as u64) << LOCATION_BITS | location.pack();
        Self { start: start as u32, low: word as u32, high: (word >> 32) as u32 }
    }

    fn word(self) -> u64 {
        u64::from(self.high) << 32 | u64::from(self.low)
    }

    fn len(self) -> usize {
        (self.word() >> LOCATION_BITS) as usize
    }

    fn location(self) -> Location {
        Location::unpack(self.word())
    }

    fn set_location(&mut self, location: Location) {
        *self = Self::new(self.start as usize, self.len(), location);
    }
}

impl Leaf {
    fn key(&self, entry: Entry) -> &[u8] {
        &self.bytes[entry.start as usize..entry.start as usize + entry.len()]
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| self.key(*entry).cmp(key))
    }

    fn push_bytes(&mut self, key: &[u8]) -> usize {
        let start = self.bytes.len();
        if self.bytes.capacity() - start < key.len() {
            self.bytes.reserve_exact(key.len().max(STEP_KEY_BYTES));
        }
        self.bytes.extend_from_slice(key);
        start
    }

    fn insert_at(&mut self, index: usize, key: &[u8], location: Location) {
        let start = self.push_bytes(key);
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(STEP_KEYS);
        }
        self.entries.insert(index, Entry::new(start, key.len(), location));
    }

    fn remove_at(&mut self, index: usize) {
        self.dead_bytes += self.entries.remove(index).len();
        if self.dead_bytes > STEP_KEY_BYTES && self.dead_bytes * 2 > self.bytes.len() {
            *self = self.copy(0..self.entries.len());
        }
    }

    /// Some of the entries in a leaf of their own, without dead bytes.
    fn copy(&self, range: std::ops::Range<usize>) -> Self {
        let entries = &self.entries[range];
        let mut copy = Self::default();
        copy.entries.reserve_exact(entries.len() + STEP_KEYS);
        copy.bytes.reserve_exact(entries.iter().map(|entry| entry.len()).sum::<usize>() + STEP_KEY_BYTES);
        copy.append(self, entries);
        copy
    }

    fn append(&mut self, other: &Self, entries: &[Entry]) {
        for entry in entries {
            let key = other.key(*entry);
            let start = self.push_bytes(key);
            self.entries.push(Entry::new(start, key.len(), entry.location()));
        }
    }

    fn is_full(&self, key_len: usize) -> bool {
        let live = self.bytes.len() - self.dead_bytes;
        self.entries.len() >= LEAF_KEYS || (self.entries.len() >= 2 && live + key_len > LEAF_KEY_BYTES)
    }

    fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>() + self.bytes.capacity() + LEAF_OVERHEAD_BYTES
    }
}

impl Keys {
    fn leaf(&self, key: &[u8]) -> (&[u8], &Leaf) {
        let (low, leaf) = self
            .leaves
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .expect("the first leaf has the empty key");
        (low, leaf)
    }

    fn leaf_mut(&mut self, key: &[u8]) -> (&[u8], &mut Leaf) {
        let (low, leaf) = self
            .leaves
            .range_mut::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .expect("the first leaf has the empty key");
        (low, leaf)
    }

    fn insert(&mut self, key: &[u8], location: Location) {
        let (_, leaf) = self.leaf_mut(key);
        let index = match leaf.find(key) {
            Ok(index) => return leaf.entries[index].set_location(location),
            Err(index) => index,
        };
        if leaf.is_full(key.len()) {
            // At the end of a leaf, more of the same is likely to come: leave it full.
            let at = if index == leaf.entries.len() { index } else { leaf.entries.len() / 2 };
            let right = leaf.copy(at..leaf.entries.len());
            let low: Box<[u8]> = right.entries.first().map_or(key, |entry| right.key(*entry)).into();
            *leaf = leaf.copy(0..at);
            self.leaves.insert(low, right);
            return self.insert(key, location);
        }
        leaf.insert_at(index, key, location);
        self.len += 1;
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let (low, leaf) = self.leaf_mut(key);
        let Ok(index) = leaf.find(key) else { return false };
        leaf.remove_at(index);
        if leaf.entries.len() < SPARSE_KEYS {
            let low: Box<[u8]> = low.into();
            self.join(&low);
        }
        self.len -= 1;
        true
    }

    /// Joins the sparse leaf at `low` with its successor, or drops it if it is empty.
    fn join(&mut self, low: &[u8]) {
        let after = (Bound::Excluded(low), Bound::Unbounded);
        let next = self.leaves.range::<[u8], _>(after).next().map(|(low, next)| (low.clone(), next.entries.len()));
        let Some(leaf) = self.leaves.get_mut(low) else { return };
        match next {
            Some((next_low, keys)) if leaf.entries.len() + keys <= LEAF_KEYS - SPARSE_KEYS => {
                let next = self.leaves.remove(&next_low).expect("it was just seen");
                if let Some(leaf) = self.leaves.get_mut(low) {
                    leaf.append(&next, &next.entries);
                }
            }
            _ if leaf.entries.is_empty() && !low.is_empty() => {
                self.leaves.remove(low);
            }
            _ => {}
        }
    }
}

impl Default for OrderedIndex {
    fn default() -> Self {
        let leaves = BTreeMap::from([(Box::default(), Leaf::default())]);
        Self { keys: RwLock::new(Keys { leaves, len: 0 }) }
    }
}

impl std::fmt::Debug for OrderedIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OrderedIndex").field("len", &self.len()).finish()
    }
}

impl OrderedIndex {
    /// An empty index.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Sets a key's location.
    pub(crate) fn insert(&self, key: &[u8], location: Location) {
        self.keys.write().insert(key, location);
    }

    /// Sets a key's location if it has the expected one: for whoever moves records.
    pub(crate) fn replace(&self, key: &[u8], expected: Location, new: Location) -> bool {
        let mut keys = self.keys.write();
        let (_, leaf) = keys.leaf_mut(key);
        match leaf.find(key) {
            Ok(index) if leaf.entries[index].location() == expected => {
                leaf.entries[index].set_location(new);
                true
            }
            _ => false,
        }
    }

    /// Removes a key if it has the expected location: for whoever drops records.
    pub(crate) fn remove_at(&self, key: &[u8], expected: Location) -> bool {
        let mut keys = self.keys.write();
        let (_, leaf) = keys.leaf_mut(key);
        let found = leaf.find(key).is_ok_and(|index| leaf.entries[index].location() == expected);
        found && keys.remove(key)
    }

    /// Removes a key; `false` if it is not there.
    pub(crate) fn remove(&self, key: &[u8]) -> bool {
        self.keys.write().remove(key)
    }

    /// Gives the visitor up to `limit` keys between the bounds, ascending or descending, until it answers
    /// `false`. An empty or inverted range visits nothing. Writers wait: the visitor only copies.
    pub(crate) fn get_range(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        reverse: bool,
        limit: usize,
        mut visitor: impl FnMut(&[u8], Location) -> bool,
    ) {
        if !inhabited(start, end) {
            return;
        }
        let keys = self.keys.read();
        let mut left = limit;
        // Answers whether to go on.
        let mut visit = |leaf: &Leaf, entry: Entry| {
            let key = leaf.key(entry);
            let inside = if reverse { above(key, start) } else { below(key, end) };
            if !inside || left == 0 {
                return false;
            }
            left -= 1;
            visitor(key, entry.location())
        };
        if reverse {
            let leaves = match end {
                Bound::Unbounded => keys.leaves.range::<[u8], _>(..),
                Bound::Included(end) | Bound::Excluded(end) => {
                    keys.leaves.range::<[u8], _>((Bound::Unbounded, Bound::Included(end)))
                }
            };
            let mut first = true;
            for (_, leaf) in leaves.rev() {
                let from =
                    if first { leaf.entries.partition_point(|e| below(leaf.key(*e), end)) } else { leaf.entries.len() };
                first = false;
                if !leaf.entries[..from].iter().rev().all(|entry| visit(leaf, *entry)) {
                    return;
                }
            }
        } else {
            let low: &[u8] = match start {
                Bound::Unbounded => &[],
                Bound::Included(start) | Bound::Excluded(start) => keys.leaf(start).0,
            };
            let mut first = true;
            for (_, leaf) in keys.leaves.range::<[u8], _>((Bound::Included(low), Bound::Unbounded)) {
                let from = if first { leaf.entries.partition_point(|e| !above(leaf.key(*e), start)) } else { 0 };
                first = false;
                if !leaf.entries[from..].iter().all(|entry| visit(leaf, *entry)) {
                    return;
                }
            }
        }
    }

    /// Keys.
    pub(crate) fn len(&self) -> u64 {
        self.keys.read().len
    }

    /// An estimate of the memory in use. Walks all leaves.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let keys = self.keys.read();
        keys.leaves.iter().map(|(low, leaf)| (low.len() + leaf.memory_bytes()) as u64).sum()
    }
}

fn above(key: &[u8], start: Bound<&[u8]>) -> bool {
    match start {
        Bound::Unbounded => true,
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
    }
}

fn below(key: &[u8], end: Bound<&[u8]>) -> bool {
    match end {
        Bound::Unbounded => true,
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
    }
}

/// Whether anything can lie between the bounds; a client may send inverted ones.
fn inhabited(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
        (Bound::Included(a), Bound::Included(b)) => a <= b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a < b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u32) -> Location {
        Location { segment: 0, offset }
    }

    fn keys(
        index: &OrderedIndex,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        reverse: bool,
        limit: usize,
    ) -> Vec<(Vec<u8>, u32)> {
        let mut seen = Vec::new();
        index.get_range(start, end, reverse, limit, |key, location| {
            seen.push((key.to_vec(), location.offset));
            true
        });
        seen
    }

    #[test]
    fn a_range_is_read_both_ways_with_either_kind_of_bound() {
        let index = OrderedIndex::new();
        for (i, key) in [b"d", b"a", b"c", b"b"].iter().enumerate() {
            index.insert(*key, at(i as u32 + 1));
        }
        index.insert(b"a", at(9));
        let (a, c) = (b"a".as_slice(), b"c".as_slice());
        let up = keys(&index, Bound::Included(a), Bound::Excluded(c), false, 10);
        assert_eq!(up, [(b"a".to_vec(), 9), (b"b".to_vec(), 4)]);
        let down = keys(&index, Bound::Excluded(a), Bound::Unbounded, true, 2);
        assert_eq!(down, [(b"d".to_vec(), 1), (b"c".to_vec(), 3)]);
        assert!(keys(&index, Bound::Included(c), Bound::Excluded(a), false, 9).is_empty(), "inverted bounds");
        assert!(keys(&index, Bound::Excluded(a), Bound::Excluded(a), false, 9).is_empty(), "nothing between");
        assert!(index.remove(b"b") && !index.remove(b"b"));
        assert!(index.replace(b"c", at(3), at(30)) && !index.replace(b"c", at(3), at(31)));
        assert_eq!(index.len(), 3);
        assert!(!index.remove_at(b"c", at(3)) && !index.remove_at(b"x", at(3)) && index.remove_at(b"c", at(30)));
        assert_eq!(index.len(), 2);
    }

    #[test]
    fn a_visitor_stops_a_scan() {
        let index = OrderedIndex::new();
        (0..10u8).for_each(|i| index.insert(&[i], at(1)));
        let mut seen = 0;
        index.get_range(Bound::Unbounded, Bound::Unbounded, false, 100, |key, _| {
            seen += 1;
            key[0] < 4
        });
        assert_eq!(seen, 5);
    }

    #[test]
    fn a_random_history_agrees_with_a_map_of_boxed_keys() {
        for seed in 1..=4u64 {
            let index = OrderedIndex::new();
            let mut model: BTreeMap<Vec<u8>, Location> = BTreeMap::new();
            let mut random = seed;
            let mut next = move || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                random >> 33
            };
            let key = |n: u64| match n % 3 {
                0 => (n % 5000).to_be_bytes().to_vec(),
                1 => format!("user:{}", n % 3000).into_bytes(),
                _ => vec![(n % 7) as u8; (n % 2000) as usize],
            };
            for step in 0..60_000u32 {
                // Mostly growing, then mostly shrinking: splits and joins.
                let growing = step / 15_000 % 2 == 0;
                let k = key(next());
                match next() % 8 {
                    0..=4 if growing => {
                        index.insert(&k, at(step + 1));
                        model.insert(k, at(step + 1));
                    }
                    0..=5 => assert_eq!(index.remove(&k), model.remove(&k).is_some(), "seed {seed} step {step}"),
                    _ => {
                        let (a, b) = (key(next()), key(next()));
                        let bound = |k| if step % 3 == 0 { Bound::Included(k) } else { Bound::Excluded(k) };
                        let start = if step % 11 == 0 { Bound::Unbounded } else { bound(a.as_slice()) };
                        let end = if step % 13 == 0 { Bound::Unbounded } else { bound(b.as_slice()) };
                        if !inhabited(start, end) {
                            continue;
                        }
                        let want = model.range::<[u8], _>((start, end)).map(|(k, l)| (k.clone(), l.offset));
                        let limit = (next() % 300) as usize;
                        let reverse = next() % 2 == 0;
                        let want: Vec<_> =
                            if reverse { want.rev().take(limit).collect() } else { want.take(limit).collect() };
                        assert_eq!(keys(&index, start, end, reverse, limit), want, "seed {seed} step {step}");
                    }
                }
                assert_eq!(index.len(), model.len() as u64);
            }
        }
    }

    #[test]
    fn memory_a_key_is_half_of_what_boxes_in_a_map_take() {
        for ascending in [true, false] {
            let index = OrderedIndex::new();
            for i in 0..100_000u64 {
                let n = if ascending { i } else { xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()) };
                index.insert(format!("{n:016x}").as_bytes(), at(i as u32 + 1));
            }
            let per_key = index.memory_bytes() / index.len();
            println!("ascending {ascending}: {per_key} B a key of 16");
            assert!(per_key <= if ascending { 36 } else { 46 }, "{per_key} bytes a key");
        }
    }
}
