//! The leading side of log shipping: one session a follower, any number of them.
//!
//! A session answers the hello by comparing epoch tables, then ships every shard's log through its cursors and
//! counts what comes back. It owns no queue: the response channel holds a few messages, HTTP/2's flow control does
//! the rest, and a follower that is slow or dead costs nothing but its cursors. A session ends with the term, with
//! a newer session of the same storage, or with its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::cursor::ReplicationCursor;
use super::member_state::{MemberState, data_state};
use super::protocol::{self, ProtocolError};
use super::roles::Roles;
use super::rules::{FullReason, LogView, Reconcile, Sighting, reconcile};
use super::term::{Follower, LeaderTerm};
use crate::engine::Shard;
use crate::ident::Sid;
use crate::net::proto::{self, follower_message, leader_message, shard_answer};
use crate::position::Gsn;
use crate::topology::message::{DataState, Standing};

/// Messages that may wait for the connection.
const QUEUED: usize = 4;

/// What a follower is sent.
pub(crate) type LeaderMessages = ReceiverStream<Result<proto::LeaderMessage, Status>>;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct ReplicationServer {
    state: Arc<MemberState>,
    roles: Roles,
}

/// A hello that was understood.
pub(crate) struct Hello {
    standing: Standing,
    name: String,
    client_address: String,
    shards: Vec<LogView>,
}

impl ReplicationServer {
    pub(crate) fn new(state: Arc<MemberState>, roles: Roles) -> Self {
        Self { state, roles }
    }

    /// Serves one follower from its hello on.
    pub(crate) async fn serve(&self, mut inbound: Streaming<proto::FollowerMessage>) -> Result<LeaderMessages, Status> {
        let hello = match inbound.message().await? {
            Some(proto::FollowerMessage { message: Some(follower_message::Message::Hello(hello)) }) => hello,
            _ => return Err(Status::invalid_argument("a stream begins with a hello")),
        };
        let (sender, receiver) = mpsc::channel(QUEUED);
        match self.accept(hello)? {
            Ok((session, answer)) => {
                let _ = sender.send(Ok(message(leader_message::Message::Answer(answer)))).await;
                tokio::spawn(session.run(inbound, sender));
            }
            Err(answer) => {
                let _ = sender.send(Ok(message(leader_message::Message::Answer(answer)))).await;
            }
        }
        Ok(ReceiverStream::new(receiver))
    }

    /// Checks a hello: a session and the answer, or the refusal.
    fn accept(&self, hello: proto::Hello) -> Result<Result<(Session, proto::HelloAnswer), proto::HelloAnswer>, Status> {
        let epoch = hello.epoch;
        let (cluster_id, lineage) = (hello.cluster_id.clone(), hello.lineage);
        let hello = Hello::try_from(hello)?;
        let refuse = |epoch, why: String| {
            tracing::info!(follower = hello.name, sid = %hello.standing.sid, why, "a hello is refused");
            self.state.refused_peers.fetch_add(1, Ordering::Relaxed);
            Ok(Err(proto::HelloAnswer { epoch, refused: why, ..Default::default() }))
        };
        let Some(term) = self.state.term() else { return refuse(0, "this member does not lead".into()) };
        let own = self.state.core.lock().standing();
        if own.cluster_id.map(protocol::cluster_bytes) != Some(cluster_id) {
            return refuse(term.epoch(), "it belongs to another cluster".into());
        }
        if own.lineage != lineage {
            return refuse(term.epoch(), format!("it is of lineage {lineage}, this cluster of {}", own.lineage));
        }
        if epoch > term.epoch() {
            self.roles.observe(epoch);
            return refuse(0, format!("epoch {epoch} is later than this leader's {}", term.epoch()));
        }
        if epoch < term.epoch() {
            return refuse(term.epoch(), format!("epoch {epoch} is over, this one is {}", term.epoch()));
        }
        let standing = &hello.standing;
        if standing.sid == own.sid {
            return refuse(term.epoch(), "it shows this leader's own storage id: one is a copy of the other".into());
        }
        let sighting = self.state.sightings.lock().see(standing.sid, standing.open_count, standing.instance);
        if sighting == Sighting::Clone {
            return refuse(
                term.epoch(),
                format!("{} was opened by another process before: this is a copied or restored volume", standing.sid),
            );
        }
        if hello.shards.len() != self.state.engine.shards().len() {
            return refuse(term.epoch(), format!("it has {} shards", hello.shards.len()));
        }
        Ok(self.join(term, hello))
    }

