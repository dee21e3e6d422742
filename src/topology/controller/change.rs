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

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::choose::{
    Answer, Choice, Fitness, NoChoice, Question, ReadQuorum, at_targets, choose, read_quorum, shard_time,
    wait_for_leases,
};
use super::{Call, Controller};
use crate::api::quantity;
use crate::ident::{AttemptId, Sid};
use crate::position::{Epoch, LogTail};
use crate::replication::rules::Figures;
use crate::topology::message::{
    AssembleRequest, Donor, Envelope, FenceRequest, LastConfig, MemberName, PromoteRequest, Refusal, Reply, Request,
    ShardTarget,
};
use crate::topology::notice::Severity;
use crate::topology::register::{DoneRequest, Leading, Phase, Register};
use crate::topology::view::Transition;

/// How long in-flight writes of a leader that gives up its place may take to commit.
const DRAIN: Duration = Duration::from_millis(500);
/// On top of that, for its answer.
const DRAIN_ANSWER: Duration = Duration::from_millis(1000);
/// A member makes its logs and its promise durable before it answers.
const FENCE_TIMEOUT: Duration = Duration::from_secs(3);
/// Without a read quorum by then the attempt is hopeless.
const FENCE_DEADLINE: Duration = Duration::from_secs(5);
/// After a read quorum: for answers that are on their way.
const STRAGGLERS: Duration = Duration::from_millis(30);
/// After a read quorum: for the member that shall lead.
const WISHED: Duration = Duration::from_secs(1);
/// A tail may be long.
const ASSEMBLE_TIMEOUT: Duration = Duration::from_secs(10);
const ASSEMBLE_DEADLINE: Duration = Duration::from_secs(30);
/// A copy of a whole shard stands still while its giver reads all of it for checksums and its taker looks at all of it.
const COPY_STALL: Duration = Duration::from_secs(120);
/// A member that failed to assemble this often is passed over.
const ASSEMBLE_TRIES: u32 = 3;
const PROMOTE_TIMEOUT: Duration = Duration::from_secs(2);
const PROMOTE_DEADLINE: Duration = Duration::from_secs(5);
/// Between attempts at one step.
const AGAIN: Duration = Duration::from_millis(100);
/// A candidate that failed is passed over for this long if there is another.
const COOL_DOWN: Duration = Duration::from_secs(60);
/// How many transitions are remembered.
const HISTORY: usize = 10;

/// A leader that was promoted and has not said yet that it serves.
#[derive(Debug)]
pub(super) struct Promoted {
    pub(super) transition: Transition,
    leader: Sid,
    /// Of the suspicion or request.
    since: Duration,
}

/// What a change is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bootstrap,
    Failover,
    /// What was left unfinished is finished.
    Resume,
    Switchover,
    Drain,
    AddVoter,
    RemoveVoter,
    ReplaceVoter,
    Reconfigure,
    Rebuild,
    Adopt,
    /// After an unsafe recovery.
    Recover,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bootstrap => "Bootstrap",
            Self::Failover => "Failover",
            Self::Resume => "Resume",
            Self::Switchover => "Switchover",
            Self::Drain => "Drain",
            Self::AddVoter => "AddVoter",
            Self::RemoveVoter => "RemoveVoter",
            Self::ReplaceVoter => "ReplaceVoter",
            Self::Reconfigure => "Reconfigure",
            Self::Rebuild => "Rebuild",
            Self::Adopt => "Adopt",
            Self::Recover => "Recover",
        }
    }
}

/// What a change shall achieve.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) reason: String,
    /// Of the suspicion or request.
    pub(super) since: Duration,
    /// V', sorted.
    pub(super) voters: Vec<Sid>,
    /// W'.
    pub(super) write_quorum: u32,
    /// Shall lead if it can.
    pub(super) want: Option<Sid>,
    /// Shall lead only if nobody else can.
    pub(super) avoid: Option<Sid>,
    /// Leads on if the one that shall lead cannot.
    pub(super) keep: Option<Sid>,
    /// Nobody else may lead.
    pub(super) only: Option<Sid>,
    /// Cannot give its entries to others: not a donor if a read quorum answers without it.
    pub(super) ignore: Option<Sid>,
    /// A leader that is asked first, to let its in-flight writes commit.
    pub(super) drain: Option<Sid>,
    /// Must have answered, besides what R asks for.
    pub(super) must_fence: BTreeSet<Sid>,
    /// The switchover request that this carries out.
    pub(super) request: Option<String>,
}

