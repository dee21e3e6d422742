//! One member of a partition: an engine, the rules, and the execution of roles.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::listener::Port;
use super::peer_port;
use super::peer_service::PeerService;
use crate::disk::Disk;
use crate::engine::{AppendError, Appended, Engine, EngineError, EngineOptions, Format, ShardState, WriteBatch};
use crate::ident::{InstanceId, Sid};
use crate::net::peer::PeerAuth;
use crate::net::proto;
use crate::position::{Gsn, LogPosition};
use crate::replication::clock;
use crate::replication::full_sync::Pins;
use crate::replication::heartbeat;
pub use crate::replication::leadership::{LeaderAddress, LeaderHint, Leadership, ShardProgress, WriteRefused};
use crate::replication::member_state::{Addresses, MemberState};
use crate::replication::roles::Roles;
pub use crate::replication::rules::Outcome;
use crate::replication::rules::outcome;
use crate::topology::message::HealthReport;

/// What a member is opened with.
#[derive(Debug, Clone)]
pub struct MemberConfig {
    /// Its name: `<cluster>-<partition>-<ordinal>`.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// The partition.
    pub partition: u32,
    /// Its data directory; formatted if it is empty or absent.
    pub dir: PathBuf,
    /// Shards: what the directory is formatted with, and must have.
    pub shards: u16,
    /// Where clients reach it, as told to others.
    pub client_address: String,
    /// Where members and controllers reach it, as told to others.
    pub peer_address: String,
    /// How the peer port's two ends know each other.
    pub auth: PeerAuth,
    /// The engine's options.
    pub engine: EngineOptions,
    /// The file system.
    pub disk: Arc<dyn Disk>,
}

/// Why a member could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory was formatted otherwise.
    #[error(
        "{dir} was formatted with {have} shards, {want} are asked for: the shard count of a volume never changes; \
         keep {have}, or start with an empty directory"
    )]
    ShardCount {
        /// The directory.
        dir: PathBuf,
        /// As formatted.
        have: u16,
        /// As asked.
        want: u16,
    },
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A thread or runtime could not be started.
    #[error("cannot start {what}: {source}; are the process limits too low?")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// How long a stopping leader waits for a controller to begin to move the leadership.
