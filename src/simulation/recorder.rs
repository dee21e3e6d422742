//! What clients asked and were told, for the checker: it knows nothing of logs, and judges what the [`Oracle`] cannot be
//! wrong about in the same way.
//!
//! [`Oracle`]: super::oracle::Oracle

use std::collections::BTreeMap;
use std::time::Duration;

use super::oracle::{Look, Op};
use crate::checker::{self, Change, History, Key, Lifetime, Outcome, Time, Value, Version};
use crate::engine::{Condition, Expect, WriteBatch, WriteOp};
use crate::position::LogPosition;

/// What needs more is left undecided: the next seed says more than a long look at this one.
const SITUATIONS: usize = 20_000;

/// A history as it grows.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    history: History,
    /// Writes without an answer so far.
    open: BTreeMap<Op, (Time, usize, WriteBatch)>,
}

fn time(now: Duration) -> Time {
    u64::try_from(now.as_nanos()).unwrap_or(Time::MAX)
}

fn value(bytes: &[u8]) -> Value {
    Value(xxhash_rust::xxh3::xxh3_64(bytes))
}

fn version(position: LogPosition) -> Version {
    Version { lineage: 0, position }
}

impl Recorder {
    pub(super) fn asked(&mut self, op: Op, shard: usize, batch: &WriteBatch, now: Duration) {
        self.open.insert(op, (time(now), shard, batch.clone()));
    }

    /// It is done: its first entry is `first`, and the others follow it.
    pub(super) fn done(&mut self, op: Op, first: LogPosition, now: Duration) {
        self.answered(op, Some(first), Outcome::Done, now);
    }

    /// It is not done and never will be.
    pub(super) fn refused(&mut self, op: Op, now: Duration) {
        self.answered(op, None, Outcome::Refused, now);
    }

    /// A condition of it did not hold.
    pub(super) fn failed(&mut self, op: Op, condition: &Condition, now: Duration) {
        let index = self.open.get(&op).and_then(|(.., batch)| batch.conditions.iter().position(|c| c == condition));
        self.answered(op, None, Outcome::ConditionFailed(index.unwrap_or(0)), now);
    }

    pub(super) fn read(&mut self, look: &Look, asked: Duration, now: Duration) {
        let key = self.key(look.shard, &look.key);
        let saw = look.value.as_ref().map(|found| (value(&found.bytes), Some(version(found.version))));
        self.history.read(0, (time(asked), time(now)), key, saw);
    }

    /// What the checker says: an error, if nothing explains the history; else whether it could decide.
    pub(super) fn judge(&mut self, now: Duration) -> Result<bool, String> {
        let open: Vec<Op> = self.open.keys().copied().collect();
        for op in open {
            self.answered(op, None, Outcome::Unknown, now);
        }
        let report = checker::check_within(&self.history, SITUATIONS);
        if report.violations.is_empty() {
            Ok(report.is_linearizable())
        } else {
            Err(format!("the clients' history: {report}"))
        }
    }

    fn key(&mut self, shard: usize, key: &[u8]) -> Key {
        self.history.key(&format!("{shard}/{}", key.escape_ascii()))
    }

    fn answered(&mut self, op: Op, first: Option<LogPosition>, outcome: Outcome, now: Duration) {
        let Some((call, shard, batch)) = self.open.remove(&op) else { return };
        let conditions = batch.conditions.iter().map(|condition| checker::Condition {
            key: self.key(shard, &condition.key),
            expect: match condition.expect {
                Expect::Absent => checker::Expect::Absent,
                Expect::Present => checker::Expect::Present,
                Expect::Version(at) => checker::Expect::Version(version(at)),
            },
        });
        let conditions = conditions.collect();
        let mut changes = Vec::new();
        for (place, op) in (0..).zip(&batch.ops) {
            let version = first.map(|first| version(LogPosition::new(first.epoch, first.gsn + place)));
            changes.push(match op {
                WriteOp::Put { key, value: bytes, expires_ms, .. } => Change::Put {
                    key: self.key(shard, key),
                    value: value(bytes),
                    version,
                    // By which clock is not the checker's affair.
                    lifetime: expires_ms.map(|_| Lifetime { earliest: call, latest: None }),
                },
                WriteOp::Delete { key, .. } => Change::Delete { key: self.key(shard, key), version },
                WriteOp::CreateTree { .. } => continue,
            });
        }
        self.history.write(0, (call, time(now)), conditions, changes, outcome);
    }
}
