//! The following side: hello, the answer, chunks, acknowledgements, the leader's heartbeats.

use std::time::Duration;

use super::{Hands, Process, REDIAL, RETRY, writes};
use crate::engine::{ChunkError, LogChunk, ShardState, TruncateError};
use crate::ident::Sid;
use crate::position::{Epoch, Gsn};
use crate::replication::member_state::log_view;
use crate::replication::rules::{Reconcile, check_append, check_truncate};
use crate::simulation::Mutant;
use crate::simulation::wire::{Address, Message};
use crate::topology::message::LastConfig;

/// The leader's answer to a hello, until its configuration is durable.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) nonce: u64,
    pub(super) epoch: Epoch,
    pub(super) leader: Sid,
    pub(super) config: LastConfig,
    pub(super) shards: Vec<Reconcile>,
    pub(super) goal: Vec<Gsn>,
}

impl Process {
    pub(super) fn leader_address(&self) -> Option<(usize, Epoch, Sid)> {
        let following = self.core.following()?;
        let number = following.leader.address.rsplit(':').next()?.parse().ok()?;
        Some((number, following.epoch, following.leader.sid))
    }

    pub(super) fn say_hello(&mut self, hands: &mut Hands<'_>) {
        let Some((leader, epoch, _)) = self.leader_address() else { return };
        let nonce = hands.random.next();
        self.stream = nonce;
        self.early.clear();
        self.joined = None;
        self.said = self.clock(hands.now);
        self.hello = Some((nonce, self.said));
        let views = self.engine.shards().iter().map(|shard| log_view(shard)).collect();
        let speaker = self.speaker();
        hands.send(Address::Member(leader), Message::Hello { speaker, epoch, nonce, views });
    }

    /// The stream to the leader is of no use any more: it is opened again, but not all the time.
    pub(super) fn stream_broke(&mut self, hands: &mut Hands<'_>) {
        self.copying = None;
        self.to_copy.clear();
        if self.clock(hands.now) >= self.said + REDIAL {
            return self.say_hello(hands);
        }
        self.stream = 0;
        self.joined = None;
        self.hello = None;
    }

    pub(super) fn hello_is_due(&self, now: Duration) -> bool {
        let stale = self.hello.is_none_or(|(_, said)| now >= said + RETRY);
        self.core.following().is_some()
            && self.joined.is_none()
            && self.copying.is_none()
            && stale
            && self.running.is_none()
    }

    pub(super) fn join(&mut self, joining: Joining, hands: &mut Hands<'_>) {
        let Joining { nonce, epoch, leader, config: _, shards, goal } = joining;
        self.to_copy.clear();
        for (number, answer) in shards.into_iter().enumerate() {
            let shard = self.shard(number).clone();
            match answer {
                Reconcile::Match { at } => {
                    if shard.tail().last != at && hands.mutant != Some(Mutant::NoDivergenceCheck) {
                        return self.say_hello(hands);
                    }
                }
                Reconcile::Truncate { to } => {
                    if hands.mutant == Some(Mutant::NoDivergenceCheck) {
                        continue;
                    }
                    if let Err(refusal) = check_truncate(&self.core, epoch, leader, to.gsn, shard.commit()) {
                        if refusal.is_alarm() {
                            self.alarm(number, refusal, hands);
                        }
                        return;
                    }
                    if shard.tail_gsn() > to.gsn {
                        hands.count("logs truncated after a failover");
                    }
                    if !self.cut(number, to.gsn, hands) {
                        return;
                    }
                }
                Reconcile::Full { why } => {
                    hands.count(match why {
                        crate::replication::rules::FullReason::BelowFloor => "full copies for want of log",
                        crate::replication::rules::FullReason::Unfinished => "full copies of what was never finished",
                        crate::replication::rules::FullReason::Unsound => "full copies of what was unsound",
                    });
                    self.to_copy.push_back(number);
                }
                Reconcile::Diverged { common, commit } => {
                    return self.alarm(
                        number,
                        format!("committed {commit}, its leader {leader} shares {common:?}"),
                        hands,
                    );
                }
                Reconcile::Lacking { .. } => {
                    self.to_copy.clear();
                    return hands.count("unsound shards that nobody could mend yet");
                }
            }
        }
        if !self.to_copy.is_empty() {
            return self.next_copy(hands);
        }
        self.joined = Some((nonce, goal));
        self.acknowledge(hands);
    }

    /// Cuts a log; whether that is done.
    pub(super) fn cut(&mut self, shard: usize, to: Gsn, hands: &mut Hands<'_>) -> bool {
        match self.shard(shard).clone().truncate_to(to) {
            Ok(_) => {
                self.forget_cut(shard, to, hands);
                true
            }
            Err(TruncateError::BelowCommit { gsn, commit }) => {
                self.alarm(shard, format!("told to cut to {gsn} below its commit {commit}"), hands);
                false
            }
            Err(TruncateError::InsideBatch(gsn)) => {
                self.alarm(shard, format!("told to cut to {gsn}, which is inside a batch"), hands);
                false
            }
            Err(_) => false,
        }
    }

