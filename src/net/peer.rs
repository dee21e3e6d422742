//! The peer port as both sides see it: how the ends know each other, the socket options, the limits, and dialling.
//!
//! Members and controllers dial each other here. Every request carries the cluster's secret in a header, or the
//! connection is mutual TLS where there is a certificate authority ([`PeerAuth`]); sockets are told never to delay
//! small writes and to give up soon on a peer that does not acknowledge them. A connection that begins with
//! [`HEARTBEAT_PREAMBLE`] is handed to the heartbeat thread before anything else (TLS, HTTP/2) is read, so that bulk
//! data on the main runtime never delays a heartbeat; without it everything works, on the main runtime.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::proto::control_client::ControlClient;
use super::proto::replication_client::ReplicationClient;
use super::tls::{HandshakeError, PeerTls};
use super::wire::Wire;

/// Largest message on the peer port: the largest batch and its envelope.
pub const MAX_PEER_MESSAGE_BYTES: usize = (16 << 20) + (64 << 10);

/// What a heartbeat connection begins with, before HTTP/2's own preface.
pub const HEARTBEAT_PREAMBLE: [u8; 8] = *b"ARMDB/HB";

/// The header that carries the secret.
const SECRET_HEADER: &str = "armdb-peer-secret";

/// What everyone on the peer port must know. Never printed.
#[derive(Clone)]
pub struct PeerSecret(MetadataValue<Ascii>);

/// A secret that no header can carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the peer secret must be 16 to 1024 visible ASCII characters")]
pub struct BadSecret;

impl PeerSecret {
    /// Surrounding white space, as files end with it, does not count.
    pub fn new(text: &str) -> Result<Self, BadSecret> {
        let text = text.trim();
        if !(16..=1024).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(BadSecret);
        }
        text.parse().map(Self).map_err(|_| BadSecret)
    }

    /// Whether a request carries it. Takes as long for a wrong one as for the right one.
    fn is_in(&self, request: &Request<()>) -> bool {
        let given = request.metadata().get(SECRET_HEADER).map_or(&b""[..], |v| v.as_encoded_bytes());
        let want = self.0.as_encoded_bytes();
        let differing = want.iter().zip(given.iter().chain(std::iter::repeat(&0))).fold(0, |acc, (a, b)| acc | (a ^ b));
        given.len() == want.len() && differing == 0
    }
}

impl fmt::Debug for PeerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerSecret(..)")
    }
}

/// How the two ends of a peer connection know each other.
#[derive(Debug, Clone)]
pub enum PeerAuth {
    /// A secret that every member and controller of the cluster has: local mode.
    Secret(PeerSecret),
    /// Certificates of the cluster's own authority, on both sides.
    Tls(Arc<PeerTls>),
}

impl From<PeerSecret> for PeerAuth {
    fn from(secret: PeerSecret) -> Self {
        Self::Secret(secret)
    }
}

/// Adds the secret, where there is one, to every request.
#[derive(Debug, Clone)]
pub struct WithSecret(Option<PeerSecret>);

impl Interceptor for WithSecret {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(secret) = &self.0 {
            request.metadata_mut().insert(SECRET_HEADER, secret.0.clone());
        }
        Ok(request)
    }
}

/// Refuses requests without the secret; over TLS the handshake has refused already.
#[derive(Debug, Clone)]
pub struct NeedsSecret(Option<PeerSecret>);

impl NeedsSecret {
    /// For a server that authenticates by `auth`.
    pub fn new(auth: &PeerAuth) -> Self {
        match auth {
            PeerAuth::Secret(secret) => Self(Some(secret.clone())),
            PeerAuth::Tls(_) => Self(None),
        }
    }
}

impl Interceptor for NeedsSecret {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if self.0.as_ref().is_none_or(|secret| secret.is_in(&request)) {
            Ok(request)
        } else {
            Err(Status::unauthenticated("the peer secret is missing or wrong: every member needs the same secret file"))
        }
    }
}

/// A connection to a peer port.
pub type PeerChannel = InterceptedService<Channel, WithSecret>;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Requests and bulk data.
    Main,
    /// Heartbeats: small, never behind anything else.
    Heartbeat,
}

