//! A leader that is stopped (SIGSTOP) while it writes, replaced, and wakes up believing that it leads.

use armdb::client::{ClientOptions, ReadOptions};
use armdb::net::proto::kv_client::KvClient;
use armdb::net::proto::{GetRequest, op_result, stream_op};
use armdb::net::proto::{StreamOp, StreamRequest};
use bytes::Bytes;
use rustix::process::Signal;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Cluster, Ledger, Manifest, Writers};

/// Enough that most of it cannot be on its way to the followers when the leader stops.
const LARGE: usize = 2 << 20;
const LARGE_WRITES: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_gives_up_its_tail_and_serves_no_stale_read() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let old = cluster.healthy().await;
    let old_pid = old.pid.expect("it runs");
    let client = cluster.client().await;
    client.put("fresh", "before").await.expect("a write");

    // Somebody who holds on to the old leader, whatever anybody says.
    let address = cluster.entry(&old.name).client;
    let mut loyal = KvClient::connect(format!("http://{address}")).await.expect("connected");
    let (requests, outbound) = mpsc::channel(1024);
    let mut answers = loyal.stream(ReceiverStream::new(outbound)).await.expect("a stream").into_inner();
    let ask = |id: u64| {
        let get = GetRequest { key: "fresh".into(), ..Default::default() };
        StreamRequest { route: None, ops: vec![StreamOp { id, op: Some(stream_op::Op::Get(get)) }] }
    };
    requests.send(ask(0)).await.expect("sent");
    let first = answers.message().await.expect("no error").expect("an answer");
    assert!(matches!(&first.results[0].result, Some(op_result::Result::Get(get)) if get.value.is_some()));

    let writers = Writers::start(&cluster, 8).await;
    writers.acknowledge(500).await;
    // The followers stand still for a moment (much less than a failover takes), so that the leader appends what
    // nobody else gets; then the leader is stopped and they go on.
    let followers: Vec<i32> = cluster.followers().await.iter().filter_map(|member| member.pid).collect();
    assert_eq!(followers.len(), 2);
    for pid in &followers {
        cluster.signal(*pid, Signal::STOP);
    }
    let short = ClientOptions::new([address.to_string()]).request_timeout(Duration::from_secs(20));
    let lonely = armdb::client::Client::connect(short).await.expect("connected");
    let tail_before = tail_of(&cluster, &old.name);
    let large: Vec<_> = (0..LARGE_WRITES)
        .map(|i| {
            let (client, key) = (lonely.clone(), Bytes::from(format!("large/{i}")));
            tokio::spawn(async move {
                let value = Bytes::from(vec![b'a' + i as u8; LARGE]);
                let outcome = client.put(key.clone(), value.clone()).await;
                (key, value, outcome)
            })
        })
        .collect();
    // On the leader's own disk.
    let goal = tail_before + (LARGE * (LARGE_WRITES - 2)) as u64;
    crate::support::eventually("the leader has written what nobody else has", async || {
        (tail_of(&cluster, &old.name) >= goal).then_some(())
    })
    .await;
    cluster.signal(old_pid, Signal::STOP);
    for pid in &followers {
        cluster.signal(*pid, Signal::CONT);
    }

    let new = cluster.leader_after(&old.name).await;
    // The first client may still be talking to the stopped leader: what it asks there has no known outcome.
    let client = cluster.client().await;
    client.put("fresh", "after").await.expect("a write to the new leader");
    // These wait in the old leader's socket: it finds them in the first moment of its second life.
    for id in 1..=200 {
        requests.send(ask(id)).await.expect("sent");
    }
    writers.acknowledge(500).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.signal(old_pid, Signal::CONT);

    let mut answered = 0;
    while answered < 200 {
        let message = tokio::time::timeout(crate::support::PATIENCE, answers.message()).await.expect("it answers");
        // A member that ends the stream has answered nothing stale either.
        let Ok(Some(message)) = message else { break };
        for result in message.results {
            answered += 1;
            if let Some(op_result::Result::Get(get)) = result.result {
                let value = get.value.expect("the key exists").value;
                assert_eq!(value, "after", "a stale read of the old leader {}, {} leads", old.name, new.name);
            }
        }
    }

    cluster.healthy().await;
    writers.acknowledge(500).await;
    let mut books = writers.finish().await;
    let mut tail = Ledger::default();
    for write in large {
        let (key, value, outcome) = write.await.expect("no panic");
        tail.enter(key, Some(value), &outcome);
    }
    assert!(tail.acknowledged < LARGE_WRITES as u64, "no tail was lost: nothing is shown by this test");
    books.merge(tail);
    let said = cluster.logged(&old.name);
    assert!(said.contains("the log's end is cut"), "{} does not tell that it gave up its tail", old.name);
    assert_eq!(
        client.get_with("fresh", &ReadOptions::default()).await.expect("a read").expect("a value").bytes,
        "after"
    );
    books.compare_everywhere(&cluster).await;
}

/// Bytes of log that a member has on its disk (what is zeroed ahead does not count).
fn tail_of(cluster: &Cluster, member: &str) -> u64 {
    fn of(dir: &std::path::Path) -> u64 {
        let mut sum = 0;
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                sum += of(&path);
            } else if let Ok(metadata) = entry.metadata() {
                sum += metadata.len();
            }
        }
        sum
    }
    of(&cluster.dir().join(member).join("data"))
}
