//! Building the indexes of a shard from its files: for every key the record with the highest gsn, whatever
//! file it is in. Used when a shard is opened and when a full sync has replaced its files.
//!
//! Tombstones stay in the table until every file is merged: only then is it known that no older put of their
//! key is left anywhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::scan::Scan;
use crate::engine::format::notes::Barrier;
use crate::engine::format::record::{Kind, Record};
use crate::engine::index::{Location, OrderedIndex};
use crate::engine::segment::{Segment, View};
use crate::engine::shared::Shared;
use crate::engine::tree::TreeKind;
use crate::position::Gsn;

/// Fills the hash index of `view`, and its ordered ones, from the files. Entries above `applied` are left
/// out. Answers the largest leader time found.
pub(crate) fn load(
    shared: &Shared,
    view: &mut View,
    log: &[(Arc<Segment>, Scan)],
    compacted: &[Arc<Segment>],
    applied: Gsn,
) -> u64 {
    let mut loader = Loader { shared, view, tombstones: Vec::new(), time_ms: 0 };
    for segment in compacted {
        let bytes = segment.log_bytes();
        let mut at = 64;
        while let Some(record) = bytes.get(at..).and_then(Record::peek) {
            loader.record(segment, at as u64, &record);
            at += record.len();
        }
    }
    for (segment, scan) in log {
        for entry in scan.entries.iter().take_while(|entry| entry.tail.last.gsn <= applied) {
            if let Some(record) = segment.peek(entry.offset) {
                loader.record(segment, entry.offset, &record);
            }
        }
    }
    for (hash, location) in &loader.tombstones {
        loader.view.index.remove(*hash, *location);
    }
    let time_ms = loader.time_ms;
    sort_keys(shared, view);
    time_ms
}

/// Makes the ordered indexes of the trees that have one.
fn sort_keys(shared: &Shared, view: &mut View) {
    let mut keys: Vec<(u16, &[u8], Location)> = Vec::new();
    view.index.for_each(|location| {
        if let Some(record) = view.peek(location)
            && shared.tree_kind(record.tree()) != Some(TreeKind::Hash)
        {
            keys.push((record.tree(), record.key(), location));
        }
    });
    keys.sort_unstable();
    let mut ordered: Vec<Option<Arc<OrderedIndex>>> = Vec::new();
    for (tree, key, location) in keys {
        let slot = usize::from(tree);
        if ordered.len() <= slot {
            ordered.resize(slot + 1, None);
        }
        ordered[slot].get_or_insert_default().insert(key, location);
    }
    view.ordered = ordered;
}

struct Loader<'a> {
    shared: &'a Shared,
    view: &'a View,
    tombstones: Vec<(u64, Location)>,
    time_ms: u64,
}

impl Loader<'_> {
    fn record(&mut self, segment: &Segment, offset: u64, record: &Record<'_>) {
        match record.kind() {
            Kind::Put | Kind::Delete => {}
            Kind::Barrier => {
                if let Ok(barrier) = Barrier::decode(record) {
                    self.time_ms = self.time_ms.max(barrier.time_ms);
                }
                return;
            }
            Kind::Catalog | Kind::Mark | Kind::Seal => return,
        }
        let (tree, key) = (record.tree(), record.key());
        let hash = self.shared.hash(tree, key);
        let location = Location::at(segment.slot, offset);
        let (view, index) = (self.view, &self.view.index);
        let old = index.get(hash, |at| view.is_key(at, tree, key));
        if let Some(old) = old
            && let Some(known) = view.peek(old)
        {
            if known.gsn() >= record.gsn() {
                segment.dead_bytes.fetch_add(record.len() as u64, Ordering::Relaxed);
                return;
            }
            if let Some(segment) = view.segment(old.segment) {
                segment.dead_bytes.fetch_add(known.len() as u64, Ordering::Relaxed);
            }
        }
        index.insert_or_replace(hash, old, location);
        if record.kind() == Kind::Delete {
            self.tombstones.push((hash, location));
        }
    }
}
