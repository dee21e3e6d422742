//! What is known of the keys in a file that no longer changes: its hint, read or rebuilt, and the little of it
//! that stays in memory.
//!
//! A hint is made only of files that are wholly committed, so whoever finds one knows that too. A hint that
//! cannot be stored is no failure: it is rebuilt whenever it is needed.

use std::path::{Path, PathBuf};

use super::error::EngineError;
use super::filter::KeyFilter;
use super::format::notes::{Barrier, Mark};
use super::format::record::{HEADER_BYTES, Kind};
use super::hint::{Hint, HintBuilder, HintEntry, HintFigures, HintSubject};
use super::recovery::walk;
use super::segment::Segment;
use super::shared::Shared;
use crate::position::Gsn;

/// What stays in memory of a file's hint.
#[derive(Debug)]
pub(crate) struct FileKeys {
    /// All keys in the file, tombstones included.
    pub(crate) filter: KeyFilter,
    /// What its entries come to.
    pub(crate) figures: HintFigures,
}

impl FileKeys {
    /// Of a hint.
    pub(crate) fn of(hint: Hint) -> Self {
        Self { filter: hint.filter, figures: hint.figures }
    }
}

/// What a record was that does not verify any more, as the hint of its file tells.
#[derive(Debug)]
pub(crate) struct Rotten {
    gsn: Gsn,
    tree: u16,
    key: Box<[u8]>,
}

/// Where the hint of a segment's file is.
pub(crate) fn hint_path(segment: &Path) -> PathBuf {
    segment.with_extension("hint")
}

fn subject(shared: &Shared, segment: &Segment) -> Option<HintSubject> {
    let end = segment.end()?;
    let (file_id, hash_seed) = (u64::from(segment.id()), shared.hash_seed);
    Some(HintSubject { file_id, len_bytes: end.len, chain: end.last.chain, hash_seed })
}

/// The stored hint of an ended segment, if it can be believed.
pub(crate) fn stored_hint(shared: &Shared, segment: &Segment) -> Option<Hint> {
    let subject = subject(shared, segment)?;
    Hint::load(&*shared.disk, &hint_path(segment.path()), subject)
}

/// The hint of an ended and wholly committed segment: the stored one, or else rebuilt, and stored if that
/// works. An error says that the file is damaged.
pub(crate) fn hint_of(shared: &Shared, segment: &Segment) -> Result<Hint, EngineError> {
    if let Some(hint) = stored_hint(shared, segment) {
        return Ok(hint);
    }
    let hint = build(shared, segment).map_err(|what| EngineError::Corrupt {
        shard: segment.header.shard,
        what: format!("{}: {what}", Segment::file_name(segment.id())),
    })?;
    if let Err(error) = hint.store(&*shared.disk, &hint_path(segment.path())) {
        tracing::warn!(%error, path = %segment.path().display(), "the segment's hint could not be stored");
    }
    Ok(hint)
}

/// Whether the record at an offset is of this tree and key. What does not verify may say anything: what it was of is
/// known to the file's hint; without one it is of nobody.
pub(crate) fn is_of(shared: &Shared, segment: &Segment, offset: u64, tree: u16, key: &[u8]) -> bool {
    match segment.peek(offset) {
        Some(record) if record.is_of(tree, key) => true,
        // Of another key with this hash.
        Some(record) if record.is_sound() => false,
        _ => hinted(shared, segment, offset, |rotten| rotten.tree == tree && *rotten.key == *key).unwrap_or(false),
    }
}

/// The sequence number of the record at an offset; none if it does not verify and the file has no hint either.
pub(crate) fn gsn_of(shared: &Shared, segment: &Segment, offset: u64) -> Option<Gsn> {
    match segment.peek(offset) {
        Some(record) if record.is_sound() => Some(record.gsn()),
        _ => hinted(shared, segment, offset, |rotten| rotten.gsn),
    }
}

/// What the hint of a file says of the record at an offset, which does not verify.
#[cold]
fn hinted<R>(shared: &Shared, segment: &Segment, offset: u64, say: impl FnOnce(&Rotten) -> R) -> Option<R> {
    let mut rotten = segment.rotten.lock();
    if !rotten.contains_key(&offset) {
        // All of them at once: where one rotted, others did, and the hint of a large file takes a while.
        let hint = stored_hint(shared, segment)?;
        let is_rotten = |entry: &HintEntry<'_>| {
            entry.offset_bytes == offset || !segment.peek(entry.offset_bytes).is_some_and(|record| record.is_sound())
        };
        let of = |entry: HintEntry<'_>| Rotten { gsn: entry.gsn, tree: entry.tree, key: entry.key.into() };
        rotten.extend(hint.entries().filter(is_rotten).map(|entry| (entry.offset_bytes, of(entry))));
    }
    rotten.get(&offset).map(say)
}

/// Reads all of a segment's records, once.
fn build(shared: &Shared, segment: &Segment) -> Result<Hint, String> {
    let (Some(end), Some(subject)) = (segment.end(), subject(shared, segment)) else {
        return Err("a segment that is appended to has no hint".into());
    };
    let records = (end.last.last.gsn + 1).saturating_sub(segment.base_gsn()).min(end.len / HEADER_BYTES as u64);
    let mut builder = HintBuilder::with_capacity(records as usize);
    let (mut min_gsn, mut committed_time_ms) = (0, 0);
    walk(segment.bytes(), &segment.header, &end, |offset_bytes, record| {
        let kind = record.kind();
        if kind.is_entry() && min_gsn == 0 {
            min_gsn = record.gsn();
        }
        match kind {
            Kind::Put | Kind::Delete | Kind::Catalog => builder.push(&HintEntry {
                hash: shared.hash(record.tree(), record.key()),
                gsn: record.gsn(),
                expires_ms: record.expires_ms().unwrap_or(0),
                offset_bytes,
                len_bytes: record.len() as u64,
                tree: record.tree(),
                kind,
                key: record.key(),
            }),
            Kind::Barrier => {
                let time_ms = Barrier::decode(record).map_or(0, |barrier| barrier.time_ms);
                committed_time_ms = committed_time_ms.max(time_ms);
            }
            Kind::Mark => {
                let time_ms = Mark::decode(record).map_or(0, |mark| mark.committed_time_ms);
                committed_time_ms = committed_time_ms.max(time_ms);
            }
            Kind::Seal => {}
        }
    })?;
    Ok(builder.finish(subject, min_gsn, end.last.last.gsn, committed_time_ms))
}
