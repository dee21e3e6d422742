//! What all handles of one client share: the connection to the leader, and the loop that repeats what is safe.
//!
//! Invariants: one task at a time looks for the leader, the others wait for what it finds; an operation is
//! repeated only by the rules in the module comment of [`client`](super); every wait ends at the deadline.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout_at;

use super::batch::applies_at_most_once;
use super::connection::{Connection, Limits, Outcome};
use super::discovery::{Discovery, Found};
use super::error::{Answer, ConnectError, Hint, ReadError, Refusal, WriteError};
use super::options::{ClientOptions, ReadOptions};
use super::retry::{Backoff, Deadline, Jitter};
use super::value::Token;
use crate::net::proto::{self, op_result, stream_op};

/// A member other than the leader that does not answer a read in this time is passed over.
const MEMBER_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Leader {
    connection: Option<Arc<Connection>>,
    /// Where the last one said to go.
    hint: Option<Found>,
}

/// The shared part of a client.
#[derive(Debug)]
pub(super) struct Session {
    this: Weak<Session>,
    pub(super) options: ClientOptions,
    pub(super) discovery: Discovery,
    pub(super) jitter: Jitter,
    limits: Limits,
    leader: Mutex<Leader>,
    /// Held by whoever looks for the leader.
    looking: tokio::sync::Mutex<()>,
    /// Connections for reads that any member may answer.
    members: Mutex<HashMap<String, Arc<Connection>>>,
    /// Which of the members is asked next.
    turn: AtomicUsize,
}

