//! Init, FENCE, PROMOTE, FOLLOW and the configuration of a followed leader: one at a time, as the node's thread for them
//! does it; between the beginning and the disk's work anything may happen.

use std::sync::Arc;
use std::time::Duration;

use super::following::Joining;
use super::{Caller, Hands, Process, Timer, Wish};
use crate::engine::{EngineError, ShardState};
use crate::position::{Epoch, Gsn};
use crate::replication::member_state::shard_report;
use crate::replication::rules::{FenceStep, FollowStep, InitStep, MetaChange, PromoteStep, RecoverStep, is_vacant};
use crate::replication::shard_time::ShardTime;
use crate::replication::term::LeaderTerm;
use crate::simulation::Mutant;
use crate::simulation::wire::Message;
use crate::topology::message::{
    FenceRequest, FollowRequest, InitRequest, PromoteRequest, RecoverRequest, Refusal, Reply, Request, ShardReport,
    StandingReply,
};

/// A promise holds the log's floor until PROMOTE or FOLLOW, or for so long.
const FLOOR_HELD: Duration = Duration::from_secs(60);

/// A queued role change, with whoever waits for the answer.
#[derive(Debug)]
pub(super) enum Job {
    Init(InitRequest, Caller),
    Fence(FenceRequest, bool, Caller),
    Promote(PromoteRequest, Caller),
    Follow(FollowRequest, Caller),
    Recover(RecoverRequest, Caller),
    Learn(Box<Joining>),
}

/// A role change whose disk write is under way.
#[derive(Debug)]
pub(super) enum Running {
    Init(InitStep, Caller),
    Fence(FenceStep, bool, Caller),
    Promote(PromoteStep, Vec<Gsn>, Caller),
    Follow(FollowStep, Caller),
    Recover(RecoverStep, Caller),
    Learn(MetaChange, Box<Joining>),
    Refused(Refusal, Caller),
}

/// Leadership is being given away: writes wait until those in flight are committed.
#[derive(Debug)]
pub(super) struct Drain {
    request: FenceRequest,
    caller: Caller,
    until: Duration,
}

fn failed(error: &EngineError) -> Refusal {
    Refusal::Failed(error.to_string())
}

impl Process {
    pub(super) fn request(&mut self, caller: Caller, request: Request, hands: &mut Hands<'_>) {
        match request {
            Request::Init(r) => self.jobs.push_back(Job::Init(r, caller)),
            Request::Promote(mut r) => {
                if hands.mutant == Some(Mutant::NoLeaseWait) {
                    r.lease_wait = Duration::ZERO;
                }
                self.jobs.push_back(Job::Promote(r, caller));
            }
            Request::Follow(r) => self.jobs.push_back(Job::Follow(r, caller)),
            Request::Recover(r) => self.jobs.push_back(Job::Recover(r, caller)),
            Request::SetAside(r) => {
                if self.core.check_set_aside(&r).is_ok() {
                    hands.wishes.push(Wish::SetAside);
                }
                return;
            }
            Request::Assemble(r) => return self.assemble(caller, r, hands),
            Request::Fence(r) => match r.drain.filter(|_| self.leads()) {
                Some(drain) if self.core.check_fence(&r).is_ok() && self.drain.is_none() => {
                    let until = self.clock(hands.now) + drain;
                    self.drain = Some(Drain { request: r, caller, until });
                    hands.after(drain, Timer::DrainEnds);
                    return self.drained(hands);
                }
                _ => self.jobs.push_back(Job::Fence(r, false, caller)),
            },
        }
        self.next_job(hands);
    }

    /// Has everything in flight been committed, or is the time over?
    pub(super) fn drained(&mut self, hands: &mut Hands<'_>) {
        let Some(drain) = &self.drain else { return };
        let quiet = self.engine.shards().iter().all(|shard| shard.tail_gsn() == shard.commit());
        if !quiet && self.clock(hands.now) < drain.until {
            return;
        }
        hands.count(if quiet { "drains that came to an end" } else { "drains cut short" });
        if let Some(Drain { request, caller, .. }) = self.drain.take() {
            if let Some(lease) = self.core.lease_mut() {
                lease.release();
            }
            self.jobs.push_back(Job::Fence(request, true, caller));
            self.next_job(hands);
        }
    }

    pub(super) fn shard_reports(&self) -> Vec<ShardReport> {
        self.engine.shards().iter().map(|shard| shard_report(shard)).collect()
    }

