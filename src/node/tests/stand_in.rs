//! A member whose leadership, lease, quorum and commits are moved by hand, over a real engine; and the client
//! port served on top of it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::disk::{Disk, RealDisk};
use crate::engine::{Appended, Background, Engine, EngineOptions, Format, ShardState, WriteBatch};
use crate::ident::{InstanceId, Sid};
use crate::net::proto::{self, kv_client::KvClient, op_result, stream_op};
use crate::node::admission::Budget;
use crate::node::config::NodeConfig;
use crate::node::core::{Core, Identity};
use crate::node::listener::{Port, Protocol};
use crate::node::metrics::Metrics;
use crate::node::replica::{LeaderAddress, LeaderHint, Leadership, Outcome, Replica, ShardProgress, WriteRefused};
use crate::node::run::serve_clients;
use crate::position::{Gsn, LogPosition};
use crate::topology::message::{self, DataState, HealthReport, Standing};

/// The epoch that the stand-in leads at first.
pub(super) const EPOCH: u64 = 3;

pub(super) struct StandIn {
    engine: Arc<Engine>,
    leadership: watch::Sender<Leadership>,
    progress: Vec<watch::Sender<ShardProgress>>,
    /// Whether every append is committed at once.
    pub commits: AtomicBool,
    pub lease: AtomicBool,
    pub quorum: AtomicBool,
    /// Whether a round of heartbeats is answered, and how many were asked for.
    pub rounds_answered: watch::Sender<bool>,
    pub rounds: AtomicU64,
    pub outcome: Mutex<Outcome>,
    pub staleness: Mutex<Option<Duration>>,
}

impl StandIn {
    fn open(dir: &Path, shards: u16, config: &NodeConfig) -> Arc<Self> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
        Engine::format(&disk, dir, &Format { sid: Sid::random(), shards }).expect("formatted");
        let options = EngineOptions { background: Background::Manual, ..config.engine_options() };
        let engine = Engine::open(disk, dir, options, InstanceId::random()).expect("opened");
        for shard in engine.shards() {
            shard.set_state(ShardState::Ready).expect("ready");
            shard.open_epoch(EPOCH, 1_000).expect("leads");
        }
        let progress = engine.shards().iter().map(|_| watch::Sender::new(ShardProgress::default())).collect();
        let stand_in = Arc::new(Self {
            engine,
            leadership: watch::Sender::new(Leadership::Leading { epoch: EPOCH, serving: true }),
            progress,
            commits: AtomicBool::new(true),
            lease: AtomicBool::new(true),
            quorum: AtomicBool::new(true),
            rounds_answered: watch::Sender::new(true),
            rounds: AtomicU64::new(0),
            outcome: Mutex::new(Outcome::Unknown),
            staleness: Mutex::new(None),
        });
        stand_in.commit();
        stand_in
    }

    /// Everything appended becomes durable and committed.
    pub(super) fn commit(&self) {
        self.engine.sync_all().expect("synced");
        for shard in self.engine.shards() {
            shard.advance_commit(shard.tail().last.gsn);
        }
        self.publish();
    }

    /// Everything appended becomes durable here, and no more.
    pub(super) fn sync(&self) {
        self.engine.sync_all().expect("synced");
        self.publish();
    }

    fn publish(&self) {
        let epoch = match *self.leadership.borrow() {
            Leadership::Leading { epoch, .. }
            | Leadership::Draining { epoch }
            | Leadership::Following { epoch, .. } => epoch,
        };
        for shard in self.engine.shards() {
            self.progress[usize::from(shard.id())].send_replace(ShardProgress {
                epoch,
                applied: shard.applied(),
                commit: shard.commit(),
                durable: shard.durable_gsn(),
                tail: shard.tail().last.gsn,
                acked_by_all: 0,
            });
        }
    }

    pub(super) fn lead(&self, leadership: Leadership) {
        self.leadership.send_replace(leadership);
        self.publish();
    }

    /// Another member leads from now on.
    pub(super) fn follow(&self, epoch: u64) {
        self.lead(Leadership::Following { epoch, leader: Some(other_leader()) });
    }

    pub(super) fn tail(&self, shard: u16) -> Gsn {
        self.engine.shards()[usize::from(shard)].tail().last.gsn
    }
}

