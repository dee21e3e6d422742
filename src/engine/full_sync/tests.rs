//! A follower is rebuilt from a snapshot: while writes go on, from every state, after every crash.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{FullSync, SnapshotManifest, SnapshotPin};
use crate::disk::{CrashDisk, Disk, Keep, RealDisk};
use crate::engine::*;
use crate::ident::{InstanceId, Sid};
use crate::position::{EpochTable, LogPosition};

const DONOR: &str = "/donor";
const TAKER: &str = "/taker";

fn open_with(disk: &Arc<dyn Disk>, dir: &Path, durability: Durability) -> Arc<Engine> {
    if !Engine::is_formatted(disk, dir).expect("readable") {
        let sid = Sid(dir.as_os_str().len() as u128);
        Engine::format(disk, dir, &Format { sid, shards: 1 }).expect("formatted");
    }
    // No more log than the newest segment, so that there is something to compact where that is asked for.
    let retention = Retention { min_bytes: 0, min_age: std::time::Duration::ZERO, max_bytes: None };
    let options = EngineOptions {
        retention,
        durability,
        segment_bytes: 64 << 10,
        zero_ahead_bytes: 16 << 10,
        max_value_bytes: 8 << 10,
        background: Background::Manual,
        boot_id: Some([1; 16]),
        ..EngineOptions::default()
    };
    Engine::open(disk.clone(), dir, options, InstanceId(1)).expect("opened")
}

fn open(disk: &Arc<dyn Disk>, dir: &str) -> Arc<Engine> {
    open_with(disk, Path::new(dir), Durability::Disk)
}

fn leader(disk: &Arc<dyn Disk>, dir: &str, epoch: u64) -> Arc<Engine> {
    let engine = open(disk, dir);
    let shard = &engine.shards()[0];
    if shard.state() == ShardState::Blank {
        shard.set_state(ShardState::Ready).expect("ready");
    }
    shard.open_epoch(epoch, epoch * 100).expect("opened");
    engine
}

fn put(engine: &Engine, epoch: u64, key: &str, value: &[u8]) {
    let batch = WriteBatch::new().put(key.to_owned(), value.to_vec());
    engine.shards()[0].append(epoch, &batch).expect("appended");
}

fn commit(engine: &Engine) {
    engine.sync_all().expect("synced");
    let shard = &engine.shards()[0];
    shard.advance_commit(shard.tail().last.gsn);
}

/// A donor with `n` keys of a kilobyte, some deleted, over two epochs, and a second tree.
fn donor(disk: &Arc<dyn Disk>, n: u32) -> Arc<Engine> {
    let engine = leader(disk, DONOR, 1);
    let tree = WriteOp::CreateTree { name: "side".into(), kind: TreeKind::Hash };
    engine.shards()[0].append(1, &WriteBatch::new().op(tree)).expect("appended");
    for i in 0..n {
        let epoch = if i < n / 2 { 1 } else { 2 };
        if i == n / 2 {
            engine.shards()[0].open_epoch(epoch, 777).expect("opened");
        }
        put(&engine, epoch, &format!("k{i}"), &[i as u8; 1000]);
        if i % 5 == 4 {
            let delete = WriteBatch::new().delete(format!("k{}", i - 1).into_bytes());
            engine.shards()[0].append(epoch, &delete).expect("appended");
        }
        if i % 16 == 0 {
            commit(&engine);
        }
    }
    commit(&engine);
    engine
}

fn copy(pin: &SnapshotPin, sync: &mut FullSync, piece: usize) {
    try_copy(pin, sync, piece).expect("staged");
    assert!(pin.manifest().files.iter().all(|file| sync.have(&file.name) == file.len));
}

fn try_copy(pin: &SnapshotPin, sync: &mut FullSync, piece: usize) -> Result<(), EngineError> {
    for file in &pin.manifest().files {
        loop {
            let have = sync.have(&file.name);
            let bytes = pin.read(&file.name, have, piece).expect("read");
            if bytes.is_empty() {
                break;
            }
            sync.write(&file.name, have, &bytes)?;
        }
    }
    Ok(())
}

fn begin(taker: &Engine, pin: &SnapshotPin) -> FullSync {
    let commit = pin.manifest().g0.last.gsn;
    taker.shards()[0].begin_full_sync(pin.manifest(), commit).expect("begun")
}

