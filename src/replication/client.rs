//! The following side of log shipping: a stream to the leader that is opened again whenever it breaks.
//!
//! Hello tells what this member has; the answer joins its log to the leader's (match, truncate, full copy); then
//! chunks arrive in order, and what has become durable is acknowledged cumulatively. Every append and every cut is
//! made under the shard's append lock after asking whether the leader is still followed (R3, R6). An order to cut
//! committed entries is never obeyed. Ends with its token: role changes cut it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::full_sync::{self, Progress, Source};
use super::member_state::{MemberState, data_state, log_view};
use super::protocol::{self, ProtocolError, WireChunk};
use super::roles::Roles;
use super::rules::{AppendRefusal, Following, check_append, check_truncate};
use crate::engine::{ChunkError, LogChunk, ShardState, TruncateError};
use crate::net::peer::{DialError, Lane, PeerChannel, dial, replication};
use crate::net::proto::{self, follower_message, leader_message, shard_answer};
use crate::position::Gsn;
use crate::topology::message::{DataState, LastConfig};

/// A leader that does not take a connection within this time is silent.
const CONNECT: Duration = Duration::from_secs(1);
/// Between attempts.
const REDIAL: Duration = Duration::from_millis(50);
/// An acknowledgement at least this often while a stream is open.
const ACK_EVERY: Duration = Duration::from_millis(100);
/// Acknowledgements that may wait for the connection.
const ACKS_QUEUED: usize = 4;
/// Between attempts to append what there is no room for.
const NO_ROOM: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(crate) struct ReplicationClient {
    state: Arc<MemberState>,
    roles: Roles,
    following: Following,
    ends: CancellationToken,
}

/// How a session ended.
#[derive(Debug)]
enum End {
    /// The leader's process is gone, or leads no more.
    Gone(String),
    /// Something broke: say hello again.
    Broken(String),
    /// This member's state changed: say hello again at once.
    Again,
}

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> Self {
        Self::Broken(format!("{:?}: {}", status.code(), status.message()))
    }
}

impl ReplicationClient {
    pub(crate) fn new(state: Arc<MemberState>, roles: Roles, following: Following, ends: CancellationToken) -> Self {
        Self { state, roles, following, ends }
    }

    /// Follows until its token ends.
    pub(crate) async fn run(self) {
        let mut told = String::new();
        loop {
            let end = tokio::select! {
                () = self.ends.cancelled() => return,
                end = self.session() => end,
            };
            let Err(end) = end;
            let why = match end {
                End::Again => {
                    self.state.not_mended("");
                    told.clear();
                    continue;
                }
                End::Gone(why) => {
                    self.state.set_leader_gone(true);
                    why
                }
                End::Broken(why) => why,
            };
            self.state.not_mended(&why);
            if why != told {
                tracing::info!(leader = self.following.leader.name, epoch = self.following.epoch, why, "stream ended");
                told = why;
            }
            tokio::select! {
                () = self.ends.cancelled() => return,
                () = tokio::time::sleep(REDIAL) => {}
            }
        }
    }

