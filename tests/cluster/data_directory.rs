//! A member's directory that is not its own, or not of this version: refused, and kept as it is.

use std::path::Path;

use armdb::api::{MemberRole, MemberState};
use rustix::process::Signal;

use crate::support::{Cluster, Manifest, Writers, process};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_of_another_cluster_neither_votes_nor_changes() {
    let mut other = Cluster::start(Manifest::members(1)).await;
    other.client().await.put("theirs", "1").await.expect("a write");
    let other_id = other.try_status().await.and_then(|status| status.cluster_id).expect("an id");
    assert!(other.end(Signal::TERM).await.success());
    let theirs = other.dir().join("kv-0-0/data");

    let mut cluster = Cluster::start(Manifest::members(3)).await;
    let writers = Writers::start(&cluster, 2).await;
    writers.acknowledge(100).await;
    let books = writers.finish().await;
    assert!(cluster.end(Signal::TERM).await.success());
    let place = cluster.dir().join("kv-0-2/data");
    let own = cluster.scratch().join("own");
    std::fs::rename(&place, &own).expect("moved away");
    process::copy_directory(&theirs, &place);

    cluster.run();
    let stranger =
        cluster.member("kv-0-2", "is known as a stranger", |member| member.state == MemberState::Quarantined).await;
    assert!(!matches!(stranger.role, MemberRole::Leader | MemberRole::Follower), "{stranger:?}");
    let writers = Writers::start(&cluster, 2).await;
    writers.acknowledge(100).await;
    let mut books = {
        let mut all = books;
        all.merge(writers.finish().await);
        all
    };
    let text = cluster.until("it is told", |status| {
        let told = status.conditions.iter().find(|c| c.message.contains("kv-0-2"))?;
        Some(told.message.clone())
    });
    let text = text.await;
    assert!(text.contains("kv-0-2"), "{text}");

    // Its own data back: it catches up; the stranger's data still serves its own cluster.
    assert!(cluster.end(Signal::TERM).await.success());
    std::fs::remove_dir_all(&theirs).expect("removed");
    std::fs::rename(&place, &theirs).expect("back home");
    std::fs::rename(&own, &place).expect("back home");
    cluster.run();
    cluster.healthy().await;
    let writers = Writers::start(&cluster, 2).await;
    writers.acknowledge(50).await;
    books.merge(writers.finish().await);
    books.compare_everywhere(&cluster).await;
    other.run();
    other.healthy().await;
    assert!(other.client().await.get("theirs").await.expect("a read").is_some());
    assert_eq!(other.try_status().await.and_then(|status| status.cluster_id), Some(other_id));
}

/// `armdb node` over a directory, with a configuration.
async fn node(data: &Path, secret: &Path, config: &str) -> (Option<i32>, String) {
    let file = secret.with_extension("yaml");
    std::fs::write(&file, config).expect("written");
    let mut node = process::armdb(["node", "--cluster", "kv", "--name", "kv-0-0"]);
    node.args(["--client", "127.0.0.1:0", "--peer", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"]).arg(data);
    node.arg("--secret-file").arg(secret).arg("--config").arg(&file);
    let output = process::output(node).await;
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_refuses_data_of_another_cluster_or_a_newer_format_or_without_meaning() {
    let mut cluster = Cluster::start(Manifest::members(1)).await;
    cluster.client().await.put("a", "1").await.expect("a write");
    let id = cluster.try_status().await.and_then(|status| status.cluster_id).expect("an id");
    assert!(cluster.end(Signal::TERM).await.success());
    let (data, secret) = (cluster.dir().join("kv-0-0/data"), cluster.dir().join("secret"));

    let (code, said) = node(&data, &secret, "clusterId: 0123456789abcdef0123456789abcdef\n").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&id) && said.contains("0123456789abcdef0123456789abcdef"), "{said}");

    let (code, said) = node(&data, &secret, "durability: Disk\nfrobnicate: 1\n").await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("frobnicate") && said.contains("line 2"), "{said}");

    let meta = data.join("node.meta");
    let good = std::fs::read(&meta).expect("read");
    std::fs::write(&meta, newer_format(&good)).expect("written");
    let (code, said) = node(&data, &secret, "").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("node.meta") && said.contains("99") && said.contains("newer"), "{said}");

    std::fs::write(&meta, b"nothing of ours").expect("written");
    let (code, said) = node(&data, &secret, "").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("node.meta"), "{said}");

    std::fs::write(&meta, good).expect("written");
    cluster.run();
    cluster.healthy().await;
    assert!(cluster.client().await.get("a").await.expect("a read").is_some());
}

/// `node.meta` as a version with format 99 writes it: both slots, with sound checksums (docs/formats.md).
fn newer_format(good: &[u8]) -> Vec<u8> {
    const SLOT: usize = 4096;
    const HEAD: usize = 20;
    let mut bytes = good.to_vec();
    for slot in bytes.chunks_exact_mut(SLOT) {
        let len = u32::from_le_bytes(slot[16..HEAD].try_into().expect("four bytes")) as usize;
        if len == 0 {
            continue;
        }
        for level in [0, 4, 8] {
            slot[HEAD + 4 + level..][..4].copy_from_slice(&99_u32.to_le_bytes());
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&slot[HEAD + 4..][..len]);
        crc.update(&slot[..HEAD]);
        slot[HEAD..HEAD + 4].copy_from_slice(&crc.finalize().to_le_bytes());
    }
    bytes
}
