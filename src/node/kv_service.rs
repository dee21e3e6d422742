//! The Kv service: its unary calls, and the doors to the stream and the watch.
//!
//! A unary call runs alone in the task that HTTP/2 gave it; it waits on the member's published progress and
//! leadership, and on its deadline. Order between calls is the client's business; the stream keeps order.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{FutureExt as _, select_all};
use futures::{Stream, StreamExt as _};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::admission::{Budget, Held};
use super::core::Core;
use super::errors::{self, Refused};
use super::kv_stream::Session;
use super::metrics::OpKind;
use super::reads::{Answer, Read, Step, Wait};
use super::replica::{Leadership, ShardProgress, WriteRefused};
use super::watch::Watch;
use super::writes::{self, Pending};
use crate::engine::{AppendError, Appended, TreeKind, WriteBatch, WriteOp};
use crate::net::proto::{self, AckLevel, kv_server::Kv};
use crate::position::Gsn;

/// The shard whose log holds the catalog of trees.
const CATALOG_SHARD: u16 = 0;

/// Longest name of a tree, in bytes.
const MAX_TREE_NAME_BYTES: usize = 255;

/// How long a write that was gated by a change of leadership waits to learn who leads next, so that it can say so.
const NEXT_LEADER_WAIT: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone)]
pub(crate) struct KvService {
    core: Arc<Core>,
}

impl KvService {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    fn ended<T>(&self, op: OpKind, began: Instant, result: Result<T, Refused>) -> Result<Response<T>, Status> {
        let outcome = result.as_ref().map_or_else(Refused::kind_name, |_| "ok");
        self.core.metrics.ended(op, outcome, began.elapsed());
        result.map(Response::new).map_err(Refused::into_status)
    }

    async fn read(&self, read: Result<Read, Refused>) -> Result<Answer, Refused> {
        run_read(&self.core, read?).await
    }
}

/// Waits for everything a request may wait for.
struct Waiter {
    progress: Vec<watch::Receiver<ShardProgress>>,
    leadership: watch::Receiver<Leadership>,
    stopping: watch::Receiver<bool>,
}

impl Waiter {
    fn new(core: &Core, shards: impl Iterator<Item = u16>) -> Self {
        Self {
            progress: shards.map(|shard| core.replica.progress(shard)).collect(),
            leadership: core.replica.leadership(),
            stopping: core.stopping.clone(),
        }
    }

    /// What has been seen up to now wakes no more: call it before looking, so that no change is missed.
    fn mark_seen(&mut self) {
        self.progress.iter_mut().for_each(watch::Receiver::mark_unchanged);
        self.leadership.mark_unchanged();
    }

    /// Until anything changes; false at the deadline.
    async fn changed(&mut self, deadline: Instant) -> bool {
        let progress = select_all(self.progress.iter_mut().map(|shard| shard.changed().boxed()));
        tokio::select! {
            _ = progress => true,
            _ = self.leadership.changed() => true,
            () = tokio::time::sleep_until(deadline.into()) => false,
        }
    }

    async fn leadership_changed(&mut self, deadline: Instant) -> bool {
        tokio::select! {
            _ = self.leadership.changed() => true,
            _ = self.stopping.wait_for(|stopping| *stopping) => false,
            () = tokio::time::sleep_until(deadline.into()) => false,
        }
    }
}

/// A round of heartbeats, within `deadline`.
async fn read_index(core: &Core, deadline: Instant) -> Result<Vec<Gsn>, Refused> {
    core.metrics.read_index_rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let round = Arc::clone(&core.replica).read_index();
    match tokio::time::timeout_at(deadline.into(), round).await {
        Ok(Ok(index)) => Ok(index),
        Ok(Err(hint)) => Err(Refused::not_leader(&hint)),
        Err(_) => Err(Refused::unavailable("too few members answered to know the newest commit")),
    }
}