/// The rest of the log, and the taker is as good as the donor.
fn catch_up(donor: &Engine, taker: &Engine) {
    let (from, to) = (&donor.shards()[0], &taker.shards()[0]);
    let mut reader = from.log_reader(to.tail().last.gsn).expect("above the floor");
    while let Some(chunk) = reader.next_chunk(32 << 10).expect("read") {
        to.append_chunk(&chunk).expect("taken");
    }
    taker.sync_all().expect("synced");
    to.advance_commit(from.commit());
    to.set_state(ShardState::Ready).expect("ready");
    assert_same(donor, taker);
}

fn assert_same(donor: &Engine, taker: &Engine) {
    let (a, b) = (&donor.shards()[0], &taker.shards()[0]);
    assert_eq!((a.tail(), a.epoch_table(), a.applied()), (b.tail(), b.epoch_table(), b.applied()));
    assert_eq!(donor.trees(), taker.trees());
    let all = |shard: &Shard| {
        shard.scan(TreeId::DEFAULT, &ScanRange::all(), usize::MAX - 1, usize::MAX, 0).expect("scanned").entries
    };
    let (there, here) = (all(a), all(b));
    assert!(!there.is_empty());
    assert_eq!(there, here);
    for (key, value) in &there {
        assert_eq!(b.get(TreeId::DEFAULT, key, 0).expect("readable").as_ref(), Some(value));
    }
    assert_eq!(a.keys(), b.keys());
    assert!(b.verify().is_sound(), "{:?}", b.verify());
}

#[test]
fn a_blank_shard_is_built_while_writes_go_on() {
    for durability in [Durability::Disk, Durability::Os] {
        let temp = tempfile::tempdir().expect("a directory");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
        let crash: Arc<dyn Disk> = Arc::new(CrashDisk::new());
        let donor = donor(&crash, 300);
        let taker = open_with(&disk, &temp.path().join("taker"), durability);
        let pin = donor.shards()[0].pin_snapshot().expect("pinned");
        assert!(pin.manifest().files.len() > 3, "it has rotated");
        let mut sync = begin(&taker, &pin);
        assert_eq!(taker.shards()[0].state(), ShardState::Syncing);
        // What is written meanwhile is not in it; what is not committed is not either.
        for i in 0..100 {
            put(&donor, 2, &format!("later{i}"), &[1; 1000]);
        }
        copy(&pin, &mut sync, 10_001);
        let tail = sync.finish().expect("in place");
        let shard = &taker.shards()[0];
        assert_eq!((tail, shard.tail(), shard.commit()), (pin.manifest().g0, tail, tail.last.gsn));
        assert_eq!(shard.state(), ShardState::Syncing, "until the caller says otherwise");
        commit(&donor);
        catch_up(&donor, &taker);
        taker.close().expect("closed");
        drop(taker);
        let taker = open_with(&disk, &temp.path().join("taker"), durability);
        assert_eq!(taker.shards()[0].state(), ShardState::Ready);
        taker.shards()[0].advance_commit(donor.shards()[0].commit());
        assert_same(&donor, &taker);
        // What came by a full sync can be given on.
        let third = open(&crash, "/third");
        let pin = taker.shards()[0].pin_snapshot().expect("pinned");
        let mut sync = begin(&third, &pin);
        copy(&pin, &mut sync, 1 << 20);
        sync.finish().expect("in place");
        catch_up(&donor, &third);
    }
}

#[test]
fn what_was_there_before_is_replaced_whole_and_its_files_go() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let donor = donor(&disk, 150);
    let taker = leader(&disk, TAKER, 1);
    for i in 0..100 {
        put(&taker, 1, &format!("mine{i}"), &[9; 1000]);
    }
    taker.sync_all().expect("synced");
    taker.shards()[0].close_epoch();
    taker.shards()[0].set_state(ShardState::Amnesic).expect("told");
    let pin = donor.shards()[0].pin_snapshot().expect("pinned");
    let mut sync = begin(&taker, &pin);
    let chunk = donor.shards()[0].log_reader(0).expect("read").next_chunk(1 << 20).expect("read").expect("some");
    let taken = taker.shards()[0].append_chunk(&chunk);
    assert_eq!(taken, Err(ChunkError::NotReady(ShardState::Syncing)), "the log takes nothing meanwhile");
    copy(&pin, &mut sync, 1 << 20);
    sync.finish().expect("in place");
    catch_up(&donor, &taker);
    let segments = |dir: &str| {
        let names = disk.list(&Path::new(dir).join("shard-000")).expect("listed");
        names.iter().filter(|e| e.name.ends_with(".seg")).count()
    };
    assert!(segments(TAKER) <= segments(DONOR) + 1, "the old files are gone");
    assert!(!disk.list(Path::new("/taker/shard-000")).expect("listed").iter().any(|e| e.is_dir));
}

