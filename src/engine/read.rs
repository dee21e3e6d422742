//! Reads: committed state only; no shard lock is waited for. Hash to location, location to mapped bytes, key and checksum
//! verified there, copied out.

use std::cell::Cell;
use std::ops::Bound;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::error::EngineError;
use super::format::record::{Kind, Record};
use super::index::Location;
use super::segment::View;
use super::shard::Shard;
use super::tree::{TreeId, TreeKind};
use super::value::{ScanPage, ScanRange, Value};
use crate::position::{Gsn, LogPosition};

/// Keys looked up together: enough for the memory to work in parallel.
const GROUP: usize = 16;

/// Looks with a clock that is asked only if it matters. It is asked after the record was found, and what has expired by
/// then may have been replaced before: looked for again, by the same time.
fn timed<T>(
    now_ms: impl Fn() -> u64,
    mut look: impl FnMut(&dyn Fn() -> u64) -> Result<Option<T>, EngineError>,
) -> Result<Option<T>, EngineError> {
    let asked = Cell::new(None);
    let now_ms = || {
        let now_ms = now_ms();
        asked.set(Some(now_ms));
        now_ms
    };
    match (look(&now_ms)?, asked.get()) {
        (None, Some(now_ms)) => look(&|| now_ms),
        (found, _) => Ok(found),
    }
}

impl Shard {
    fn check_readable(&self, tree: TreeId, operation: &'static str) -> Result<(), EngineError> {
        if !self.ready.load(Ordering::Acquire) {
            return Err(EngineError::NotReady { shard: self.id, state: self.state(), operation });
        }
        if tree != TreeId::DEFAULT && self.shared.tree_kind(tree.0).is_none() {
            return Err(EngineError::UnknownTree(tree.0));
        }
        Ok(())
    }

    /// The committed value of a key; `now_ms` decides what has expired.
    pub fn get(&self, tree: TreeId, key: &[u8], now_ms: u64) -> Result<Option<Value>, EngineError> {
        self.look(tree, key, &|| now_ms)
    }

    /// As [`Self::get`]; the time is asked for only if it matters.
    pub(crate) fn get_at(
        &self,
        tree: TreeId,
        key: &[u8],
        now_ms: impl Fn() -> u64,
    ) -> Result<Option<Value>, EngineError> {
        timed(now_ms, |now_ms| self.look(tree, key, now_ms))
    }