impl Plan {
    /// Voters and W stay as they are.
    pub(super) fn same_voters(kind: Kind, reason: String, since: Duration, register: &Register) -> Self {
        Self {
            kind,
            reason,
            since,
            voters: register.voters.clone(),
            write_quorum: register.write_quorum,
            want: None,
            avoid: None,
            keep: None,
            only: None,
            ignore: None,
            drain: None,
            must_fence: BTreeSet::new(),
            request: None,
        }
    }
}

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

#[derive(Debug)]
struct Fencing {
    /// Nobody else is asked before this one has answered, failed, or its time is over.
    first: Option<(Sid, Duration)>,
    asked: BTreeMap<Sid, Asked>,
    answers: BTreeMap<Sid, Answer>,
    /// Will not answer otherwise in this attempt.
    refused: BTreeMap<Sid, String>,
    /// Could not assemble in this attempt.
    excluded: BTreeSet<Sid>,
    /// Those of them that lack what is no longer in a donor's log.
    gapped: BTreeSet<Sid>,
    /// Nobody can lead without one: whole shards are copied.
    copy: bool,
    /// Whom those could not fetch from.
    poor_donors: BTreeSet<Sid>,
    /// Whose entries are done without: R others have answered.
    ignored: BTreeSet<Sid>,
    /// Someone promised this meanwhile.
    overtaken: Option<Epoch>,
    quorum_at: Option<Duration>,
    deadline: Duration,
}

#[derive(Debug)]
struct Assembling {
    fencing: Fencing,
    choice: Choice,
    asked: BTreeMap<Sid, Asked>,
    failures: BTreeMap<Sid, Failure>,
    done: BTreeSet<Sid>,
    /// Bytes that copies have brought, and of how many, by shard.
    copied: BTreeMap<(Sid, u16), (u64, u64)>,
    /// A voter that had not answered FENCE in time has by now: while shards are copied, it may be a better choice.
    better: bool,
    deadline: Duration,
}

/// What went wrong with a member's ASSEMBLE.
#[derive(Debug, Default)]
struct Failure {
    /// Weighed: at [`ASSEMBLE_TRIES`] it is passed over.
    tries: u32,
    why: String,
    /// It lacks what is no longer in the donor's log.
    gapped: bool,
}

#[derive(Debug)]
struct Chosen {
    answers: BTreeMap<Sid, Answer>,
    choice: Choice,
}

