//! The state of one shard of one member, as it is persisted in `shard.meta`.

use std::fmt;

/// What a shard's data is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardState {
    /// Formatted, never had data.
    Blank,
    /// A full sync is under way; what is there is not usable.
    Syncing,
    /// Sound.
    Ready,
    /// Sound on its face, but data that was promised durable may be missing (a crash of the machine while `Os`
    /// was in force): it gives no promise until it has caught up.
    Amnesic,
    /// Rot in files that are wholly committed, and exactly known: it goes on without those records until it is mended.
    Damaged {
        /// The ids of those files.
        files: Vec<u32>,
    },
    /// Something else below the commit, or the metadata, is unsound: never votes, is rebuilt.
    Quarantined {
        /// What was found.
        reason: String,
        /// A rule of the protocol was found broken. Nothing rebuilds it by itself: somebody has to look.
        alarm: bool,
    },
}

impl ShardState {
    /// Whether it serves, takes the log, and votes.
    pub fn is_usable(&self) -> bool {
        matches!(self, Self::Ready | Self::Damaged { .. })
    }
}

impl fmt::Display for ShardState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("blank"),
            Self::Syncing => f.write_str("syncing"),
            Self::Ready => f.write_str("ready"),
            Self::Amnesic => f.write_str("amnesic"),
            Self::Damaged { files } => {
                let names: Vec<_> = files.iter().map(|id| super::segment::Segment::file_name(*id)).collect();
                write!(f, "damaged ({})", names.join(", "))
            }
            Self::Quarantined { reason, .. } => write!(f, "quarantined ({reason})"),
        }
    }
}
