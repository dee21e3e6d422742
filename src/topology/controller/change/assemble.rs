//! ASSEMBLE: whoever is counted on for the epoch fetches what it lacks, or copies whole shards if nobody has it in a log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fence::Fencing;
use super::promote::Chosen;
use super::{AGAIN, Asked, COOL_DOWN, Change, Progress, Step, Told, WISHED};
use crate::api::quantity;
use crate::ident::Sid;
use crate::position::Epoch;
use crate::topology::controller::choose::{Choice, at_targets};
use crate::topology::controller::{Call, Controller};
use crate::topology::message::{AssembleRequest, Refusal, Reply, Request, ShardTarget};
use crate::topology::notice::Severity;

/// A tail may be long.
const ASSEMBLE_TIMEOUT: Duration = Duration::from_secs(10);
const ASSEMBLE_DEADLINE: Duration = Duration::from_secs(30);
/// A copy of a whole shard stands still while its giver reads all of it for checksums and its taker looks at all of it.
const COPY_STALL: Duration = Duration::from_secs(120);
/// A member that failed to assemble this often is passed over.
const ASSEMBLE_TRIES: u32 = 3;

#[derive(Debug)]
pub(super) struct Assembling {
    pub(super) fencing: Fencing,
    pub(super) choice: Choice,
    pub(super) asked: BTreeMap<Sid, Asked>,
    pub(super) failures: BTreeMap<Sid, Failure>,
    pub(super) done: BTreeSet<Sid>,
    /// Bytes that copies have brought, and of how many, by shard.
    pub(super) copied: BTreeMap<(Sid, u16), (u64, u64)>,
    /// A voter that had not answered FENCE in time has by now: while shards are copied, it may be a better choice.
    pub(super) better: bool,
    pub(super) deadline: Duration,
}

/// What went wrong with a member's ASSEMBLE.
#[derive(Debug, Default)]
pub(super) struct Failure {
    /// Weighed: at [`ASSEMBLE_TRIES`] it is passed over.
    pub(super) tries: u32,
    pub(super) why: String,
    /// It lacks what is no longer in the donor's log.
    pub(super) gapped: bool,
}

impl Controller {
    pub(super) fn assembling(&mut self, change: &Change, a: &mut Assembling) -> Progress {
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
                fencing.begin_again(now);
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
            if !self.may_ask(a.asked.get(&sid)) {
                continue;
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
}

impl Assembling {
    pub(super) fn new(fencing: Fencing, choice: Choice, now: Duration) -> Self {
        let at_targets = |sid: &Sid| fencing.answers.get(sid).is_some_and(|a| at_targets(a, &choice.targets));
        Self {
            done: choice.assemble.iter().copied().filter(at_targets).collect(),
            fencing,
            choice,
            asked: BTreeMap::new(),
            failures: BTreeMap::new(),
            copied: BTreeMap::new(),
            better: false,
            deadline: now + ASSEMBLE_DEADLINE,
        }
    }

    /// An answer to ASSEMBLE for `epoch`, or to a FENCE that is still asked while shards are copied.
    pub(super) fn take(&mut self, call: u64, told: Told, epoch: Epoch, now: Duration) {
        let sid = told.sid;
        if self.fencing.asked_with(call, sid) {
            self.better |= self.fencing.take(told, epoch, now);
            return;
        }
        if !self.asked.get(&sid).is_some_and(|asked| asked.with(call)) {
            return;
        }
        self.asked.insert(sid, Asked::Failed { again: now + AGAIN });
        self.fencing.overtaken = self.fencing.overtaken.max(told.promised_later(epoch));
        let for_good = |why: String, gapped| Failure { tries: ASSEMBLE_TRIES, why, gapped };
        let failure = match told.result {
            Ok(Reply::Assembled(reply)) => {
                let reached = reply.tails.len() == self.choice.targets.len()
                    && reply.tails.iter().zip(&self.choice.targets).all(|(have, want)| *have == want.tail);
                if reached && told.trusted && reply.standing.sid == sid && reply.standing.promised == epoch {
                    self.done.insert(sid);
                    return;
                }
                for_good("its logs did not become what was asked for".into(), false)
            }
            Ok(Reply::Refused(Refusal::Copying { shard, staged, total }, _)) if self.fencing.copy => {
                return self.copies_on(sid, shard, (staged, total), now);
            }
            Ok(Reply::Refused(Refusal::Failed(why), _)) | Err(why) => Failure { tries: 1, why, gapped: false },
            Ok(Reply::Refused(why, _)) => {
                for_good(why.to_string(), matches!(why, Refusal::BelowFloor { .. } | Refusal::Copying { .. }))
            }
            Ok(_) => for_good("it gave another answer than asked for".into(), false),
        };
        let before = self.failures.get(&sid).map_or(0, |failure| failure.tries);
        self.failures.insert(sid, Failure { tries: before + failure.tries, ..failure });
    }

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
    pub(super) fn copying(&self) -> Option<String> {
        let told = |(&(_, shard), &(staged, total)): (&(Sid, u16), &(u64, u64))| {
            format!("shard {shard}: {} of {}", quantity::format(staged), quantity::format(total))
        };
        (!self.copied.is_empty()).then(|| self.copied.iter().map(told).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::InstanceId;
    use crate::topology::message::{InitState, Standing};

    const EPOCH: Epoch = 9;

    fn copying(sid: Sid, staged: u64) -> Told {
        let standing = Standing {
            cluster_id: None,
            lineage: 0,
            sid,
            open_count: 1,
            instance: InstanceId(1),
            init: InitState::Done,
            promised: EPOCH,
            led: 0,
            live_led: 0,
            last_config: None,
        };
        let refusal = Refusal::Copying { shard: 3, staged, total: 5 << 30 };
        Told { sid, name: "kv-0-1".into(), result: Ok(Reply::Refused(refusal, Box::new(standing))), trusted: true }
    }

    #[test]
    fn a_copy_is_told_with_its_figures_and_lasts_as_long_as_it_brings_more() {
        let sid = Sid(1);
        let fencing = Fencing { copy: true, ..Fencing::default() };
        let choice = Choice { leader: sid, assemble: vec![sid], targets: Vec::new(), as_wished: true };
        let mut a = Assembling::new(fencing, choice, Duration::ZERO);
        a.done.clear();
        let mut call = 0;
        let mut hear = |a: &mut Assembling, staged, at| {
            call += 1;
            a.asked.insert(sid, Asked::UnderWay(call));
            a.take(call, copying(sid, staged), EPOCH, Duration::from_secs(at));
            a.deadline
        };
        assert_eq!(hear(&mut a, 1 << 30, 100), Duration::from_secs(100) + COPY_STALL);
        assert_eq!(a.copying().as_deref(), Some("shard 3: 1Gi of 5Gi"));
        assert_eq!(hear(&mut a, 2 << 30, 200), Duration::from_secs(200) + COPY_STALL);
        assert_eq!(a.copying().as_deref(), Some("shard 3: 2Gi of 5Gi"));
        assert_eq!(hear(&mut a, 1 << 30, 300), Duration::from_secs(200) + COPY_STALL, "it has begun anew");
        assert_eq!(hear(&mut a, 2 << 30, 310), Duration::from_secs(200) + COPY_STALL, "and is where it was");
        assert!(a.failures.is_empty());
    }
}
