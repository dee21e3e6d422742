//! The peer port's services: what controllers order (Control) and what members ask each other (Replication).
//!
//! Each call is handed to the part of the replication floor that carries it out; here are only the wire's types,
//! the drain that precedes a planned FENCE, and the health stream.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::select_all;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::net::proto::{self, control_server, replication_server};
use crate::replication::full_sync::{self, Pins};
use crate::replication::heartbeat;
use crate::replication::member_state::MemberState;
use crate::replication::mend;
use crate::replication::roles::Roles;
use crate::replication::server::ReplicationServer;
use crate::replication::tail_fetch;
use crate::topology::message::{
    AssembleRequest, FenceRequest, FollowRequest, InitRequest, PromoteRequest, RecoverRequest, Refusal, Reply,
    SetAsideRequest,
};

/// Controllers hear at least so often.
const HEALTH_EVERY: Duration = Duration::from_millis(100);
/// Longest drain a controller may ask for.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Both services over one member.
#[derive(Debug, Clone)]
pub(crate) struct PeerService {
    state: Arc<MemberState>,
    roles: Roles,
    pins: Arc<Pins>,
    /// On the heartbeats' thread: nothing else is done there.
    heartbeats_only: bool,
}

impl PeerService {
    pub(crate) fn new(state: Arc<MemberState>, roles: Roles, pins: Arc<Pins>) -> Self {
        Self { state, roles, pins, heartbeats_only: false }
    }

    /// The same for the heartbeats' thread.
    pub(crate) fn heartbeats_only(&self) -> Self {
        Self { heartbeats_only: true, ..self.clone() }
    }

    fn refuse_on_heartbeats(&self) -> Result<(), Status> {
        if self.heartbeats_only {
            return Err(Status::failed_precondition("a heartbeat connection carries heartbeats only"));
        }
        Ok(())
    }

    fn answer(&self, reply: Option<Reply>) -> Result<Response<proto::ControlReply>, Status> {
        match reply {
            Some(reply) => Ok(Response::new(reply.into())),
            None => Err(Status::unavailable("the member is stopping")),
        }
    }

    fn refused(&self, refusal: Refusal) -> Reply {
        tracing::info!(%refusal, "a controller's request is refused");
        self.state.refused_peers.fetch_add(1, Ordering::Relaxed);
        Reply::Refused(refusal, Box::new(self.state.core.lock().standing()))
    }

    /// Gates new writes, lets those in flight commit for at most `limit`, gives the lease up. Whether all did.
    async fn drain(&self, limit: Duration) -> bool {
        let Some(term) = self.state.term() else { return false };
        term.draining.store(true, Ordering::Release);
        self.state.publish_roles();
        let shards = self.state.engine.shards();
        let mut progress: Vec<_> = shards.iter().map(|shard| self.state.progress(shard.id())).collect();
        let all_shown = || shards.iter().all(|shard| shard.applied() >= shard.tail_gsn());
        let waiting = async {
            loop {
                progress.iter_mut().for_each(tokio::sync::watch::Receiver::mark_unchanged);
                if all_shown() {
                    return;
                }
                select_all(progress.iter_mut().map(|shard| Box::pin(shard.changed()))).await.0.ok();
            }
        };
        let drained = tokio::select! {
            () = term.ended.cancelled() => false,
            outcome = tokio::time::timeout(limit.min(DRAIN_MAX), waiting) => outcome.is_ok(),
        };
        if drained {
            self.state.release_lease();
        }
        drained
    }

    async fn fence_reply(&self, request: FenceRequest) -> Option<Reply> {
        let checked = self.state.core.lock().check_fence(&request);
        if let Err(refusal) = checked {
            return Some(self.refused(refusal));
        }
        let drained = match request.drain {
            Some(limit) => self.drain(limit).await,
            None => false,
        };
        let reply = self.roles.fence(request, drained).await;
        // Refused after the gate was closed: the leader goes on.
        if let Some(term) = self.state.term()
            && term.draining.swap(false, Ordering::AcqRel)
        {
            self.state.publish_roles();
        }
        reply
    }
}

#[tonic::async_trait]
impl control_server::Control for PeerService {
    async fn init(&self, request: Request<proto::InitRequest>) -> Result<Response<proto::ControlReply>, Status> {
        let request = InitRequest::try_from(request.into_inner())?;
        self.answer(self.roles.init(request).await)
    }

