//! A full disk refuses puts by name and nothing else; a failing one ends the engine's life.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::disk::{CrashDisk, Disk, Fault, FaultOn, Keep};
use crate::engine::reserve::RESERVE;

fn dir() -> &'static Path {
    Path::new("/data")
}

fn used(disk: &CrashDisk) -> u64 {
    let space = disk.space(dir()).expect("measured");
    space.total_bytes - space.available_bytes
}

fn put_result(shard: &Shard, key: &str, len: usize) -> Result<Appended, AppendError> {
    shard.append(1, &WriteBatch::new().put(key.to_owned(), vec![1; len]))
}

#[test]
fn near_the_end_of_the_disk_puts_are_refused_by_name_and_reads_and_deletes_go_on() {
    for durability in [Durability::Disk, Durability::Os] {
        let disk = CrashDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let engine = open_with(&shared, dir(), EngineOptions { durability, ..options() });
        let shard = &engine.shards()[0];
        shard.open_epoch(1, 1).expect("opened");
        disk.set_capacity(Some(used(&disk) + 6 * (64 << 10)));
        let mut puts = 0;
        let refused = loop {
            match put_result(shard, &format!("key{puts}"), 3000) {
                Ok(_) => puts += 1,
                Err(error) => break error,
            }
            engine.sync_all().expect("there is room for what was taken");
            engine.space().expect("measured");
            assert!(puts < 1000, "the disk is not endless");
        };
        assert_eq!(refused, AppendError::DiskFull);
        assert!(engine.space().expect("measured").puts_refused && puts > 20);
        commit_all(&engine);
        assert_eq!(get(shard, b"key0").map(|value| value.len()), Some(3000), "reads go on");
        for i in 0..300 {
            append(shard, 1, &WriteBatch::new().delete(format!("key{}", i % puts)));
            commit_all(&engine);
        }
        assert_eq!(get(shard, b"key0"), None, "so do deletes, from the reserve");
        assert_eq!(put_result(shard, "more", 10), Err(AppendError::DiskFull));
        // Room comes back: so do puts, unasked.
        disk.set_capacity(None);
        engine.space().expect("measured");
        put_result(shard, "more", 10).expect("there is room again");
        commit_all(&engine);
        assert_eq!(get(shard, b"more").map(|value| value.len()), Some(10));
        assert_eq!(engine.failure(), None);
    }
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_keeps_what_it_took_and_loses_nothing() {
    for durability in [Durability::Disk, Durability::Os] {
        let disk = CrashDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let options = EngineOptions { durability, ..options() };
        let engine = open_with(&shared, dir(), options.clone());
        let shard = &engine.shards()[0];
        shard.open_epoch(1, 1).expect("opened");
        put_result(shard, "first", 100).expect("room");
        commit_all(&engine);
        // Nobody looks at the room left: the end is met while preallocating.
        disk.inject(Fault {
            on: FaultOn::Write,
            path_contains: ".seg".into(),
            skip: 2,
            times: u64::MAX,
            errno: libc::ENOSPC,
        });
        let mut taken = Vec::new();
        for i in 0..100 {
            let key = format!("key{i}");
            if put_result(shard, &key, 2000).is_ok() {
                taken.push(key);
            }
            let synced = engine.sync_all();
            assert!(synced.is_ok() || matches!(synced, Err(EngineError::DiskFull(_))), "{synced:?}");
            shard.advance_commit(shard.synced());
        }
        assert!(taken.len() < 100, "it was full");
        assert_eq!(put_result(shard, "x", 10), Err(AppendError::DiskFull));
        assert_eq!(get(shard, b"first").map(|value| value.len()), Some(100));
        assert_eq!(engine.failure(), None, "a full disk is not fatal");
        disk.heal();
        engine.space().expect("measured");
        engine.sync_all().expect("what had waited is written");
        put_result(shard, "last", 10).expect("room");
        commit_all(&engine);
        for key in taken.iter().map(String::as_str).chain(["last"]) {
            assert!(get(shard, key.as_bytes()).is_some(), "{key} was taken, so it is there");
        }
        assert!(shard.verify().is_sound(), "{:?}", shard.verify());
        drop(engine);
        let engine = open_with(&shared, dir(), options);
        let shard = &engine.shards()[0];
        shard.advance_commit(shard.tail().last.gsn);
        assert!(taken.iter().all(|key| get(shard, key.as_bytes()).is_some()));
    }
}

#[test]
fn what_a_follower_took_of_a_chunk_before_its_disk_was_full_counts() {
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let leader = open(&shared, Path::new("/leader"), Durability::Os);
    let follower = open(&shared, Path::new("/follower"), Durability::Os);
    let (l, f) = (&leader.shards()[0], &follower.shards()[0]);
    l.open_epoch(1, 1).expect("opened");
    for i in 0..60 {
        put_result(l, &format!("key{i}"), 3000).expect("room");
    }
    let ship = |max: usize| {
        let TailRead::Chunk(chunk) = l.tail_read(f.tail().last.gsn, max) else { panic!("it is in memory") };
        f.append_chunk(&chunk)
    };
    let first = ship(1000).expect("room").last.gsn;
    let on = FaultOn::Write;
    disk.inject(Fault { on, path_contains: "/follower".into(), skip: 0, times: u64::MAX, errno: libc::ENOSPC });
    let refused = ship(150_000);
    assert!(matches!(refused, Err(ChunkError::DiskFull)), "{refused:?}");
    let taken = f.tail().last.gsn;
    assert!(taken > first && taken < l.tail_gsn(), "{taken} after {first}");
    assert_eq!((f.tail_gsn(), f.durable_gsn()), (taken, taken));
    disk.heal();
    follower.space().expect("measured");
    while f.tail_gsn() < l.tail_gsn() {
        ship(16 << 10).expect("there is room");
    }
    assert_eq!(f.tail(), l.tail());
}

#[test]
fn while_puts_are_refused_deletes_free_room_at_once_though_log_is_kept_for_laggards() {
    for durability in [Durability::Disk, Durability::Os] {
        let disk = CrashDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        // Ten minutes and 256 MiB of log are kept, as by default: more than the disk has.
        let engine = open_with(&shared, dir(), EngineOptions { durability, ..options() });
        let shard = &engine.shards()[0];
        shard.open_epoch(1, 1).expect("opened");
        let laggard = shard.keep_log(1);
        disk.set_capacity(Some(used(&disk) + 12 * (64 << 10)));
        let mut puts = 0;
        while put_result(shard, &format!("key{puts}"), 3000).is_ok() {
            puts += 1;
            commit_all(&engine);
            engine.space().expect("measured");
        }
        let full = used(&disk);
        compact_all(&engine);
        assert!(engine.puts_refused(), "nothing was deleted: there is nothing to free");
        // One in eight: less than compaction asks for where there is room.
        for i in (0..puts).step_by(8) {
            append(shard, 1, &WriteBatch::new().delete(format!("key{i}")));
        }
        commit_all(&engine);
        compact_all(&engine);
        assert!(used(&disk) < full, "{} bytes of {full}", used(&disk));
        for i in 0..puts / 2 {
            append(shard, 1, &WriteBatch::new().delete(format!("key{i}")));
        }
        commit_all(&engine);
        compact_all(&engine);
        engine.space().expect("measured");
        assert!(!engine.puts_refused(), "there is room again: {} of {full} bytes are in use", used(&disk));
        put_result(shard, "more", 3000).expect("puts are taken");
        commit_all(&engine);
        assert_eq!(get(shard, b"key0"), None);
        let last = format!("key{}", (puts - 1) / 8 * 8 - 1);
        assert_eq!(get(shard, last.as_bytes()).map(|value| value.len()), Some(3000));
        assert!(shard.verify().is_sound(), "{:?}", shard.verify());
        drop(laggard);
    }
}

#[test]
fn a_barrier_and_a_manifest_are_written_on_a_disk_that_is_full_to_the_last_byte() {
    for durability in [Durability::Disk, Durability::Os] {
        let disk = CrashDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let options = EngineOptions { durability, ..options() };
        let engine = open_with(&shared, dir(), options.clone());
        let shard = &engine.shards()[0];
        shard.open_epoch(1, 1).expect("opened");
        put_result(shard, "first", 100).expect("room");
        commit_all(&engine);
        engine.space().expect("measured");
        let reserve = dir().join(RESERVE);
        assert!(disk.exists(&reserve).expect("looked for"), "it is kept while there is room");
        // Somebody else takes all that is left.
        disk.set_capacity(Some(used(&disk)));
        let mut taken = Vec::new();
        let refused = loop {
            let key = format!("key{}", taken.len());
            match shard.append(1, &WriteBatch::new().delete(key.clone())) {
                Ok(_) => taken.push(key),
                Err(error) => break error,
            }
            engine.sync_now().expect("not fatal");
            assert!(taken.len() < 10_000, "the disk is not endless");
        };
        assert_eq!(refused, AppendError::DiskFull, "without any room deletes are refused too, by name");
        assert!(disk.exists(&reserve).expect("looked for"), "they do not take the reserve");
        shard.open_epoch(2, 1).expect("a leader can open its epoch");
        engine.sync_now().expect("with what was queued before it");
        assert_eq!(shard.synced(), shard.tail().last.gsn, "its barrier is durable");
        shard.advance_commit(shard.tail().last.gsn);
        assert!(!disk.exists(&reserve).expect("looked for"), "that is what the reserve is for");
        assert_eq!(engine.failure(), None);
        // The next process cannot make one either, and opens all the same.
        drop(engine);
        let engine = open_with(&shared, dir(), options);
        let shard = &engine.shards()[0];
        assert_eq!(shard.state(), ShardState::Ready);
        shard.advance_commit(shard.tail().last.gsn);
        assert!(get(shard, b"first").is_some());
        disk.set_capacity(None);
        engine.space().expect("measured");
        assert!(disk.exists(&reserve).expect("looked for"), "with room it is made again");
        shard.open_epoch(3, 1).expect("opened");
        shard.append(3, &WriteBatch::new().put("more", "1")).expect("puts are taken again");
        commit_all(&engine);
    }
}

#[test]
fn a_log_is_truncated_on_a_disk_that_is_full_to_the_last_byte() {
    for durability in [Durability::Disk, Durability::Os] {
        let disk = CrashDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let engine = open_with(&shared, dir(), EngineOptions { durability, ..options() });
        let shard = &engine.shards()[0];
        shard.open_epoch(1, 1).expect("opened");
        let kept = put(shard, 1, b"kept", b"1");
        commit_all(&engine);
        put(shard, 1, b"goes", b"1");
        engine.sync_all().expect("synced");
        engine.space().expect("measured");
        disk.set_capacity(Some(used(&disk)));
        let tail = shard.truncate_to(kept).expect("a follower can follow");
        assert_eq!(tail.last.gsn, kept);
        assert_eq!((get(shard, b"goes"), engine.failure()), (None, None));
    }
}

#[test]
fn an_error_of_the_disk_is_fatal_and_nothing_is_acknowledged_after_it() {
    let faults = [
        (FaultOn::Sync, ".seg", libc::EIO, 0),
        (FaultOn::Write, ".seg", libc::EIO, 0),
        (FaultOn::Sync, ".seg", libc::EIO, 1),
        (FaultOn::Write, "MANIFEST", libc::EIO, 0),
        (FaultOn::Sync, "MANIFEST", libc::EIO, 0),
        (FaultOn::Sync, "shard.meta", libc::EIO, 0),
        (FaultOn::Write, "shard.meta", libc::ENOSPC, 0),
        (FaultOn::Sync, "shard-000", libc::EIO, 3),
    ];
    for (on, path, errno, skip) in faults {
        let told = (on, path, errno, skip);
        let disk = CrashDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let engine = open_with(&shared, dir(), options());
        let shard = &engine.shards()[0];
        shard.open_epoch(1, 1).expect("opened");
        put_result(shard, "acknowledged", 100).expect("room");
        commit_all(&engine);
        disk.inject(Fault { on, path_contains: path.into(), skip, times: 1, errno });
        let mut acked = shard.synced();
        let mut fatal = None;
        for i in 0..60 {
            if put_result(shard, &format!("key{i}"), 3000).is_err() {
                break;
            }
            match engine.sync_all() {
                Ok(()) => acked = shard.synced(),
                Err(error) => {
                    fatal = Some(error);
                    break;
                }
            }
        }
        let fatal = fatal.unwrap_or_else(|| panic!("{told:?}: it was met"));
        assert!(!matches!(fatal, EngineError::DiskFull(_)), "{told:?}: {fatal}");
        assert!(engine.failure().is_some(), "{told:?}");
        assert_eq!(put_result(shard, "later", 1), Err(AppendError::Failed), "{told:?}");
        assert!(matches!(engine.sync_all(), Err(EngineError::Failed(_))), "{told:?}: no second try");
        assert!(engine.wait_synced(shard, acked + 1).is_err(), "{told:?}");
        assert_eq!(shard.synced(), acked, "{told:?}: nothing is acknowledged any more");
        assert!(engine.compact_step().is_err() && shard.truncate_to(acked).is_err(), "{told:?}");
        drop(engine);
        disk.heal();
        // The failed pages are seen in the cache and are not on the disk: the next process believes the disk,
        // and so would the machine after a power loss.
        for next in [disk.kill(), disk.crash(&mut |_| Keep::Drop), disk.crash(&mut |_| Keep::Keep)] {
            let shared: Arc<dyn Disk> = Arc::new(next);
            let engine = open_with(&shared, dir(), options());
            let shard = &engine.shards()[0];
            assert_eq!(shard.state(), ShardState::Ready, "{told:?}");
            assert!(shard.tail().last.gsn >= acked, "{told:?}: what was acknowledged is there");
            shard.advance_commit(shard.tail().last.gsn);
            assert!(get(shard, b"acknowledged").is_some(), "{told:?}");
            shard.open_epoch(9, 1).expect("it goes on");
            commit_all(&engine);
        }
    }
}

#[test]
fn after_a_failed_sync_the_next_process_believes_the_disk_and_not_the_cache() {
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = open_with(&shared, dir(), options());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    commit_all(&engine);
    put_result(shard, "lost", 100).expect("room");
    disk.inject(Fault { on: FaultOn::Sync, path_contains: ".seg".into(), skip: 0, times: 1, errno: libc::EIO });
    assert!(engine.sync_all().is_err());
    drop(engine);
    let tail = |disk: CrashDisk| {
        let shared: Arc<dyn Disk> = Arc::new(disk);
        let engine = open_with(&shared, dir(), options());
        engine.shards()[0].tail_gsn.load(Ordering::Acquire)
    };
    assert_eq!(tail(disk.kill()), 1, "it shows in the cache, but the disk does not hold it");
    assert_eq!(tail(disk.crash(&mut |_| Keep::Keep)), 1);
}