    async fn session(&self) -> Result<std::convert::Infallible, End> {
        let address = &self.following.leader.address;
        let channel = match dial(address, &self.state.addresses.auth, Lane::Main, CONNECT).await {
            Ok(channel) => channel,
            Err(error @ DialError::Refused { .. }) => return Err(End::Gone(error.to_string())),
            Err(error) => return Err(End::Broken(error.to_string())),
        };
        if let Some(why) = self.state.alarm() {
            return Err(End::Broken(why));
        }
        let (sender, receiver) = mpsc::channel(ACKS_QUEUED);
        let hello = follower_message::Message::Hello(self.hello());
        // The receiver is right here: it cannot be closed.
        let _ = sender.send(proto::FollowerMessage { message: Some(hello) }).await;
        let mut inbound = replication(channel.clone())
            .replicate(ReceiverStream::new(receiver))
            .await
            .map_err(End::from)?
            .into_inner();
        let answer = match next(&mut inbound).await? {
            leader_message::Message::Answer(answer) => answer,
            leader_message::Message::StepDown(why) => return Err(End::Gone(why)),
            _ => return Err(End::Broken("the leader's first word is no answer to the hello".into())),
        };
        if answer.epoch != self.following.epoch {
            let why = if answer.refused.is_empty() { "it leads another epoch".into() } else { answer.refused };
            return Err(End::Gone(why));
        }
        self.state.set_leader_gone(false);
        if !answer.refused.is_empty() {
            return Err(End::Broken(format!("the leader refuses this member: {}", answer.refused)));
        }
        let config: LastConfig =
            answer.config.ok_or(End::Broken("the answer names no configuration".into()))?.try_into()?;
        self.roles
            .learn_config(self.following.leader.sid, config)
            .await
            .map_err(|refusal| End::Broken(refusal.to_string()))?;
        let goal = self.join(&channel, answer.shards).await?;
        self.state.not_mended("");
        {
            let core = self.state.core.lock();
            if !core.follows(self.following.epoch, self.following.leader.sid) {
                return Err(End::Broken("another epoch was promised meanwhile".into()));
            }
            self.state.joined.store(self.following.epoch, Ordering::Release);
        }
        let mut acks = Acks { client: self, sender, goal, last: None };
        let mut tick = tokio::time::interval(ACK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = next(&mut inbound) => match message? {
                    leader_message::Message::Chunk(chunk) => self.take(chunk.try_into()?).await?,
                    leader_message::Message::Commit(notice) => self.take_commit(&notice),
                    leader_message::Message::StepDown(why) => return Err(End::Gone(why)),
                    leader_message::Message::Answer(_) => return Err(End::Broken("a second answer".into())),
                },
                () = self.state.rejoin.notified() => return Err(End::Again),
                () = self.state.held.notified() => acks.send(false).await?,
                _ = tick.tick() => acks.send(true).await?,
            }
        }
    }

    fn hello(&self) -> proto::Hello {
        let standing = self.state.core.lock().standing();
        let meta = self.state.engine.meta();
        let shards = self
            .state
            .engine
            .shards()
            .iter()
            .map(|shard| {
                let view = log_view(shard);
                proto::ShardHello {
                    state: proto::DataState::from(view.state).into(),
                    tail: Some(view.tail.into()),
                    commit: view.commit,
                    epochs: protocol::wire_epochs(&view.epochs),
                    log_floor: view.log_floor,
                }
            })
            .collect();
        proto::Hello {
            cluster_id: standing.cluster_id.map(protocol::cluster_bytes).unwrap_or_default(),
            lineage: standing.lineage,
            epoch: self.following.epoch,
            standing: Some(standing.into()),
            name: self.state.addresses.name.clone(),
            shards,
            format_min: meta.format_min,
            format_max: meta.format_max,
            client_address: self.state.addresses.client_address.clone(),
        }
    }

    /// Joins every shard's log to the leader's; what each must hold to equal it as it was at hello.
    async fn join(&self, channel: &PeerChannel, answers: Vec<proto::ShardAnswer>) -> Result<Vec<Gsn>, End> {
        let shards = self.state.engine.shards();
        if answers.len() != shards.len() {
            return Err(End::Broken(format!("the leader has {} shards, this member {}", answers.len(), shards.len())));
        }
        let mut goal = Vec::with_capacity(shards.len());
        let mut copied = false;
        for (shard, answer) in shards.iter().zip(answers) {
            goal.push(answer.leader_end);
            match answer.answer {
                Some(shard_answer::Answer::Match(_)) => {}
                Some(shard_answer::Answer::Truncate(cut)) => self.truncate(shard.id(), cut.to).await?,
                Some(shard_answer::Answer::Full(full)) => {
                    tracing::info!(shard = shard.id(), why = full.why, "a full copy from the leader begins");
                    let (source, progress) = (Source::Leader(self.following.clone()), Progress::default());
                    full_sync::pull(&self.state, &source, channel.clone(), shard.id(), &progress)
                        .await
                        .map_err(|error| End::Broken(format!("full copy of shard {}: {error}", shard.id())))?;
                    copied = true;
                }
                None => return Err(End::Broken("a shard's answer is empty".into())),
            }
        }
        if copied { Err(End::Again) } else { Ok(goal) }
    }

    async fn truncate(&self, shard: u16, to: Gsn) -> Result<(), End> {
        let (state, following) = (Arc::clone(&self.state), self.following.clone());
        // The lock is taken where the cut is made: a FENCE waits for a cut that was begun, and stops one that was not.
        let cut = tokio::task::spawn_blocking(move || {
            let _append = state.append_lock(shard).lock();
            let own = state.shard(shard);
            check_truncate(&state.core.lock(), following.epoch, following.leader.sid, to, own.commit())?;
            let from = own.tail().last;
            let result = own.truncate_to(to);
            tracing::info!(
                shard,
                ?from,
                to,
                ok = result.is_ok(),
                "the log's end is cut: the leader has another history"
            );
            Ok::<_, AppendRefusal>(result)
        });
        match cut.await.map_err(|error| End::Broken(error.to_string()))? {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(TruncateError::BelowCommit { gsn, commit })) => {
                let why = AppendRefusal::BelowCommit { to: gsn, commit }.to_string();
                self.state.quarantine(shard, why.clone());
                Err(End::Broken(why))
            }
            Ok(Err(error)) => Err(End::Broken(error.to_string())),
            Err(refusal) => {
                if refusal.is_alarm() {
                    self.state.quarantine(shard, refusal.to_string());
                }
                Err(End::Broken(refusal.to_string()))
            }
        }
    }

    async fn take(&self, chunk: WireChunk) -> Result<(), End> {
        if usize::from(chunk.shard) >= self.state.engine.shards().len() {
            return Err(End::Broken(format!("a chunk of shard {}, which is not here", chunk.shard)));
        }
        let commit = chunk.commit;
        let chunk = LogChunk {
            shard: chunk.shard,
            epoch: chunk.epoch,
            prev: chunk.prev,
            first_gsn: chunk.first_gsn,
            last: chunk.last,
            bytes: chunk.records,
        };
        let mut told = false;
        loop {
            // First: it frees the memory that the chunk needs.
            self.commit(chunk.shard, commit);
            match self.append(&chunk) {
                Ok(()) => break,
                Err(Refused::Rule(refusal)) => {
                    if refusal.is_alarm() {
                        self.state.quarantine(chunk.shard, refusal.to_string());
                    }
                    return Err(End::Broken(refusal.to_string()));
                }
                Err(Refused::Engine(error @ (ChunkError::MemoryFull | ChunkError::DiskFull))) => {
                    if !told {
                        told = true;
                        tracing::info!(shard = chunk.shard, %error, "waits with what the leader sends");
                    }
                    tokio::time::sleep(NO_ROOM).await;
                }
                Err(Refused::Engine(ChunkError::Diverged { tail })) => {
                    let why = AppendRefusal::Diverged { prev: chunk.prev, chain: tail.chain }.to_string();
                    self.state.quarantine(chunk.shard, why.clone());
                    return Err(End::Broken(why));
                }
                Err(Refused::Engine(error)) => return Err(End::Broken(error.to_string())),
            }
        }
        self.commit(chunk.shard, commit);
        Ok(())
    }

    fn append(&self, chunk: &LogChunk) -> Result<(), Refused> {
        let _append = self.state.append_lock(chunk.shard).lock();
        let shard = self.state.shard(chunk.shard);
        let tail = shard.tail();
        check_append(&self.state.core.lock(), self.following.epoch, self.following.leader.sid, chunk.prev, tail)
            .map_err(Refused::Rule)?;
        shard.append_chunk(chunk).map(drop).map_err(Refused::Engine)
    }

    fn take_commit(&self, notice: &proto::CommitNotice) {
        for (shard, &commit) in (0..).zip(&notice.commit).take(self.state.engine.shards().len()) {
            self.commit(shard, commit);
        }
        self.state.time_committed(notice.committed_time_ms, &notice.commit);
    }

    /// What the leader has committed, as far as this log was verified to be a prefix of the leader's.
    fn commit(&self, shard: u16, commit: Gsn) {
        let verified = self.state.shard(shard).tail_gsn();
        self.state.raise_commit(shard, commit.min(verified));
    }
}

