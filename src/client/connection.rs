//! One pipelined stream to one member: requests out as they come, answers in as they come, matched by id.
//!
//! ```text
//! submit() -> queue (bounded) -> Outbound: takes what is queued, gives it ids, sends it as one message
//!                                   |  in flight: id -> Reply
//! waiting callers <- Reply      <- pump: answers by id; at the end every Reply left says "lost"
//! ```
//! Invariants: a request counts as sent from the moment it may have left this process, so "not sent" is certain;
//! whatever way a [`Reply`] goes away, its caller hears of it; nothing is queued without permits for its bytes.
//! Does not do: retrying, choosing the member.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use super::error::text_of;
use crate::net::proto::{self, kv_client::KvClient, op_result, stream_op};

/// Operations gathered into one message.
const MESSAGE_OPS: usize = 512;
/// Bytes gathered into one message; a larger operation travels alone.
const MESSAGE_BYTES: usize = 256 << 10;
/// The largest answer that is read.
const ANSWER_BYTES: usize = 64 << 20;
/// After the deadline that the server was told, wait this much longer for its word on the outcome.
const GRACE: Duration = Duration::from_millis(250);

/// A request is waiting in the queue.
const QUEUED: u8 = 0;
/// It may have left this process.
const SENT: u8 = 1;
/// Its caller gave up first; it will not be sent.
const CANCELLED: u8 = 2;

/// What became of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Answered(op_result::Result),
    /// The connection ended first.
    Lost {
        sent: bool,
    },
    /// The deadline came first.
    TimedOut {
        sent: bool,
    },
}

/// Bounds what all connections of a client have in flight together.
#[derive(Debug)]
pub(super) struct Limits {
    /// Held while a request waits for room: whoever asks first is queued first.
    turn: tokio::sync::Mutex<()>,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    max_bytes: u32,
}

/// Held from submission to answer.
#[derive(Debug)]
struct Permits {
    _request: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Limits {
    pub(super) fn new(max_requests: u32, max_bytes: u32) -> Self {
        Self {
            turn: tokio::sync::Mutex::default(),
            requests: Arc::new(Semaphore::new(max_requests.max(1) as usize)),
            bytes: Arc::new(Semaphore::new(max_bytes.max(1) as usize)),
            max_bytes: max_bytes.max(1),
        }
    }

    async fn acquire(&self, bytes: usize) -> Permits {
        // One request larger than the whole allowance waits for all of it, or it could never go.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.max_bytes);
        let closed = "the semaphores of a client are never closed";
        Permits {
            _request: Arc::clone(&self.requests).acquire_owned().await.expect(closed),
            _bytes: Arc::clone(&self.bytes).acquire_many_owned(bytes).await.expect(closed),
        }
    }
}

/// The way back to the caller. Dropping it unanswered tells the caller that the connection was lost.
#[derive(Debug)]
struct Reply {
    caller: Option<oneshot::Sender<Outcome>>,
    stage: Arc<AtomicU8>,
    _permits: Permits,
}

impl Reply {
    fn answer(mut self, result: op_result::Result) {
        if let Some(caller) = self.caller.take() {
            // A caller that went away wants no answer.
            let _ = caller.send(Outcome::Answered(result));
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(caller) = self.caller.take() {
            let sent = self.stage.load(Ordering::Acquire) == SENT;
            let _ = caller.send(Outcome::Lost { sent });
        }
    }
}

struct Submission {
    /// Its id is given when it is sent.
    op: proto::StreamOp,
    bytes: usize,
    reply: Reply,
}

/// What the two directions of a connection share.
#[derive(Debug)]
struct State {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    in_flight: HashMap<u64, Reply>,
    next_id: u64,
    /// Why it ended; None while it is open.
    ended: Option<String>,
    /// When the member last said something, or began to owe an answer.
    heard: Instant,
}

impl State {
    fn new() -> Self {
        Self { inner: Mutex::new(Inner { in_flight: HashMap::new(), next_id: 1, ended: None, heard: Instant::now() }) }
    }

