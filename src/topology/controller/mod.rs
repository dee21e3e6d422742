//! The controller: observations in, actions out.
//!
//! The driver (local mode, the operator, the simulation) feeds [`Event`]s with the time since its own start
//! and carries out the [`Action`]s in order. It calls `step(now, Event::Tick)` no later than
//! [`Controller::next_deadline`]. At most one register operation is under way at a time; every
//! `ReadRegister` and `CompareAndSwap` is answered by exactly one event, every `Send` by exactly one `Reply`
//! event at the latest when its timeout has passed.
//!
//! Any number of controllers may act on one register: safety does not depend on there being one.
//!
//! ```text
//! members        what each member said last              register_copy  what the register says
//! detect         does the leader lead, and who says so   bootstrap      the first register
//! membership     which voters there should be            lost_register  the register is gone or went back
//! requests       one-shot wishes                         change, choose ChangeEpoch itself
//! upkeep         Init and FOLLOW for whoever needs them  view           the picture
//! recovery       most volumes are lost, and somebody says which one is the truth
//! ```
//! A step takes its event into what is known, then decides from all that is known: nothing is remembered of events
//! but what they said, so a lost one is made good by the next.

mod bootstrap;
mod change;
pub(crate) mod choose;
mod detect;
mod lost_register;
mod members;
mod membership;
mod pace;
mod recovery;
mod register_copy;
mod requests;
mod upkeep;
mod view;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use self::change::{Change, Kind, Plan, Promoted};
use self::members::{Members, belongs, may_vote};
use self::pace::{Backoff, Pending};
pub use self::recovery::REFUSED;
use self::recovery::{Recovery, SetAside};
use self::register_copy::{Known, RegisterCopy};
use self::requests::Wish;
use super::message::{HealthReport, MemberName, Reply, Request};
use super::notice::{Notice, Severity};
use super::random::Random;
use super::register::{CasOutcome, DoneRequest, MemberAddress, Phase, ReadOutcome, Register, Version};
use super::spec::{ExpectedMember, PartitionSpec};
use super::view::{Condition, Transition};
use crate::ident::{AttemptId, ClusterId, Sid};

/// How a member's health stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disconnect {
    /// A new connection was refused: nothing listens there.
    Refused,
    /// An open connection was reset or closed: the process ended.
    Reset,
    /// Nothing was heard.
    Silent,
}

/// A wish from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlRequest {
    /// Move leadership to `target` (None: any other member), once.
    Switchover {
        /// The member to lead.
        target: Option<MemberName>,
        /// Given by the author; a request whose id is in the register is not run again.
        id: String,
    },
    /// The register is lost and so are some volumes: rebuild it from what is left of this cluster.
    AdoptCluster {
        /// Whose volumes they must be.
        cluster_id: ClusterId,
    },
    /// A majority of the volumes is lost: what `from` holds becomes the truth, and whatever else was acknowledged is
    /// given up. Raises the lineage. The author has accepted that.
    Recover {
        /// Whose data it must be.
        cluster_id: ClusterId,
        /// The survivor.
        from: MemberName,
        /// Given by the author; a request whose id is in the register is not run again.
        id: String,
    },
    /// Data of an older lineage is renamed aside, new storage takes its place and joins.
    SetAside {
        /// The member.
        member: MemberName,
        /// The storage it must hold.
        sid: Sid,
        /// Given by the author; a request whose id is in the register is not run again.
        id: String,
    },
    /// Read the register at the next step (a watch or a file change said that it changed).
    RefreshRegister,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Answer to `ReadRegister`.
    RegisterRead(ReadOutcome),
    /// Answer to `CompareAndSwap`.
    CasDone(CasOutcome),
    /// A member said how it is.
    Report {
        /// The member.
        member: MemberName,
        /// What it said.
        report: Box<HealthReport>,
    },
    /// A member's health stream broke, or could not be opened.
    Disconnected {
        /// The member.
        member: MemberName,
        /// How.
        kind: Disconnect,
    },
    /// Answer to `Send`, or why there is none.
    Reply {
        /// As in `Send`.
        request_id: u64,
        /// The member.
        member: MemberName,
        /// Its answer, or the transport's failure.
        result: Result<Box<Reply>, String>,
    },
    /// See [`ControlRequest`].
    Request(ControlRequest),
    /// The owner changed the spec or the members that shall exist.
    SpecChanged {
        /// The wanted shape.
        spec: Box<PartitionSpec>,
        /// Who shall exist.
        members: Vec<ExpectedMember>,
    },
    /// Time passed.
    Tick,
}

