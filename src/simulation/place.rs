//! A place where a member runs: its volume stays, its process comes and goes.

use std::time::Duration;

use super::member::Process;
use super::volume::Volume;
use crate::engine::ShardState;
use crate::ident::Sid;
use crate::position::{Epoch, Gsn, LogPosition, LogTail};
use crate::topology::message::InitState;

/// Wall clocks begin here: in November 2023.
const WALL_MS: i64 = 1_700_000_000_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) volume: Volume,
    pub(super) sid: Sid,
    pub(super) process: Option<Process>,
    pub(super) life: u64,
    pub(super) paused_until: Duration,
    pub(super) slow_disk: bool,
    /// No sync ends any more.
    pub(super) stuck_disk: bool,
    /// Held back by a test.
    pub(super) kept_down: bool,
    /// It will die at a disk operation: whether the power goes, and for how long.
    pub(super) doom: Option<(bool, Duration)>,
    /// An error was injected into its disk.
    pub(super) ailing: bool,
    /// Its disk has little room.
    pub(super) full: bool,
    /// Bytes of its files rotted, and nobody has mended that yet.
    pub(super) rotten: bool,
    /// How much the machine's wall clock is off, in milliseconds.
    pub(super) wall_off_ms: i64,
    /// What was durable of it when its process ended: ends of logs, promise, highest epoch led.
    left: (Vec<LogTail>, Epoch, Epoch),
}

impl Place {
    pub(super) fn new(sid: Sid, shards: usize) -> Self {
        Self {
            volume: Volume::format(sid, shards),
            sid,
            process: None,
            life: 0,
            paused_until: Duration::ZERO,
            slow_disk: false,
            stuck_disk: false,
            kept_down: false,
            doom: None,
            ailing: false,
            full: false,
            rotten: false,
            wall_off_ms: 0,
            left: (vec![LogTail::default(); shards], 0, 0),
        }
    }

    /// Another volume is here now.
    pub(super) fn replace(&mut self, sid: Sid, volume: Volume) {
        self.volume = volume;
        self.sid = sid;
        self.rotten = false;
        self.doom = None;
        self.left = (vec![LogTail::default(); self.left.0.len()], 0, 0);
    }

    pub(super) fn started(&mut self, process: Process) {
        self.sid = process.core.sid();
        self.process = Some(process);
    }

    pub(super) fn ended(&mut self, process: &Process) {
        self.paused_until = Duration::ZERO;
        self.doom = None;
        self.ailing = false;
        let durable = process.core.durable();
        let end = |shard: &std::sync::Arc<crate::engine::Shard>| {
            let gsn = shard.durable_gsn();
            LogTail { last: LogPosition::new(shard.epoch_table().epoch_at(gsn), gsn), chain: 0 }
        };
        self.left = (process.engine.shards().iter().map(end).collect(), durable.promised, durable.led);
    }

    /// Whether its engine may fail without anybody's fault.
    pub(super) fn may_fail(&self) -> bool {
        self.ailing || self.full || self.doom.is_some()
    }

    /// Unix milliseconds as its machine tells them.
    pub(super) fn wall_ms(&self, now: Duration) -> u64 {
        (WALL_MS + now.as_millis() as i64 + self.wall_off_ms) as u64
    }

    /// The end of a log, also after its process ended.
    pub(super) fn tail(&self, shard: usize) -> LogTail {
        self.process.as_ref().map_or(self.left.0[shard], |p| p.engine.shards()[shard].tail())
    }

    /// What of a log is durable; zero while nothing runs.
    pub(super) fn durable(&self, shard: usize) -> Gsn {
        self.process.as_ref().map_or(0, |p| p.engine.shards()[shard].durable_gsn())
    }

    /// The highest epoch promised.
    #[cfg(test)]
    pub(super) fn promised(&self) -> Epoch {
        self.process.as_ref().map_or(self.left.1, |p| p.core.durable().promised)
    }

    /// The highest epoch led.
    #[cfg(test)]
    pub(super) fn led(&self) -> Epoch {
        self.process.as_ref().map_or(self.left.2, |p| p.core.durable().led)
    }

    /// Whole and part of a cluster.
    pub(super) fn is_ready(&self) -> bool {
        self.process.as_ref().is_some_and(|p| {
            p.core.durable().init == InitState::Done
                && p.engine.shards().iter().all(|shard| shard.state() == ShardState::Ready)
        })
    }
}
