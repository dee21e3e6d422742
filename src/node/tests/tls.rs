//! Members over mutual TLS: they replicate as over a secret, and nobody else is let in.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::members::{Group, PATIENCE};
use crate::net::peer::{DialError, HEARTBEAT_PREAMBLE, Lane, PeerAuth, PeerSecret, control, dial};
use crate::net::pki::{Authority, Identity};
use crate::net::proto;
use crate::net::tls::{PeerTls, write_identity};

const NAME: &str = "member.kv-nodes.ns.svc";

fn issue(authority: &Authority) -> Identity {
    let until = SystemTime::now() + Duration::from_secs(3600);
    authority.issue(&["*.kv-nodes.ns.svc".into()], "armdb://77/member", until).expect("issued")
}

fn auth(dir: &Path, identity: &Identity, name: &str) -> PeerAuth {
    write_identity(dir, identity);
    PeerAuth::Tls(Arc::new(PeerTls::open(dir, name).expect("read")))
}

/// Asks for the health of member 0; why not, in the words of whoever says so.
async fn ask(group: &Group, auth: &PeerAuth, lane: Lane) -> Result<(), String> {
    let address = &group.nodes[0].as_ref().expect("runs").address;
    let asked = async {
        let channel = dial(address, auth, lane, PATIENCE).await.map_err(|error| error.to_string())?;
        control(channel).health(proto::HealthRequest {}).await.map(drop).map_err(|status| status.to_string())
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("answered in time")
}

/// A cluster of three over TLS that serves, and what its members know each other by.
async fn cluster(dir: &Path, authority: &Authority) -> (Group, PeerAuth) {
    let auth = auth(dir, &issue(authority), NAME);
    let mut group = Group::with(3, auth.clone()).await;
    group.bootstrap(0).await;
    group.serves(0).await;
    (group, auth)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_replicate_hear_each_other_and_fail_over_over_tls() {
    let temp = tempfile::tempdir().expect("a directory");
    let authority = Authority::new("kv").expect("made");
    let auth = auth(temp.path(), &issue(&authority), NAME);
    let mut group = Group::with(3, auth).await;
    let voters = group.bootstrap(0).await;
    group.serves(0).await;
    let mut last = group.put(0, "a", "1").await;
    for n in 0..50 {
        last = group.put(0, &format!("k{n}"), &"v".repeat(10_000)).await;
    }
    for i in 1..3 {
        group.shows(i, last).await;
        assert_eq!(group.get(i, "a").as_deref(), Some("1"));
    }
    assert!(group.member(0).lease_valid(), "heartbeats came over TLS too");
    group.stop(0).await;
    group.change(2, &[1, 2], &voters, None).await;
    group.serves(2).await;
    let at = group.put(2, "after", "failover").await;
    group.shows(1, at).await;
    group.all_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_of_the_cluster_is_told_why_and_not_let_in() {
    let temp = tempfile::tempdir().expect("a directory");
    let authority = Authority::new("kv").expect("made");
    let (group, own) = cluster(&temp.path().join("own"), &authority).await;
    let port = Arc::clone(&group.nodes[0].as_ref().expect("runs").port);
    assert_eq!(ask(&group, &own, Lane::Main).await, Ok(()));

    let stranger = auth(&temp.path().join("stranger"), &issue(&Authority::new("kv").expect("made")), NAME);
    // Believes this cluster's authority, and shows a certificate of its own.
    let forged =
        Identity { authority_pem: authority.certificate_pem().into(), ..issue(&Authority::new("kv").expect("made")) };
    let forger = auth(&temp.path().join("forger"), &forged, NAME);
    let until = SystemTime::now() + Duration::from_secs(3600);
    let other = authority.issue(&["*.other-nodes.ns.svc".into()], "armdb://78/member", until).expect("issued");
    let neighbour = auth(&temp.path().join("neighbour"), &other, NAME);
    let misled = auth(&temp.path().join("misled"), &issue(&authority), "member.other-nodes.ns.svc");
    let past = SystemTime::now() - Duration::from_secs(60);
    let expired = authority.issue(&["*.kv-nodes.ns.svc".into()], "armdb://77/member", past).expect("issued");
    let expired = auth(&temp.path().join("expired"), &expired, NAME);
    let plain = PeerAuth::Secret(PeerSecret::new("a-secret-of-the-tests").expect("sound"));
    for (auth, word) in [
        (stranger, "not of an authority in ca.crt here"),
        (forger, "not of an authority in its ca.crt"),
        (neighbour, "valid for its cluster's name"),
        (misled, "not valid for member.other-nodes.ns.svc"),
        (expired, "has expired"),
        (plain, "this peer port speaks mutual TLS"),
    ] {
        for lane in [Lane::Main, Lane::Heartbeat] {
            let refused = port.counts.malformed.load(Ordering::Relaxed);
            let why = ask(&group, &auth, lane).await.expect_err("refused");
            assert!(why.contains(word), "{why}");
            while port.counts.malformed.load(Ordering::Relaxed) == refused {
                tokio::task::yield_now().await;
            }
        }
    }
    group.put(0, "b", "2").await;
    group.all_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_secret_is_not_taken_for_gone_by_one_that_wants_tls() {
    let group = Group::with(1, PeerSecret::new("a-secret-of-the-tests").expect("sound").into()).await;
    let temp = tempfile::tempdir().expect("a directory");
    let tls = auth(temp.path(), &issue(&Authority::new("kv").expect("made")), NAME);
    let address = &group.nodes[0].as_ref().expect("runs").address;
    let error = dial(address, &tls, Lane::Main, PATIENCE).await.expect_err("no TLS there");
    assert!(matches!(&error, DialError::Distrust { reason, .. } if reason.contains("does not speak TLS")), "{error}");
    group.all_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaced_certificates_are_used_for_new_connections_without_a_restart() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path().join("own");
    let (mut group, _) = cluster(&dir, &Authority::new("kv").expect("made")).await;
    let other = Authority::new("kv").expect("made");
    let newcomer = auth(&temp.path().join("newcomer"), &issue(&other), NAME);
    ask(&group, &newcomer, Lane::Main).await.expect_err("not of this authority");

    // Not readable in between: what was read before stays in use.
    std::fs::write(dir.join("ca.crt"), "half a certificate").expect("written");
    group.put(0, "a", "1").await;
    ask(&group, &newcomer, Lane::Main).await.expect_err("not of this authority");

    write_identity(&dir, &issue(&other));
    assert_eq!(ask(&group, &newcomer, Lane::Main).await, Ok(()));
    let at = group.put(0, "b", "2").await;
    // Members dial each other anew with it, too.
    group.stop(1).await;
    group.start(1).await;
    group.follow(1, 0, false).await;
    group.shows(1, at).await;
    group.all_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_a_port_with_tls_harms_nothing() {
    let temp = tempfile::tempdir().expect("a directory");
    let (group, own) = cluster(temp.path(), &Authority::new("kv").expect("made")).await;
    let node = group.nodes[0].as_ref().expect("runs");
    let of_a_handshake = [0x16, 3, 1, 0x02, 0, 1, 0, 1, 0xfc, 3, 3];
    let mut huge = vec![0x16, 3, 1, 0xff, 0xff];
    huge.resize(100_000, 7);
    let after_preamble = [HEARTBEAT_PREAMBLE.as_slice(), b"garbage of a heartbeat"].concat();
    let texts: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        &[0; 4096],
        &of_a_handshake,
        &huge,
        &after_preamble,
    ];
    for text in texts {
        let refused = node.port.counts.malformed.load(Ordering::Relaxed);
        let mut stream = TcpStream::connect(&node.address).await.expect("connected");
        // The other end may close before all is sent.
        let _ = stream.write_all(text).await;
        let _ = stream.shutdown().await;
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("closed");
        while node.port.counts.malformed.load(Ordering::Relaxed) == refused {
            tokio::task::yield_now().await;
        }
    }
    // Nothing of it stays open, and the places of what is gone are free.
    let mut idle = Vec::new();
    while node.port.counts.refused.load(Ordering::Relaxed) == 0 {
        assert!(idle.len() < 256, "connections that say nothing count towards the bound");
        let accepted = node.port.counts.accepted.load(Ordering::Relaxed);
        idle.push(TcpStream::connect(&node.address).await.expect("connected"));
        while node.port.counts.accepted.load(Ordering::Relaxed) == accepted {
            tokio::task::yield_now().await;
        }
    }
    drop(idle);
    let asked = async { while ask(&group, &own, Lane::Main).await.is_err() {} };
    tokio::time::timeout(PATIENCE, asked).await.expect("there is room again");
    group.put(0, "a", "1").await;
    group.all_stop().await;
}
