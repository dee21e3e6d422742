//! What is rewritten, what stays, and that nobody notices.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::disk::{CrashDisk, Disk, Fault, FaultOn, Keep, RealDisk};

fn dir() -> &'static Path {
    Path::new("/data")
}

fn crash_disk() -> (CrashDisk, Arc<dyn Disk>) {
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    (disk, shared)
}

fn files(disk: &Arc<dyn Disk>, suffix: &str) -> Vec<String> {
    let entries = disk.list(&dir().join("shard-000")).expect("listed");
    entries.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(suffix)).collect()
}

fn contents(shard: &Shard, now_ms: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let page = shard.scan(TreeId::DEFAULT, &ScanRange::all(), usize::MAX - 1, usize::MAX, now_ms).expect("scanned");
    page.entries.iter().map(|(key, value)| (key.to_vec(), value.bytes.to_vec())).collect()
}

fn put_expiring(shard: &Shard, key: &str, value: Vec<u8>, expires_ms: u64) {
    let op = WriteOp::Put {
        tree: TreeId::DEFAULT,
        key: key.to_owned().into(),
        value: value.into(),
        expires_ms: Some(expires_ms),
        value_type: 0,
    };
    append(shard, 1, &WriteBatch::new().op(op));
}

/// Puts that fill about a segment, under keys of their own.
fn fill_segment(shard: &Shard, name: &str) {
    for i in 0..15 {
        put(shard, 1, format!("fill-{name}-{i}").as_bytes(), &[7; 4000]);
    }
}

#[test]
fn what_was_replaced_is_compacted_away_and_everything_else_stays_also_after_a_reopen() {
    for durability in [Durability::Disk, Durability::Os] {
        let (_, disk) = crash_disk();
        let options = EngineOptions { durability, ..eager() };
        let engine = open_with(&disk, dir(), options.clone());
        let shard = &engine.shards()[0];
        shard.open_epoch(1, 1).expect("opened");
        let mut model = BTreeMap::new();
        for round in 0..6u8 {
            for i in 0..300u32 {
                let (key, value) = (format!("key{i}").into_bytes(), vec![round; 100 + (i % 700) as usize]);
                if round == 5 && i % 3 == 0 {
                    append(shard, 1, &WriteBatch::new().delete(key.clone()));
                    model.remove(&key);
                } else {
                    put(shard, 1, &key, &value);
                    model.insert(key, value);
                }
            }
            commit_all(&engine);
        }
        let before = files(&disk, ".seg").len();
        compact_all(&engine);
        let report = shard.housekeeping_report();
        assert!(report.compactions > 0 && report.bytes_out < report.bytes_in / 2, "{report:?}");
        let after = files(&disk, ".seg");
        assert!(after.len() * 2 < before, "{before} files became {after:?}");
        assert_eq!(files(&disk, ".hint").len(), after.len() - 1, "all but the newest have a hint");
        assert!(files(&disk, ".tmp").is_empty());
        assert_eq!(contents(shard, 0), model);
        assert!(shard.log_floor() > 1 && shard.verify().is_sound(), "{:?}", shard.verify());
        let keys: Vec<&[u8]> = model.keys().map(Vec::as_slice).collect();
        let values = shard.multi_get(TreeId::DEFAULT, &keys, 0).expect("read");
        assert!(values.iter().zip(model.values()).all(|(got, want)| got.as_ref().is_some_and(|v| v.bytes == *want)));
        engine.close().expect("closed");
        drop(engine);
        let engine = open_with(&disk, dir(), options);
        let shard = &engine.shards()[0];
        assert_eq!(shard.state(), ShardState::Ready);
        shard.advance_commit(shard.tail().last.gsn);
        assert_eq!(contents(shard, 0), model);
        assert_eq!(shard.keys(), model.len() as u64);
        assert!(shard.verify().is_sound(), "{:?}", shard.verify());
    }
}

