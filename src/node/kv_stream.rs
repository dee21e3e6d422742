//! The pipelined stream: many operations in flight on one connection, answered as they are done.
//!
//! One state machine a stream, driven by whoever sends its responses: when the client does not read, nothing
//! here runs, and HTTP/2's flow control does the rest. It waits for commits through one progress watch and one
//! FIFO a shard, never a task an operation; every wake answers all that is done in one message.
//!
//! Order: operations are begun in the order they came. A read that has to wait (for the stream's own writes,
//! for a round of heartbeats) is parked; a later write of one of its keys waits behind it, and with it
//! everything that came later. A write that is gated by a change of leadership holds everything behind it.
//!
//! ```text
//! inbound -> backlog -> begin -> appended writes, a FIFO a shard --\
//!                          \---> parked reads, failed conditions ---> outbox -> response
//! ```
//!
//! A stream that this side ends with a typed `Unavailable` has answered everything that it began: what the
//! client has no answer for was not done.
//!
//! Bounds: at most `max_in_flight_requests` operations begun and unanswered, at most `max_in_flight_bytes` of
//! requests and answers held; beyond either nothing more is taken from the connection.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Status, Streaming};

use super::admission::Held;
use super::core::Core;
use super::errors::Refused;
use super::metrics::OpKind;
use super::reads::{Answer, READ_WAIT, Read, Step, Wait};
use super::replica::{LeaderHint, Leadership, ShardProgress, WriteRefused};
use super::writes::{self, Pending, PreparedWrite};
use crate::engine::{AppendError, Appended};
use crate::net::proto::{self, StreamRequest, StreamResponse, op_result, stream_op};
use crate::position::{Epoch, Gsn, LogPosition};

/// A response message ends when it holds this much; one larger result comes alone.
const RESPONSE_BYTES: usize = 1 << 20;

/// Most results of a response message.
const RESPONSE_RESULTS: usize = 4096;

/// How often deadlines are looked at while anything waits.
const DEADLINE_TICK: Duration = Duration::from_millis(50);

/// How long a gated write waits to learn who leads next, so that it can say so.
const NEXT_LEADER_WAIT: Duration = Duration::from_secs(1);

/// How long a stream of a stopping member goes on refusing what was on its way.
const STOPPING_GRACE: Duration = Duration::from_millis(250);

/// What an id, a tag and the lengths of one result take at most.
const RESULT_OVERHEAD_BYTES: usize = 64;

/// One stream of one client.
pub(crate) struct Session {
    core: Arc<Core>,
    inbound: Streaming<StreamRequest>,
    input: Input,
    held: Arc<Held>,
    lineage: u64,
    shards: Vec<ShardQueue>,
    leadership_changes: WatchStream<Leadership>,
    stopping: WatchStream<bool>,
    led: Option<Epoch>,
    /// Set when the member stops.
    ends_at: Option<Instant>,
    backlog: VecDeque<Queued>,
    backlog_bytes: usize,
    /// Why the front of the backlog could not be begun when that was last tried.
    stalled: Option<Stall>,
    parked: VecDeque<Parked>,
    /// How many parked reads touch a key, by the key's hash.
    parked_keys: HashMap<u64, u32>,
    conditions: VecDeque<JudgedCondition>,
    /// The round of heartbeats under way; whoever came after it began needs the next one.
    round: Option<BoxFuture<'static, Result<Vec<Gsn>, LeaderHint>>>,
    rounds_begun: u64,
    rounds_done: u64,
    outbox: Vec<proto::OpResult>,
    outbox_bytes: usize,
    tick: Interval,
    now: Instant,
}

#[derive(Debug)]
enum Input {
    Open,
    /// The client has said everything.
    Ended,
    /// It ended with an error that the client is told after all answers.
    Failed(Status),
    /// The last word has been said.
    Closed,
}