    pub(super) fn next_job(&mut self, hands: &mut Hands<'_>) {
        if self.running.is_some() {
            return;
        }
        let Some(job) = self.jobs.pop_front() else { return };
        let running = match job {
            Job::Init(r, caller) => match self.core.begin_init(&r) {
                Ok(step) => Running::Init(step, caller),
                Err(refusal) => Running::Refused(refusal, caller),
            },
            Job::Fence(r, drained, caller) => match self.core.begin_fence(&r) {
                Ok(step) => {
                    // The reply tells how far back the log reaches: that stays true while the epoch is made.
                    self.engine.set_now(self.clock(hands.now));
                    self.engine.hold_log_floor(FLOOR_HELD);
                    self.end_copy_from_donor();
                    // A fenced leader tells the time it counted: what expired by it must stay expired.
                    self.known_time_ms = self.known_time_ms.max(self.shard_time_ms(hands.now));
                    self.leave(&step.role, hands);
                    Running::Fence(step, drained, caller)
                }
                Err(refusal) => Running::Refused(refusal, caller),
            },
            Job::Promote(r, caller) => {
                let reports = self.shard_reports();
                match self.core.begin_promote(&r, &reports) {
                    Ok(step) => Running::Promote(step, reports.iter().map(|r| r.commit).collect(), caller),
                    Err(refusal) => Running::Refused(refusal, caller),
                }
            }
            Job::Follow(r, caller) => match self.core.begin_follow(&r, is_vacant(&self.shard_reports())) {
                Ok(step) => {
                    self.leave(&step.role, hands);
                    Running::Follow(step, caller)
                }
                Err(refusal) => Running::Refused(refusal, caller),
            },
            Job::Recover(r, caller) => {
                let states: Vec<_> = self.shard_reports().iter().map(|report| report.state).collect();
                match self.core.begin_recover(&r, &states) {
                    Ok(step) => {
                        self.leave(&step.role, hands);
                        Running::Recover(step, caller)
                    }
                    Err(refusal) => Running::Refused(refusal, caller),
                }
            }
            Job::Learn(joining) => match self.core.learn_config(joining.leader, &joining.config) {
                Ok(change) => Running::Learn(change, joining),
                Err(_) => return self.next_job(hands),
            },
        };
        if matches!(running, Running::Refused(Refusal::Promised { .. }, _)) {
            hands.count("requests of epochs that are over refused");
        }
        let time = if matches!(running, Running::Refused(..)) { Duration::ZERO } else { hands.disk_time() };
        self.running = Some(running);
        hands.after(time, Timer::Job);
    }

    pub(super) fn job_done(&mut self, hands: &mut Hands<'_>) {
        let Some(running) = self.running.take() else { return };
        let answer = match running {
            Running::Refused(refusal, caller) => Some((caller, Err(refusal))),
            Running::Init(step, caller) => Some((caller, self.init(&step))),
            Running::Fence(step, drained, caller) => Some((caller, self.fence(&step, drained, hands))),
            Running::Promote(step, commits, caller) => Some((caller, self.promote(step, commits, hands))),
            Running::Follow(step, caller) => Some((caller, self.follow(step, hands))),
            Running::Recover(step, caller) => Some((caller, self.recover(&step, hands))),
            Running::Learn(change, joining) => {
                if self.persist(&change).is_ok() {
                    self.core.config_persisted(&change);
                    if joining.nonce == self.stream && self.core.follows(joining.epoch, joining.leader) {
                        self.join(*joining, hands);
                        for (from, message) in std::mem::take(&mut self.early) {
                            self.take(from, message, hands);
                        }
                    }
                }
                None
            }
        };
        if let Some(((to, id), result)) = answer {
            let reply = result.unwrap_or_else(|refusal| Reply::Refused(refusal, Box::new(self.core.standing())));
            hands.send(to, Message::Reply { id, reply: Box::new(reply) });
            self.report_to_all(hands);
        }
        self.next_job(hands);
    }

    fn init(&mut self, step: &InitStep) -> Result<Reply, Refusal> {
        if !step.already {
            self.persist(&step.started).map_err(|e| failed(&e))?;
            self.engine.turn(&ShardState::Blank, &ShardState::Ready).map_err(|e| failed(&e))?;
            let mut both = step.started.clone();
            both.init = step.done.init;
            self.persist(&both).map_err(|e| failed(&e))?;
        }
        Ok(Reply::Done(StandingReply { standing: self.core.finish_init(step) }))
    }

