//! Which voters there should be, and whether the leader should be another: planned changes under a leader that
//! answers.
//!
//! Every one is a single `ChangeEpoch`. A member becomes a voter only once it is in sync (as a learner before
//! that); nothing goes below minVoters by itself; voters are given up only when the leader cannot commit with them
//! or when they have been gone for a minute.

use std::time::Duration;

use super::Controller;
use super::change::{Kind, Plan};
use super::members::may_vote;
use crate::ident::Sid;
use crate::topology::message::{DataState, HealthReport};
use crate::topology::register::Register;
use crate::topology::spec::FailoverPolicy;
use crate::topology::view::Transition;

/// A leader that could not commit for so long goes on without the voters that keep it from it.
const CANNOT_COMMIT: Duration = Duration::from_secs(1);
/// A voter that was gone for so long no longer counts.
const GONE: Duration = Duration::from_secs(60);
/// A learner must have been in sync for so long without a break.
const STEADY: Duration = Duration::from_secs(1);
/// A disk that syncs nothing for so long makes a bad leader.
const STALL: Duration = Duration::from_secs(2);
/// A leader without room is one after this long: where disks are shared, the others say within it that they have none
/// either.
const FULL_FOR: Duration = Duration::from_millis(500);
/// Moves for the sake of a disk are at least this far apart.
const MOVES_APART: Duration = Duration::from_secs(10);

impl Controller {
    /// Voters that keep the leader from committing, or would: they go first.
    pub(super) fn keep_quorum(&mut self, register: &Register, leader: &HealthReport) -> Option<Plan> {
        let now = self.now;
        let own = leader.standing.sid;
        let minimum = self.min_voters() as usize;
        let all = register.voters.len();
        let connected = |sid: Sid| leader.followers.iter().any(|f| f.sid == sid && f.connected);

        if leader.cannot_commit > CANNOT_COMMIT {
            let keep: Vec<Sid> = register
                .voters
                .iter()
                .copied()
                .filter(|&sid| sid == own || (connected(sid) && self.present(sid, register)))
                .collect();
            let silent_ms = leader.cannot_commit.as_millis();
            let since = now.saturating_sub(leader.cannot_commit);
            let gone = names(self, register, |sid| !keep.contains(&sid));
            let why = format!("no write quorum for {silent_ms} ms, {gone} not connected");
            if keep.len() < all && keep.len() >= minimum {
                return Some(self.reshape(register, Kind::RemoveVoter, why, since, keep, Some(own)));
            }
            // Whoever is left without it may do better, if they are enough.
            let others: Vec<Sid> = self
                .present_voters(register)
                .into_iter()
                .filter(|&sid| {
                    sid != own
                        && self.members.fresh(sid, now).is_some_and(|r| {
                            r.leader != Some(own) || r.leader_gone || r.leader_silence.is_none_or(|s| s > CANNOT_COMMIT)
                        })
                })
                .collect();
            let ready = self.ready_learners(register);
            let replaceable = keep.len() < all && keep.len() < minimum && keep.len() + ready.len() >= minimum;
            // Where that was tried just now, nobody else does better.
            let tried = self.latest().is_some_and(|t| t.kind == Kind::Failover.name() && now < t.at + MOVES_APART);
            let enough = others.len() >= register.read_quorum()
                && others.len() >= register.write_quorum as usize
                && !(tried && replaceable);
            if enough && self.config.spec.failover_policy == FailoverPolicy::Automatic {
                let why = format!("{} answers, but no other voter hears it", self.name_of(own));
                let mut plan = Plan::same_voters(Kind::Failover, why, since, register);
                plan.avoid = Some(own);
                // What it alone holds nobody could fetch, and was never committed.
                plan.ignore = Some(own);
                return Some(plan);
            }
            // Others that hold everything take their places: the missing ones may never come back.
            if replaceable {
                let new = &ready[..minimum - keep.len()];
                let names: Vec<_> = new.iter().map(|&sid| self.name_of(sid)).collect();
                let why = format!("{why}, {} in sync", names.join(", "));
                let voters = keep.iter().chain(new).copied().collect();
                return Some(self.reshape(register, Kind::ReplaceVoter, why, since, voters, Some(own)));
            }
            self.condition(
                "NoQuorum",
                format!(
                    "{} could not commit for {silent_ms} ms; fewer than {minimum} voters would be left without the \
                     missing ones, and too few other members hold everything: start those again",
                    self.name_of(own)
                ),
            );
        }

        if self.config.spec.paused {
            return None;
        }
        // With W = N a voter that leaves would stop all writes.
        if register.write_quorum as usize == all && all > minimum {
            let leaving = register
                .voters
                .iter()
                .copied()
                .find(|&sid| sid != own && self.members.fresh(sid, now).is_some_and(|r| r.draining));
            if let Some(leaving) = leaving {
                let keep = without(register, leaving);
                let why = format!("{} is stopping, and every voter is needed for a write", self.name_of(leaving));
                return Some(self.reshape(register, Kind::RemoveVoter, why, now, keep, Some(own)));
            }
        }
        if leader.serving && all > minimum {
            let mut next_look = None;
            let gone = register.voters.iter().copied().find(|&sid| {
                if sid == own || connected(sid) || self.members.fresh(sid, now).is_some() {
                    return false;
                }
                let heard = self.members.holder(sid).and_then(|m| m.heard).unwrap_or_default();
                let until = heard + GONE;
                if now < until {
                    next_look = Some(next_look.map_or(until, |known: Duration| known.min(until)));
                }
                now >= until
            });
            if let Some(at) = next_look {
                self.wake(at);
            }
            if let Some(gone) = gone {
                let keep = without(register, gone);
                let why = format!("{} has been gone for {} s", self.name_of(gone), GONE.as_secs());
                return Some(self.reshape(register, Kind::RemoveVoter, why, now, keep, Some(own)));
            }
        }
        None
    }

