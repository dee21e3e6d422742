//! What is no client: closed, counted, and nobody else notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::stand_in::*;
use crate::node::http::{self, Lifecycle};
use crate::node::listener::{GuardedListener, Port, Protocol};
use crate::node::metrics::{Metrics, Sources, registry, resident_bytes};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A little generator: the same bytes for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Says `bytes` and hears the other side out, until it closes.
async fn say(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.expect("connected");
    let _ = socket.write_all(bytes).await;
    let mut heard = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), socket.read_to_end(&mut heard)).await;
    assert!(closed.is_ok(), "the connection was not closed");
    heard
}

async fn until(what: &str, test: impl Fn() -> bool) {
    for _ in 0..2000 {
        if test() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn garbage_on_the_client_port_is_closed_and_counted_and_the_member_goes_on_serving() {
    let served = Served::start().await;
    let mut client = served.client().await;
    client.write(put("a", "1")).await.expect("written");
    let malformed = || served.port.counts.malformed.load(Ordering::Relaxed);
    for seed in 1..=20 {
        say(served.address, &noise(seed, 4096)).await;
    }
    assert_eq!(malformed(), 20);
    say(served.address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(malformed(), 21);
    // A frame that claims 16 MiB - 1, which nobody was told to be allowed.
    let mut oversized = PREFACE.to_vec();
    oversized.extend(frame(4, 0, 0, &[]));
    oversized.extend([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
    say(served.address, &oversized).await;
    assert_eq!(malformed(), 22);
    assert_eq!(text(&client.get(get("a")).await.expect("read").into_inner()).as_deref(), Some("1"));
}

#[tokio::test]
async fn half_a_frame_is_counted_when_its_connection_ends() {
    let served = Served::start().await;
    for cut in [10, PREFACE.len() + 4, PREFACE.len() + 9 + 20] {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(0, 0, 1, &noise(3, 1000)));
        let mut socket = TcpStream::connect(served.address).await.expect("connected");
        socket.write_all(&bytes[..cut]).await.expect("sent");
        let before = served.port.counts.malformed.load(Ordering::Relaxed);
        drop(socket);
        until("half a frame is counted", || served.port.counts.malformed.load(Ordering::Relaxed) > before).await;
    }
    until("they are gone", || served.port.counts.open.load(Ordering::Relaxed) == 0).await;
    served.client().await.write(put("a", "1")).await.expect("it serves");
}

/// A header of a request, neither indexed nor compressed.
fn header(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        block.push(text.len() as u8);
        block.extend(text.as_bytes());
    }
}

#[tokio::test]
async fn a_message_that_claims_a_gibibyte_is_refused_before_any_memory_is_taken() {
    let served = Served::start().await;
    let before = resident_bytes().unwrap_or(0);
    for (round, path) in ["/armdb.v1.Kv/Write", "/armdb.v1.Kv/Stream"].iter().cycle().take(40).enumerate() {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "a"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            header(&mut block, name, value);
        }
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        bytes.extend(frame(1, 4, 1, &block));
        let mut message = vec![0];
        message.extend((1_u32 << 30).to_be_bytes());
        message.extend(noise(7, 8000));
        bytes.extend(frame(0, 0, 1, &message));
        let mut socket = TcpStream::connect(served.address).await.expect("connected");
        socket.write_all(&bytes).await.expect("sent");
        let refused = || served.metrics.malformed_requests.load(Ordering::Relaxed) > round as u64;
        until("the message is refused", refused).await;
    }
    let grown = resident_bytes().unwrap_or(0).saturating_sub(before);
    assert!(grown < 200 << 20, "memory grew by {grown} bytes");
    until("nothing is held", || served.buffered.held() == 0).await;
    served.client().await.write(put("a", "1")).await.expect("it serves");
}

async fn http_port() -> (SocketAddr, Arc<Port>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let port = Port::new("http", Protocol::Http1, 16, usize::MAX);
    let lifecycle = Arc::new(Lifecycle::default());
    let sources = Sources {
        metrics: Arc::new(Metrics::default()),
        ports: vec![Arc::clone(&port)],
        buffered: crate::node::admission::Budget::new(1),
        lifecycle: Arc::clone(&lifecycle),
        labels: vec![("member", "kv-0-0".to_owned())],
    };
    let routes = http::routes(lifecycle, registry(sources));
    let guarded = GuardedListener::new(listener, Arc::clone(&port));
    let server = tokio::spawn(async move {
        let _ = axum::serve(guarded, routes).await;
    });
    (address, port, server)
}

#[tokio::test]
async fn garbage_on_the_http_port_is_closed_and_counted_and_probes_go_on() {
    let (address, port, server) = http_port().await;
    for seed in 1..=10 {
        say(address, &noise(seed, 4096)).await;
    }
    assert_eq!(port.counts.malformed.load(Ordering::Relaxed), 10);
    let mut half = TcpStream::connect(address).await.expect("connected");
    half.write_all(b"GET /metr").await.expect("sent");
    drop(half);
    until("half a request is counted", || port.counts.malformed.load(Ordering::Relaxed) == 11).await;
    let said = say(address, b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\nx").await;
    assert!(said.starts_with(b"HTTP/1.1 405"), "{}", String::from_utf8_lossy(&said));
    let said = say(address, b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let said = String::from_utf8(said).expect("text");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    assert!(said.contains(r#"armdb_connections_malformed_total{member="kv-0-0",port="http"} 11"#), "{said}");
    server.abort();
}

#[tokio::test]
async fn a_member_that_opens_its_data_lives_and_is_not_ready() {
    let (address, _port, server) = http_port().await;
    let live = say(address, b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(live.starts_with(b"HTTP/1.1 200"));
    let ready = say(address, b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let ready = String::from_utf8(ready).expect("text");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("opening its data"), "{ready}");
    server.abort();
}
