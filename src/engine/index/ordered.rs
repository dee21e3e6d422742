//! The ordered index of a tree: which keys there are, in byte order, for scans.
//!
//! It stands beside the hash index, which alone knows where a key's record is: an overwrite changes nothing
//! here, and a scan looks every key up. Keys lie in *dense leaves* of up to [`LEAF_KEYS`]: one array of
//! entries in order, one of key bytes; a map finds the leaf by the lowest key it may hold. That is a third of
//! the memory of a map of boxed keys, and a scan walks arrays. Keys added in ascending order fill leaves whole.
//!
//! Finding a key's place costs more than the rest of a put, so whoever puts does not: changes are noted in
//! order and merged in sorted *chunks*, by a thread of the engine's own, by the next scan, or, when too many
//! wait, by the writer after all. A reader merges what is noted before it reads, so it sees every change that
//! was noted before. Readers share a lock and hold it only while they copy a bounded page of keys.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

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

/// Changes that are sorted and merged together at most: the more, the more of them fall into one leaf.
const CHUNK_CHANGES: usize = 256 << 10;
/// And key bytes: a leaf in the making may hold all of them.
const CHUNK_KEY_BYTES: usize = 64 << 20;
/// So many are worth a merging, or this part of the keys if that is more: each merging walks all leaves.
const ENOUGH_CHANGES: usize = 8 << 10;
const ENOUGH_PART: usize = 4;
/// Memory of a chunk that is used again at most.
const KEPT_BYTES: usize = 16 << 20;
/// Chunks that wait at most before a writer merges one itself.
const CHUNKS_MAX: usize = 4;
/// A chunk with fewer changes than this part of the leaves is merged key by key.
const SWEEP_PART: usize = 8;

/// Keys of one tree in order.
pub(crate) struct OrderedIndex {
    keys: RwLock<Keys>,
    /// What is not merged yet, oldest first. Taken out only by who holds `keys` for writing.
    noted: Mutex<VecDeque<Chunk>>,
    /// Memory of a merged chunk, for the next one.
    merged: Mutex<Option<Chunk>>,
    /// Whether anything is noted.
    behind: AtomicBool,
    /// Changes that are worth a merging.
    enough: AtomicUsize,
}

/// Changes in the order they were made.
#[derive(Default)]
struct Chunk {
    changes: Vec<Change>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Change {
    /// The key's first eight bytes: most comparisons end there.
    prefix: u64,
    start: u32,
    len: u16,
    removes: bool,
}

/// The first eight bytes of a key as a number: of two keys the one with the lower number comes first.
fn prefix(key: &[u8]) -> u64 {
    if let Some(first) = key.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    let mut bytes = [0; 8];
    bytes[..key.len()].copy_from_slice(key);
    u64::from_be_bytes(bytes)
}

impl Change {
    /// Whether its key comes before `key`, whose prefix this is.
    fn is_before(&self, chunk: &Chunk, prefix: u64, key: &[u8]) -> bool {
        self.prefix < prefix || (self.prefix == prefix && chunk.key(self) < key)
    }
}

impl Chunk {
    fn note(&mut self, key: &[u8], removes: bool) {
        let (start, len) = (self.bytes.len() as u32, key.len() as u16);
        self.changes.push(Change { prefix: prefix(key), start, len, removes });
        self.bytes.extend_from_slice(key);
    }

    fn key(&self, change: &Change) -> &[u8] {
        &self.bytes[change.start as usize..change.start as usize + usize::from(change.len)]
    }

    /// The last change of each key, by key.
    fn sort(&mut self) {
        let Self { changes, bytes } = self;
        let key = |change: &Change| &bytes[change.start as usize..change.start as usize + usize::from(change.len)];
        // By a number first: that is sorted without a branch.
        changes.sort_unstable_by_key(|change| change.prefix);
        for same in changes.chunk_by_mut(|a, b| a.prefix == b.prefix).filter(|same| same.len() > 1) {
            // The place in `bytes` is the order in which the changes were made.
            same.sort_unstable_by(|a, b| key(a).cmp(key(b)).then(b.start.cmp(&a.start)));
        }
        changes.dedup_by(|later, earlier| later.prefix == earlier.prefix && key(later) == key(earlier));
    }

