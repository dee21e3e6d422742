//! Role changes as they are carried out: Init, FENCE, PROMOTE, FOLLOW, one at a time on a thread of their own.
//!
//! [`MemberCore`](super::rules::MemberCore) decides; here its steps are made durable in their order and put in
//! force: epochs opened and closed, terms begun and ended, streams started and cut. No other thread persists
//! promises. A drain, an ASSEMBLE and reading from others wait elsewhere; this thread waits for the disk only.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::client::ReplicationClient;
use super::clock;
use super::full_sync::StagedCopy;
use super::heartbeat;
use super::member_state::MemberState;
use super::mend;
use super::rules::{Following, RoleChange, is_vacant};
use super::shard_time::ShardTime;
use super::term::LeaderTerm;
use crate::engine::ShardState;
use crate::ident::Sid;
use crate::position::Epoch;
use crate::topology::message::{
    FenceRequest, FollowRequest, InitRequest, LastConfig, PromoteRequest, RecoverRequest, Refusal, Reply,
    SetAsideRequest, StandingReply,
};

/// A promise holds the log's floor until PROMOTE or FOLLOW, or for so long.
const FLOOR_HELD: Duration = Duration::from_secs(60);

/// What this thread is asked.
enum Job {
    Init(InitRequest, oneshot::Sender<Reply>),
    Fence {
        request: FenceRequest,
        drained: bool,
        answer: oneshot::Sender<Reply>,
    },
    Promote(PromoteRequest, oneshot::Sender<Reply>),
    Follow(FollowRequest, oneshot::Sender<Reply>),
    Recover(RecoverRequest, oneshot::Sender<Reply>),
    SetAside(SetAsideRequest, oneshot::Sender<Reply>),
    /// The configuration of the followed leader's epoch.
    LearnConfig {
        leader: Sid,
        config: LastConfig,
        answer: oneshot::Sender<Result<(), Refusal>>,
    },
    /// A later epoch was seen.
    Observe(Epoch),
    Stop,
}

/// Hands role changes to their thread.
#[derive(Debug, Clone)]
pub(crate) struct Roles {
    jobs: mpsc::Sender<Job>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Init(..) => "Init",
            Self::Fence { .. } => "Fence",
            Self::Promote(..) => "Promote",
            Self::Follow(..) => "Follow",
            Self::Recover(..) => "Recover",
            Self::SetAside(..) => "SetAside",
            Self::LearnConfig { .. } => "LearnConfig",
            Self::Observe(_) => "Observe",
            Self::Stop => "Stop",
        })
    }
}

/// The thread's side.
pub(crate) struct RoleThread {
    state: Arc<MemberState>,
    jobs: mpsc::Receiver<Job>,
    roles: Roles,
    main: Handle,
    heartbeats: Handle,
    /// Ends the stream to the followed leader.
    stream: Mutex<Option<CancellationToken>>,
}

impl Roles {
    /// A queue of role changes and the thread's body that takes them.
    pub(crate) fn new(state: Arc<MemberState>, main: Handle, heartbeats: Handle) -> (Self, RoleThread) {
        let (sender, jobs) = mpsc::channel();
        let roles = Self { jobs: sender };
        (roles.clone(), RoleThread { state, jobs, roles, main, heartbeats, stream: Mutex::default() })
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.jobs.send(job(answer)).ok()?;
        answered.await.ok()
    }

    /// `Init`. None: the member is stopping.
    pub(crate) async fn init(&self, request: InitRequest) -> Option<Reply> {
        self.ask(|answer| Job::Init(request, answer)).await
    }

    /// FENCE; `drained`: the lease is given up and no write is in flight.
    pub(crate) async fn fence(&self, request: FenceRequest, drained: bool) -> Option<Reply> {
        self.ask(|answer| Job::Fence { request, drained, answer }).await
    }