/// What the driver shall do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Read the register, linearizably.
    ReadRegister,
    /// Write the register if its version is still `expected`.
    CompareAndSwap {
        /// None: only if there is no register.
        expected: Option<Version>,
        /// The new content.
        register: Box<Register>,
    },
    /// Send a request to a member.
    Send {
        /// To tell answers apart.
        request_id: u64,
        /// The member.
        member: MemberName,
        /// After this, a `Reply` event with an error is due.
        timeout: Duration,
        /// What to say.
        request: Box<Request>,
    },
    /// Tell humans.
    Tell(Notice),
}

/// What a controller starts from.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Of this controller instance, for notices.
    pub name: String,
    /// It proposes 500 ms x rank after the first might have.
    pub rank: u32,
    /// The id to bootstrap with; an existing register or volume wins.
    pub cluster_id: ClusterId,
    /// Who shall exist.
    pub members: Vec<ExpectedMember>,
    /// The wanted shape.
    pub spec: PartitionSpec,
    /// For jitter and attempt ids: must differ between controllers that may meet at one register.
    pub seed: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Controller {
    config: ControllerConfig,
    random: Random,
    now: Duration,
    members: Members,
    register: RegisterCopy,
    change: Option<Change>,
    /// Attempts of this controller that were given up: nobody else works on them.
    own_attempts: BTreeSet<AttemptId>,
    /// What the newest of those was for.
    unfinished: Option<(AttemptId, Kind, String, Duration)>,
    /// A switchover that was asked for.
    wish: Option<Wish>,
    /// What became of a request, not yet in the register.
    outcome: Option<DoneRequest>,
    /// Whose volumes may become a register again although some are missing.
    adopt: Option<ClusterId>,
    /// An unsafe recovery that was asked for.
    recovery: Option<Recovery>,
    /// Storage that shall make room.
    set_aside: Option<SetAside>,
    calls: BTreeMap<u64, Call>,
    last_call: u64,
    backoff: Backoff,
    pending: Pending,
    /// Candidates that failed, and until when they are passed over.
    cooling: BTreeMap<Sid, Duration>,
    /// Storage that showed an older state than others know of, and in what.
    rolled_back: BTreeMap<Sid, String>,
    /// Since when the leader has been suspected.
    suspected: Option<(Sid, Duration)>,
    /// Since when the leader has said that its disk is full.
    full_since: Option<(Sid, Duration)>,
    /// Not yet in the history.
    promoted: Option<Promoted>,
    history: VecDeque<Transition>,
    conditions: Vec<Condition>,
    actions: Vec<Action>,
    deadline: Option<Duration>,
    #[cfg(any(test, feature = "simulation"))]
    weakness: Option<Weakness>,
}

/// A rule that a simulation leaves out on purpose: one that does not notice proves nothing.
#[cfg(any(test, feature = "simulation"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weakness {
    /// R5: one answer fewer than R is enough.
    FenceByOneLess,
    /// R7: the longest log wins, whatever epoch it ends in.
    LongestLogWins,
}

/// What an answer belongs to.
#[derive(Debug, Clone, Copy)]
enum Call {
    Fence { attempt: AttemptId, sid: Sid },
    Assemble { attempt: AttemptId, sid: Sid },
    Promote { attempt: AttemptId, sid: Sid },
    Upkeep,
}

impl Controller {
    /// A controller that knows nothing yet; its first step reads the register.
    pub fn new(config: ControllerConfig) -> Self {
        let mut members = Members::default();
        members.expect(config.members.clone());
        Self {
            random: Random::new(config.seed),
            config,
            now: Duration::ZERO,
            members,
            register: RegisterCopy::new(),
            change: None,
            own_attempts: BTreeSet::new(),
            unfinished: None,
            wish: None,
            outcome: None,
            adopt: None,
            recovery: None,
            set_aside: None,
            calls: BTreeMap::new(),
            last_call: 0,
            backoff: Backoff::default(),
            pending: Pending::default(),
            cooling: BTreeMap::new(),
            rolled_back: BTreeMap::new(),
            suspected: None,
            full_since: None,
            promoted: None,
            history: VecDeque::new(),
            conditions: Vec::new(),
            actions: Vec::new(),
            deadline: None,
            #[cfg(any(test, feature = "simulation"))]
            weakness: None,
        }
    }