impl Session {
    /// Connects to the cluster: at least one member has answered when it returns.
    pub(super) async fn connect(options: ClientOptions) -> Result<Arc<Self>, ConnectError> {
        let discovery = Discovery::new(&options.endpoints, options.connect_timeout)?;
        let session = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            limits: Limits::new(options.max_in_flight_requests, options.max_in_flight_bytes),
            discovery,
            jitter: Jitter::new(),
            leader: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            members: Mutex::default(),
            turn: AtomicUsize::new(0),
            options,
        });
        let deadline = Deadline::after(session.options.request_timeout);
        let mut backoff = Backoff::new(&session.jitter);
        loop {
            // Bounded by itself: a round never takes longer than twice the connect timeout.
            let round = session.discovery.round(None).await;
            session.leader.lock().hint = round.leader;
            if round.answered > 0 {
                return Ok(session);
            }
            if !backoff.pause(&deadline).await {
                return Err(ConnectError::Unreachable { waited: deadline.waited(), last: session.discovery.last() });
            }
        }
    }

    /// The connection to the leader, found if need be.
    pub(super) async fn leader(&self, deadline: &Deadline) -> Result<Arc<Connection>, Refusal> {
        let none = || Refusal::NoLeader { waited: deadline.waited(), last: self.discovery.last() };
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let _looking = timeout_at(deadline.at, self.looking.lock()).await.map_err(|_| none())?;
        let mut backoff = Backoff::new(&self.jitter);
        loop {
            if let Some(connection) = self.current() {
                return Ok(connection);
            }
            let hint = self.leader.lock().hint.take();
            let found = match hint {
                Some(found) => Some(found),
                None => timeout_at(deadline.at, self.discovery.round(None)).await.map_err(|_| none())?.leader,
            };
            if let Some(found) = found {
                match self.open(found) {
                    Ok(connection) => {
                        let connection = Arc::new(connection);
                        self.leader.lock().connection = Some(Arc::clone(&connection));
                        return Ok(connection);
                    }
                    Err(cause) => self.discovery.note(cause),
                }
            }
            if !backoff.pause(deadline).await {
                return Err(none());
            }
        }
    }

    fn current(&self) -> Option<Arc<Connection>> {
        let mut leader = self.leader.lock();
        if leader.connection.as_ref().is_some_and(|connection| !connection.is_open()) {
            leader.connection = None;
        }
        leader.connection.clone()
    }

    fn open(&self, found: Found) -> Result<Connection, String> {
        let channel = self.discovery.channel(&found.address)?;
        let (this, address, epoch) = (self.this.clone(), found.address.clone(), found.epoch);
        let doubt = move || {
            let (this, address) = (this.clone(), address.clone());
            async move {
                // The client is gone: so is the need for this connection.
                let Some(session) = this.upgrade() else { return Some("the client was dropped".to_owned()) };
                let newer = session.discovery.round(Some(&address)).await.leader?;
                (newer.epoch > epoch).then(|| {
                    let cause = format!("{address} is silent and {} leads epoch {}", newer.address, newer.epoch);
                    session.discovery.forget_channel(&address);
                    session.leader.lock().hint = Some(newer);
                    cause
                })
            }
        };
        Ok(Connection::open(
            found.address,
            found.epoch,
            channel,
            self.options.partition,
            self.options.max_in_flight_requests as usize,
            self.options.suspect_after,
            doubt,
        ))
    }

    /// `from` no longer leads, or is gone: the next operation looks elsewhere.
    pub(super) fn moved(&self, from: &Arc<Connection>, hint: Option<Hint>) {
        if !from.is_open() {
            self.discovery.forget_channel(&from.address);
        }
        let mut leader = self.leader.lock();
        let is_current = leader.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, from));
        if is_current {
            leader.connection = None;
        }
        if leader.connection.is_none()
            && let Some(found) = hint.and_then(|hint| self.discovery.redirected(&hint))
            && found.address != from.address
        {
            leader.hint = Some(found);
        }
    }

    /// Does a write, repeating it while it is certainly not done.
    pub(super) async fn write(
        &self,
        mut request: proto::WriteRequest,
        timeout: Option<Duration>,
    ) -> Result<proto::WriteResponse, WriteError> {
        let deadline = Deadline::after(timeout.unwrap_or(self.options.request_timeout));
        let may_resend = applies_at_most_once(&request);
        let mut backoff = Backoff::new(&self.jitter);
        // Set once an attempt ended without a known outcome and another was made.
        let mut unknown: Option<(Option<Token>, String)> = None;
        let failed = |unknown: Option<(Option<Token>, String)>, refusal: Refusal| match unknown {
            Some((token, cause)) => WriteError::Indeterminate { token, cause: format!("{cause}; then {refusal}") },
            None => WriteError::NotDone(refusal),
        };
        loop {
            let connection = match self.leader(&deadline).await {
                Ok(connection) => connection,
                Err(refusal) => return Err(failed(unknown, refusal)),
            };
            request.timeout_ms = deadline.remaining_ms();
            let op = stream_op::Op::Write(request.clone());
            let last = match connection.submit(op, &self.limits, deadline.at).await {
                Outcome::Answered(op_result::Result::Write(response)) => match unknown {
                    // Perhaps it is the first attempt's own write that outdated the condition.
                    Some((token, cause)) if !response.applied => {
                        return Err(WriteError::Indeterminate { token, cause });
                    }
                    _ => return Ok(response),
                },
                Outcome::Answered(op_result::Result::Error(detail)) => match Answer::from_detail(detail) {
                    Answer::Elsewhere(hint, message) => {
                        self.moved(&connection, Some(hint));
                        message
                    }
                    Answer::Away(message) => {
                        self.moved(&connection, None);
                        message
                    }
                    Answer::Later(message) => message,
                    Answer::Unknown(token, cause) => {
                        self.moved(&connection, None);
                        if !may_resend {
                            return Err(WriteError::Indeterminate { token, cause });
                        }
                        unknown = Some((token, cause.clone()));
                        cause
                    }
                    Answer::Refused(refusal) => return Err(failed(unknown, refusal)),
                },
                Outcome::Answered(_) => {
                    let cause = "the member answered another question".to_owned();
                    return Err(WriteError::Indeterminate { token: None, cause });
                }
                Outcome::Lost { sent } => {
                    let cause = format!("{}: {}", connection.address, connection.ended());
                    self.moved(&connection, None);
                    if sent {
                        if !may_resend {
                            return Err(WriteError::Indeterminate { token: None, cause });
                        }
                        unknown = Some((None, cause.clone()));
                    }
                    cause
                }
                Outcome::TimedOut { sent } => {
                    let cause = format!("no answer from {} within {:.1?}", connection.address, deadline.waited());
                    if sent {
                        return Err(WriteError::Indeterminate { token: None, cause });
                    }
                    return Err(failed(unknown, Refusal::TimedOut { waited: deadline.waited(), last: cause }));
                }
            };
            if !backoff.pause(&deadline).await {
                return Err(failed(unknown, Refusal::TimedOut { waited: deadline.waited(), last }));
            }
        }
    }

    /// Does a read, repeating it until it is answered.
    pub(super) async fn read(&self, op: stream_op::Op, options: &ReadOptions) -> Result<op_result::Result, ReadError> {
        let deadline = Deadline::after(options.timeout.unwrap_or(self.options.request_timeout));
        let mut backoff = Backoff::new(&self.jitter);
        if options.member.is_some() && !options.any_member() {
            let text = "a linearizable read asks the leader: naming a member needs another read level";
            return Err(Refusal::Invalid(text.into()).into());
        }
        // A follower that said it is too far behind sends this read to the leader.
        let mut leader_only = !options.any_member();
        loop {
            let (connection, attempt) = match leader_only {
                true => (self.leader(&deadline).await?, deadline.at),
                false => {
                    let patience =
                        if options.member.is_some() { self.options.request_timeout } else { MEMBER_PATIENCE };
                    let connection = self.any_member(options.member.as_deref())?;
                    (connection, deadline.at.min(tokio::time::Instant::now() + patience))
                }
            };
            let last = match connection.submit(op.clone(), &self.limits, attempt).await {
                Outcome::Answered(op_result::Result::Error(detail)) => match Answer::from_detail(detail) {
                    Answer::Elsewhere(hint, message) => {
                        if leader_only {
                            self.moved(&connection, Some(hint));
                        } else if options.member.is_none() {
                            leader_only = true;
                        }
                        message
                    }
                    Answer::Away(message) | Answer::Unknown(_, message) => {
                        if leader_only {
                            self.moved(&connection, None);
                        }
                        message
                    }
                    Answer::Later(message) => message,
                    Answer::Refused(refusal) => return Err(refusal.into()),
                },
                Outcome::Answered(result) => return Ok(result),
                Outcome::Lost { .. } => {
                    self.moved(&connection, None);
                    format!("{}: {}", connection.address, connection.ended())
                }
                Outcome::TimedOut { .. } => format!("no answer from {}", connection.address),
            };
            if !backoff.pause(&deadline).await {
                return Err(Refusal::TimedOut { waited: deadline.waited(), last }.into());
            }
        }
    }

    /// A connection for a read that need not go to the leader: `wanted`, or the next in turn.
    fn any_member(&self, wanted: Option<&str>) -> Result<Arc<Connection>, Refusal> {
        let address = match wanted {
            Some(address) => address.to_owned(),
            None => {
                let mut addresses = self.discovery.addresses();
                addresses.swap_remove(self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len())
            }
        };
        let mut members = self.members.lock();
        if let Some(connection) = members.get(&address).filter(|connection| connection.is_open()) {
            return Ok(Arc::clone(connection));
        }
        // A read may wait long for its position; nobody else could say that this member is gone.
        let channel = self.discovery.channel(&address).map_err(Refusal::Invalid)?;
        let connection = Arc::new(Connection::open(
            address.clone(),
            0,
            channel,
            self.options.partition,
            self.options.max_in_flight_requests as usize,
            Duration::from_secs(60),
            || async { None },
        ));
        members.insert(address, Arc::clone(&connection));
        Ok(connection)
    }

    /// Does a unary call on the leader that may be repeated.
    pub(super) async fn on_leader<T, F>(
        &self,
        timeout: Option<Duration>,
        call: impl Fn(tonic::transport::Channel) -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        let deadline = Deadline::after(timeout.unwrap_or(self.options.request_timeout));
        let mut backoff = Backoff::new(&self.jitter);
        loop {
            let connection = self.leader(&deadline).await?;
            let last = match timeout_at(deadline.at, call(connection.channel.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => match Answer::from_status(&status) {
                    Answer::Elsewhere(hint, message) => {
                        self.moved(&connection, Some(hint));
                        message
                    }
                    Answer::Away(message) | Answer::Unknown(_, message) => {
                        self.moved(&connection, None);
                        message
                    }
                    Answer::Later(message) => message,
                    Answer::Refused(refusal) => return Err(refusal),
                },
                Err(_) => format!("no answer from {}", connection.address),
            };
            if !backoff.pause(&deadline).await {
                return Err(Refusal::TimedOut { waited: deadline.waited(), last });
            }
        }
    }
}