/// A peer that could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Not an address.
    #[error("{address:?} is not a peer address: host:port is wanted")]
    Address {
        /// What was given.
        address: String,
    },
    /// Nobody listens there: the process is gone.
    #[error("{address} refuses connections: no member runs there")]
    Refused {
        /// Where.
        address: String,
    },
    /// The connection stood and broke before anything was said: the process is going, or it takes nobody in.
    #[error("the connection to {address} broke while it was opened: {reason}")]
    Broken {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// The other end lives, and is none of ours, or does not take this one for one of its own.
    #[error("{address} and this process do not trust each other: {reason}")]
    Distrust {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// No answer, or another failure.
    #[error("cannot connect to {address}: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
}

impl DialError {
    /// Whether the host answered that nobody listens: the process is gone, not merely silent.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// Connects to the peer port at `address` within `timeout`.
pub async fn dial(address: &str, auth: &PeerAuth, lane: Lane, timeout: Duration) -> Result<PeerChannel, DialError> {
    tokio::time::timeout(timeout, open(address, auth, lane)).await.unwrap_or_else(|_| {
        Err(DialError::Unreachable { address: address.to_owned(), reason: format!("no answer within {timeout:?}") })
    })
}

async fn open(address: &str, auth: &PeerAuth, lane: Lane) -> Result<PeerChannel, DialError> {
    // The socket is connected first, by hand: a refusal is evidence, and the transport would hide it.
    let unreachable = |reason: String| DialError::Unreachable { address: address.to_owned(), reason };
    let broken = |reason: String| DialError::Broken { address: address.to_owned(), reason };
    let mut stream = match TcpStream::connect(address).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(DialError::Refused { address: address.to_owned() });
        }
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
            return Err(DialError::Address { address: address.to_owned() });
        }
        Err(e) => return Err(unreachable(e.to_string())),
        Ok(stream) => stream,
    };
    prepare_socket(&stream).map_err(|e| unreachable(e.to_string()))?;
    if lane == Lane::Heartbeat {
        stream.write_all(&HEARTBEAT_PREAMBLE).await.map_err(|e| broken(e.to_string()))?;
    }
    let (wire, secret) = match auth {
        PeerAuth::Secret(secret) => (Wire::from(stream), Some(secret.clone())),
        PeerAuth::Tls(tls) => {
            let wire = tls.connect(stream).await.map_err(|error| match error {
                HandshakeError::Broken(error) => broken(error.to_string()),
                HandshakeError::Distrust(reason) => DialError::Distrust { address: address.to_owned(), reason },
            })?;
            (wire, None)
        }
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| DialError::Address { address: address.to_owned() })?
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(Some(4 << 20))
        .initial_connection_window_size(Some(8 << 20));
    let mut once = Some(wire);
    let connector = tower::service_fn(move |_: http::Uri| {
        // One connection a channel: whoever uses it dials anew and learns why it broke.
        let wire = once.take().map(TokioIo::new);
        std::future::ready(wire.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset)))
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(|e| broken(chain(&e)))?;
    Ok(InterceptedService::new(channel, WithSecret(secret)))
}

/// The Control service at the other end.
pub fn control(channel: PeerChannel) -> ControlClient<PeerChannel> {
    ControlClient::new(channel)
        .max_decoding_message_size(MAX_PEER_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_PEER_MESSAGE_BYTES)
}

/// The Replication service at the other end.
pub fn replication(channel: PeerChannel) -> ReplicationClient<PeerChannel> {
    ReplicationClient::new(channel)
        .max_decoding_message_size(MAX_PEER_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_PEER_MESSAGE_BYTES)
}

/// An error with everything beneath it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text = format!("{text}: {e}");
        source = e.source();
    }
    text
}

/// No delayed small writes; a peer that acknowledges nothing for [`USER_TIMEOUT`] is given up.
pub(crate) fn prepare_socket(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let millis = libc::c_uint::try_from(USER_TIMEOUT.as_millis()).unwrap_or(libc::c_uint::MAX);
    // SAFETY: the descriptor is open as long as `stream` is borrowed; the option takes one unsigned int,
    // whose address and size are given.
    let status = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_USER_TIMEOUT,
            (&raw const millis).cast(),
            size_of::<libc::c_uint>() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How long sent bytes may stay unacknowledged before the connection counts as broken.
const USER_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_is_let_in() {
        let secret = PeerSecret::new("0123456789abcdef\n").expect("sound");
        let mut door = NeedsSecret::new(&secret.clone().into());
        assert!(door.call(WithSecret(Some(secret)).call(Request::new(())).expect("added")).is_ok());
        for other in ["0123456789abcdeF", "0123456789abcdef0"] {
            let other = PeerSecret::new(other).expect("sound");
            assert!(door.call(WithSecret(Some(other)).call(Request::new(())).expect("added")).is_err());
        }
        assert!(door.call(Request::new(())).is_err());
    }

    #[test]
    fn a_secret_is_never_printed_and_a_weak_one_refused() {
        assert_eq!(format!("{:?}", PeerSecret::new("0123456789abcdef").expect("sound")), "PeerSecret(..)");
        for bad in ["", "short", "0123456789 abcdef", "0123456789abcde\u{e9}"] {
            assert!(PeerSecret::new(bad).is_err(), "{bad}");
        }
    }
}
