//! Commit: entries move from the overlay into the index, in log order, whole batches.
//!
//! An entry is in the index before it leaves the overlay, so that a judge under the log's lock always finds
//! it in one of the two.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::file_keys::is_of;
use super::format::notes::{Barrier, decode_catalog};
use super::format::record::{Kind, Record};
use super::index::{Location, OrderedIndex};
use super::overlay::{ENTRY_BYTES, Pending};
use super::segment::{Segment, View};
use super::shard::Shard;
use super::shared::Shared;
use super::tree::TreeKind;
use crate::position::Gsn;

/// Entries applied between two looks at the lock, about.
const GROUP: usize = 512;

/// How far ahead of the entry being applied the processor is told what comes.
const AHEAD: usize = 8;

/// How often what is noted for the ordered indexes is merged unasked.
const LOOK: Duration = Duration::from_millis(500);

/// Merges what is noted for the ordered indexes, until the engine stops.
pub(crate) fn run_ordering(shared: &Shared, shards: &[Arc<Shard>]) {
    let stop = || shared.stopping.load(Ordering::Acquire) || shared.poison.is_set();
    while !stop() {
        shared.ordering.wait(Some(LOOK), || shared.unordered.load(Ordering::Acquire) || stop());
        shared.unordered.store(false, Ordering::Release);
        for shard in shards {
            shard.view.load_full().ordered.iter().flatten().for_each(|ordered| ordered.merge());
        }
    }
}

impl Shard {
    /// Tells that everything up to `gsn` is committed. What lies beyond the own tail is told again later;
    /// what is not yet written is applied once it is.
    pub fn advance_commit(&self, gsn: Gsn) {
        self.commit_and_apply(gsn);
    }

    /// [`Self::advance_commit`]; whether anything was applied, and so everybody woken.
    pub(crate) fn commit_and_apply(&self, gsn: Gsn) -> bool {
        let gsn = gsn.min(self.tail_gsn.load(Ordering::Acquire));
        let more = self.commit_gsn.fetch_max(gsn, Ordering::AcqRel) < gsn || self.applied() < gsn;
        more && self.apply_committed()
    }

    /// Applies what is committed and written; whether there was anything, and so everybody was woken.
    pub(crate) fn apply_committed(&self) -> bool {
        let before = self.applied();
        let after = {
            let _apply = self.apply.lock();
            while self.apply_group() {}
            self.applied()
        };
        if after > before {
            self.shared.progress.wake_all();
            self.shared.tell(|listener| listener.applied(self.id, after));
        }
        after > before
    }

    /// One group of whole batches; `false` if there was nothing to do.
    fn apply_group(&self) -> bool {
        let group: Vec<Pending> = {
            let log = self.log.lock();
            let limit = self.commit().min(log.written.last.gsn);
            let mut group = Vec::new();
            let mut whole = 0;
            for entry in log.overlay.iter() {
                if entry.tail.last.gsn > limit || (whole > 0 && whole == group.len() && whole >= GROUP) {
                    break;
                }
                group.push(*entry);
                if entry.batch_end {
                    whole = group.len();
                    // What follows may have been judged by a time that is shown with this.
                    if log.time.next_shown_with().is_some_and(|gsn| gsn <= entry.tail.last.gsn) {
                        break;
                    }
                }
            }
            group.truncate(whole);
            group
        };
        let Some(last) = group.last() else { return false };
        let mut view = self.view.load();
        for (i, entry) in group.iter().enumerate() {
            if let Some(later) = group.get(i + AHEAD) {
                view.prefetch(later.hash);
            }
            if view.segment(entry.location.segment).is_none() {
                view = self.view.load();
            }
            let Some(record) = view.peek(entry.location) else {
                // Written and in the view by construction: anything else would silently lose a write.
                panic!("shard {}: gsn {} is not where it was put", self.id, entry.tail.last.gsn);
            };
            let hash = matches!(entry.kind, Kind::Put | Kind::Delete).then_some(entry.hash);
            self.apply_record(&view, entry.kind, hash, entry.location, record.bytes());
        }
        let mut log = self.log.lock();
        log.applied = last.tail;
        log.overlay.drop_through(last.tail.last.gsn);
        self.take_time(&mut log);
        self.trim_memory(&mut log);
        self.applied_gsn.store(last.tail.last.gsn, Ordering::Release);
        drop(log);
        self.shared.memory_bytes.fetch_sub(group.len() as u64 * ENTRY_BYTES, Ordering::Relaxed);
        true
    }

