//! Clients: batches appended, reads taken, what is committed shown, and what each is told in the end.

use super::{Hands, Process, Timer};
use crate::engine::{AppendError, Appended, Condition, Shard, TreeId, WriteBatch};
use crate::position::{Epoch, Gsn, LogPosition};
use crate::replication::rules::{Outcome, outcome};
use crate::simulation::Mutant;
use crate::simulation::oracle::{Look, Op};

/// A write whose client waits.
#[derive(Debug)]
pub(super) enum Waiting {
    /// It is in the log.
    Write { op: Op, shard: usize, at: LogPosition },
    /// A condition did not hold; told once what it was judged by is committed and the lease was looked at.
    Condition { op: Op, shard: usize, epoch: Epoch, condition: Condition, judged_at: Gsn, time_ms: u64 },
}

impl Waiting {
    pub(super) fn is_condition(&self) -> bool {
        matches!(self, Self::Condition { .. })
    }
}

/// How an attempt to write ended at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::simulation) enum Put {
    /// It is in the log, or waits to be refused.
    Waits,
    /// It is not done and never will be.
    Refused,
}

impl Process {
    pub(in crate::simulation) fn put(
        &mut self,
        op: Op,
        shard: usize,
        batch: &WriteBatch,
        hands: &mut Hands<'_>,
    ) -> Put {
        let now = self.clock(hands.now);
        let epoch = match self.core.term() {
            Some(term) if self.core.leads(term.config.epoch) => term.config.epoch,
            _ => return Put::Refused,
        };
        let suspended = self.core.lease().is_some_and(|lease| lease.suspended(now));
        if suspended || self.drain.is_some() || self.is_hung() {
            return Put::Refused;
        }
        let data = self.shard(shard);
        let judged_ms = if batch.conditions.is_empty() { 0 } else { data.judging_time_ms() };
        match data.append(epoch, batch) {
            Ok(Appended::Written { position, first_gsn }) => {
                if !batch.conditions.is_empty() {
                    hands.count("conditional writes appended");
                }
                hands.oracle.appended(op, shard, position, first_gsn, &batch.conditions, judged_ms);
                self.waiting.push(Waiting::Write { op, shard, at: position });
                self.appended(hands);
                if self.relaxed || hands.mutant == Some(Mutant::LeaderCountsUnsynced) {
                    self.count_own(hands);
                }
                self.ship(hands);
                Put::Waits
            }
            Ok(Appended::ConditionFailed { index, judged_at }) => {
                let condition = batch.conditions[index].clone();
                self.waiting.push(Waiting::Condition { op, shard, epoch, condition, judged_at, time_ms: judged_ms });
                self.answer_waiting(hands);
                Put::Waits
            }
            Err(AppendError::MemoryFull) => {
                hands.count("writes refused for want of memory");
                Put::Refused
            }
            Err(AppendError::DiskFull) => {
                hands.count("writes refused by a full disk");
                Put::Refused
            }
            Err(_) => Put::Refused,
        }
    }

    /// Shard time, as a leader tells it.
    pub(in crate::simulation) fn shard_time_ms(&self, now: std::time::Duration) -> u64 {
        match &self.term {
            Some(term) => term.shard_time.lock().at(self.clock(now)),
            None => self.known_time_ms,
        }
    }

    /// Largest time that it heard of, or showed.
    pub(in crate::simulation) fn known_time_ms(&self) -> u64 {
        self.known_time_ms
    }

    /// A read takes the value first...
    pub(in crate::simulation) fn read_begins(&self, shard: usize, key: &[u8]) -> Option<Result<(Look, Epoch), String>> {
        if !(self.leads() && self.serving()) || self.is_hung() {
            return None;
        }
        let data = self.shard(shard);
        let (applied, time_ms) = (data.applied(), data.committed_time_ms());
        let epoch = self.core.term().map_or(0, |term| term.config.epoch);
        match data.get(TreeId::DEFAULT, key, time_ms) {
            Ok(value) => Some(Ok((Look { shard, key: key.to_vec(), applied, time_ms, value }, epoch))),
            Err(error) => Some(Err(error.to_string())),
        }
    }

