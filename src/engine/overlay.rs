//! Entries that are in the log but not yet in the index: uncommitted, or committed and about to be applied.
//!
//! By gsn (they are contiguous) and by key hash. Entries of one hash are linked from newest to oldest; the
//! caller compares keys in the records, so that nothing is copied here.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::format::record::Kind;
use super::index::Location;
use crate::position::{Gsn, LogTail};

/// What an entry costs here, about: for the memory budget.
pub(crate) const ENTRY_BYTES: u64 = 104;

/// One entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) hash: u64,
    pub(crate) location: Location,
    pub(crate) kind: Kind,
    pub(crate) batch_end: bool,
    /// The log's end with this entry.
    pub(crate) tail: LogTail,
    /// The next older entry of this hash; 0: none.
    older: Gsn,
}

/// Key hashes are uniform already.
#[derive(Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(b);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// See the module's comment.
#[derive(Default)]
pub(crate) struct Overlay {
    entries: VecDeque<Pending>,
    newest: HashMap<u64, Gsn, BuildHasherDefault<Identity>>,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("entries", &self.entries.len()).finish()
    }
}

impl Overlay {
    /// Adds the next entry.
    pub(crate) fn push(&mut self, hash: Option<u64>, location: Location, kind: Kind, batch_end: bool, tail: LogTail) {
        let older = hash.map_or(0, |hash| self.newest.insert(hash, tail.last.gsn).unwrap_or(0));
        let hash = hash.unwrap_or(0);
        self.entries.push_back(Pending { hash, location, kind, batch_end, tail, older });
    }

    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The oldest entries first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.entries.iter()
    }

    /// The entry of a gsn.
    pub(crate) fn get(&self, gsn: Gsn) -> Option<&Pending> {
        let first = self.entries.front()?.tail.last.gsn;
        self.entries.get(usize::try_from(gsn.checked_sub(first)?).ok()?)
    }

    /// The newest entry of a hash that `is_key` recognises.
    pub(crate) fn find(&self, hash: u64, mut is_key: impl FnMut(&Pending) -> bool) -> Option<&Pending> {
        let mut gsn = *self.newest.get(&hash)?;
        loop {
            let entry = self.get(gsn)?;
            if is_key(entry) {
                return Some(entry);
            }
            gsn = entry.older;
        }
    }

    /// Forgets the oldest entries, up to `gsn`.
    pub(crate) fn drop_through(&mut self, gsn: Gsn) {
        while let Some(entry) = self.entries.front() {
            if entry.tail.last.gsn > gsn {
                break;
            }
            if entry.kind.is_entry() && self.newest.get(&entry.hash) == Some(&entry.tail.last.gsn) {
                self.newest.remove(&entry.hash);
            }
            self.entries.pop_front();
        }
    }

    /// Forgets the newest entries, above `gsn`.
    pub(crate) fn truncate(&mut self, gsn: Gsn) {
        while let Some(entry) = self.entries.back() {
            if entry.tail.last.gsn <= gsn {
                break;
            }
            if self.newest.get(&entry.hash) == Some(&entry.tail.last.gsn) {
                if self.entries.front().is_some_and(|first| first.tail.last.gsn <= entry.older) {
                    self.newest.insert(entry.hash, entry.older);
                } else {
                    self.newest.remove(&entry.hash);
                }
            }
            self.entries.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::LogPosition;

    fn push(overlay: &mut Overlay, gsn: Gsn, hash: u64) {
        let tail = LogTail { last: LogPosition::new(1, gsn), chain: 0 };
        overlay.push(Some(hash), Location::at(0, gsn * 64), Kind::Put, true, tail);
    }

    #[test]
    fn the_newest_entry_of_a_key_is_found_through_other_keys_of_its_hash() {
        let mut o = Overlay::default();
        for (gsn, hash) in [(5, 1), (6, 2), (7, 1), (8, 1)] {
            push(&mut o, gsn, hash);
        }
        assert_eq!(o.find(1, |_| true).map(|p| p.tail.last.gsn), Some(8));
        assert_eq!(o.find(1, |p| p.tail.last.gsn != 8).map(|p| p.tail.last.gsn), Some(7));
        assert!(o.find(1, |p| p.tail.last.gsn == 6).is_none());
        o.truncate(7);
        assert_eq!(o.find(1, |_| true).map(|p| p.tail.last.gsn), Some(7));
        o.drop_through(5);
        assert!(o.find(1, |p| p.tail.last.gsn < 7).is_none());
        assert_eq!(o.find(2, |_| true).map(|p| p.tail.last.gsn), Some(6));
        o.truncate(6);
        assert!(o.find(1, |_| true).is_none());
        o.drop_through(6);
        assert_eq!(o.len(), 0);
    }
}
