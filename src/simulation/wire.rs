//! What travels: controllers' requests, and what members say to each other.

use std::fmt;

use super::log::Entry;
use crate::ident::Sid;
use crate::position::{Epoch, Gsn, LogTail};
use crate::replication::rules::{LogView, Reconcile};
use crate::topology::message::{HealthReport, LastConfig, Refusal, Reply, Request};

/// Who is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Address {
    /// A member, by ordinal.
    Member(usize),
    /// A controller, by rank.
    Controller(usize),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(number) => write!(f, "m-{number}"),
            Self::Controller(rank) => write!(f, "controller {rank}"),
        }
    }
}

/// What is said.
#[derive(Debug, Clone)]
pub(super) enum Message {
    /// Controller to member.
    Request { id: u64, request: Box<Request> },
    /// Member to controller.
    Reply { id: u64, reply: Box<Reply> },
    /// Member to controller.
    Report(Box<HealthReport>),
    /// Follower to leader; `nonce` is the stream that is opened with it.
    Hello { sid: Sid, epoch: Epoch, nonce: u64, views: Vec<LogView> },
    /// Leader to follower.
    Answer { nonce: u64, epoch: Epoch, leader: Sid, config: LastConfig, shards: Vec<Reconcile>, goal: Vec<Gsn> },
    /// Leader to follower.
    Chunk { epoch: Epoch, leader: Sid, shard: usize, prev: LogTail, entries: Vec<Entry>, commit: Gsn },
    /// Leader to follower: a whole copy of what is committed.
    Copy { nonce: u64, epoch: Epoch, leader: Sid, shard: usize, entries: Vec<Entry> },
    /// Follower to leader.
    Ack { sid: Sid, epoch: Epoch, nonce: u64, durable: Vec<Gsn> },
    /// Leader to follower.
    Heartbeat { epoch: Epoch, leader: Sid, round: u64, commit: Vec<Gsn>, tails: Vec<Gsn> },
    /// Follower to leader.
    HeartbeatAck { sid: Sid, epoch: Epoch, round: u64 },
    /// Leader to follower: there is no such stream (any more).
    Closed { nonce: u64 },
    /// Someone who was addressed as the leader of an older epoch, or speaks from an older one, learns of a later one.
    Later { epoch: Epoch },
    /// Candidate to donor.
    Fetch { epoch: Epoch, from: Sid, to: Sid, shard: usize, view: LogView, target: LogTail },
    /// Donor to candidate.
    Tail { epoch: Epoch, shard: usize, result: Result<(Gsn, Vec<Entry>), Refusal> },
}

impl Message {
    /// In a few words, unless it says the same all the time.
    pub(super) fn brief(&self) -> Option<String> {
        Some(match self {
            Self::Hello { epoch, views, .. } => {
                let ends: Vec<_> = views.iter().map(|v| (v.tail.last.epoch, v.tail.last.gsn, v.commit)).collect();
                format!("hello of epoch {epoch}, (epoch, end, commit) {ends:?}")
            }
            Self::Answer { epoch, shards, goal, .. } => format!("answer of epoch {epoch} {shards:?} goal {goal:?}"),
            Self::Chunk { epoch, shard, prev, entries, .. } => {
                format!("{} entries of shard {shard} in epoch {epoch} after {:?}", entries.len(), prev.last)
            }
            Self::Copy { epoch, shard, entries, .. } => {
                format!("a copy of shard {shard} in epoch {epoch}, {} entries", entries.len())
            }
            Self::Fetch { epoch, shard, target, .. } => {
                format!("fetch of shard {shard} in epoch {epoch} to {:?}", target.last)
            }
            Self::Tail { epoch, shard, result } => {
                format!(
                    "tail of shard {shard} in epoch {epoch}: {:?}",
                    result.as_ref().map(|(from, e)| (from, e.len()))
                )
            }
            Self::Later { epoch } => format!("epoch {epoch} exists"),
            Self::Reply { reply, .. } => match &**reply {
                crate::topology::message::Reply::Refused(why, _) => format!("refused: {why}"),
                _ => return None,
            },
            _ => return None,
        })
    }
}