#[test]
fn a_tombstone_stays_while_an_older_file_may_hold_its_key_and_goes_with_it() {
    let (_, disk) = crash_disk();
    // Only garbage counts: files heavy with tombstones pull in no others here.
    let mut options = eager();
    options.compaction.tombstone_ratio = 2.0;
    let engine = open_with(&disk, dir(), options.clone());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    // An old file: the victim among much that lives.
    put(shard, 1, b"victim", b"old");
    fill_segment(shard, "old");
    // A newer one: the delete among much that will be garbage.
    let deleted = append(shard, 1, &WriteBatch::new().delete("victim"));
    fill_segment(shard, "new");
    fill_segment(shard, "newest");
    fill_segment(shard, "new");
    fill_segment(shard, "last");
    commit_all(&engine);
    compact_all(&engine);
    let report = shard.housekeeping_report();
    assert!(report.compactions > 0 && report.tombstones_dropped == 0, "{report:?}");
    assert_eq!((get(shard, b"victim"), shard.tombstone_floor()), (None, 0));
    engine.close().expect("closed");
    drop(engine);
    let engine = open_with(&disk, dir(), options);
    let shard = &engine.shards()[0];
    shard.advance_commit(shard.tail().last.gsn);
    assert_eq!(get(shard, b"victim"), None, "the delete was not forgotten before the put");
    // Now the old file becomes garbage: then nothing is left to hide.
    shard.open_epoch(2, 1).expect("opened");
    for i in 0..15 {
        put(shard, 2, format!("fill-old-{i}").as_bytes(), &[8; 4000]);
    }
    for i in 0..15 {
        put(shard, 2, format!("fill-last-{i}").as_bytes(), &[8; 4000]);
    }
    put(shard, 2, b"end", &[1; 4000]);
    commit_all(&engine);
    compact_all(&engine);
    // The file with the delete is rewritten once more when half of it is garbage.
    for name in ["new", "newest"] {
        for i in 0..15 {
            put(shard, 2, format!("fill-{name}-{i}").as_bytes(), &[9; 4000]);
        }
    }
    put(shard, 2, b"end", &[2; 4000]);
    commit_all(&engine);
    compact_all(&engine);
    let report = shard.housekeeping_report();
    assert_eq!(report.tombstones_dropped, 1, "{report:?}");
    assert_eq!((get(shard, b"victim"), shard.tombstone_floor()), (None, deleted));
}

#[test]
fn a_file_heavy_with_tombstones_pulls_in_the_files_that_hold_them_back() {
    let (_, disk) = crash_disk();
    let engine = open_with(&disk, dir(), eager());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    for i in 0..600 {
        put(shard, 1, format!("short-lived-{i}").as_bytes(), &[1; 100]);
        if i % 3 == 0 {
            put(shard, 1, format!("long-lived-{i}").as_bytes(), &[2; 700]);
        }
    }
    for i in 0..600 {
        append(shard, 1, &WriteBatch::new().delete(format!("short-lived-{i}")));
    }
    for i in 0..40 {
        put(shard, 1, format!("tail-{i}").as_bytes(), &[3; 4000]);
    }
    commit_all(&engine);
    compact_all(&engine);
    let report = shard.housekeeping_report();
    assert_eq!(report.tombstones_dropped, 600, "{report:?}");
    assert!(shard.tombstone_floor() > 1400);
    assert_eq!(contents(shard, 0).len(), 240);
    drop(engine);
    let engine = open_with(&disk, dir(), eager());
    let shard = &engine.shards()[0];
    shard.advance_commit(shard.tail().last.gsn);
    assert_eq!(contents(shard, 0).len(), 240);
}

#[test]
fn an_expired_value_goes_by_committed_time_and_what_it_hid_does_not_come_back() {
    let (_, disk) = crash_disk();
    let engine = open_with(&disk, dir(), eager());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    for i in 0..40 {
        put(shard, 1, format!("session-{i}").as_bytes(), &[1; 1500]);
        put_expiring(shard, &format!("session-{i}"), vec![2; 1500], 1000 + i);
    }
    fill_segment(shard, "tail");
    commit_all(&engine);
    compact_all(&engine);
    assert_eq!(shard.housekeeping_report().expired_dropped, 0, "committed time has not come that far");
    assert_eq!(shard.keys(), 55);
    assert_eq!(contents(shard, 1019).len(), 35, "twenty sessions are over for whoever reads at that time");
    shard.note_committed_time(1019, 0);
    fill_segment(shard, "more");
    commit_all(&engine);
    compact_all(&engine);
    let report = shard.housekeeping_report();
    assert_eq!((report.expired_dropped, shard.keys()), (20, 50), "{report:?}");
    assert!(shard.tombstone_floor() > 0, "what expired may be missing, as a delete may");
    assert_eq!(get(shard, b"session-19"), None);
    assert_eq!(get(shard, b"session-20").map(|value| value[0]), Some(2));
    drop(engine);
    let engine = open_with(&disk, dir(), eager());
    let shard = &engine.shards()[0];
    shard.advance_commit(shard.tail().last.gsn);
    assert!(shard.committed_time_ms() >= 1019, "committed time does not go back");
    assert_eq!(get(shard, b"session-19"), None);
    assert_eq!(shard.keys(), 50);
}

