//! DECIDE and PROMOTE: the register says who leads, and the leader is told.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{AGAIN, Asked, COOL_DOWN, Change, Progress, Told};
use crate::ident::Sid;
use crate::position::{Epoch, LogTail};
use crate::topology::controller::choose::{Answer, Choice, shard_time, wait_for_leases};
use crate::topology::controller::{Call, Controller};
use crate::topology::message::{LastConfig, PromoteRequest, Refusal, Reply, Request};
use crate::topology::register::{DoneRequest, Leading, Phase, Register};

const PROMOTE_TIMEOUT: Duration = Duration::from_secs(2);
const PROMOTE_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) answers: BTreeMap<Sid, Answer>,
    pub(super) choice: Choice,
}

#[derive(Debug)]
pub(super) struct Promoting {
    pub(super) chosen: Chosen,
    pub(super) asked: Option<Asked>,
    pub(super) leads: bool,
    pub(super) refused: Option<String>,
    pub(super) deadline: Duration,
}

impl Controller {
    pub(super) fn decide_epoch(&mut self, change: &Change, chosen: &Chosen) {
        let Some(present) = self.register.found() else { return };
        let (plan, choice) = (&change.plan, &chosen.choice);
        let mut register = Register::clone(present);
        register.shard_time_ms = self.shard_time(change, chosen, present);
        register.phase = Phase::Leading;
        register.leader = Some(choice.leader);
        register.last_leading = Some(Leading { epoch: change.epoch, sid: choice.leader });
        register.voters = plan.voters.clone();
        register.write_quorum = plan.write_quorum;
        register.min_voters = self.min_voters();
        register.initialized = true;
        self.note_members(&mut register);
        if let Some(id) = plan.request.clone() {
            let name = self.name_of(choice.leader);
            let outcome = if choice.as_wished {
                format!("{name} leads epoch {}", change.epoch)
            } else {
                format!(
                    "the member that was asked for could not take over in time; {name} leads epoch {}",
                    change.epoch
                )
            };
            register.last_request = Some(DoneRequest { id, outcome });
        }
        self.register.swap(register, &mut self.actions);
    }

    fn shard_time(&self, change: &Change, chosen: &Chosen, register: &Register) -> u64 {
        shard_time(&chosen.answers, &change.allocated.voters, self.now).max(register.shard_time_ms)
    }

    pub(super) fn promoting(&mut self, change: &Change, p: &mut Promoting) -> Progress {
        let now = self.now;
        let leader = p.chosen.choice.leader;
        let heard = self.members.fresh(leader, now).is_some_and(|r| r.standing.live_led == change.epoch);
        if p.leads || heard {
            return Progress::Finished(leader);
        }
        if let Some(why) = p.refused.take() {
            self.cooling.insert(leader, now + COOL_DOWN);
            return Progress::Abandon(format!("{} refused to lead: {why}", self.name_of(leader)), false);
        }
        if now >= p.deadline {
            self.cooling.insert(leader, now + COOL_DOWN);
            return Progress::Abandon(format!("{} did not take the lead in time", self.name_of(leader)), false);
        }
        self.wake(p.deadline);
        if !self.may_ask(p.asked.as_ref()) {
            return Progress::Wait;
        }
        let Some(register) = self.register.found().cloned() else { return Progress::Wait };
        let tails: Vec<LogTail> = p.chosen.choice.targets.iter().map(|t| t.tail).collect();
        let members = register.voters.iter().chain(&register.learners);
        let request = PromoteRequest {
            envelope: self.envelope(change, leader),
            config: LastConfig {
                epoch: change.epoch,
                voters: change.plan.voters.clone(),
                write_quorum: change.plan.write_quorum,
                min_voters: register.min_voters,
            },
            targets: tails,
            lease_wait: wait_for_leases(
                &p.chosen.answers,
                &change.allocated.voters,
                change.allocated.last_leading,
                now,
            ),
            shard_time_ms: self.shard_time(change, &p.chosen, &register),
            members: members.filter(|&&sid| sid != leader).map(|&sid| self.donor(&register, sid)).collect(),
        };
        let name = p.chosen.answers[&leader].name.clone();
        let call = Call::Promote { attempt: change.attempt, sid: leader };
        let id = self.send(name, PROMOTE_TIMEOUT, Request::Promote(request), call);
        p.asked = Some(Asked::UnderWay(id));
        Progress::Wait
    }
}

impl Promoting {
    pub(super) fn new(chosen: Chosen, now: Duration) -> Self {
        Self { chosen, asked: None, leads: false, refused: None, deadline: now + PROMOTE_DEADLINE }
    }

    /// An answer to PROMOTE.
    pub(super) fn take(&mut self, call: u64, told: Told, epoch: Epoch, now: Duration) {
        if !self.asked.as_ref().is_some_and(|asked| asked.with(call)) {
            return;
        }
        self.asked = Some(Asked::Failed { again: now + AGAIN });
        match told.result {
            Ok(Reply::Done(reply)) if told.trusted && reply.standing.live_led == epoch => self.leads = true,
            Ok(Reply::Refused(Refusal::Failed(_), _)) | Err(_) => {}
            Ok(Reply::Refused(why, _)) => self.refused = Some(why.to_string()),
            Ok(_) => self.refused = Some("it does not lead after all".into()),
        }
    }
}
