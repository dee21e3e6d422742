//! Watches: committed changes after a position, in order within a shard, batches whole.
//!
//! Any member serves them. A position this member has not reached is waited for; one that its history has
//! superseded is `HistoryLost`; one that the log no longer holds is `Compacted`, with the oldest left.
//! Progress is told at least every second, so that a watcher that sees no event of its own can still resume.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{FutureExt as _, select_all};
use tokio::sync::watch;
use tokio::time::Instant;

use super::core::Core;
use super::errors::Refused;
use super::reads::{check_on_history, check_readable};
use super::replica::ShardProgress;
use crate::engine::{EngineError, TreeId, WatchKind, WatchReader};
use crate::net::proto;
use crate::position::{Gsn, LogPosition};

/// How often progress is told when nothing happens.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Events read at once from a shard; batches are whole, so it may be more.
const EVENTS_AT_ONCE: usize = 256;

/// A message ends when it holds this much; one larger batch comes alone.
const MESSAGE_BYTES: usize = 1 << 20;

/// One client's watch.
pub(crate) struct Watch {
    core: Arc<Core>,
    tree: TreeId,
    prefix: Bytes,
    lineage: u64,
    shards: Vec<WatchedShard>,
    told: Instant,
    ended: bool,
}

struct WatchedShard {
    shard: u16,
    /// Where to begin; checked against the history once it is reached.
    after: LogPosition,
    /// Opened once `after` is reached.
    reader: Option<WatchReader>,
    /// Told to the client so far.
    position: Gsn,
    progress: watch::Receiver<ShardProgress>,
    /// Messages made from what was read, not sent yet: at most one reading's worth.
    ready: std::collections::VecDeque<(Vec<proto::WatchEvent>, Gsn)>,
}