    /// Puts one committed record into the index.
    pub(crate) fn apply_record(&self, view: &View, kind: Kind, hash: Option<u64>, location: Location, bytes: &[u8]) {
        let Some(record) = Record::peek(bytes) else { return };
        match (kind, hash) {
            (Kind::Put, Some(hash)) => self.apply_put(view, hash, record.tree(), record.key(), location),
            (Kind::Delete, Some(hash)) => self.apply_delete(view, hash, record.tree(), record.key()),
            (Kind::Barrier, _) => {
                if let Ok(barrier) = Barrier::decode(&record) {
                    self.show_time(barrier.time_ms);
                }
            }
            (Kind::Catalog, _) => {
                if let Some(tree) = decode_catalog(&record) {
                    self.shared.add_tree(&tree);
                }
            }
            _ => {}
        }
    }

    /// Points the indexes to a committed put.
    pub(super) fn apply_put(&self, view: &View, hash: u64, tree: u16, key: &[u8], location: Location) {
        // Looked at where it is: nothing moves in the index meanwhile.
        let is_it = |at: Location| {
            let bury_if_it = |segment: &Segment| {
                let is_it = is_of(&self.shared, segment, at.offset_bytes(), tree, key);
                if is_it && let Some(record) = segment.peek(at.offset_bytes()) {
                    segment.bury(record.len() as u64);
                }
                is_it
            };
            match view.segment(at.segment) {
                Some(segment) => bury_if_it(segment),
                // The view has been replaced since.
                None => self.view.load().segment(at.segment).is_some_and(|segment| bury_if_it(segment)),
            }
        };
        // Before the hash index, which says what is: every key that a get finds, a scan finds too.
        view.index.put(hash, location, is_it, || self.note_key(view, tree, |ordered| ordered.add(key)));
    }

    /// Takes what a committed delete removes out of the indexes.
    pub(super) fn apply_delete(&self, view: &View, hash: u64, tree: u16, key: &[u8]) {
        let old = loop {
            match self.locate(view, hash, tree, key) {
                Some(old) if !view.index.remove(hash, old) => {}
                old => break old,
            }
        };
        if old.is_some() {
            self.note_key(view, tree, |ordered| ordered.remove(key));
        }
        self.bury(view, old);
    }

    /// Where a key is now.
    fn locate(&self, view: &View, hash: u64, tree: u16, key: &[u8]) -> Option<Location> {
        let mut stale = false;
        let found = view.index.get(hash, |at| {
            stale |= view.segment(at.segment).is_none();
            view.is_key(&self.shared, at, tree, key)
        });
        if found.is_none() && stale {
            let newer = self.view.load_full();
            // The index knew a segment that this view does not: the view has been replaced since.
            return if std::ptr::eq(&*newer, view) { None } else { self.locate(&newer, hash, tree, key) };
        }
        found
    }

    /// Counts a record that was replaced.
    fn bury(&self, view: &View, old: Option<Location>) {
        if let Some(old) = old
            && let Some(segment) = view.segment(old.segment)
            && let Some(record) = segment.peek(old.offset_bytes())
        {
            segment.bury(record.len() as u64);
        }
    }

    /// Tells the ordered index of a tree, if it has one, of a key that came or went.
    pub(crate) fn note_key(&self, view: &View, tree: u16, note: impl FnOnce(&OrderedIndex) -> bool) {
        let enough = match view.ordered.get(usize::from(tree)) {
            Some(Some(ordered)) => note(ordered),
            _ => self.ordered(tree).is_some_and(|ordered| note(&ordered)),
        };
        let told =
            || self.shared.unordered.load(Ordering::Relaxed) || self.shared.unordered.swap(true, Ordering::AcqRel);
        if enough && !told() {
            self.shared.ordering.wake_all();
        }
    }

    /// The ordered index of a tree, made when first needed; `None` for a hash tree. A tree whose creation has
    /// not been applied yet (it is in shard 0's log) counts as ordered until it is.
    pub(crate) fn ordered(&self, tree: u16) -> Option<Arc<OrderedIndex>> {
        if self.shared.tree_kind(tree) == Some(TreeKind::Hash) {
            return None;
        }
        let slot = usize::from(tree);
        if let Some(Some(ordered)) = self.view.load().ordered.get(slot) {
            return Some(ordered.clone());
        }
        let fresh = Arc::new(OrderedIndex::new());
        self.view.rcu(|view| {
            let mut ordered = view.ordered.clone();
            if ordered.len() <= slot {
                ordered.resize(slot + 1, None);
            }
            ordered[slot].get_or_insert_with(|| fresh.clone());
            View { ordered, ..view.as_ref().clone() }
        });
        self.view.load().ordered.get(slot).cloned().flatten()
    }
}
