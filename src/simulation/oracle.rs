//! What must hold at every moment, checked against everything that ever happened.
//!
//! [`Truth`] is the longest prefix of each shard's log that anybody ever knew to be committed. It only grows; whoever
//! commits anything must agree with it (I2, I5); whoever leads must have all of it (I3, I4); what a client was told must
//! fit it, and what an index shows must be the fold of it (I6). Logs are compared by their chains, as members do.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::member::Counts;
use super::recorder::Recorder;
use super::truth::{Truth, chunks};
use crate::engine::{Condition, EngineError, ScanRange, Shard, ShardState, TreeId, Value, WriteBatch};
use crate::ident::Sid;
use crate::position::{Epoch, Gsn, LogPosition};

/// What a client asked for.
pub(super) type Op = u64;

/// A batch that was appended somewhere.
#[derive(Debug, Clone)]
struct Batch {
    op: Op,
    first_gsn: Gsn,
    conditions: Vec<Condition>,
    /// The committed time that its conditions were judged by.
    time_ms: u64,
}

/// What a read must not fall behind: per shard, what any client has seen when it begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) gsns: Vec<Gsn>,
    /// Largest committed time that an answer was judged by.
    pub(super) times_ms: Vec<u64>,
}

impl Seen {
    fn nothing(shards: usize) -> Self {
        Self { gsns: vec![0; shards], times_ms: vec![0; shards] }
    }

    /// An answer that was judged by `time_ms` was seen.
    fn judged(&mut self, shard: usize, time_ms: u64) {
        self.times_ms[shard] = self.times_ms[shard].max(time_ms);
    }
}

/// A read as it was taken, before anybody asked for the lease.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) shard: usize,
    pub(super) key: Vec<u8>,
    pub(super) applied: Gsn,
    pub(super) time_ms: u64,
    pub(super) value: Option<Value>,
}

/// What clients were told, and what is committed.
#[derive(Debug)]
pub(super) struct Oracle {
    truth: Vec<Truth>,
    appended: BTreeMap<(usize, LogPosition), Batch>,
    positions: BTreeMap<Op, (usize, LogPosition)>,
    /// What time had been seen when it was asked for.
    asked_at_ms: BTreeMap<Op, u64>,
    place: BTreeMap<Op, (usize, Gsn)>,
    leaders: BTreeMap<Epoch, Sid>,
    /// Where each promoted leader's logs ended before its BARRIERs.
    began_at: BTreeMap<Epoch, Vec<Gsn>>,
    acknowledged: BTreeSet<Op>,
    never: BTreeSet<Op>,
    seen: Seen,
    /// Per shard and gsn of a committed batch with conditions: the largest time that it or one before it was judged by.
    judged: Vec<BTreeMap<Gsn, u64>>,
    /// Times that too few voters may know, because one of them ended.
    forgotten: Vec<RangeInclusive<u64>>,
    /// How often data was given up; what is of an older lineage is nobody's any more.
    lineage: u64,
    /// Whose records were made to rot: what cannot be read there is refused, not lost.
    rotten: BTreeSet<Sid>,
    /// What was judged by a time before one that had been seen, and how often.
    gone_back: Counts,
    recorder: Recorder,
    /// True time.
    pub(super) now: Duration,
    violation: Option<String>,
}

