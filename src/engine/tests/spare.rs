//! Files made ahead for the next segments: what a rotation does, and what each kind of death leaves of them.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::disk::{CrashDisk, Disk, Fault, FaultOn, Keep, Unsynced};
use crate::engine::inspect::inspect;

const DIR: &str = "/data";

fn key(i: u64) -> Vec<u8> {
    format!("key {i:05}").into_bytes()
}

fn fill(shard: &Shard, keys: std::ops::Range<u64>) {
    keys.for_each(|i| _ = put(shard, 1, &key(i), &[i as u8; 1000]));
}

/// A shard with a third of its first segment used, and files ready for the next ones.
fn prepared(disk: &CrashDisk) -> (Arc<Engine>, Arc<Shard>) {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = open(&shared, Path::new(DIR), Durability::Os);
    let shard = engine.shards()[0].clone();
    shard.open_epoch(1, 1).expect("opened");
    fill(&shard, 0..20);
    engine.sync_now().expect("synced");
    assert!(files(disk) > 2, "the next files are there");
    (engine, shard)
}

fn files(disk: &CrashDisk) -> usize {
    let names = disk.list(&Path::new(DIR).join("shard-000")).expect("listed");
    names.iter().filter(|entry| entry.name.ends_with(".seg")).count()
}

/// Opens what is left, as the machine's next boot if it died, and answers the shard if it is sound.
fn reopen(disk: CrashDisk, boot: u8) -> (Arc<Engine>, Arc<Shard>) {
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let options = EngineOptions { durability: Durability::Os, boot_id: Some([boot; 16]), ..options() };
    let engine = open_with(&disk, Path::new(DIR), options);
    let shard = engine.shards()[0].clone();
    (engine, shard)
}

#[test]
fn a_rotation_into_a_file_made_ahead_syncs_and_names_nothing_and_a_dead_process_loses_nothing() {
    let disk = CrashDisk::new();
    let (_engine, shard) = prepared(&disk);
    for on in [FaultOn::Sync, FaultOn::Name] {
        let fault = Fault { on, path_contains: String::new(), skip: 0, times: u64::MAX, errno: libc::EIO };
        disk.inject(fault);
    }
    fill(&shard, 20..150);
    assert!(shard.log_segments().len() >= 3, "it has rotated twice");
    let (engine, after) = reopen(disk.kill(), 1);
    assert_eq!(after.state(), ShardState::Ready);
    assert_eq!(after.tail(), shard.tail());
    commit_all(&engine);
    assert!((0..150).all(|i| get(&after, &key(i)) == Some(vec![i as u8; 1000])));
    after.open_epoch(2, 2).expect("opened");
    put(&after, 2, b"it", b"goes on");
    commit_all(&engine);
    assert!(after.verify().is_sound());
}

#[test]
fn files_that_no_segment_began_in_are_gone_after_the_next_open_and_after_a_clean_end() {
    let disk = CrashDisk::new();
    let (engine, _) = prepared(&disk);
    let killed = disk.kill();
    let left: Arc<dyn Disk> = Arc::new(killed.clone());
    let report = inspect(&left, Path::new("/")).expect("readable");
    assert!(report.sound, "{report:?}");
    let (_again, shard) = reopen(killed.clone(), 1);
    assert_eq!((files(&killed), shard.state()), (1, ShardState::Ready));
    engine.close().expect("closed");
    assert_eq!(files(&disk), 1);
}

/// The machine dies when some puts have gone into the second segment. Without a sync of them its first page is lost, though
/// all others are kept; with one, its header rots.
fn without_its_header(synced: bool) -> (Arc<Engine>, Arc<Shard>, u64) {
    let disk = CrashDisk::new();
    let (engine, shard) = prepared(&disk);
    let first = shard.log_segments()[0].clone();
    let mut next = 20;
    while shard.log_segments().len() == 1 {
        fill(&shard, next..next + 1);
        next += 1;
    }
    let sealed = first.end().expect("ended").last.last.gsn;
    if synced {
        engine.sync_now().expect("synced");
    }
    // A mark is in here, at the head of the next batch.
    fill(&shard, next..next + 10);
    let second = shard.log_segments()[1].path().to_owned();
    let after = disk.crash(&mut |what| match what {
        Unsynced::Page { path, page: 0, .. } if !synced && *path == second => Keep::Drop,
        _ => Keep::Keep,
    });
    if synced {
        after.rot(&second, 0, &[0; 64]).expect("rotten");
    }
    let (engine, shard) = reopen(after, 2);
    (engine, shard, sealed)
}

#[test]
fn a_segment_that_lost_its_header_with_the_machine_is_a_torn_tail() {
    let (_engine, shard, sealed) = without_its_header(false);
    assert_eq!(shard.state(), ShardState::Amnesic, "nothing was synced of it, and the machine died");
    assert_eq!(shard.tail_gsn(), sealed);
}

#[test]
fn a_segment_that_lost_its_header_after_a_sync_is_corruption() {
    let (_engine, shard, sealed) = without_its_header(true);
    assert!(matches!(shard.state(), ShardState::Quarantined { .. }), "{} of {sealed}", shard.state());
}