async fn run_read(core: &Core, mut read: Read) -> Result<Answer, Refused> {
    let mut waiter: Option<Waiter> = None;
    loop {
        let wait = match read.attempt(core) {
            Step::Done(answer) => return Ok(answer),
            Step::Refused(refused) => return Err(refused),
            Step::Wait(wait) => wait,
        };
        if core.is_stopping() {
            return Err(Refused::unavailable("this member is stopping"));
        }
        if wait == Wait::ReadIndex {
            read.set_index(Arc::new(read_index(core, read.deadline).await?));
            continue;
        }
        let Some(waiter) = &mut waiter else {
            // Looked at once more after the receivers exist: what changed before they did is seen then.
            waiter = Some(Waiter::new(core, 0..core.shards().len() as u16));
            continue;
        };
        let changed = match wait {
            Wait::Leadership => waiter.leadership_changed(read.deadline).await,
            _ => waiter.changed(read.deadline).await,
        };
        if !changed {
            return Err(read.timed_out(core, wait));
        }
        waiter.mark_seen();
    }
}

/// Appends, waits, answers.
async fn run_write(core: &Core, write: writes::PreparedWrite) -> Result<proto::WriteResponse, Refused> {
    let deadline = Instant::now() + write.timeout;
    let lineage = core.lineage();
    let mut waiter = Waiter::new(core, std::iter::once(write.shard));
    let appended = append(core, &mut waiter, write.shard, &write.batch, deadline).await?;
    match appended {
        Appended::Written { position, first_gsn } => {
            let pending = Pending {
                shard: write.shard,
                at: position,
                first_gsn,
                ops: write.batch.ops.len() as u32,
                ack: write.ack,
                lineage,
            };
            committed(core, &mut waiter, &pending, deadline).await?;
            Ok(pending.answer(core))
        }
        Appended::ConditionFailed { index, judged_at } => {
            condition_judged(core, &mut waiter, write.shard, judged_at, deadline).await?;
            Ok(writes::condition_failed(index))
        }
    }
}

/// Appends as soon as leadership and memory allow.
async fn append(
    core: &Core,
    waiter: &mut Waiter,
    shard: u16,
    batch: &WriteBatch,
    deadline: Instant,
) -> Result<Appended, Refused> {
    let mut gated = false;
    loop {
        waiter.mark_seen();
        if core.is_stopping() {
            return Err(Refused::unavailable("not written: this member is stopping"));
        }
        match core.replica.append(shard, batch) {
            Ok(appended) => return Ok(appended),
            Err(WriteRefused::Draining) => {
                gated = true;
                if !waiter.leadership_changed(deadline).await {
                    return Err(writes::gate_timeout());
                }
            }
            Err(WriteRefused::NotLeader(hint)) => {
                let until = deadline.min(Instant::now() + NEXT_LEADER_WAIT);
                if gated && hint.leader.is_none() && waiter.leadership_changed(until).await {
                    continue;
                }
                return Err(Refused::not_leader(&hint));
            }
            Err(WriteRefused::NoQuorum) => return Err(Refused::no_quorum()),
            Err(WriteRefused::Engine(error @ AppendError::MemoryFull)) => {
                if !waiter.changed(deadline).await {
                    return Err(error.into());
                }
            }
            Err(WriteRefused::Engine(AppendError::NotLeader)) => {
                return Err(Refused::not_leader_now(&core.leadership()));
            }
            Err(WriteRefused::Engine(error)) => return Err(error.into()),
        }
    }
}

/// Waits until the outcome of an appended batch is known.
async fn committed(core: &Core, waiter: &mut Waiter, pending: &Pending, deadline: Instant) -> Result<(), Refused> {
    loop {
        waiter.mark_seen();
        let progress = *waiter.progress[0].borrow();
        if let Some(settled) = pending.settle(core, &progress) {
            return settled;
        }
        if !waiter.changed(deadline).await {
            return Err(pending.indeterminate(core, "no quorum acknowledged the write in time"));
        }
    }
}

