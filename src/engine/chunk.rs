//! A piece of a shard's log as it travels between members: whole batches of one epoch, bytes as on disk.

use bytes::Bytes;

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
