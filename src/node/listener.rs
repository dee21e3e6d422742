//! Accepting connections on any port, and closing at the door what is no client.
//!
//! Owns: the bound on open connections; the check that what arrives is framed as the port's protocol
//! (HTTP/2 with frames of at most [`MAX_FRAME_BYTES`], or HTTP/1); the time a connection has to say its first
//! word. Garbage, oversized and half frames close the connection and are counted here, because the layers
//! above close such connections without a word to anybody.
//! Does not do: look into a frame.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use super::admission::Budget;
use crate::net::wire::Wire;

/// Largest HTTP/2 frame that is announced and accepted.
pub(crate) const MAX_FRAME_BYTES: u32 = 64 << 10;

/// Time to send the protocol's first words.
const GREETING_TIME: Duration = Duration::from_secs(10);

/// Time an HTTP/1 connection may keep silent between two requests.
const IDLE_TIME: Duration = Duration::from_secs(120);

pub(crate) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http2,
    Http1,
}

/// What a port has seen.
#[derive(Debug, Default)]
pub(crate) struct PortCounts {
    /// Connections open now.
    pub open: AtomicUsize,
    /// Connections accepted since the start.
    pub accepted: AtomicUsize,
    /// Connections closed at once because there were too many.
    pub refused: AtomicUsize,
    /// Connections closed because what arrived was no frame of the protocol.
    pub malformed: AtomicUsize,
}

/// One listening port.
#[derive(Debug)]
pub(crate) struct Port {
    pub name: &'static str,
    pub protocol: Protocol,
    pub max_connections: usize,
    pub max_in_flight_bytes: usize,
    pub counts: PortCounts,
}

impl Port {
    pub(crate) fn new(
        name: &'static str,
        protocol: Protocol,
        max_connections: usize,
        max_in_flight_bytes: usize,
    ) -> Arc<Self> {
        Arc::new(Self { name, protocol, max_connections, max_in_flight_bytes, counts: PortCounts::default() })
    }

    /// Counts a connection that arrived; none: there are too many, close it.
    pub(crate) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<Seat> {
        let counts = &self.counts;
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        if counts.open.fetch_add(1, Ordering::Relaxed) < self.max_connections {
            return Some(Seat { port: Arc::clone(self) });
        }
        counts.open.fetch_sub(1, Ordering::Relaxed);
        counts.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(port = self.name, %peer, limit = self.max_connections, "connection refused: too many are open");
        None
    }
}

/// The place of one connection within a port's bound, from its arrival to its end.
#[derive(Debug)]
pub(crate) struct Seat {
    port: Arc<Port>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.port.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Seat {
    /// Counts the connection, which is none of a peer's; it is to be closed.
    pub(crate) fn refuse(&self, peer: SocketAddr, why: &str) {
        self.port.counts.malformed.fetch_add(1, Ordering::Relaxed);
        tracing::info!(port = self.port.name, %peer, why, "connection refused");
    }

    /// Counts the connection, which ended before it was anything: half a greeting, or a peer that lost its patience.
    pub(crate) fn ended(&self, peer: SocketAddr, error: &io::Error) {
        self.port.counts.malformed.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(port = self.port.name, %peer, %error, "connection ended within its greeting");
    }
}

/// Accepts until dropped. Running out of file descriptors is waited out, not fatal.
#[derive(Debug)]
pub(crate) struct GuardedListener {
    tcp: TcpListener,
    port: Arc<Port>,
}

impl GuardedListener {
    pub(crate) fn new(tcp: TcpListener, port: Arc<Port>) -> Self {
        Self { tcp, port }
    }

