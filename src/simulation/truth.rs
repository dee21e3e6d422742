//! A shard's committed history as somebody once knew it, entry by entry, and what its keys are after each.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{ChunkEntry, EntryOp, Expect, LogChunk, Shard, TailRead, Version};
use crate::position::{Epoch, Gsn, LogPosition};

/// One committed entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) epoch: Epoch,
    pub(super) chain: u32,
    pub(super) batch_end: bool,
    /// The epoch it was counted in first.
    pub(super) counted_in: Epoch,
}

/// What a key was set to, or that it was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) gsn: Gsn,
    /// Value and expiry.
    pub(super) value: Option<(Bytes, Option<u64>)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) entries: Vec<Entry>,
    keys: BTreeMap<Bytes, Vec<Written>>,
}

impl Truth {
    pub(super) fn len(&self) -> Gsn {
        self.entries.len() as Gsn
    }

    /// The entry of a gsn; none for 0 and beyond the end.
    pub(super) fn at(&self, gsn: Gsn) -> Option<Entry> {
        self.entries.get(usize::try_from(gsn.checked_sub(1)?).ok()?).copied()
    }

    pub(super) fn chain_at(&self, gsn: Gsn) -> u32 {
        self.at(gsn).map_or(0, |entry| entry.chain)
    }

    pub(super) fn push(&mut self, epoch: Epoch, counted_in: Epoch, entry: &ChunkEntry) {
        let (chain, batch_end) = (entry.chain, entry.batch_end);
        self.entries.push(Entry { epoch, chain, batch_end, counted_in });
        let (key, value) = match &entry.op {
            EntryOp::Put { key, value, expires_ms, .. } => (key, Some((value.clone(), *expires_ms))),
            EntryOp::Delete { key, .. } => (key, None),
            EntryOp::Barrier | EntryOp::Catalog => return,
        };
        self.keys.entry(key.clone()).or_default().push(Written { gsn: entry.gsn, value });
    }

    /// Nothing after `gsn` ever was.
    pub(super) fn truncate(&mut self, gsn: Gsn) {
        self.entries.truncate(gsn as usize);
        for writes in self.keys.values_mut() {
            writes.retain(|written| written.gsn <= gsn);
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.keys()
    }

    /// What a key was last written with, among the entries up to `gsn`.
    pub(super) fn written(&self, key: &[u8], gsn: Gsn) -> Option<&Written> {
        let all = self.keys.get(key)?;
        all[..all.partition_point(|w| w.gsn <= gsn)].last()
    }

    /// The value of a key and its version, with the entries up to `gsn`, at `time_ms`.
    pub(super) fn value(&self, key: &[u8], gsn: Gsn, time_ms: u64) -> Option<(&Bytes, Version)> {
        let written = self.written(key, gsn)?;
        let (bytes, expires_ms) = written.value.as_ref()?;
        let version = LogPosition::new(self.at(written.gsn)?.epoch, written.gsn);
        expires_ms.is_none_or(|at| at > time_ms).then_some((bytes, version))
    }

    /// Whether a condition on a key holds with the entries up to `gsn`, at `time_ms`.
    pub(super) fn holds(&self, key: &[u8], expect: Expect, gsn: Gsn, time_ms: u64) -> bool {
        let found = self.value(key, gsn, time_ms).map(|(_, version)| version);
        match expect {
            Expect::Absent => found.is_none(),
            Expect::Present => found.is_some(),
            Expect::Version(version) => found == Some(version),
        }
    }
}

/// A shard's log after `from` up to at least `to`, which is at its end or before.
pub(super) fn chunks(shard: &Arc<Shard>, from: Gsn, to: Gsn) -> Result<Vec<LogChunk>, String> {
    let (mut at, mut all) = (from, Vec::new());
    while at < to {
        let chunk = match shard.tail_read(at, 1 << 16) {
            TailRead::Chunk(chunk) => chunk,
            TailRead::AtEnd => return Err(format!("the log ends at {at}")),
            TailRead::Overrun => {
                let mut reader = shard.log_reader(at).map_err(|error| error.to_string())?;
                match reader.next_chunk(1 << 16).map_err(|error| error.to_string())? {
                    Some(chunk) => chunk,
                    None => return Err(format!("nothing is written after {at}")),
                }
            }
        };
        at = chunk.last.last.gsn;
        all.push(chunk);
    }
    Ok(all)
}