    /// Gives a request its id, unless its caller gave up or the connection has ended.
    fn register(&self, reply: Reply) -> Option<u64> {
        let mut inner = self.inner.lock();
        if inner.ended.is_some() {
            return None;
        }
        // Exclusive with the caller's QUEUED -> CANCELLED: exactly one of the two happens.
        if reply.stage.compare_exchange(QUEUED, SENT, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return None;
        }
        if inner.in_flight.is_empty() {
            inner.heard = Instant::now();
        }
        let id = inner.next_id;
        inner.next_id += 1;
        inner.in_flight.insert(id, reply);
        Some(id)
    }

    fn deliver(&self, results: Vec<proto::OpResult>) {
        let mut answered = Vec::with_capacity(results.len());
        {
            let mut inner = self.inner.lock();
            inner.heard = Instant::now();
            for result in results {
                // An id that is not in flight is a server's fault; there is nobody to tell.
                if let (Some(reply), Some(answer)) = (inner.in_flight.remove(&result.id), result.result) {
                    answered.push((reply, answer));
                }
            }
        }
        for (reply, answer) in answered {
            reply.answer(answer);
        }
    }

    fn end(&self, cause: String) {
        let lost = {
            let mut inner = self.inner.lock();
            inner.ended.get_or_insert(cause);
            std::mem::take(&mut inner.in_flight)
        };
        drop(lost);
    }

    /// How long the member has owed an answer without a word.
    fn silent_for(&self) -> Duration {
        let inner = self.inner.lock();
        if inner.in_flight.is_empty() { Duration::ZERO } else { inner.heard.elapsed() }
    }
}

/// The requests, as the transport asks for them: what has gathered in the meantime goes in one message.
struct Outbound {
    queue: mpsc::Receiver<Submission>,
    /// Taken from the queue, but too large for the message it would have been in.
    held: Option<Submission>,
    state: Arc<State>,
    route: proto::Route,
}

impl Stream for Outbound {
    type Item = proto::StreamRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut ops = Vec::new();
        let mut bytes = 0;
        while ops.len() < MESSAGE_OPS {
            let submission = match this.held.take() {
                Some(submission) => submission,
                None if ops.is_empty() => match ready!(this.queue.poll_recv(cx)) {
                    Some(submission) => submission,
                    None => return Poll::Ready(None),
                },
                None => match this.queue.try_recv() {
                    Ok(submission) => submission,
                    Err(_) => break,
                },
            };
            if !ops.is_empty() && bytes + submission.bytes > MESSAGE_BYTES {
                this.held = Some(submission);
                break;
            }
            let Submission { mut op, bytes: size, reply } = submission;
            if let Some(id) = this.state.register(reply) {
                op.id = id;
                bytes += size;
                ops.push(op);
            }
        }
        Poll::Ready(Some(proto::StreamRequest { route: Some(this.route), ops }))
    }
}

/// A stream to one member.
pub(super) struct Connection {
    pub(super) address: String,
    /// The epoch in which that member was known to lead; 0 for a connection that does not care.
    pub(super) epoch: u64,
    pub(super) channel: Channel,
    queue: mpsc::Sender<Submission>,
    state: Arc<State>,
    _task: AbortOnDropHandle<()>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).field("epoch", &self.epoch).finish()
    }
}