#[test]
fn files_that_were_compacted_come_along_and_those_pinned_stay_readable_whatever_compaction_does() {
    let crash = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
    let donor = donor(&disk, 100);
    let shard = &donor.shards()[0];
    let early = shard.pin_snapshot().expect("pinned");
    let housekeep = || while donor.compact_step().expect("housekeeping works") {};
    for round in 0..4u8 {
        for i in (0..100).filter(|i| round < 3 || i % 2 == 0) {
            put(&donor, 2, &format!("k{i}"), &[round; 1500]);
        }
        for i in (0..100).filter(|i| i % 7 == u32::from(round)) {
            let delete = WriteBatch::new().delete(format!("k{i}").into_bytes());
            shard.append(2, &delete).expect("appended");
        }
        commit(&donor);
        housekeep();
    }
    let late = shard.pin_snapshot().expect("pinned");
    let manifest = late.manifest();
    assert!(manifest.log_floor > 1 && manifest.tombstone_floor > 0, "{manifest:?}");
    assert!(shard.housekeeping_report().compactions > 0);
    for i in 0..50 {
        put(&donor, 2, &format!("later{i}"), &[1; 1500]);
    }
    commit(&donor);
    housekeep();
    assert!(shard.log_floor() <= manifest.g0.last.gsn + 1, "what follows a pin stays log");

    let taker = open(&disk, TAKER);
    let mut sync = begin(&taker, &late);
    copy(&late, &mut sync, 1 << 20);
    sync.finish().expect("in place");
    let floors = |shard: &Shard| (shard.log_floor(), shard.tombstone_floor());
    assert_eq!(floors(&taker.shards()[0]), (manifest.log_floor, manifest.tombstone_floor));
    catch_up(&donor, &taker);
    // What came can be compacted in its turn, and opened again.
    while taker.compact_step().expect("housekeeping works") {}
    assert_same(&donor, &taker);
    taker.close().expect("closed");
    drop(taker);
    let taker = open(&disk, TAKER);
    assert_eq!(taker.shards()[0].state(), ShardState::Ready);
    taker.shards()[0].advance_commit(shard.commit());
    assert_same(&donor, &taker);

    // Files that the manifest has long forgotten are still those of the early pin.
    let third = open(&disk, "/third");
    let mut sync = begin(&third, &early);
    copy(&early, &mut sync, 1 << 20);
    assert_eq!(sync.finish().expect("in place"), early.manifest().g0);
    let page = third.shards()[0].scan(TreeId::DEFAULT, &ScanRange::all(), 1, 1 << 20, 0);
    assert!(matches!(page, Err(EngineError::NotReady { .. })), "it reads nothing before it is ready");
    third.shards()[0].set_state(ShardState::Ready).expect("ready");
    assert_eq!(third.shards()[0].keys(), 80);
    drop((early, late));
    housekeep();
    assert!(shard.log_floor() > 1);
}