    fn join(&self, term: Arc<LeaderTerm>, hello: Hello) -> Result<(Session, proto::HelloAnswer), proto::HelloAnswer> {
        let shards = self.state.engine.shards();
        let mut cursors = Vec::with_capacity(shards.len());
        let mut answers = Vec::with_capacity(shards.len());
        let mut goal = Vec::with_capacity(shards.len());
        let mut held = Vec::with_capacity(shards.len());
        let mut keepers = Vec::with_capacity(shards.len());
        for (shard, theirs) in shards.iter().zip(&hello.shards) {
            // Before the look at the floor: what is decided by it stays true.
            let keeper = shard.keep_log(1);
            let ours = view(shard);
            let end = ours.tail.last.gsn;
            goal.push(end);
            let (answer, cursor) = match reconcile(&ours, theirs) {
                Reconcile::Match { at } => (shard_answer::Answer::Match(proto::Match {}), Some(at.gsn)),
                Reconcile::Truncate { to } => {
                    (shard_answer::Answer::Truncate(proto::Truncate { to: to.gsn }), Some(to.gsn))
                }
                // The follower finds that it was told to give up what it committed: it quarantines itself and says so.
                Reconcile::Diverged { common, commit } => {
                    tracing::error!(
                        follower = hello.name,
                        shard = shard.id(),
                        ?common,
                        commit,
                        "ALARM: a follower committed what this leader does not have"
                    );
                    (shard_answer::Answer::Truncate(proto::Truncate { to: common.gsn }), Some(common.gsn))
                }
                Reconcile::Full { why } => {
                    let why = match why {
                        FullReason::BelowFloor => "what it lacks is no longer in the log",
                        FullReason::Unfinished => "an earlier copy was not finished",
                        FullReason::Unsound => "its own data is unsound",
                    };
                    (shard_answer::Answer::Full(proto::Full { why: why.into() }), None)
                }
                Reconcile::Lacking { commit } => {
                    return Err(proto::HelloAnswer {
                        epoch: term.epoch(),
                        refused: format!(
                            "shard {} of {} cannot be used and had committed {commit}; this leader has committed {} and \
                             shares not all of that: nobody copies from who has less, so it stays as it is and asks again",
                            shard.id(),
                            hello.name,
                            ours.commit
                        ),
                        ..Default::default()
                    });
                }
            };
            keeper.advance(cursor.map_or(end, |at| at + 1));
            keepers.push(keeper);
            held.push(cursor.unwrap_or(0));
            cursors.push(cursor.map(|at| ReplicationCursor::new(Arc::clone(shard), at)));
            answers.push(proto::ShardAnswer { answer: Some(answer), leader_end: end });
        }
        let whole = hello.shards.iter().all(|s| matches!(s.state, DataState::Ready | DataState::Damaged));
        let ends = term.ended.child_token();
        let follower = Arc::new(Follower {
            sid: hello.standing.sid,
            name: hello.name,
            client_address: hello.client_address,
            open_count: hello.standing.open_count,
            connected: AtomicBool::new(true),
            whole,
            goal,
            keepers,
            durable: held.iter().map(|_| AtomicU64::new(0)).collect(),
            applied: held.iter().map(|_| AtomicU64::new(0)).collect(),
            session: ends.clone(),
        });
        let earlier = term.followers.lock().insert(follower.sid, Arc::clone(&follower));
        if let Some(earlier) = earlier {
            earlier.session.cancel();
        }
        tracing::info!(follower = follower.name, sid = %follower.sid, at = ?held, whole, "a follower joins");
        self.state.health_changed();
        let answer = proto::HelloAnswer {
            epoch: term.epoch(),
            shards: answers,
            refused: String::new(),
            config: Some(term.term.config.clone().into()),
        };
        Ok((Session { state: Arc::clone(&self.state), term, follower, cursors, ends }, answer))
    }
}

