//! Full synchronisation: a pinned snapshot on the giving side, a staged directory on the taking side.
//!
//! A snapshot is a set of files as they are: every segment and output of compaction that holds entries up to
//! `g0`, the last one cut there. Nothing is copied to make it, writes go on meanwhile, and what is dropped
//! from the shard later stays readable while the pin lives. The taker stages the files beside its own, looks
//! at every byte, and makes them its data by one manifest switch; until then its old files are untouched.
//! What the taker has after that is a log that ends at `g0`: the rest comes as log.
//!
//! A follower's shard is `Syncing` from the first byte until the caller says otherwise. A candidate's (ASSEMBLE)
//! keeps its data and its state, and with it its vote, until the switch, and is sound after it: nobody may be worse
//! off because an attempt failed. Moving bytes between members is the replication floor's.

mod aside;
mod install;
mod manifest;
mod pin;
mod staging;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) use aside::is_aside;
pub use manifest::{SnapshotFile, SnapshotManifest};
pub use pin::SnapshotPin;
use staging::Staging;
pub(crate) use staging::{discard_staged, is_staging};

use super::error::EngineError;
use super::shard::Shard;
use super::shard_state::ShardState;
use crate::position::{EpochTable, Gsn, LogTail};

/// A full sync on the taking side. Dropping it keeps what was staged, to be resumed.
#[derive(Debug)]
pub struct FullSync {
    shard: Arc<Shard>,
    manifest: SnapshotManifest,
    staging: Staging,
    until_switch: UntilSwitch,
}

/// What the shard is while files are staged for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UntilSwitch {
    /// `Syncing`, and so it stays after the switch.
    Syncing,
    /// What it is; sound after the switch.
    Itself,
}

impl FullSync {
    /// Bytes of a file that are already staged.
    pub fn have(&self, name: &str) -> u64 {
        self.staging.have(name)
    }

    /// Stages a piece of a file, in order: `offset` is what [`Self::have`] says; a piece that is already here is
    /// passed over. A file that is whole and does
    /// not match its checksum is thrown away with an error; it is then to be staged again.
    pub fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), EngineError> {
        self.shard.shared.poison.check()?;
        self.staging.write(name, offset, bytes)
    }

    /// Verifies what was staged and atomically makes it the shard's data. Answers where its log ends now.
    ///
    /// If what was staged turns out to be unsound it is thrown away: the next attempt starts anew.
    pub fn finish(mut self) -> Result<LogTail, EngineError> {
        let shard = self.shard.clone();
        shard.shared.poison.check()?;
        shard.install(&self.manifest, &mut self.staging, self.until_switch)
    }
}

impl Drop for FullSync {
    fn drop(&mut self) {
        self.shard.staging.store(false, Ordering::Release);
    }
}

impl Shard {
    /// Starts a full sync from `manifest`, or resumes it: what an earlier attempt staged of the same files is
    /// kept, anything else is thrown away. The state is durably `Syncing` before anything is touched.
    ///
    /// Refused if this shard has committed more than the donor, or than the snapshot holds.
    pub fn begin_full_sync(
        self: &Arc<Self>,
        manifest: &SnapshotManifest,
        donor_commit: Gsn,
    ) -> Result<FullSync, EngineError> {
        self.stage(manifest, donor_commit, UntilSwitch::Syncing)
    }

    /// As [`Self::begin_full_sync`], but the shard keeps its data and its state until [`FullSync::finish`], and is sound
    /// after that: for a log that is to become another's, of which everything committed here is known to be a part.
    /// Meanwhile it takes no chunk. [`Self::discard_staged`] when it is given up.
    ///
    /// Refused also if the shard's data cannot be used as it is.
    pub fn begin_staged_copy(
        self: &Arc<Self>,
        manifest: &SnapshotManifest,
        donor_commit: Gsn,
    ) -> Result<FullSync, EngineError> {
        self.stage(manifest, donor_commit, UntilSwitch::Itself)
    }