#[test]
fn compaction_rests_only_on_what_is_durable() {
    // With `Os` everything written is applied at once. A record that such an entry replaced must not go before
    // the entry is on the disk, or a crash would bring back what was older still.
    let (disk, shared) = crash_disk();
    let options = EngineOptions { durability: Durability::Os, ..eager() };
    let engine = open_with(&shared, dir(), options.clone());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    put(shard, 1, b"key", b"first");
    fill_segment(shard, "a");
    put(shard, 1, b"key", b"second");
    for i in 0..3 {
        fill_segment(shard, "b");
        fill_segment(shard, &format!("c{i}"));
    }
    commit_all(&engine);
    put(shard, 1, b"key", b"third");
    shard.advance_commit(shard.tail().last.gsn);
    assert!(shard.synced_gsn.load(Ordering::Relaxed) < shard.applied());
    compact_all(&engine);
    assert!(shard.housekeeping_report().compactions > 0);
    let crashed: Arc<dyn Disk> = Arc::new(disk.crash(&mut |_| Keep::Drop));
    let engine = open_with(&crashed, dir(), EngineOptions { durability: Durability::Disk, ..options });
    let shard = &engine.shards()[0];
    shard.set_state(ShardState::Ready).expect("the caller says so");
    assert_eq!(get(shard, b"key"), Some(b"third".to_vec()), "its commit was recorded with the compaction");
}

#[test]
fn readers_writers_and_scans_go_on_while_files_are_rewritten() {
    let temp = tempfile::tempdir().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let options = EngineOptions {
        background: Background::Threads,
        compaction: CompactionOptions { rate_bytes_per_s: 1 << 40, ..CompactionOptions::default() },
        ..eager()
    };
    let engine = open_with(&disk, &temp.path().join("data"), options);
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    let keys = 200u64;
    let write = |round: u64| {
        for i in 0..keys {
            let mut value = round.to_le_bytes().to_vec();
            value.resize(300, i as u8);
            put(shard, 1, format!("key{i:03}").as_bytes(), &value);
        }
        let tail = shard.tail().last.gsn;
        engine.wait_synced(shard, tail).expect("synced");
        shard.advance_commit(tail);
    };
    write(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = |seed: u64| {
            let (mut random, mut newest) = (Random::new(seed), vec![0; keys as usize]);
            let mut see = |i: u64, value: &[u8]| {
                let round = u64::from_le_bytes(value[..8].try_into().expect("eight bytes"));
                assert!(value[8..].iter().all(|b| *b == i as u8), "key{i} has its own value");
                assert!(round >= newest[i as usize], "key{i} went back from {} to {round}", newest[i as usize]);
                newest[i as usize] = round;
            };
            while !done.load(Ordering::Acquire) {
                let i = random.below(keys);
                see(i, &get(shard, format!("key{i:03}").as_bytes()).expect("it always has a value"));
                if random.below(50) == 0 {
                    let all = contents(shard, 0);
                    assert_eq!(all.len() as u64, keys, "a scan gives every key once");
                    all.values().enumerate().for_each(|(i, value)| see(i as u64, value));
                }
            }
        };
        scope.spawn(move || reader(1));
        scope.spawn(move || reader(2));
        let mut round = 0;
        while shard.housekeeping_report().compactions < 20 {
            // No more than compaction can follow, with whatever share of the processors it has.
            if shard.log_segments().len() < 40 {
                round += 1;
                write(round);
            } else {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Release);
    });
    assert!(shard.verify().is_sound(), "{:?}", shard.verify());
    engine.close().expect("closed");
}

#[test]
fn a_file_is_removed_only_when_nobody_reads_it_any_more() {
    let (_, disk) = crash_disk();
    let engine = open_with(&disk, dir(), eager());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    for _ in 0..4 {
        fill_segment(shard, "a");
    }
    commit_all(&engine);
    let pin = shard.log_segments()[0].clone();
    let name = pin.path().file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    compact_all(&engine);
    assert!(shard.housekeeping_report().compactions > 0);
    assert!(files(&disk, ".seg").contains(&name), "it is still read");
    assert!(pin.peek(pin.end().expect("ended").len - 64).is_some());
    drop(pin);
    assert!(engine.compact_step().expect("works"), "the removal is something to do");
    assert!(!files(&disk, ".seg").contains(&name));
    // And if the process had ended first, the next open would have done it.
    assert!(!engine.compact_step().expect("works"));
}

