//! How a follower's log is joined to the leader's, decided by the leader at hello in one round trip.
//!
//! Both epoch tables are intersected (KIP-101, KIP-279, KIP-595): the last common position is known exactly,
//! without asking about lengths or times. Ends of epochs and of logs are batch ends, so the answer is one too.

use crate::position::{EpochTable, Gsn, LogPosition, LogTail};
use crate::topology::message::DataState;

/// One shard's log as one side of a hello sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogView {
    /// State of the data.
    pub state: DataState,
    /// End of the log at a batch end.
    pub tail: LogTail,
    /// Known to be committed.
    pub commit: Gsn,
    /// First gsn of the contiguous log.
    pub log_floor: Gsn,
    /// Which epoch opened where.
    pub epochs: EpochTable,
}

/// Why a follower must be copied whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FullReason {
    /// The last common entry lies below what the leader still has as log.
    BelowFloor,
    /// A full sync had begun before; old data may be gone.
    Unfinished,
    /// Its own data is unsound.
    Unsound,
}

/// The leader's answer for one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reconcile {
    /// The follower's log is a prefix of the leader's: continue after it.
    Match {
        /// The follower's end.
        at: LogPosition,
    },
    /// Cut to the last common position, then continue.
    Truncate {
        /// The last common position.
        to: LogPosition,
    },
    /// Copy everything. The follower refuses if it has committed more than the donor.
    Full {
        /// Why.
        why: FullReason,
    },
    /// The follower has committed what the leader does not have: a rule was broken. Alarm, touch nothing.
    Diverged {
        /// Last common position.
        common: LogPosition,
        /// Committed by the follower.
        commit: Gsn,
    },
    /// Its own data is gone or unsound, and it had committed what the leader does not have (yet): nobody copies from
    /// who has less. It stays as it is and asks again.
    Lacking {
        /// Committed by the follower.
        commit: Gsn,
    },
}

