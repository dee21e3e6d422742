//! What travels: controllers' requests, and what members say to each other.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::engine::{LogChunk, SnapshotManifest, Wanted};
use crate::ident::{InstanceId, Sid};
use crate::position::{Epoch, EpochTable, Gsn, LogTail};
use crate::replication::rules::{LogView, Reconcile};
use crate::topology::message::{HealthReport, LastConfig, Refusal, Reply, Request, VoterFigure};

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

/// Who speaks, as a hello shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Speaker {
    pub(super) sid: Sid,
    pub(super) open_count: u64,
    pub(super) instance: InstanceId,
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
    Hello { speaker: Speaker, epoch: Epoch, nonce: u64, views: Vec<LogView> },
    /// Leader to follower.
    Answer { nonce: u64, epoch: Epoch, leader: Sid, config: LastConfig, shards: Vec<Reconcile>, goal: Vec<Gsn> },
    /// Leader to follower.
    Chunk { epoch: Epoch, leader: Sid, chunk: LogChunk, commit: Gsn },
    /// Follower to leader.
    Ack { sid: Sid, epoch: Epoch, nonce: u64, durable: Vec<Gsn>, applied: Vec<Gsn> },
    /// Leader to follower.
    Heartbeat {
        epoch: Epoch,
        leader: Sid,
        round: u64,
        commit: Vec<Gsn>,
        tails: Vec<Gsn>,
        shard_time_ms: u64,
        committed_time_ms: u64,
        figures: Vec<VoterFigure>,
        /// For how long nothing else of the leader has run.
        tick_age: Duration,
    },
    /// Follower to leader.
    HeartbeatAck { sid: Sid, epoch: Epoch, round: u64, shard_time_ms: u64, wall_ms: u64 },
    /// Leader to follower: there is no such stream (any more).
    Closed { nonce: u64 },
    /// Follower to leader: what a damaged file of it lacks.
    Want { epoch: Epoch, shard: usize, file: u32, wanted: Vec<Wanted> },
    /// Leader to follower.
    Entries { epoch: Epoch, shard: usize, file: u32, records: Vec<(Gsn, Bytes)> },
    /// Someone who was addressed as the leader of an older epoch, or speaks from an older one, learns of a later one.
    Later { epoch: Epoch },
    /// Candidate to donor.
    Fetch { epoch: Epoch, to: Sid, shard: usize, tail: LogTail, epochs: EpochTable, target: LogTail },
    /// Donor to candidate: where to cut, and what follows.
    Tail { epoch: Epoch, shard: usize, result: Result<(Gsn, Vec<LogChunk>), Refusal> },
    /// Follower to leader, or candidate to `donor`: a snapshot of a shard is wanted; the one that was given last, if
    /// `again`.
    Pin { nonce: u64, epoch: Epoch, sid: Sid, donor: Option<Sid>, shard: usize, again: bool },
    /// The answer: what the snapshot consists of.
    Manifest { nonce: u64, shard: usize, manifest: Box<SnapshotManifest> },
    /// As for `Pin`: a piece of a file is wanted.
    Ask { nonce: u64, epoch: Epoch, sid: Sid, donor: Option<Sid>, shard: usize, name: String, offset: u64 },
    /// The answer.
    Part { nonce: u64, shard: usize, name: String, offset: u64, bytes: Bytes },
}

impl Message {
    /// In a few words, unless it says the same all the time.
    pub(super) fn brief(&self) -> Option<String> {
        Some(match self {
            Self::Hello { epoch, views, .. } => {
                let ends: Vec<_> =
                    views.iter().map(|v| (v.state, v.tail.last.epoch, v.tail.last.gsn, v.commit)).collect();
                format!("hello of epoch {epoch}, (state, epoch, end, commit) {ends:?}")
            }
            Self::Answer { epoch, shards, goal, .. } => format!("answer of epoch {epoch} {shards:?} goal {goal:?}"),
            Self::Chunk { epoch, chunk, .. } => {
                format!(
                    "entries {} to {} of shard {} in epoch {epoch}",
                    chunk.first_gsn, chunk.last.last.gsn, chunk.shard
                )
            }
            Self::Fetch { epoch, shard, target, .. } => {
                format!("fetch of shard {shard} in epoch {epoch} to {:?}", target.last)
            }
            Self::Tail { epoch, shard, result } => {
                let given = result.as_ref().map(|(from, chunks)| (from, chunks.last().map(|c| c.last.last.gsn)));
                format!("tail of shard {shard} in epoch {epoch}: {given:?}")
            }
            Self::Later { epoch } => format!("epoch {epoch} exists"),
            Self::Pin { shard, again, .. } => format!("a snapshot of shard {shard} is wanted (again: {again})"),
            Self::Manifest { shard, manifest, .. } => {
                format!("a snapshot of shard {shard} up to {:?}, {} files", manifest.g0.last, manifest.files.len())
            }
            Self::Reply { reply, .. } => match &**reply {
                Reply::Refused(why, _) => format!("refused: {why}"),
                _ => return None,
            },
            _ => return None,
        })
    }
}