/// An operation that came and was not begun.
struct Queued {
    id: u64,
    op: stream_op::Op,
    bytes: usize,
    arrived: Instant,
    /// Set at the first attempt to begin it.
    prepared: Option<PreparedWrite>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stall {
    /// Leadership is changing hands.
    Gate,
    /// The gate fell, and nobody knows the next leader yet: until then.
    NextLeader(Instant),
    /// Too much is uncommitted, or an earlier read of the same key is parked.
    Progress,
}

/// One shard as the stream sees it.
struct ShardQueue {
    progress: watch::Receiver<ShardProgress>,
    changes: WatchStream<ShardProgress>,
    /// Appended, in log order.
    writes: VecDeque<PendingWrite>,
    /// The newest write appended by this stream: its later reads see it.
    newest: LogPosition,
}

struct PendingWrite {
    id: u64,
    pending: Pending,
    arrived: Instant,
    deadline: Instant,
}

struct Parked {
    id: u64,
    kind: OpKind,
    read: Read,
    arrived: Instant,
    wait: Wait,
    /// For [`Wait::ReadIndex`]: the first round that began after it was parked.
    round: u64,
    bytes: usize,
    /// Of its keys, while it is parked.
    hashes: Vec<u64>,
}

/// A failed condition that may not be told yet.
struct JudgedCondition {
    id: u64,
    shard: u16,
    index: usize,
    judged_at: Gsn,
    epoch: Epoch,
    /// Set once the lease was found wanting.
    round: Option<u64>,
    arrived: Instant,
    deadline: Instant,
}

/// What woke the stream.
enum Wake {
    Message(Option<Result<StreamRequest, Status>>),
    Round(Result<Vec<Gsn>, LeaderHint>),
    Changed,
}

impl Session {
    pub(crate) fn new(core: &Arc<Core>, inbound: Streaming<StreamRequest>, held: Arc<Held>) -> Self {
        core.metrics.streams.fetch_add(1, Ordering::Relaxed);
        let shards = core.shards().iter().map(|shard| {
            let progress = core.replica.progress(shard.id());
            let changes = WatchStream::from_changes(progress.clone());
            ShardQueue { progress, changes, writes: VecDeque::new(), newest: LogPosition::ZERO }
        });
        let mut tick = tokio::time::interval(DEADLINE_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            inbound,
            input: Input::Open,
            held,
            lineage: core.lineage(),
            shards: shards.collect(),
            leadership_changes: WatchStream::from_changes(core.replica.leadership()),
            stopping: WatchStream::from_changes(core.stopping.clone()),
            led: core.led_epoch(),
            ends_at: None,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            stalled: None,
            parked: VecDeque::new(),
            parked_keys: HashMap::new(),
            conditions: VecDeque::new(),
            round: None,
            rounds_begun: 0,
            rounds_done: 0,
            outbox: Vec::new(),
            outbox_bytes: 0,
            tick,
            now: Instant::now(),
            core: Arc::clone(core),
        }
    }

    /// The next response; `None` after the end. Never cancelled half-way except by being dropped.
    pub(crate) async fn next(&mut self) -> Option<Result<StreamResponse, Status>> {
        loop {
            self.now = Instant::now();
            self.look_around();
            self.begin_backlog();
            // Everything that has arrived is worked on before anything is flushed: one message, one flush.
            while self.takes_more() && self.outbox.len() < RESPONSE_RESULTS && self.outbox_bytes < RESPONSE_BYTES {
                let Some(message) = self.inbound.next().now_or_never() else { break };
                self.take(message);
                self.begin_backlog();
            }
            if !self.outbox.is_empty() {
                return Some(Ok(self.flush()));
            }
            if self.is_done() {
                return match std::mem::replace(&mut self.input, Input::Closed) {
                    Input::Failed(status) => Some(Err(status)),
                    _ => None,
                };
            }
            match self.wake().await {
                Wake::Message(message) => self.take(message),
                Wake::Round(result) => self.round_ended(result),
                Wake::Changed => {}
            }
        }
    }