#[test]
fn a_crash_at_any_operation_leaves_a_shard_that_is_synced_from_where_it_was() {
    for (round, taker_has_data) in [(0u64, false), (1, true)] {
        let crash = CrashDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(crash.clone());
        let giving: Arc<dyn Disk> = Arc::new(CrashDisk::new());
        let donor = donor(&giving, 150);
        let pin = donor.shards()[0].pin_snapshot().expect("pinned");
        let taker = if taker_has_data {
            let taker = leader(&disk, TAKER, 1);
            (0..70).for_each(|i| put(&taker, 1, &format!("mine{i}"), &[9; 1000]));
            taker.sync_all().expect("synced");
            taker.shards()[0].close_epoch();
            taker
        } else {
            open(&disk, TAKER)
        };
        let before = taker.shards()[0].state();
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let seen = outcomes.clone();
        crash.observe(move |disk, operation| {
            let mut state = (operation + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = |_: &_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if state & 1 == 0 { Keep::Keep } else { Keep::Drop }
            };
            let crashed = disk.crash(&mut random);
            seen.lock().push((operation, crashed));
            if operation % 3 == 0 {
                seen.lock().push((operation, disk.crash(&mut |_| Keep::Drop)));
                seen.lock().push((operation, disk.kill()));
            }
        });
        let mut sync = begin(&taker, &pin);
        copy(&pin, &mut sync, 20_000);
        sync.finish().expect("in place");
        let finished = crash.operations();
        catch_up(&donor, &taker);
        crash.unobserve();
        let outcomes = std::mem::take(&mut *outcomes.lock());
        assert!(outcomes.len() > 40, "{} crashes", outcomes.len());
        let (mut resumed, mut after) = (0, 0);
        for (operation, crashed) in outcomes {
            let disk: Arc<dyn Disk> = Arc::new(crashed);
            let taker = open(&disk, TAKER);
            let shard = &taker.shards()[0];
            let state = shard.state();
            let told = state == before || state == ShardState::Syncing;
            assert!(told || operation > finished, "operation {operation}: {state}");
            let there = shard.tail() == pin.manifest().g0;
            assert!(there || operation <= finished, "operation {operation}: what was in place is gone");
            if there {
                after += 1;
                assert!(state == ShardState::Syncing || operation > finished, "operation {operation}: {state}");
                catch_up(&donor, &taker);
                continue;
            }
            let mut sync = begin(&taker, &pin);
            resumed += u32::from(pin.manifest().files.iter().any(|file| sync.have(&file.name) > 0));
            // A file whose length survived and whose bytes did not is found out and asked for again.
            let mut attempts = 0;
            while try_copy(&pin, &mut sync, 50_000).is_err() {
                attempts += 1;
                assert!(attempts < 8, "operation {operation}");
            }
            sync.finish().expect("in place");
            catch_up(&donor, &taker);
            drop(taker);
            let taker = open(&disk, TAKER);
            taker.shards()[0].advance_commit(donor.shards()[0].commit());
            assert_same(&donor, &taker);
        }
        assert!(resumed > 5 && after > 0, "{resumed} resumed, {after} after the switch");
    }
}