    /// Leaves a rule out from now on.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn weaken(&mut self, weakness: Weakness) {
        self.weakness = Some(weakness);
    }

    /// Takes one event and says what to do now.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        self.take(event);
        self.note_served();
        self.decide();
        std::mem::take(&mut self.actions)
    }

    /// How many controllers may propose before this one; it may change at any time.
    pub fn set_rank(&mut self, rank: u32) {
        self.config.rank = rank;
    }

    /// When `step` wants to be called at the latest; None: only on events.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// Whether a `ChangeEpoch` is running here.
    pub fn changing(&self) -> bool {
        self.change.is_some()
    }

    fn take(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::RegisterRead(outcome) => self.register.read_done(outcome, now),
            Event::CasDone(outcome) => {
                if let Err(why) = self.register.swap_done(outcome, now) {
                    self.tell(Severity::Warning, "RegisterWriteUnknown", format!("{why}; it is read again first"));
                }
            }
            Event::Report { member, report } => {
                if let Some(notice) = self.members.report(&member, *report, now) {
                    self.actions.push(Action::Tell(notice));
                }
            }
            Event::Disconnected { member, kind } => self.members.disconnected(&member, kind, now),
            Event::Reply { request_id, member, result } => match self.calls.remove(&request_id) {
                Some(
                    Call::Fence { attempt, sid } | Call::Assemble { attempt, sid } | Call::Promote { attempt, sid },
                ) => self.answered(request_id, attempt, sid, member, result),
                Some(Call::Upkeep) => self.upkeep_answered(request_id, &member, result),
                None => {}
            },
            Event::Request(ControlRequest::Switchover { target, id }) => self.take_wish(target, id),
            Event::Request(ControlRequest::AdoptCluster { cluster_id }) => self.adopt = Some(cluster_id),
            Event::Request(ControlRequest::Recover { cluster_id, from, id }) => {
                self.recovery = Some(Recovery { cluster_id, from, id, asked: now });
            }
            Event::Request(ControlRequest::SetAside { member, sid, id }) => {
                self.set_aside = Some(SetAside { member, sid, id, asked: now, told: None });
            }
            Event::Request(ControlRequest::RefreshRegister) => self.register.refresh(),
            Event::SpecChanged { spec, members } => {
                self.config.spec = *spec;
                self.config.members.clone_from(&members);
                self.members.expect(members);
            }
            Event::Tick => {}
        }
    }

    fn decide(&mut self) {
        self.deadline = None;
        // Each round either waits for something or ends or begins a change; two of those a step are plenty.
        for _ in 0..4 {
            let idle = self.change.is_none();
            if let Some(at) = self.register.pump(self.now, idle, &mut self.actions) {
                self.wake(at);
            }
            let again = if idle { self.consider() } else { self.drive() };
            if !again {
                break;
            }
        }
        // What came into doubt meanwhile is read at once.
        if let Some(at) = self.register.pump(self.now, self.change.is_none(), &mut self.actions) {
            self.wake(at);
        }
        self.upkeep();
    }

    /// No change is running: should one? True: look again.
    fn consider(&mut self) -> bool {
        if !self.register.settled() {
            // What was found last stands until something else is found.
            return false;
        }
        self.conditions.clear();
        let register = match self.register.known() {
            Known::Unread => return false,
            Known::Absent => {
                self.members.note_sync(None, self.now);
                if self.carry_out_recovery(None) {
                    return true;
                }
                return self.without_register();
            }
            Known::Found(register, _) => Arc::clone(register),
        };
        if self.outcome.as_ref().is_some_and(|o| register.last_request.as_ref() == Some(o)) {
            self.outcome = None;
        }
        if self.carry_out_recovery(Some(&register)) {
            return true;
        }
        if self.went_back(&register) {
            return self.change.is_some();
        }
        self.adopt = None;
        self.carry_out_set_aside(&register);
        if !register.initialized {
            self.members.note_sync(None, self.now);
            return self.bootstrap(&register);
        }
        let plan = match register.phase {
            Phase::Electing => {
                self.members.note_sync(None, self.now);
                self.resume(&register)
            }
            Phase::Leading => self.lead(&register),
        };
        if let Some(plan) = plan
            && self.propose(plan, &register)
        {
            return true;
        }
        if let (true, Some(done)) = (self.register.settled(), self.outcome.clone()) {
            let mut next = Register::clone(&register);
            next.last_request = Some(done);
            self.register.swap(next, &mut self.actions);
        }
        false
    }

    /// The register names a leader: what should be otherwise?
    fn lead(&mut self, register: &Register) -> Option<Plan> {
        let verdict = self.judge_leader(register);
        let leader = register.leader?;
        let report = self.members.fresh(leader, self.now).filter(|_| verdict.leads()).cloned();
        self.members.note_sync(report.as_ref(), self.now);
        let asked = self.carry_out_wish(register, &verdict);
        asked
            .or_else(|| self.failover(register, &verdict))
            .or_else(|| self.keep_quorum(register, report.as_ref()?))
            .or_else(|| self.move_leader(register, report.as_ref()?))
            .or_else(|| self.shape_voters(register, report.as_ref()?))
    }

    /// Begins `plan` unless it must wait: for its rank, or after failures. True: it began.
    fn propose(&mut self, plan: Plan, base: &Register) -> bool {
        let reshapes = plan.voters != base.voters || plan.write_quorum != base.write_quorum;
        let able = plan.voters.iter().filter(|&&sid| self.present(sid, base)).count();
        if reshapes && able < plan.write_quorum as usize {
            // W' of the next voters must hold everything first: without them it would only disturb the leader.
            let text = format!("{}: {able} of the {} members needed for that answer", plan.reason, plan.write_quorum);
            self.condition("NoQuorum", text);
            return false;
        }
        let rank = Duration::from_millis(500) * self.config.rank;
        let due = (self.pending.since(plan.kind, base.epoch, self.now) + rank).max(self.backoff.until());
        if self.now < due {
            self.wake(due);
            return false;
        }
        if self.config.rank > 0 && self.register.as_of() < due {
            // Somebody of a lower rank has probably begun meanwhile.
            self.register.doubt();
            return true;
        }
        self.begin(plan, base);
        true
    }

    fn wake(&mut self, at: Duration) {
        // What is due now was decided now; a deadline in the past would make the driver spin.
        let at = at.max(self.now + Duration::from_millis(1));
        self.deadline = Some(self.deadline.map_or(at, |known| known.min(at)));
    }

    fn tell(&mut self, severity: Severity, reason: &'static str, text: String) {
        self.actions.push(Action::Tell(Notice { severity, reason, text }));
    }

    fn condition(&mut self, kind: &'static str, text: String) {
        self.conditions.push(Condition { kind, text });
    }

    fn send(&mut self, member: MemberName, timeout: Duration, request: Request, call: Call) -> u64 {
        self.last_call += 1;
        self.calls.insert(self.last_call, call);
        self.actions.push(Action::Send { request_id: self.last_call, member, timeout, request: Box::new(request) });
        self.last_call
    }

    /// A name for humans: of who holds `sid`, or held it when the register was written.
    fn name_of(&self, sid: Sid) -> MemberName {
        let known = || self.register.found()?.members.get(&sid).map(|m| m.name.clone());
        self.members.holder(sid).map(|m| m.name().clone()).or_else(known).unwrap_or_else(|| format!("storage {sid}"))
    }

    /// minVoters as wished; never more than there shall be.
    fn min_voters(&self) -> u32 {
        let spec = &self.config.spec;
        spec.min_voters.min(spec.replicas).max(1)
    }

    /// Writes down where everybody is, and who learns.
    fn note_members(&self, register: &mut Register) {
        for member in self.members.all() {
            let Some(report) = member.report.as_ref().filter(|_| member.copy_of.is_none()) else { continue };
            let sid = report.standing.sid;
            let standing = &report.standing;
            let foreign =
                standing.cluster_id.is_some_and(|id| id != register.cluster_id || standing.lineage != register.lineage);
            if foreign && !register.voters.contains(&sid) {
                continue;
            }
            let unknown = register.members.remove(&sid).map(|m| m.unknown).unwrap_or_default();
            let expected = &member.expected;
            register.members.insert(
                sid,
                MemberAddress {
                    name: expected.name.clone(),
                    peer_address: expected.peer_address.clone(),
                    client_address: expected.client_address.clone(),
                    unknown,
                },
            );
            if !register.learners.contains(&sid) {
                register.learners.push(sid);
            }
        }
        let holders: BTreeSet<Sid> = self.members.all().filter_map(members::Member::sid).collect();
        register.learners.retain(|sid| !register.voters.contains(sid) && holders.contains(sid));
        register.learners.sort_unstable();
        let (voters, learners) = (&register.voters, &register.learners);
        register.members.retain(|sid, _| voters.contains(sid) || learners.contains(sid));
    }

    /// Voters that answer now and may vote.
    fn present_voters(&self, register: &Register) -> Vec<Sid> {
        register.voters.iter().copied().filter(|&sid| self.present(sid, register)).collect()
    }

    /// Whether the holder of `sid` answers now and its data may vote.
    fn present(&self, sid: Sid, register: &Register) -> bool {
        self.members
            .fresh(sid, self.now)
            .is_some_and(|r| belongs(&r.standing, register.cluster_id, register.lineage) && may_vote(&r.shards))
    }
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