/// A failed condition is a linearizable read: told only once what it was judged against is committed, and the
/// lease (or a round of heartbeats) was checked after that.
async fn condition_judged(
    core: &Core,
    waiter: &mut Waiter,
    shard: u16,
    judged_at: Gsn,
    deadline: Instant,
) -> Result<(), Refused> {
    let Some(epoch) = core.led_epoch() else { return Err(Refused::not_leader_now(&core.leadership())) };
    loop {
        waiter.mark_seen();
        if core.led_epoch() != Some(epoch) {
            return Err(Refused::not_leader_now(&core.leadership()));
        }
        if core.shard(shard).applied() >= judged_at {
            break;
        }
        if !waiter.changed(deadline).await {
            return Err(Refused::no_quorum());
        }
    }
    let still_leads = || match core.leadership() {
        Leadership::Leading { epoch: now, serving: true } => now == epoch,
        _ => false,
    };
    if core.replica.lease_valid() && still_leads() {
        return Ok(());
    }
    read_index(core, deadline).await?;
    if core.led_epoch() == Some(epoch) { Ok(()) } else { Err(Refused::not_leader_now(&core.leadership())) }
}

async fn create_tree(core: &Core, request: proto::CreateTreeRequest) -> Result<proto::CreateTreeResponse, Refused> {
    core.check_route(request.route.as_ref())?;
    if request.name.is_empty() || request.name.len() > MAX_TREE_NAME_BYTES {
        return Err(Refused::invalid(format!("a tree's name has 1 to {MAX_TREE_NAME_BYTES} bytes")));
    }
    let kind = if request.hash { TreeKind::Hash } else { TreeKind::Ordered };
    if let Some(tree) = core.replica.engine().tree(&request.name) {
        if tree.kind != kind {
            let is = if tree.kind == TreeKind::Hash { "a hash tree" } else { "an ordered tree" };
            return Err(Refused::invalid(format!("tree {:?} exists as {is}: a tree's kind never changes", tree.name)));
        }
        return Ok(proto::CreateTreeResponse { created: false });
    }
    let write = writes::PreparedWrite {
        shard: CATALOG_SHARD,
        batch: WriteBatch::new().op(WriteOp::CreateTree { name: request.name, kind }),
        ack: AckLevel::Quorum,
        timeout: Duration::from_secs(10),
        key_hashes: Vec::new(),
    };
    run_write(core, write).await?;
    Ok(proto::CreateTreeResponse { created: true })
}

