//! A disk without room: puts are refused by name, everything else goes on, and room heals it.

use armdb::api::Phase;
use armdb::client::{Client, Refusal, WriteError};
use bytes::Bytes;
use rustix::process::Signal;

use crate::support::{Cluster, Ledger, Manifest, Writers, eventually, process, skip, small_disk};

const MIB: usize = 1 << 20;
/// Twice a segment is kept for deletes, so a smaller disk would take nothing.
const SMALL: &str = "320m";
const LARGE: &str = "900m";
/// For all members together.
const SHARED: &str = "400m";
/// More than fits.
const PUTS: usize = 400;

fn value(number: usize) -> Bytes {
    Bytes::from(vec![b'a' + (number % 26) as u8; MIB])
}

/// Waits until the status says of `member` that its disk is full; the condition's message.
async fn told_full(cluster: &Cluster, member: &str) -> String {
    cluster
        .until(&format!("the disk of {member} is told to be full"), |status| {
            let storage = status.conditions.iter().find(|condition| condition.type_ == "StorageHealthy")?;
            let told = storage.status == "False" && storage.reason == "DiskFull" && storage.message.contains(member);
            (told && status.phase == Some(Phase::Degraded)).then(|| storage.message.clone())
        })
        .await
}

/// Puts until one is refused because the disk is full; how many were done.
async fn fill(client: &Client, books: &mut Ledger) -> usize {
    for number in 0..PUTS {
        let key = Bytes::from(format!("fill/{number:04}"));
        let outcome = client.put(key.clone(), value(number)).await;
        let full = matches!(&outcome, Err(WriteError::NotDone(Refusal::DiskFull(_))));
        assert!(full || outcome.is_ok(), "refused in other words: {outcome:?}");
        books.enter(key, Some(value(number)), &outcome);
        if full {
            return number;
        }
    }
    panic!("{PUTS} MiB fit on a disk of {SMALL}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_puts_by_name_serves_reads_and_deletes_and_heals_with_room() {
    if let Some(why) = small_disk::impossible() {
        return skip("a full disk refuses puts by name", &why);
    }
    let mut cluster = Cluster::prepare(Manifest::members(1));
    small_disk::run(&mut cluster, "kv-0-0", SMALL);
    cluster.healthy().await;
    let client = cluster.client().await;
    let mut books = Ledger::default();
    let done = fill(&client, &mut books).await;
    assert!(done > 20, "only {done} MiB fit");

    let message = told_full(&cluster, "kv-0-0").await;
    assert!(message.contains("of 320Mi are available") && message.contains("Delete keys"), "{message}");
    let status = String::from_utf8_lossy(&cluster.ask(["status"]).await.stdout).into_owned();
    assert!(status.contains("Degraded") && status.contains(&message), "{status}");

    let put = cluster.ask(["put", "a", "1"]).await;
    let said = String::from_utf8_lossy(&put.stderr).into_owned();
    assert!(put.status.code() == Some(1) && said.contains("disk") && said.contains("full"), "{}", process::told(&put));
    for number in 0..5 {
        let key = Bytes::from(format!("fill/{number:04}"));
        assert_eq!(client.get(key.clone()).await.expect("a read").expect("a value").bytes, value(number));
        let deleted = client.delete(key.clone()).await;
        deleted.as_ref().expect("deletes go on");
        books.enter(key, None, &deleted);
    }

    // Killed on a full disk it comes back on a full disk.
    let pid = cluster.leader().await.pid.expect("it runs");
    cluster.signal(pid, Signal::KILL);
    cluster
        .until("it serves again", |status| {
            crate::support::cluster::leader_of(status).filter(|leader| leader.pid != Some(pid)).map(drop)
        })
        .await;
    books.compare(&client, &Default::default(), "the full member").await;
    let outcome = client.put("b", value(1)).await;
    assert!(matches!(outcome, Err(WriteError::NotDone(Refusal::DiskFull(_)))), "{outcome:?}");

    // Every other value is deleted: no log is kept for ten minutes now, so their room comes back at once.
    for number in (5..done).step_by(2) {
        let key = Bytes::from(format!("fill/{number:04}"));
        let deleted = client.delete(key.clone()).await;
        deleted.as_ref().expect("deletes go on");
        books.enter(key, None, &deleted);
    }
    eventually("puts are taken again", async || client.put("b", value(1)).await.ok()).await;
    cluster.until("it is told", |status| (status.phase == Some(Phase::Healthy)).then_some(())).await;
    books.compare(&client, &Default::default(), "the member with room").await;
}

/// Takes all the room that is left where the cluster is.
fn fill_up(filler: &std::path::Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(filler).expect("created");
    let mut piece = vec![1; 1 << 20];
    while !piece.is_empty() {
        if file.write_all(&piece).is_err() {
            piece.truncate(piece.len() / 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_though_all_disks_and_the_register_s_are_full_to_the_last_byte() {
    if let Some(why) = small_disk::impossible() {
        return skip("a failover on a disk that is full to the last byte", &why);
    }
    let mut cluster = Cluster::prepare(Manifest::members(3));
    small_disk::run_whole(&mut cluster, SHARED);
    cluster.healthy().await;
    let client = cluster.client().await;
    let mut books = Ledger::default();
    for number in 0..8 {
        let key = Bytes::from(format!("before/{number}"));
        let outcome = client.put(key.clone(), value(number)).await;
        books.enter(key, Some(value(number)), &outcome);
    }
    let names = cluster.names();
    let kept = async || names.iter().all(|name| cluster.seen().join(name).join("data/reserve").exists()).then_some(());
    eventually("every member has its reserve", kept).await;
    let filler = cluster.seen().join("filler");
    fill_up(&filler);
    told_full(&cluster, "kv-0-0").await;
    let outcome = client.put("a", value(0)).await;
    assert!(matches!(outcome, Err(WriteError::NotDone(Refusal::DiskFull(_)))), "{outcome:?}");

    for _ in 0..2 {
        let old = cluster.healthy().await;
        cluster.signal(old.pid.expect("it runs"), Signal::KILL);
        cluster
            .until("another process leads", |status| {
                crate::support::cluster::leader_of(status).filter(|leader| leader.pid != old.pid).map(drop)
            })
            .await;
        books.compare(&client, &Default::default(), "the next leader").await;
    }
    std::fs::remove_file(&filler).expect("removed");
    cluster.healthy().await;
    eventually("puts are taken again", async || client.put("a", value(0)).await.ok()).await;
    books.enter(Bytes::from("a"), Some(value(0)), &client.put("a", value(0)).await);
    books.compare_everywhere(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_full_hands_over_to_a_member_with_room() {
    if let Some(why) = small_disk::impossible() {
        return skip("a leader whose disk is full hands over", &why);
    }
    let mut cluster = Cluster::prepare(Manifest::members(3));
    small_disk::run(&mut cluster, "kv-0-1", SMALL);
    cluster.healthy().await;
    if cluster.leader().await.name != "kv-0-1" {
        let moved = cluster.ask(["switchover", "kv-0-1"]).await;
        assert!(moved.status.success(), "{}", process::told(&moved));
    }
    let client = cluster.client().await;
    let mut books = Ledger::default();
    for number in 0..PUTS {
        let key = Bytes::from(format!("fill/{number:04}"));
        let outcome = client.put(key.clone(), value(number)).await;
        let full = matches!(&outcome, Err(WriteError::NotDone(Refusal::DiskFull(_))));
        assert!(full || outcome.is_ok(), "refused in other words: {outcome:?}");
        books.enter(key, Some(value(number)), &outcome);
        if cluster.leader().await.name != "kv-0-1" {
            break;
        }
    }
    let heir = cluster.leader_after("kv-0-1").await.name;
    let writers = Writers::start(&cluster, 2).await;
    writers.acknowledge(200).await;
    small_disk::resize(&cluster, "kv-0-1", LARGE);
    cluster.healthy().await;
    writers.acknowledge(50).await;
    let written = writers.finish().await;
    assert!(written.refused.is_empty(), "{heir} has room: {:?}", written.refused.first());
    books.merge(written);
    books.compare_everywhere(&cluster).await;
}