/// A shard's log as this side of a hello sees it.
pub(crate) fn view(shard: &Shard) -> LogView {
    // The table first: an epoch that opens in between only makes the tail longer than the table says.
    let epochs = shard.epoch_table();
    LogView {
        state: data_state(&shard.state()),
        tail: shard.tail(),
        commit: shard.commit(),
        log_floor: shard.log_floor(),
        epochs,
    }
}

impl TryFrom<proto::Hello> for Hello {
    type Error = ProtocolError;

    fn try_from(hello: proto::Hello) -> Result<Self, ProtocolError> {
        let missing = |field| ProtocolError { field, problem: "missing" };
        let shards = hello
            .shards
            .into_iter()
            .map(|shard| {
                Ok(LogView {
                    state: protocol::data_state(shard.state)?,
                    tail: shard.tail.ok_or(missing("hello.shards.tail"))?.try_into()?,
                    commit: protocol::count(shard.commit, "hello.shards.commit")?,
                    log_floor: protocol::count(shard.log_floor, "hello.shards.log_floor")?,
                    epochs: protocol::epochs(&shard.epochs)?,
                })
            })
            .collect::<Result<_, ProtocolError>>()?;
        Ok(Self {
            standing: hello.standing.ok_or(missing("hello.standing"))?.try_into()?,
            name: hello.name,
            client_address: hello.client_address,
            shards,
        })
    }
}

/// One follower's stream.
struct Session {
    state: Arc<MemberState>,
    term: Arc<LeaderTerm>,
    follower: Arc<Follower>,
    /// Per shard; `None`: it is copied whole first.
    cursors: Vec<Option<ReplicationCursor>>,
    ends: CancellationToken,
}

impl Session {
    async fn run(
        mut self,
        inbound: Streaming<proto::FollowerMessage>,
        sender: mpsc::Sender<Result<proto::LeaderMessage, Status>>,
    ) {
        let ends = self.ends.clone();
        let acks = take_acks(Arc::clone(&self.state), Arc::clone(&self.term), Arc::clone(&self.follower), inbound);
        let why = tokio::select! {
            () = ends.cancelled() => "superseded, or the term ended".to_owned(),
            why = acks => why,
            why = self.ship(&sender) => why,
        };
        self.follower.connected.store(false, Ordering::Release);
        tracing::info!(follower = self.follower.name, epoch = self.term.epoch(), why, "a follower's stream ended");
        self.state.health_changed();
        if self.term.ended.is_cancelled() {
            // Not waited for: the connection may be the reason.
            let _ = sender.try_send(Ok(message(leader_message::Message::StepDown("this member leads no more".into()))));
        }
    }

