//! Full synchronisation: a pinned snapshot on the giving side, a staged directory on the taking side.
//!
//! The types are final; the mechanism is not built yet and answers `Unsupported`.

use std::sync::Arc;

use bytes::Bytes;

use super::error::EngineError;
use super::shard::Shard;
use crate::position::{EpochTable, Gsn, LogTail};

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its name within the shard's directory.
    pub name: String,
    /// Bytes of it that belong to the snapshot.
    pub len: u64,
    /// CRC-32 of those bytes.
    pub crc: u32,
}

/// What a snapshot consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotManifest {
    /// Where the snapshot's log ends.
    pub g0: LogTail,
    /// Its epochs.
    pub epoch_table: EpochTable,
    /// Tombstones up to this gsn may be missing from it.
    pub tombstone_floor: Gsn,
    /// First gsn that its log still holds.
    pub log_floor: Gsn,
    /// Committed time at the snapshot.
    pub committed_time_ms: u64,
    /// Its files.
    pub files: Vec<SnapshotFile>,
}

/// Keeps a snapshot's files until dropped.
#[derive(Debug)]
pub struct SnapshotPin {
    manifest: SnapshotManifest,
}

impl SnapshotPin {
    /// What it consists of.
    pub fn manifest(&self) -> &SnapshotManifest {
        &self.manifest
    }

    /// Reads a piece of a file; shorter only at the file's end.
    pub fn read(&self, _name: &str, _offset: u64, _len: usize) -> Result<Bytes, EngineError> {
        Err(EngineError::Unsupported("reading a snapshot"))
    }
}

/// A full sync on the taking side. Dropping it keeps what was staged, to be resumed.
#[derive(Debug)]
pub struct FullSync {
    _shard: Arc<Shard>,
}

impl FullSync {
    /// Bytes of a file that are already staged.
    pub fn have(&self, _name: &str) -> u64 {
        0
    }

    /// Stages a piece of a file, in order.
    pub fn write(&mut self, _name: &str, _offset: u64, _bytes: &[u8]) -> Result<(), EngineError> {
        Err(EngineError::Unsupported("full sync"))
    }

    /// Verifies what was staged and atomically makes it the shard's data.
    pub fn finish(self) -> Result<LogTail, EngineError> {
        Err(EngineError::Unsupported("full sync"))
    }
}

impl Shard {
    /// Pins the committed state as a snapshot.
    pub fn pin_snapshot(self: &Arc<Self>) -> Result<SnapshotPin, EngineError> {
        Err(EngineError::Unsupported("a snapshot"))
    }

    /// Starts or resumes a full sync from `manifest`.
    pub fn begin_full_sync(
        self: &Arc<Self>,
        _manifest: &SnapshotManifest,
        _donor_commit: Gsn,
    ) -> Result<FullSync, EngineError> {
        Err(EngineError::Unsupported("full sync"))
    }
}