    /// Gives up what was staged while the shard kept its data, unless that goes on.
    pub fn discard_staged(&self) {
        let unwanted = self.state() != ShardState::Syncing && !self.staging.swap(true, Ordering::AcqRel);
        if unwanted {
            discard_staged(&self.shared.disk, &self.dir);
            self.staging.store(false, Ordering::Release);
        }
    }

    fn stage(
        self: &Arc<Self>,
        manifest: &SnapshotManifest,
        donor_commit: Gsn,
        until_switch: UntilSwitch,
    ) -> Result<FullSync, EngineError> {
        self.shared.poison.check()?;
        manifest.check().map_err(EngineError::FullSync)?;
        let refused = |why: String| EngineError::FullSync(format!("shard {}: {why}", self.id));
        if self.staging.swap(true, Ordering::AcqRel) {
            return Err(refused("another full sync of it is under way".into()));
        }
        let begun = || -> Result<Staging, EngineError> {
            // Whoever holds the log's lock now does not know of the sync yet: after this everybody does.
            if let Some(epoch) = self.log.lock().open {
                return Err(refused(format!("it leads epoch {epoch} here: a leader takes nobody's data")));
            }
            if let ShardState::Quarantined { reason, alarm: true } = self.state() {
                return Err(refused(format!("it was quarantined by an alarm and stays as it is: {reason}")));
            }
            let own = self.known_commit();
            if donor_commit < own {
                return Err(refused(format!("the donor has committed {donor_commit}, less than the {own} here")));
            }
            let g0 = manifest.g0.last.gsn;
            if g0 < own || g0 > donor_commit {
                return Err(refused(format!(
                    "the snapshot ends at {g0}, the commit is {own} here and {donor_commit} at the donor: take a new one"
                )));
            }
            match until_switch {
                UntilSwitch::Syncing => self.enter_syncing()?,
                UntilSwitch::Itself => self.keeps_itself()?,
            }
            Staging::open(&self.shared, &self.dir, manifest)
        };
        match begun() {
            Ok(staging) => Ok(FullSync { shard: self.clone(), manifest: manifest.clone(), staging, until_switch }),
            Err(error) => {
                self.staging.store(false, Ordering::Release);
                Err(error)
            }
        }
    }

    /// The commit, also of a shard whose data cannot be used.
    pub(crate) fn known_commit(&self) -> Gsn {
        self.files.lock().manifest().commit.max(self.commit())
    }

    /// What its log is known to have held, also where its data cannot be used: its end, and its epochs.
    pub(crate) fn known_log(&self) -> (LogTail, EpochTable) {
        let files = self.files.lock();
        if files.is_void() {
            return (files.manifest().mark, files.manifest().epochs.clone());
        }
        drop(files);
        (self.tail(), self.epoch_table())
    }

    /// Whether there is something to keep.
    fn keeps_itself(&self) -> Result<(), EngineError> {
        let state = self.state();
        if state.is_usable() || state == ShardState::Amnesic {
            Ok(())
        } else {
            Err(EngineError::NotReady { shard: self.id, state, operation: "a copy beside its data" })
        }
    }

    /// Persists `Syncing`, with fresh metadata if there was none that could be read, and sets aside what was
    /// quarantined. No file is rewritten from here on.
    fn enter_syncing(&self) -> Result<(), EngineError> {
        let _stopped = self.stop_housekeeping();
        let mut files = self.files.lock();
        self.ready.store(false, Ordering::Release);
        let disk = &self.shared.disk;
        if let ShardState::Quarantined { reason, .. } = files.state()
            && files.is_void()
        {
            aside::begin(disk, &self.dir, reason)?;
        }
        let done = if files.is_unreadable() {
            files.renew(&self.shared, &self.dir, ShardState::Syncing)
        } else if *files.state() != ShardState::Syncing {
            files.set_state(&self.shared, &self.dir, ShardState::Syncing)
        } else {
            Ok(())
        };
        self.shared.failing(done)?;
        aside::finish(disk, &self.dir, files.in_force())
    }
}

/// Names and lengths, for what is staged.
type Sizes = BTreeMap<String, u64>;

#[cfg(test)]
mod tests;