    /// PROMOTE.
    pub(crate) async fn promote(&self, request: PromoteRequest) -> Option<Reply> {
        self.ask(|answer| Job::Promote(request, answer)).await
    }

    /// FOLLOW.
    pub(crate) async fn follow(&self, request: FollowRequest) -> Option<Reply> {
        self.ask(|answer| Job::Follow(request, answer)).await
    }

    /// An unsafe recovery made this member's log the truth.
    pub(crate) async fn recover(&self, request: RecoverRequest) -> Option<Reply> {
        self.ask(|answer| Job::Recover(request, answer)).await
    }

    /// This storage is of an older lineage and shall make room for a new one.
    pub(crate) async fn set_aside(&self, request: SetAsideRequest) -> Option<Reply> {
        self.ask(|answer| Job::SetAside(request, answer)).await
    }

    /// Makes the configuration of the followed leader's epoch durable.
    pub(crate) async fn learn_config(&self, leader: Sid, config: LastConfig) -> Result<(), Refusal> {
        let stopping = || Err(Refusal::Failed("the member is stopping".into()));
        self.ask(|answer| Job::LearnConfig { leader, config, answer }).await.unwrap_or_else(stopping)
    }

    /// A later epoch was seen in a hello or a heartbeat: a leader of an older one steps down.
    pub(crate) fn observe(&self, epoch: Epoch) {
        // Nobody is there only while the member stops, and then it leads nothing for long.
        let _ = self.jobs.send(Job::Observe(epoch));
    }

    /// Ends the thread after what is queued.
    pub(crate) fn stop(&self) {
        let _ = self.jobs.send(Job::Stop);
    }
}

impl RoleThread {
    /// The thread's body.
    pub(crate) fn run(self) {
        while let Ok(job) = self.jobs.recv() {
            match job {
                Job::Init(request, answer) => self.answer(answer, self.init(&request)),
                Job::Fence { request, drained, answer } => self.answer(answer, self.fence(&request, drained)),
                Job::Promote(request, answer) => self.answer(answer, self.promote(&request)),
                Job::Follow(request, answer) => self.answer(answer, self.follow(&request)),
                Job::Recover(request, answer) => self.answer(answer, self.recover(&request)),
                Job::SetAside(request, answer) => self.answer(answer, self.set_aside(&request)),
                Job::LearnConfig { leader, config, answer } => {
                    let _ = answer.send(self.learn_config(leader, &config));
                }
                Job::Observe(epoch) => {
                    let change = self.state.core.lock().observe_epoch(epoch);
                    if change != RoleChange::None {
                        tracing::warn!(epoch, "a later epoch exists: this member leads no more");
                        self.leave(&change);
                    }
                }
                Job::Stop => break,
            }
        }
        self.cut_stream();
        self.state.end_term();
    }

    fn answer(&self, answer: oneshot::Sender<Reply>, result: Result<Reply, Refusal>) {
        let reply = result.unwrap_or_else(|refusal| {
            tracing::info!(%refusal, "a controller's request is refused");
            Reply::Refused(refusal, Box::new(self.state.core.lock().standing()))
        });
        self.state.publish_roles();
        // The caller may have given up waiting: what was done stays done and is done again without harm.
        let _ = answer.send(reply);
    }

    /// Stops what a role did.
    fn leave(&self, change: &RoleChange) {
        match change {
            RoleChange::None => return,
            RoleChange::SteppedDown(epoch) => {
                tracing::info!(epoch, "leads no more");
                self.state.end_term();
            }
            RoleChange::StreamEnds => self.cut_stream(),
        }
        self.state.following_changed(false);
        self.state.publish_roles();
    }

    fn cut_stream(&self) {
        if let Some(stream) = self.stream.lock().take() {
            stream.cancel();
        }
    }