    fn in_flight(&self) -> usize {
        let writes: usize = self.shards.iter().map(|shard| shard.writes.len()).sum();
        writes + self.parked.len() + self.conditions.len() + self.outbox.len()
    }

    fn held_bytes(&self) -> usize {
        self.backlog_bytes + self.outbox_bytes + self.parked.iter().map(|parked| parked.bytes).sum::<usize>()
    }

    fn may_begin(&self) -> bool {
        self.in_flight() < self.core.limits.max_in_flight_requests
            && self.outbox_bytes < self.core.limits.max_in_flight_bytes
    }

    /// Whether another message is taken from the connection.
    fn takes_more(&self) -> bool {
        matches!(self.input, Input::Open)
            && self.backlog.is_empty()
            && self.may_begin()
            && self.held_bytes() < self.core.limits.max_in_flight_bytes
    }

    fn is_done(&self) -> bool {
        !matches!(self.input, Input::Open) && self.backlog.is_empty() && self.in_flight() == 0
    }

    fn take(&mut self, message: Option<Result<StreamRequest, Status>>) {
        // Decoded: from here on its bytes are counted as backlog.
        self.held.release();
        match message {
            None => self.input = Input::Ended,
            Some(Err(status)) => {
                let status = if status.code() == Code::OutOfRange && !super::errors::is_typed(&status) {
                    self.core.metrics.malformed_requests.fetch_add(1, Ordering::Relaxed);
                    Refused::too_large("request", self.core.limits.max_request_bytes as u64).into_status()
                } else {
                    if status.code() == Code::Internal {
                        self.core.metrics.malformed_requests.fetch_add(1, Ordering::Relaxed);
                    }
                    status
                };
                self.input = Input::Failed(status);
            }
            Some(Ok(request)) => {
                let arrived = self.now;
                let route = self.core.check_route(request.route.as_ref());
                for op in request.ops {
                    let bytes = op.encoded_len();
                    let id = op.id;
                    match (&route, op.op) {
                        (Err(refused), _) => self.refuse(id, OpKind::Get, arrived, refused.clone()),
                        (Ok(()), None) => {
                            let why = "the operation is empty, or of a kind that this version does not know";
                            self.refuse(id, OpKind::Get, arrived, Refused::invalid(why));
                        }
                        (Ok(()), Some(op)) => {
                            self.backlog_bytes += bytes;
                            self.backlog.push_back(Queued { id, op, bytes, arrived, prepared: None });
                        }
                    }
                }
            }
        }
    }

    // ---- beginning ----

    fn begin_backlog(&mut self) {
        while self.may_begin() {
            let Some(mut queued) = self.backlog.pop_front() else { return };
            // Why it stalled before is known to `begin`, and forgotten once it was begun.
            let stall = self.begin(&mut queued);
            self.stalled = stall;
            if stall.is_some() {
                self.backlog.push_front(queued);
                return;
            }
            self.backlog_bytes -= queued.bytes;
        }
    }

