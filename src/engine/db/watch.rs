//! Following what is written, from a position on.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Inner;
use crate::engine::error::EngineError;
use crate::engine::shard::Shard;
use crate::engine::watch::{WatchEvent, WatchReader};
use crate::position::LogPosition;

/// A place in the history of a database. The default is its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DbPosition {
    /// By shard.
    shards: Vec<LogPosition>,
}

impl DbPosition {
    pub(super) fn of(shards: &[Arc<Shard>]) -> Self {
        Self { shards: shards.iter().map(|shard| position(shard, shard.applied())).collect() }
    }
}

fn position(shard: &Shard, gsn: u64) -> LogPosition {
    LogPosition { epoch: shard.epoch_table().epoch_at(gsn), gsn }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DbEvent {
    /// The shard it is of: the order of changes is defined within one.
    pub shard: u16,
    /// The change.
    pub change: WatchEvent,
}

/// Gives changes in the order they were written, batches whole. Expiry is no change.
#[derive(Debug)]
pub struct DbWatch {
    inner: Arc<Inner>,
    readers: Vec<WatchReader>,
    /// The shard to begin with: none starves another.
    turn: usize,
}

impl DbWatch {
    pub(super) fn new(inner: Arc<Inner>, after: &DbPosition) -> Result<Self, EngineError> {
        let mut readers = Vec::new();
        for (i, shard) in inner.engine.shards().iter().enumerate() {
            let after = after.shards.get(i).copied().unwrap_or_default();
            if after.gsn > shard.applied() || position(shard, after.gsn) != after {
                return Err(EngineError::PositionLost { shard: shard.id(), position: after });
            }
            readers.push(shard.watch_from(after.gsn)?);
        }
        Ok(Self { inner, readers, turn: 0 })
    }

    /// About `max` changes (batches stay whole), waiting up to `patience` for the first; empty if there was
    /// none in that time, or the database is closed.
    pub fn next(&mut self, max: usize, patience: Duration) -> Result<Vec<DbEvent>, EngineError> {
        loop {
            let mut events = Vec::new();
            for i in 0..self.readers.len() {
                let at = (self.turn + i) % self.readers.len();
                if events.len() < max {
                    let found = self.readers[at].next(max - events.len())?;
                    events.extend(found.into_iter().map(|change| DbEvent { shard: at as u16, change }));
                }
            }
            self.turn = (self.turn + 1) % self.readers.len();
            if !events.is_empty() || max == 0 {
                return Ok(events);
            }
            let shared = self.inner.engine.shared();
            let seen: Vec<u64> = self.readers.iter().map(WatchReader::position).collect();
            let more = || self.inner.engine.shards().iter().zip(&seen).any(|(shard, seen)| shard.applied() > *seen);
            let woken = shared.progress.wait(Some(patience), || more() || shared.poison.is_set());
            if !woken || !more() {
                return Ok(Vec::new());
            }
        }
    }

    /// Everything up to here was given: where another watch goes on.
    pub fn position(&self) -> DbPosition {
        let shards = self.inner.engine.shards().iter().zip(&self.readers);
        DbPosition { shards: shards.map(|(shard, reader)| position(shard, reader.position())).collect() }
    }
}