    /// The next connection within the bound.
    pub(crate) async fn accept_guarded(&mut self) -> (GuardedStream, SocketAddr) {
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => {
                    let Some(seat) = self.port.admit(peer) else { continue };
                    // Small answers must not wait for more to come (Nagle).
                    let _ = stream.set_nodelay(true);
                    return (GuardedStream::new(stream, peer, seat), peer);
                }
                Err(error) => {
                    tracing::warn!(port = self.port.name, %error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// The connections as a stream that never ends.
    pub(crate) fn into_stream(self) -> impl futures::Stream<Item = io::Result<GuardedStream>> {
        futures::stream::unfold(self, |mut listener| async move {
            let (stream, _) = listener.accept_guarded().await;
            Some((Ok(stream), listener))
        })
    }
}

impl axum::serve::Listener for GuardedListener {
    type Io = GuardedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        self.accept_guarded().await
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

/// What a service can know of the connection a request came by.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// Bytes of requests held for it.
    pub budget: Arc<Budget>,
}

/// A connection whose incoming bytes are checked for the protocol's framing.
#[derive(Debug)]
pub(crate) struct GuardedStream {
    wire: Wire,
    peer: SocketAddr,
    seat: Seat,
    framing: Framing,
    connection: Connection,
    /// Runs while the connection owes its first words (and, in HTTP/1, between requests).
    patience: Pin<Box<Sleep>>,
    condemned: bool,
}

impl GuardedStream {
    pub(crate) fn new(wire: impl Into<Wire>, peer: SocketAddr, seat: Seat) -> Self {
        let port = &seat.port;
        let framing = match port.protocol {
            Protocol::Http2 => Framing::Preface { matched: 0 },
            Protocol::Http1 => Framing::RequestHead { seen: 0, start: [0; 8], ends: 0 },
        };
        let connection = Connection { budget: Budget::new(port.max_in_flight_bytes) };
        let patience = Box::pin(tokio::time::sleep(GREETING_TIME));
        Self { wire: wire.into(), peer, seat, framing, connection, patience, condemned: false }
    }

    /// Counts the connection as malformed, once, and makes the error that closes it.
    fn condemn(&mut self, why: &'static str) -> io::Error {
        if !self.condemned {
            self.condemned = true;
            let port = &self.seat.port;
            port.counts.malformed.fetch_add(1, Ordering::Relaxed);
            tracing::info!(port = port.name, peer = %self.peer, why, "connection closed: not of this protocol");
        }
        io::Error::new(io::ErrorKind::InvalidData, why)
    }
}

impl Drop for GuardedStream {
    fn drop(&mut self) {
        // The layer above gave up on it (a keep-alive went unanswered) in the middle of a frame.
        if self.framing.is_within_frame() {
            self.condemn("the connection ended within a frame");
        }
    }
}

impl Connected for GuardedStream {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.wire).poll_read(cx, buf) {
            read?;
            let arrived = &buf.filled()[before..];
            if arrived.is_empty() {
                if this.framing.is_within_frame() {
                    this.condemn("the connection ended within a frame");
                }
                return Poll::Ready(Ok(()));
            }
            if let Err(why) = this.framing.check(arrived) {
                return Poll::Ready(Err(this.condemn(why)));
            }
            if this.seat.port.protocol == Protocol::Http1 && !this.framing.owes_greeting() {
                this.patience.as_mut().reset(Instant::now() + IDLE_TIME);
            }
            return Poll::Ready(Ok(()));
        }
        if this.framing.owes_greeting() {
            ready!(this.patience.as_mut().poll(cx));
            return Poll::Ready(Err(this.condemn("it said nothing of the protocol in time")));
        }
        if this.seat.port.protocol == Protocol::Http1 {
            ready!(this.patience.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the connection was idle")));
        }
        Poll::Pending
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }
}

/// Where in the protocol's framing the incoming bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// HTTP/2: this much of the client preface has arrived.
    Preface { matched: usize },
    /// HTTP/2: within the 9 bytes of a frame header.
    FrameHeader { have: usize, length: u32 },
    /// HTTP/2: this much of a frame's payload is still to come.
    Payload { left: u32 },
    /// HTTP/1: before the end of the first request's head.
    RequestHead { seen: usize, start: [u8; 8], ends: usize },
    /// HTTP/1: past it; the server above bounds the rest.
    Http1,
}

const METHODS: [&[u8]; 7] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH "];

impl Framing {
    fn owes_greeting(&self) -> bool {
        matches!(self, Self::Preface { .. } | Self::RequestHead { .. })
    }

    fn is_within_frame(&self) -> bool {
        match self {
            Self::Preface { matched } => *matched > 0,
            Self::FrameHeader { have, .. } => *have > 0,
            Self::Payload { .. } => true,
            Self::RequestHead { seen, .. } => *seen > 0,
            Self::Http1 => false,
        }
    }

