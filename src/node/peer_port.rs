//! The peer port's door: heartbeat connections go to their own thread before any TLS or HTTP/2 is read, all others
//! to the main runtime; each through the same guard as client connections.
//!
//! A connection counts towards the port's bound from its arrival, also while it shakes hands. One that does not
//! become a peer's is closed, counted and told in the log with what was wrong.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::listener::{GuardedStream, HTTP2_PREFACE, MAX_FRAME_BYTES, Port, Seat};
use super::peer_service::PeerService;
use crate::net::peer::{HEARTBEAT_PREAMBLE, MAX_PEER_MESSAGE_BYTES, NeedsSecret, PeerAuth, prepare_socket};
use crate::net::proto::control_server::ControlServer;
use crate::net::proto::replication_server::ReplicationServer;
use crate::net::tls::HandshakeError;

/// Time to send a connection's first bytes.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// Between two looks at a connection that has sent a part of the preamble.
const PREAMBLE_LOOK: Duration = Duration::from_millis(2);
/// HTTP/2 keep-alive: a peer that does not answer it is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that begins with the heartbeat preamble, which was read, on its way to the heartbeats' runtime.
pub(crate) struct Heartbeat {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    seat: Seat,
}

/// Accepts until `stop`; connections that begin with the heartbeat preamble go to `heartbeats`.
pub(crate) async fn accept(
    listener: TcpListener,
    port: Arc<Port>,
    auth: PeerAuth,
    main: mpsc::UnboundedSender<GuardedStream>,
    heartbeats: mpsc::UnboundedSender<Heartbeat>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(seat) = port.admit(peer) else { continue };
                let (auth, main, heartbeats) = (auth.clone(), main.clone(), heartbeats.clone());
                tokio::spawn(async move {
                    // What ends here was counted or is nobody's loss.
                    let _ = sort(stream, peer, seat, auth, main, heartbeats).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a peer connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn sort(
    mut stream: TcpStream,
    peer: SocketAddr,
    seat: Seat,
    auth: PeerAuth,
    main: mpsc::UnboundedSender<GuardedStream>,
    heartbeats: mpsc::UnboundedSender<Heartbeat>,
) -> io::Result<()> {
    prepare_socket(&stream)?;
    let is_heartbeat = tokio::time::timeout(GREETING_TIME, begins_with_preamble(&stream)).await;
    match is_heartbeat {
        Ok(Ok(true)) => {
            let mut preamble = [0; HEARTBEAT_PREAMBLE.len()];
            stream.read_exact(&mut preamble).await?;
            let _ = heartbeats.send(Heartbeat { stream: stream.into_std()?, peer, seat });
        }
        Ok(Ok(false)) => {
            if let Some(stream) = guarded(stream, peer, seat, &auth).await {
                let _ = main.send(stream);
            }
        }
        // Silent or gone.
        Ok(Err(_)) | Err(_) => {}
    }
    Ok(())
}

/// Shakes hands where TLS is spoken, and puts the guard in front of what comes.
async fn guarded(stream: TcpStream, peer: SocketAddr, seat: Seat, auth: &PeerAuth) -> Option<GuardedStream> {
    let tls = match auth {
        PeerAuth::Secret(_) => return Some(GuardedStream::new(stream, peer, seat)),
        PeerAuth::Tls(tls) => tls,
    };
    let shaken = tokio::time::timeout(GREETING_TIME, async {
        let mut start = [0; 4];
        if stream.peek(&mut start).await.is_ok_and(|seen| seen > 0 && HTTP2_PREFACE.starts_with(&start[..seen])) {
            explain_tls(stream).await;
            return Err(HandshakeError::Distrust("it speaks HTTP/2 without TLS".into()));
        }
        tls.accept(stream).await
    });
    match shaken.await {
        Ok(Ok(stream)) => return Some(GuardedStream::new(stream, peer, seat)),
        Ok(Err(HandshakeError::Distrust(why))) => seat.refuse(peer, &why),
        Ok(Err(HandshakeError::Broken(error))) => seat.ended(peer, &error),
        Err(_) => seat.refuse(peer, "the TLS handshake did not end in time"),
    }
    None
}

/// Tells a client of plain HTTP/2 what is wrong, in its own language: as the end of the connection in which its first
/// request is, because a reason that comes before there is a request is told to nobody.
async fn explain_tls(mut stream: TcpStream) {
    const WHY: &[u8] = b"this peer port speaks mutual TLS: start every member with --tls-dir, none with --secret-file";
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const INADEQUATE_SECURITY: u32 = 0xc;
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read.take(64 << 10));
    if write.write_all(&SETTINGS).await.is_err() {
        return;
    }
    // Whoever hangs up or sends anything else is told as well.
    let _ = first_request(&mut read).await;
    let mut end = vec![0, 0, 8 + WHY.len() as u8, 7, 0, 0, 0, 0, 0];
    end.extend(0_u32.to_be_bytes());
    end.extend(INADEQUATE_SECURITY.to_be_bytes());
    end.extend(WHY);
    if write.write_all(&end).await.is_ok() && write.shutdown().await.is_ok() {
        // Until it has closed its side too: an answer that is followed by a reset may never be read.
        let _ = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
    }
}

/// Reads until a frame that opens a request.
async fn first_request(read: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    const HEADERS: u8 = 1;
    read.read_exact(&mut [0; HTTP2_PREFACE.len()]).await?;
    loop {
        let mut header = [0; 9];
        read.read_exact(&mut header).await?;
        if header[3] == HEADERS {
            return Ok(());
        }
        let length = u64::from(u32::from_be_bytes([0, header[0], header[1], header[2]]));
        if tokio::io::copy(&mut (&mut *read).take(length), &mut tokio::io::sink()).await? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn begins_with_preamble(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; HEARTBEAT_PREAMBLE.len()];
    loop {
        let seen = stream.peek(&mut start).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if start[..seen] != HEARTBEAT_PREAMBLE[..seen] {
            return Ok(false);
        }
        if seen == HEARTBEAT_PREAMBLE.len() {
            return Ok(true);
        }
        tokio::time::sleep(PREAMBLE_LOOK).await;
    }
}

fn server() -> Server {
    Server::builder()
        .max_frame_size(MAX_FRAME_BYTES)
        .max_concurrent_streams(256)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .http2_max_header_list_size(16 << 10)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

/// Serves connections of the main runtime until `stop`.
pub(crate) async fn serve_main(
    service: PeerService,
    auth: PeerAuth,
    connections: mpsc::UnboundedReceiver<GuardedStream>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let control = ControlServer::new(service.clone())
        .max_decoding_message_size(MAX_PEER_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_PEER_MESSAGE_BYTES);
    let replication = ReplicationServer::new(service)
        .max_decoding_message_size(MAX_PEER_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_PEER_MESSAGE_BYTES);
    let door = NeedsSecret::new(&auth);
    server()
        .add_service(tonic::service::interceptor::InterceptedService::new(control, door.clone()))
        .add_service(tonic::service::interceptor::InterceptedService::new(replication, door))
        .serve_with_incoming_shutdown(
            UnboundedReceiverStream::new(connections).map(Ok::<_, io::Error>),
            stop.cancelled_owned(),
        )
        .await
}

/// Serves heartbeat connections, on the runtime of their thread: their handshakes too.
pub(crate) async fn serve_heartbeats(
    service: PeerService,
    auth: PeerAuth,
    mut connections: mpsc::UnboundedReceiver<Heartbeat>,
    stop: CancellationToken,
) {
    // A word of a heartbeat is a few dozen bytes.
    let replication = ReplicationServer::new(service).max_decoding_message_size(64 << 10);
    let door = NeedsSecret::new(&auth);
    let (ready, incoming) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Heartbeat { stream, peer, seat }) = connections.recv().await {
            let (auth, ready) = (auth.clone(), ready.clone());
            tokio::spawn(async move {
                let Ok(stream) = TcpStream::from_std(stream) else { return };
                if let Some(stream) = guarded(stream, peer, seat, &auth).await {
                    let _ = ready.send(stream);
                }
            });
        }
    });
    let served = server()
        .add_service(tonic::service::interceptor::InterceptedService::new(replication, door))
        .serve_with_incoming_shutdown(
            UnboundedReceiverStream::new(incoming).map(Ok::<_, io::Error>),
            stop.cancelled_owned(),
        )
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "serving heartbeats");
    }
}