    /// ... and asks for the lease afterwards.
    pub(in crate::simulation) fn read_ends(&self, epoch: Epoch, now: std::time::Duration) -> bool {
        let now = self.clock(now);
        self.core.leads(epoch) && self.serving() && self.core.lease().is_some_and(|lease| lease.valid(now))
    }

    // --- commit -------------------------------------------------------------------------------------------

    /// Everything of a shard up to `gsn` is committed, and the log here agrees up to it.
    pub(super) fn raise_commit(&mut self, shard: usize, gsn: Gsn) {
        self.targets[shard] = self.targets[shard].max(gsn);
    }

    /// Moves what is committed into the index. Nothing that a leader commits may be seen before every older lease has
    /// ended.
    pub(super) fn run_commits(&mut self, hands: &mut Hands<'_>) {
        let now = self.clock(hands.now);
        let hold = self.core.lease().map(|lease| lease.wait_remaining(now)).filter(|wait| !wait.is_zero());
        if let Some(hold) = hold {
            if (0..self.targets.len()).any(|s| self.targets[s] > self.shard(s).commit()) {
                hands.count("commits held back for an older lease");
            }
            // Its clock may run slower than time.
            return hands.after(hold + hold / 1000, Timer::Commits);
        }
        for number in 0..self.targets.len() {
            let shard = self.shard(number).clone();
            let before = shard.commit();
            if self.targets[number] > before {
                shard.advance_commit(self.targets[number]);
                let after = shard.commit();
                if after > before {
                    hands.oracle.committed(self.me(), self.core.promise(), number, &shard, after);
                }
            }
        }
        self.check_serving(hands);
        self.answer_waiting(hands);
        self.drained(hands);
    }

    /// Whether the BARRIERs are committed and shown: from then on the leader serves.
    fn check_serving(&mut self, hands: &mut Hands<'_>) {
        let Some(term) = &self.term else { return };
        if term.begins_to_serve(self.engine.shards()) {
            self.caught_up = true;
            hands.count("terms that served");
        }
    }

    /// R16: tells clients what is certain.
    pub(super) fn answer_waiting(&mut self, hands: &mut Hands<'_>) {
        if self.waiting.is_empty() {
            return;
        }
        let now = self.clock(hands.now);
        let unsynced = hands.mutant == Some(Mutant::LeaderCountsUnsynced);
        let shown: Vec<Gsn> =
            self.engine.shards().iter().map(|s| if unsynced { s.commit() } else { s.applied() }).collect();
        let tables: Vec<_> = self.engine.shards().iter().map(|shard| shard.epoch_table()).collect();
        let (core, serving) = (&self.core, self.serving());
        let leases = |epoch| core.leads(epoch) && serving && core.lease().is_some_and(|lease| lease.valid(now));
        self.waiting.retain(|waiting| match waiting {
            Waiting::Write { op, shard, at } => match outcome(*at, shown[*shard], &tables[*shard]) {
                Outcome::Unknown => true,
                Outcome::Committed => {
                    hands.oracle.acknowledge(*op, *shard, at.gsn);
                    false
                }
                Outcome::DefinitelyNot => {
                    hands.oracle.never(*op);
                    hands.count("writes told to be not done after they were appended");
                    false
                }
            },
            Waiting::Condition { op, shard, epoch, condition, judged_at, time_ms } => {
                if shown[*shard] < *judged_at || !leases(*epoch) {
                    return core.leads(*epoch);
                }
                hands.oracle.refused(*op, *shard, condition, *judged_at, *time_ms);
                hands.count("conditions answered");
                false
            }
        });
    }

    /// A page of a shard's log is gone for its clients: it is cut.
    pub(super) fn forget_cut(&mut self, shard: usize, to: Gsn, hands: &mut Hands<'_>) {
        if hands.mutant == Some(Mutant::TruncationIsAnAnswer) {
            self.waiting.retain(|waiting| {
                let Waiting::Write { op, shard: of, at } = waiting else { return true };
                let gone = *of == shard && at.gsn > to;
                if gone {
                    hands.oracle.never(*op);
                }
                !gone
            });
        }
    }
}

/// What of a shard counts as held by whoever asks.
pub(super) fn held(shard: &Shard, unsynced: bool) -> Gsn {
    if unsynced { shard.tail_gsn() } else { shard.durable_gsn() }
}