#[derive(Debug)]
struct Promoting {
    chosen: Chosen,
    asked: Option<Asked>,
    leads: bool,
    refused: Option<String>,
    deadline: Duration,
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
                (Step::Promoting(_), Attempt::Decided | Attempt::Uncertain) => self.promoting(&change, &mut step),
                (Step::Deciding(chosen), Attempt::Decided) => {
                    let chosen = Chosen { answers: std::mem::take(&mut chosen.answers), choice: chosen.choice.clone() };
                    self.tell(
                        Severity::Info,
                        "LeaderDecided",
                        format!("{} leads epoch {}", self.name_of(chosen.choice.leader), change.epoch),
                    );
                    let deadline = self.now + PROMOTE_DEADLINE;
                    Progress::Next(Box::new(Step::Promoting(Promoting {
                        chosen,
                        asked: None,
                        leads: false,
                        refused: None,
                        deadline,
                    })))
                }
                (_, Attempt::Superseded) => {
                    Progress::Abandon("another controller changed the register meanwhile".into(), true)
                }
                // Only DECIDE of this very attempt can have done it.
                (_, Attempt::Decided) => Progress::Abandon("the register is not what was written".into(), false),
                (Step::Allocating, Attempt::Allocated) => {
                    let drain = change.plan.drain.map(|sid| (sid, self.now + DRAIN + DRAIN_ANSWER));
                    Progress::Next(Box::new(Step::Fencing(Fencing::new(drain, self.now))))
                }
                (Step::Fencing(fencing), _) => self.fencing(&change, fencing),
                (Step::Assembling(assembling), _) => self.assembling(&change, assembling),
                (Step::Deciding(chosen), Attempt::Allocated) => {
                    self.decide_epoch(&change, &chosen.choice);
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

    // --- FENCE --------------------------------------------------------------------------------------------

    fn fencing(&mut self, change: &Change, f: &mut Fencing) -> Progress {
        let now = self.now;
        if let Some(epoch) = f.overtaken {
            self.register.doubt();
            return Progress::Abandon(format!("epoch {epoch} was promised meanwhile"), true);
        }
        let names = self.reachable_names(change);
        f.first = f.first.filter(|(sid, until)| {
            now < *until
                && names.contains_key(sid)
                && !f.answers.contains_key(sid)
                && !f.refused.contains_key(sid)
                && !matches!(f.asked.get(sid), Some(Asked::Failed { .. }))
        });
        self.ask_to_promise(change, f, &names);
        if let Some((_, until)) = f.first {
            self.wake(until);
            return Progress::Wait;
        }

        self.void_rollbacks(f);
        let voters = &change.allocated.voters;
        let valid = |without: &BTreeSet<Sid>| {
            let counts =
                |sid: &&Sid| !without.contains(sid) && f.answers.get(sid).is_some_and(|a| a.valid(change.epoch));
            voters.iter().filter(counts).count()
        };
        let (have, needed) = (valid(&BTreeSet::new()), change.allocated.read_quorum());
        #[cfg(any(test, feature = "simulation"))]
        let needed = needed - usize::from(self.weakness == Some(super::Weakness::FenceByOneLess));
        let quorum = read_quorum(&f.answers, change.epoch, voters, needed, change.allocated.last_leading);
        let amnesia = quorum == ReadQuorum::Amnesic;
        let enough =
            quorum != ReadQuorum::Missing && change.plan.must_fence.iter().all(|sid| f.answers.contains_key(sid));
        let mut obstacle = format!("{have} of {needed} valid answers of the voters to FENCE");
        // Whatever W voters held is among any R answers: an entry that only those left out hold was never committed.
        let left_out: BTreeSet<Sid> = f.ignored.iter().copied().chain(change.plan.ignore).collect();
        let left_out = if valid(&left_out) >= needed { left_out } else { BTreeSet::new() };
        if enough {
            let quorum_at = *f.quorum_at.get_or_insert(now);
            let fitness = self.fitness();
            let changes_config =
                change.plan.voters != *voters || change.plan.write_quorum != change.allocated.write_quorum;
            let question = Question {
                epoch: change.epoch,
                amnesia,
                voters,
                next: &change.plan.voters,
                assembled: if changes_config { change.plan.write_quorum as usize } else { 1 },
                want: change.plan.want,
                avoid: change.plan.avoid,
                keep: change.plan.keep,
                only: change.plan.only,
                excluded: &f.excluded,
                fitness: &fitness,
                #[cfg(any(test, feature = "simulation"))]
                longest_wins: self.weakness == Some(super::Weakness::LongestLogWins),
            };
            let counted = f.answers.iter().filter(|(sid, _)| !left_out.contains(sid));
            match choose(&counted.map(|(&sid, a)| (sid, a.clone())).collect(), &question) {
                Ok(choice) => {
                    let pending = names.keys().any(|sid| matches!(f.asked.get(sid), Some(Asked::UnderWay(_))));
                    let patience = match (choice.as_wished, pending) {
                        (true, false) => Duration::ZERO,
                        (true, true) => STRAGGLERS,
                        (false, _) => WISHED,
                    };
                    if now >= quorum_at + patience {
                        if amnesia {
                            self.tell(
                                Severity::Alarm,
                                "PossibleDataLoss",
                                format!(
                                    "only {have} of {needed} voters kept all that they had acknowledged (durability Os, \
                                     power lost); all voters answer, the most that any holds is kept: writes of the \
                                     last moment may be gone"
                                ),
                            );
                        }
                        return Progress::Next(Box::new(self.chosen(std::mem::take(f), choice)));
                    }
                    self.wake(quorum_at + patience);
                }
                Err(NoChoice::Few(why)) => {
                    let without: BTreeSet<Sid> = f.ignored.union(&f.poor_donors).copied().collect();
                    if without.len() > f.ignored.len() && valid(&without) >= needed {
                        f.ignored = without;
                        f.excluded.clear();
                        return self.fencing(change, f);
                    }
                    if !f.copy && !f.gapped.is_empty() && live_leader(change, f).is_none() {
                        self.tell(
                            Severity::Warning,
                            "AssembleCopies",
                            "no member can have what it lacks from the others' logs: whole shards are copied, and no \
                             write is taken until that is done"
                                .into(),
                        );
                        f.copy = true;
                        f.excluded.retain(|sid| !f.gapped.contains(sid));
                        return self.fencing(change, f);
                    }
                    obstacle = why;
                }
                Err(NoChoice::Diverged(why)) => {
                    self.tell(Severity::Alarm, "LogsDiverge", format!("{why}; nothing is decided from these logs"));
                    return Progress::Abandon(why, false);
                }
            }
        }
        if now >= f.deadline {
            let refused: Vec<_> = f.refused.values().cloned().collect();
            let more = if refused.is_empty() { String::new() } else { format!(" ({})", refused.join("; ")) };
            return Progress::Abandon(format!("{obstacle}{more}"), false);
        }
        self.wake(f.deadline);
        Progress::Wait
    }

    /// FENCE to everyone who has not answered.
    fn ask_to_promise(&mut self, change: &Change, f: &mut Fencing, names: &BTreeMap<Sid, MemberName>) {
        for (&sid, name) in names {
            if f.answers.contains_key(&sid)
                || f.refused.contains_key(&sid)
                || f.first.is_some_and(|(first, _)| first != sid)
            {
                continue;
            }
            match f.asked.get(&sid) {
                Some(Asked::UnderWay(_)) => continue,
                Some(Asked::Failed { again }) if self.now < *again => {
                    self.wake(*again);
                    continue;
                }
                _ => {}
            }
            let drain = f.first.map(|_| DRAIN);
            let request = FenceRequest { envelope: self.envelope(change, sid), epoch: change.epoch, drain };
            let timeout = if drain.is_some() { DRAIN + DRAIN_ANSWER } else { FENCE_TIMEOUT };
            let call = Call::Fence { attempt: change.attempt, sid };
            let id = self.send(name.clone(), timeout, Request::Fence(request), call);
            f.asked.insert(sid, Asked::UnderWay(id));
        }
    }

    /// Answers that show an older state of a volume than others know of count for nothing, now and later.
    fn void_rollbacks(&mut self, f: &mut Fencing) {
        let mut figures = Figures::default();
        f.answers.values().flat_map(|answer| &answer.reply.figures).for_each(|figure| figures.note(figure));
        let rolled_back: Vec<_> =
            f.answers.iter().filter_map(|(&sid, a)| Some((sid, figures.contradiction(&a.reply)?))).collect();
        for (sid, why) in rolled_back {
            f.answers.remove(&sid);
            let text = format!("the volume of {} is older than it was: {why}", self.name_of(sid));
            f.refused.insert(sid, text.clone());
            self.tell(
                Severity::Alarm,
                "RolledBack",
                format!("{text}; its answer counts for nothing, and nothing of it is touched"),
            );
            self.rolled_back.insert(sid, text);
        }
    }

    fn chosen(&self, fencing: Fencing, choice: Choice) -> Step {
        let done: BTreeSet<Sid> = choice
            .assemble
            .iter()
            .copied()
            .filter(|sid| fencing.answers.get(sid).is_some_and(|a| at_targets(a, &choice.targets)))
            .collect();
        Step::Assembling(Box::new(Assembling {
            fencing,
            choice,
            asked: BTreeMap::new(),
            failures: BTreeMap::new(),
            done,
            copied: BTreeMap::new(),
            better: false,
            deadline: self.now + ASSEMBLE_DEADLINE,
        }))
    }

    /// Everyone to be fenced, where it is or was last seen.
    fn reachable_names(&self, change: &Change) -> BTreeMap<Sid, MemberName> {
        let sids = change.allocated.voters.iter().chain(&change.plan.voters).copied();
        sids.filter_map(|sid| {
            if let Some(holder) = self.members.holder(sid) {
                return Some((sid, holder.name().clone()));
            }
            // Not heard by this controller so far; the member at that address refuses if it holds other storage.
            let name = &change.allocated.members.get(&sid)?.name;
            let member = self.members.get(name)?;
            member.sid().is_none().then(|| (sid, name.clone()))
        })
        .collect()
    }

    fn fitness(&self) -> BTreeMap<Sid, Fitness> {
        let of = |m: &super::members::Member| {
            let report = m.fresh(self.now)?;
            let sid = report.standing.sid;
            let fitness = Fitness {
                leaving: report.draining,
                disk_full: report.disk_full || !report.disk.is_ample(),
                cooling: self.cooling.get(&sid).is_some_and(|until| self.now < *until),
                ordinal: m.expected.ordinal,
            };
            Some((sid, fitness))
        };
        self.members.all().filter_map(of).collect()
    }

    // --- ASSEMBLE -----------------------------------------------------------------------------------------

    fn assembling(&mut self, change: &Change, a: &mut Assembling) -> Progress {
        let now = self.now;
        if let Some(epoch) = a.fencing.overtaken {
            self.register.doubt();
            return Progress::Abandon(format!("epoch {epoch} was promised meanwhile"), true);
        }
        let hopeless = a.failures.iter().find(|(_, failure)| failure.tries >= ASSEMBLE_TRIES);
        if let Some((&sid, failure)) = hopeless {
            let text = format!("{} is passed over: {}", self.name_of(sid), failure.why);
            self.tell(Severity::Warning, "AssembleFailed", text);
            self.cooling.insert(sid, now + COOL_DOWN);
            let mut fencing = std::mem::take(&mut a.fencing);
            fencing.excluded.insert(sid);
            if failure.gapped {
                fencing.gapped.insert(sid);
            }
            fencing.poor_donors.extend(a.choice.targets.iter().map(|t| t.donor).filter(|&donor| donor != sid));
            fencing.deadline = now + WISHED;
            return Progress::Next(Box::new(Step::Fencing(fencing)));
        }
        if now >= a.deadline {
            return Progress::Abandon("the missing entries did not arrive in time".into(), false);
        }
        if a.fencing.copy {
            if std::mem::take(&mut a.better) {
                let mut fencing = std::mem::take(&mut a.fencing);
                fencing.copy = false;
                fencing.excluded.clear();
                (fencing.quorum_at, fencing.deadline) = (None, now + FENCE_DEADLINE);
                return Progress::Next(Box::new(Step::Fencing(fencing)));
            }
            let names = self.reachable_names(change);
            self.ask_to_promise(change, &mut a.fencing, &names);
        }
        let missing: Vec<Sid> = a.choice.assemble.iter().copied().filter(|sid| !a.done.contains(sid)).collect();
        if missing.is_empty() {
            let answers = std::mem::take(&mut a.fencing.answers);
            return Progress::Next(Box::new(Step::Deciding(Chosen { answers, choice: a.choice.clone() })));
        }
        for sid in missing {
            match a.asked.get(&sid) {
                Some(Asked::UnderWay(_)) => continue,
                Some(Asked::Failed { again }) if now < *again => {
                    self.wake(*again);
                    continue;
                }
                _ => {}
            }
            let targets = a
                .choice
                .targets
                .iter()
                .map(|t| ShardTarget {
                    tail: t.tail,
                    donor: self.donor(&change.allocated, t.donor),
                    copy: a.fencing.copy,
                })
                .collect();
            let request = AssembleRequest { envelope: self.envelope(change, sid), epoch: change.epoch, targets };
            let name = a.fencing.answers[&sid].name.clone();
            let call = Call::Assemble { attempt: change.attempt, sid };
            let id = self.send(name, ASSEMBLE_TIMEOUT, Request::Assemble(request), call);
            a.asked.insert(sid, Asked::UnderWay(id));
        }
        self.wake(a.deadline);
        Progress::Wait
    }

    // --- DECIDE -------------------------------------------------------------------------------------------

    fn decide_epoch(&mut self, change: &Change, choice: &Choice) {
        let Some(present) = self.register.found() else { return };
        let plan = &change.plan;
        let mut register = Register::clone(present);
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

    // --- PROMOTE ------------------------------------------------------------------------------------------

    fn promoting(&mut self, change: &Change, step: &mut Step) -> Progress {
        let Step::Promoting(p) = step else { return Progress::Wait };
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
        match p.asked {
            Some(Asked::UnderWay(_)) => return Progress::Wait,
            Some(Asked::Failed { again }) if now < again => {
                self.wake(again);
                return Progress::Wait;
            }
            _ => {}
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
            shard_time_ms: shard_time(&p.chosen.answers, &change.allocated.voters, now),
            members: members.filter(|&&sid| sid != leader).map(|&sid| self.donor(&register, sid)).collect(),
        };
        let name = p.chosen.answers[&leader].name.clone();
        let call = Call::Promote { attempt: change.attempt, sid: leader };
        let id = self.send(name, PROMOTE_TIMEOUT, Request::Promote(request), call);
        p.asked = Some(Asked::UnderWay(id));
        Progress::Wait
    }

    // --- answers ------------------------------------------------------------------------------------------

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
        let promised = match &result {
            Ok(reply) => match &**reply {
                Reply::Refused(Refusal::Promised { promised, .. }, _) if *promised > epoch => Some(*promised),
                _ => None,
            },
            Err(_) => None,
        };
        match &mut change.step {
            Step::Fencing(f) => {
                if !f.asked_with(id, sid) {
                    return;
                }
                f.overtaken = f.overtaken.max(promised);
                f.take(sid, name, result, trusted, now);
            }
            Step::Assembling(a) if a.fencing.asked_with(id, sid) => {
                a.fencing.overtaken = a.fencing.overtaken.max(promised);
                a.better |= a.fencing.take(sid, name, result, trusted, now);
            }
            Step::Assembling(a) => {
                if !matches!(a.asked.get(&sid), Some(Asked::UnderWay(asked)) if *asked == id) {
                    return;
                }
                a.asked.insert(sid, Asked::Failed { again: now + AGAIN });
                a.fencing.overtaken = a.fencing.overtaken.max(promised);
                let failed = match result.map(|reply| *reply) {
                    Ok(Reply::Assembled(reply)) => {
                        let reached = reply.tails.len() == a.choice.targets.len()
                            && reply.tails.iter().zip(&a.choice.targets).all(|(have, want)| *have == want.tail);
                        if reached && trusted && reply.standing.sid == sid && reply.standing.promised == epoch {
                            a.done.insert(sid);
                            return;
                        }
                        (ASSEMBLE_TRIES, "its logs did not become what was asked for".to_owned(), false)
                    }
                    Ok(Reply::Refused(Refusal::Copying { shard, staged, total }, _)) if a.fencing.copy => {
                        a.copies_on(sid, shard, (staged, total), now);
                        return;
                    }
                    Ok(Reply::Refused(Refusal::Failed(why), _)) | Err(why) => (1, why, false),
                    Ok(Reply::Refused(why, _)) => (
                        ASSEMBLE_TRIES,
                        why.to_string(),
                        matches!(why, Refusal::BelowFloor { .. } | Refusal::Copying { .. }),
                    ),
                    Ok(_) => (ASSEMBLE_TRIES, "it gave another answer than asked for".to_owned(), false),
                };
                let failure = a.failures.entry(sid).or_default();
                *failure = Failure { tries: failure.tries + failed.0, why: failed.1, gapped: failed.2 };
            }
            Step::Promoting(p) => {
                if !matches!(p.asked, Some(Asked::UnderWay(asked)) if asked == id) {
                    return;
                }
                p.asked = Some(Asked::Failed { again: now + AGAIN });
                match result.map(|reply| *reply) {
                    Ok(Reply::Done(reply)) if trusted && reply.standing.live_led == epoch => p.leads = true,
                    Ok(Reply::Refused(Refusal::Failed(_), _)) | Err(_) => {}
                    Ok(Reply::Refused(why, _)) => p.refused = Some(why.to_string()),
                    Ok(_) => p.refused = Some("it does not lead after all".into()),
                }
            }
            Step::Allocating | Step::Deciding(_) => {}
        }
    }

    // --- ends ---------------------------------------------------------------------------------------------

    fn finish(&mut self, change: Change, leader: Sid) {
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
    pub(super) fn note_served(&mut self) {
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

    fn abandon(&mut self, change: Change, why: &str, overtaken: bool) {
        let plan = change.plan;
        self.tell(
            if overtaken { Severity::Info } else { Severity::Warning },
            "ChangeAbandoned",
            format!("{} of epoch {} was given up: {why}", plan.kind.name(), change.epoch),
        );
        if let Some(id) = plan.request {
            let done = self.register.found().and_then(|r| r.last_request.as_ref()).is_some_and(|r| r.id == id);
            if !done {
                self.outcome = Some(DoneRequest { id, outcome: why.to_owned() });
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

impl Default for Fencing {
    fn default() -> Self {
        Self::new(None, Duration::ZERO)
    }
}

impl Fencing {
    fn new(first: Option<(Sid, Duration)>, now: Duration) -> Self {
        Self {
            first,
            asked: BTreeMap::new(),
            answers: BTreeMap::new(),
            refused: BTreeMap::new(),
            excluded: BTreeSet::new(),
            gapped: BTreeSet::new(),
            copy: false,
            poor_donors: BTreeSet::new(),
            ignored: BTreeSet::new(),
            overtaken: None,
            quorum_at: None,
            deadline: first.map_or(now, |(_, until)| until) + FENCE_DEADLINE,
        }
    }
}

impl Fencing {
    /// Whether FENCE was sent to `sid` with this call, and no later one.
    fn asked_with(&self, call: u64, sid: Sid) -> bool {
        matches!(self.asked.get(&sid), Some(Asked::UnderWay(asked)) if *asked == call)
    }

    /// An answer to FENCE; whether it is a promise.
    fn take(
        &mut self,
        sid: Sid,
        name: MemberName,
        result: Result<Box<Reply>, String>,
        trusted: bool,
        now: Duration,
    ) -> bool {
        self.asked.remove(&sid);
        match result.map(|reply| *reply) {
            Ok(Reply::Fenced(reply)) if trusted && reply.standing.sid == sid => {
                self.answers.insert(sid, Answer { name, reply, at: now });
                return true;
            }
            // An attempt that copies shards lasts: what is in the way may pass.
            Ok(Reply::Refused(Refusal::Failed(_), _)) if self.copy => {
                self.asked.insert(sid, Asked::Failed { again: now + AGAIN });
            }
            Ok(Reply::Refused(why, _)) => {
                self.refused.insert(sid, format!("{name}: {why}"));
            }
            // Of a process that was seen to have ended, or of a copy of the storage: void, asked again.
            Ok(_) | Err(_) => {
                self.asked.insert(sid, Asked::Failed { again: now + AGAIN });
            }
        }
        false
    }
}

impl Assembling {
    /// A member says how much of a copy it has. As long as it has more every time, the attempt goes on.
    fn copies_on(&mut self, sid: Sid, shard: u16, copied: (u64, u64), now: Duration) {
        self.asked.remove(&sid);
        // More than ever before: what fails each time and begins anew does not go on for ever.
        if self.copied.get(&(sid, shard)).is_none_or(|(most, _)| copied.0 > *most) {
            self.copied.insert((sid, shard), copied);
            self.failures.remove(&sid);
            self.deadline = now + COPY_STALL;
        }
    }

    /// For the picture: how far the copies are.
    fn copying(&self) -> Option<String> {
        let told = |(&(_, shard), &(staged, total)): (&(Sid, u16), &(u64, u64))| {
            format!("shard {shard}: {} of {}", quantity::format(staged), quantity::format(total))
        };
        (!self.copied.is_empty()).then(|| self.copied.iter().map(told).collect::<Vec<_>>().join(", "))
    }
}

/// The leader of the last decided epoch, if it is among those that answered: it has everything, and leads again.
fn live_leader(change: &Change, f: &Fencing) -> Option<Sid> {
    let last = change.allocated.last_leading?;
    f.answers.get(&last.sid).is_some_and(|a| a.reply.standing.live_led == last.epoch).then_some(last.sid)
}

fn standing_of(reply: &Reply) -> &crate::topology::message::Standing {
    match reply {
        Reply::Done(r) => &r.standing,
        Reply::Fenced(r) => &r.standing,
        Reply::Assembled(r) => &r.standing,
        Reply::Refused(_, standing) => standing,
    }
}
