//! What arrives from others: messages between members and controllers, snapshots' manifests, clusters' manifests.

use std::fmt::Debug;

use prost::Message;

use super::Input;
use crate::api;
use crate::engine::SnapshotManifest;
use crate::net::proto;
use crate::replication::protocol::{self, ProtocolError, WireChunk};
use crate::replication::server::Hello;
use crate::topology::message as m;
use crate::topology::register::Register;

type Seeds = Vec<(String, Vec<u8>)>;

/// What is taken is the same after it has been sent on.
fn there_and_back<W, V>(bytes: &[u8])
where
    W: Message + Default + Clone + From<V>,
    V: TryFrom<W, Error = ProtocolError> + Clone + PartialEq + Debug,
{
    let Ok(wire) = W::decode(bytes) else { return };
    let Ok(value) = V::try_from(wire) else { return };
    let again = W::from(value.clone()).encode_to_vec();
    let wire = W::decode(&again[..]).expect("what was encoded decodes");
    assert_eq!(V::try_from(wire).as_ref(), Ok(&value), "what was taken survives the wire");
}

/// What is taken, or refused with a name; and what decodes is encoded again.
fn taken<W: Message + Default, V: TryFrom<W, Error = ProtocolError>>(bytes: &[u8]) {
    if let Ok(wire) = W::decode(bytes) {
        let _ = V::try_from(wire);
    }
}

/// First byte: which message.
pub(super) fn message(data: &[u8]) {
    let mut input = Input(data);
    let which = input.u8();
    let bytes = input.rest();
    match which % 21 {
        0 => there_and_back::<proto::InitRequest, m::InitRequest>(bytes),
        1 => there_and_back::<proto::FenceRequest, m::FenceRequest>(bytes),
        2 => there_and_back::<proto::AssembleRequest, m::AssembleRequest>(bytes),
        3 => there_and_back::<proto::PromoteRequest, m::PromoteRequest>(bytes),
        4 => there_and_back::<proto::FollowRequest, m::FollowRequest>(bytes),
        5 => there_and_back::<proto::ControlReply, m::Reply>(bytes),
        6 => there_and_back::<proto::HealthReport, m::HealthReport>(bytes),
        7 => there_and_back::<proto::Standing, m::Standing>(bytes),
        8 => there_and_back::<proto::LastConfig, m::LastConfig>(bytes),
        9 => there_and_back::<proto::ShardReport, m::ShardReport>(bytes),
        10 => there_and_back::<proto::FollowerReport, m::FollowerReport>(bytes),
        11 => there_and_back::<proto::ShardTarget, m::ShardTarget>(bytes),
        12 => taken::<proto::Hello, Hello>(bytes),
        13 => taken::<proto::Chunk, WireChunk>(bytes),
        14 => {
            if let Ok(wire) = proto::Refused::decode(bytes) {
                let refusal = protocol::refusal(&wire);
                let again = protocol::wire_refusal(&refusal, None);
                assert_eq!(protocol::refusal(&again), refusal, "a refusal survives the wire");
            }
        }
        15 => {
            if let Ok(manifest) = serde_json::from_slice::<SnapshotManifest>(bytes)
                && manifest.check().is_ok()
            {
                let again = serde_json::to_vec(&manifest).expect("written");
                assert_eq!(serde_json::from_slice::<SnapshotManifest>(&again).expect("read"), manifest);
                assert!(manifest.total_bytes() > 0 || manifest.files.is_empty());
            }
        }
        16 => {
            if let Ok(register) = Register::from_json(bytes) {
                let again = register.to_json().expect("written");
                assert_eq!(Register::from_json(&again).expect("what was written is read"), register);
            }
        }
        17 => {
            let _ = (proto::Heartbeat::decode(bytes), proto::HeartbeatAck::decode(bytes));
        }
        18 => {
            let _ = (proto::FollowerMessage::decode(bytes), proto::LeaderMessage::decode(bytes));
        }
        19 => {
            let _ = (proto::StreamRequest::decode(bytes), proto::StreamResponse::decode(bytes));
        }
        _ => {
            let _ = (proto::WriteRequest::decode(bytes), proto::ScanRequest::decode(bytes));
        }
    }
}