    fn init(&self, request: &InitRequest) -> Result<Reply, Refusal> {
        let step = self.state.core.lock().begin_init(request)?;
        if !step.already {
            self.state.persist(&step.started).map_err(failed)?;
            self.state.engine.turn(&ShardState::Blank, &ShardState::Ready).map_err(failed)?;
            // The steps were decided on what was durable before; the second is applied on top of the first.
            let mut both = step.started.clone();
            both.init = step.done.init;
            self.state.persist(&both).map_err(failed)?;
        }
        let standing = self.state.core.lock().finish_init(&step);
        tracing::info!(cluster_id = ?standing.cluster_id, sid = %standing.sid, "initialised");
        Ok(Reply::Done(StandingReply { standing }))
    }

    fn fence(&self, request: &FenceRequest, drained: bool) -> Result<Reply, Refusal> {
        let step = self.state.core.lock().begin_fence(request)?;
        // The reply tells how far back the log reaches: that stays true while the epoch is made.
        self.state.engine.hold_log_floor(FLOOR_HELD);
        StagedCopy::end_older(&self.state, request.epoch);
        // A fenced leader tells the time it counted: what expired by it must stay expired.
        self.state.heard_time(self.state.shard_time_ms());
        self.leave(&step.role);
        self.state.drain_appends();
        self.state.engine.sync_all().map_err(failed)?;
        self.state.persist(&step.change).map_err(failed)?;
        let shards = self.state.shard_reports();
        let time = self.state.known_time_ms();
        let reply =
            self.state.core.lock().finish_fence(&step, shards, time, clock::wall_ms(), drained, clock::now())?;
        tracing::info!(epoch = request.epoch, drained, "promised");
        Ok(Reply::Fenced(reply))
    }

    fn promote(&self, request: &PromoteRequest) -> Result<Reply, Refusal> {
        // Nothing replaces a log between the look at its end and its BARRIER, not even a copy that was under way.
        StagedCopy::end_older(&self.state, Epoch::MAX);
        let shards = self.state.engine.shards();
        let _unchanged: Vec<_> = shards.iter().map(|shard| self.state.append_lock(shard.id()).lock()).collect();
        let shards = self.state.shard_reports();
        let step = self.state.core.lock().begin_promote(request, &shards)?;
        if step.already {
            let standing = self.state.core.lock().finish_promote(step, clock::now())?;
            return Ok(Reply::Done(StandingReply { standing }));
        }
        self.state.persist(&step.change).map_err(failed)?;
        // Whole again: the log is what every voter that counts holds.
        self.state.engine.turn(&ShardState::Amnesic, &ShardState::Ready).map_err(failed)?;
        let now = clock::now();
        let (standing, term) = {
            let mut core = self.state.core.lock();
            let standing = core.finish_promote(step, now)?;
            (standing, core.term().cloned())
        };
        let Some(term) = term else { return Err(Refusal::Obsolete(request.config.epoch)) };
        let known = self.state.known_time_ms().max(request.shard_time_ms).max(self.state.engine.log_time_ms());
        let shard_time = ShardTime::new(known, now, clock::wall_ms());
        let commits = shards.iter().map(|shard| shard.commit).collect();
        let term = Arc::new(LeaderTerm::new(term, standing.sid, commits, shard_time));
        self.state.following_changed(false);
        // The log may have been cut since figures were told: none of before is told together with this epoch's writes.
        for shard in self.state.engine.shards() {
            self.state.publish_progress(shard);
        }
        self.state.begin_term(Arc::clone(&term));
        for shard in self.state.engine.shards() {
            let opened = shard.open_epoch(term.epoch(), self.state.shard_time_ms());
            match opened {
                Ok(tail) => {
                    let risen = term.quorum.lock().barrier_appended(shard.id(), tail.last.gsn);
                    if let Some(commit) = risen {
                        self.state.raise_commit(shard.id(), commit);
                    }
                }
                Err(error) => {
                    // An epoch is never led twice: what was opened stays behind, the next attempt takes a new one.
                    let change = self.state.core.lock().observe_epoch(Epoch::MAX);
                    self.leave(&change);
                    return Err(failed(error));
                }
            }
        }
        tracing::info!(
            epoch = term.epoch(),
            voters = term.term.config.voters.len(),
            write_quorum = term.term.config.write_quorum,
            lease_wait_ms = u64::try_from(request.lease_wait.as_millis()).unwrap_or(u64::MAX),
            "promoted"
        );
        self.state.engine.epoch_has_its_leader();
        // The lease wait ends without anybody's help.
        self.state.wake_commits();
        term.ask_round.notify_one();
        Ok(Reply::Done(StandingReply { standing }))
    }