/// What is done to a shard's files, and its name.
type Spoil = (&'static str, fn(&CrashDisk));

#[test]
fn a_quarantined_shard_is_rebuilt_whatever_its_files_are() {
    let spoil: [Spoil; 5] = [
        ("a record", |disk| {
            disk.rot(Path::new("/taker/shard-000/0000000001.seg"), 500, &[0xff; 8]).expect("rotten");
        }),
        ("both slots", |disk| {
            disk.rot(Path::new("/taker/shard-000/shard.meta"), 0, &[0xff; 8192]).expect("rotten");
        }),
        ("one slot", |disk| {
            disk.rot(Path::new("/taker/shard-000/shard.meta"), 30, &[0xff; 8]).expect("rotten");
            disk.rot(Path::new("/taker/shard-000/0000000001.seg"), 500, &[0xff; 8]).expect("rotten");
        }),
        ("no meta", |disk| disk.remove_file(Path::new("/taker/shard-000/shard.meta")).expect("removed")),
        ("no manifest", |disk| {
            let dir = Path::new("/taker/shard-000");
            for entry in disk.list(dir).expect("listed").iter().filter(|e| e.name.starts_with("MANIFEST")) {
                disk.remove_file(&dir.join(&entry.name)).expect("removed");
            }
        }),
    ];
    for (what, spoil) in spoil {
        for crash_in_between in [false, true] {
            let crash = CrashDisk::new();
            let disk: Arc<dyn Disk> = Arc::new(crash.clone());
            let donor = donor(&disk, 150);
            let taker = leader(&disk, TAKER, 1);
            (0..100).for_each(|i| put(&taker, 1, &format!("mine{i}"), &[9; 1000]));
            taker.close().expect("closed");
            drop(taker);
            spoil(&crash);
            let before = read(&disk, Path::new("/taker/shard-000/0000000001.seg"));
            let mut taker = open(&disk, TAKER);
            let state = taker.shards()[0].state();
            assert!(matches!(state, ShardState::Quarantined { .. }), "{what}: {state}");
            assert!(taker.shards()[0].set_state(ShardState::Ready).is_err(), "{what}: it is not sound for the asking");
            let pin = donor.shards()[0].pin_snapshot().expect("pinned");
            let mut sync = begin(&taker, &pin);
            if crash_in_between {
                drop(sync);
                drop(taker);
                let crashed: Arc<dyn Disk> = Arc::new(crash.crash(&mut |_| Keep::Keep));
                taker = open(&crashed, TAKER);
                assert_eq!(taker.shards()[0].state(), ShardState::Syncing, "{what}");
                assert_eq!(taker.shards()[0].tail().last.gsn, 0, "{what}: unsound data counts for nothing");
                sync = begin(&taker, &pin);
            }
            copy(&pin, &mut sync, 1 << 20);
            sync.finish().expect(what);
            catch_up(&donor, &taker);
            let shard = Path::new("/taker/shard-000");
            let disk = taker.shards()[0].shared.disk.clone();
            let kept = read(&disk, &shard.join("quarantined/0000000001.seg"));
            assert!(kept == before, "{what}: what was unsound is set aside as it was");
            assert!(!read(&disk, &shard.join("quarantined/REASON")).is_empty(), "{what}");
            assert!(!disk.exists(&shard.join("quarantined.part")).expect("looked"), "{what}");
            taker.close().expect("closed");
            drop(taker);
            let state = open(&disk, TAKER).shards()[0].state();
            assert!(!matches!(state, ShardState::Quarantined { .. }), "{what}: what was rebuilt is sound: {state}");
        }
    }
}

/// All of a file.
fn read(disk: &Arc<dyn Disk>, path: &Path) -> Vec<u8> {
    let file = disk.open_read(path).expect("it is there");
    let mut bytes = vec![0; file.len().expect("measured") as usize];
    file.read_at(&mut bytes, 0).expect("read");
    bytes
}

#[test]
fn one_generation_of_quarantined_files_is_kept_and_goes_where_room_is_needed() {
    let crash = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
    let donor = donor(&disk, 150);
    let segments = |dir: &str| -> Vec<String> {
        let entries = disk.list(Path::new(dir)).unwrap_or_default();
        entries.into_iter().map(|e| e.name).filter(|name| name.ends_with(".seg")).collect()
    };
    let mut kept = Vec::new();
    for generation in 0..2 {
        let taker = open(&disk, TAKER);
        if generation == 0 {
            let shard = &taker.shards()[0];
            shard.set_state(ShardState::Ready).expect("ready");
            shard.open_epoch(1, 100).expect("opened");
            (0..100).for_each(|i| put(&taker, 1, &format!("mine{i}"), &[9; 1000]));
        }
        taker.close().expect("closed");
        drop(taker);
        let there = segments("/taker/shard-000");
        crash.rot(&Path::new("/taker/shard-000").join(&there[0]), 500, &[0xff; 8]).expect("rotten");
        let taker = open(&disk, TAKER);
        assert!(matches!(taker.shards()[0].state(), ShardState::Quarantined { .. }), "generation {generation}");
        let pin = donor.shards()[0].pin_snapshot().expect("pinned");
        let mut sync = begin(&taker, &pin);
        copy(&pin, &mut sync, 1 << 20);
        sync.finish().expect("in place");
        catch_up(&donor, &taker);
        taker.close().expect("closed");
        assert_eq!(segments("/taker/shard-000/quarantined"), there, "generation {generation}");
        assert_ne!(kept, there);
        kept = there;
    }
    // A copy that has no room beside them takes theirs.
    let taker = open(&disk, TAKER);
    let first = segments("/taker/shard-000").remove(0);
    drop(taker);
    crash.rot(&Path::new("/taker/shard-000").join(first), 500, &[0xff; 8]).expect("rotten");
    let taker = open(&disk, TAKER);
    let pin = donor.shards()[0].pin_snapshot().expect("pinned");
    let space = disk.space(Path::new(TAKER)).expect("measured");
    crash.set_capacity(Some(space.total_bytes - space.available_bytes + (64 << 10)));
    // Whether that makes room enough is another question.
    let _ = taker.shards()[0].begin_full_sync(pin.manifest(), pin.manifest().g0.last.gsn);
    assert!(segments("/taker/shard-000/quarantined").is_empty(), "they were given up for it");
}

#[test]
fn what_an_alarm_has_quarantined_is_not_replaced() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let donor = donor(&disk, 20);
    let taker = open(&disk, TAKER);
    let alarm = ShardState::Quarantined { reason: "told to cut what is committed".into(), alarm: true };
    taker.shards()[0].set_state(alarm.clone()).expect("told");
    drop(taker);
    let taker = open(&disk, TAKER);
    assert_eq!(taker.shards()[0].state(), alarm, "an alarm outlives the process");
    let pin = donor.shards()[0].pin_snapshot().expect("pinned");
    let refused = taker.shards()[0].begin_full_sync(pin.manifest(), 1 << 40).expect_err("refused").to_string();
    assert!(refused.contains("alarm") && refused.contains("told to cut"), "{refused}");
    assert_eq!(taker.shards()[0].state(), alarm);
}