    pub(super) fn chunk(&mut self, (epoch, leader): (Epoch, Sid), chunk: LogChunk, commit: Gsn, hands: &mut Hands<'_>) {
        if self.joined.is_none() {
            return;
        }
        let number = usize::from(chunk.shard);
        // First: it frees the memory that the chunk needs.
        self.take_commit(number, commit, hands);
        let shard = self.shard(number).clone();
        let tail = shard.tail();
        let by_length = hands.mutant == Some(Mutant::NoDivergenceCheck) && chunk.prev.last.gsn == tail.last.gsn;
        let chunk = if by_length { chunk.onto(tail) } else { chunk };
        if let Err(refusal) = check_append(&self.core, epoch, leader, chunk.prev, tail) {
            if refusal.is_alarm() {
                self.alarm(number, refusal, hands);
            }
            // A chunk that was overtaken or sent twice is behind the end; one that was lost leaves a gap.
            if chunk.prev.last.gsn > tail.last.gsn && self.hello.is_none() {
                self.stream_broke(hands);
            }
            return;
        }
        match shard.append_chunk(&chunk) {
            Ok(_) => {}
            Err(error @ ChunkError::Diverged { .. }) => return self.alarm(number, error, hands),
            Err(ChunkError::MemoryFull) => return hands.count("chunks that found no memory"),
            Err(ChunkError::DiskFull) => {
                hands.count("chunks that found no room on the disk");
                // Of what was taken.
                if self.relaxed {
                    self.acknowledge(hands);
                }
                return;
            }
            Err(error @ ChunkError::Corrupt(_)) => return self.alarm(number, error, hands),
            Err(_) => return,
        }
        self.appended(hands);
        if self.relaxed {
            self.acknowledge(hands);
        }
        self.take_commit(number, commit, hands);
    }

    fn take_commit(&mut self, shard: usize, commit: Gsn, hands: &mut Hands<'_>) {
        let verified = self.shard(shard).tail_gsn();
        self.raise_commit(shard, commit.min(verified));
        self.run_commits(hands);
    }

    pub(super) fn acknowledge(&mut self, hands: &mut Hands<'_>) {
        let Some((number, epoch, leader)) = self.leader_address() else { return };
        let Some((nonce, goal)) = &self.joined else { return };
        if !self.core.may_acknowledge(epoch, leader) || self.failure().is_some() {
            return;
        }
        let unsynced = hands.mutant == Some(Mutant::AcknowledgesUnsynced);
        let durable: Vec<Gsn> = self.engine.shards().iter().map(|shard| writes::held(shard, unsynced)).collect();
        let applied: Vec<Gsn> = self.engine.shards().iter().map(|shard| shard.applied()).collect();
        let reached = goal.iter().zip(&durable).all(|(goal, have)| have >= goal);
        let nonce = *nonce;
        hands.send(Address::Member(number), Message::Ack { sid: self.me(), epoch, nonce, durable, applied });
        if reached {
            self.reached(hands);
        }
    }

    /// The log equals the leader's through what it was at hello, durably.
    fn reached(&mut self, hands: &mut Hands<'_>) {
        let waits = |state: ShardState| matches!(state, ShardState::Syncing | ShardState::Amnesic);
        if !self.engine.shards().iter().any(|shard| waits(shard.state())) {
            self.caught_up = true;
            return;
        }
        if self.engine.sync_all().is_err() {
            return;
        }
        for number in 0..self.engine.shards().len() {
            let shard = self.shard(number).clone();
            let state = shard.state();
            if waits(state.clone()) {
                if shard.set_state(ShardState::Ready).is_err() {
                    return;
                }
                hands.count(if state == ShardState::Syncing {
                    "shards made whole by copy or log"
                } else {
                    "amnesic shards made whole by a leader"
                });
                hands.oracle.agrees(self.me(), number, &shard, shard.commit());
                hands.oracle.folds(self.me(), number, &shard);
            }
        }
        // Said anew, so that the leader knows it as whole.
        self.say_hello(hands);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    pub(super) fn heartbeat(
        &mut self,
        from: Address,
        (epoch, leader): (Epoch, Sid),
        round: u64,
        commit: &[Gsn],
        tails: &[Gsn],
        (shard_time_ms, committed_time_ms): (u64, u64),
        hands: &mut Hands<'_>,
    ) {
        let now = self.clock(hands.now);
        if !self.core.heartbeat(epoch, leader, now) {
            if self.core.promise() > epoch {
                hands.send(from, Message::Later { epoch: self.core.promise() });
            }
            return;
        }
        self.leader_gone = false;
        self.known_time_ms = self.known_time_ms.max(shard_time_ms);
        let (sid, shard_time_ms, wall_ms) = (self.me(), self.known_time_ms, hands.wall_ms);
        let ack = Message::HeartbeatAck { sid, epoch, round, shard_time_ms, wall_ms };
        hands.send(from, ack);
        if self.joined.is_none() {
            return;
        }
        for (shard, &commit) in commit.iter().enumerate() {
            self.take_commit(shard, commit, hands);
        }
        self.commit_time(committed_time_ms, commit);
        // What a stream would have delivered in order may be lost here: begin anew.
        let behind = self.engine.shards().iter().zip(tails).any(|(shard, &tail)| shard.tail_gsn() < tail);
        if behind && hands.random.chance(300) {
            self.stream_broke(hands);
        } else {
            self.acknowledge(hands);
        }
    }

    /// So much shard time is known to W voters; a leader shows it, which had committed so much of each shard (empty: this
    /// one).
    pub(super) fn commit_time(&mut self, time_ms: u64, commits: &[Gsn]) {
        self.known_time_ms = self.known_time_ms.max(time_ms);
        for (number, shard) in self.engine.shards().iter().enumerate() {
            shard.note_committed_time(time_ms, commits.get(number).copied().unwrap_or(0));
        }
    }

    /// The followed leader's process is known to be gone.
    pub(in crate::simulation) fn leader_is_gone(&mut self, number: usize, hands: &mut Hands<'_>) {
        if self.leader_address().is_some_and(|(n, ..)| n == number) {
            self.leader_gone = true;
            self.report_to_all(hands);
        }
    }
}
