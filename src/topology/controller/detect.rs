//! Does the leader lead? Its own word, the state of its health stream, and what the other voters say.
//!
//! Suspicion: the health stream was refused or reset (at once), or nothing came for `leader_timeout`. Confirmation:
//! at least R voters do not hear the leader either. R silent voters mean that it cannot reach W, so a failover
//! cannot hurt a leader that could still commit; and R answers are exactly what FENCE needs. Neither is safety:
//! a wrong verdict costs an epoch, never an entry.

use std::time::Duration;

use super::Controller;
use super::change::{Kind, Plan};
use super::members::{Link, belongs, may_vote_with_all};
use crate::ident::Sid;
use crate::topology::message::Role;
use crate::topology::register::Register;
use crate::topology::spec::FailoverPolicy;

/// Silence of the leader that a voter must see when the leader's process is known to be gone.
const SILENCE_OF_THE_GONE: Duration = Duration::from_millis(100);
/// Silence of the leader that a voter must see otherwise.
const SILENCE: Duration = Duration::from_millis(800);
/// A leader whose heartbeats say that the rest of it has been stuck for so long is as good as silent.
const STALLED: Duration = Duration::from_secs(2);
/// For a voter that was never heard by this controller, before the others go on without it.
const START: Duration = Duration::from_secs(3);
/// After DECIDE, for PROMOTE to arrive.
const PROMOTION: Duration = Duration::from_secs(2);
/// An attempt that another controller allocated is left alone for this long.
const FOREIGN_ATTEMPT: Duration = Duration::from_secs(2);
/// While a member still assembles for it, for this long.
const FOREIGN_ASSEMBLY: Duration = Duration::from_secs(30);

/// About the leader that the register names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answers and leads.
    Leads,
    /// It was decided and has not been promoted yet.
    Starting,
    /// It says itself that it does not lead this epoch (any more).
    Ended { since: Duration, why: String },
    /// It does not answer; so many of the voters needed do not hear it either.
    Unreachable { since: Duration, why: String, silent: usize, hearing: Vec<Sid> },
}

impl Verdict {
    pub(super) fn leads(&self) -> bool {
        *self == Self::Leads
    }
}

impl Controller {
    pub(super) fn judge_leader(&mut self, register: &Register) -> Verdict {
        let verdict = self.judge(register);
        if let Verdict::Leads | Verdict::Starting = verdict {
            self.suspected = None;
        }
        verdict
    }