#[test]
fn a_sync_whose_own_files_are_unsound_may_also_go_by_the_log_from_its_beginning() {
    let crash = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
    let donor = donor(&disk, 60);
    let taker = leader(&disk, TAKER, 1);
    (0..30).for_each(|i| put(&taker, 1, &format!("mine{i}"), &[9; 1000]));
    taker.close().expect("closed");
    drop(taker);
    crash.rot(Path::new("/taker/shard-000/0000000001.seg"), 500, &[0xff; 8]).expect("rotten");
    let taker = open(&disk, TAKER);
    drop(begin(&taker, &donor.shards()[0].pin_snapshot().expect("pinned")));
    catch_up(&donor, &taker);
    drop(taker);
    let taker = open(&disk, TAKER);
    taker.shards()[0].advance_commit(donor.shards()[0].commit());
    assert_same(&donor, &taker);
}

#[test]
fn nobody_syncs_from_who_has_committed_less() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let donor = donor(&disk, 20);
    let taker = leader(&disk, TAKER, 1);
    (0..100).for_each(|i| put(&taker, 1, &format!("mine{i}"), &[9; 10]));
    commit(&taker);
    let shard = &taker.shards()[0];
    let pin = donor.shards()[0].pin_snapshot().expect("pinned");
    let refused = |donor_commit| shard.begin_full_sync(pin.manifest(), donor_commit).expect_err("refused").to_string();
    assert!(refused(1000).contains("it leads epoch 1"));
    shard.close_epoch();
    let g0 = pin.manifest().g0.last.gsn;
    assert!(refused(g0).contains("has committed"), "{}", refused(g0));
    assert!(refused(1000).contains("take a new one"), "{}", refused(1000));
    assert_eq!(shard.state(), ShardState::Ready, "nothing was touched");
    taker.close().expect("closed");
    drop(taker);
    // Even where its data cannot be used any more, what it had committed is remembered.
    let rot = disk.open(Path::new("/taker/shard-000/0000000001.seg")).expect("there");
    rot.write_at(&[std::io::IoSlice::new(&[0xff; 8])], 500).expect("written");
    let taker = open(&disk, TAKER);
    assert!(matches!(taker.shards()[0].state(), ShardState::Quarantined { .. }));
    let refused = taker.shards()[0].begin_full_sync(pin.manifest(), g0).expect_err("refused").to_string();
    assert!(refused.contains("has committed"), "{refused}");
}

#[test]
fn a_piece_that_was_damaged_on_its_way_is_asked_for_again() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let donor = donor(&disk, 100);
    let taker = open(&disk, TAKER);
    let pin = donor.shards()[0].pin_snapshot().expect("pinned");
    let mut sync = begin(&taker, &pin);
    let first = &pin.manifest().files[0];
    let mut bytes = pin.read(&first.name, 0, usize::MAX).expect("read").to_vec();
    bytes[999] ^= 4;
    assert!(sync.write(&first.name, 0, &bytes).expect_err("found out").to_string().contains("sent again"));
    assert_eq!(sync.have(&first.name), 0);
    assert!(sync.write(&first.name, 8, &bytes[8..]).is_err(), "in order only");
    assert!(sync.write("../node.meta", 0, b"x").is_err(), "only what the manifest names");
    bytes.push(0);
    assert!(sync.write(&first.name, 0, &bytes).is_err(), "no more than it has");
    copy(&pin, &mut sync, 1 << 20);
    sync.finish().expect("in place");
    catch_up(&donor, &taker);
}

