//! Where a follower stands in one shard of its leader's log.
//!
//! Two modes: *streaming* from the in-memory tail, and *catch-up* from the log's files when the follower has
//! fallen out of it. Gsns are contiguous and every chunk says what it follows, so the change from one mode to the
//! other can lose nothing unnoticed. A cursor holds no queue: a slow follower costs the leader no memory.

use std::sync::Arc;

use crate::engine::{EngineError, LogChunk, Shard, ShardLogReader, TailRead};
use crate::position::Gsn;

/// Bytes of a chunk, about; one larger batch travels alone.
const CHUNK_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct ReplicationCursor {
    shard: Arc<Shard>,
    at: Gsn,
    chunk_bytes: usize,
    catch_up: Option<ShardLogReader>,
}

impl ReplicationCursor {
    /// After `at`.
    pub(crate) fn new(shard: Arc<Shard>, at: Gsn) -> Self {
        Self { shard, at, chunk_bytes: CHUNK_BYTES, catch_up: None }
    }

    /// With chunks of another size: a simulation has little and wants it in many pieces.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn in_chunks_of(self, chunk_bytes: usize) -> Self {
        Self { chunk_bytes, ..self }
    }

    /// Whether the next chunk comes from files.
    pub(crate) fn is_catching_up(&self) -> bool {
        self.catch_up.is_some()
    }

    /// What comes next; `None`: nothing yet. Reads files in catch-up mode.
    pub(crate) fn next(&mut self) -> Result<Option<LogChunk>, CursorError> {
        loop {
            let chunk = match &mut self.catch_up {
                Some(reader) => match reader.next_chunk(self.chunk_bytes)? {
                    Some(chunk) => chunk,
                    None => {
                        self.catch_up = None;
                        match self.shard.tail_read(self.at, self.chunk_bytes) {
                            TailRead::Chunk(chunk) => chunk,
                            TailRead::AtEnd => return Ok(None),
                            // It was written and left memory between the two looks: files again.
                            TailRead::Overrun => {
                                self.catch_up = Some(self.shard.log_reader(self.at)?);
                                continue;
                            }
                        }
                    }
                },
                None => match self.shard.tail_read(self.at, self.chunk_bytes) {
                    TailRead::Chunk(chunk) => chunk,
                    TailRead::AtEnd => return Ok(None),
                    TailRead::Overrun => {
                        self.catch_up = Some(self.shard.log_reader(self.at)?);
                        continue;
                    }
                },
            };
            if chunk.prev.last.gsn != self.at {
                return Err(CursorError::Gap { at: self.at, found: chunk.prev.last.gsn });
            }
            self.at = chunk.last.last.gsn;
            return Ok(Some(chunk));
        }
    }
}

/// Why a cursor cannot go on: the follower says hello again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CursorError {
    /// The log no longer reaches back, or a file could not be read.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What was read does not follow what was sent.
    #[error("the log continues after {found}, the follower stands at {at}")]
    Gap {
        /// The follower.
        at: Gsn,
        /// What was read.
        found: Gsn,
    },
}
