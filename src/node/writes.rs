//! Writes: from a request to a batch of one shard, and from an appended batch to its outcome.
//!
//! A write ends in one of three ways: done, definitely not done, or *indeterminate*. Only what was appended
//! can be indeterminate. A wait goes on after the leadership was lost, because this member usually learns
//! soon from the next leader what became of the entry (R16); only the deadline ends it without an answer.
//! Does not do: wait. The unary calls and the stream each wait in their own way.

use std::time::Duration;

use super::core::Core;
use super::errors::Refused;
use super::reads::key_hash;
use super::replica::{Outcome, ShardProgress};
use crate::engine::{Condition, Expect, WriteBatch, WriteOp};
use crate::net::proto::{self, AckLevel};
use crate::position::{Gsn, LogPosition};

/// How long a write is waited for when its request does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time a request may ask to be waited for.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// A checked write.
#[derive(Debug)]
pub(crate) struct PreparedWrite {
    pub shard: u16,
    pub batch: WriteBatch,
    pub ack: AckLevel,
    pub timeout: Duration,
    /// Of every key it touches or judges: what must not overtake an earlier read of the same key.
    pub key_hashes: Vec<u64>,
}

/// An appended batch whose outcome is awaited.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub shard: u16,
    /// Its last record.
    pub at: LogPosition,
    pub first_gsn: Gsn,
    pub ops: u32,
    pub ack: AckLevel,
    pub lineage: u64,
}

/// Checks a request and makes the batch; nothing is appended yet.
pub(crate) fn prepare(core: &Core, request: proto::WriteRequest) -> Result<PreparedWrite, Refused> {
    core.check_route(request.route.as_ref())?;
    let ack = match AckLevel::try_from(request.ack) {
        Ok(AckLevel::Default) => core.default_ack,
        Ok(level) => level,
        Err(_) => return Err(Refused::invalid(format!("ack level {} is not known", request.ack))),
    };
    if request.ops.is_empty() && request.conditions.is_empty() {
        return Err(Refused::invalid("the write is empty: give it an operation or a condition"));
    }
    let mut keys = KeysOfOneShard { core, shard: None, first_key: None, hashes: Vec::with_capacity(request.ops.len()) };
    let mut conditions = Vec::with_capacity(request.conditions.len());
    for condition in request.conditions {
        keys.add(&condition.key)?;
        let expect = match condition.expect {
            Some(proto::condition::Expect::Absent(true)) | Some(proto::condition::Expect::Present(false)) => {
                Expect::Absent
            }
            Some(proto::condition::Expect::Present(true)) | Some(proto::condition::Expect::Absent(false)) => {
                Expect::Present
            }
            Some(proto::condition::Expect::Version(position)) => expect_version(core, &position, &condition.key)?,
            None => return Err(Refused::invalid("a condition expects nothing: say absent, present or a version")),
        };
        conditions.push(Condition { tree: core.tree(&condition.tree)?, key: condition.key, expect });
    }
    let mut ops = Vec::with_capacity(request.ops.len());
    for op in request.ops {
        ops.push(match op.op {
            Some(proto::op::Op::Put(put)) => {
                keys.add(&put.key)?;
                let value_type = u8::try_from(put.value_type)
                    .map_err(|_| Refused::invalid(format!("value type {} is above 255", put.value_type)))?;
                let expires_ms = match put.ttl_ms {
                    Some(0) => return Err(Refused::invalid("ttl_ms is 0: leave it out, or give 1 or more")),
                    Some(ttl) => Some(core.replica.shard_time_ms().saturating_add(ttl)),
                    None => None,
                };
                WriteOp::Put { tree: core.tree(&put.tree)?, key: put.key, value: put.value, expires_ms, value_type }
            }
            Some(proto::op::Op::Delete(delete)) => {
                keys.add(&delete.key)?;
                WriteOp::Delete { tree: core.tree(&delete.tree)?, key: delete.key }
            }
            None => return Err(Refused::invalid("an operation is neither a put nor a delete")),
        });
    }
    let timeout = match request.timeout_ms {
        0 => DEFAULT_TIMEOUT,
        ms => Duration::from_millis(u64::from(ms)).min(MAX_TIMEOUT),
    };
    Ok(PreparedWrite {
        shard: keys.shard.expect("there is an operation or a condition, and each has a key"),
        batch: WriteBatch { conditions, ops },
        ack,
        timeout,
        key_hashes: keys.hashes,
    })
}

