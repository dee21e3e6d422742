//! What a follower appends or cuts, and what it refuses (R3, R6); what shows a broken rule is an alarm.

use crate::ident::Sid;
use crate::position::{Epoch, Gsn, LogTail};

use super::member::MemberCore;

/// Why a follower did not append a batch or cut its log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefusal {
    /// It promised another epoch meanwhile, or follows someone else: drop the stream.
    #[error("epoch {asked} of {leader} is not followed here; the promise is {promised}")]
    NotFollowed {
        /// The order's epoch.
        asked: Epoch,
        /// Who gave it.
        leader: Sid,
        /// The standing promise.
        promised: Epoch,
    },
    /// The batch does not follow the log's end: say hello again.
    #[error("the batch follows {prev:?}, the log ends at {tail:?}")]
    Gap {
        /// What the batch follows.
        prev: LogTail,
        /// The end of the log.
        tail: LogTail,
    },
    /// Equal positions with unequal chains: the logs differ where they may not. Quarantine and alarm.
    #[error("the logs differ at {prev:?}: the chain here is {chain:#010x}; this shard is quarantined")]
    Diverged {
        /// What the batch follows.
        prev: LogTail,
        /// The chain here.
        chain: u32,
    },
    /// An order to cut committed entries. Never obeyed: quarantine and alarm.
    #[error("told to cut to {to} although {commit} is committed; this shard is quarantined")]
    BelowCommit {
        /// Where to cut.
        to: Gsn,
        /// What is committed.
        commit: Gsn,
    },
}

impl AppendRefusal {
    /// Whether the shard must be quarantined: a rule of the protocol was broken by someone.
    pub fn is_alarm(&self) -> bool {
        matches!(self, Self::Diverged { .. } | Self::BelowCommit { .. })
    }
}

/// Whether a batch of `leader` in `epoch` that follows `prev` may be appended to a log that ends at `tail`.
/// Asked under the lock that FENCE takes before it reads the log's end, for every batch.
pub fn check_append(
    member: &MemberCore,
    epoch: Epoch,
    leader: Sid,
    prev: LogTail,
    tail: LogTail,
) -> Result<(), AppendRefusal> {
    if !member.follows(epoch, leader) {
        return Err(AppendRefusal::NotFollowed { asked: epoch, leader, promised: member.promise() });
    }
    check_join(prev, tail)
}

/// Whether a batch that follows `prev` joins a log that ends at `tail`.
pub fn check_join(prev: LogTail, tail: LogTail) -> Result<(), AppendRefusal> {
    if prev.last != tail.last {
        return Err(AppendRefusal::Gap { prev, tail });
    }
    if prev.chain != tail.chain {
        return Err(AppendRefusal::Diverged { prev, chain: tail.chain });
    }
    Ok(())
}

/// Whether an order of `leader` in `epoch` to cut the log after `to` may be carried out.
pub fn check_truncate(
    member: &MemberCore,
    epoch: Epoch,
    leader: Sid,
    to: Gsn,
    commit: Gsn,
) -> Result<(), AppendRefusal> {
    if !member.follows(epoch, leader) {
        return Err(AppendRefusal::NotFollowed { asked: epoch, leader, promised: member.promise() });
    }
    if to < commit {
        return Err(AppendRefusal::BelowCommit { to, commit });
    }
    Ok(())
}
