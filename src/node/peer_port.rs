//! The peer port's door: heartbeat connections go to their own thread before any HTTP/2 is read, all others to
//! the main runtime; each through the same guard as client connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::listener::{GuardedStream, MAX_FRAME_BYTES, Port};
use super::peer_service::PeerService;
use crate::net::peer::{HEARTBEAT_PREAMBLE, MAX_PEER_MESSAGE_BYTES, NeedsSecret, PeerSecret, prepare_socket};
use crate::net::proto::control_server::ControlServer;
use crate::net::proto::replication_server::ReplicationServer;

/// Time to send a connection's first bytes.
const GREETING_TIME: Duration = Duration::from_secs(10);
/// Between two looks at a connection that has sent a part of the preamble.
const PREAMBLE_LOOK: Duration = Duration::from_millis(2);
/// HTTP/2 keep-alive: a peer that does not answer it is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Accepts until `stop`; connections that begin with the heartbeat preamble go to `heartbeats`.
pub(crate) async fn accept(
    listener: TcpListener,
    port: Arc<Port>,
    main: mpsc::UnboundedSender<GuardedStream>,
    heartbeats: mpsc::UnboundedSender<std::net::TcpStream>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                if !port.admit(peer) {
                    continue;
                }
                let (port, main, heartbeats) = (Arc::clone(&port), main.clone(), heartbeats.clone());
                tokio::spawn(async move {
                    // What ends here was counted or is nobody's loss.
                    let _ = sort(stream, peer, port, main, heartbeats).await;
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
    peer: std::net::SocketAddr,
    port: Arc<Port>,
    main: mpsc::UnboundedSender<GuardedStream>,
    heartbeats: mpsc::UnboundedSender<std::net::TcpStream>,
) -> io::Result<()> {
    prepare_socket(&stream)?;
    let is_heartbeat = tokio::time::timeout(GREETING_TIME, begins_with_preamble(&stream)).await;
    match is_heartbeat {
        Ok(Ok(true)) => {
            let mut preamble = [0; HEARTBEAT_PREAMBLE.len()];
            stream.read_exact(&mut preamble).await?;
            let _ = heartbeats.send(stream.into_std()?);
        }
        Ok(Ok(false)) => {
            let _ = main.send(GuardedStream::new(stream, peer, port));
        }
        // Silent or gone: the guard counts it as it counts everything else.
        Ok(Err(_)) | Err(_) => drop(GuardedStream::new(stream, peer, port)),
    }
    Ok(())
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
    secret: PeerSecret,
    connections: mpsc::UnboundedReceiver<GuardedStream>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let control = ControlServer::new(service.clone())
        .max_decoding_message_size(MAX_PEER_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_PEER_MESSAGE_BYTES);
    let replication = ReplicationServer::new(service)
        .max_decoding_message_size(MAX_PEER_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_PEER_MESSAGE_BYTES);
    let door = NeedsSecret::new(secret);
    server()
        .add_service(tonic::service::interceptor::InterceptedService::new(control, door.clone()))
        .add_service(tonic::service::interceptor::InterceptedService::new(replication, door))
        .serve_with_incoming_shutdown(
            UnboundedReceiverStream::new(connections).map(Ok::<_, io::Error>),
            stop.cancelled_owned(),
        )
        .await
}

/// Serves heartbeat connections, on the runtime of their thread.
pub(crate) async fn serve_heartbeats(
    service: PeerService,
    secret: PeerSecret,
    port: Arc<Port>,
    connections: mpsc::UnboundedReceiver<std::net::TcpStream>,
    stop: CancellationToken,
) {
    // A word of a heartbeat is a few dozen bytes.
    let replication = ReplicationServer::new(service).max_decoding_message_size(64 << 10);
    let guarded = UnboundedReceiverStream::new(connections).filter_map(move |stream| {
        let peer = stream.peer_addr().ok()?;
        let stream = TcpStream::from_std(stream).ok()?;
        Some(Ok::<_, io::Error>(GuardedStream::new(stream, peer, Arc::clone(&port))))
    });
    let served = server()
        .add_service(tonic::service::interceptor::InterceptedService::new(replication, NeedsSecret::new(secret)))
        .serve_with_incoming_shutdown(guarded, stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "serving heartbeats");
    }
}
