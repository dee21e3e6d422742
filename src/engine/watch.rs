//! Committed changes of a shard in log order, for watchers. Expiry emits nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::error::EngineError;
use super::format::record::{Kind, Record};
use super::log_reader::ShardLogReader;
use super::shard::Shard;
use super::tree::TreeId;
use crate::position::{Epoch, Gsn};

/// Log bytes looked at for one answer.
const CHUNK_BYTES: usize = 256 << 10;

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchKind {
    /// It was set.
    Put {
        /// The value.
        value: Bytes,
        /// When it expires: unix milliseconds of committed time.
        expires_ms: Option<u64>,
        /// What the value is, for the layers above.
        value_type: u8,
    },
    /// It was removed.
    Delete,
}

/// One committed change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// Its place in the log.
    pub gsn: Gsn,
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// The tree.
    pub tree: TreeId,
    /// The key.
    pub key: Bytes,
    /// What happened.
    pub kind: WatchKind,
    /// Whether its batch ends here: only then may it be shown together with what came before.
    pub batch_end: bool,
}

/// Reads committed changes one after the other.
#[derive(Debug)]
pub struct WatchReader {
    shard: Arc<Shard>,
    reader: ShardLogReader,
    /// Events of a chunk that were not asked for yet.
    waiting: std::collections::VecDeque<WatchEvent>,
}

impl WatchReader {
    /// About `max` events, whole batches; empty at the commit.
    // Not an iterator: an empty answer is no end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self, max: usize) -> Result<Vec<WatchEvent>, EngineError> {
        while self.waiting.is_empty() {
            let applied = self.shard.applied();
            let Some(chunk) = self.reader.chunk_below(CHUNK_BYTES, applied)? else { return Ok(Vec::new()) };
            let mut at = 0;
            while let Some(record) = Record::peek(&chunk.bytes[at..]) {
                let event = event(&chunk.bytes, &record, chunk.epoch);
                match event {
                    Some(event) => self.waiting.push_back(event),
                    // An entry that is no change may end a batch that had some.
                    None if !record.more() => {
                        if let Some(last) = self.waiting.back_mut() {
                            last.batch_end = true;
                        }
                    }
                    None => {}
                }
                at += record.len();
            }
        }
        let enough = self.waiting.iter().position(|e| e.batch_end && e.gsn >= self.waiting[0].gsn + max as u64 - 1);
        let take = match enough {
            Some(last) => last + 1,
            None => self.waiting.len(),
        };
        Ok(self.waiting.drain(..take).collect())
    }

    /// Everything up to this gsn has been delivered or holds nothing to deliver.
    pub fn position(&self) -> Gsn {
        match self.waiting.front() {
            Some(first) => first.gsn - 1,
            None => self.reader.position().last.gsn,
        }
    }
}

fn event(bytes: &Bytes, record: &Record<'_>, epoch: Epoch) -> Option<WatchEvent> {
    let kind = match record.kind() {
        Kind::Put => WatchKind::Put {
            value: bytes.slice_ref(record.value()),
            expires_ms: record.expires_ms(),
            value_type: record.value_type(),
        },
        Kind::Delete => WatchKind::Delete,
        _ => return None,
    };
    Some(WatchEvent {
        gsn: record.gsn(),
        epoch,
        tree: TreeId(record.tree()),
        key: bytes.slice_ref(record.key()),
        kind,
        batch_end: !record.more(),
    })
}

impl Shard {
    /// Committed changes after `after`.
    pub fn watch_from(self: &Arc<Self>, after: Gsn) -> Result<WatchReader, EngineError> {
        let reader = self.log_reader(after)?;
        Ok(WatchReader { shard: self.clone(), reader, waiting: std::collections::VecDeque::new() })
    }
}
