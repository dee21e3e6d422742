//! What is known of the keys in a file that no longer changes: its hint, read or rebuilt, and the little of it
//! that stays in memory.
//!
//! A hint is made only of files that are wholly committed, so whoever finds one knows that too. A hint that
//! cannot be stored is no failure: it is rebuilt whenever it is needed.

use std::path::{Path, PathBuf};

use super::error::EngineError;
use super::filter::KeyFilter;
use super::format::notes::Barrier;
use super::format::record::Kind;
use super::hint::{Hint, HintBuilder, HintEntry, HintSubject};
use super::recovery::scan;
use super::segment::Segment;
use super::shared::Shared;

/// What stays in memory of a file's hint.
#[derive(Debug)]
pub(crate) struct FileKeys {
    /// All keys in the file, tombstones included.
    pub(crate) filter: KeyFilter,
    /// Bytes of its puts, deletes and catalog records.
    pub(crate) entry_bytes: u64,
    /// Of these, deletes.
    pub(crate) tombstone_bytes: u64,
    /// Of these, puts that expire.
    pub(crate) expiring_bytes: u64,
    /// When the first of them does.
    pub(crate) first_expiry_ms: u64,
}

impl FileKeys {
    /// Of a hint.
    pub(crate) fn of(hint: &Hint) -> Self {
        let mut keys = Self {
            filter: hint.filter.clone(),
            entry_bytes: 0,
            tombstone_bytes: 0,
            expiring_bytes: 0,
            first_expiry_ms: u64::MAX,
        };
        for entry in hint.entries() {
            keys.entry_bytes += entry.len_bytes;
            match entry.kind {
                Kind::Delete => keys.tombstone_bytes += entry.len_bytes,
                _ if entry.expires_ms > 0 => {
                    keys.expiring_bytes += entry.len_bytes;
                    keys.first_expiry_ms = keys.first_expiry_ms.min(entry.expires_ms);
                }
                _ => {}
            }
        }
        keys
    }
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
    Hint::load(&*shared.disk, &hint_path(segment.path()), subject(shared, segment)?)
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

/// Reads all of a segment's records.
fn build(shared: &Shared, segment: &Segment) -> Result<Hint, String> {
    let (Some(end), Some(subject)) = (segment.end(), subject(shared, segment)) else {
        return Err("a segment that is appended to has no hint".into());
    };
    let scan = scan(segment.bytes(), &segment.header, Some(end.len));
    if let Some(what) = scan.differs_from(&end) {
        return Err(what);
    }
    let mut builder = HintBuilder::default();
    let mut committed_time_ms = scan.committed_time_ms;
    for found in &scan.entries {
        let Some(record) = segment.peek(found.offset) else { continue };
        match found.kind {
            Kind::Put | Kind::Delete | Kind::Catalog => builder.push(&HintEntry {
                hash: shared.hash(record.tree(), record.key()),
                gsn: record.gsn(),
                expires_ms: record.expires_ms().unwrap_or(0),
                offset_bytes: found.offset,
                len_bytes: u64::from(found.len),
                tree: record.tree(),
                kind: found.kind,
                key: record.key(),
            }),
            Kind::Barrier => {
                let time_ms = Barrier::decode(&record).map_or(0, |barrier| barrier.time_ms);
                committed_time_ms = committed_time_ms.max(time_ms);
            }
            Kind::Mark | Kind::Seal => {}
        }
    }
    let min_gsn = scan.entries.first().map_or(0, |first| first.tail.last.gsn);
    Ok(builder.finish(subject, min_gsn, end.last.last.gsn, committed_time_ms))
}