    /// Ships until something breaks; the reason.
    async fn ship(&mut self, sender: &mpsc::Sender<Result<proto::LeaderMessage, Status>>) -> String {
        let mut told: Option<(Vec<Gsn>, u64)> = None;
        loop {
            let term = Arc::clone(&self.term);
            let moved = term.moved.notified();
            tokio::pin!(moved);
            // From here on a change wakes: what is looked at below is not missed.
            moved.as_mut().enable();
            let mut sent = false;
            for cursor in self.cursors.iter_mut().flatten() {
                // Files are read by page faults: other tasks of this thread must not wait for them.
                let from_files = cursor.is_catching_up();
                let chunk = if from_files { tokio::task::block_in_place(|| cursor.next()) } else { cursor.next() };
                if cursor.is_catching_up() != from_files {
                    let follower = &self.follower.name;
                    match from_files {
                        false => tracing::info!(follower, "fell out of memory: catches up from the log's files"),
                        true => tracing::info!(follower, "has caught up with memory: streams from there again"),
                    }
                }
                let chunk = match chunk {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) => continue,
                    Err(error) => return error.to_string(),
                };
                sent = true;
                let commit = self.state.shard(chunk.shard).commit();
                let chunk = proto::Chunk {
                    shard: chunk.shard.into(),
                    epoch: chunk.epoch,
                    prev: Some(chunk.prev.into()),
                    first_gsn: chunk.first_gsn,
                    last: Some(chunk.last.into()),
                    records: chunk.bytes,
                    commit,
                };
                if sender.send(Ok(message(leader_message::Message::Chunk(chunk)))).await.is_err() {
                    return "the follower closed its stream".into();
                }
            }
            if sent {
                continue;
            }
            // The time first: what is committed before it is shown is told with it.
            let time = self.state.committed_time_ms();
            let commit: Vec<Gsn> = self.state.engine.shards().iter().map(|shard| shard.commit()).collect();
            if told.as_ref().is_none_or(|(told, _)| *told != commit) {
                let notice = proto::CommitNotice { commit: commit.clone(), committed_time_ms: time };
                if sender.send(Ok(message(leader_message::Message::Commit(notice)))).await.is_err() {
                    return "the follower closed its stream".into();
                }
                told = Some((commit, time));
                continue;
            }
            moved.await;
        }
    }
}

/// Counts a follower's acknowledgements until its stream ends; the reason.
async fn take_acks(
    state: Arc<MemberState>,
    term: Arc<LeaderTerm>,
    follower: Arc<Follower>,
    mut inbound: Streaming<proto::FollowerMessage>,
) -> String {
    let mut in_sync = false;
    loop {
        let ack = match inbound.message().await {
            Ok(Some(proto::FollowerMessage { message: Some(follower_message::Message::Ack(ack)) })) => ack,
            Ok(Some(_)) => return "something else than an acknowledgement arrived".into(),
            Ok(None) => return "the follower ended it".into(),
            Err(status) => return status.message().to_owned(),
        };
        if ack.epoch != term.epoch() || ack.durable.len() != follower.durable.len() {
            return "an acknowledgement of another epoch".into();
        }
        let durable = match protocol::counts(ack.durable, "ack.durable") {
            Ok(durable) => durable,
            Err(error) => return error.to_string(),
        };
        for (shard, &gsn) in (0..).zip(&durable) {
            follower.durable[usize::from(shard)].fetch_max(gsn, Ordering::AcqRel);
            follower.keepers[usize::from(shard)].advance(gsn + 1);
            count(&state, &term, follower.sid, shard, gsn);
        }
        for (held, &gsn) in follower.applied.iter().zip(&ack.applied) {
            held.fetch_max(gsn, Ordering::AcqRel);
        }
        if follower.in_sync() != in_sync {
            in_sync = !in_sync;
            state.health_changed();
        }
    }
}

fn count(state: &MemberState, term: &LeaderTerm, sid: Sid, shard: u16, gsn: Gsn) {
    let (risen, all) = {
        let mut quorum = term.quorum.lock();
        let before = quorum.held_by_all(shard);
        let risen = quorum.held(sid, shard, gsn);
        (risen, quorum.held_by_all(shard) > before)
    };
    if let Some(commit) = risen {
        state.raise_commit(shard, commit);
    }
    if all {
        state.publish_progress(state.shard(shard));
    }
}

fn message(message: leader_message::Message) -> proto::LeaderMessage {
    proto::LeaderMessage { message: Some(message) }
}