#[test]
fn a_candidates_shard_stays_what_it_is_until_the_switch_and_is_sound_after_it() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let donor = donor(&disk, 200);
    let pin = donor.shards()[0].pin_snapshot().expect("pinned");
    let (manifest, commit_there) = (pin.manifest(), pin.manifest().g0.last.gsn);
    let blank = open(&disk, "/blank");
    let refused = blank.shards()[0].begin_staged_copy(manifest, commit_there).expect_err("there is nothing to keep");
    assert!(matches!(refused, EngineError::NotReady { .. }), "{refused}");

    let taker = leader(&disk, TAKER, 1);
    for i in 0..30 {
        put(&taker, 1, &format!("mine{i}"), &[3; 1000]);
    }
    commit(&taker);
    let shard = &taker.shards()[0];
    let refused = shard.begin_staged_copy(manifest, commit_there).expect_err("it leads").to_string();
    assert!(refused.contains("leads epoch 1"), "{refused}");
    shard.close_epoch();
    let (tail, file) = (shard.tail(), Path::new(TAKER).join("shard-000"));
    let staged = || disk.list(&file).expect("listed").iter().any(|entry| entry.is_dir);
    let mut sync = shard.begin_staged_copy(manifest, commit_there).expect("begun");
    copy(&pin, &mut sync, 4096);
    shard.discard_staged();
    assert!(staged(), "it is under way");
    assert_eq!((shard.state(), shard.tail()), (ShardState::Ready, tail));
    assert!(shard.get(TreeId::DEFAULT, b"mine7", 0).expect("it reads on").is_some());
    drop(sync);
    shard.discard_staged();
    assert!(!staged(), "it was given up");

    shard.set_state(ShardState::Damaged { files: vec![1] }).expect("set");
    let mut sync = shard.begin_staged_copy(manifest, commit_there).expect("begun");
    copy(&pin, &mut sync, 4096);
    assert_eq!(sync.finish().expect("in place"), manifest.g0);
    assert_eq!(shard.state(), ShardState::Ready, "none of the damaged files is left");
    assert!(!staged());
    catch_up(&donor, &taker);
    drop(taker);
    assert_same(&donor, &open(&disk, TAKER));
}

#[test]
fn a_sync_goes_on_where_it_was_and_keeps_what_a_newer_snapshot_also_has() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let donor = donor(&disk, 200);
    let taker = open(&disk, TAKER);
    let old = donor.shards()[0].pin_snapshot().expect("pinned");
    let mut sync = begin(&taker, &old);
    let names: Vec<String> = old.manifest().files.iter().map(|file| file.name.clone()).collect();
    let whole = old.read(&names[0], 0, usize::MAX).expect("read");
    sync.write(&names[0], 0, &whole).expect("staged");
    sync.write(&names[1], 0, &old.read(&names[1], 0, 5000).expect("read")).expect("staged");
    assert!(taker.shards()[0].begin_full_sync(old.manifest(), u64::MAX).is_err(), "one at a time");
    let unfinished = sync.finish().expect_err("not whole").to_string();
    assert!(unfinished.contains("not whole"), "{unfinished}");
    let sync = begin(&taker, &old);
    assert_eq!((sync.have(&names[0]), sync.have(&names[1]), sync.have(&names[2])), (whole.len() as u64, 5000, 0));
    drop(sync);
    put(&donor, 2, "more", b"of it");
    commit(&donor);
    let new = donor.shards()[0].pin_snapshot().expect("pinned");
    assert_ne!(new.manifest(), old.manifest());
    let mut sync = begin(&taker, &new);
    assert_eq!((sync.have(&names[0]), sync.have(&names[1])), (whole.len() as u64, 0));
    for file in &new.manifest().files {
        // Who sends all of it again wastes only its own time.
        let bytes = new.read(&file.name, 0, usize::MAX).expect("read");
        bytes.chunks(4000).enumerate().for_each(|(i, piece)| {
            sync.write(&file.name, i as u64 * 4000, piece).expect("staged");
        });
    }
    sync.finish().expect("in place");
    catch_up(&donor, &taker);
}

#[test]
fn what_is_staged_is_kept_by_its_content_though_the_next_donor_has_other_numbers_and_a_longer_log() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let donor = donor(&disk, 200);
    let taker = open(&disk, TAKER);
    let pin = donor.shards()[0].pin_snapshot().expect("pinned");
    let mut sync = begin(&taker, &pin);
    copy(&pin, &mut sync, 4096);
    drop(sync);
    for i in 0..20 {
        put(&donor, 2, &format!("later{i}"), &[7; 1000]);
    }
    commit(&donor);
    let later = donor.shards()[0].pin_snapshot().expect("pinned");
    let mut manifest = later.manifest().clone();
    assert_ne!(manifest, *pin.manifest());
    for (number, file) in (900..).zip(&mut manifest.files) {
        file.name = format!("{number:010}.seg");
    }
    let sync = taker.shards()[0].begin_full_sync(&manifest, manifest.g0.last.gsn).expect("begun");
    let unchanged =
        |file: &SnapshotFile| pin.manifest().files.iter().any(|old| (old.len, old.crc) == (file.len, file.crc));
    let kept: Vec<bool> = manifest.files.iter().map(unchanged).collect();
    assert!(kept.iter().any(|kept| *kept) && kept.iter().any(|kept| !kept), "{kept:?}");
    for (file, kept) in manifest.files.iter().zip(kept) {
        assert_eq!(sync.have(&file.name), if kept { file.len } else { 0 }, "{}", file.name);
    }
}