pub(super) fn other_leader() -> LeaderAddress {
    LeaderAddress { name: "kv-0-1".into(), sid: Sid(9), client_address: "127.0.0.1:9".into() }
}

impl Replica for StandIn {
    fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }
    fn append(&self, shard: u16, batch: &WriteBatch) -> Result<Appended, WriteRefused> {
        let epoch = match self.leadership.borrow().clone() {
            Leadership::Following { epoch, leader } => {
                return Err(WriteRefused::NotLeader(LeaderHint { epoch, leader }));
            }
            Leadership::Draining { .. } => return Err(WriteRefused::Draining),
            Leadership::Leading { epoch, .. } => epoch,
        };
        if !self.quorum.load(Ordering::Relaxed) {
            return Err(WriteRefused::NoQuorum);
        }
        let appended = self.engine.shards()[usize::from(shard)].append(epoch, batch);
        if self.commits.load(Ordering::Relaxed) {
            self.commit();
        }
        appended.map_err(WriteRefused::Engine)
    }
    fn progress(&self, shard: u16) -> watch::Receiver<ShardProgress> {
        self.progress[usize::from(shard)].subscribe()
    }
    fn outcome(&self, _shard: u16, _at: LogPosition) -> Outcome {
        *self.outcome.lock()
    }
    fn lease_valid(&self) -> bool {
        self.lease.load(Ordering::Relaxed)
    }
    fn read_index(self: Arc<Self>) -> BoxFuture<'static, Result<Vec<Gsn>, LeaderHint>> {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        let mut answered = self.rounds_answered.subscribe();
        async move {
            answered.wait_for(|answered| *answered).await.expect("the stand-in is there");
            Ok(self.engine.shards().iter().map(|shard| shard.commit()).collect())
        }
        .boxed()
    }
    fn staleness(&self) -> Option<Duration> {
        *self.staleness.lock()
    }
    fn shard_time_ms(&self) -> u64 {
        1_000
    }
    fn acked_by_all(&self, _shard: u16) -> Gsn {
        0
    }
    fn refused_peers(&self) -> u64 {
        0
    }
    fn mended_files(&self) -> u64 {
        0
    }
    fn copied_bytes(&self) -> u64 {
        0
    }
    fn health(&self) -> HealthReport {
        let meta = self.engine.meta();
        HealthReport {
            standing: Standing {
                cluster_id: None,
                lineage: meta.lineage,
                sid: meta.sid,
                open_count: meta.open_count,
                instance: InstanceId(1),
                init: message::InitState::Done,
                promised: EPOCH,
                led: EPOCH,
                live_led: EPOCH,
                last_config: None,
            },
            role: message::Role::Leader,
            leader: None,
            shards: self
                .engine
                .shards()
                .iter()
                .map(|shard| message::ShardReport {
                    state: DataState::Ready,
                    tail: shard.tail(),
                    commit: shard.commit(),
                    durable: shard.durable_gsn(),
                    log_floor: shard.log_floor(),
                    known_commit: shard.commit(),
                    tombstone_floor: shard.tombstone_floor(),
                })
                .collect(),
            leader_silence: None,
            leader_gone: false,
            cannot_commit: Duration::ZERO,
            followers: Vec::new(),
            draining: false,
            sync_stall: Duration::ZERO,
            disk_full: false,
            disk: message::DiskRoom::default(),
            caught_up: true,
            serving: true,
            trouble: String::new(),
            clock_skew_ms: 0,
            leader_stall: Duration::ZERO,
        }
    }
    fn describe_members(&self) -> Vec<proto::MemberInfo> {
        Vec::new()
    }
}