#[test]
fn a_member_that_holds_its_floor_keeps_its_log_until_it_is_released() {
    let (_, disk) = crash_disk();
    let engine = open_with(&disk, dir(), eager());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    (0..4).for_each(|_| fill_segment(shard, "a"));
    commit_all(&engine);
    engine.hold_log_floor(Duration::from_secs(3600));
    compact_all(&engine);
    assert_eq!(shard.log_floor(), 1);
    engine.hold_log_floor(Duration::ZERO);
    compact_all(&engine);
    let passed = shard.log_floor();
    assert!(passed > 1, "the time has passed");
    engine.hold_log_floor(Duration::from_secs(3600));
    (0..4).for_each(|_| fill_segment(shard, "a"));
    commit_all(&engine);
    compact_all(&engine);
    assert_eq!(shard.log_floor(), passed);
    engine.release_log_floor();
    compact_all(&engine);
    assert!(shard.log_floor() > passed);
}

#[test]
fn a_keeper_holds_the_log_for_a_laggard_and_a_reader_that_was_overtaken_is_told() {
    let (_, disk) = crash_disk();
    let engine = open_with(&disk, dir(), eager());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    (0..6).for_each(|_| fill_segment(shard, "a"));
    commit_all(&engine);
    let keeper = shard.keep_log(20);
    compact_all(&engine);
    assert!((2..=20).contains(&shard.log_floor()), "{}", shard.log_floor());
    let mut reader = shard.log_reader(19).expect("kept");
    let mut overtaken = shard.log_reader(shard.log_floor()).expect("kept");
    keeper.advance(60);
    compact_all(&engine);
    assert!((21..=60).contains(&shard.log_floor()), "{}", shard.log_floor());
    let floor = shard.log_floor();
    drop(keeper);
    // A reader that stands in a segment reads it to its end, and is told then.
    let first = overtaken.next_chunk(1).expect_err("it had not begun");
    assert!(matches!(first, EngineError::BelowFloor(BelowFloor { log_floor }) if log_floor == floor), "{first}");
    assert!(matches!(reader.next_chunk(1), Err(EngineError::BelowFloor(_))));
    let below = |error: EngineError| matches!(error, EngineError::BelowFloor(below) if below.log_floor == floor);
    assert!(shard.log_reader(3).is_err_and(below));
    assert!(shard.watch_from(3).is_err_and(below));
    let mut reader = shard.log_reader(floor - 1).expect("from the floor on");
    let mut gsn = floor - 1;
    while let Some(chunk) = reader.next_chunk(10_000).expect("read") {
        assert_eq!(chunk.first_gsn, gsn + 1);
        gsn = chunk.last.last.gsn;
    }
    assert_eq!(gsn, shard.tail().last.gsn);
}

#[test]
fn an_error_costs_a_step_and_not_the_engine() {
    let faults = [
        (FaultOn::Write, ".tmp", libc::ENOSPC),
        (FaultOn::Write, ".tmp", libc::EIO),
        (FaultOn::Sync, "compaction", libc::EIO),
        (FaultOn::Name, "compaction", libc::ENOSPC),
        (FaultOn::Write, "MANIFEST", libc::ENOSPC),
    ];
    for (on, path, errno) in faults {
        let (crash, disk) = crash_disk();
        let engine = open_with(&disk, dir(), eager());
        let shard = &engine.shards()[0];
        shard.open_epoch(1, 1).expect("opened");
        (0..5).for_each(|_| fill_segment(shard, "a"));
        commit_all(&engine);
        let fault = Fault { on, path_contains: path.into(), skip: 0, times: u64::MAX, errno };
        crash.inject(fault);
        let mut failed = 0;
        for _ in 0..30 {
            failed += u64::from(engine.compact_step().is_err());
        }
        let told = (on, path, errno);
        assert!(failed > 0 || path == ".tmp", "{told:?}: it is told");
        assert_eq!(engine.failure(), None, "{told:?}");
        assert_eq!(shard.housekeeping_report().compactions, 0, "{told:?}");
        assert_eq!(contents(shard, 0).len(), 15, "{told:?}");
        put(shard, 1, b"goes", b"on");
        commit_all(&engine);
        crash.heal();
        compact_all(&engine);
        assert!(shard.housekeeping_report().compactions > 0, "{told:?}: tried again");
        assert!(files(&disk, ".tmp").is_empty(), "{told:?}");
        assert_eq!(contents(shard, 0).len(), 16, "{told:?}");
        drop(engine);
        let engine = open_with(&disk, dir(), eager());
        let shard = &engine.shards()[0];
        shard.advance_commit(shard.tail().last.gsn);
        assert_eq!((shard.state(), contents(shard, 0).len()), (ShardState::Ready, 16), "{told:?}");
    }
}

