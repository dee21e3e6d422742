//! Nonsense on every port of a running member: the connection is closed, memory stays bounded, the member serves.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Cluster, Manifest, PATIENCE, http, process};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const GIB: u32 = 1 << 30;

/// The same bytes for the same seed.
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

/// A gRPC call whose one message claims to have a gibibyte.
fn huge_call(path: &str, secret: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("armdb-peer-secret", secret),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    let mut message = vec![0];
    message.extend(GIB.to_be_bytes());
    message.extend(noise(7, 8000));
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &block));
    bytes.extend(frame(0, 0, 1, &message));
    bytes
}

/// Says `bytes` and waits until the other side has closed the connection.
async fn say_until_closed(address: SocketAddr, bytes: &[u8]) {
    let mut socket = TcpStream::connect(address).await.expect("connected");
    let _ = socket.write_all(bytes).await;
    let mut heard = Vec::new();
    // A reset is as good as an end.
    let closed = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut heard)).await;
    assert!(closed.is_ok(), "{address} keeps a connection that says nonsense");
}

/// Says `bytes` and goes away in the middle.
async fn say_and_go(address: SocketAddr, bytes: &[u8]) {
    let mut socket = TcpStream::connect(address).await.expect("connected");
    let _ = socket.write_all(bytes).await;
}

/// Reads frames until one ends the call: headers (a status without an answer), a reset, a farewell, or the end.
async fn until_refused(socket: &mut TcpStream) {
    let mut head = [0; 9];
    while socket.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if socket.read_exact(&mut payload).await.is_err() || matches!(head[3], 1 | 3 | 7) {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_half_frames_and_a_gibibyte_on_every_port_leave_the_member_serving() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let leader = cluster.leader().await;
    let pid = leader.pid.expect("it runs");
    let entry = cluster.entry(&leader.name);
    let secret = std::fs::read_to_string(cluster.dir().join("secret")).expect("a secret");
    let client = cluster.client().await;
    client.put("a", "1").await.expect("a write");
    let before = process::resident_bytes(pid);

    let mut half_frame = PREFACE.to_vec();
    half_frame.extend(frame(4, 0, 0, &[]));
    half_frame.extend(&frame(0, 0, 1, &noise(3, 1000))[..500]);
    let mut length_prefix = GIB.to_be_bytes().to_vec();
    length_prefix.extend(noise(5, 4000));
    let mut heartbeat = b"ARMDB/HB".to_vec();
    heartbeat.extend(noise(11, 4000));
    for address in [entry.client, entry.peer, entry.http] {
        for seed in 1..=10 {
            say_until_closed(address, &noise(seed, 8192)).await;
        }
        say_until_closed(address, &length_prefix).await;
        say_until_closed(address, &heartbeat).await;
        say_and_go(address, &PREFACE[..10]).await;
        say_and_go(address, &half_frame).await;
        say_and_go(address, b"").await;
        assert!(client.get("a").await.expect("it serves").is_some(), "after nonsense on {address}");
    }
    for (address, paths) in [
        (entry.client, vec!["/armdb.v1.Kv/Write", "/armdb.v1.Kv/Stream"]),
        (entry.peer, vec!["/armdb.v1.Control/Fence", "/armdb.v1.Control/Promote", "/armdb.v1.Replication/Replicate"]),
    ] {
        for path in paths {
            for secret in [secret.trim(), "another secret, as long as it must be"] {
                for _ in 0..5 {
                    let mut socket = TcpStream::connect(address).await.expect("connected");
                    socket.write_all(&huge_call(path, secret)).await.expect("sent");
                    let refused = tokio::time::timeout(PATIENCE, until_refused(&mut socket)).await;
                    assert!(refused.is_ok(), "{path} waits for a gibibyte");
                }
            }
        }
    }
    say_and_go(entry.http, b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\nx").await;
    say_and_go(entry.http, b"GET /metr").await;

    let grown = process::resident_bytes(pid).saturating_sub(before);
    assert!(grown < 256 << 20, "memory grew by {grown} bytes");
    let now = cluster.leader().await;
    assert_eq!((now.name.as_str(), now.pid), (leader.name.as_str(), Some(pid)), "the leader has changed");
    client.put("a", "2").await.expect("it serves");
    for (path, status) in [("/livez", "200"), ("/readyz", "200"), ("/metrics", "200")] {
        let answer = http::get(entry.http, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        if path == "/metrics" {
            let malformed = http::sum(&answer, "armdb_connections_malformed_total");
            assert!(malformed >= 30.0, "{malformed} malformed connections are counted:\n{answer}");
        }
    }
    cluster.healthy().await;
}