/// The client port over a stand-in.
pub(super) struct Served {
    pub member: Arc<StandIn>,
    pub address: SocketAddr,
    pub port: Arc<Port>,
    pub metrics: Arc<Metrics>,
    pub buffered: Arc<Budget>,
    pub stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
    _dir: TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Served {
    pub(super) async fn start() -> Self {
        Self::with(1, NodeConfig::default()).await
    }

    pub(super) async fn with(shards: u16, config: NodeConfig) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let member = StandIn::open(&dir.path().join("data"), shards, &config);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let limits = config.limits();
        let port = Port::new("client", Protocol::Http2, limits.max_connections, limits.max_in_flight_bytes);
        let metrics = Arc::new(Metrics::default());
        let (stop, stopping) = watch::channel(false);
        let identity = Identity {
            cluster: "kv".into(),
            partition: 0,
            member: "kv-0-0".into(),
            client_address: address.to_string(),
        };
        let replica: Arc<dyn Replica> = member.clone();
        let core = Core::new(replica, identity, limits, config.default_ack(), Arc::clone(&metrics), stopping);
        let buffered = Budget::new(limits.max_buffered_bytes);
        let (_, health) = tonic_health::server::health_reporter();
        let serving = serve_clients(core, health, listener, Arc::clone(&port), Arc::clone(&buffered));
        let server = tokio::spawn(async move { serving.await.expect("serves") });
        Self { member, address, port, metrics, buffered, stop, server, _dir: dir }
    }

    pub(super) async fn client(&self) -> KvClient<Channel> {
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address");
        KvClient::new(channel.connect().await.expect("connected"))
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20)
    }

    pub(super) async fn stream(&self) -> Pipe {
        let (requests, outbound) = mpsc::channel(64);
        let responses = self.client().await.stream(ReceiverStream::new(outbound)).await.expect("a stream").into_inner();
        Pipe { requests, responses, results: Vec::new() }
    }
}

/// A pipelined stream, as a test talks on it.
pub(super) struct Pipe {
    requests: mpsc::Sender<proto::StreamRequest>,
    pub responses: Streaming<proto::StreamResponse>,
    results: Vec<proto::OpResult>,
}

impl Pipe {
    pub(super) async fn send(&self, ops: Vec<(u64, stream_op::Op)>) {
        let ops = ops.into_iter().map(|(id, op)| proto::StreamOp { id, op: Some(op) }).collect();
        self.requests.send(proto::StreamRequest { route: None, ops }).await.expect("the stream is open");
    }

    /// The next result, in the order the member gave them.
    pub(super) async fn next(&mut self) -> (u64, op_result::Result) {
        while self.results.is_empty() {
            let response = tokio::time::timeout(Duration::from_secs(20), self.responses.message());
            let response = response.await.expect("an answer in time").expect("no error").expect("the stream goes on");
            self.results = response.results;
        }
        let result = self.results.remove(0);
        (result.id, result.result.expect("a result"))
    }

    /// Whether nothing more has been answered up to now; what was sent before this call has been worked on.
    pub(super) async fn is_silent(&mut self) -> bool {
        let silence = tokio::time::timeout(Duration::from_millis(150), self.responses.message()).await;
        self.results.is_empty() && silence.is_err()
    }
}

pub(super) fn put(key: &str, value: &str) -> proto::WriteRequest {
    let put = proto::Put {
        key: key.as_bytes().to_vec().into(),
        value: value.as_bytes().to_vec().into(),
        ..Default::default()
    };
    let op = proto::Op { op: Some(proto::op::Op::Put(put)) };
    proto::WriteRequest { ops: vec![op], ..Default::default() }
}

pub(super) fn if_absent(key: &str, mut write: proto::WriteRequest) -> proto::WriteRequest {
    let expect = Some(proto::condition::Expect::Absent(true));
    write.conditions.push(proto::Condition { tree: String::new(), key: key.as_bytes().to_vec().into(), expect });
    write
}

pub(super) fn get(key: &str) -> proto::GetRequest {
    proto::GetRequest { key: key.as_bytes().to_vec().into(), ..Default::default() }
}

pub(super) fn put_op(key: &str, value: &str) -> stream_op::Op {
    stream_op::Op::Write(put(key, value))
}

pub(super) fn get_op(key: &str) -> stream_op::Op {
    stream_op::Op::Get(get(key))
}

/// The value of an answer to a get, as text.
pub(super) fn text(answer: &proto::GetResponse) -> Option<String> {
    answer.value.as_ref().map(|value| String::from_utf8(value.value.to_vec()).expect("text"))
}

/// The typed detail of a status.
pub(super) fn detail(status: &tonic::Status) -> proto::ErrorDetail {
    let bytes = status.metadata().get_bin("armdb-error-bin").unwrap_or_else(|| panic!("no detail in {status:?}"));
    prost::Message::decode(bytes.to_bytes().expect("base64")).expect("a detail")
}