enum Refused {
    Rule(AppendRefusal),
    Engine(ChunkError),
}

async fn next(inbound: &mut Streaming<proto::LeaderMessage>) -> Result<leader_message::Message, End> {
    match inbound.message().await? {
        Some(message) => message.message.ok_or_else(|| End::Broken("an empty message".into())),
        None => Err(End::Broken("the leader ended the stream".into())),
    }
}

/// What was acknowledged, and what is to be reached.
struct Acks<'a> {
    client: &'a ReplicationClient,
    sender: mpsc::Sender<proto::FollowerMessage>,
    /// Per shard, the leader's end at hello.
    goal: Vec<Gsn>,
    last: Option<(Vec<Gsn>, Vec<Gsn>)>,
}

impl Acks<'_> {
    /// Acknowledges what is durable, if there is news (or `anyway`).
    async fn send(&mut self, anyway: bool) -> Result<(), End> {
        let (state, following) = (&self.client.state, &self.client.following);
        let held = {
            let core = state.core.lock();
            // Read under the lock: what is durable now is a prefix of this leader's log (a cut for another leader
            // comes after another promise).
            if !core.may_acknowledge(following.epoch, following.leader.sid) {
                return Err(End::Broken("another epoch was promised meanwhile".into()));
            }
            let shards = state.engine.shards();
            let durable: Vec<Gsn> = shards.iter().map(|shard| shard.durable_gsn()).collect();
            let applied: Vec<Gsn> = shards.iter().map(|shard| shard.applied()).collect();
            (durable, applied)
        };
        if self.last.as_ref() != Some(&held) || anyway {
            let ack = proto::Ack { epoch: following.epoch, durable: held.0.clone(), applied: held.1.clone() };
            let message = proto::FollowerMessage { message: Some(follower_message::Message::Ack(ack)) };
            if self.sender.send(message).await.is_err() {
                return Err(End::Broken("the stream to the leader is closed".into()));
            }
        }
        let reached = self.goal.iter().zip(&held.0).all(|(goal, durable)| durable >= goal);
        self.last = Some(held);
        if reached { self.reached().await } else { Ok(()) }
    }

    /// The log equals the leader's through what it was at hello, durably.
    async fn reached(&self) -> Result<(), End> {
        let state = &self.client.state;
        let waits: Vec<u16> = state
            .engine
            .shards()
            .iter()
            .filter(|shard| matches!(data_state(&shard.state()), DataState::Syncing | DataState::Amnesic))
            .map(|shard| shard.id())
            .collect();
        if waits.is_empty() {
            if !state.caught_up.swap(true, Ordering::AcqRel) {
                state.health_changed();
            }
            return Ok(());
        }
        let (state, following) = (Arc::clone(state), self.client.following.clone());
        let made_ready = tokio::task::spawn_blocking(move || {
            // As one with a look at the promise: a shard must not become Ready by another history's leave.
            state.engine.sync_all().map_err(|error| error.to_string())?;
            for shard in waits {
                let _append = state.append_lock(shard).lock();
                if !state.core.lock().follows(following.epoch, following.leader.sid) {
                    return Err("another epoch was promised meanwhile".to_owned());
                }
                let whole = |now: &ShardState| {
                    matches!(now, ShardState::Syncing | ShardState::Amnesic).then_some(ShardState::Ready)
                };
                if state.shard(shard).change_state(whole).map_err(|error| error.to_string())? {
                    tracing::info!(shard, "whole again: the log equals the leader's");
                }
            }
            state.health_changed();
            Ok(())
        });
        match made_ready.await {
            Ok(Ok(())) => Err(End::Again),
            Ok(Err(why)) => Err(End::Broken(why)),
            Err(error) => Err(End::Broken(error.to_string())),
        }
    }
}