    fn fence(&mut self, step: &FenceStep, drained: bool, hands: &mut Hands<'_>) -> Result<Reply, Refusal> {
        self.engine.sync_all().map_err(|e| failed(&e))?;
        if hands.mutant != Some(Mutant::PromiseNotPersisted) {
            self.persist(&step.change).map_err(|e| failed(&e))?;
        }
        let reports = self.shard_reports();
        let now = self.clock(hands.now);
        let mut reply = self.core.finish_fence(step, reports, self.known_time_ms, hands.wall_ms, drained, now)?;
        if hands.mutant == Some(Mutant::RestartedLeaderIsAQuorum) {
            reply.standing.live_led = reply.standing.led;
        }
        Ok(Reply::Fenced(reply))
    }

    fn promote(&mut self, step: PromoteStep, commits: Vec<Gsn>, hands: &mut Hands<'_>) -> Result<Reply, Refusal> {
        let now = self.clock(hands.now);
        if step.already {
            let standing = self.core.finish_promote(step, now)?;
            return Ok(Reply::Done(StandingReply { standing }));
        }
        self.persist(&step.change).map_err(|e| failed(&e))?;
        for _ in 0..self.engine.turn(&ShardState::Amnesic, &ShardState::Ready).map_err(|e| failed(&e))? {
            hands.count("amnesic shards made whole by a promotion");
        }
        let standing = self.core.finish_promote(step, now)?;
        self.begin_term(commits, hands)?;
        Ok(Reply::Done(StandingReply { standing }))
    }

    fn begin_term(&mut self, commits: Vec<Gsn>, hands: &mut Hands<'_>) -> Result<(), Refusal> {
        let Some(term) = self.core.term().cloned() else { return Ok(()) };
        let (epoch, now) = (term.config.epoch, self.clock(hands.now));
        hands.oracle.leads(self.me(), epoch, self.engine.shards());
        let known_ms = self.known_time_ms.max(term.shard_time_ms).max(self.engine.log_time_ms());
        let shard_time = ShardTime::new(known_ms, now, hands.wall_ms);
        let term = Arc::new(LeaderTerm::new(term, self.me(), commits, shard_time));
        self.term = Some(term.clone());
        self.led_since = hands.now;
        self.sessions.clear();
        self.pins.clear();
        self.joined = None;
        self.hello = None;
        self.copying = None;
        for number in 0..self.engine.shards().len() {
            let shard = self.shard(number).clone();
            match shard.open_epoch(epoch, self.shard_time_ms(hands.now)) {
                Ok(tail) => {
                    let counted = if hands.mutant == Some(Mutant::CommitsOlderEpochs) { 0 } else { tail.last.gsn };
                    if let Some(commit) = term.quorum.lock().barrier_appended(shard.id(), counted) {
                        self.raise_commit(number, commit);
                    }
                }
                Err(error) => {
                    // An epoch is never led twice: what was opened stays behind, the next attempt takes a new one.
                    self.observe(Epoch::MAX, hands);
                    return Err(failed(&error));
                }
            }
        }
        self.engine.epoch_has_its_leader();
        self.count_own(hands);
        self.appended(hands);
        self.run_commits(hands);
        Ok(())
    }

    fn recover(&mut self, step: &RecoverStep, hands: &mut Hands<'_>) -> Result<Reply, Refusal> {
        self.engine.sync_all().map_err(|e| failed(&e))?;
        self.persist(&step.change).map_err(|e| failed(&e))?;
        let standing = self.core.finish_recover(step);
        if !step.change.is_empty() {
            hands.oracle.given_up(standing.lineage, self.engine.shards());
        }
        Ok(Reply::Done(StandingReply { standing }))
    }

    fn follow(&mut self, step: FollowStep, hands: &mut Hands<'_>) -> Result<Reply, Refusal> {
        self.persist(&step.change).map_err(|e| failed(&e))?;
        self.engine.turn(&ShardState::Blank, &ShardState::Syncing).map_err(|e| failed(&e))?;
        self.end_copy_from_donor();
        let before = self.core.following().cloned();
        let standing = self.core.finish_follow(step)?;
        self.engine.epoch_has_its_leader();
        if before.as_ref() != self.core.following() {
            self.followed_since = self.clock(hands.now);
            self.leader_gone = false;
            self.say_hello(hands);
        }
        Ok(Reply::Done(StandingReply { standing }))
    }
}