    fn check(&mut self, mut arrived: &[u8]) -> Result<(), &'static str> {
        while let Some(&byte) = arrived.first() {
            match self {
                Self::Preface { matched } => {
                    if byte != HTTP2_PREFACE[*matched] {
                        return Err("it does not begin as HTTP/2");
                    }
                    *matched += 1;
                    if *matched == HTTP2_PREFACE.len() {
                        *self = Self::FrameHeader { have: 0, length: 0 };
                    }
                    arrived = &arrived[1..];
                }
                Self::FrameHeader { have, length } => {
                    // The length is the first three bytes of nine, big-endian.
                    if *have < 3 {
                        *length = (*length << 8) | u32::from(byte);
                    }
                    *have += 1;
                    if *have == 3 && *length > MAX_FRAME_BYTES {
                        return Err("a frame is longer than was announced as the limit");
                    }
                    if *have == 9 {
                        let left = *length;
                        *self =
                            if left == 0 { Self::FrameHeader { have: 0, length: 0 } } else { Self::Payload { left } };
                    }
                    arrived = &arrived[1..];
                }
                Self::Payload { left } => {
                    let taken = arrived.len().min(*left as usize);
                    *left -= taken as u32;
                    arrived = &arrived[taken..];
                    if *left == 0 {
                        *self = Self::FrameHeader { have: 0, length: 0 };
                    }
                }
                Self::RequestHead { seen, start, ends } => {
                    if let Some(slot) = start.get_mut(*seen) {
                        *slot = byte;
                    }
                    *seen += 1;
                    let have = &start[..(*seen).min(start.len())];
                    let fits = |method: &&[u8]| {
                        let shared = have.len().min(method.len());
                        have[..shared] == method[..shared]
                    };
                    if !METHODS.iter().any(fits) {
                        return Err("it does not begin as an HTTP request");
                    }
                    // The head ends with an empty line; bare line feeds are accepted as servers do.
                    match byte {
                        b'\n' => *ends += 1,
                        b'\r' => {}
                        _ => *ends = 0,
                    }
                    if *ends == 2 {
                        *self = Self::Http1;
                    }
                    arrived = &arrived[1..];
                }
                Self::Http1 => return Ok(()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u32, payload: usize) -> Vec<u8> {
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([0; 6]);
        bytes.extend(vec![7; payload]);
        bytes
    }

    #[test]
    fn frames_are_followed_however_the_bytes_are_cut() {
        let mut bytes = HTTP2_PREFACE.to_vec();
        for length in [0, 1, 8, 300, MAX_FRAME_BYTES] {
            bytes.extend(frame(length, length as usize));
        }
        for step in [1, 2, 3, 7, 24, 1000, bytes.len()] {
            let mut framing = Framing::Preface { matched: 0 };
            for part in bytes.chunks(step) {
                framing.check(part).expect("well framed");
            }
            assert!(!framing.is_within_frame(), "step {step}");
        }
    }

    #[test]
    fn what_is_not_framed_as_the_protocol_is_told_at_its_first_wrong_byte() {
        let mut http2 = Framing::Preface { matched: 0 };
        http2.check(b"PRI * HT").expect("so far so good");
        assert!(http2.check(b"X").is_err());
        let mut oversized = Framing::FrameHeader { have: 0, length: 0 };
        assert!(oversized.check(&frame(MAX_FRAME_BYTES + 1, 0)[..3]).is_err());
        let mut http1 = Framing::RequestHead { seen: 0, start: [0; 8], ends: 0 };
        assert!(http1.check(b"\x16\x03\x01").is_err());
        let mut half = Framing::RequestHead { seen: 0, start: [0; 8], ends: 0 };
        half.check(b"GET /metr").expect("so far so good");
        assert!(half.is_within_frame() && half.owes_greeting());
        half.check(b"ics HTTP/1.1\r\nHost: a\r\n\r\n").expect("a whole head");
        assert_eq!(half, Framing::Http1);
    }

    #[test]
    fn a_frame_that_was_begun_and_not_ended_is_half_a_frame() {
        let mut framing = Framing::FrameHeader { have: 0, length: 0 };
        framing.check(&frame(100, 40)).expect("well framed");
        assert!(framing.is_within_frame());
    }
}
