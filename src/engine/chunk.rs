//! A piece of a shard's log as it travels between members: whole batches of one epoch, bytes as on disk.

use bytes::Bytes;

use super::format::record::{Kind, Record, chain};
use crate::position::{Epoch, Gsn, LogTail};

/// Consecutive records of one shard and one epoch, whole batches, without node-local records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// The shard.
    pub shard: u16,
    /// The epoch of every record in it.
    pub epoch: Epoch,
    /// The log's end before the first record.
    pub prev: LogTail,
    /// Gsn of the first record.
    pub first_gsn: Gsn,
    /// The log's end after the last record.
    pub last: LogTail,
    /// The records as on disk, contiguous.
    pub bytes: Bytes,
}

/// One entry of a chunk, for whoever looks at what is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkEntry {
    /// Its number.
    pub gsn: Gsn,
    /// The chain over everything up to it.
    pub chain: u32,
    /// Whether its batch ends with it.
    pub batch_end: bool,
    /// What it does.
    pub op: EntryOp,
}

/// What an entry does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryOp {
    /// Sets a key of a tree.
    Put {
        /// The tree's number.
        tree: u16,
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// When it expires: unix milliseconds of committed time.
        expires_ms: Option<u64>,
    },
    /// Removes a key of a tree.
    Delete {
        /// The tree's number.
        tree: u16,
        /// The key.
        key: Bytes,
    },
    /// Opens an epoch.
    Barrier,
    /// Creates a tree.
    Catalog,
}

impl LogChunk {
    /// The same records as if they followed `prev`: what a follower that does not look would take them for.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn onto(self, prev: LogTail) -> Self {
        let joined = Self { prev, ..self };
        let chain = joined.entries().last().map_or(prev.chain, |entry| entry.chain);
        Self { last: LogTail { chain, ..joined.last }, ..joined }
    }

    /// What it consists of, checksums not verified.
    pub fn entries(&self) -> Vec<ChunkEntry> {
        let (mut at, mut chained, mut entries) = (0, self.prev.chain, Vec::new());
        while let Some(record) = self.bytes.get(at..).and_then(Record::peek) {
            at += record.len();
            chained = chain(chained, record.crc());
            let (tree, key) = (record.tree(), self.bytes.slice_ref(record.key()));
            let op = match record.kind() {
                Kind::Put => EntryOp::Put {
                    tree,
                    key,
                    value: self.bytes.slice_ref(record.value()),
                    expires_ms: record.expires_ms(),
                },
                Kind::Delete => EntryOp::Delete { tree, key },
                Kind::Barrier => EntryOp::Barrier,
                Kind::Catalog => EntryOp::Catalog,
                Kind::Mark | Kind::Seal => continue,
            };
            entries.push(ChunkEntry { gsn: record.gsn(), chain: chained, batch_end: !record.more(), op });
        }
        entries
    }
}

/// What the in-memory tail answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TailRead {
    /// What comes next.
    Chunk(LogChunk),
    /// Nothing yet.
    AtEnd,
    /// It fell out of memory: read it with `log_reader`.
    Overrun,
}