    /// Begins an operation, or says why it and everything behind it must wait.
    fn begin(&mut self, queued: &mut Queued) -> Option<Stall> {
        let (id, arrived) = (queued.id, queued.arrived);
        if self.core.is_stopping() {
            self.refuse(id, kind_of(&queued.op), arrived, Refused::unavailable("not done: this member is stopping"));
            return None;
        }
        let core = Arc::clone(&self.core);
        let read = match &mut queued.op {
            stream_op::Op::Write(request) => {
                let write = match queued.prepared.take() {
                    Some(write) => write,
                    None => match writes::prepare(&core, std::mem::take(request)) {
                        Ok(write) => write,
                        Err(refused) => {
                            self.refuse(id, OpKind::Write, arrived, refused);
                            return None;
                        }
                    },
                };
                let stall = self.begin_write(id, arrived, &write);
                if stall.is_some() {
                    queued.prepared = Some(write);
                }
                return stall;
            }
            stream_op::Op::Get(request) => Read::get(&core, std::mem::take(request)),
            stream_op::Op::MultiGet(request) => Read::multi_get(&core, std::mem::take(request)),
            stream_op::Op::Scan(request) => Read::scan(&core, std::mem::take(request)),
        };
        let kind = kind_of(&queued.op);
        match read {
            Ok(mut read) => {
                read.deadline = arrived + READ_WAIT;
                read.after_own_writes(&core, |shard| self.shards[usize::from(shard)].newest);
                let (wait, bytes) = (Wait::Progress, queued.bytes);
                let parked = Parked { id, kind, read, arrived, wait, round: 0, bytes, hashes: Vec::new() };
                if let Some(mut parked) = self.try_read(parked) {
                    parked.hashes = parked.read.key_hashes();
                    for hash in &parked.hashes {
                        *self.parked_keys.entry(*hash).or_default() += 1;
                    }
                    self.parked.push_back(parked);
                }
            }
            Err(refused) => self.refuse(id, kind, arrived, refused),
        }
        None
    }

    fn begin_write(&mut self, id: u64, arrived: Instant, write: &PreparedWrite) -> Option<Stall> {
        if !self.parked_keys.is_empty() && write.key_hashes.iter().any(|hash| self.parked_keys.contains_key(hash)) {
            return Some(Stall::Progress);
        }
        let deadline = arrived + write.timeout;
        let refused = match self.core.replica.append(write.shard, &write.batch) {
            Ok(Appended::Written { position, first_gsn }) => {
                let queue = &mut self.shards[usize::from(write.shard)];
                queue.newest = position;
                let pending = Pending {
                    shard: write.shard,
                    at: position,
                    first_gsn,
                    ops: write.batch.ops.len() as u32,
                    ack: write.ack,
                    lineage: self.lineage,
                };
                queue.writes.push_back(PendingWrite { id, pending, arrived, deadline });
                return None;
            }
            Ok(Appended::ConditionFailed { index, judged_at }) => {
                let Some(epoch) = self.core.led_epoch() else {
                    self.refuse(id, OpKind::Write, arrived, Refused::not_leader_now(&self.core.leadership()));
                    return None;
                };
                let mut judged =
                    JudgedCondition { id, shard: write.shard, index, judged_at, epoch, round: None, arrived, deadline };
                if !self.try_condition(&mut judged) {
                    self.conditions.push_back(judged);
                }
                return None;
            }
            Err(WriteRefused::Draining) if self.now < deadline => return Some(Stall::Gate),
            Err(WriteRefused::Draining) => writes::gate_timeout(),
            Err(WriteRefused::NotLeader(hint)) => {
                // A write that waited at the gate is told the next leader, so that its client goes there at once.
                if hint.leader.is_none() {
                    match self.stalled {
                        Some(Stall::Gate) => return Some(Stall::NextLeader(self.now + NEXT_LEADER_WAIT)),
                        Some(Stall::NextLeader(until)) if self.now < until => return Some(Stall::NextLeader(until)),
                        _ => {}
                    }
                }
                Refused::not_leader(&hint)
            }
            Err(WriteRefused::NoQuorum) => Refused::no_quorum(),
            Err(WriteRefused::Engine(AppendError::MemoryFull)) if self.now < deadline => return Some(Stall::Progress),
            Err(WriteRefused::Engine(AppendError::NotLeader)) => Refused::not_leader_now(&self.core.leadership()),
            Err(WriteRefused::Engine(error)) => error.into(),
        };
        self.refuse(id, OpKind::Write, arrived, refused);
        None
    }

    // ---- going on ----