    fn memory_bytes(&self) -> usize {
        self.changes.capacity() * size_of::<Change>() + self.bytes.capacity()
    }
}

struct Keys {
    /// By the lowest key a leaf may hold; the first has the empty key, so that every key has a leaf.
    leaves: BTreeMap<Box<[u8]>, Leaf>,
    len: u64,
}

struct Leaf {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    /// Bytes of removed keys.
    dead_bytes: usize,
    /// Whether the bytes are those of the entries, in their order.
    dense: bool,
}

/// Place of the key in the leaf's bytes.
#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    len: u16,
}

impl Entry {
    fn new(start: usize, len: usize) -> Self {
        Self { start: start as u32, len: len as u16 }
    }

    fn len(self) -> usize {
        usize::from(self.len)
    }
}

impl Default for Leaf {
    fn default() -> Self {
        Self::with_room(0, 0)
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

    fn insert_at(&mut self, index: usize, key: &[u8]) {
        let start = self.push_bytes(key);
        self.dense &= index == self.entries.len();
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(STEP_KEYS);
        }
        self.entries.insert(index, Entry::new(start, key.len()));
    }

    fn remove_at(&mut self, index: usize) {
        self.dead_bytes += self.entries.remove(index).len();
        self.dense = false;
        if self.dead_bytes > STEP_KEY_BYTES && self.dead_bytes * 2 > self.bytes.len() {
            *self = self.copy(0..self.entries.len());
        }
    }

    fn with_room(keys: usize, key_bytes: usize) -> Self {
        Self { entries: Vec::with_capacity(keys), bytes: Vec::with_capacity(key_bytes), dead_bytes: 0, dense: true }
    }

    /// Some of the entries in a leaf of their own, without dead bytes.
    fn copy(&self, range: std::ops::Range<usize>) -> Self {
        let bytes = self.entries[range.clone()].iter().map(|entry| entry.len()).sum();
        let mut copy = Self::with_room(range.len(), bytes);
        copy.append(self, range);
        copy
    }

