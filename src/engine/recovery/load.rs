//! Building the indexes of a shard from its files: for every key the record with the highest gsn, whatever
//! file it is in. Used when a shard is opened and when a full sync has replaced its files.
//!
//! Files are merged newest first, so that most entries are put in place once; tombstones stay in the table
//! until every file is merged: only then is it known that no older put of their key is left anywhere. Of a
//! file with a hint no value is read, only, where two records may be of one key, the key; all of a record, where
//! the gsns of two outputs of compaction overlap and which is newer is not known otherwise. Ordered indexes are
//! filled afterwards, oldest file first and each file's keys sorted: data that was loaded in order makes dense
//! leaves again.

use std::sync::Arc;

use super::scan::Scan;
use crate::engine::error::EngineError;
use crate::engine::file_keys::{gsn_of, hint_of};
use crate::engine::format::notes::Barrier;
use crate::engine::format::record::Kind;
use crate::engine::hint::Hint;
use crate::engine::index::{Location, OrderedIndex};
use crate::engine::segment::{Segment, View};
use crate::engine::shared::Shared;
use crate::engine::tree::TreeKind;
use crate::position::Gsn;

/// One record of a file.
struct Entry<'a> {
    hash: u64,
    gsn: Gsn,
    location: Location,
    len: u64,
    tree: u16,
    kind: Kind,
    key: &'a [u8],
}

/// A file and where its entries are had from.
struct Source<'a> {
    segment: &'a Arc<Segment>,
    /// `None`: its hint.
    scan: Option<&'a Scan>,
    last_gsn: Gsn,
}

/// Fills the hash index of `view`, and its ordered ones, from the files: of log segments what they were found
/// to hold, unless they have a hint, of cold ones the hint. Entries above `applied` are left out. Answers the
/// largest leader time found.
pub(crate) fn load(
    shared: &Shared,
    view: &mut View,
    log: &[(Arc<Segment>, Scan)],
    cold: &[Arc<Segment>],
    applied: Gsn,
) -> Result<u64, EngineError> {
    let mut sources: Vec<Source<'_>> =
        cold.iter().map(|segment| Source { segment, scan: None, last_gsn: last_gsn(segment) }).collect();
    for (segment, scan) in log {
        let scanned = segment.keys().is_none().then_some(scan);
        sources.push(Source { segment, scan: scanned, last_gsn: scan.tail.last.gsn });
    }
    sources.sort_by_key(|source| std::cmp::Reverse((source.last_gsn, source.segment.id())));
    let mut tombstones = Vec::new();
    let mut time_ms = 0;
    for source in &sources {
        let found_ms = source.with_entries(shared, applied, |entries| {
            for entry in entries.iter().rev() {
                load_entry(shared, view, source.segment, entry, &mut tombstones);
            }
        })?;
        time_ms = time_ms.max(found_ms);
    }
    for (hash, location) in tombstones {
        view.index.remove(hash, location);
    }
    sources.sort_by_key(|source| (source.segment.base_gsn(), source.segment.id()));
    let mut ordered = Vec::new();
    for source in &sources {
        source.with_entries(shared, applied, |entries| load_ordered(shared, view, entries, &mut ordered))?;
    }
    view.ordered = ordered;
    Ok(time_ms)
}