/// Joins `follower` to `leader`.
pub fn reconcile(leader: &LogView, follower: &LogView) -> Reconcile {
    match follower.state {
        // What of its log is known is what its metadata tells: not enough to go on from, enough to be compared.
        DataState::Quarantined => {
            let end = follower.tail.last.gsn.max(follower.commit);
            let common = leader.epochs.last_common(leader.tail.last.gsn, &follower.epochs, end);
            return if common.gsn < follower.commit || leader.commit < follower.commit {
                Reconcile::Lacking { commit: follower.commit }
            } else {
                Reconcile::Full { why: FullReason::Unsound }
            };
        }
        // What it had before its data was given up is still not asked away.
        DataState::Blank | DataState::Syncing
            if follower.tail.last == LogPosition::ZERO && leader.commit < follower.commit =>
        {
            return Reconcile::Lacking { commit: follower.commit };
        }
        // Nothing was ever appended: the log alone can build it, if the leader still has all of it.
        DataState::Blank | DataState::Syncing if follower.tail.last == LogPosition::ZERO => {
            return if leader.log_floor <= 1 {
                Reconcile::Match { at: LogPosition::ZERO }
            } else {
                Reconcile::Full { why: FullReason::BelowFloor }
            };
        }
        DataState::Blank => return Reconcile::Full { why: FullReason::Unfinished },
        // A log that is contiguous from the floor up and at or above it is as good as any: a sync by the log
        // that was interrupted goes on where it was. `begin_full_sync` keeps the tail at zero until it switches.
        DataState::Syncing | DataState::Ready | DataState::Amnesic | DataState::Damaged => {}
    }
    let common = leader.epochs.last_common(leader.tail.last.gsn, &follower.epochs, follower.tail.last.gsn);
    if common.gsn < follower.commit {
        return Reconcile::Diverged { common, commit: follower.commit };
    }
    if common.gsn + 1 < leader.log_floor {
        return Reconcile::Full { why: FullReason::BelowFloor };
    }
    if common == follower.tail.last { Reconcile::Match { at: common } } else { Reconcile::Truncate { to: common } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(starts: &[(u64, u64)], end: Gsn, commit: Gsn) -> LogView {
        let epochs =
            EpochTable::from_starts(starts.iter().map(|&(e, g)| LogPosition::new(e, g)).collect()).expect("ascending");
        let last = LogPosition::new(epochs.epoch_at(end), end);
        LogView { state: DataState::Ready, tail: LogTail { last, chain: 0 }, commit, log_floor: 1, epochs }
    }

    #[test]
    fn a_prefix_matches() {
        let leader = view(&[(1, 1), (3, 10)], 20, 20);
        assert_eq!(
            reconcile(&leader, &view(&[(1, 1), (3, 10)], 15, 12)),
            Reconcile::Match { at: LogPosition::new(3, 15) }
        );
        assert_eq!(reconcile(&leader, &view(&[(1, 1)], 9, 9)), Reconcile::Match { at: LogPosition::new(1, 9) });
        assert_eq!(reconcile(&leader, &view(&[], 0, 0)), Reconcile::Match { at: LogPosition::ZERO });
    }

    #[test]
    fn a_divergent_tail_is_cut_at_the_last_common_entry() {
        let leader = view(&[(1, 1), (3, 10)], 20, 20);
        assert_eq!(reconcile(&leader, &view(&[(1, 1)], 12, 9)), Reconcile::Truncate { to: LogPosition::new(1, 9) });
        assert_eq!(
            reconcile(&leader, &view(&[(1, 1), (2, 8)], 30, 7)),
            Reconcile::Truncate { to: LogPosition::new(1, 7) }
        );
        // Longer in the same epoch cannot happen to a follower of this leader, but a restarted one is cut.
        assert_eq!(
            reconcile(&leader, &view(&[(1, 1), (3, 10)], 25, 9)),
            Reconcile::Truncate { to: LogPosition::new(3, 20) }
        );
    }

    #[test]
    fn what_a_follower_committed_is_never_asked_away() {
        let leader = view(&[(1, 1), (3, 10)], 20, 20);
        assert_eq!(
            reconcile(&leader, &view(&[(1, 1), (2, 8)], 30, 9)),
            Reconcile::Diverged { common: LogPosition::new(1, 7), commit: 9 }
        );
    }

    #[test]
    fn unsound_data_is_replaced_by_a_copy_from_who_has_all_that_it_had_committed() {
        let leader = view(&[(1, 1), (3, 10)], 20, 18);
        let unsound = |view: LogView| LogView { state: DataState::Quarantined, ..view };
        let full = Reconcile::Full { why: FullReason::Unsound };
        // Its log's end does not matter: what was not committed may be gone.
        for (end, commit) in [(30, 18), (12, 12), (10, 0), (18, 18)] {
            assert_eq!(reconcile(&leader, &unsound(view(&[(1, 1), (3, 10)], end, commit))), full, "{end} {commit}");
        }
        assert_eq!(reconcile(&leader, &unsound(view(&[], 0, 0))), full, "nothing is known of it");
        let lacking = |commit| Reconcile::Lacking { commit };
        assert_eq!(reconcile(&leader, &unsound(view(&[(1, 1), (3, 10)], 19, 19))), lacking(19), "not committed yet");
        assert_eq!(reconcile(&leader, &unsound(view(&[(1, 1)], 12, 12))), lacking(12), "of another history");
        assert_eq!(reconcile(&leader, &unsound(view(&[(1, 1), (2, 5)], 9, 6))), lacking(6), "of another history");
        // A copy that was begun is not finished by anybody with less either.
        let begun = LogView { state: DataState::Syncing, ..view(&[], 0, 19) };
        assert_eq!(reconcile(&leader, &begun), lacking(19));
        let begun = LogView { state: DataState::Syncing, ..view(&[], 0, 18) };
        assert_eq!(reconcile(&leader, &begun), Reconcile::Match { at: LogPosition::ZERO });
    }

    #[test]
    fn below_the_floor_only_a_full_copy_helps() {
        let leader = LogView { log_floor: 15, ..view(&[(1, 1), (3, 10)], 20, 20) };
        assert_eq!(reconcile(&leader, &view(&[(1, 1)], 9, 9)), Reconcile::Full { why: FullReason::BelowFloor });
        assert_eq!(
            reconcile(&leader, &view(&[(1, 1), (3, 10)], 14, 9)),
            Reconcile::Match { at: LogPosition::new(3, 14) }
        );
        let blank = LogView { state: DataState::Blank, ..view(&[], 0, 0) };
        assert_eq!(reconcile(&leader, &blank), Reconcile::Full { why: FullReason::BelowFloor });
    }
}