    /// Answers everything whose time has come.
    fn look_around(&mut self) {
        let led = self.core.led_epoch();
        if led != self.led {
            self.led = led;
            self.lineage = self.core.lineage();
            // What was appended under the old epoch may be gone: no read waits for it any more.
            for shard in &mut self.shards {
                shard.newest = LogPosition::ZERO;
            }
            self.answer_parked(|parked, core| {
                parked.read.lost_its_writes(led).then(|| Refused::not_leader_now(&core.leadership()))
            });
        }
        if self.core.is_stopping() && matches!(self.input, Input::Open) {
            // What is on its way is still refused by id, so that its client knows that it was not done.
            let until = *self.ends_at.get_or_insert(self.now + STOPPING_GRACE);
            if self.now >= until {
                self.input = Input::Failed(Refused::unavailable("this member is stopping").into_status());
            }
        }
        for index in 0..self.shards.len() {
            self.settle_writes(index);
        }
        self.settle_conditions();
        self.retry_parked();
    }

    fn settle_writes(&mut self, index: usize) {
        if self.shards[index].writes.is_empty() {
            return;
        }
        let progress = *self.shards[index].progress.borrow();
        let core = Arc::clone(&self.core);
        // In log order: the first that is not settled ends the look, unless deadlines must be looked at, or
        // acknowledgement levels or epochs differ.
        let mut rest = VecDeque::new();
        while let Some(write) = self.shards[index].writes.pop_front() {
            let settled = write.pending.settle(&core, &progress);
            match settled {
                Some(Ok(())) => {
                    let answer = write.pending.answer(&core);
                    self.answer(write.id, OpKind::Write, write.arrived, op_result::Result::Write(answer));
                }
                Some(Err(refused)) => self.refuse(write.id, OpKind::Write, write.arrived, refused),
                None if self.now >= write.deadline => {
                    let refused = write.pending.indeterminate(&core, "no quorum acknowledged the write in time");
                    self.refuse(write.id, OpKind::Write, write.arrived, refused);
                }
                None => {
                    let later_may_be_done = self.shards[index].writes.back().is_some_and(|last| {
                        last.pending.ack != write.pending.ack || last.pending.at.epoch != write.pending.at.epoch
                    });
                    let deadlines_differ =
                        self.shards[index].writes.back().is_some_and(|last| last.deadline < write.deadline);
                    rest.push_back(write);
                    if !later_may_be_done && !deadlines_differ {
                        break;
                    }
                }
            }
        }
        let queue = &mut self.shards[index].writes;
        while let Some(write) = rest.pop_back() {
            queue.push_front(write);
        }
    }

    fn settle_conditions(&mut self) {
        for _ in 0..self.conditions.len() {
            let Some(mut judged) = self.conditions.pop_front() else { return };
            if !self.try_condition(&mut judged) {
                self.conditions.push_back(judged);
            }
        }
    }

    /// Tells a failed condition if that is now allowed; whether it was answered.
    fn try_condition(&mut self, judged: &mut JudgedCondition) -> bool {
        let core = Arc::clone(&self.core);
        let refused = if core.led_epoch() != Some(judged.epoch) {
            Refused::not_leader_now(&core.leadership())
        } else if core.shard(judged.shard).applied() >= judged.judged_at {
            let holds = match judged.round {
                Some(round) => self.rounds_done >= round,
                None => {
                    core.replica.lease_valid()
                        && matches!(core.leadership(), Leadership::Leading { epoch, serving: true } if epoch == judged.epoch)
                }
            };
            if holds {
                let answer = writes::condition_failed(judged.index);
                self.answer(judged.id, OpKind::Write, judged.arrived, op_result::Result::Write(answer));
                return true;
            }
            if judged.round.is_none() {
                judged.round = Some(self.rounds_begun + 1);
            }
            if self.now < judged.deadline {
                return false;
            }
            Refused::no_quorum()
        } else if self.now < judged.deadline {
            return false;
        } else {
            Refused::no_quorum()
        };
        self.refuse(judged.id, OpKind::Write, judged.arrived, refused);
        true
    }

