//! FENCE: everyone is asked to promise the epoch, and from what a read quorum answers a leader is chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::assemble::Assembling;
use super::{AGAIN, Asked, Change, Progress, Step, Told, WISHED};
use crate::ident::Sid;
use crate::position::Epoch;
use crate::replication::rules::Figures;
#[cfg(any(test, feature = "simulation"))]
use crate::topology::controller::Weakness;
use crate::topology::controller::choose::{Answer, Fitness, NoChoice, Question, ReadQuorum, choose, read_quorum};
use crate::topology::controller::{Call, Controller, members};
use crate::topology::message::{FenceRequest, MemberName, Refusal, Reply, Request};
use crate::topology::notice::Severity;

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

#[derive(Debug)]
pub(super) struct Fencing {
    /// Nobody else is asked before this one has answered, failed, or its time is over.
    pub(super) first: Option<(Sid, Duration)>,
    pub(super) asked: BTreeMap<Sid, Asked>,
    pub(super) answers: BTreeMap<Sid, Answer>,
    /// Will not answer otherwise in this attempt.
    pub(super) refused: BTreeMap<Sid, String>,
    /// Could not assemble in this attempt.
    pub(super) excluded: BTreeSet<Sid>,
    /// Those of them that lack what is no longer in a donor's log.
    pub(super) gapped: BTreeSet<Sid>,
    /// Nobody can lead without one: whole shards are copied.
    pub(super) copy: bool,
    /// Whom those could not fetch from.
    pub(super) poor_donors: BTreeSet<Sid>,
    /// Whose entries are done without: R others have answered.
    pub(super) ignored: BTreeSet<Sid>,
    /// Someone promised this meanwhile.
    pub(super) overtaken: Option<Epoch>,
    pub(super) quorum_at: Option<Duration>,
    pub(super) deadline: Duration,
}

impl Controller {
    pub(super) fn fencing(&mut self, change: &Change, f: &mut Fencing) -> Progress {
        let now = self.now;
        if let Some(epoch) = f.overtaken {
            self.register.doubt();
            return Progress::Abandon(format!("epoch {epoch} was promised meanwhile"), true);
        }
        let configs = f.answers.values().filter_map(|answer| answer.reply.standing.last_config.as_ref());
        if let Some(config) = configs.filter(|config| change.allocated.is_behind(Some(config))).max_by_key(|c| c.epoch)
        {
            self.register.doubt();
            let why = format!("a member knows the configuration of epoch {}: the register went back", config.epoch);
            return Progress::Abandon(why, false);
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
        let needed = needed - usize::from(self.weakness == Some(Weakness::FenceByOneLess));
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
                longest_wins: self.weakness == Some(Weakness::LongestLogWins),
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
                        let assembling = Assembling::new(std::mem::take(f), choice, now);
                        return Progress::Next(Box::new(Step::Assembling(Box::new(assembling))));
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
    pub(super) fn ask_to_promise(&mut self, change: &Change, f: &mut Fencing, names: &BTreeMap<Sid, MemberName>) {
        for (&sid, name) in names {
            if f.answers.contains_key(&sid)
                || f.refused.contains_key(&sid)
                || f.first.is_some_and(|(first, _)| first != sid)
            {
                continue;
            }
            if !self.may_ask(f.asked.get(&sid)) {
                continue;
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

    /// Everyone to be fenced, where it is or was last seen.
    pub(super) fn reachable_names(&self, change: &Change) -> BTreeMap<Sid, MemberName> {
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
        let of = |m: &members::Member| {
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
}

impl Default for Fencing {
    fn default() -> Self {
        Self::new(None, Duration::ZERO)
    }
}

impl Fencing {
    /// `drain`: who is asked first, to let its in-flight writes commit.
    pub(super) fn new(drain: Option<Sid>, now: Duration) -> Self {
        let first = drain.map(|sid| (sid, now + DRAIN + DRAIN_ANSWER));
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

    /// Whether FENCE was sent to `sid` with this call, and no later one.
    pub(super) fn asked_with(&self, call: u64, sid: Sid) -> bool {
        self.asked.get(&sid).is_some_and(|asked| asked.with(call))
    }

    /// An answer to FENCE for `epoch`; whether it is a promise.
    pub(super) fn take(&mut self, told: Told, epoch: Epoch, now: Duration) -> bool {
        self.overtaken = self.overtaken.max(told.promised_later(epoch));
        let Told { sid, name, result, trusted } = told;
        self.asked.remove(&sid);
        match result {
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

    /// Chooses anew, because somebody answered while shards are copied that may not need any copy.
    pub(super) fn begin_again(&mut self, now: Duration) {
        self.copy = false;
        self.excluded.clear();
        (self.quorum_at, self.deadline) = (None, now + FENCE_DEADLINE);
    }
}

/// The leader of the last decided epoch, if it is among those that answered: it has everything, and leads again.
fn live_leader(change: &Change, f: &Fencing) -> Option<Sid> {
    let last = change.allocated.last_leading?;
    f.answers.get(&last.sid).is_some_and(|a| a.reply.standing.live_led == last.epoch).then_some(last.sid)
}