impl Source<'_> {
    /// Calls `visit` with the puts and deletes of the file, up to `applied`, in the file's order. Answers the
    /// largest leader time in it.
    fn with_entries(
        &self,
        shared: &Shared,
        applied: Gsn,
        visit: impl FnOnce(&[Entry<'_>]),
    ) -> Result<u64, EngineError> {
        let segment = self.segment;
        let mut time_ms = 0;
        let hint: Hint;
        let mut entries = Vec::new();
        match self.scan {
            None => {
                hint = hint_of(shared, segment)?;
                time_ms = hint.committed_time_ms;
                entries.reserve(usize::try_from(hint.count()).unwrap_or(0));
                entries.extend(hint.entries().map(|e| Entry {
                    hash: e.hash,
                    gsn: e.gsn,
                    location: Location::at(segment.slot, e.offset_bytes),
                    len: e.len_bytes,
                    tree: e.tree,
                    kind: e.kind,
                    key: e.key,
                }));
            }
            Some(scan) => {
                for found in scan.entries.iter().take_while(|found| found.tail.last.gsn <= applied) {
                    let Some(record) = segment.peek(found.offset) else { continue };
                    if found.kind == Kind::Barrier {
                        time_ms = time_ms.max(Barrier::decode(&record).map_or(0, |barrier| barrier.time_ms));
                        continue;
                    }
                    let (tree, key) = (record.tree(), record.key());
                    entries.push(Entry {
                        hash: shared.hash(tree, key),
                        gsn: record.gsn(),
                        location: Location::at(segment.slot, found.offset),
                        len: u64::from(found.len),
                        tree,
                        kind: found.kind,
                        key,
                    });
                }
            }
        }
        entries.retain(|entry| matches!(entry.kind, Kind::Put | Kind::Delete));
        visit(&entries);
        Ok(time_ms)
    }
}

fn load_entry(
    shared: &Shared,
    view: &View,
    segment: &Segment,
    entry: &Entry<'_>,
    tombstones: &mut Vec<(u64, Location)>,
) {
    let old = view.index.get(entry.hash, |at| view.is_key(shared, at, entry.tree, entry.key));
    if let Some(old) = old
        && let Some(holder) = view.segment(old.segment)
    {
        // Files come newest first and from their ends: mostly it is known without a look at the record, of which nothing
        // may be believed before all of it has been read.
        let newer = old.segment == entry.location.segment
            || holder.base_gsn() > entry.gsn
            || gsn_of(shared, holder, old.offset_bytes()).is_none_or(|known| known >= entry.gsn);
        if newer {
            segment.bury(entry.len);
            return;
        }
        if let Some(known) = view.peek(old) {
            holder.bury(known.len() as u64);
        }
    }
    view.index.insert_or_replace(entry.hash, old, entry.location);
    if entry.kind == Kind::Delete {
        tombstones.push((entry.hash, entry.location));
    }
}

/// Adds the keys whose newest record is one of these to their ordered indexes.
fn load_ordered(shared: &Shared, view: &View, entries: &[Entry<'_>], ordered: &mut Vec<Option<Arc<OrderedIndex>>>) {
    let sorted = |entry: &&Entry<'_>| shared.tree_kind(entry.tree) != Some(TreeKind::Hash);
    let live = |entry: &&Entry<'_>| entry.kind == Kind::Put && view.index.contains(entry.hash, entry.location);
    let mut keys: Vec<&Entry<'_>> = entries.iter().filter(sorted).filter(live).collect();
    keys.sort_unstable_by_key(|entry| (entry.tree, entry.key));
    for entry in keys {
        let slot = usize::from(entry.tree);
        if ordered.len() <= slot {
            ordered.resize(slot + 1, None);
        }
        ordered[slot].get_or_insert_default().insert(entry.key);
    }
}

fn last_gsn(segment: &Segment) -> Gsn {
    segment.end().map_or(0, |end| end.last.last.gsn)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::path::Path;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::disk::{CrashDisk, Disk};
    use crate::engine::EngineOptions;
    use crate::engine::format::manifest::FileEnd;
    use crate::engine::format::record::Draft;
    use crate::engine::format::segment_header::SegmentHeader;
    use crate::engine::recovery::scan;

    /// An output of compaction with these records: gsn, key, and whether it is a put.
    fn output(disk: &Arc<dyn Disk>, slot: u32, records: &[(Gsn, &str, bool)]) -> Arc<Segment> {
        let base_gsn = records[0].0;
        let header =
            SegmentHeader { shard: 0, compacted: true, cluster_id: 0, file_id: slot + 1, base_gsn, epoch: 1, chain: 0 };
        let mut bytes = header.encode().to_vec();
        for (gsn, key, is_put) in records {
            let kind = if *is_put { Kind::Put } else { Kind::Delete };
            let key = key.as_bytes();
            let draft = Draft { kind, more: false, tree: 0, value_type: 0, expires_ms: None, key, value: b"" };
            draft.encode_stamped(*gsn, &mut bytes);
        }
        let path = Path::new("/").join(Segment::file_name(slot + 1));
        let file = disk.create(&path).expect("created");
        file.write_at(&[IoSlice::new(&bytes)], 0).expect("written");
        let segment = Arc::new(Segment::planned(slot, header));
        let len = bytes.len() as u64;
        segment.adopt(path, file, len, len, false).expect("adopted");
        segment.set_end(FileEnd { len, last: scan(&bytes, &header, Some(len)).tail });
        segment
    }

    #[test]
    fn the_highest_gsn_wins_in_whatever_order_files_come_and_tombstones_count_until_the_end() {
        let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
        let shared = Shared::new(disk.clone(), "/".into(), EngineOptions::default(), 7, 0, false);
        // The file that is newest by its last entry holds the oldest record of every key.
        let files = [
            output(&disk, 0, &[(1, "a", true), (2, "b", true), (3, "c", true), (4, "d", false), (90, "last", true)]),
            output(&disk, 1, &[(50, "a", true), (51, "b", false), (80, "e", true)]),
            output(&disk, 2, &[(20, "b", true), (21, "c", false), (60, "d", true), (61, "a", false), (62, "a", true)]),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut view = View::default();
            for file in &files {
                view = view.with_segment(file.clone());
            }
            let cold: Vec<_> = order.iter().map(|i| files[*i].clone()).collect();
            load(&shared, &mut view, &[], &cold, u64::MAX).expect("loaded");
            let gsn_of = |key: &str| {
                let hash = shared.hash(0, key.as_bytes());
                let at = view.index.get(hash, |at| view.is_key(&shared, at, 0, key.as_bytes()))?;
                view.peek(at).map(|record| record.gsn())
            };
            let found: Vec<_> = ["a", "b", "c", "d", "e", "last"].map(gsn_of).into();
            assert_eq!(found, [Some(62), None, None, Some(60), Some(80), Some(90)], "{order:?}");
            assert_eq!(view.ordered[0].as_ref().map(|ordered| ordered.len()), Some(4));
        }
        let dead = files.iter().map(|file| file.dead_bytes.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert!(dead.iter().all(|bytes| *bytes > 0), "{dead:?}");
    }
}