#[test]
fn rot_in_a_cold_file_stops_its_compaction_and_is_not_copied() {
    let (crash, disk) = crash_disk();
    let mut options = eager();
    options.compaction.min_garbage_ratio = 0.9;
    let engine = open_with(&disk, dir(), options);
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    put(shard, 1, b"key", &[5; 1000]);
    (0..3).for_each(|_| fill_segment(shard, "a"));
    commit_all(&engine);
    let first = shard.log_segments()[0].path().to_owned();
    while shard.housekeeping_report().floors_raised == 0 {
        engine.compact_step().expect("works");
    }
    crash.rot(&first, 300, b"rotten").expect("rotten");
    let told = engine.compact_step().expect_err("the rot is found");
    assert!(told.to_string().contains("0000000001.seg"), "{told}");
    assert_eq!(engine.failure(), None);
    assert!(matches!(shard.get(TreeId::DEFAULT, b"key", 0), Err(EngineError::Corrupt { .. })));
    while engine.compact_step().expect("the file is left alone, others are not") {}
    assert!(files(&disk, ".seg").contains(&"0000000001.seg".to_owned()));
    assert!(!shard.verify().is_sound());
}

#[test]
fn a_hint_is_used_if_it_is_right_and_rebuilt_if_it_is_wrong_or_gone() {
    let (crash, disk) = crash_disk();
    let engine = open_with(&disk, dir(), options());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 9).expect("opened");
    (0..4).for_each(|i| fill_segment(shard, &i.to_string()));
    commit_all(&engine);
    compact_all(&engine);
    let hints = files(&disk, ".hint");
    assert_eq!(hints.len(), shard.housekeeping_report().hints as usize);
    assert!(hints.len() >= 3);
    engine.close().expect("closed");
    drop(engine);
    let hint = dir().join("shard-000").join(&hints[0]);
    let segment = hint.with_extension("seg");
    // Whoever reads the segment would see this; whoever believes the hint does not.
    let reopen = || {
        let engine = open_with(&disk, dir(), options());
        let shard = engine.shards()[0].clone();
        shard.advance_commit(shard.tail().last.gsn);
        (engine, shard)
    };
    crash.rot(&segment, 5000, b"rot").expect("rotten");
    let (engine, shard) = reopen();
    assert_eq!(shard.state(), ShardState::Ready, "the hint was believed");
    assert_eq!(shard.keys(), 60);
    drop(engine);
    crash.rot(&hint, 100, b"wrong").expect("rotten");
    let (engine, shard) = reopen();
    assert!(matches!(shard.state(), ShardState::Quarantined { .. }), "the segment was read instead");
    drop((engine, shard));
    crash.rot(&segment, 5000, &[7; 3]).expect("mended");
    let (engine, shard) = reopen();
    assert_eq!((shard.state(), shard.keys()), (ShardState::Ready, 60));
    while engine.compact_step().expect("works") {}
    drop((engine, shard));
    crash.rot(&segment, 5000, b"rot").expect("rotten");
    let (_engine, shard) = reopen();
    assert_eq!(shard.state(), ShardState::Ready, "the hint was rebuilt");
}

#[test]
fn the_trees_of_compacted_files_are_known() {
    let (_, disk) = crash_disk();
    let engine = open_with(&disk, dir(), eager());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    let create = |name: &str, kind| WriteOp::CreateTree { name: name.into(), kind };
    append(shard, 1, &WriteBatch::new().op(create("table", TreeKind::Hash)));
    append(shard, 1, &WriteBatch::new().op(create("list", TreeKind::Ordered)));
    commit_all(&engine);
    let trees = engine.trees();
    for _ in 0..4 {
        for tree in &trees {
            for i in 0..10 {
                let (tree, key) = (tree.id, format!("k{i}").into());
                let op = WriteOp::Put { tree, key, value: vec![3; 2000].into(), expires_ms: None, value_type: 0 };
                append(shard, 1, &WriteBatch::new().op(op));
            }
        }
    }
    commit_all(&engine);
    compact_all(&engine);
    assert!(shard.housekeeping_report().compactions > 0);
    drop(engine);
    let engine = open_with(&disk, dir(), eager());
    let shard = &engine.shards()[0];
    shard.advance_commit(shard.tail().last.gsn);
    assert_eq!(engine.trees(), trees);
    for tree in &trees {
        assert!(shard.get(tree.id, b"k3", 0).expect("read").is_some());
        if tree.kind == TreeKind::Ordered {
            assert_eq!(shard.scan(tree.id, &ScanRange::all(), 100, 1 << 20, 0).expect("read").entries.len(), 10);
        }
    }
}