impl Connection {
    /// Opens a stream. `doubt` is asked when the member owes answers and is silent for `suspect_after`; if it
    /// returns a reason, the connection is given up.
    pub(super) fn open<D, F>(
        address: String,
        epoch: u64,
        channel: Channel,
        partition: u32,
        max_queue: usize,
        suspect_after: Duration,
        doubt: D,
    ) -> Self
    where
        D: Fn() -> F + Send + 'static,
        F: Future<Output = Option<String>> + Send,
    {
        let (queue, receiver) = mpsc::channel(max_queue.max(1));
        let state = Arc::new(State::new());
        let outbound = Outbound {
            queue: receiver,
            held: None,
            state: Arc::clone(&state),
            route: proto::Route { partition, slot_table_version: 0 },
        };
        let client = KvClient::new(channel.clone())
            .max_decoding_message_size(ANSWER_BYTES)
            .max_encoding_message_size(ANSWER_BYTES);
        let task = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                let cause = tokio::select! {
                    cause = pump(client, outbound, &state) => cause,
                    cause = watch_over(&state, suspect_after, doubt) => cause,
                };
                state.end(cause);
            }
        });
        Self { address, epoch, channel, queue, state, _task: AbortOnDropHandle::new(task) }
    }

    /// Whether requests can still be submitted.
    pub(super) fn is_open(&self) -> bool {
        self.state.inner.lock().ended.is_none() && !self.queue.is_closed()
    }

    /// Why it ended.
    pub(super) fn ended(&self) -> String {
        self.state.inner.lock().ended.clone().unwrap_or_else(|| "the connection was closed".into())
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn submit(&self, op: stream_op::Op, limits: &Limits, deadline: Instant) -> Outcome {
        let op = proto::StreamOp { id: 0, op: Some(op) };
        let bytes = op.encoded_len();
        let (caller, answer) = oneshot::channel();
        let stage = Arc::new(AtomicU8::new(QUEUED));
        // A future that is dropped while it waits takes back what was not sent yet.
        let _withdraw = Withdraw(&stage);
        let admission = async {
            let _turn = limits.turn.lock().await;
            let permits = limits.acquire(bytes).await;
            let reply = Reply { caller: Some(caller), stage: Arc::clone(&stage), _permits: permits };
            self.queue.send(Submission { op, bytes, reply }).await
        };
        // Unconstrained: a task that has used up its budget would otherwise be put back before it stands in the
        // line, and requests polled together would leave in another order.
        match timeout_at(deadline, tokio::task::unconstrained(admission)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Outcome::Lost { sent: false },
            Err(_) => return Outcome::TimedOut { sent: false },
        }
        match timeout_at(deadline + GRACE, answer).await {
            Ok(Ok(outcome)) => outcome,
            // Reply always says something when it goes; if it ever did not, nothing certain is known.
            Ok(Err(_)) => Outcome::Lost { sent: true },
            Err(_) => {
                let cancelled = stage.compare_exchange(QUEUED, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
                Outcome::TimedOut { sent: cancelled == Err(SENT) }
            }
        }
    }
}

/// Cancels a request that is still queued when its caller goes away.
struct Withdraw<'a>(&'a AtomicU8);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        let _ = self.0.compare_exchange(QUEUED, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Runs the stream to its end and says why it ended.
async fn pump(mut client: KvClient<Channel>, outbound: Outbound, state: &State) -> String {
    let mut inbound = match client.stream(outbound).await {
        Ok(response) => response.into_inner(),
        Err(status) => return text_of(&status),
    };
    loop {
        match inbound.message().await {
            Ok(Some(response)) => state.deliver(response.results),
            Ok(None) => return "the member closed the connection".into(),
            Err(status) => return text_of(&status),
        }
    }
}

/// Returns a reason to give the connection up, once there is one.
async fn watch_over<D, F>(state: &State, suspect_after: Duration, doubt: D) -> String
where
    D: Fn() -> F,
    F: Future<Output = Option<String>>,
{
    // A stopped process keeps its sockets open, and TCP says nothing for minutes: only the others know.
    let tick = (suspect_after / 4).max(Duration::from_millis(10));
    loop {
        let asleep = Instant::now();
        tokio::time::sleep(tick).await;
        // Held up ourselves, on a busy machine: what the member said meanwhile is not read yet.
        if asleep.elapsed() >= tick * 2 {
            continue;
        }
        if state.silent_for() >= suspect_after
            && let Some(cause) = doubt().await
        {
            return cause;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test]
    async fn a_member_is_not_suspected_of_a_silence_in_which_the_client_itself_was_held_up() {
        let state = Arc::new(State::new());
        let (caller, _answer) = oneshot::channel();
        let permits = Limits::new(1, 1).acquire(1).await;
        state.register(Reply { caller: Some(caller), stage: Arc::new(AtomicU8::new(QUEUED)), _permits: permits });
        let asked = Arc::new(AtomicUsize::new(0));
        let watching = tokio::spawn({
            let (state, asked) = (Arc::clone(&state), Arc::clone(&asked));
            async move {
                let doubt = || async { Some(format!("asked {} times", asked.fetch_add(1, Ordering::Relaxed) + 1)) };
                watch_over(&state, Duration::from_millis(200), doubt).await
            }
        });
        tokio::task::yield_now().await;
        // Nothing in this process runs meanwhile: an answer would wait in the socket.
        std::thread::sleep(Duration::from_millis(500));
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(asked.load(Ordering::Relaxed), 0, "it may have answered");
        state.deliver(Vec::new());
        assert_eq!(watching.await.expect("no panic"), "asked 1 times", "silent while this process runs, it is");
    }
}