    fn look(&self, tree: TreeId, key: &[u8], now_ms: &dyn Fn() -> u64) -> Result<Option<Value>, EngineError> {
        self.check_readable(tree, "reading")?;
        let hash = self.shared.hash(tree.0, key);
        let read = |view: &View, record: Record<'_>, at: Location| {
            self.value(view, &record, now_ms).inspect_err(|_| self.suspect(at.segment))
        };
        self.find(hash, tree.0, key, read).unwrap_or_else(|| self.none_or_damage(hash))
    }

    /// As [`Self::get_at`], for whoever reads the bytes where they are.
    pub(crate) fn get_with_at<R>(
        &self,
        tree: TreeId,
        key: &[u8],
        now_ms: impl Fn() -> u64,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>, EngineError> {
        self.check_readable(tree, "reading")?;
        let hash = self.shared.hash(tree.0, key);
        let mut read = Some(read);
        timed(now_ms, |now_ms| {
            let read = |_: &View, record: Record<'_>, _: Location| {
                Ok(if self.is_live(&record, now_ms)? { read.take().map(|read| read(record.value())) } else { None })
            };
            self.find(hash, tree.0, key, read).unwrap_or_else(|| self.none_or_damage(hash))
        })
    }

    /// Whether a record is a value that has not expired; an error if it is not what was written.
    fn is_live(&self, record: &Record<'_>, now_ms: impl Fn() -> u64) -> Result<bool, EngineError> {
        // First: a kind or a time that rotted must not make a value absent.
        if !record.is_sound() {
            return Err(self.unsound(record.gsn()));
        }
        Ok(record.kind() == Kind::Put && record.expires_ms().is_none_or(|expires_ms| expires_ms > now_ms()))
    }

    /// The answer where no record of a key was found: that there is none, unless the index has a place for its hash whose
    /// record is damaged, and may have been the key's.
    #[cold]
    fn none_or_damage<T>(&self, hash: u64) -> Result<Option<T>, EngineError> {
        match self.damaged(hash) {
            Some(what) => Err(EngineError::Corrupt { shard: self.id, what }),
            None => Ok(None),
        }
    }

    /// What is damaged among the records that the index has for a hash.
    pub(crate) fn damaged(&self, hash: u64) -> Option<String> {
        let view = self.view.load();
        let mut damaged = None;
        view.index.get(hash, |at| {
            if let Some(segment) = view.segment(at.segment)
                && !segment.peek(at.offset_bytes()).is_some_and(|record| record.is_sound())
            {
                damaged = Some((at, segment.path().to_owned()));
            }
            false
        });
        let (at, path) = damaged?;
        self.suspect(at.segment);
        // Neither the place nor the files were replaced while it was looked at.
        (view.index.contains(hash, at) && std::sync::Arc::ptr_eq(&view, &self.view.load()))
            .then(|| format!("{} has no sound record at {}, where one was written", path.display(), at.offset_bytes()))
    }

    #[cold]
    fn unsound(&self, gsn: Gsn) -> EngineError {
        let what = format!("the record of gsn {gsn} does not match its checksum");
        EngineError::Corrupt { shard: self.id, what }
    }

    fn value(&self, view: &View, record: &Record<'_>, now_ms: impl Fn() -> u64) -> Result<Option<Value>, EngineError> {
        if !self.is_live(record, now_ms)? {
            return Ok(None);
        }
        let gsn = record.gsn();
        let version = LogPosition { epoch: view.epochs.epoch_at(gsn), gsn };
        let bytes = Bytes::copy_from_slice(record.value());
        Ok(Some(Value { bytes, version, expires_ms: record.expires_ms(), value_type: record.value_type() }))
    }

    /// The committed values of many keys, in their order.
    pub fn multi_get(&self, tree: TreeId, keys: &[&[u8]], now_ms: u64) -> Result<Vec<Option<Value>>, EngineError> {
        self.check_readable(tree, "reading")?;
        let mut values = Vec::with_capacity(keys.len());
        for group in keys.chunks(GROUP) {
            let mut hashes = [0; GROUP];
            let view = self.view.load();
            for (hash, key) in hashes.iter_mut().zip(group) {
                *hash = self.shared.hash(tree.0, key);
                view.index.prefetch(*hash);
            }
            // The first candidate of each key is nearly always the record: fetched while others are probed.
            for hash in &hashes[..group.len()] {
                view.prefetch(*hash);
            }
            drop(view);
            for (hash, key) in hashes.iter().zip(group) {
                let read = |view: &View, record: Record<'_>, at: Location| {
                    self.value(view, &record, || now_ms).inspect_err(|_| self.suspect(at.segment))
                };
                values.push(self.find(*hash, tree.0, key, read).unwrap_or_else(|| self.none_or_damage(*hash))?);
            }
        }
        Ok(values)
    }

    /// One page of committed keys and values: at most `limit`, about `max_bytes`.
    pub fn scan(
        &self,
        tree: TreeId,
        range: &ScanRange,
        limit: usize,
        max_bytes: usize,
        now_ms: u64,
    ) -> Result<ScanPage, EngineError> {
        self.check_readable(tree, "scanning")?;
        if self.shared.tree_kind(tree.0) == Some(TreeKind::Hash) {
            return Err(EngineError::Unsupported("scanning a hash tree"));
        }
        let mut page = ScanPage::default();
        let Some(ordered) = self.ordered(tree.0) else { return Ok(page) };
        let (mut start, mut end) = (range.start.clone(), range.end.clone());
        let mut bytes = 0;
        loop {
            let want = (limit - page.entries.len()).saturating_add(1).min(1024);
            let mut keys: Vec<Vec<u8>> = Vec::new();
            ordered.get_range(as_slice(&start), as_slice(&end), range.reverse, want, |key| {
                keys.push(key.to_vec());
                true
            });
            let exhausted = keys.len() < want;
            if let Some(last) = keys.last() {
                let cursor = Bound::Excluded(last.clone());
                if range.reverse {
                    end = cursor;
                } else {
                    start = cursor;
                }
            }
            for keys in keys.chunks(GROUP) {
                let asked: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
                for (key, value) in keys.iter().zip(self.multi_get(tree, &asked, now_ms)?) {
                    let Some(value) = value else { continue };
                    if page.entries.len() >= limit || (bytes >= max_bytes && !page.entries.is_empty()) {
                        page.more = true;
                        return Ok(page);
                    }
                    bytes += key.len() + value.bytes.len();
                    page.entries.push((Bytes::copy_from_slice(key), value));
                }
            }
            if exhausted {
                return Ok(page);
            }
        }
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}
