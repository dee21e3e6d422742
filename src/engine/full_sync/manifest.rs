//! What a snapshot says of itself. It comes from another member: nothing in it is believed before
//! [`SnapshotManifest::check`], and nothing of the files before they are read.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::engine::format::segment_header::SEGMENT_HEADER_BYTES;
use crate::engine::index::{MAX_SEGMENT_BYTES, MAX_SEGMENTS};
use crate::engine::segment::Segment;
use crate::engine::tree::TreeInfo;
use crate::position::{EpochTable, Gsn, LogTail};

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// Its name within the shard's directory.
    pub name: String,
    /// Bytes of it that belong to the snapshot.
    pub len: u64,
    /// CRC-32 of those bytes.
    pub crc: u32,
}

/// What a snapshot consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotManifest {
    /// Where the snapshot's log ends: the end of a batch, committed.
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
    /// Trees whose creation is committed (shard 0 only).
    #[serde(default)]
    pub trees: Vec<TreeInfo>,
}

impl SnapshotManifest {
    /// Bytes of all its files.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len).sum()
    }

    /// Whether it can be one at all.
    pub(crate) fn check(&self) -> Result<(), String> {
        let g0 = self.g0.last;
        let starts = self.epoch_table.starts();
        if !starts.windows(2).all(|w| w[0].epoch < w[1].epoch && w[0].gsn < w[1].gsn) {
            return Err("the snapshot's epochs do not ascend".into());
        }
        if starts.last().is_some_and(|last| last.gsn > g0.gsn) || self.epoch_table.epoch_at(g0.gsn) != g0.epoch {
            return Err(format!("the snapshot's epochs do not end at {g0:?}"));
        }
        if self.log_floor == 0 || self.log_floor > g0.gsn.saturating_add(1) || self.tombstone_floor > g0.gsn {
            let (log, tombstones) = (self.log_floor, self.tombstone_floor);
            return Err(format!("the snapshot's floors {log} and {tombstones} do not fit its end {}", g0.gsn));
        }
        if self.files.len() >= MAX_SEGMENTS as usize {
            return Err(format!("the snapshot has {} files", self.files.len()));
        }
        let mut names = BTreeSet::new();
        for file in &self.files {
            if Segment::id_of(&file.name).is_none() || !names.insert(&file.name) {
                return Err(format!("the snapshot names a file {:?}", file.name));
            }
            if file.len < SEGMENT_HEADER_BYTES || file.len > MAX_SEGMENT_BYTES || file.len % 8 != 0 {
                return Err(format!("the snapshot gives {} {} bytes", file.name, file.len));
            }
        }
        Ok(())
    }
}