    fn judge(&mut self, register: &Register) -> Verdict {
        let now = self.now;
        let (epoch, Some(leader)) = (register.epoch, register.leader) else { return Verdict::Starting };
        let name = self.name_of(leader);
        let timeout = self.config.spec.leader_timeout;
        let holder = self.members.holder(leader);
        if let Some(report) = holder.and_then(|m| m.fresh(now).filter(|_| m.silence(now) < timeout)) {
            let standing = &report.standing;
            if standing.live_led == epoch && report.role == Role::Leader {
                // It speaks now: look again when it would have been silent for too long.
                let until = now + timeout;
                self.wake(until);
                return Verdict::Leads;
            }
            let why = if standing.live_led == epoch {
                format!("{name} stepped down from epoch {epoch}")
            } else if standing.led >= epoch {
                format!("{name} was restarted and leads no more")
            } else {
                let until = self.register.since() + PROMOTION;
                if now < until {
                    self.wake(until);
                    return Verdict::Starting;
                }
                format!("{name} was decided for epoch {epoch} and never promoted")
            };
            let since = self.suspicion(leader, now);
            return Verdict::Ended { since, why };
        }

        // It does not answer. Is it gone, or silent?
        let replaced = register
            .members
            .get(&leader)
            .and_then(|m| self.members.get(&m.name))
            .filter(|m| m.copy_of.is_none() && m.sid().is_some_and(|sid| sid != leader) && m.fresh(now).is_some());
        let (suspect_from, gone, why) = match (holder.map(|m| (m.link, m.heard)), replaced) {
            (None, Some(_)) => (now, true, format!("{name} came back with other storage")),
            (Some((Link::Gone { at }, Some(_))), _) => (at, true, format!("the process of {name} is gone")),
            (Some((_, Some(heard))), _) => {
                (heard + timeout, false, format!("{name} is silent for more than {} ms", timeout.as_millis()))
            }
            _ => (timeout, false, format!("{name} was not heard since this controller started")),
        };
        if now < suspect_from {
            self.wake(suspect_from);
            return if self.promoted(leader, register) { Verdict::Leads } else { Verdict::Starting };
        }
        let since = self.suspicion(leader, suspect_from.min(now));
        let threshold = if gone { SILENCE_OF_THE_GONE } else { SILENCE };
        let mut silent = 0;
        let mut hearing = Vec::new();
        for &voter in register.voters.iter().filter(|&&sid| sid != leader) {
            let Some(report) = self.members.fresh(voter, now) else { continue };
            if !belongs(&report.standing, register.cluster_id, register.lineage) {
                continue;
            }
            let hears_not = report.leader != Some(leader)
                || report.leader_gone
                // It beats and does nothing else.
                || report.leader_stall >= STALLED
                || report.leader_silence.unwrap_or_else(|| now.saturating_sub(since)) >= threshold;
            if hears_not {
                silent += 1;
            } else {
                hearing.push(voter);
            }
        }
        Verdict::Unreachable { since, why, silent, hearing }
    }

    /// Whether the leader is known to have been promoted.
    fn promoted(&self, leader: Sid, register: &Register) -> bool {
        self.members
            .holder(leader)
            .and_then(|m| m.report.as_ref())
            .is_some_and(|r| r.standing.live_led == register.epoch)
    }

    /// Since when this leader has been suspected.
    fn suspicion(&mut self, leader: Sid, from: Duration) -> Duration {
        match self.suspected {
            Some((sid, since)) if sid == leader => since,
            _ => {
                self.suspected = Some((leader, from));
                from
            }
        }
    }

    /// Should another member lead because this one does not?
    pub(super) fn failover(&mut self, register: &Register, verdict: &Verdict) -> Option<Plan> {
        let leader = register.leader?;
        let (since, why) = match verdict {
            Verdict::Leads | Verdict::Starting => return None,
            Verdict::Ended { since, why } => (*since, why.clone()),
            Verdict::Unreachable { since, why, silent, hearing } => {
                let needed = register.read_quorum();
                if *silent < needed {
                    let hearing: Vec<_> = hearing.iter().map(|&sid| self.name_of(sid)).collect();
                    let text = if hearing.is_empty() {
                        format!("{why}; {silent} of the {needed} voters needed to replace it answer")
                    } else {
                        format!("{why}, but {} still hear it: it may still commit, so it stays", hearing.join(", "))
                    };
                    let kind = if hearing.is_empty() { "NoQuorum" } else { "AsymmetricPartition" };
                    self.condition(kind, text);
                    return None;
                }
                (*since, why.clone())
            }
        };
        let mut plan = self.election(register, Kind::Failover, why, since)?;
        plan.avoid = Some(leader).filter(|_| register.voters.len() > 1);
        if self.config.spec.failover_policy == FailoverPolicy::Manual {
            // The same member may go on; nobody else may take its place unasked.
            if !self.present(leader, register) {
                self.condition("ManualFailover", format!("{}; failover is Manual: ask for a switchover", plan.reason));
                return None;
            }
            plan.avoid = None;
            plan.only = Some(leader);
            plan.voters.clone_from(&register.voters);
            plan.write_quorum = register.write_quorum;
        } else if let Verdict::Ended { .. } = verdict {
            // Its process is there and its storage is sound: the one that misses least is as good as any.
            plan.avoid = None;
        }
        Some(plan)
    }

