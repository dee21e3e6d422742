//! What compacting a file would free, as far as it is worth knowing before it is done.
//!
//! Two steps: what is known anyway (bytes that were replaced, notes and barriers, how much of the file are
//! deletes) sorts out most files; for those that may be worth it the hint is read, and every so many entries
//! are looked up. Estimates only decide what is tried: what may really go is judged record by record.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::plan::FileFigures;
use super::state::Turn;
use crate::engine::error::EngineError;
use crate::engine::file_keys::{FileKeys, hint_of};
use crate::engine::format::record::Kind;
use crate::engine::format::segment_header::SEGMENT_HEADER_BYTES;
use crate::engine::index::Location;
use crate::engine::segment::Segment;
use crate::engine::shard::Shard;

/// Entries of a hint that are looked up at most, about.
const SAMPLE: u64 = 1 << 15;

/// What was found of one file, and as long as what it stays true.
#[derive(Debug)]
pub(super) struct Estimate {
    figures: FileFigures,
    generation: u64,
    dead_bytes: u64,
    /// Committed time from which more has expired.
    until_ms: u64,
}

impl Shard {
    /// The figures of every file that may be rewritten.
    pub(super) fn figures(&self, turn: &mut Turn) -> Result<Vec<FileFigures>, EngineError> {
        let view = self.view.load_full();
        let files: Vec<&Arc<Segment>> = view.segments.iter().flatten().collect();
        let mut figures = Vec::new();
        let mut known = BTreeSet::new();
        for segment in files.iter().filter(|segment| segment.is_cold()) {
            let Some(keys) = segment.keys().filter(|_| !turn.unfit.contains(&segment.id())) else { continue };
            known.insert(segment.id());
            let quick = quick(segment, keys);
            figures.push(if self.may_be_worth(&quick, keys) {
                self.estimate(turn, segment, keys, quick, &files)?
            } else {
                quick
            });
        }
        turn.estimates.retain(|id, _| known.contains(id));
        Ok(figures)
    }

    /// Whether the deletes and expired values of a file could make it worth rewriting when its garbage alone
    /// does not.
    fn may_be_worth(&self, quick: &FileFigures, keys: &FileKeys) -> bool {
        let expired =
            if keys.figures.first_expiry_ms <= self.committed_time_ms() { keys.figures.expiring_bytes } else { 0 };
        let hiding = keys.figures.tombstone_bytes + expired;
        let options = &self.shared.options.compaction;
        let share = |bytes: u64, ratio: f64| bytes as f64 >= ratio * quick.bytes as f64;
        let alone = quick.garbage_bytes > 0 && share(quick.garbage_bytes, options.min_garbage_ratio);
        let together = share(quick.garbage_bytes + hiding, options.min_garbage_ratio);
        !alone && hiding > 0 && (together || share(hiding, options.tombstone_ratio))
    }

    /// The estimate at hand, if it still holds, or a new one.
    fn estimate(
        &self,
        turn: &mut Turn,
        segment: &Arc<Segment>,
        keys: &FileKeys,
        quick: FileFigures,
        files: &[&Arc<Segment>],
    ) -> Result<FileFigures, EngineError> {
        let now_ms = self.committed_time_ms();
        let dead_bytes = segment.dead_bytes.load(Ordering::Relaxed);
        if let Some(known) = turn.estimates.get(&segment.id())
            && known.generation == turn.generation
            && now_ms < known.until_ms
            && dead_bytes - known.dead_bytes.min(dead_bytes) <= quick.bytes / 16
        {
            return Ok(known.figures.clone());
        }
        let hint = hint_of(&self.shared, segment).inspect_err(|_| {
            turn.unfit.insert(segment.id());
        })?;
        let stride = hint.count().div_ceil(SAMPLE).max(1);
        let mut figures = FileFigures { garbage_bytes: quick.bytes.saturating_sub(keys.figures.entry_bytes), ..quick };
        let mut to_expire = Vec::new();
        let view = self.view.load();
        let others: Vec<Arc<Segment>> = {
            let pinned = self.housekeeping.pinned();
            files.iter().map(|other| (*other).clone()).chain(pinned).filter(|o| !Arc::ptr_eq(o, segment)).collect()
        };
        for entry in hint.entries().step_by(stride as usize) {
            let bytes = entry.len_bytes * stride;
            let location = Location::at(segment.slot, entry.offset_bytes);
            let hides = match entry.kind {
                Kind::Delete => {
                    view.index.get(entry.hash, |at| view.is_key(&self.shared, at, entry.tree, entry.key)).is_none()
                }
                Kind::Put if !view.index.contains(entry.hash, location) => false,
                Kind::Put if entry.expires_ms > 0 && entry.expires_ms <= now_ms => true,
                Kind::Put if entry.expires_ms > 0 => {
                    to_expire.push((entry.expires_ms, bytes));
                    continue;
                }
                _ => continue,
            };
            if !hides {
                figures.garbage_bytes += bytes;
                continue;
            }
            figures.tombstone_bytes += bytes;
            let mut blockers =
                others.iter().filter(|other| other.may_hold_older(entry.hash, entry.gsn)).map(|o| o.id()).peekable();
            if blockers.peek().is_none() {
                figures.free_tombstone_bytes += bytes;
            }
            figures.held_back_by.extend(blockers.map(u64::from));
        }
        let until_ms = next_look(to_expire, figures.bytes / 16);
        turn.estimates.insert(
            segment.id(),
            Estimate { figures: figures.clone(), generation: turn.generation, dead_bytes, until_ms },
        );
        Ok(figures)
    }
}

/// What is known without reading anything: deletes count as live.
fn quick(segment: &Segment, keys: &FileKeys) -> FileFigures {
    let bytes = segment.end().map_or(0, |end| end.len.saturating_sub(SEGMENT_HEADER_BYTES));
    let dead = segment.dead_bytes.load(Ordering::Relaxed).min(keys.figures.entry_bytes);
    FileFigures {
        file_id: u64::from(segment.id()),
        bytes,
        garbage_bytes: bytes.saturating_sub(keys.figures.entry_bytes) + dead,
        tombstone_bytes: 0,
        free_tombstone_bytes: 0,
        min_gsn: segment.base_gsn(),
        held_back_by: BTreeSet::new(),
    }
}

/// When so many more bytes will have expired.
fn next_look(mut to_expire: Vec<(u64, u64)>, worth_bytes: u64) -> u64 {
    to_expire.sort_unstable();
    let mut sum = 0;
    for (expires_ms, bytes) in to_expire {
        sum += bytes;
        if sum > worth_bytes {
            return expires_ms;
        }
    }
    u64::MAX
}