    async fn fence(&self, request: Request<proto::FenceRequest>) -> Result<Response<proto::ControlReply>, Status> {
        let request = FenceRequest::try_from(request.into_inner())?;
        self.answer(self.fence_reply(request).await)
    }

    async fn assemble(
        &self,
        request: Request<proto::AssembleRequest>,
    ) -> Result<Response<proto::ControlReply>, Status> {
        let request = AssembleRequest::try_from(request.into_inner())?;
        let reply = match tail_fetch::assemble(&self.state, request).await {
            Ok(reply) => reply,
            Err(refusal) => self.refused(refusal),
        };
        self.answer(Some(reply))
    }

    async fn promote(&self, request: Request<proto::PromoteRequest>) -> Result<Response<proto::ControlReply>, Status> {
        let request = PromoteRequest::try_from(request.into_inner())?;
        self.answer(self.roles.promote(request).await)
    }

    async fn follow(&self, request: Request<proto::FollowRequest>) -> Result<Response<proto::ControlReply>, Status> {
        let request = FollowRequest::try_from(request.into_inner())?;
        self.answer(self.roles.follow(request).await)
    }

    async fn recover(&self, request: Request<proto::RecoverRequest>) -> Result<Response<proto::ControlReply>, Status> {
        let request = RecoverRequest::try_from(request.into_inner())?;
        self.answer(self.roles.recover(request).await)
    }

    async fn set_aside(
        &self,
        request: Request<proto::SetAsideRequest>,
    ) -> Result<Response<proto::ControlReply>, Status> {
        let request = SetAsideRequest::try_from(request.into_inner())?;
        self.answer(self.roles.set_aside(request).await)
    }

    type HealthStream = ReceiverStream<Result<proto::HealthReport, Status>>;

    async fn health(&self, _: Request<proto::HealthRequest>) -> Result<Response<Self::HealthStream>, Status> {
        // One waits while one is sent: an older report is worth nothing.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(tell_health(Arc::clone(&self.state), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn tell_health(state: Arc<MemberState>, sender: mpsc::Sender<Result<proto::HealthReport, Status>>) {
    let _open = HealthStream::open(&state);
    let mut changes = state.health_changes();
    let mut interval = tokio::time::interval(HEALTH_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = state.stop.cancelled() => return,
            () = sender.closed() => return,
            _ = changes.changed() => {}
            _ = interval.tick() => {}
        }
        let Ok(place) = sender.reserve().await else { return };
        changes.mark_unchanged();
        // Made after there is room for it: never older than the connection makes it.
        place.send(Ok(state.health().into()));
    }
}

/// Counts the open health streams.
struct HealthStream(Arc<MemberState>);

impl HealthStream {
    fn open(state: &Arc<MemberState>) -> Self {
        state.health_streams.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(state))
    }
}

impl Drop for HealthStream {
    fn drop(&mut self) {
        self.0.health_streams.fetch_sub(1, Ordering::AcqRel);
        self.0.health_changed();
    }
}

#[tonic::async_trait]
impl replication_server::Replication for PeerService {
    type ReplicateStream = crate::replication::server::LeaderMessages;

    async fn replicate(
        &self,
        request: Request<Streaming<proto::FollowerMessage>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        self.refuse_on_heartbeats()?;
        let server = ReplicationServer::new(Arc::clone(&self.state), self.roles.clone());
        server.serve(request.into_inner()).await.map(Response::new)
    }

    type HeartbeatStream = heartbeat::Heartbeats;

    async fn heartbeat(
        &self,
        request: Request<Streaming<proto::HeartbeatAck>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        heartbeat::serve(Arc::clone(&self.state), self.roles.clone(), request.into_inner()).await.map(Response::new)
    }

    type FetchTailStream = tail_fetch::Tail;

    async fn fetch_tail(
        &self,
        request: Request<proto::FetchTailRequest>,
    ) -> Result<Response<Self::FetchTailStream>, Status> {
        self.refuse_on_heartbeats()?;
        tail_fetch::give(&self.state, request.into_inner()).map(Response::new)
    }

    type SnapshotStream = full_sync::Snapshot;

    async fn snapshot(
        &self,
        request: Request<proto::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.refuse_on_heartbeats()?;
        full_sync::give(&self.state, &self.pins, request.into_inner()).map(Response::new)
    }

    async fn entries(
        &self,
        request: Request<proto::EntriesRequest>,
    ) -> Result<Response<proto::EntriesResponse>, Status> {
        self.refuse_on_heartbeats()?;
        mend::give(&self.state, request.into_inner()).await.map(Response::new)
    }
}
