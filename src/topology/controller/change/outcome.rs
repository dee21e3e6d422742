//! How a change ends: finished and told once the leader serves, or given up.

use std::time::Duration;

use super::{Change, Kind};
use crate::ident::Sid;
use crate::topology::controller::Controller;
use crate::topology::controller::recovery::refused;
use crate::topology::notice::Severity;
use crate::topology::view::Transition;

/// How many transitions are remembered.
const HISTORY: usize = 10;

/// A leader that was promoted and has not said yet that it serves.
#[derive(Debug)]
pub(in crate::topology::controller) struct Promoted {
    pub(in crate::topology::controller) transition: Transition,
    leader: Sid,
    /// Of the suspicion or request.
    since: Duration,
}

impl Controller {
    pub(super) fn finish(&mut self, change: Change, leader: Sid) {
        let plan = change.plan;
        let from = change.allocated.last_leading.map(|last| self.name_of(last.sid));
        let to = self.name_of(leader);
        let moved = change.allocated.last_leading.is_none_or(|last| last.sid != leader);
        self.note_served();
        self.remember_promoted();
        let transition = Transition {
            // Whatever was left unfinished, another leader is a failover.
            kind: if plan.kind == Kind::Resume && moved { Kind::Failover } else { plan.kind }.name(),
            from,
            to,
            epoch: change.epoch,
            duration: self.now.saturating_sub(plan.since),
            reason: plan.reason,
            at: self.now,
            settled: false,
        };
        self.promoted = Some(Promoted { transition, leader, since: plan.since });
        self.note_served();
        self.unfinished = None;
        self.backoff.succeeded();
    }

    /// A leader that was promoted serves once older leases are over and its BARRIERs are committed: only then is the
    /// change of leader over for clients, and told.
    pub(in crate::topology::controller) fn note_served(&mut self) {
        let now = self.now;
        let served = self.promoted.as_ref().is_some_and(|promoted| {
            let epoch = promoted.transition.epoch;
            self.members.fresh(promoted.leader, now).is_some_and(|r| r.standing.live_led == epoch && r.serving)
        });
        if let Some(promoted) = self.promoted.as_mut().filter(|_| served) {
            let transition = &mut promoted.transition;
            (transition.duration, transition.at) = (now.saturating_sub(promoted.since), now);
            let text = format!(
                "{} serves epoch {}, {} ms after: {}",
                transition.to,
                transition.epoch,
                transition.duration.as_millis(),
                transition.reason
            );
            self.tell(Severity::Info, "LeaderServes", text);
            self.remember_promoted();
        }
    }

    /// Into the history, served or not.
    fn remember_promoted(&mut self) {
        let Some(mut promoted) = self.promoted.take() else { return };
        promoted.transition.settled = true;
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(promoted.transition);
    }

    pub(super) fn abandon(&mut self, change: Change, why: &str, overtaken: bool) {
        let plan = change.plan;
        self.tell(
            if overtaken { Severity::Info } else { Severity::Warning },
            "ChangeAbandoned",
            format!("{} of epoch {} was given up: {why}", plan.kind.name(), change.epoch),
        );
        if let Some(id) = plan.request {
            let done = self.register.found().and_then(|r| r.last_request.as_ref()).is_some_and(|r| r.id == id);
            if !done {
                self.outcome = Some(refused(id, why));
            }
        }
        if overtaken {
            self.backoff.overtaken(self.now, &mut self.random);
        } else {
            self.backoff.failed(self.now, &mut self.random);
        }
        self.own_attempts.insert(change.attempt);
        self.unfinished = Some((change.attempt, plan.kind, plan.reason, plan.since));
    }
}