fn describe(core: &Core) -> proto::DescribeResponse {
    let meta = core.replica.engine().meta();
    let leadership = core.leadership();
    let commit: Vec<Gsn> = core.shards().iter().map(|shard| shard.commit()).collect();
    let (epoch, leader, leading) = match &leadership {
        Leadership::Leading { epoch, serving } => (*epoch, Some(own_address(core, *epoch)), *serving),
        // It leads until another epoch is decided, but takes nothing new.
        Leadership::Draining { epoch } => (*epoch, Some(own_address(core, *epoch)), false),
        Leadership::Following { epoch, leader } => {
            (*epoch, leader.as_ref().map(|leader| errors::not_leader(*epoch, Some(leader))), false)
        }
    };
    proto::DescribeResponse {
        cluster: core.identity.cluster.clone(),
        cluster_id: meta.cluster_id.map(|id| id.to_string()).unwrap_or_default(),
        partition: core.identity.partition,
        member: core.identity.member.clone(),
        sid: meta.sid.to_string(),
        lineage: meta.lineage,
        epoch,
        leader,
        leading,
        shards: core.shards().len() as u32,
        members: core.replica.describe_members(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: Some(core.token(&commit)),
        disk_full: core.replica.health().told_full(&core.identity.member, leading).unwrap_or_default(),
    }
}

fn own_address(core: &Core, epoch: u64) -> proto::NotLeader {
    proto::NotLeader {
        member: core.identity.member.clone(),
        sid: core.replica.engine().meta().sid.to_string(),
        address: core.identity.client_address.clone(),
        advertised_address: core.identity.client_address.clone(),
        epoch,
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        let began = Instant::now();
        let result = match self.read(Read::get(&self.core, request.into_inner())).await {
            Ok(Answer::Get(answer)) => Ok(answer),
            Ok(other) => Err(mismatched(&other)),
            Err(refused) => Err(refused),
        };
        self.ended(OpKind::Get, began, result)
    }

    async fn multi_get(
        &self,
        request: Request<proto::MultiGetRequest>,
    ) -> Result<Response<proto::MultiGetResponse>, Status> {
        let began = Instant::now();
        let result = match self.read(Read::multi_get(&self.core, request.into_inner())).await {
            Ok(Answer::MultiGet(answer)) => Ok(answer),
            Ok(other) => Err(mismatched(&other)),
            Err(refused) => Err(refused),
        };
        self.ended(OpKind::MultiGet, began, result)
    }

    async fn write(&self, request: Request<proto::WriteRequest>) -> Result<Response<proto::WriteResponse>, Status> {
        let began = Instant::now();
        let result = match writes::prepare(&self.core, request.into_inner()) {
            Ok(write) => run_write(&self.core, write).await,
            Err(refused) => Err(refused),
        };
        self.ended(OpKind::Write, began, result)
    }

    async fn scan(&self, request: Request<proto::ScanRequest>) -> Result<Response<proto::ScanResponse>, Status> {
        let began = Instant::now();
        let result = match self.read(Read::scan(&self.core, request.into_inner())).await {
            Ok(Answer::Scan(answer)) => Ok(answer),
            Ok(other) => Err(mismatched(&other)),
            Err(refused) => Err(refused),
        };
        self.ended(OpKind::Scan, began, result)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<proto::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<proto::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let began = Instant::now();
        let watch = Watch::new(&self.core, request.into_inner());
        let stream = watch.map(|watch| {
            let messages =
                futures::stream::unfold(watch, |mut watch| async move { watch.next().await.map(|next| (next, watch)) });
            messages.map(|message| message.map_err(Refused::into_status)).boxed()
        });
        self.ended(OpKind::Watch, began, stream)
    }

    async fn create_tree(
        &self,
        request: Request<proto::CreateTreeRequest>,
    ) -> Result<Response<proto::CreateTreeResponse>, Status> {
        let began = Instant::now();
        let result = create_tree(&self.core, request.into_inner()).await;
        self.ended(OpKind::CreateTree, began, result)
    }

    async fn list_trees(
        &self,
        request: Request<proto::ListTreesRequest>,
    ) -> Result<Response<proto::ListTreesResponse>, Status> {
        let began = Instant::now();
        let result = self.core.check_route(request.into_inner().route.as_ref()).map(|()| {
            let trees = self.core.replica.engine().trees().into_iter();
            let trees = trees
                .map(|tree| proto::list_trees_response::Tree { name: tree.name, hash: tree.kind == TreeKind::Hash });
            proto::ListTreesResponse { trees: trees.collect() }
        });
        self.ended(OpKind::ListTrees, began, result)
    }

    type StreamStream = Pin<Box<dyn Stream<Item = Result<proto::StreamResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<proto::StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let held = request.extensions().get::<Arc<Held>>().cloned();
        // Absent only where the service is called without its layer, in a test.
        let held = held.unwrap_or_else(|| Held::new(Budget::new(usize::MAX), Budget::new(usize::MAX)));
        let session = Session::new(&self.core, request.into_inner(), held);
        let responses =
            futures::stream::unfold(
                session,
                |mut session| async move { session.next().await.map(|next| (next, session)) },
            );
        Ok(Response::new(responses.boxed()))
    }

    async fn describe(
        &self,
        _request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        let began = Instant::now();
        self.ended(OpKind::Describe, began, Ok(describe(&self.core)))
    }
}

/// A read answers its own kind; this names the bug if one ever does not.
fn mismatched(answer: &Answer) -> Refused {
    Refused::unavailable(format!("internal error: a read was answered as {answer:?}"))
}