impl Oracle {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            truth: (0..shards).map(|_| Truth::default()).collect(),
            appended: BTreeMap::new(),
            positions: BTreeMap::new(),
            asked_at_ms: BTreeMap::new(),
            place: BTreeMap::new(),
            leaders: BTreeMap::new(),
            began_at: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            never: BTreeSet::new(),
            seen: Seen::nothing(shards),
            judged: vec![BTreeMap::new(); shards],
            forgotten: Vec::new(),
            lineage: 0,
            rotten: BTreeSet::new(),
            gone_back: Counts::new(),
            recorder: Recorder::default(),
            now: Duration::ZERO,
            violation: None,
        }
    }

    /// The first rule that was found broken.
    pub(super) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    pub(super) fn broken(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    pub(super) fn truth(&self, shard: usize) -> &Truth {
        &self.truth[shard]
    }

    // --- what is written ----------------------------------------------------------------------------------

    /// A client asks for a batch.
    pub(super) fn asked(&mut self, op: Op, shard: usize, batch: &WriteBatch) {
        self.asked_at_ms.insert(op, self.seen.times_ms[shard]);
        self.recorder.asked(op, shard, batch, self.now);
    }

    /// A leader appended a batch for a client; its conditions held at `time_ms`.
    pub(super) fn appended(
        &mut self,
        op: Op,
        shard: usize,
        last: LogPosition,
        first_gsn: Gsn,
        conditions: &[Condition],
        time_ms: u64,
    ) {
        let batch = Batch { op, first_gsn, conditions: conditions.to_vec(), time_ms };
        self.positions.insert(op, (shard, last));
        if let Some(other) = self.appended.insert((shard, last), batch) {
            let other = other.op;
            self.broken(|| format!("writes {other} and {op} both are {last:?} of shard {shard}"));
        }
    }

    /// `who` learnt in `epoch` that its log of a shard is committed up to `commit`.
    pub(super) fn committed(&mut self, who: Sid, epoch: Epoch, number: usize, shard: &Arc<Shard>, commit: Gsn) {
        let known = self.truth[number].len();
        if commit <= known {
            return self.agrees(who, number, shard, commit);
        }
        let read = match chunks(shard, known, commit) {
            Ok(read) => read,
            Err(why) => {
                let tail = shard.tail_gsn();
                return self.broken(|| {
                    format!("{who} calls {commit} of shard {number} committed, its log ends at {tail}: {why}")
                });
            }
        };
        let joins = read.first().is_none_or(|first| {
            let truth = &self.truth[number];
            let epoch = truth.at(known).map_or(0, |entry| entry.epoch);
            (first.prev.chain, first.prev.last) == (truth.chain_at(known), LogPosition::new(epoch, known))
        });
        if !joins {
            return self.broken(|| format!("{who} commits another history of shard {number} below {known}"));
        }
        // I4: what an epoch commits after a later one has its leader was in that leader's target.
        let later = self.began_at.range(epoch + 1..).find(|(_, ends)| ends[number] < commit);
        if let Some((&later, ends)) = later {
            let end = ends[number];
            return self.broken(|| {
                format!(
                    "{who} commits {commit} of shard {number} in epoch {epoch}, epoch {later} began at {end} without it"
                )
            });
        }
        for chunk in &read {
            for entry in chunk.entries().iter().filter(|entry| entry.gsn <= commit) {
                self.truth[number].push(chunk.epoch, epoch, entry);
                if entry.batch_end {
                    self.settled(number, LogPosition::new(chunk.epoch, entry.gsn));
                }
            }
        }
        if self.truth[number].at(commit).is_some_and(|last| !last.batch_end) {
            self.broken(|| format!("{who} calls {commit} of shard {number} committed, which is inside a batch"));
        }
    }

    /// The batch that ends at `last` is committed.
    fn settled(&mut self, shard: usize, last: LogPosition) {
        let Some(batch) = self.appended.get(&(shard, last)).cloned() else { return };
        let op = batch.op;
        if self.place.insert(op, (shard, last.gsn)).is_some() {
            self.broken(|| format!("write {op} is committed twice"));
        }
        if self.never.contains(&op) {
            self.broken(|| {
                format!("write {op} was answered \"definitely not\" and is committed as {last:?} of shard {shard}")
            });
        }
        let (before, seen_ms) = (batch.first_gsn - 1, batch.time_ms.max(self.seen.times_ms[shard]));
        let firm_ms = batch.time_ms.max(self.firm(self.seen.times_ms[shard]));
        if !batch.conditions.is_empty() {
            let until_ms = self.judged[shard].last_key_value().map_or(0, |(_, &time_ms)| time_ms);
            self.judged[shard].insert(last.gsn, until_ms.max(batch.time_ms));
        }
        for condition in &batch.conditions {
            let holds = |time_ms| self.truth[shard].holds(&condition.key, condition.expect, before, time_ms);
            match (holds(batch.time_ms), holds(seen_ms)) {
                (false, _) => {
                    self.broken(|| format!("write {op} was done although its condition {condition:?} did not hold"));
                }
                // Somebody saw the value expire before it was written.
                (true, false) => {
                    self.went_back("writes whose condition had been seen not to hold any more", !holds(firm_ms))
                }
                (true, true) => {}
            }
        }
    }

    /// `who` calls `commit` committed: its log must be everybody's up to there.
    pub(super) fn agrees(&mut self, who: Sid, number: usize, shard: &Shard, commit: Gsn) {
        let truth = &self.truth[number];
        let common = commit.min(truth.len());
        let tail = shard.tail();
        if tail.last.gsn < common {
            return self.broken(|| format!("{who} lost committed entries of shard {number} below {common}"));
        }
        let chain = match shard.chain_at(common) {
            Ok(Some(chain)) => chain,
            // Below what its log still holds.
            Ok(None) if common + 1 < shard.log_floor() => return,
            other => return self.broken(|| format!("{who} cannot tell its shard {number} at {common}: {other:?}")),
        };
        if chain != truth.chain_at(common) {
            self.broken(|| format!("{who} changed committed entries of shard {number} below {common}"));
        }
    }

    /// `who` leads `epoch`.
    pub(super) fn leads(&mut self, who: Sid, epoch: Epoch, shards: &[Arc<Shard>]) {
        let first = *self.leaders.entry(epoch).or_insert(who);
        if first != who {
            self.broken(|| format!("epoch {epoch} has two leaders, {first} and {who}"));
        }
        self.began_at.entry(epoch).or_insert_with(|| shards.iter().map(|shard| shard.tail_gsn()).collect());
        for (number, shard) in shards.iter().enumerate() {
            // A late PROMOTE of an epoch that is over makes a leader that can commit nothing: what later epochs
            // committed it need not have.
            let entries = &self.truth[number].entries;
            let want = entries.iter().rposition(|e| e.counted_in < epoch).map_or(0, |last| last as Gsn + 1);
            let have = shard.tail_gsn();
            let same = shard.chain_at(want).ok().flatten().map(|chain| chain == self.truth[number].chain_at(want));
            if have < want || same == Some(false) {
                self.broken(|| {
                    format!(
                        "{who} leads epoch {epoch} without all of shard {number}: {want} are committed, it has {have} \
                         or others"
                    )
                });
            }
        }
    }

    /// The register names a leader.
    pub(super) fn decided(&mut self, who: Sid, epoch: Epoch) {
        let first = *self.leaders.entry(epoch).or_insert(who);
        if first != who {
            self.broken(|| format!("epoch {epoch} was decided for {who}, it is {first}'s"));
        }
    }

    /// `who`, whose data is of `lineage`, opened a shard. What an unsafe recovery left behind may differ: it is refused.
    pub(super) fn opened(&mut self, who: Sid, lineage: u64, number: usize, shard: &Shard) {
        if lineage >= self.lineage {
            self.agrees(who, number, shard, shard.commit());
            self.folds(who, number, shard);
        }
    }

    /// A record of `who` was made to rot.
    pub(super) fn rotted(&mut self, who: Sid) {
        self.rotten.insert(who);
    }

    /// An unsafe recovery: what these logs do not hold was given up by whoever asked for it.
    pub(super) fn given_up(&mut self, lineage: u64, shards: &[Arc<Shard>]) {
        self.lineage = self.lineage.max(lineage);
        let judged_ms = self.judged.iter().filter_map(|judged| judged.last_key_value()).map(|(_, &time_ms)| time_ms);
        self.forgets(judged_ms.chain(self.seen.times_ms.iter().copied()).max().unwrap_or(0), 0);
        for (number, shard) in shards.iter().enumerate() {
            let truth = &mut self.truth[number];
            let mut common = truth.len().min(shard.tail_gsn());
            while common > 0 && shard.chain_at(common).ok().flatten().is_some_and(|c| c != truth.chain_at(common)) {
                common -= 1;
            }
            truth.truncate(common);
            self.seen.gsns[number] = self.seen.gsns[number].min(common);
            self.judged[number].split_off(&(common + 1));
            let lost: Vec<Op> =
                self.place.iter().filter(|(_, at)| at.0 == number && at.1 > common).map(|(&op, _)| op).collect();
            for op in lost {
                self.place.remove(&op);
                self.acknowledged.remove(&op);
            }
        }
    }

    // --- what clients were told ---------------------------------------------------------------------------

    /// A client was told that `op` is done, at `gsn`.
    pub(super) fn acknowledge(&mut self, op: Op, shard: usize, gsn: Gsn) {
        self.acknowledged.insert(op);
        let batch = self.positions.get(&op).and_then(|&(shard, at)| Some((at.epoch, self.appended.get(&(shard, at))?)));
        if let Some((epoch, batch)) = batch {
            self.recorder.done(op, LogPosition::new(epoch, batch.first_gsn), self.now);
            self.seen.judged(shard, batch.time_ms);
        }
        self.seen.gsns[shard] = self.seen.gsns[shard].max(gsn);
        if self.place.get(&op) != Some(&(shard, gsn)) {
            self.broken(|| format!("write {op} was acknowledged as {gsn} of shard {shard} and is not committed there"));
        }
        if self.never.contains(&op) {
            self.broken(|| format!("write {op} was told both done and definitely not done"));
        }
    }

    /// A client was told that `op` is not done and never will be.
    pub(super) fn never(&mut self, op: Op) {
        self.never.insert(op);
        self.recorder.refused(op, self.now);
        if let Some(&(shard, gsn)) = self.place.get(&op) {
            self.broken(|| format!("write {op} was answered \"definitely not\" and is {gsn} of shard {shard}"));
        }
    }

    /// A client was told that a condition does not hold, judged against the entry `judged_at` at `time_ms`.
    pub(super) fn refused(&mut self, op: Op, shard: usize, condition: &Condition, judged_at: Gsn, time_ms: u64) {
        if let Some(&asked_ms) = self.asked_at_ms.get(&op)
            && time_ms < asked_ms
            && self.truth[shard].holds(&condition.key, condition.expect, judged_at, asked_ms)
        {
            let firm_ms = self.firm(asked_ms);
            let sure =
                time_ms < firm_ms && self.truth[shard].holds(&condition.key, condition.expect, judged_at, firm_ms);
            self.went_back("writes refused by what had been seen expired", sure);
        }
        self.seen.judged(shard, time_ms);
        self.recorder.failed(op, condition, self.now);
        self.never(op);
        self.seen.gsns[shard] = self.seen.gsns[shard].max(judged_at);
        if self.truth[shard].len() < judged_at {
            self.broken(|| format!("the condition of write {op} was judged by {judged_at}, which is not committed"));
        } else if self.truth[shard].holds(&condition.key, condition.expect, judged_at, time_ms) {
            self.broken(|| format!("write {op} was refused although {condition:?} held at {judged_at}"));
        }
    }

    /// What a read that begins now must show.
    pub(super) fn seen(&self) -> Seen {
        self.seen.clone()
    }

    /// A linearizable read was answered; when it began, at `asked`, `required` had been seen.
    pub(super) fn read(&mut self, who: Sid, look: &Look, required: &Seen, asked: Duration) {
        self.recorder.read(look, asked, self.now);
        let (shard, have, want) = (look.shard, look.applied, required.gsns[look.shard]);
        if have < want {
            self.broken(|| format!("{who} answered a read of shard {shard} from {have}, {want} had been seen"));
        }
        if look.time_ms < required.times_ms[shard] {
            let sure = look.time_ms < self.firm(required.times_ms[shard]);
            self.went_back("reads at a time before one that had been seen", sure);
        }
        let judged_ms = self.judged[shard].range(..=have).next_back().map_or(0, |(_, &time_ms)| time_ms);
        if look.time_ms < judged_ms {
            let sure = look.time_ms < self.firm(judged_ms);
            self.went_back("reads at a time before one that what they show was judged by", sure);
        }
        self.seen.gsns[shard] = self.seen.gsns[shard].max(have);
        self.seen.judged(shard, look.time_ms);
        self.shows(who, look);
    }

    /// Not called broken unless it is `sure`: voters may have known the time that was seen and forgotten it when they ended
    /// (see docs/reliability.md).
    fn went_back(&mut self, what: &'static str, sure: bool) {
        *self.gone_back.entry(what).or_default() += 1;
        if sure {
            self.broken(|| format!("time went back: {what}"));
        }
    }

    /// Of a time that was seen, what nobody can have forgotten.
    fn firm(&self, mut seen_ms: u64) -> u64 {
        while let Some(times) = self.forgotten.iter().find(|times| times.contains(&seen_ms)) {
            seen_ms = times.start() - 1;
        }
        seen_ms
    }

    /// A process has ended, and with it what it knew in memory only; no member has told a later time than `told_ms` yet,
    /// and W voters that are left know of `kept_ms`.
    pub(super) fn forgets(&mut self, told_ms: u64, kept_ms: u64) {
        self.forgotten.push(kept_ms.saturating_add(1)..=told_ms);
    }

    /// What was read is what the history says.
    pub(super) fn shows(&mut self, who: Sid, look: &Look) {
        let truth = &self.truth[look.shard];
        let want = truth.value(&look.key, look.applied, look.time_ms);
        let have = look.value.as_ref().map(|value| (&value.bytes, value.version));
        if look.applied > truth.len() || have != want {
            let (want, have) = (want.map(|(_, version)| version), have.map(|(_, version)| version));
            let key = String::from_utf8_lossy(&look.key);
            self.violation.get_or_insert_with(|| {
                format!("{who} read {key:?} of shard {} at {} as {have:?}, it is {want:?}", look.shard, look.applied)
            });
        }
    }

    /// I6: the index is the fold of the log.
    pub(super) fn folds(&mut self, who: Sid, number: usize, shard: &Shard) {
        if shard.state() != ShardState::Ready {
            return;
        }
        let (applied, time_ms) = (shard.applied(), shard.committed_time_ms());
        let truth = &self.truth[number];
        if applied > truth.len() {
            return self.broken(|| format!("{who} shows {applied} of shard {number}, which nobody committed"));
        }
        let page = match shard.scan(TreeId::DEFAULT, &ScanRange::all(), 10_000, usize::MAX, time_ms) {
            Ok(page) => page,
            Err(EngineError::Corrupt { .. }) if self.rotten.contains(&who) => return,
            Err(error) => return self.broken(|| format!("{who} cannot be scanned: {error}")),
        };
        let found: BTreeMap<_, _> = page.entries.iter().map(|(key, v)| (&key[..], (&v.bytes, v.version))).collect();
        let want: BTreeMap<_, _> =
            truth.keys().filter_map(|key| Some((&key[..], truth.value(key, applied, time_ms)?))).collect();
        if found != want {
            let differs = |key: &&&[u8]| found.get(**key) != want.get(**key);
            let keys: BTreeSet<&&[u8]> = found.keys().chain(want.keys()).filter(differs).collect();
            let told: Vec<String> = keys
                .iter()
                .map(|key| {
                    let (have, want) = (found.get(**key).map(|v| v.1), want.get(**key).map(|v| v.1));
                    format!("{}: {have:?}, want {want:?}", String::from_utf8_lossy(key))
                })
                .collect();
            self.broken(|| format!("the index of {who}, shard {number}, at {applied} is wrong: {}", told.join("; ")));
        }
    }

    /// Everything that was acknowledged is in a log.
    pub(super) fn holds_all(&mut self, who: Sid, number: usize, shard: &Shard) {
        let length = self.truth[number].len();
        self.agrees(who, number, shard, length);
        let have = shard.tail_gsn();
        if have < length {
            self.broken(|| format!("{who} ends shard {number} at {have} of {length} committed"));
        }
        self.folds(who, number, shard);
    }

    /// At the end: is what clients were told the history of one copy? What became of the question. Where time went back,
    /// or data were given up, it is none, and both are told elsewhere.
    pub(super) fn judge(&mut self) -> &'static str {
        if !self.gone_back.is_empty() || self.lineage > 0 {
            return "clients' histories that are not one copy's";
        }
        match self.recorder.judge(self.now) {
            Ok(true) => "clients' histories explained",
            Ok(false) => "clients' histories undecided",
            Err(why) => {
                self.broken(|| why);
                "clients' histories that nothing explains"
            }
        }
    }

    // --- looking ------------------------------------------------------------------------------------------

    /// Where `op` was appended.
    #[cfg(test)]
    pub(super) fn position(&self, op: Op) -> Option<(usize, LogPosition)> {
        self.positions.get(&op).copied()
    }

    /// Whether a client was told that `op` is done.
    #[cfg(test)]
    pub(super) fn is_acknowledged(&self, op: Op) -> bool {
        self.acknowledged.contains(&op)
    }

    /// Whether `op` is committed.
    #[cfg(test)]
    pub(super) fn is_committed(&self, op: Op) -> bool {
        self.place.contains_key(&op)
    }

    /// How many writes were acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    /// How many writes were told to be definitely not done after they had been appended.
    pub(super) fn nevers(&self) -> usize {
        self.never.len()
    }

    /// What was judged by a time before one that had been seen, and how often.
    pub(super) fn gone_back(&self) -> &Counts {
        &self.gone_back
    }

    /// How many writes were committed although nobody was told.
    pub(super) fn untold(&self) -> usize {
        self.place.keys().filter(|op| !self.acknowledged.contains(op)).count()
    }
}
