//! What is committed is read, what is acknowledged is there after a crash, and a follower's log equals its
//! leader's.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::disk::{CrashDisk, Disk, Keep, RealDisk};

#[test]
fn what_is_committed_is_read_and_survives_a_reopen() {
    for durability in [Durability::Disk, Durability::Os] {
        let temp = tempfile::tempdir().expect("a directory");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
        let dir = temp.path().join("data");
        let engine = open(&disk, &dir, durability);
        let shard = &engine.shards()[0];
        shard.open_epoch(1, 5).expect("opened");
        let gsn = put(shard, 1, b"a", b"1");
        assert_eq!(get(shard, b"a"), None, "not committed yet");
        engine.sync_all().expect("synced");
        shard.advance_commit(gsn);
        assert_eq!(get(shard, b"a"), Some(b"1".to_vec()));
        let failed = shard.append(1, &WriteBatch::new().put("a", "2").expect("a", Expect::Absent));
        assert!(matches!(failed, Ok(Appended::ConditionFailed { index: 0, .. })), "{failed:?}");
        engine.close().expect("closed");
        drop(engine);
        let engine = open(&disk, &dir, durability);
        let shard = &engine.shards()[0];
        shard.advance_commit(shard.tail().last.gsn);
        assert_eq!(get(shard, b"a"), Some(b"1".to_vec()));
        assert!(engine.meta().clean);
        assert!(shard.verify().is_sound(), "{:?}", shard.verify());
    }
}

#[test]
fn a_synced_entry_survives_every_crash_and_batches_are_whole() {
    for seed in 0..40u64 {
        let disk = CrashDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let engine = open(&shared, Path::new("/data"), Durability::Disk);
        let shard = &engine.shards()[0];
        shard.open_epoch(1, 1).expect("opened");
        let mut synced = 0;
        for i in 0..60u64 {
            let batch = WriteBatch::new().put(format!("x{i}"), vec![1; 900]).put(format!("y{i}"), vec![2; 900]);
            shard.append(1, &batch).expect("appended");
            if i % 7 == 6 && i < 50 {
                engine.sync_all().expect("synced");
                synced = i + 1;
            }
        }
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let crashed = disk.crash(&mut |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state & 1 == 0 { Keep::Keep } else { Keep::Drop }
        });
        let crashed: Arc<dyn Disk> = Arc::new(crashed);
        let engine = open(&crashed, Path::new("/data"), Durability::Disk);
        let shard = &engine.shards()[0];
        shard.advance_commit(shard.tail().last.gsn);
        for i in 0..60u64 {
            let (x, y) = (get(shard, format!("x{i}").as_bytes()), get(shard, format!("y{i}").as_bytes()));
            assert_eq!(x.is_some(), y.is_some(), "seed {seed}: batch {i} is whole");
            assert!(i >= synced || x.is_some(), "seed {seed}: {i} was synced");
        }
    }
}

#[test]
fn a_follower_takes_a_leaders_log_from_memory_and_from_files_and_truncates_what_differs() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let leader = open(&disk, Path::new("/leader"), Durability::Disk);
    let follower = open(&disk, Path::new("/follower"), Durability::Disk);
    let (l, f) = (&leader.shards()[0], &follower.shards()[0]);
    l.open_epoch(1, 1).expect("opened");
    for i in 0..200u64 {
        put(l, 1, format!("k{i}").as_bytes(), &[3; 1000]);
    }
    leader.sync_all().expect("synced");
    let mut reader = l.log_reader(0).expect("from the start");
    while f.tail().last.gsn < 100 {
        let chunk = reader.next_chunk(8 << 10).expect("read").expect("more");
        f.append_chunk(&chunk).expect("taken");
    }
    loop {
        match l.tail_read(f.tail().last.gsn, 8 << 10) {
            TailRead::Chunk(chunk) => {
                f.append_chunk(&chunk).expect("taken");
            }
            TailRead::AtEnd => break,
            TailRead::Overrun => panic!("the budget holds all of it"),
        }
    }
    assert_eq!(f.tail(), l.tail());
    assert_eq!(f.epoch_table(), l.epoch_table());
    follower.sync_all().expect("synced");
    f.advance_commit(50);
    assert!(matches!(f.truncate_to(49), Err(TruncateError::BelowCommit { .. })));
    let cut = f.truncate_to(120).expect("cut");
    assert_eq!(Some(cut.chain), l.chain_at(120).expect("read"));
    f.open_epoch(2, 1).expect("opened");
    put(f, 2, b"other", b"history");
    follower.sync_all().expect("synced");
    f.advance_commit(f.tail().last.gsn);
    assert_eq!(get(f, b"other"), Some(b"history".to_vec()));
    assert!(get(f, b"k100").is_some() && get(f, b"k150").is_none());
    drop(follower);
    let follower = open(&disk, Path::new("/follower"), Durability::Disk);
    let f = &follower.shards()[0];
    f.advance_commit(f.tail().last.gsn);
    assert_eq!(get(f, b"other"), Some(b"history".to_vec()));
    assert!(get(f, b"k150").is_none() && f.verify().is_sound());
}
