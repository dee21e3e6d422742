//! Heartbeats, both sides: leases, silence, bounded staleness, shard time. Runs on a thread of its own.
//!
//! The follower opens the stream and says who it is; the leader answers with rounds, one every
//! [`HEARTBEAT_INTERVAL`] and one at once when a read asks for it. A round's send time is taken before anything is
//! sent; an acknowledgement grants the lease from that time on. Nothing here does disk I/O, and no lock is taken
//! that is held across I/O, so that a slow disk never looks like a dead member.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::clock;
use super::member_state::MemberState;
use super::protocol;
use super::roles::Roles;
use super::rules::{Following, HEARTBEAT_INTERVAL};
use super::term::LeaderTerm;
use crate::ident::Sid;
use crate::net::peer::{Lane, dial, replication};
use crate::net::proto;
use crate::position::Gsn;
use crate::topology::message::VoterFigure;

/// A leader that does not take a connection within this time is silent.
const CONNECT: Duration = Duration::from_millis(500);
/// Between attempts.
const REDIAL: Duration = Duration::from_millis(50);
/// A stream on which nothing came for so long is opened anew.
const SILENCE: Duration = Duration::from_secs(2);
/// Messages that may wait for the connection: older rounds are worth nothing.
const QUEUED: usize = 2;

/// What a follower is sent.
pub(crate) type Heartbeats = ReceiverStream<Result<proto::Heartbeat, Status>>;

// --- the leader ---------------------------------------------------------------------------------------------------

/// Begins rounds while this member leads, until it stops.
pub(crate) async fn beat(state: Arc<MemberState>) {
    let mut leadership = state.leadership();
    let mut interval = tokio::time::interval(HEARTBEAT_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let Some(term) = state.term() else {
            tokio::select! {
                () = state.stop.cancelled() => return,
                _ = leadership.changed() => continue,
                _ = interval.tick() => continue,
            }
        };
        tokio::select! {
            () = state.stop.cancelled() => return,
            () = term.ended.cancelled() => continue,
            _ = interval.tick() => {}
            () = term.ask_round.notified() => {}
        }
        term.begin_round(clock::now());
        reckon(&state, &term);
    }
}

/// What time alone changes: the lease, the suspension, the committed time.
fn reckon(state: &MemberState, term: &LeaderTerm) {
    let now = clock::now();
    state.refresh_lease(now);
    let suspended = state.core.lock().lease().is_some_and(|lease| lease.suspended(now));
    if term.suspended.swap(suspended, Ordering::AcqRel) != suspended {
        tracing::warn!(suspended, "too few members answer: new writes are refused until enough do");
        state.health_changed();
    }
    term.shard_time.lock().advance(now, term.clock_interval(&term.walls(clock::wall_ms(), now)));
    let own_time = state.shard_time_ms();
    state.commit_time(term.time_known(term.own, own_time, own_time));
    let figures = figures(state, term);
    state.core.lock().hear_figures(term.epoch(), &figures);
}

/// Serves one follower's stream.
pub(crate) async fn serve(
    state: Arc<MemberState>,
    roles: Roles,
    mut inbound: Streaming<proto::HeartbeatAck>,
) -> Result<Heartbeats, Status> {
    let first = inbound.message().await?.ok_or_else(|| Status::invalid_argument("a stream begins with a word"))?;
    let sid = protocol::sid(&first.sid, "heartbeat.sid")?;
    let Some(term) = state.term() else { return Err(Status::failed_precondition("this member does not lead")) };
    let own = state.core.lock().standing();
    if own.cluster_id.map(protocol::cluster_bytes) != Some(first.cluster_id) || own.lineage != first.lineage {
        return Err(Status::failed_precondition("another cluster or lineage"));
    }
    if first.epoch != term.epoch() {
        if first.epoch > term.epoch() {
            roles.observe(first.epoch);
        }
        return Err(Status::failed_precondition("this member leads another epoch"));
    }
    let (sender, receiver) = mpsc::channel(QUEUED);
    tokio::spawn(converse(state, term, sid, first.ping_nanos, inbound, sender));
    Ok(ReceiverStream::new(receiver))
}

async fn converse(
    state: Arc<MemberState>,
    term: Arc<LeaderTerm>,
    sid: Sid,
    mut ping: u64,
    mut inbound: Streaming<proto::HeartbeatAck>,
    sender: mpsc::Sender<Result<proto::Heartbeat, Status>>,
) {
    let mut rounds = term.round.subscribe();
    loop {
        tokio::select! {
            () = term.ended.cancelled() => return,
            changed = rounds.changed() => {
                if changed.is_err() {
                    return;
                }
                let round = *rounds.borrow_and_update();
                if sender.try_send(Ok(heartbeat(&state, &term, round, ping))).is_err() && sender.is_closed() {
                    return;
                }
            }
            ack = inbound.message() => {
                let Ok(Some(ack)) = ack else { return };
                if ack.epoch != term.epoch() {
                    return;
                }
                ping = ack.ping_nanos;
                if ack.wall_ms != 0 {
                    term.wall_heard(sid, ack.wall_ms, clock::now());
                }
                if let Some(sent) = term.round_sent(ack.sequence) {
                    if let Some(lease) = state.core.lock().lease_mut() {
                        lease.acknowledged(sid, sent);
                    }
                    state.refresh_lease(clock::now());
                    let own_time = state.shard_time_ms();
                    state.commit_time(term.time_known(sid, ack.shard_time_ms, own_time));
                    term.heard.notify_waiters();
                }
            }
        }
    }
}