pub(super) fn message_seeds() -> Seeds {
    use crate::ident::{ClusterId, InstanceId, Sid};
    use crate::position::{LogPosition, LogTail};
    use std::time::Duration;
    let envelope = m::Envelope { cluster_id: ClusterId(1), lineage: 2, to: Sid(3) };
    let config = m::LastConfig { epoch: 9, voters: vec![Sid(3), Sid(4)], write_quorum: 2, min_voters: 1 };
    let tail = LogTail { last: LogPosition::new(2, 77), chain: 5 };
    let donor = m::Donor { sid: Sid(4), name: "kv-0-1".into(), address: "127.0.0.1:7".into() };
    let standing = m::Standing {
        cluster_id: Some(ClusterId(1)),
        lineage: 2,
        sid: Sid(3),
        open_count: 4,
        instance: InstanceId(5),
        init: m::InitState::Done,
        promised: 6,
        led: 5,
        live_led: 0,
        last_config: Some(config.clone()),
    };
    let shard = m::ShardReport {
        state: m::DataState::Ready,
        tail,
        commit: 70,
        durable: 75,
        log_floor: 3,
        tombstone_floor: 1,
        known_commit: 80,
    };
    let health = m::HealthReport {
        standing: standing.clone(),
        role: m::Role::Leader,
        leader: Some(Sid(9)),
        shards: vec![shard.clone()],
        leader_silence: Some(Duration::from_millis(900)),
        leader_gone: false,
        cannot_commit: Duration::from_millis(1200),
        followers: Vec::new(),
        draining: false,
        sync_stall: Duration::ZERO,
        disk_full: false,
        disk: m::DiskRoom { total: 30, available: 20, reserve: 2 },
        caught_up: true,
        serving: true,
        trouble: String::new(),
        clock_skew_ms: 0,
        leader_stall: Duration::ZERO,
    };
    let promote = m::PromoteRequest {
        envelope: envelope.clone(),
        config: config.clone(),
        targets: vec![tail],
        lease_wait: Duration::from_millis(600),
        shard_time_ms: 12,
        members: vec![donor.clone()],
    };
    let fenced = m::Reply::Fenced(m::FenceReply {
        standing: standing.clone(),
        shards: vec![shard],
        lease_remaining: Duration::from_micros(123_456),
        shard_time_ms: 8,
        wall_ms: 9,
        drained: true,
        figures: vec![m::VoterFigure { sid: Sid(4), open_count: 3, held: vec![70] }],
    });
    let refused = m::Reply::Refused(m::Refusal::Promised { promised: 8, asked: 7 }, Box::new(standing.clone()));
    let hello = proto::Hello {
        standing: Some(standing.into()),
        name: "kv-0-1".into(),
        client_address: "127.0.0.1:9".into(),
        shards: vec![proto::ShardHello {
            state: proto::DataState::Ready.into(),
            tail: Some(tail.into()),
            commit: 70,
            log_floor: 1,
            epochs: vec![proto::EpochStart { epoch: 1, gsn: 1 }, proto::EpochStart { epoch: 2, gsn: 9 }],
        }],
        ..Default::default()
    };
    let snapshot = br#"{"g0":{"last":{"epoch":1,"gsn":9},"chain":5},"epoch_table":[{"epoch":1,"gsn":1}],"tombstone_floor":0,"log_floor":1,"committed_time_ms":5,"files":[{"name":"0000000001.seg","len":640,"crc":9}],"trees":[]}"#;
    let seed = |name: &str, which: u8, bytes: Vec<u8>| (name.to_owned(), [&[which][..], &bytes].concat());
    vec![
        seed(
            "init",
            0,
            proto::InitRequest::from(m::InitRequest { envelope: envelope.clone(), config }).encode_to_vec(),
        ),
        seed("promote", 3, proto::PromoteRequest::from(promote).encode_to_vec()),
        seed("fenced", 5, proto::ControlReply::from(fenced).encode_to_vec()),
        seed("refused", 5, proto::ControlReply::from(refused).encode_to_vec()),
        seed("health", 6, proto::HealthReport::from(health).encode_to_vec()),
        seed("hello", 12, hello.encode_to_vec()),
        seed("snapshot", 15, snapshot.to_vec()),
    ]
}

/// A cluster's manifest, as a user writes it.
pub(super) fn cluster(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match api::manifest::load("fuzz", text) {
        Ok(cluster) => {
            assert_eq!(api::validate(&cluster), Vec::new(), "what is taken is valid");
            let yaml = serde_yaml::to_string(&cluster).expect("written");
            let again = api::manifest::load("again", &yaml).expect("what was written is read");
            assert_eq!(again.spec, cluster.spec);
            let config = crate::node::config::NodeConfig::of(&cluster.spec);
            config.check().expect("a valid manifest makes a configuration that members take");
        }
        Err(refused) => assert!(!refused.to_string().is_empty(), "a refusal says why"),
    }
}

pub(super) fn cluster_seeds() -> Seeds {
    let small = "apiVersion: armdb.io/v1alpha1\nkind: ArmdbCluster\nmetadata: {name: kv}\nspec:\n  image: a/b:1\n  \
                 storage: {size: 1Gi}\n";
    let large = "apiVersion: armdb.io/v1alpha1\nkind: ArmdbCluster\nmetadata:\n  name: kv\n  namespace: here\nspec:\n  \
                 image: a/b:1\n  replicas: 3\n  storage: {size: 100Gi}\n  replication: {ack: Leader, durability: Os}\n  \
                 engine: {memoryBudget: 64Mi, maxValueSize: 1Mi, logRetention: {minSize: 1Mi, minAgeSeconds: 5, \
                 maxSize: 2Gi}, compaction: {rate: 8Mi, minGarbagePercent: 30}}\n";
    vec![("small".into(), small.into()), ("large".into(), large.into())]
}