fn expect_version(core: &Core, position: &proto::Position, key: &[u8]) -> Result<Expect, Refused> {
    let positions = core.positions_of(&proto::Token { positions: vec![*position] })?;
    match positions.first() {
        Some(&(shard, at)) if shard == core.shard_of(key) => Ok(Expect::Version(at)),
        _ => Err(Refused::invalid("a condition expects the version of a key of another shard or partition")),
    }
}

/// One write is one atomic batch, and a batch lives in one shard.
struct KeysOfOneShard<'a> {
    core: &'a Core,
    shard: Option<u16>,
    first_key: Option<Vec<u8>>,
    hashes: Vec<u64>,
}

impl KeysOfOneShard<'_> {
    fn add(&mut self, key: &[u8]) -> Result<(), Refused> {
        self.core.check_key(key)?;
        let shard = self.core.shard_of(key);
        match self.shard {
            None => {
                self.shard = Some(shard);
                // Kept only for the message below.
                if self.core.shards().len() > 1 {
                    self.first_key = Some(key.to_vec());
                }
            }
            Some(first) if first != shard => {
                return Err(Refused::invalid(format!(
                    "keys {} and {} are in different shards ({first} and {shard}), and one write is one atomic batch \
                     of one shard: send them separately, or give them a common hash tag, as in {{user1}}.name and \
                     {{user1}}.mail",
                    shown(self.first_key.as_deref().unwrap_or_default()),
                    shown(key),
                )));
            }
            Some(_) => {}
        }
        self.hashes.push(key_hash(key));
        Ok(())
    }
}

/// A key in a message: at most 64 bytes of it.
fn shown(key: &[u8]) -> String {
    let cut = &key[..key.len().min(64)];
    format!("\"{}{}\"", cut.escape_ascii(), if cut.len() < key.len() { "…" } else { "" })
}

impl Pending {
    /// What became of it, as far as `progress` tells; `None`: wait on.
    pub(crate) fn settle(&self, core: &Core, progress: &ShardProgress) -> Option<Result<(), Refused>> {
        let gsn = self.at.gsn;
        if progress.epoch == self.at.epoch {
            let reached = match self.ack {
                AckLevel::Leader => progress.durable.max(progress.applied) >= gsn,
                AckLevel::All => progress.applied >= gsn && core.replica.acked_by_all(self.shard) >= gsn,
                // Visible, not merely committed: a read that follows the answer sees it.
                AckLevel::Quorum | AckLevel::Default => progress.applied >= gsn,
            };
            if reached {
                return Some(Ok(()));
            }
        }
        if core.led_epoch() == Some(self.at.epoch) {
            return None;
        }
        match core.replica.outcome(self.shard, self.at) {
            // That every voter has it is no longer known to anybody here.
            Outcome::Committed if self.ack != AckLevel::All => Some(Ok(())),
            Outcome::DefinitelyNot => Some(Err(Refused::not_leader_now(&core.leadership()))),
            Outcome::Committed | Outcome::Unknown => None,
        }
    }

    /// The answer of a write that is done.
    pub(crate) fn answer(&self, core: &Core) -> proto::WriteResponse {
        let position = |gsn| core.position(self.lineage, self.shard, LogPosition::new(self.at.epoch, gsn));
        proto::WriteResponse {
            applied: true,
            failed_condition: 0,
            token: Some(self.token(core)),
            versions: (0..u64::from(self.ops)).map(|i| position(self.first_gsn + i)).collect(),
        }
    }

    /// The answer when nobody waits any longer.
    pub(crate) fn indeterminate(&self, core: &Core, why: &str) -> Refused {
        Refused::indeterminate(self.token(core), why)
    }

    fn token(&self, core: &Core) -> proto::Token {
        proto::Token { positions: vec![core.position(self.lineage, self.shard, self.at)] }
    }
}

/// The answer of a write whose condition did not hold.
pub(crate) fn condition_failed(index: usize) -> proto::WriteResponse {
    proto::WriteResponse {
        applied: false,
        failed_condition: u32::try_from(index).unwrap_or(u32::MAX),
        token: None,
        versions: Vec::new(),
    }
}

/// What a write that was not done in time answers, if it was never appended.
pub(crate) fn gate_timeout() -> Refused {
    Refused::unavailable("not written: leadership was changing hands for longer than the request could wait")
}
