//! What a member's floors above see of its role and progress: small values that are published and watched.

use crate::engine::AppendError;
use crate::ident::Sid;
use crate::position::{Epoch, Gsn};

/// Where a leader is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderAddress {
    /// Its name.
    pub name: String,
    /// Identity of its storage.
    pub sid: Sid,
    /// Where clients reach it; empty if it is not known.
    pub client_address: String,
}

/// Whether this member leads, and if not, who does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// It leads.
    Leading {
        /// The epoch.
        epoch: Epoch,
        /// The BARRIERs are committed and older leases have ended: it answers reads and acknowledges writes.
        serving: bool,
    },
    /// It is giving leadership away: writes wait for the next change, nothing new is appended.
    Draining {
        /// The epoch it still leads.
        epoch: Epoch,
    },
    /// It does not lead.
    Following {
        /// The epoch it promised.
        epoch: Epoch,
        /// Who leads, if it was told.
        leader: Option<LeaderAddress>,
    },
}

/// Who to ask instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderHint {
    /// The epoch this is known from.
    pub epoch: Epoch,
    /// The leader, if it is known.
    pub leader: Option<LeaderAddress>,
}

/// Why a batch was not appended: in every case it is definitely not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteRefused {
    /// Another member leads.
    #[error("this member does not lead")]
    NotLeader(LeaderHint),
    /// Leadership is being given away: wait for a change of leadership and try again.
    #[error("this member is giving leadership away")]
    Draining,
    /// No write quorum has answered for a while.
    #[error("too few members answer to acknowledge a write")]
    NoQuorum,
    /// The engine refused.
    #[error(transparent)]
    Engine(AppendError),
}

/// How far a shard is. A change of `tail` alone does not wake watchers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardProgress {
    /// The epoch led, or promised.
    pub epoch: Epoch,
    /// Highest gsn that reads show.
    pub applied: Gsn,
    /// Highest gsn known to be committed.
    pub commit: Gsn,
    /// Highest gsn that is durable here.
    pub durable: Gsn,
    /// End of the log.
    pub tail: Gsn,
    /// As leader: highest gsn that every voter holds durably.
    pub acked_by_all: Gsn,
}