    /// Adds entries of another leaf, which come behind its own.
    fn append(&mut self, other: &Self, range: std::ops::Range<usize>) {
        let entries = &other.entries[range];
        if !other.dense {
            for entry in entries {
                let key = other.key(*entry);
                let start = self.push_bytes(key);
                self.entries.push(Entry::new(start, key.len()));
            }
            return;
        }
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            let at = self.bytes.len() as u32;
            self.bytes.extend_from_slice(&other.bytes[first.start as usize..last.start as usize + last.len()]);
            self.entries.extend(entries.iter().map(|entry| Entry { start: entry.start - first.start + at, ..*entry }));
        }
    }

    /// What comes of its keys with sorted changes made to them: itself, and the leaves it is split into.
    fn merge(&self, chunk: &Chunk, changes: &[Change]) -> Vec<Self> {
        let tidied;
        let old = if self.dense {
            self
        } else {
            tidied = self.copy(0..self.entries.len());
            &tidied
        };
        let adds = changes.iter().filter(|change| !change.removes);
        let (keys, bytes) = adds.fold((0, 0), |(keys, bytes), add| (keys + 1, bytes + usize::from(add.len)));
        let mut merged = Self::with_room(old.entries.len() + keys, old.bytes.len() + bytes);
        // Keys that all come behind the leaf's last are likely to go on so: leaves are left full.
        let first = changes.first().map_or(&[][..], |first| chunk.key(first));
        let ascending = old.entries.last().is_none_or(|last| old.key(*last) < first);
        let mut from = 0;
        for change in changes {
            let key = chunk.key(change);
            let above = |entry: &&Entry| {
                let own = old.key(**entry);
                prefix(own).cmp(&change.prefix).then_with(|| own.cmp(key)).is_lt()
            };
            let at = from + old.entries[from..].iter().take_while(above).count();
            merged.append(old, from..at);
            from = at + usize::from(old.entries.get(at).is_some_and(|entry| old.key(*entry) == key));
            if !change.removes {
                let start = merged.push_bytes(key);
                merged.entries.push(Entry::new(start, key.len()));
            }
        }
        merged.append(old, from..old.entries.len());
        merged.split(if ascending { LEAF_KEYS } else { LEAF_KEYS / 2 })
    }

    /// Itself if it is not too large, else leaves of so many keys at least.
    fn split(self, keys: usize) -> Vec<Self> {
        let total = self.entries.len();
        if total <= LEAF_KEYS && (total < 2 || self.bytes.len() <= LEAF_KEY_BYTES) {
            return vec![self];
        }
        let keys = total.div_ceil((total / keys).max(1)).min(LEAF_KEYS);
        let (mut leaves, mut from) = (Vec::new(), 0);
        while from < total {
            let start = self.entries[from].start as usize;
            let fits = |entry: &&Entry| entry.start as usize + entry.len() - start <= LEAF_KEY_BYTES;
            let most = &self.entries[from..total.min(from + keys)];
            let to = from + most.iter().take_while(fits).count().max(1);
            leaves.push(self.copy(from..to));
            from = to;
        }
        leaves
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

    fn insert(&mut self, key: &[u8]) {
        let (_, leaf) = self.leaf_mut(key);
        let index = match leaf.find(key) {
            Ok(_) => return,
            Err(index) => index,
        };
        if leaf.is_full(key.len()) {
            // At the end of a leaf, more of the same is likely to come: leave it full.
            let at = if index == leaf.entries.len() { index } else { leaf.entries.len() / 2 };
            let right = leaf.copy(at..leaf.entries.len());
            let low: Box<[u8]> = right.entries.first().map_or(key, |entry| right.key(*entry)).into();
            *leaf = leaf.copy(0..at);
            self.leaves.insert(low, right);
            return self.insert(key);
        }
        leaf.insert_at(index, key);
        self.len += 1;
    }

    /// Makes the changes of a sorted chunk.
    fn apply(&mut self, chunk: &Chunk) {
        if chunk.changes.len() >= self.leaves.len() / SWEEP_PART {
            return self.sweep(chunk);
        }
        for change in &chunk.changes {
            if change.removes {
                self.remove(chunk.key(change));
            } else {
                self.insert(chunk.key(change));
            }
        }
    }

    /// Walks the leaves once and merges into each the changes that are its own.
    fn sweep(&mut self, chunk: &Chunk) {
        let Some(first) = chunk.changes.first() else { return };
        let start: Box<[u8]> = self.leaf(chunk.key(first)).0.into();
        let (mut split, mut sparse): (Vec<Leaf>, Vec<Box<[u8]>>) = (Vec::new(), Vec::new());
        let mut rest = &chunk.changes[..];
        let mut leaves = self.leaves.range_mut::<[u8], _>((Bound::Included(&*start), Bound::Unbounded)).peekable();
        while let (Some((low, leaf)), false) = (leaves.next(), rest.is_empty()) {
            let own = match leaves.peek() {
                Some((end, _)) => {
                    let end_prefix = prefix(end);
                    let before = |change: &&Change| change.is_before(chunk, end_prefix, end);
                    rest.iter().take_while(before).count()
                }
                None => rest.len(),
            };
            let (changes, later) = rest.split_at(own);
            rest = later;
            if changes.is_empty() {
                continue;
            }
            let keys = leaf.entries.len();
            let mut merged = leaf.merge(chunk, changes).into_iter();
            *leaf = merged.next().unwrap_or_default();
            let mut now = leaf.entries.len();
            for piece in merged {
                now += piece.entries.len();
                split.push(piece);
            }
            self.len = self.len + now as u64 - keys as u64;
            if now < keys.min(SPARSE_KEYS) {
                sparse.push(low.clone());
            }
        }
        for piece in split {
            let low = piece.entries.first().map_or_else(Box::default, |first| piece.key(*first).into());
            self.leaves.insert(low, piece);
        }
        for low in sparse {
            self.join(&low);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        let (low, leaf) = self.leaf_mut(key);
        let Ok(index) = leaf.find(key) else { return };
        leaf.remove_at(index);
        if leaf.entries.len() < SPARSE_KEYS {
            let low: Box<[u8]> = low.into();
            self.join(&low);
        }
        self.len -= 1;
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
                    leaf.append(&next, 0..next.entries.len());
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
        Self {
            keys: RwLock::new(Keys { leaves, len: 0 }),
            noted: Mutex::new(VecDeque::new()),
            merged: Mutex::new(None),
            behind: AtomicBool::new(false),
            enough: AtomicUsize::new(ENOUGH_CHANGES),
        }
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

    /// Adds a key that is not there. `true`: there is enough to merge, if somebody has time.
    ///
    /// Changes of one key are noted by one caller at a time, in the order they are made to the hash index.
    pub(crate) fn add(&self, key: &[u8]) -> bool {
        self.note(key, false)
    }

    /// Removes a key that is there; answers as [`Self::add`] does.
    pub(crate) fn remove(&self, key: &[u8]) -> bool {
        self.note(key, true)
    }

    fn note(&self, key: &[u8], removes: bool) -> bool {
        let (chunks, enough) = {
            let mut noted = self.noted.lock();
            let room =
                |chunk: &Chunk| chunk.changes.len() < CHUNK_CHANGES && chunk.bytes.len() + key.len() <= CHUNK_KEY_BYTES;
            if !noted.back().is_some_and(room) {
                noted.push_back(self.merged.lock().take().unwrap_or_default());
            }
            let chunks = noted.len();
            let mut enough = chunks > 1;
            if let Some(chunk) = noted.back_mut() {
                chunk.note(key, removes);
                enough |= chunk.changes.len() >= self.enough.load(Ordering::Relaxed);
            }
            // Under the lock: whoever takes the last chunk says otherwise under it, too.
            self.behind.store(true, Ordering::Release);
            (chunks, enough)
        };
        if chunks > CHUNKS_MAX {
            self.merge_one();
        }
        enough
    }

    /// Adds a key at once: for whoever fills an index that nobody uses yet.
    pub(crate) fn insert(&self, key: &[u8]) {
        self.keys.write().insert(key);
    }

    /// Merges everything that was noted before; what is noted meanwhile may wait.
    pub(crate) fn merge(&self) {
        if !self.behind.load(Ordering::Acquire) {
            return;
        }
        let chunks = self.noted.lock().len();
        for _ in 0..chunks {
            if !self.merge_one() {
                break;
            }
        }
    }

    /// Merges the oldest chunk; whether there was one. The lock is given up after each: readers get their turn.
    fn merge_one(&self) -> bool {
        if !self.behind.load(Ordering::Acquire) {
            return false;
        }
        // Held first, so that whoever finds nothing noted any more waits here for what is being merged.
        let mut keys = self.keys.write();
        let Some(mut chunk) = self.noted.lock().pop_front() else {
            return false;
        };
        chunk.sort();
        keys.apply(&chunk);
        let enough = (keys.len as usize / ENOUGH_PART).clamp(ENOUGH_CHANGES, CHUNK_CHANGES);
        self.enough.store(enough, Ordering::Relaxed);
        chunk.changes.clear();
        chunk.bytes.clear();
        let noted = self.noted.lock();
        let idle = noted.is_empty();
        if idle {
            self.behind.store(false, Ordering::Release);
        }
        // Kept while changes keep coming.
        let kept = chunk.memory_bytes() <= KEPT_BYTES && !idle;
        *self.merged.lock() = kept.then_some(chunk);
        true
    }

    /// Gives the visitor up to `limit` keys between the bounds, ascending or descending, until it answers
    /// `false`. An empty or inverted range visits nothing. Writers wait: the visitor only copies.
    pub(crate) fn get_range(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        reverse: bool,
        limit: usize,
        mut visitor: impl FnMut(&[u8]) -> bool,
    ) {
        if !inhabited(start, end) {
            return;
        }
        self.merge();
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
            visitor(key)
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
        self.merge();
        self.keys.read().len
    }

    /// An estimate of the memory in use. Walks all leaves.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let keys = self.keys.read();
        let merged: usize = keys.leaves.iter().map(|(low, leaf)| low.len() + leaf.memory_bytes()).sum();
        let noted: usize = self.noted.lock().iter().map(Chunk::memory_bytes).sum();
        (merged + noted) as u64
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

    fn keys(index: &OrderedIndex, start: Bound<&[u8]>, end: Bound<&[u8]>, reverse: bool, limit: usize) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        index.get_range(start, end, reverse, limit, |key| {
            seen.push(key.to_vec());
            true
        });
        seen
    }

    #[test]
    fn a_range_is_read_both_ways_with_either_kind_of_bound() {
        let index = OrderedIndex::new();
        for key in [b"d", b"a", b"c", b"b", b"a"] {
            index.add(key);
        }
        let (a, c) = (b"a".as_slice(), b"c".as_slice());
        let up = keys(&index, Bound::Included(a), Bound::Excluded(c), false, 10);
        assert_eq!(up, [b"a".to_vec(), b"b".to_vec()]);
        let down = keys(&index, Bound::Excluded(a), Bound::Unbounded, true, 2);
        assert_eq!(down, [b"d".to_vec(), b"c".to_vec()]);
        assert!(keys(&index, Bound::Included(c), Bound::Excluded(a), false, 9).is_empty(), "inverted bounds");
        assert!(keys(&index, Bound::Excluded(a), Bound::Excluded(a), false, 9).is_empty(), "nothing between");
        index.remove(b"b");
        index.remove(b"never there");
        assert_eq!(index.len(), 3);
    }

    #[test]
    fn the_last_change_of_a_key_counts_wherever_the_merging_falls() {
        let index = OrderedIndex::new();
        let mut model = std::collections::BTreeSet::new();
        let mut enough = false;
        for i in 0..3 * CHUNK_CHANGES as u64 {
            // Keys with one prefix, that come and go many times.
            let key = format!("prefixed:{}", i * i % 977);
            enough |= if i % 5 < 3 { index.add(key.as_bytes()) } else { index.remove(key.as_bytes()) };
            if i % 5 < 3 {
                model.insert(key.into_bytes())
            } else {
                model.remove(key.as_bytes())
            };
            if i % 20_011 == 0 {
                index.merge();
            }
        }
        assert!(enough, "it says when there is something to merge");
        let all = keys(&index, Bound::Unbounded, Bound::Unbounded, false, usize::MAX);
        assert_eq!(all, model.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_sees_all_that_was_noted_before_it_while_others_note_and_merge() {
        let index = OrderedIndex::new();
        let done = AtomicBool::new(false);
        let added = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..(CHUNKS_MAX as u64 + 1) * CHUNK_CHANGES as u64 {
                    index.add(&i.reverse_bits().to_be_bytes());
                    added.store(i + 1, Ordering::Release);
                }
                done.store(true, Ordering::Release);
            });
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    index.merge();
                }
            });
            while !done.load(Ordering::Acquire) {
                let before = added.load(Ordering::Acquire);
                assert!(index.len() >= before);
            }
        });
        assert_eq!(index.len(), added.load(Ordering::Acquire));
    }

    #[test]
    fn a_visitor_stops_a_scan() {
        let index = OrderedIndex::new();
        (0..10u8).for_each(|i| index.insert(&[i]));
        let mut seen = 0;
        index.get_range(Bound::Unbounded, Bound::Unbounded, false, 100, |key| {
            seen += 1;
            key[0] < 4
        });
        assert_eq!(seen, 5);
    }

    #[test]
    fn a_random_history_agrees_with_a_map_of_boxed_keys() {
        for seed in 1..=4u64 {
            let index = OrderedIndex::new();
            let mut model: std::collections::BTreeSet<Vec<u8>> = std::collections::BTreeSet::new();
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
                        index.add(&k);
                        model.insert(k);
                    }
                    0..=5 => {
                        index.remove(&k);
                        model.remove(&k);
                    }
                    _ => {
                        let (a, b) = (key(next()), key(next()));
                        let bound = |k| if step % 3 == 0 { Bound::Included(k) } else { Bound::Excluded(k) };
                        let start = if step % 11 == 0 { Bound::Unbounded } else { bound(a.as_slice()) };
                        let end = if step % 13 == 0 { Bound::Unbounded } else { bound(b.as_slice()) };
                        if !inhabited(start, end) {
                            continue;
                        }
                        let want = model.range::<[u8], _>((start, end)).cloned();
                        let limit = (next() % 300) as usize;
                        let reverse = next() % 2 == 0;
                        let want: Vec<_> =
                            if reverse { want.rev().take(limit).collect() } else { want.take(limit).collect() };
                        assert_eq!(keys(&index, start, end, reverse, limit), want, "seed {seed} step {step}");
                    }
                }
                if step % 499 == 0 {
                    assert_eq!(index.len(), model.len() as u64);
                }
            }
        }
    }

    #[test]
    fn memory_a_key_is_half_of_what_boxes_in_a_map_take() {
        for ascending in [true, false] {
            let index = OrderedIndex::new();
            for i in 0..100_000u64 {
                let n = if ascending { i } else { xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()) };
                index.add(format!("{n:016x}").as_bytes());
            }
            let keys = index.len();
            let per_key = index.memory_bytes() / keys;
            println!("ascending {ascending}: {per_key} B a key of 16");
            assert!(per_key <= if ascending { 36 } else { 46 }, "{per_key} bytes a key");
        }
    }
}