const DRAIN_BEGINS: Duration = Duration::from_secs(5);
/// How long it waits for the end of a move that began.
const DRAIN_ENDS: Duration = Duration::from_secs(10);
/// How long writes that were appended may take to commit while the member stops.
const IN_FLIGHT: Duration = Duration::from_secs(2);
/// How often the main runtime shows that it runs.
const TICK: Duration = Duration::from_millis(100);
/// A main runtime that did not run for so long never will.
const TICK_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Member {
    pub(super) state: Arc<MemberState>,
    roles: Roles,
    pins: Arc<Pins>,
    heartbeats: tokio::runtime::Handle,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Member {
    /// Opens (and formats, if it is empty) the data directory and starts the member as a follower of nobody.
    pub async fn open(config: MemberConfig) -> Result<Arc<Self>, OpenError> {
        let addresses = Addresses {
            name: config.name.clone(),
            client_address: config.client_address.clone(),
            auth: config.auth.clone(),
        };
        // Recovery reads all of the data.
        let opening = tokio::task::spawn_blocking(move || open_engine(&config));
        let engine = opening.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let state = MemberState::new(addresses, engine);
        let (heartbeats, thread) = heartbeat_thread(&state)?;
        let mut threads = vec![thread];
        let (roles, role_thread) =
            Roles::new(Arc::clone(&state), tokio::runtime::Handle::current(), heartbeats.clone());
        threads.push(spawn("armdb-promises", "the thread of promises", move || role_thread.run())?);
        let commits = Arc::clone(&state);
        threads.push(spawn("armdb-commit", "the commit thread", move || commits.run_commits())?);
        heartbeats.spawn(heartbeat::beat(Arc::clone(&state)));
        let pins = Arc::new(Pins::default());
        tokio::spawn(keep_house(Arc::clone(&state), Arc::clone(&pins), heartbeats.clone()));
        Ok(Arc::new(Self { state, roles, pins, heartbeats, threads: Mutex::new(threads) }))
    }

    /// Its data.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.state.engine
    }

    /// Whether it leads, and else who does.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.state.leadership()
    }

    /// Appends a batch as leader: quick, never waits for a disk or a peer.
    pub fn append(&self, shard: u16, batch: &WriteBatch) -> Result<Appended, WriteRefused> {
        let Some(term) = self.state.term() else { return Err(WriteRefused::NotLeader(self.state.hint())) };
        if term.draining.load(Ordering::Acquire) {
            return Err(WriteRefused::Draining);
        }
        if term.suspended.load(Ordering::Acquire) {
            return Err(WriteRefused::NoQuorum);
        }
        self.state.shard(shard).append(term.epoch(), batch).map_err(|error| match error {
            AppendError::NotLeader if self.state.stop.is_cancelled() => WriteRefused::Draining,
            AppendError::NotLeader => WriteRefused::NotLeader(self.state.hint()),
            error => WriteRefused::Engine(error),
        })
    }

    /// How far a shard is; changes wake.
    pub fn progress(&self, shard: u16) -> watch::Receiver<ShardProgress> {
        self.state.progress(shard)
    }

    /// What became of an entry that was appended here (R16).
    pub fn outcome(&self, shard: u16, at: LogPosition) -> Outcome {
        let shard = self.state.shard(shard);
        // The commit first: what is committed keeps its epoch, whatever the table gains meanwhile.
        let commit = shard.commit();
        outcome(at, commit, &shard.epoch_table())
    }

    /// Whether the lease to serve reads holds at this moment: ask *after* reading.
    pub fn lease_valid(&self) -> bool {
        self.state.lease_valid()
    }

    /// One round of heartbeats sent after the call: the commit of every shard then.
    pub async fn read_index(&self) -> Result<Vec<Gsn>, LeaderHint> {
        let Some(term) = self.state.term() else { return Err(self.state.hint()) };
        let mut leadership = self.state.leadership();
        while !term.serving.load(Ordering::Acquire) {
            tokio::select! {
                () = term.ended.cancelled() => return Err(self.state.hint()),
                _ = leadership.changed() => {}
            }
        }
        let asked = clock::now();
        let commits = self.state.engine.shards().iter().map(|shard| shard.commit()).collect();
        term.ask_round.notify_one();
        loop {
            let heard = term.heard.notified();
            tokio::pin!(heard);
            heard.as_mut().enable();
            let confirmed = {
                let core = self.state.core.lock();
                core.leads(term.epoch()) && core.lease().is_some_and(|lease| lease.confirmed_since(asked, clock::now()))
            };
            if confirmed {
                return Ok(commits);
            }
            tokio::select! {
                () = term.ended.cancelled() => return Err(self.state.hint()),
                () = heard => {}
            }
        }
    }

    /// How old this member's committed state is at most; `None`: not known.
    pub fn staleness(&self) -> Option<Duration> {
        if self.state.term().is_some() {
            return self.lease_valid().then_some(Duration::ZERO);
        }
        self.state.staleness.lock().bound(clock::now())
    }

    /// Shard time as leader, unix milliseconds: what a relative time to live is added to.
    pub fn shard_time_ms(&self) -> u64 {
        self.state.shard_time_ms()
    }

    /// Highest gsn of a shard that every voter has acknowledged; 0 unless it leads.
    pub fn acked_by_all(&self, shard: u16) -> Gsn {
        self.state.acked_by_all(shard)
    }

    /// Bytes of full copies that have arrived since the process started.
    pub fn copied_bytes(&self) -> u64 {
        self.state.copied_bytes.load(Ordering::Relaxed)
    }

    /// Hellos of followers and orders of controllers that were refused since the process started.
    pub fn refused_peers(&self) -> u64 {
        self.state.refused_peers.load(Ordering::Relaxed)
    }

    /// Damaged files that were mended with entries from a leader since the process started.
    pub fn mended_files(&self) -> u64 {
        self.state.mended_files.load(Ordering::Relaxed)
    }

    /// What controllers are told.
    pub fn health(&self) -> HealthReport {
        self.state.health()
    }

    /// A number that rises when the health report has changed in more than its figures.
    pub fn health_changes(&self) -> watch::Receiver<u64> {
        self.state.health_changes()
    }

    /// The members as this one knows them, for clients: the leader knows its followers, a follower itself and the
    /// leader.
    pub fn describe_members(&self) -> Vec<proto::MemberInfo> {
        let health = self.state.health();
        let shards = self.state.engine.shards();
        let leads = self.state.term();
        let own_state = match shards.iter().map(|shard| shard.state()).find(|state| *state != ShardState::Ready) {
            Some(ShardState::Blank) => "Blank",
            Some(ShardState::Syncing) => "Syncing",
            Some(ShardState::Amnesic) => "Amnesic",
            Some(ShardState::Quarantined { .. }) => "Quarantined",
            Some(ShardState::Damaged { .. }) => "Damaged",
            Some(ShardState::Ready) | None if leads.is_some() || health.caught_up => "InSync",
            Some(ShardState::Ready) | None => "CatchingUp",
        };
        let role = match (&leads, health.role) {
            (Some(_), _) => "Leader",
            (None, crate::topology::message::Role::Fenced | crate::topology::message::Role::Assembling) => "Fenced",
            (None, _) => "Follower",
        };
        let mut members = vec![proto::MemberInfo {
            name: self.state.addresses.name.clone(),
            sid: health.standing.sid.to_string(),
            role: role.into(),
            state: own_state.into(),
            client_address: self.state.addresses.client_address.clone(),
            durable: shards.iter().map(|shard| shard.durable_gsn()).collect(),
            commit: shards.iter().map(|shard| shard.commit()).collect(),
            ..Default::default()
        }];
        match leads {
            Some(term) => {
                for follower in term.followers.lock().values() {
                    let report = health.followers.iter().find(|report| report.sid == follower.sid);
                    let connected = follower.connected.load(Ordering::Acquire);
                    let state = match (connected, follower.in_sync(), follower.whole) {
                        (false, ..) => "Unreachable",
                        (true, true, _) => "InSync",
                        (true, false, true) => "CatchingUp",
                        (true, false, false) => "Syncing",
                    };
                    members.push(proto::MemberInfo {
                        name: follower.name.clone(),
                        sid: follower.sid.to_string(),
                        role: if term.is_voter(follower.sid) { "Follower" } else { "Learner" }.into(),
                        state: state.into(),
                        lag_entries: report.map_or(0, |report| report.lag_entries),
                        lag_bytes: report.map_or(0, |report| report.lag_bytes),
                        lag_ms: report.map_or(0, |report| report.lag_ms),
                        client_address: follower.client_address.clone(),
                        durable: follower.durable.iter().map(|gsn| gsn.load(Ordering::Acquire)).collect(),
                        commit: follower.applied.iter().map(|gsn| gsn.load(Ordering::Acquire)).collect(),
                    });
                }
            }
            None => {
                if let Some(leader) = self.state.hint().leader {
                    members.push(proto::MemberInfo {
                        name: leader.name,
                        sid: leader.sid.to_string(),
                        role: "Leader".into(),
                        state: "InSync".into(),
                        client_address: leader.client_address,
                        ..Default::default()
                    });
                }
            }
        }
        members
    }

    /// Serves the peer port (Control and Replication, the secret checked) until [`Self::shutdown`].
    pub(crate) async fn serve_peer(
        self: &Arc<Self>,
        listener: std::net::TcpListener,
        port: Arc<Port>,
    ) -> std::io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let auth = self.state.addresses.auth.clone();
        let stop = self.state.stop.clone();
        let service = PeerService::new(Arc::clone(&self.state), self.roles.clone(), Arc::clone(&self.pins));
        let (main, connections) = mpsc::unbounded_channel();
        let (beats, beat_connections) = mpsc::unbounded_channel();
        self.heartbeats.spawn(peer_port::serve_heartbeats(
            service.heartbeats_only(),
            auth.clone(),
            beat_connections,
            stop.clone(),
        ));
        let accepting = peer_port::accept(listener, port, auth.clone(), main, beats, stop.clone());
        let serving = peer_port::serve_main(service, auth, connections, stop);
        let ((), served) = tokio::join!(accepting, serving);
        served.map_err(std::io::Error::other)
    }

    /// Returns once somebody asked that this storage make room for a new one.
    pub async fn set_aside_asked(&self) {
        self.state.set_aside.cancelled().await;
    }

    /// Whether this storage is to make room for a new one.
    pub fn is_set_aside(&self) -> bool {
        self.state.set_aside.is_cancelled()
    }

    /// SIGTERM, first: wants to give leadership away. Returns once it does not lead any more, or after 5 s
    /// (10 s once a drain arrived). At once if nobody could move it.
    pub async fn announce_draining(&self) {
        self.state.draining.store(true, Ordering::Release);
        self.state.health_changed();
        let Some(term) = self.state.term() else { return };
        if term.term.config.voters.len() < 2 {
            return;
        }
        let mut leadership = self.state.leadership();
        let mut health = self.state.health_changes();
        let begins = tokio::time::Instant::now();
        loop {
            let now = leadership.borrow_and_update().clone();
            let until = match now {
                Leadership::Following { .. } => return,
                Leadership::Draining { .. } => begins + DRAIN_ENDS,
                Leadership::Leading { .. } if self.state.health_streams.load(Ordering::Acquire) == 0 => return,
                Leadership::Leading { .. } => begins + DRAIN_BEGINS,
            };
            tokio::select! {
                _ = leadership.changed() => {}
                // A health stream that ends counts as a change: nobody may be left to move the leadership.
                _ = health.changed() => {}
                () = tokio::time::sleep_until(until) => {
                    tracing::warn!("no controller moved the leadership in time: stopping all the same");
                    return;
                }
            }
        }
    }

    /// SIGTERM, last: gates writes, waits for those in flight, ends all streams, closes the engine cleanly.
    pub async fn shutdown(&self) -> Result<(), EngineError> {
        if let Some(term) = self.state.term() {
            term.draining.store(true, Ordering::Release);
            self.state.publish_roles();
            let shards = self.state.engine.shards();
            let mut progress: Vec<_> = shards.iter().map(|shard| self.state.progress(shard.id())).collect();
            let settled = async {
                for (shard, progress) in shards.iter().zip(&mut progress) {
                    let tail = shard.tail_gsn();
                    // An error says that the member is gone, and nothing is in flight.
                    let _ = progress.wait_for(|progress| progress.applied >= tail).await;
                }
            };
            let _ = tokio::time::timeout(IN_FLIGHT, settled).await;
        }
        self.state.stop.cancel();
        self.state.wake_commits();
        self.roles.stop();
        self.pins.expire(true);
        let threads = std::mem::take(&mut *self.threads.lock());
        let engine = Arc::clone(&self.state.engine);
        let closing = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic in there was told; closing goes on.
                let _ = thread.join();
            }
            engine.close()
        });
        closing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

