//! The giving side: which files, and how much of each, hold the committed state of this moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::manifest::{SnapshotFile, SnapshotManifest};
use crate::engine::compaction::LogKeeper;
use crate::engine::error::EngineError;
use crate::engine::format::notes::Barrier;
use crate::engine::format::record::{Kind, Record, chain};
use crate::engine::format::segment_header::SEGMENT_HEADER_BYTES;
use crate::engine::segment::Segment;
use crate::engine::shard::Shard;
use crate::engine::shard_state::ShardState;
use crate::position::{EpochTable, Gsn, LogTail};

/// Keeps a snapshot's files readable until dropped, whatever happens to the shard meanwhile.
#[derive(Debug)]
pub struct SnapshotPin {
    manifest: SnapshotManifest,
    files: BTreeMap<String, (Arc<Segment>, u64)>,
    /// What follows the snapshot stays log, so that the taker can go on from there.
    _log: LogKeeper,
}

impl SnapshotPin {
    /// What it consists of.
    pub fn manifest(&self) -> &SnapshotManifest {
        &self.manifest
    }

    /// Reads a piece of a file; shorter only at the file's end.
    pub fn read(&self, name: &str, offset: u64, len: usize) -> Result<Bytes, EngineError> {
        let Some((segment, end)) = self.files.get(name) else {
            return Err(EngineError::FullSync(format!("the snapshot has no file {name:?}")));
        };
        let bytes = &segment.bytes()[..*end as usize];
        let from = offset.min(*end) as usize;
        let to = from.saturating_add(len).min(bytes.len());
        Ok(Bytes::copy_from_slice(&bytes[from..to]))
    }
}

/// What is pinned under the lock; checksums are computed after it.
struct Pinned {
    g0: LogTail,
    epochs: EpochTable,
    tombstone_floor: Gsn,
    log_floor: Gsn,
    files: Vec<(Arc<Segment>, u64)>,
}

impl Shard {
    /// Pins the committed state as a snapshot. Reads all of it once, for checksums.
    pub fn pin_snapshot(self: &Arc<Self>) -> Result<SnapshotPin, EngineError> {
        self.shared.poison.check()?;
        // Not a damaged one either: files are given as they are, and no record unverified.
        if self.state() != ShardState::Ready {
            return Err(EngineError::NotReady { shard: self.id, state: self.state(), operation: "a snapshot" });
        }
        // From the commit as it is before: what is pinned ends there or later.
        let log = self.keep_log(self.applied() + 1);
        let pinned = self.pin_files()?;
        log.advance(pinned.g0.last.gsn + 1);
        let mut files = BTreeMap::new();
        let mut listed = Vec::new();
        for (segment, len) in pinned.files {
            let name = Segment::file_name(segment.id());
            let crc = segment.crc_of(len);
            listed.push(SnapshotFile { name: name.clone(), len, crc });
            files.insert(name, (segment, len));
        }
        let trees = if self.id == 0 { self.shared.trees.load().as_ref().clone() } else { Vec::new() };
        let manifest = SnapshotManifest {
            g0: pinned.g0,
            epoch_table: pinned.epochs,
            tombstone_floor: pinned.tombstone_floor,
            log_floor: pinned.log_floor,
            committed_time_ms: self.committed_time_ms(),
            files: listed,
            trees,
        };
        Ok(SnapshotPin { manifest, files, _log: log })
    }

    fn pin_files(&self) -> Result<Pinned, EngineError> {
        // The set of files changes only under this lock.
        let held = self.files.lock();
        let manifest = held.manifest();
        let (applied, mut epochs) = {
            let log = self.log.lock();
            (log.applied, log.epochs.clone())
        };
        let view = self.view.load_full();
        let mut listed: Vec<Arc<Segment>> = Vec::new();
        for file in &manifest.files {
            let segment = view.segments.iter().flatten().find(|segment| segment.id() == file.id);
            if segment.is_none() && file.prepared {
                continue;
            }
            let Some(segment) = segment else {
                let what = format!("{} is listed but not open", Segment::file_name(file.id));
                return Err(EngineError::Corrupt { shard: self.id, what });
            };
            listed.push(segment.clone());
        }
        let (mut log, compacted): (Vec<_>, Vec<_>) = listed.into_iter().partition(|s| !s.header.compacted);
        log.sort_by_key(|segment| (segment.base_gsn(), segment.id()));
        log.retain(|segment| segment.base_gsn() <= applied.last.gsn);
        let mut g0 = log.first().map_or(applied, |first| first.header.before());
        let mut files = Vec::new();
        for segment in log {
            let (tail, len) = match segment.end() {
                Some(end) if end.last.last.gsn <= applied.last.gsn && end.len <= segment.written() => {
                    (end.last, end.len)
                }
                _ => last_batch(&segment, applied.last.gsn),
            };
            if len > SEGMENT_HEADER_BYTES {
                g0 = tail;
                files.push((segment, len));
            }
        }
        epochs.truncate(g0.last.gsn);
        files.extend(compacted.into_iter().map(|segment| {
            let len = segment.log_bytes().len() as u64;
            (segment, len)
        }));
        let tombstone_floor = manifest.tombstone_floor.min(g0.last.gsn);
        let log_floor = manifest.log_floor.clamp(1, g0.last.gsn + 1);
        Ok(Pinned { g0, epochs, tombstone_floor, log_floor, files })
    }
}

/// Where the last batch that ends at or below `limit` ends in a segment.
fn last_batch(segment: &Segment, limit: Gsn) -> (LogTail, u64) {
    let bytes = segment.log_bytes();
    let mut tail = segment.header.before();
    let mut at = SEGMENT_HEADER_BYTES as usize;
    let mut whole = (tail, SEGMENT_HEADER_BYTES);
    while tail.last.gsn < limit
        && let Some(record) = bytes.get(at..).and_then(Record::peek)
    {
        at += record.len();
        match record.kind() {
            Kind::Mark => continue,
            Kind::Seal => break,
            Kind::Barrier => {
                tail.last.epoch = Barrier::decode(&record).map_or(tail.last.epoch, |barrier| barrier.epoch);
            }
            Kind::Put | Kind::Delete | Kind::Catalog => {}
        }
        tail.last.gsn += 1;
        tail.chain = chain(tail.chain, record.crc());
        if !record.more() {
            whole = (tail, at as u64);
        }
    }
    whole
}
