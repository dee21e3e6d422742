//! `node.meta`: who this directory is, what it promised, and whether it was closed cleanly.

use crate::ident::{ClusterId, Sid};
use crate::position::Epoch;

/// What a directory is formatted with, once and for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// The storage's identity.
    pub sid: Sid,
    /// Logs in the directory, 1 to 64.
    pub shards: u16,
}

/// How far the cluster's bootstrap got on this member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InitState {
    /// Not at all.
    #[default]
    None,
    /// Asked, not known to be decided.
    Started,
    /// Decided.
    Done,
}

/// The last configuration this member was told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LastConfig {
    /// Its epoch.
    pub epoch: Epoch,
    /// Who votes.
    pub voters: Vec<Sid>,
    /// Voters that must hold an entry before it is committed.
    pub write_quorum: u32,
    /// Voters below which the configuration never shrinks.
    pub min_voters: u32,
}

/// What a member remembers of itself across restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeMeta {
    /// The cluster it belongs to, once it does.
    pub cluster_id: Option<ClusterId>,
    /// The storage's identity.
    pub sid: Sid,
    /// Raised only by an unsafe recovery that gave data up.
    pub lineage: u64,
    /// Logs in the directory.
    pub shards: u16,
    /// How often it was opened.
    pub open_count: u64,
    /// The machine's boot in which it was last opened.
    pub boot_id: [u8; 16],
    /// Whether the last run ended cleanly (as found on disk when this one began).
    pub clean: bool,
    /// Highest epoch promised.
    pub promised: Epoch,
    /// Highest epoch led.
    pub led: Epoch,
    /// How far the bootstrap got.
    pub init: InitState,
    /// The last configuration told.
    pub last_config: Option<LastConfig>,
    /// Format level in force.
    pub format_level: u32,
    /// Oldest format level that this version reads.
    pub format_min: u32,
    /// Newest format level that this version reads.
    pub format_max: u32,
}