    /// The newest change that came to its end, or whose leader does not serve yet.
    fn latest(&self) -> Option<&Transition> {
        self.promoted.as_ref().map(|promoted| &promoted.transition).or(self.history.back())
    }

    /// The leader leaves, or its disk makes it a bad one: another should lead.
    pub(super) fn move_leader(&mut self, register: &Register, leader: &HealthReport) -> Option<Plan> {
        if self.config.spec.failover_policy == FailoverPolicy::Manual {
            return None;
        }
        let own = leader.standing.sid;
        let name = self.name_of(own);
        let full_since = self.full_since.filter(|(sid, _)| *sid == own && leader.disk_full);
        self.full_since = leader.disk_full.then(|| full_since.unwrap_or((own, self.now)));
        let (kind, why, urgent) = if leader.draining {
            (Kind::Drain, format!("{name} is stopping"), true)
        } else if self.config.spec.paused {
            return None;
        } else if leader.sync_stall > STALL {
            (
                Kind::Failover,
                format!("the disk of {name} synced nothing for {} ms", leader.sync_stall.as_millis()),
                false,
            )
        } else if leader.disk_full {
            // It serves everything but puts: nothing is lost by handing over in order.
            (Kind::Switchover, format!("the disk of {name} is full"), false)
        } else if is_damaged(leader) {
            (Kind::Switchover, format!("records of {name} do not verify: another that has them shall lead"), false)
        } else {
            return None;
        };
        let heirs: Vec<Sid> = self.heirs(register, leader).into_iter().map(|(sid, _)| sid).collect();
        let able = |sid: &Sid| {
            self.members.fresh(*sid, self.now).is_some_and(|r| {
                // One with hardly more room would refuse puts in a moment, and hand over in turn.
                !r.draining && !r.disk_full && r.disk.is_ample() && r.sync_stall <= STALL && !is_damaged(r)
            })
        };
        if !heirs.iter().any(able) {
            self.condition("NoCandidate", format!("{why}, and nobody in sync could lead instead"));
            return None;
        }
        if let Some((_, since)) = self.full_since.filter(|_| kind == Kind::Switchover)
            && self.now < since + FULL_FOR
        {
            self.wake(since + FULL_FOR);
            return None;
        }
        if !urgent {
            let last = self.latest().map_or(Duration::ZERO, |t| t.at + MOVES_APART);
            if self.now < last {
                self.wake(last);
                return None;
            }
        }
        let mut plan = Plan::same_voters(kind, why, self.now, register);
        let all = register.voters.len();
        if leader.draining && register.write_quorum as usize == all && all > self.min_voters() as usize {
            // It will be gone in a moment, and every voter is needed for a write.
            plan.voters = without(register, own);
            plan.write_quorum = self.config.spec.ack.write_quorum(plan.voters.len());
        }
        plan.avoid = Some(own);
        plan.drain = Some(own);
        Some(plan)
    }

    /// Who could take over from a leader that answers: in sync by its word, answering, sound, not leaving. With
    /// the entries each lacks.
    pub(super) fn heirs(&self, register: &Register, leader: &HealthReport) -> Vec<(Sid, u64)> {
        register
            .voters
            .iter()
            .copied()
            .filter(|&sid| sid != leader.standing.sid && self.present(sid, register))
            .filter(|&sid| self.members.holder(sid).is_some_and(|m| m.in_sync_since.is_some()))
            .filter(|&sid| self.members.fresh(sid, self.now).is_some_and(|r| !r.draining))
            .filter_map(|sid| leader.followers.iter().find(|f| f.sid == sid).map(|f| (sid, f.lag_entries)))
            .collect()
    }