    /// A change of leader that needs no word of the present one; None: too few voters answer.
    pub(super) fn election(
        &mut self,
        register: &Register,
        kind: Kind,
        reason: String,
        since: Duration,
    ) -> Option<Plan> {
        let present = self.present_voters(register);
        let needed = register.read_quorum();
        let live_leader = register.last_leading.is_some_and(|last| {
            present.contains(&last.sid)
                && self.members.fresh(last.sid, self.now).is_some_and(|r| r.standing.live_led == last.epoch)
        });
        let remembers = |&sid: &Sid| {
            self.members.fresh(sid, self.now).is_some_and(|r| {
                belongs(&r.standing, register.cluster_id, register.lineage) && may_vote_with_all(&r.shards)
            })
        };
        if present.len() < needed && !live_leader && register.voters.iter().all(remembers) {
            // The amnesia rule: see FENCE.
            return Some(Plan::same_voters(kind, reason, since, register));
        }
        if present.len() < needed && !live_leader {
            let amnesic = register.voters.iter().filter(|sid| remembers(sid)).count() > present.len();
            if amnesic {
                self.condition(
                    "Amnesic",
                    "members lost power under durability Os and may lack what they acknowledged: without a read \
                     quorum of others, a leader is chosen only once every voter answers"
                        .into(),
                );
            }
            self.condition(
                "NoQuorum",
                format!("{reason}; {} of the {needed} voters needed to choose a leader answer", present.len()),
            );
            return None;
        }
        let mut plan = Plan::same_voters(kind, reason, since, register);
        // Fewer than W answer: without the missing ones a leader could not commit anything.
        let enough = present.len() >= register.write_quorum as usize;
        if !enough && present.len() >= self.min_voters() as usize {
            // Who was never heard may be about to start: removing a voter to add it back at once helps nobody.
            let unheard = register.voters.iter().any(|&sid| self.members.holder(sid).is_none_or(|m| m.heard.is_none()));
            let until = since + START;
            if unheard && self.now < until {
                self.wake(until);
                return None;
            }
            plan.write_quorum = self.config.spec.ack.write_quorum(present.len());
            plan.voters = present;
        }
        Some(plan)
    }

    /// The register is between leaders, and no change runs here: was somebody else's left unfinished?
    pub(super) fn resume(&mut self, register: &Register) -> Option<Plan> {
        let now = self.now;
        let own = register.attempt.is_some_and(|attempt| self.own_attempts.contains(&attempt));
        if !own {
            let assembling = self
                .members
                .all()
                .filter_map(|m| m.fresh(now))
                .any(|r| r.role == Role::Assembling && r.standing.promised == register.epoch);
            let patience = if assembling { FOREIGN_ASSEMBLY } else { FOREIGN_ATTEMPT };
            let until = self.register.since() + patience;
            if now < until {
                self.wake(until);
                return None;
            }
            if self.register.as_of() < until {
                // It may be finished, and only this copy old.
                self.register.doubt();
                return None;
            }
        }
        let (kind, reason, since) = match &self.unfinished {
            Some((attempt, kind @ (Kind::Failover | Kind::Recover), reason, since))
                if Some(*attempt) == register.attempt =>
            {
                (*kind, reason.clone(), *since)
            }
            _ => {
                let reason = format!("the change to epoch {} was left unfinished", register.epoch);
                (Kind::Resume, reason, self.register.since())
            }
        };
        let mut plan = self.election(register, kind, reason, since)?;
        // A leader that nobody fenced still serves, and keeps what it has.
        let last = register.last_leading.map(|last| last.sid);
        let serves = |sid: &Sid| self.members.fresh(*sid, now).is_some_and(|r| r.role == Role::Leader && !r.draining);
        plan.want = last.filter(serves);
        if self.config.spec.failover_policy == FailoverPolicy::Manual && !own {
            plan.only = last.filter(|&sid| self.present(sid, register));
        }
        Some(plan)
    }
}
