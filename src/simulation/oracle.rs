//! What must hold at every moment, checked against everything that ever happened.
//!
//! `truth` is the longest prefix of each shard's log that anybody ever knew to be committed. It only grows; whoever
//! commits anything must agree with it; whoever leads must have all of it; what a client was told must fit it.

use std::collections::{BTreeMap, BTreeSet};

use super::log::{BARRIER, Entry, Log, Op};
use crate::ident::Sid;
use crate::position::{Epoch, Gsn};

/// What clients were told, and what is committed.
#[derive(Debug)]
pub(super) struct Oracle {
    truth: Vec<Vec<Entry>>,
    /// The epoch that each of those was counted in first.
    counted_in: Vec<Vec<Epoch>>,
    place: BTreeMap<Op, (usize, Gsn)>,
    leaders: BTreeMap<Epoch, Sid>,
    acknowledged: BTreeSet<Op>,
    never: BTreeSet<Op>,
    /// Per shard: the highest gsn that an answered client has seen.
    seen: Vec<Gsn>,
    violation: Option<String>,
}

impl Oracle {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            truth: vec![Vec::new(); shards],
            counted_in: vec![Vec::new(); shards],
            place: BTreeMap::new(),
            leaders: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            never: BTreeSet::new(),
            seen: vec![0; shards],
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

    /// `who` learnt in `epoch` that `log` is committed up to `commit`.
    pub(super) fn committed(&mut self, who: Sid, epoch: Epoch, shard: usize, log: &Log, commit: Gsn) {
        let truth = &mut self.truth[shard];
        let known = truth.len();
        let commit = commit as usize;
        if commit > log.entries().len() {
            let len = log.entries().len();
            self.broken(|| format!("{who} calls {commit} of shard {shard} committed and holds only {len}"));
            return;
        }
        if commit <= known {
            // Compared when it was new; a log that differs below is caught by its leader or at the end.
            return;
        }
        if log.entries()[..known] != truth[..] {
            self.broken(|| format!("{who} commits another history of shard {shard} below {known}"));
            return;
        }
        for (gsn, &entry) in (known as Gsn + 1..).zip(&log.entries()[known..commit]) {
            truth.push(entry);
            self.counted_in[shard].push(epoch);
            if entry.op == BARRIER {
                continue;
            }
            if self.place.insert(entry.op, (shard, gsn)).is_some() {
                let op = entry.op;
                self.violation.get_or_insert_with(|| format!("write {op} is committed twice"));
            }
            if self.never.contains(&entry.op) {
                let op = entry.op;
                self.violation.get_or_insert_with(|| {
                    format!("write {op} was answered \"definitely not\" and is committed as {gsn} of shard {shard}")
                });
            }
        }
    }

    /// `who` follows with a log whose commit it was told: it must agree with everybody's.
    pub(super) fn agrees(&mut self, who: Sid, shard: usize, log: &Log, commit: Gsn) {
        let commit = commit as usize;
        let truth = &self.truth[shard];
        let common = commit.min(truth.len());
        if log.entries().len() < common || log.entries()[..common] != truth[..common] {
            self.broken(|| format!("{who} lost or changed committed entries of shard {shard} below {common}"));
        }
    }

    /// `who` leads `epoch`.
    pub(super) fn leads(&mut self, who: Sid, epoch: Epoch, logs: &[Log]) {
        let first = *self.leaders.entry(epoch).or_insert(who);
        if first != who {
            self.broken(|| format!("epoch {epoch} has two leaders, {first} and {who}"));
        }
        for (shard, log) in logs.iter().enumerate() {
            // A late PROMOTE of an epoch that is over makes a leader that can commit nothing: what later epochs
            // committed it need not have.
            let want = self.counted_in[shard].iter().rposition(|&e| e < epoch).map_or(0, |last| last + 1);
            let truth = &self.truth[shard][..want];
            if log.entries().len() < want || log.entries()[..want] != *truth {
                let have = log.entries().len();
                self.broken(|| {
                    format!("{who} leads epoch {epoch} without all of shard {shard}: {want} are committed, it has {have} or others")
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

    /// A client was told that `op` is done, at `gsn`.
    pub(super) fn acknowledge(&mut self, op: Op, shard: usize, gsn: Gsn) {
        self.acknowledged.insert(op);
        self.seen[shard] = self.seen[shard].max(gsn);
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
        if let Some(&(shard, gsn)) = self.place.get(&op) {
            self.broken(|| format!("write {op} was answered \"definitely not\" and is {gsn} of shard {shard}"));
        }
    }

    /// What a read that begins now must show, per shard.
    pub(super) fn seen(&self) -> Vec<Gsn> {
        self.seen.clone()
    }

    /// A linearizable read was answered from `applied`; when it began, `required` had been seen.
    pub(super) fn read(&mut self, who: Sid, applied: &[Gsn], required: &[Gsn]) {
        for (shard, (&have, &want)) in applied.iter().zip(required).enumerate() {
            if have < want {
                self.broken(|| format!("{who} answered a read of shard {shard} from {have}, {want} had been seen"));
            }
            self.seen[shard] = self.seen[shard].max(have);
        }
    }

    /// Everything that was acknowledged is in `log`.
    pub(super) fn holds_all(&mut self, who: Sid, shard: usize, log: &Log) {
        let length = self.truth[shard].len() as Gsn;
        self.agrees(who, shard, log, length);
        if log.len() < length {
            self.broken(|| format!("{who} ends shard {shard} at {} of {length} committed", log.len()));
        }
    }

    /// Whether a client was told that `op` is done.
    pub(super) fn is_acknowledged(&self, op: Op) -> bool {
        self.acknowledged.contains(&op)
    }

    /// Whether `op` is committed.
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
}
