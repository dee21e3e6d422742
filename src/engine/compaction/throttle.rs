//! Keeps one compaction within the rate while it runs, and lets it be stopped.

use std::time::{Duration, Instant};

use std::sync::atomic::Ordering;

use crate::engine::shard::Shard;

/// The step was asked to give up: for a stop of the engine, or because the shard's files are to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopped;

/// See the module's comment.
pub(super) struct Throttle<'a> {
    shard: &'a Shard,
    start: Instant,
    bytes: u64,
}

impl<'a> Throttle<'a> {
    pub(super) fn new(shard: &'a Shard) -> Self {
        Self { shard, start: Instant::now(), bytes: 0 }
    }

    /// Bytes read and written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts bytes read or written, and waits while that is more than the rate allows.
    pub(super) fn spend(&mut self, bytes: u64) -> Result<(), Stopped> {
        self.bytes += bytes;
        let shared = &self.shard.shared;
        let stopped = || {
            shared.stopping.load(Ordering::Acquire) || shared.poison.is_set() || self.shard.housekeeping.is_unwanted()
        };
        if !shared.manual() {
            let rate = shared.options.compaction.rate_bytes_per_s.max(1) as f64;
            let due = Duration::from_secs_f64(self.bytes as f64 / rate);
            if let Some(ahead) = due.checked_sub(self.start.elapsed()) {
                shared.background.wait(Some(ahead), stopped);
            }
        }
        if stopped() { Err(Stopped) } else { Ok(()) }
    }
}