    fn follow(&self, request: &FollowRequest) -> Result<Reply, Refusal> {
        let vacant = is_vacant(&self.state.shard_reports());
        let step = self.state.core.lock().begin_follow(request, vacant)?;
        StagedCopy::end_older(&self.state, Epoch::MAX);
        self.leave(&step.role);
        self.state.drain_appends();
        self.state.persist(&step.change).map_err(failed)?;
        // Blank storage joins as a learner.
        self.state.engine.turn(&ShardState::Blank, &ShardState::Syncing).map_err(failed)?;
        let (standing, following) = {
            let mut core = self.state.core.lock();
            let standing = core.finish_follow(step)?;
            (standing, core.following().cloned())
        };
        self.state.engine.epoch_has_its_leader();
        if let Some(following) = following {
            self.start_stream(following);
        }
        Ok(Reply::Done(StandingReply { standing }))
    }

    /// Starts the stream to the leader, if it does not run.
    fn start_stream(&self, following: Following) {
        let mut stream = self.stream.lock();
        if stream.as_ref().is_some_and(|stream| !stream.is_cancelled()) {
            return;
        }
        tracing::info!(epoch = following.epoch, leader = following.leader.name, "follows");
        let ends = self.state.stop.child_token();
        *stream = Some(ends.clone());
        self.state.following_changed(true);
        let client =
            ReplicationClient::new(Arc::clone(&self.state), self.roles.clone(), following.clone(), ends.clone());
        self.main.spawn(client.run());
        self.main.spawn(mend::run(Arc::clone(&self.state), following.clone(), ends.clone()));
        self.heartbeats.spawn(heartbeat::follow(Arc::clone(&self.state), following, ends));
    }

    fn recover(&self, request: &RecoverRequest) -> Result<Reply, Refusal> {
        let states: Vec<_> = self.state.shard_reports().iter().map(|shard| shard.state).collect();
        let step = self.state.core.lock().begin_recover(request, &states)?;
        self.leave(&step.role);
        self.state.drain_appends();
        self.state.engine.sync_all().map_err(failed)?;
        self.state.persist(&step.change).map_err(failed)?;
        let standing = self.state.core.lock().finish_recover(&step);
        tracing::warn!(
            lineage = standing.lineage,
            epoch = request.config.epoch,
            "ALARM: an unsafe recovery made this member's data the truth; whatever others of the older lineage hold is given up"
        );
        Ok(Reply::Done(StandingReply { standing }))
    }

    fn set_aside(&self, request: &SetAsideRequest) -> Result<Reply, Refusal> {
        let standing = {
            let core = self.state.core.lock();
            core.check_set_aside(request)?;
            core.standing()
        };
        tracing::warn!(
            lineage = standing.lineage,
            sid = %standing.sid,
            "this storage is of an older lineage and is set aside, as somebody asked: the process ends for that"
        );
        self.state.set_aside.cancel();
        Ok(Reply::Done(StandingReply { standing }))
    }

    fn learn_config(&self, leader: Sid, config: &LastConfig) -> Result<(), Refusal> {
        let change = self.state.core.lock().learn_config(leader, config)?;
        self.state.persist(&change).map_err(failed)?;
        self.state.core.lock().config_persisted(&change);
        Ok(())
    }
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed(error.to_string())
}