#[test]
fn an_unsound_snapshot_is_refused_and_the_old_data_stays() {
    let crash = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
    let donor = donor(&disk, 100);
    let taker = leader(&disk, TAKER, 1);
    put(&taker, 1, "mine", b"still here");
    taker.sync_all().expect("synced");
    taker.shards()[0].close_epoch();
    let tail = taker.shards()[0].tail();
    crash.rot(Path::new("/donor/shard-000/0000000001.seg"), 5000, &[0xff; 8]).expect("rotten");
    let pin = donor.shards()[0].pin_snapshot().expect("pinned");
    let mut sync = begin(&taker, &pin);
    copy(&pin, &mut sync, 1 << 20);
    let refused = sync.finish().expect_err("found out").to_string();
    assert!(refused.contains("unsound") && refused.contains("0000000001.seg"), "{refused}");
    drop(taker);
    let taker = open(&disk, TAKER);
    assert_eq!((taker.shards()[0].tail(), taker.shards()[0].state()), (tail, ShardState::Syncing));
    let sync = begin(&taker, &pin);
    assert!(pin.manifest().files.iter().all(|file| sync.have(&file.name) == 0), "nothing of it is kept");
}

#[test]
fn a_manifest_travels_as_json_and_one_that_makes_no_sense_is_refused() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let donor = donor(&disk, 30);
    let taker = open(&disk, TAKER);
    let pin = donor.shards()[0].pin_snapshot().expect("pinned");
    let json = serde_json::to_vec(pin.manifest()).expect("written");
    let good: SnapshotManifest = serde_json::from_slice(&json).expect("read");
    assert_eq!(&good, pin.manifest());
    let spoil: [fn(&mut SnapshotManifest); 9] = [
        |m| m.files[0].name = "../../node.meta".into(),
        |m| m.files[0].name = "1.seg".into(),
        |m| m.files.push(m.files[0].clone()),
        |m| m.files[0].len = 1 << 40,
        |m| m.files[0].len = 63,
        |m| m.log_floor = 0,
        |m| m.log_floor = m.g0.last.gsn + 2,
        |m| m.epoch_table = EpochTable::new(),
        |m| {
            let starts = vec![LogPosition::new(5, 1), LogPosition::new(4, 9)];
            m.epoch_table = serde_json::from_value(serde_json::to_value(starts).expect("json")).expect("read");
        },
    ];
    for (i, spoil) in spoil.iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(taker.shards()[0].begin_full_sync(&bad, u64::MAX).is_err(), "{i}");
        assert_eq!(taker.shards()[0].state(), ShardState::Blank, "{i}");
    }
    let blank = taker.shards()[0].pin_snapshot();
    assert!(matches!(blank, Err(EngineError::NotReady { .. })), "nothing is given by who has nothing");
}

#[test]
fn a_full_disk_ends_the_sync_and_nothing_else() {
    let crash = CrashDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(crash.clone());
    let giving: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let donor = donor(&giving, 150);
    let taker = open(&disk, TAKER);
    let pin = donor.shards()[0].pin_snapshot().expect("pinned");
    crash.set_capacity(Some(100 << 10));
    let refused = taker.shards()[0].begin_full_sync(pin.manifest(), u64::MAX).expect_err("no room");
    assert!(matches!(refused, EngineError::DiskFull(_)), "{refused}");
    crash.set_capacity(None);
    let mut sync = begin(&taker, &pin);
    crash.set_capacity(Some(100 << 10));
    let first = &pin.manifest().files[0];
    let bytes = pin.read(&first.name, 0, usize::MAX).expect("read");
    let mut failed = false;
    for piece in bytes.chunks(4096).chain(bytes.chunks(4096)) {
        let have = sync.have(&first.name);
        failed |= sync.write(&first.name, have, piece).is_err();
    }
    assert!(failed && taker.failure().is_none());
    crash.set_capacity(None);
    drop(sync);
    let mut sync = begin(&taker, &pin);
    for file in &pin.manifest().files {
        // A piece that was half written may have left a longer beginning, which the checksum judges.
        while sync.have(&file.name) < file.len {
            let have = sync.have(&file.name);
            let _ = sync.write(&file.name, have, &pin.read(&file.name, have, 1 << 20).expect("read"));
        }
    }
    sync.finish().expect("in place");
    catch_up(&donor, &taker);
}