fn open_engine(config: &MemberConfig) -> Result<Arc<Engine>, OpenError> {
    if !Engine::is_formatted(&config.disk, &config.dir)? {
        Engine::format(&config.disk, &config.dir, &Format { sid: Sid::random(), shards: config.shards })?;
    }
    let engine = Engine::open(Arc::clone(&config.disk), &config.dir, config.engine.clone(), InstanceId::random())?;
    let have = engine.meta().shards;
    if have != config.shards {
        engine.close()?;
        return Err(OpenError::ShardCount { dir: config.dir.clone(), have, want: config.shards });
    }
    Ok(engine)
}

fn spawn(name: &str, what: &'static str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new().name(name.into()).spawn(body).map_err(|source| OpenError::Start { what, source })
}

/// Starts the heartbeats' thread with its own runtime; it ends with the member.
fn heartbeat_thread(state: &Arc<MemberState>) -> Result<(tokio::runtime::Handle, JoinHandle<()>), OpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| OpenError::Start { what: "the heartbeats' runtime", source })?;
    let handle = runtime.handle().clone();
    let stop = state.stop.clone();
    let thread = spawn("armdb-heartbeat", "the heartbeats' thread", move || {
        runtime.block_on(stop.cancelled_owned());
        runtime.shutdown_background();
    })?;
    Ok((handle, thread))
}

/// What is looked after from time to time; and proof that the main runtime runs.
async fn keep_house(state: Arc<MemberState>, pins: Arc<Pins>, heartbeats: tokio::runtime::Handle) {
    let (alive, mut seen) = mpsc::channel::<()>(1);
    let (over, mut ended) = oneshot::channel::<()>();
    heartbeats.spawn(async move {
        loop {
            tokio::select! {
                _ = &mut ended => return,
                word = tokio::time::timeout(TICK_LIMIT, seen.recv()) => match word {
                    Ok(Some(())) => {}
                    Ok(None) => return,
                    Err(_) => {
                        // A timer that fired late along with everything else (a stopped machine) proves nothing:
                        // one more chance to say something.
                        if tokio::time::timeout(TICK_LIMIT / 10, seen.recv()).await.is_err() {
                            tracing::error!("the main runtime has not run for {TICK_LIMIT:?}: this process ends");
                            std::process::abort();
                        }
                    }
                },
            }
        }
    });
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = state.stop.cancelled() => break,
            _ = interval.tick() => {}
        }
        let _ = alive.try_send(());
        state.tick(clock::now());
        pins.expire(false);
    }
    let _ = over.send(());
}
