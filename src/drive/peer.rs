//! The controller's side of a member's peer port: the health stream and the control calls.
//!
//! The health stream is dialled here and read until it breaks; how it broke is told at once, because a refused or
//! reset connection (the process is gone) is worth a second of waiting over mere silence. Each call has a deadline
//! and a connection of its own (dialling on loopback takes less than a millisecond), so that neither a stream that
//! hangs nor a connection to a process that is gone can hold it up.
//! Invariant: each call yields exactly one answer, at the latest when its time has passed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::net::peer::{DialError, Lane, PeerAuth, control, dial};
use crate::net::proto::{ControlReply, HealthRequest};
use crate::topology::controller::{Disconnect, Event};
use crate::topology::message::{HealthReport, MemberName, Reply, Request};

/// A connection attempt that takes longer met a stopped process, or a host that is gone.
const CONNECT: Duration = Duration::from_secs(1);
/// Members report every 100 ms; after this long without a word the stream counts as silent.
const SILENCE: Duration = Duration::from_millis(500);
/// After this long a silent stream is given up and dialled anew.
const GIVE_UP: Duration = Duration::from_secs(3);
/// Between attempts.
const REDIAL: Duration = Duration::from_millis(50);

/// A member, as a controller reaches it.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    name: MemberName,
    address: String,
    auth: PeerAuth,
    /// Whoever runs it is taking it away, whether or not it knows: its reports say so.
    leaving: Arc<AtomicBool>,
    /// Why its health could not be read, as told last.
    complained: Arc<Mutex<String>>,
}

impl Peer {
    /// A member at `address` (`host:port`); nothing is dialled yet.
    pub(super) fn new(name: MemberName, address: String, auth: PeerAuth) -> Self {
        Self { name, address, auth, leaving: Arc::default(), complained: Arc::default() }
    }

    /// Where it is dialled.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Whether whoever runs it is taking it away: from the next report on.
    pub(super) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::Relaxed);
    }

    /// Sends a request; the answer, or why there is none after `timeout`.
    pub(super) async fn send(&self, request: Request, timeout: Duration) -> Result<Box<Reply>, String> {
        let call = async {
            let channel =
                dial(&self.address, &self.auth, Lane::Main, timeout).await.map_err(|error| error.to_string())?;
            let mut calls = control(channel);
            let reply = match request {
                Request::Init(message) => calls.init(crate::net::proto::InitRequest::from(message)).await,
                Request::Fence(message) => calls.fence(crate::net::proto::FenceRequest::from(message)).await,
                Request::Assemble(message) => calls.assemble(crate::net::proto::AssembleRequest::from(message)).await,
                Request::Promote(message) => calls.promote(crate::net::proto::PromoteRequest::from(message)).await,
                Request::Follow(message) => calls.follow(crate::net::proto::FollowRequest::from(message)).await,
                Request::Recover(message) => calls.recover(crate::net::proto::RecoverRequest::from(message)).await,
                Request::SetAside(message) => calls.set_aside(crate::net::proto::SetAsideRequest::from(message)).await,
            };
            reply.map_err(|status| explain(&status)).and_then(|reply| read_reply(reply.into_inner()))
        };
        tokio::time::timeout(timeout, call)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} ms", timeout.as_millis())))
    }

    /// Reads the member's health until `stop`, handing every report and every break to `events`.
    pub(super) async fn watch(self, events: mpsc::Sender<Event>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.watch_for_ever(&events) => {}
        }
    }

    async fn watch_for_ever(&self, events: &mpsc::Sender<Event>) {
        while !events.is_closed() {
            let opened = self.open().await;
            let (kind, was_open) = match opened {
                Ok(stream) => {
                    self.complained.lock().clear();
                    (self.read(stream, events).await, true)
                }
                Err(kind) => (kind, false),
            };
            if self.tell(events, kind).await.is_err() {
                return;
            }
            // A stream that broke is dialled again at once: whether that is refused tells the end of a process
            // from a hiccup.
            if !was_open {
                tokio::time::sleep(REDIAL).await;
            }
        }
    }

    async fn tell(&self, events: &mpsc::Sender<Event>, kind: Disconnect) -> Result<(), ()> {
        events.send(Event::Disconnected { member: self.name.clone(), kind }).await.map_err(drop)
    }

    async fn open(&self) -> Result<tonic::Streaming<crate::net::proto::HealthReport>, Disconnect> {
        let opening = async {
            let channel = dial(&self.address, &self.auth, Lane::Main, CONNECT).await.map_err(|error| match error {
                DialError::Refused { .. } => Disconnect::Refused,
                DialError::Broken { .. } => Disconnect::Reset,
                // It lives: no evidence that it is gone.
                DialError::Distrust { .. } => {
                    self.complain(&error.to_string());
                    Disconnect::Silent
                }
                DialError::Address { .. } | DialError::Unreachable { .. } => Disconnect::Silent,
            })?;
            control(channel).health(HealthRequest {}).await.map_err(|status| self.not_opened(&status))
        };
        match tokio::time::timeout(CONNECT, opening).await {
            Ok(opened) => opened.map(tonic::Response::into_inner),
            Err(_) => Err(Disconnect::Silent),
        }
    }

    /// Tells why the member's health is not told, once a reason.
    fn complain(&self, why: &str) {
        let mut told = self.complained.lock();
        if told.as_str() != why {
            tracing::warn!(member = %self.name, why, "the member's health cannot be read");
            why.clone_into(&mut told);
        }
    }

    /// Why a health stream did not open although the connection stood.
    fn not_opened(&self, status: &tonic::Status) -> Disconnect {
        use tonic::Code;
        match status.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::ResourceExhausted => {
                self.complain(&explain(status));
                Disconnect::Silent
            }
            // Made on this side because the connection broke, or by a process that is going away.
            _ => Disconnect::Reset,
        }
    }

    /// Reads a stream to its end.
    async fn read(
        &self,
        mut stream: tonic::Streaming<crate::net::proto::HealthReport>,
        events: &mpsc::Sender<Event>,
    ) -> Disconnect {
        let mut silent = Duration::ZERO;
        loop {
            match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(report))) => {
                    silent = Duration::ZERO;
                    let report = match HealthReport::try_from(report) {
                        Ok(mut report) => {
                            report.draining |= self.leaving.load(Ordering::Relaxed);
                            Box::new(report)
                        }
                        Err(error) => {
                            tracing::warn!(member = %self.name, %error, "a health report is not understood");
                            tokio::time::sleep(REDIAL).await;
                            return Disconnect::Silent;
                        }
                    };
                    if events.send(Event::Report { member: self.name.clone(), report }).await.is_err() {
                        return Disconnect::Silent;
                    }
                }
                // A connection that the transport gave up because nothing came is silent, not reset.
                Ok(Ok(None) | Err(_)) if silent > Duration::ZERO => return Disconnect::Silent,
                Ok(Ok(None) | Err(_)) => return Disconnect::Reset,
                Err(_) => {
                    silent += SILENCE;
                    if silent >= GIVE_UP {
                        return Disconnect::Silent;
                    }
                    if silent == SILENCE && self.tell(events, Disconnect::Silent).await.is_err() {
                        return Disconnect::Silent;
                    }
                }
            }
        }
    }
}

