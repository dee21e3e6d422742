//! Data that rots: a follower's is mended record by record where that is possible, else replaced by a copy and set
//! aside; an only member's is told and kept.

use std::path::Path;

use armdb::api::MemberState;
use rustix::process::Signal;

use crate::support::{Cluster, Manifest, Writers, eventually, process};

const SEGMENT: &str = "shard-000/0000000001.seg";
/// Among the first records, far below what was committed.
const AT: usize = 1500;

/// Turns bits of one byte.
fn rot(data: &Path) -> Vec<u8> {
    let path = data.join(SEGMENT);
    let mut bytes = std::fs::read(&path).expect("read");
    assert!(bytes[AT..AT + 500].iter().any(|byte| *byte != 0), "there are records");
    bytes[AT] ^= 0x55;
    std::fs::write(&path, &bytes).expect("written");
    bytes
}

/// What `armdb inspect` says, and the exit code.
async fn inspect(data: &Path) -> (Option<i32>, String) {
    let mut inspect = process::armdb(["inspect"]);
    inspect.arg(data);
    let output = process::output(inspect).await;
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_data_rotted_is_rebuilt_by_itself_and_the_rotten_files_are_kept() {
    let mut cluster = Cluster::start(Manifest::members(3)).await;
    let writers = Writers::start(&cluster, 2).await;
    writers.acknowledge(300).await;
    let follower = cluster.followers().await[0].clone();
    let name = follower.name.clone();
    let data = cluster.dir().join(&name).join("data");
    let down = cluster.keep_down(&name).await;
    let rotten = rot(&data);
    let (code, said) = inspect(&data).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("NOT SOUND") && said.contains("0000000001.seg"), "{said}");
    down.release();

    let whole = cluster.member(&name, "is whole again", |member| member.state == MemberState::InSync).await;
    assert_eq!(whole.sid, follower.sid, "it is the same storage");
    let logged = cluster.logged(&name);
    let told = logged.lines().find(|line| line.contains("is quarantined")).expect("it is told");
    assert!(told.contains("0000000001.seg"), "{told}");
    assert!(logged.contains("a full copy from the leader begins"), "it was made whole from nowhere");
    assert!(cluster.metric(&name, "armdb_full_copy_bytes_total").await > 0.0);
    let aside = data.join("shard-000/quarantined");
    let kept = std::fs::read(aside.join("0000000001.seg")).expect("it is kept");
    assert!(kept.starts_with(&rotten[..AT + 500]), "as it was found");
    assert!(std::fs::read_to_string(aside.join("REASON")).expect("kept").contains("0000000001.seg"));
    writers.acknowledge(200).await;
    let books = writers.finish().await;
    books.compare_everywhere(&cluster).await;

    assert!(cluster.end(Signal::TERM).await.success());
    let (code, said) = inspect(&data).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("sound: 1 directory") && said.contains("set aside"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_only_member_whose_data_rotted_says_why_it_does_not_serve_and_keeps_it() {
    let mut cluster = Cluster::start(Manifest::members(1)).await;
    let client = cluster.client().await;
    for i in 0..40 {
        client.put(format!("key{i}"), vec![7; 100]).await.expect("a write");
    }
    assert!(cluster.end(Signal::TERM).await.success());
    let data = cluster.dir().join("kv-0-0/data");
    let (code, said) = inspect(&data).await;
    assert_eq!(code, Some(0), "{said}");
    let rotten = rot(&data);
    assert_eq!(inspect(&data).await.0, Some(1));

    cluster.run();
    let told = cluster.until("it is told", |status| {
        let storage = status.conditions.iter().find(|condition| condition.type_ == "StorageHealthy")?;
        (storage.status == "False").then(|| storage.message.clone())
    });
    let told = told.await;
    for part in ["kv-0-0", "0000000001.seg", "nobody leads"] {
        assert!(told.contains(part), "{told:?} tells of {part:?}");
    }
    assert!(cluster.end(Signal::TERM).await.success());
    assert!(std::fs::read(data.join(SEGMENT)).expect("there") == rotten, "it is kept as it is");
    assert!(!data.join("shard-000/quarantined").exists(), "nothing took its place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_a_follower_that_rotted_in_a_file_that_has_ended_are_had_from_the_leader_without_a_copy() {
    const VALUE: usize = 1 << 20;
    let cluster = Cluster::start(Manifest::members(3)).await;
    let client = cluster.client().await;
    // A segment is full at 64 MiB.
    let puts = (0..72u8).map(|i| client.put(format!("big/{i:02}"), vec![i; VALUE]));
    for put in futures::future::join_all(puts).await {
        put.expect("a write");
    }
    let name = cluster.followers().await.remove(0).name;
    let data = cluster.dir().join(&name).join("data");
    let hint = data.join(SEGMENT).with_extension("hint");
    eventually("the first segment has ended, and its keys are noted", async || hint.exists().then_some(())).await;
    let down = cluster.keep_down(&name).await;
    let path = data.join(SEGMENT);
    let mut bytes = std::fs::read(&path).expect("read");
    for at in [10 << 20, 30 << 20] {
        bytes[at] ^= 0x55;
    }
    std::fs::write(&path, &bytes).expect("written");
    drop(bytes);
    down.release();

    eventually("it is told and mended", async || {
        let logged = cluster.logged(&name);
        (logged.contains("a file is damaged") && logged.contains("a damaged file is mended")).then_some(())
    })
    .await;
    cluster.healthy().await;
    eventually("it is counted", async || {
        let mended = cluster.metric(&name, "armdb_files_mended_total").await;
        let damaged = cluster.metric(&name, "armdb_shard_damaged_files").await;
        (mended >= 1.0 && damaged == 0.0).then_some(())
    })
    .await;
    assert!(!path.exists(), "another file is in its place");
    let logged = cluster.logged(&name);
    assert!(!logged.contains("a full copy from the leader begins"), "a few records were enough");
    let token = client.put("last", "1").await.expect("a write").token;
    for i in 0..72u8 {
        let there = client.get_with(format!("big/{i:02}"), &cluster.reading_from(&name, &token)).await.expect("a read");
        assert!(
            there.is_some_and(|value| value.bytes.len() == VALUE && value.bytes.iter().all(|b| *b == i)),
            "big/{i}"
        );
    }
}