impl Watch {
    pub(crate) fn new(core: &Arc<Core>, request: proto::WatchRequest) -> Result<Self, Refused> {
        core.check_route(request.route.as_ref())?;
        let tree = core.tree(&request.tree)?;
        let asked = request.after.as_ref().map(|token| core.positions_of(token)).transpose()?;
        let shards = core
            .shards()
            .iter()
            .map(|shard| {
                let now = shard.applied();
                let now = LogPosition::new(shard.epoch_table().epoch_at(now), now);
                let after = match &asked {
                    None => now,
                    Some(positions) => positions
                        .iter()
                        .find(|(id, _)| *id == shard.id())
                        // A shard that the token does not name was never seen: everything, if it is still kept.
                        .map_or(LogPosition::ZERO, |(_, at)| *at),
                };
                WatchedShard {
                    shard: shard.id(),
                    after,
                    reader: None,
                    position: after.gsn,
                    progress: core.replica.progress(shard.id()),
                    ready: std::collections::VecDeque::new(),
                }
            })
            .collect();
        core.metrics.watches.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            core: Arc::clone(core),
            tree,
            prefix: request.prefix,
            lineage: core.lineage(),
            shards,
            // The first message tells the position at once: the client then knows that the watch stands.
            told: Instant::now() - PROGRESS_EVERY,
            ended: false,
        })
    }

    /// The next message; `None` after the end.
    pub(crate) async fn next(&mut self) -> Option<Result<proto::WatchResponse, Refused>> {
        let mut stopping = self.core.stopping.clone();
        loop {
            if self.ended {
                return None;
            }
            if self.core.is_stopping() {
                self.ended = true;
                return Some(Err(Refused::unavailable("this member is stopping: resume the watch elsewhere")));
            }
            match self.read() {
                Err(refused) => {
                    self.ended = true;
                    return Some(Err(refused));
                }
                Ok(Some(events)) => return Some(Ok(self.message(events))),
                Ok(None) => {}
            }
            let due = self.told + PROGRESS_EVERY;
            if due <= Instant::now() {
                return Some(Ok(self.message(Vec::new())));
            }
            let changes = self.shards.iter_mut().map(|watched| watched.progress.changed().boxed());
            tokio::select! {
                _ = select_all(changes) => {}
                () = tokio::time::sleep_until(due) => {}
                _ = stopping.changed() => {}
            }
        }
    }

    /// The next batches of any shard that has some.
    fn read(&mut self) -> Result<Option<Vec<proto::WatchEvent>>, Refused> {
        for index in 0..self.shards.len() {
            loop {
                if let Some((events, position)) = self.shards[index].ready.pop_front() {
                    self.shards[index].position = position;
                    if events.is_empty() {
                        continue;
                    }
                    return Ok(Some(events));
                }
                if !self.fill(index)? {
                    break;
                }
            }
        }
        Ok(None)
    }

    /// Reads on in one shard; whether there was anything.
    fn fill(&mut self, index: usize) -> Result<bool, Refused> {
        let watched = &mut self.shards[index];
        watched.progress.mark_unchanged();
        let data = self.core.shard(watched.shard);
        if watched.reader.is_none() {
            check_readable(&self.core, watched.shard)?;
            if data.applied() < watched.after.gsn {
                return Ok(false);
            }
            check_on_history(&self.core, watched.shard, watched.after)?;
            let reader = data.watch_from(watched.after.gsn).map_err(|error| match error {
                EngineError::BelowFloor(below) => compacted(&self.core, watched, below.log_floor),
                other => other.into(),
            })?;
            watched.reader = Some(reader);
        }
        let Some(reader) = &mut watched.reader else { return Ok(false) };
        let events = reader.next(EVENTS_AT_ONCE).map_err(|error| match error {
            EngineError::BelowFloor(below) => {
                let positions = vec![oldest(&self.core, watched.shard, below.log_floor)];
                Refused::compacted(proto::Token { positions })
            }
            other => other.into(),
        })?;
        let position = reader.position();
        if events.is_empty() {
            watched.position = position.max(watched.position);
            return Ok(false);
        }
        let mut message = Vec::new();
        let mut bytes = 0;
        for event in events {
            let (gsn, batch_end) = (event.gsn, event.batch_end);
            if event.tree == self.tree && event.key.starts_with(&self.prefix) {
                let version = self.core.position(self.lineage, watched.shard, LogPosition::new(event.epoch, event.gsn));
                bytes += event.key.len();
                let value = match event.kind {
                    WatchKind::Delete => None,
                    WatchKind::Put { value, expires_ms, value_type } => {
                        bytes += value.len();
                        Some(proto::Value { value, version: Some(version), expires_ms, value_type: value_type.into() })
                    }
                };
                message.push(proto::WatchEvent { key: event.key, value, version: Some(version) });
            }
            if batch_end && bytes >= MESSAGE_BYTES {
                watched.ready.push_back((std::mem::take(&mut message), gsn));
                bytes = 0;
            }
        }
        watched.ready.push_back((message, position));
        Ok(true)
    }

    fn message(&mut self, events: Vec<proto::WatchEvent>) -> proto::WatchResponse {
        self.told = Instant::now();
        let positions = self
            .shards
            .iter()
            .map(|watched| {
                let epoch = self.core.shard(watched.shard).epoch_table().epoch_at(watched.position);
                // A position that is still ahead is told back as it was asked for.
                let at =
                    if watched.reader.is_none() { watched.after } else { LogPosition::new(epoch, watched.position) };
                self.core.position(self.lineage, watched.shard, at)
            })
            .collect();
        proto::WatchResponse { events, progress: Some(proto::Token { positions }) }
    }
}

fn compacted(core: &Core, watched: &WatchedShard, log_floor: Gsn) -> Refused {
    Refused::compacted(proto::Token { positions: vec![oldest(core, watched.shard, log_floor)] })
}

/// The oldest position that a watch of `shard` can begin after.
fn oldest(core: &Core, shard: u16, log_floor: Gsn) -> proto::Position {
    let gsn = log_floor.saturating_sub(1);
    let epoch = core.shard(shard).epoch_table().epoch_at(gsn);
    core.position(core.lineage(), shard, LogPosition::new(epoch, gsn))
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.core.metrics.watches.fetch_sub(1, Ordering::Relaxed);
    }
}
