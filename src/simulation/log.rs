//! A shard's log in memory: entries, what of them is durable, and what a crash leaves.
//!
//! Every entry is a batch of its own, so every gsn is a batch end. The whole history is kept below the floor too:
//! the floor only says what may be *read* as log, as compaction would.

use crate::position::{Epoch, EpochTable, Gsn, LogPosition, LogTail};
use crate::replication::rules::LogView;
use crate::topology::message::{DataState, ShardReport};
use crate::topology::random::Random;

/// What an entry carries.
pub(super) type Op = u64;

/// The operation of a BARRIER.
pub(super) const BARRIER: Op = 0;

/// One entry; its gsn is its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) epoch: Epoch,
    pub(super) op: Op,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Log {
    entries: Vec<Entry>,
    chains: Vec<u32>,
    epochs: EpochTable,
    pub(super) durable: Gsn,
    /// First gsn that is still readable as log.
    pub(super) floor: Gsn,
    pub(super) state: DataState,
    /// Persisted now and then: a lower bound of what is committed.
    pub(super) persisted_commit: Gsn,
}

fn link(chain: u32, entry: Entry) -> u32 {
    let mut z = u64::from(chain) ^ entry.epoch.rotate_left(32) ^ entry.op.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z >> 32) as u32
}

impl Log {
    pub(super) fn blank() -> Self {
        Self {
            entries: Vec::new(),
            chains: Vec::new(),
            epochs: EpochTable::new(),
            durable: 0,
            floor: 1,
            state: DataState::Blank,
            persisted_commit: 0,
        }
    }

    pub(super) fn len(&self) -> Gsn {
        self.entries.len() as Gsn
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn epochs(&self) -> &EpochTable {
        &self.epochs
    }

    /// The entry at `gsn`.
    pub(super) fn at(&self, gsn: Gsn) -> Option<Entry> {
        self.entries.get(usize::try_from(gsn.checked_sub(1)?).ok()?).copied()
    }

    /// The log's end as it would be after `gsn`.
    pub(super) fn tail_at(&self, gsn: Gsn) -> LogTail {
        match self.at(gsn) {
            None => LogTail::default(),
            Some(entry) => LogTail { last: LogPosition::new(entry.epoch, gsn), chain: self.chains[gsn as usize - 1] },
        }
    }

    pub(super) fn tail(&self) -> LogTail {
        self.tail_at(self.len())
    }

    pub(super) fn append(&mut self, entry: Entry) -> Gsn {
        let chain = link(self.chains.last().copied().unwrap_or(0), entry);
        self.entries.push(entry);
        self.chains.push(chain);
        let gsn = self.len();
        if self.epochs.starts().last().is_none_or(|start| start.epoch < entry.epoch) {
            self.epochs.open(entry.epoch, gsn);
        }
        gsn
    }

    pub(super) fn truncate(&mut self, gsn: Gsn) {
        self.entries.truncate(gsn as usize);
        self.chains.truncate(gsn as usize);
        self.epochs.truncate(gsn);
        self.durable = self.durable.min(gsn);
    }

    /// A full copy is complete: this is the log now.
    pub(super) fn replace(&mut self, entries: &[Entry]) {
        self.truncate(0);
        for &entry in entries {
            self.append(entry);
        }
        self.durable = self.len();
        self.floor = self.len() + 1;
        self.persisted_commit = self.len();
    }

    /// Power was lost, or the process killed before it wrote: any part of what was not synced may be gone.
    pub(super) fn crash(&mut self, random: &mut Random) {
        let unsynced = self.len() - self.durable;
        let kept = self.durable + random.below(unsynced + 1);
        self.truncate(kept);
        // Recovery makes what it found durable before anything else.
        self.durable = self.len();
    }

    pub(super) fn view(&self, commit: Gsn) -> LogView {
        LogView { state: self.state, tail: self.tail(), commit, log_floor: self.floor, epochs: self.epochs.clone() }
    }

    /// What may be acknowledged: under durability Os, what was written.
    pub(super) fn held(&self, relaxed: bool) -> Gsn {
        if relaxed { self.len() } else { self.durable }
    }

    pub(super) fn report(&self, commit: Gsn, relaxed: bool) -> ShardReport {
        ShardReport {
            state: self.state,
            tail: self.tail(),
            commit,
            durable: self.held(relaxed),
            log_floor: self.floor,
            tombstone_floor: 0,
        }
    }
}