fn heartbeat(state: &MemberState, term: &LeaderTerm, round: u64, ping: u64) -> proto::Heartbeat {
    let now = clock::now();
    let shards = state.engine.shards();
    // First: what is committed before a time is shown is told with it.
    let committed_time_ms = state.committed_time_ms();
    let uncommitted = shards
        .iter()
        .map(|shard| term.age_above(shard.id(), shard.commit(), shard.tail_gsn(), now))
        .max()
        .unwrap_or_default();
    proto::Heartbeat {
        epoch: term.epoch(),
        sequence: round,
        commit: shards.iter().map(|shard| shard.commit()).collect(),
        lease_valid: state.lease_valid(),
        echo_nanos: ping,
        shard_time_ms: state.shard_time_ms(),
        sync_age_ms: millis(state.sync_stall()),
        uncommitted_age_ms: millis(uncommitted),
        tick_age_ms: millis(state.tick_age(now)),
        draining: state.draining.load(Ordering::Acquire),
        committed_time_ms,
        figures: state.core.lock().figures().into_iter().map(Into::into).collect(),
    }
}

/// What the voters hold of what is committed, as this leader counts.
fn figures(state: &MemberState, term: &LeaderTerm) -> Vec<VoterFigure> {
    let commits: Vec<_> = state.engine.shards().iter().map(|shard| shard.commit()).collect();
    let own = state.core.lock().standing();
    let figure = |sid, open_count, durable: Vec<Gsn>| {
        let held = durable.iter().zip(&commits).map(|(&durable, &commit)| durable.min(commit)).collect();
        VoterFigure { sid, open_count, held }
    };
    let durable = state.engine.shards().iter().map(|shard| shard.durable_gsn()).collect();
    let mut figures = vec![figure(own.sid, own.open_count, durable)];
    for follower in term.followers.lock().values().filter(|follower| term.is_voter(follower.sid)) {
        let durable = follower.durable.iter().map(|gsn| gsn.load(Ordering::Acquire)).collect();
        figures.push(figure(follower.sid, follower.open_count, durable));
    }
    figures
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

// --- the follower -------------------------------------------------------------------------------------------------

/// Hears the leader until the token ends.
pub(crate) async fn follow(state: Arc<MemberState>, following: Following, ends: CancellationToken) {
    loop {
        let heard = tokio::select! {
            () = ends.cancelled() => return,
            heard = hear(&state, &following) => heard,
        };
        if let Err(why) = heard {
            tracing::debug!(leader = following.leader.name, why, "the heartbeat stream ended");
        }
        tokio::select! {
            () = ends.cancelled() => return,
            () = tokio::time::sleep(REDIAL) => {}
        }
    }
}

async fn hear(state: &MemberState, following: &Following) -> Result<(), String> {
    let auth = &state.addresses.auth;
    let channel =
        dial(&following.leader.address, auth, Lane::Heartbeat, CONNECT).await.map_err(|error| error.to_string())?;
    let (sender, receiver) = mpsc::channel(QUEUED);
    let word = |sequence| {
        let core = state.core.lock();
        let durable = core.durable();
        proto::HeartbeatAck {
            cluster_id: durable.cluster_id.map(protocol::cluster_bytes).unwrap_or_default(),
            lineage: durable.lineage,
            sid: protocol::sid_bytes(durable.sid),
            epoch: following.epoch,
            sequence,
            ping_nanos: u64::try_from(clock::now().as_nanos()).unwrap_or(u64::MAX),
            shard_time_ms: state.known_time_ms(),
            wall_ms: clock::wall_ms(),
        }
    };
    let _ = sender.try_send(word(0));
    let opening = async { replication(channel).heartbeat(ReceiverStream::new(receiver)).await };
    let opened = tokio::time::timeout(SILENCE, opening).await.map_err(|_| "no answer".to_owned())?;
    let mut inbound = opened.map_err(|status| status.message().to_owned())?.into_inner();
    loop {
        let heard = tokio::time::timeout(SILENCE, inbound.message()).await.map_err(|_| "silence".to_owned())?;
        let Some(beat) = heard.map_err(|status| status.message().to_owned())? else {
            return Err("the leader ended it".into());
        };
        if beat.epoch != following.epoch {
            return Err("another epoch".into());
        }
        let commits = protocol::counts(beat.commit, "heartbeat.commit").map_err(|error| error.to_string())?;
        {
            let mut core = state.core.lock();
            if !core.heartbeat(beat.epoch, following.leader.sid, clock::now()) {
                return Err("another epoch was promised meanwhile".into());
            }
            // Under the lock: whatever is acknowledged to this leader, the next FENCE tells.
            state.heard_time(beat.shard_time_ms);
        }
        let age = Duration::from_millis;
        state.heard_ages(age(beat.tick_age_ms), age(beat.sync_age_ms), clock::now());
        state.heard_commits(&commits);
        let figures: Result<Vec<_>, _> = beat.figures.into_iter().map(VoterFigure::try_from).collect();
        let figures = figures.map_err(|error| error.to_string())?;
        state.core.lock().hear_figures(beat.epoch, &figures);
        // Only a log that was verified to be a prefix of the leader's may take the leader's commit for its own.
        if state.joined.load(Ordering::Acquire) == beat.epoch {
            for (shard, &commit) in state.engine.shards().iter().zip(&commits) {
                state.raise_commit(shard.id(), commit.min(shard.tail_gsn()));
            }
            state.time_committed(beat.committed_time_ms, &commits);
            let applied: Vec<_> = state.engine.shards().iter().map(|shard| shard.applied()).collect();
            let mut staleness = state.staleness.lock();
            if beat.echo_nanos != 0 {
                staleness.echoed(Duration::from_nanos(beat.echo_nanos), commits, beat.lease_valid);
            }
            staleness.applied(&applied);
        }
        // A full queue means that the leader takes nothing: the next round says it again.
        let _ = sender.try_send(word(beat.sequence));
    }
}