    /// Voters and W as the owner wants them.
    pub(super) fn shape_voters(&mut self, register: &Register, leader: &HealthReport) -> Option<Plan> {
        if self.config.spec.paused || !leader.serving || leader.draining {
            return None;
        }
        let own = leader.standing.sid;
        let wanted: Vec<Sid> = self.wanted_holders().into_iter().flatten().collect();
        let count = self.config.spec.replicas as usize;

        // Storage under a name whose earlier storage votes: the volume was lost and replaced.
        let ready = self.ready_learners(register);
        for &new in &ready {
            let name = self.members.holder(new).map(|m| m.name().clone())?;
            let lost = register.voters.iter().copied().find(|&old| {
                self.members.holder(old).is_none() && register.members.get(&old).is_some_and(|known| known.name == name)
            });
            if let Some(old) = lost {
                let mut voters = without(register, old);
                voters.push(new);
                let why = format!("the storage of {name} was lost and replaced");
                return Some(self.reshape(register, Kind::ReplaceVoter, why, self.now, voters, Some(own)));
            }
        }
        // A voter too few, or one that should not be.
        let surplus = self.surplus_voter(register, &wanted, own);
        if let Some(&new) = ready.first() {
            let name = self.name_of(new);
            if register.voters.len() < count {
                let mut voters = register.voters.clone();
                voters.push(new);
                let why = format!("{name} is in sync");
                return Some(self.reshape(register, Kind::AddVoter, why, self.now, voters, Some(own)));
            }
            if let Some(old) = surplus {
                let mut voters = without(register, old);
                voters.push(new);
                let why = format!("{name} is in sync and takes the place of {}", self.name_of(old));
                return Some(self.reshape(register, Kind::ReplaceVoter, why, self.now, voters, Some(own)));
            }
        }
        if register.voters.len() > count
            && let Some(old) = surplus
        {
            let why = format!("{} voters are wanted", count);
            let voters = without(register, old);
            let mut plan = self.reshape(register, Kind::RemoveVoter, why, self.now, voters, Some(own));
            if old == own {
                plan.want = None;
                plan.drain = Some(own);
            }
            return Some(plan);
        }
        let write_quorum = self.config.spec.ack.write_quorum(register.voters.len());
        if write_quorum != register.write_quorum || self.min_voters() != register.min_voters {
            let present = self.present_voters(register).len();
            if present >= write_quorum as usize {
                let why = format!("W = {write_quorum} and minVoters = {} are wanted", self.min_voters());
                let voters = register.voters.clone();
                return Some(self.reshape(register, Kind::Reconfigure, why, self.now, voters, Some(own)));
            }
        }
        None
    }

    /// What each of the names that shall vote holds now.
    fn wanted_holders(&self) -> Vec<Option<Sid>> {
        let count = self.config.spec.replicas as usize;
        let sid = |m: &&super::members::Member| m.sid().filter(|_| m.copy_of.is_none());
        self.members.in_order().iter().take(count).map(sid).collect()
    }

    /// Members that shall vote, do not, and may: by ordinal.
    fn ready_learners(&mut self, register: &Register) -> Vec<Sid> {
        let now = self.now;
        let mut ready = Vec::new();
        let mut next_look = None;
        let count = self.config.spec.replicas as usize;
        for member in self.members.in_order().into_iter().take(count) {
            let Some(report) = member.fresh(now).filter(|r| may_vote(&r.shards) && !r.draining) else { continue };
            let sid = report.standing.sid;
            if register.voters.contains(&sid) || !self.present(sid, register) {
                continue;
            }
            let Some(since) = member.in_sync_since else { continue };
            if now >= since + STEADY {
                ready.push(sid);
            } else {
                next_look = Some(since + STEADY);
            }
        }
        if let Some(at) = next_look {
            self.wake(at);
        }
        ready
    }

    /// A voter that should not be one: whoever is gone first, the leader last.
    fn surplus_voter(&self, register: &Register, wanted: &[Sid], leader: Sid) -> Option<Sid> {
        // As long as a name that shall vote was never heard, its storage may be any of the voters'.
        if wanted.len() < self.config.spec.replicas as usize {
            return None;
        }
        let ordinal = |sid: Sid| self.members.holder(sid).map_or(u32::MAX, |m| m.expected.ordinal);
        register
            .voters
            .iter()
            .copied()
            .filter(|sid| !wanted.contains(sid))
            .max_by_key(|&sid| (sid != leader, !self.present(sid, register), ordinal(sid), sid))
    }

    /// A planned change under a leader that answers: it is asked first, so that nothing in flight fails.
    fn reshape(
        &self,
        register: &Register,
        kind: Kind,
        reason: String,
        since: Duration,
        mut voters: Vec<Sid>,
        want: Option<Sid>,
    ) -> Plan {
        voters.sort_unstable();
        let mut plan = Plan::same_voters(kind, reason, since, register);
        plan.write_quorum = self.config.spec.ack.write_quorum(voters.len());
        plan.voters = voters;
        plan.want = want;
        plan
    }
}

fn without(register: &Register, sid: Sid) -> Vec<Sid> {
    register.voters.iter().copied().filter(|&v| v != sid).collect()
}

fn names(controller: &Controller, register: &Register, which: impl Fn(Sid) -> bool) -> String {
    let names: Vec<_> =
        register.voters.iter().copied().filter(|&sid| which(sid)).map(|sid| controller.name_of(sid)).collect();
    names.join(", ")
}

/// Whether it lacks records that it should have.
fn is_damaged(report: &HealthReport) -> bool {
    report.shards.iter().any(|shard| shard.state == DataState::Damaged)
}
