//! `ChangeEpoch`: the one procedure that changes a leader, the voters or W.
//!
//! ```text
//! begin --CAS--> Allocating --> Fencing --> Assembling --> Deciding --CAS--> Promoting --> finish
//!                    |             |  ^---------'  |           |                 |
//!                    '-------------'---------------'-----------'--- abandon -----'
//! ```
//! An epoch belongs to one attempt for ever: every step is sent again under the same attempt while it lasts, and
//! after anything that makes it hopeless the attempt is abandoned; whoever starts again takes a larger epoch.
//! Whether the register still says this attempt is read from the register alone, never assumed: a swap of
//! which nobody knows the outcome is followed by a read.

mod assemble;
mod fence;
mod outcome;
mod plan;
mod promote;

use std::time::Duration;

use self::assemble::Assembling;
use self::fence::Fencing;
pub(super) use self::outcome::Promoted;
pub(super) use self::plan::{Kind, Plan};
use self::promote::{Chosen, Promoting};
use super::Controller;
use crate::ident::{AttemptId, Sid};
use crate::position::Epoch;
use crate::topology::message::{Donor, Envelope, MemberName, Refusal, Reply};
use crate::topology::notice::Severity;
use crate::topology::register::{Phase, Register};

/// Between attempts at one step.
const AGAIN: Duration = Duration::from_millis(100);
/// After a read quorum: for the member that shall lead.
const WISHED: Duration = Duration::from_secs(1);
/// A candidate that failed is passed over for this long if there is another.
const COOL_DOWN: Duration = Duration::from_secs(60);

/// A running change.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) plan: Plan,
    /// The register as ALLOC wrote it: V, W and the last leadership are those of the epoch before.
    allocated: Register,
    attempt: AttemptId,
    pub(super) epoch: Epoch,
    began: Duration,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Allocating,
    Fencing(Fencing),
    Assembling(Box<Assembling>),
    Deciding(Chosen),
    Promoting(Promoting),
}

#[derive(Debug)]
enum Asked {
    UnderWay(u64),
    Failed { again: Duration },
}

impl Asked {
    /// Whether this call, and no later one, is under way.
    fn with(&self, call: u64) -> bool {
        matches!(self, Self::UnderWay(asked) if *asked == call)
    }
}

/// What a member said to a call of an attempt.
struct Told {
    sid: Sid,
    name: MemberName,
    result: Result<Reply, String>,
    /// Of the process and the storage that are meant.
    trusted: bool,
}

impl Told {
    /// Refused, because a later epoch than `epoch` was promised.
    fn promised_later(&self, epoch: Epoch) -> Option<Epoch> {
        match &self.result {
            Ok(Reply::Refused(Refusal::Promised { promised, .. }, _)) => Some(*promised).filter(|&p| p > epoch),
            _ => None,
        }
    }
}

enum Progress {
    Wait,
    Next(Box<Step>),
    /// Given up; the flag: somebody else was faster, which is nobody's failure.
    Abandon(String, bool),
    Finished(Sid),
}

/// What the register says of an attempt.
enum Attempt {
    Uncertain,
    Allocated,
    Decided,
    Superseded,
}

impl Change {
    /// For the picture: how far the copies of shards are that it waits for.
    pub(super) fn copying(&self) -> Option<String> {
        match &self.step {
            Step::Assembling(assembling) => assembling.copying(),
            _ => None,
        }
    }

    /// For the picture.
    pub(super) fn step_name(&self) -> &'static str {
        match self.step {
            Step::Allocating => "Allocating",
            Step::Fencing(_) => "Fencing",
            Step::Assembling(_) => "Assembling",
            Step::Deciding(_) => "Deciding",
            Step::Promoting(_) => "Promoting",
        }
    }
}

impl Controller {
    /// ALLOC: takes the epoch after everything that was ever promised. `base` is the register as it is, or as it
    /// shall be rebuilt.
    pub(super) fn begin(&mut self, plan: Plan, base: &Register) {
        let promised = self.members.highest_promise(base.cluster_id, base.lineage);
        let epoch = base.epoch.max(promised) + 1;
        let attempt = AttemptId(self.random.next_u128());
        let mut register = base.clone();
        register.epoch = epoch;
        register.phase = Phase::Electing;
        register.attempt = Some(attempt);
        register.leader = None;
        if let Some(done) = self.outcome.clone() {
            register.last_request = Some(done);
        }
        self.tell(
            if plan.kind == Kind::Failover { Severity::Warning } else { Severity::Info },
            "ChangeStarted",
            format!("{} to epoch {epoch}: {}", plan.kind.name(), plan.reason),
        );
        self.conditions.clear();
        self.register.swap(register.clone(), &mut self.actions);
        let began = self.now;
        self.change = Some(Change { plan, allocated: register, attempt, epoch, began, step: Step::Allocating });
    }

    /// Begins a change at once, whatever speaks for or against it: for the model, whose histories are lived through
    /// again.
    #[cfg(test)]
    pub(crate) fn change_now(
        &mut self,
        voters: Vec<Sid>,
        write_quorum: u32,
        leader: Option<Sid>,
    ) -> Vec<super::Action> {
        let register = self.register.found().cloned().expect("the register was read");
        let plan = Plan::same_voters(Kind::Failover, "a history of the model".into(), self.now, &register);
        self.begin(Plan { voters, write_quorum, want: leader, only: leader, ..plan }, &register);
        std::mem::take(&mut self.actions)
    }