    fn retry_parked(&mut self) {
        for _ in 0..self.parked.len() {
            // Answers are held until they are flushed: none is made while too many are.
            if self.outbox_bytes >= self.core.limits.max_in_flight_bytes {
                return;
            }
            let Some(mut parked) = self.parked.pop_front() else { return };
            if parked.wait == Wait::ReadIndex && self.rounds_done < parked.round && self.now < parked.read.deadline {
                self.parked.push_back(parked);
                continue;
            }
            let hashes = std::mem::take(&mut parked.hashes);
            match self.try_read(parked) {
                Some(parked) => self.parked.push_back(Parked { hashes, ..parked }),
                None => self.unpark(&hashes),
            }
        }
    }

    fn unpark(&mut self, hashes: &[u64]) {
        for hash in hashes {
            if let Some(count) = self.parked_keys.get_mut(hash) {
                *count -= 1;
                if *count == 0 {
                    self.parked_keys.remove(hash);
                }
            }
        }
    }

    /// Answers those parked reads that `judge` refuses.
    fn answer_parked(&mut self, judge: impl Fn(&Parked, &Core) -> Option<Refused>) {
        for _ in 0..self.parked.len() {
            let Some(parked) = self.parked.pop_front() else { return };
            match judge(&parked, &self.core) {
                None => self.parked.push_back(parked),
                Some(refused) => {
                    self.unpark(&parked.hashes);
                    self.refuse(parked.id, parked.kind, parked.arrived, refused);
                }
            }
        }
    }

    /// Answers a read now, or gives it back to be parked.
    fn try_read(&mut self, mut parked: Parked) -> Option<Parked> {
        let core = Arc::clone(&self.core);
        match parked.read.attempt(&core) {
            Step::Done(answer) => {
                let result = match answer {
                    Answer::Get(answer) => op_result::Result::Get(answer),
                    Answer::MultiGet(answer) => op_result::Result::MultiGet(answer),
                    Answer::Scan(answer) => op_result::Result::Scan(answer),
                };
                self.answer(parked.id, parked.kind, parked.arrived, result);
                None
            }
            Step::Refused(refused) => {
                self.refuse(parked.id, parked.kind, parked.arrived, refused);
                None
            }
            Step::Wait(wait) if self.now >= parked.read.deadline => {
                let refused = parked.read.timed_out(&core, wait);
                self.refuse(parked.id, parked.kind, parked.arrived, refused);
                None
            }
            Step::Wait(wait) => {
                if wait == Wait::ReadIndex {
                    parked.round = self.rounds_begun + 1;
                }
                parked.wait = wait;
                Some(parked)
            }
        }
    }

    fn round_ended(&mut self, result: Result<Vec<Gsn>, LeaderHint>) {
        self.round = None;
        let round = self.rounds_begun;
        match result {
            Ok(index) => {
                self.rounds_done = round;
                let index = Arc::new(index);
                for parked in &mut self.parked {
                    if parked.wait == Wait::ReadIndex && parked.round <= round {
                        parked.read.set_index(Arc::clone(&index));
                    }
                }
            }
            Err(hint) => {
                self.now = Instant::now();
                self.answer_parked(|parked, _| {
                    let concerned = parked.wait == Wait::ReadIndex && parked.round <= round;
                    concerned.then(|| Refused::not_leader(&hint))
                });
                for _ in 0..self.conditions.len() {
                    let Some(judged) = self.conditions.pop_front() else { break };
                    if judged.round.is_some_and(|wanted| wanted <= round) {
                        self.refuse(judged.id, OpKind::Write, judged.arrived, Refused::not_leader(&hint));
                    } else {
                        self.conditions.push_back(judged);
                    }
                }
            }
        }
    }

    fn wants_round(&self) -> bool {
        let next = self.rounds_begun + 1;
        self.parked.iter().any(|parked| parked.wait == Wait::ReadIndex && parked.round == next)
            || self.conditions.iter().any(|judged| judged.round == Some(next))
    }