fn read_reply(reply: ControlReply) -> Result<Box<Reply>, String> {
    Reply::try_from(reply).map(Box::new).map_err(|error| format!("the answer is not understood: {error}"))
}

/// A status in one line.
fn explain(status: &tonic::Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::peer::PeerSecret;
    use crate::net::pki::Authority;
    use crate::net::tls::PeerTls;

    fn peer(address: String) -> Peer {
        Peer::new("kv-0-0".into(), address, PeerSecret::new("0123456789abcdef").expect("a secret").into())
    }

    /// Speaks TLS, with a certificate of an authority of its own.
    fn tls_peer(address: String) -> Peer {
        let until = std::time::SystemTime::now() + Duration::from_secs(3600);
        let authority = Authority::new("kv").expect("made");
        let identity = authority.issue(&["*.kv.svc".into()], "armdb://1/member", until).expect("issued");
        let tls = PeerTls::given(identity, "a test".into(), "member.kv.svc").expect("usable");
        Peer::new("kv-0-0".into(), address, PeerAuth::Tls(Arc::new(tls)))
    }

    /// What is told first about a member at `address` while `other_end` does its part.
    async fn first_word(address: String, other_end: impl Future<Output = ()>) -> Disconnect {
        first_word_of(peer(address), other_end).await
    }

    async fn first_word_of(peer: Peer, other_end: impl Future<Output = ()>) -> Disconnect {
        let (sender, mut events) = mpsc::channel(8);
        let watch = peer.watch(sender, CancellationToken::new());
        tokio::select! {
            () = watch => panic!("the watch ended"),
            () = async { other_end.await; std::future::pending().await } => unreachable!("pending"),
            event = events.recv() => match event {
                Some(Event::Disconnected { member, kind }) => {
                    assert_eq!(member, "kv-0-0");
                    kind
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens_is_told_as_refused() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        assert_eq!(first_word(address, async {}).await, Disconnect::Refused);
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_is_told_as_reset() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let kind = first_word(address, async move {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            // The preface of HTTP/2: the client is through with connecting.
            let _ = connection.read_exact(&mut [0; 24]).await;
        });
        assert_eq!(kind.await, Disconnect::Reset);
    }

    #[tokio::test]
    async fn a_member_that_is_not_trusted_is_told_as_silent_and_never_as_gone() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let PeerAuth::Tls(other) = tls_peer(address.clone()).auth else { panic!("TLS") };
        let kind = first_word_of(tls_peer(address), async move {
            let (connection, _) = listener.accept().await.expect("a connection");
            assert!(other.accept(connection).await.is_err(), "another authority");
        });
        assert_eq!(kind.await, Disconnect::Silent);
    }

    #[tokio::test]
    async fn a_tls_connection_that_breaks_while_it_is_opened_is_told_as_reset() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let kind = first_word_of(tls_peer(address), async move {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            let _ = connection.read(&mut [0; 16]).await;
        });
        assert_eq!(kind.await, Disconnect::Reset);
    }

    #[tokio::test]
    async fn a_process_that_accepts_and_says_nothing_is_told_as_silent() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        assert_eq!(first_word(address, async {}).await, Disconnect::Silent);
    }

    #[tokio::test]
    async fn a_call_that_is_not_answered_ends_in_time() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let envelope = crate::topology::message::Envelope {
            cluster_id: crate::ident::ClusterId(1),
            lineage: 1,
            to: crate::ident::Sid(1),
        };
        let request = Request::Fence(crate::topology::message::FenceRequest { envelope, epoch: 1, drain: None });
        let why = peer(address).send(request, Duration::from_millis(50)).await.expect_err("no answer");
        assert!(why.contains("50 ms"), "{why}");
    }
}