    /// Carries the running change as far as it goes now. True: it ended.
    pub(super) fn drive(&mut self) -> bool {
        let Some(mut change) = self.change.take() else { return false };
        loop {
            let mut step = std::mem::replace(&mut change.step, Step::Allocating);
            let attempt = self.attempt_of(&change);
            let progress = match (&mut step, attempt) {
                (Step::Allocating | Step::Deciding(_), Attempt::Uncertain) => Progress::Wait,
                (Step::Promoting(promoting), Attempt::Decided | Attempt::Uncertain) => {
                    self.promoting(&change, promoting)
                }
                (Step::Deciding(chosen), Attempt::Decided) => {
                    let chosen = Chosen { answers: std::mem::take(&mut chosen.answers), choice: chosen.choice.clone() };
                    self.tell(
                        Severity::Info,
                        "LeaderDecided",
                        format!("{} leads epoch {}", self.name_of(chosen.choice.leader), change.epoch),
                    );
                    Progress::Next(Box::new(Step::Promoting(Promoting::new(chosen, self.now))))
                }
                (_, Attempt::Superseded) => {
                    Progress::Abandon("another controller changed the register meanwhile".into(), true)
                }
                // Only DECIDE of this very attempt can have done it.
                (_, Attempt::Decided) => Progress::Abandon("the register is not what was written".into(), false),
                (Step::Allocating, Attempt::Allocated) => {
                    Progress::Next(Box::new(Step::Fencing(Fencing::new(change.plan.drain, self.now))))
                }
                (Step::Fencing(fencing), _) => self.fencing(&change, fencing),
                (Step::Assembling(assembling), _) => self.assembling(&change, assembling),
                (Step::Deciding(chosen), Attempt::Allocated) => {
                    self.decide_epoch(&change, chosen);
                    Progress::Wait
                }
                (Step::Promoting(_), Attempt::Allocated) => Progress::Abandon("the register went back".into(), false),
            };
            change.step = step;
            match progress {
                Progress::Wait => {
                    self.change = Some(change);
                    return false;
                }
                Progress::Next(step) => change.step = *step,
                Progress::Abandon(why, overtaken) => {
                    self.abandon(change, &why, overtaken);
                    return true;
                }
                Progress::Finished(leader) => {
                    self.finish(change, leader);
                    return true;
                }
            }
        }
    }

    fn attempt_of(&self, change: &Change) -> Attempt {
        if !self.register.settled() {
            return Attempt::Uncertain;
        }
        match self.register.found() {
            Some(r) if r.epoch == change.epoch && r.attempt == Some(change.attempt) => match r.phase {
                Phase::Electing => Attempt::Allocated,
                Phase::Leading => Attempt::Decided,
            },
            _ => Attempt::Superseded,
        }
    }

    // --- answers ---
    /// An answer to a call of an attempt; answers to earlier attempts say nothing any more.
    pub(super) fn answered(
        &mut self,
        id: u64,
        attempt: AttemptId,
        sid: Sid,
        name: MemberName,
        result: Result<Box<Reply>, String>,
    ) {
        let now = self.now;
        let trusted = match &result {
            Ok(reply) => self.members.learn(&name, standing_of(reply), now),
            Err(_) => true,
        };
        let Some(change) = self.change.as_mut().filter(|c| c.attempt == attempt) else { return };
        let epoch = change.epoch;
        let told = Told { sid, name, result: result.map(|reply| *reply), trusted };
        match &mut change.step {
            Step::Fencing(fencing) if fencing.asked_with(id, sid) => {
                fencing.take(told, epoch, now);
            }
            Step::Assembling(assembling) => assembling.take(id, told, epoch, now),
            Step::Promoting(promoting) => promoting.take(id, told, epoch, now),
            Step::Allocating | Step::Fencing(_) | Step::Deciding(_) => {}
        }
    }

    /// Whether a call may be made (again): none is under way, and the last one did not fail just now.
    fn may_ask(&mut self, asked: Option<&Asked>) -> bool {
        match asked {
            Some(Asked::UnderWay(_)) => false,
            Some(Asked::Failed { again }) if self.now < *again => {
                self.wake(*again);
                false
            }
            _ => true,
        }
    }

    fn envelope(&self, change: &Change, to: Sid) -> Envelope {
        Envelope { cluster_id: change.allocated.cluster_id, lineage: change.allocated.lineage, to }
    }

    /// How long the running change has been running.
    pub(super) fn change_age(&self, change: &Change, now: Duration) -> Duration {
        now.saturating_sub(change.began)
    }

    /// Where `sid` is, as far as is known.
    pub(super) fn donor(&self, register: &Register, sid: Sid) -> Donor {
        match self.members.holder(sid) {
            Some(m) => Donor { sid, name: m.name().clone(), address: m.expected.peer_address.clone() },
            None => {
                let known = register.members.get(&sid).cloned().unwrap_or_default();
                Donor { sid, name: known.name, address: known.peer_address }
            }
        }
    }
}

fn standing_of(reply: &Reply) -> &crate::topology::message::Standing {
    match reply {
        Reply::Done(r) => &r.standing,
        Reply::Fenced(r) => &r.standing,
        Reply::Assembled(r) => &r.standing,
        Reply::Refused(_, standing) => standing,
    }
}