    /// Waits for whatever could let anything go on.
    async fn wake(&mut self) -> Wake {
        if self.round.is_none() && self.wants_round() {
            self.rounds_begun += 1;
            self.core.metrics.read_index_rounds.fetch_add(1, Ordering::Relaxed);
            self.round = Some(Arc::clone(&self.core.replica).read_index());
        }
        let takes_more = self.takes_more();
        let waits = self.in_flight() > 0 || self.stalled.is_some() || self.ends_at.is_some();
        futures::future::poll_fn(|cx| {
            if takes_more && let Poll::Ready(message) = self.inbound.poll_next_unpin(cx) {
                return Poll::Ready(Wake::Message(message));
            }
            if let Some(round) = &mut self.round
                && let Poll::Ready(result) = round.as_mut().poll(cx)
            {
                return Poll::Ready(Wake::Round(result));
            }
            let mut changed = false;
            if waits {
                for shard in &mut self.shards {
                    // Drained, because one look answers all of them.
                    while let Poll::Ready(Some(_)) = Pin::new(&mut shard.changes).poll_next(cx) {
                        changed = true;
                    }
                }
                changed |= self.tick.poll_tick(cx).is_ready();
                while let Poll::Ready(Some(_)) = Pin::new(&mut self.leadership_changes).poll_next(cx) {
                    changed = true;
                }
            }
            changed |= matches!(Pin::new(&mut self.stopping).poll_next(cx), Poll::Ready(Some(_)));
            if changed { Poll::Ready(Wake::Changed) } else { Poll::Pending }
        })
        .await
    }

    // ---- answering ----

    fn answer(&mut self, id: u64, kind: OpKind, arrived: Instant, result: op_result::Result) {
        self.core.metrics.ended(kind, "ok", self.now.saturating_duration_since(arrived));
        self.push(proto::OpResult { id, result: Some(result) });
    }

    fn refuse(&mut self, id: u64, kind: OpKind, arrived: Instant, refused: Refused) {
        self.core.metrics.ended(kind, refused.kind_name(), self.now.saturating_duration_since(arrived));
        self.push(proto::OpResult { id, result: Some(op_result::Result::Error(refused.into_detail())) });
    }

    fn push(&mut self, result: proto::OpResult) {
        self.outbox_bytes += size_of_result(&result);
        self.outbox.push(result);
    }

    fn flush(&mut self) -> StreamResponse {
        let mut bytes = 0;
        let mut count = 0;
        for result in &self.outbox {
            if count > 0 && (bytes >= RESPONSE_BYTES || count >= RESPONSE_RESULTS) {
                break;
            }
            bytes += size_of_result(result);
            count += 1;
        }
        self.outbox_bytes -= bytes;
        let rest = self.outbox.split_off(count);
        StreamResponse { results: std::mem::replace(&mut self.outbox, rest) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.core.metrics.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

fn kind_of(op: &stream_op::Op) -> OpKind {
    match op {
        stream_op::Op::Get(_) => OpKind::Get,
        stream_op::Op::MultiGet(_) => OpKind::MultiGet,
        stream_op::Op::Write(_) => OpKind::Write,
        stream_op::Op::Scan(_) => OpKind::Scan,
    }
}

/// About what a result takes in a message: exact where it can be large.
fn size_of_result(result: &proto::OpResult) -> usize {
    RESULT_OVERHEAD_BYTES
        + match &result.result {
            Some(op_result::Result::Get(get)) => get.value.as_ref().map_or(0, |value| value.value.len()),
            Some(op_result::Result::Write(write)) => write.versions.len() * RESULT_OVERHEAD_BYTES,
            Some(op_result::Result::MultiGet(answer)) => answer.encoded_len(),
            Some(op_result::Result::Scan(answer)) => answer.encoded_len(),
            Some(op_result::Result::Error(detail)) => detail.encoded_len(),
            None => 0,
        }
}
