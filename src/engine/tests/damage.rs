//! What is told apart when a directory is opened: a torn tail, which is cut; damage to what was durable, which
//! quarantines and changes nothing; and leftovers, which are removed only if they can be explained.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::disk::{CrashDisk, Disk, Keep};
use crate::engine::format::manifest::Manifest;
use crate::engine::format::node_meta::{NODE_META_MAGIC, NodeRecord};
use crate::engine::format::shard_meta::SHARD_META_MAGIC;
use crate::engine::format::slots::{self, SLOT_BYTES};
use crate::engine::segment::Segment;

fn dir() -> &'static Path {
    Path::new("/data")
}

fn in_shard(name: &str) -> PathBuf {
    dir().join("shard-000").join(name)
}

fn segment(id: u32) -> PathBuf {
    in_shard(&Segment::file_name(id))
}

fn read(disk: &CrashDisk, path: &Path) -> Vec<u8> {
    let file = disk.open_read(path).expect("opened");
    let mut bytes = vec![0; file.len().expect("measured") as usize];
    file.read_at(&mut bytes, 0).expect("read");
    bytes
}

/// Every file of the shard with its bytes.
fn image(disk: &CrashDisk) -> BTreeMap<String, Vec<u8>> {
    let entries = disk.list(&dir().join("shard-000")).expect("listed");
    entries.into_iter().map(|entry| (entry.name.clone(), read(disk, &in_shard(&entry.name)))).collect()
}

fn create(disk: &CrashDisk, path: &Path, bytes: &[u8]) {
    let file = disk.create(path).expect("created");
    file.write_at(&[IoSlice::new(bytes)], 0).expect("written");
    file.sync_data().expect("synced");
    disk.sync_dir(path.parent().expect("a parent")).expect("synced");
}

/// The state a directory opens with, and why it is quarantined.
fn state(disk: &CrashDisk) -> (ShardState, String) {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = Engine::open(shared, dir(), options(), InstanceId(1)).expect("it opens, whatever the shard is");
    let state = engine.shards()[0].state();
    let reason = match &state {
        ShardState::Quarantined { reason, .. } => reason.clone(),
        _ => String::new(),
    };
    (state, reason)
}

/// Opening finds it unsound, says so, and touches nothing.
fn assert_quarantined(disk: &CrashDisk, because: &str) {
    let before = image(disk);
    let (state, reason) = state(disk);
    assert!(matches!(state, ShardState::Quarantined { .. }), "{because}: it is {state}");
    assert!(reason.contains(because), "{reason:?} tells of {because:?}");
    assert!(image(disk) == before, "{because}: nothing is changed");
}

/// A disk with a directory in which so many keys were each put and synced by themselves: `key0`, `key1`, ...
fn written(keys: u64, close: bool) -> CrashDisk {
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = open_with(&shared, dir(), options());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    for i in 0..keys {
        put(shard, 1, format!("key{i}").as_bytes(), &[i as u8; 100]);
        engine.sync_all().expect("synced");
    }
    if close {
        engine.close().expect("closed");
    }
    disk
}

/// Where the record of a key begins in a file.
fn find(disk: &CrashDisk, path: &Path, key: &str) -> u64 {
    let bytes = read(disk, path);
    let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).expect("it is there");
    at as u64 - 24
}

fn tail_of(disk: &CrashDisk) -> u64 {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = Engine::open(shared, dir(), options(), InstanceId(1)).expect("opened");
    assert_eq!(engine.shards()[0].state(), ShardState::Ready);
    engine.shards()[0].tail().last.gsn
}

#[test]
fn who_looks_at_a_state_first_and_changes_it_last_undoes_nothing() {
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk);
    let engine = open(&shared, Path::new("/data"), Durability::Disk);
    let shard = &engine.shards()[0];
    let (looked, may_change) = std::sync::mpsc::channel();
    let (changed, changed_by_other) = std::sync::mpsc::channel::<()>();
    let alarm = ShardState::Quarantined { reason: "another history".into(), alarm: true };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let damaged = |now: &ShardState| {
                let is = (*now == ShardState::Ready).then(|| ShardState::Damaged { files: vec![1] });
                looked.send(()).expect("the other waits for it");
                // It loses the processor: long enough for the other, unless that has to wait for us.
                let _ = changed_by_other.recv_timeout(std::time::Duration::from_millis(100));
                is
            };
            shard.change_state(damaged).expect("persisted");
        });
        may_change.recv().expect("it looks");
        shard.set_state(alarm.clone()).expect("persisted");
        let _ = changed.send(());
    });
    assert_eq!(shard.state(), alarm);
    assert!(
        !shard.change_state(|now| (*now == ShardState::Ready).then_some(ShardState::Blank)).expect("nothing to do")
    );
}

#[test]
fn damage_that_a_later_mark_vouches_for_is_corruption() {
    // Each key was synced by itself, so the mark before key7 vouches for everything up to key6.
    for key in ["key0", "key3", "key6"] {
        let disk = written(8, false);
        disk.rot(&segment(1), find(&disk, &segment(1), key) + 30, b"rot").expect("rotten");
        assert_quarantined(&disk, "vouched");
    }
}

#[test]
fn damage_that_nothing_vouches_for_is_a_torn_tail_and_is_cut() {
    let disk = written(8, false);
    let at = find(&disk, &segment(1), "key7");
    disk.rot(&segment(1), at + 30, b"rot").expect("rotten");
    let before = read(&disk, &segment(1));
    assert_eq!(tail_of(&disk), 8, "the barrier and seven keys are left");
    assert!(read(&disk, &segment(1)) == before, "no file is written over: the log goes on in another");
    assert_eq!(tail_of(&disk), 8);
    // What is put now is not confused with what was cut.
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = open_with(&shared, dir(), options());
    let shard = &engine.shards()[0];
    shard.open_epoch(2, 1).expect("opened");
    put(shard, 2, b"new", b"history");
    commit_all(&engine);
    drop(engine);
    let mended = read(&disk, &segment(1));
    disk.rot(&segment(1), at + 30, &[7; 3]).expect("the cut record is sound again");
    assert!(mended != read(&disk, &segment(1)));
    let engine = open_with(&shared, dir(), options());
    let shard = &engine.shards()[0];
    shard.advance_commit(shard.tail().last.gsn);
    assert_eq!((get(shard, b"new"), get(shard, b"key7")), (Some(b"history".to_vec()), None));
}

#[test]
fn a_closing_mark_and_a_clean_end_vouch_for_the_last_batch_too() {
    let disk = written(8, true);
    disk.rot(&segment(1), find(&disk, &segment(1), "key7") + 30, b"rot").expect("rotten");
    assert_quarantined(&disk, "was durable");

    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = open_with(&shared, dir(), options());
    engine.shards()[0].open_epoch(1, 1).expect("opened");
    put(&engine.shards()[0], 1, b"key7", &[7; 100]);
    engine.sync_all().expect("synced");
    assert!(engine.idle_now().expect("marked"), "an idle shard gets a mark");
    assert!(!engine.idle_now().expect("marked"), "but one");
    drop(engine);
    disk.rot(&segment(1), find(&disk, &segment(1), "key7") + 30, b"rot").expect("rotten");
    assert_quarantined(&disk, "vouched");
}

#[test]
fn a_mark_counts_only_in_its_place() {
    // A mark that stands elsewhere than it says (a copy of old bytes) vouches for nothing.
    let disk = written(8, false);
    let bytes = read(&disk, &segment(1));
    let key7 = find(&disk, &segment(1), "key7");
    let mark = bytes[key7 as usize - 80..key7 as usize].to_vec();
    assert_eq!(mark[20], 5, "each sync's batch is headed by its mark");
    disk.rot(&segment(1), key7, b"rot").expect("rotten");
    disk.rot(&segment(1), key7 + 256, &mark).expect("a copy behind it");
    assert_eq!(tail_of(&disk), 8);
}

#[test]
fn a_seal_without_its_entries_is_corruption_and_a_missing_seal_is_none_if_the_next_segment_joins() {
    let fill = |disk: &CrashDisk| {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let engine = open_with(&shared, dir(), options());
        engine.shards()[0].open_epoch(1, 1).expect("opened");
        for i in 0..40 {
            put(&engine.shards()[0], 1, format!("key{i}").as_bytes(), &[i; 4000]);
        }
        engine.sync_all().expect("synced");
        assert!(engine.shards()[0].log_segments().len() >= 3);
        engine.shards()[0].log_segments().iter().map(|s| (s.id(), s.end())).collect::<Vec<_>>()
    };
    let disk = CrashDisk::new();
    fill(&disk);
    // The last but one has ended by the manifest: nothing in it may be amiss.
    disk.rot(&segment(2), 9000, b"rot").expect("rotten");
    assert_quarantined(&disk, &Segment::file_name(2));

    let disk = CrashDisk::new();
    let ends = fill(&disk);
    let (id, end) = ends[ends.len() - 2];
    let seal_at = end.expect("ended").len - 64;
    assert_eq!(read(&disk, &segment(id))[seal_at as usize + 20], 6, "a seal ends it");
    let manifest = newest_manifest(&disk);
    let ended = |m: &Manifest| m.files.iter().find(|file| file.id == id).expect("listed").end.is_some();
    assert!(ended(&manifest), "it was synced before the next was opened");
    disk.rot(&segment(id), seal_at, &[0; 64]).expect("the seal is gone");
    assert_quarantined(&disk, &Segment::file_name(id));
}

fn newest_manifest(disk: &CrashDisk) -> Manifest {
    let newest = slots::newest(SHARD_META_MAGIC, &read(disk, &in_shard("shard.meta"))).expect("sound");
    let meta = crate::engine::format::shard_meta::ShardMeta::decode(&newest.payload).expect("decoded");
    Manifest::decode(&read(disk, &in_shard(&Manifest::name(meta.manifest)))).expect("decoded")
}

#[test]
fn a_missing_file_and_an_unknown_one_are_no_leftovers() {
    let disk = written(4, true);
    disk.remove_file(&segment(1)).expect("removed");
    assert_quarantined(&disk, "0000000001.seg is missing");

    // A truncation leaves two ids given out; then a file of an id that was never listed turns up.
    let disk = written(4, true);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = open_with(&shared, dir(), options());
    engine.shards()[0].truncate_to(2).expect("cut");
    engine.shards()[0].open_epoch(2, 1).expect("opened");
    engine.close().expect("closed");
    drop(engine);
    assert_eq!(newest_manifest(&disk).next_file_id, 3);
    create(&disk, &segment(0), &[1; 100]);
    assert_quarantined(&disk, "0000000000.seg is not listed");
}

#[test]
fn leftovers_of_what_did_not_happen_are_removed() {
    let disk = written(4, true);
    let kept: Vec<String> = image(&disk).into_keys().collect();
    let old = Manifest::name(1);
    let leftovers = [
        segment(2),
        segment(77),
        in_shard("compaction-0.tmp"),
        in_shard("0000000001.hint.tmp"),
        in_shard("0000000009.hint"),
        in_shard(&Manifest::name(999)),
    ];
    for path in &leftovers {
        create(&disk, path, &[1; 100]);
    }
    assert_eq!(state(&disk).0, ShardState::Ready);
    let left: Vec<String> = image(&disk).into_keys().collect();
    assert!(left.iter().filter(|name| **name != old).eq(kept.iter().filter(|name| **name != old)), "{left:?}");
}

#[test]
fn with_one_slot_of_shard_meta_lost_nothing_is_deleted_and_an_unlisted_file_with_records_is_alarming() {
    for slot in [0u64, 1] {
        let disk = written(4, true);
        create(&disk, &in_shard("compaction-0.tmp"), b"half an output");
        create(&disk, &segment(5), &[0; 4096]);
        disk.rot(&in_shard("shard.meta"), slot * SLOT_BYTES as u64 + 30, b"rot").expect("rotten");
        let (names, newest) = (image(&disk).into_keys().collect::<Vec<_>>(), newest_manifest(&disk));
        let opened = state(&disk);
        assert!(names.iter().all(|name| image(&disk).contains_key(name)), "slot {slot}: nothing is deleted");
        // The older slot may name a manifest that has been superseded: what it does not list is alarming.
        let all_listed = newest.files.iter().any(|file| file.id == 1);
        assert_eq!(opened.0 == ShardState::Ready, all_listed, "slot {slot}: {opened:?}");
        create(&disk, &segment(6), &[&[0; 100][..], b"records"].concat());
        let (after, reason) = state(&disk);
        assert!(matches!(after, ShardState::Quarantined { .. }), "slot {slot}: it is {after}");
        assert!(reason.contains("0000000006.seg has records") || !all_listed, "{reason}");
    }
}

#[test]
fn without_any_readable_slot_or_manifest_the_shard_is_quarantined_and_kept() {
    let disk = written(4, true);
    for slot in [0, SLOT_BYTES as u64] {
        disk.rot(&in_shard("shard.meta"), slot + 30, b"rot").expect("rotten");
    }
    assert_quarantined(&disk, "neither slot of shard.meta");

    let disk = written(4, true);
    let name = Manifest::name(newest_manifest(&disk).seq);
    disk.rot(&in_shard(&name), 40, b"rot").expect("rotten");
    assert_quarantined(&disk, &name);

    let disk = written(4, true);
    disk.remove_file(&in_shard(&name)).expect("removed");
    assert_quarantined(&disk, "is missing");

    let disk = written(4, true);
    disk.remove_file(&in_shard("shard.meta")).expect("removed");
    assert_quarantined(&disk, "shard.meta is missing");
}

#[test]
fn a_lost_slot_is_written_again_by_the_next_change() {
    let disk = written(4, true);
    let bytes = read(&disk, &in_shard("shard.meta"));
    let older = 1 - slots::newest(SHARD_META_MAGIC, &bytes).expect("sound").slot;
    disk.rot(&in_shard("shard.meta"), (older * SLOT_BYTES) as u64 + 30, b"rot").expect("rotten");
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = open_with(&shared, dir(), options());
    assert_eq!(engine.shards()[0].state(), ShardState::Ready);
    engine.close().expect("closed");
    let found = slots::newest(SHARD_META_MAGIC, &read(&disk, &in_shard("shard.meta"))).expect("sound");
    assert!(found.older.is_some(), "both slots are sound again");
}

#[test]
fn a_newer_format_is_refused_by_name_and_left_alone() {
    let disk = written(4, true);
    let path = dir().join("node.meta");
    let newest = slots::newest(NODE_META_MAGIC, &read(&disk, &path)).expect("sound");
    let mut record = NodeRecord::decode(&newest.payload).expect("decoded");
    record.meta.format_level = 7;
    let bytes = slots::encode(NODE_META_MAGIC, newest.seq + 1, &record.encode());
    disk.rot(&path, ((1 - newest.slot) * SLOT_BYTES) as u64, &bytes).expect("written");
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let before = read(&disk, &path);
    let refused = Engine::open(shared, dir(), options(), InstanceId(1)).expect_err("a newer version wrote it");
    assert!(matches!(refused, EngineError::NewerFormat { found: 7, .. }), "{refused}");
    assert_eq!(read(&disk, &path), before);

    let disk = written(4, true);
    let mut header = read(&disk, &segment(1))[..64].to_vec();
    header[8] = 2;
    let crc = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    disk.rot(&segment(1), 0, &header).expect("written");
    assert_quarantined(&disk, "format 2");
}

#[test]
fn a_record_of_an_unknown_kind_is_refused_and_never_skipped() {
    let disk = written(4, true);
    let at = find(&disk, &segment(1), "key2") as usize;
    let bytes = read(&disk, &segment(1));
    let mut record = bytes[at..at + 128].to_vec();
    record[20] = 9;
    let body = crc32c::crc32c(&record[24..]);
    let gsn = u64::from_le_bytes(record[..8].try_into().expect("eight"));
    crate::engine::format::record::stamp(&mut record, gsn, body);
    disk.rot(&segment(1), at as u64, &record).expect("written");
    assert_quarantined(&disk, "no known record");
}

#[test]
fn files_of_another_cluster_are_not_taken_for_ones_own() {
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = open_with(&shared, dir(), options());
    engine.update_meta(|meta| meta.cluster_id = Some(crate::ident::ClusterId(5))).expect("told");
    engine.shards()[0].open_epoch(1, 1).expect("opened");
    put(&engine.shards()[0], 1, b"key", b"value");
    engine.close().expect("closed");
    drop(engine);
    let mut header = read(&disk, &segment(1))[..64].to_vec();
    assert_eq!(header[16], 5);
    header[16] = 6;
    let crc = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    disk.rot(&segment(1), 0, &header).expect("written");
    assert_quarantined(&disk, "belongs to cluster");
}

#[test]
fn a_torn_batch_is_cut_at_the_end_of_the_one_before_it() {
    // A batch of three records in pages of their own: the machine dies while the second page is lost.
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = open_with(&shared, dir(), options());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    put(shard, 1, b"before", b"it");
    engine.sync_all().expect("synced");
    let value = vec![3; 4090];
    let batch = WriteBatch::new().put("a", value.clone()).put("b", value.clone()).put("c", value);
    append(shard, 1, &batch);
    disk.inject(crate::disk::Fault {
        on: crate::disk::FaultOn::Sync,
        path_contains: ".seg".into(),
        skip: 0,
        times: 1,
        errno: libc::EIO,
    });
    let kept = std::cell::Cell::new(0);
    let crashes = {
        // Before the failing sync: everything is written, nothing of the batch is synced.
        let crash = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = crash.clone();
        disk.observe(move |disk, _| sink.lock().expect("not poisoned").push(disk.kill()));
        assert!(engine.sync_all().is_err());
        disk.unobserve();
        crash.lock().expect("not poisoned").clone()
    };
    let before_sync = &crashes[0];
    for lost in 0..4u64 {
        let survivor = before_sync.crash(&mut |unsynced| match unsynced {
            crate::disk::Unsynced::Page { page, .. } if *page == lost => Keep::Drop,
            _ => {
                kept.set(kept.get() + 1);
                Keep::Keep
            }
        });
        let shared: Arc<dyn Disk> = Arc::new(survivor);
        let engine = open_with(&shared, dir(), options());
        let shard = &engine.shards()[0];
        assert_eq!(shard.state(), ShardState::Ready);
        let tail = shard.tail().last.gsn;
        assert!(tail == 2 || tail == 5, "page {lost}: all of the batch or nothing, the tail is {tail}");
        shard.advance_commit(tail);
        let found: Vec<bool> = [b"a", b"b", b"c"].iter().map(|key| get(shard, *key).is_some()).collect();
        assert!(found.iter().all(|there| *there == (tail == 5)), "page {lost}: {found:?}");
    }
    assert!(kept.get() > 0);
}

#[test]
fn a_tail_that_is_torn_at_a_segments_first_record_leaves_the_segment_before_it_whole() {
    // Under `Os` a segment is left behind un-synced: when the machine dies, the manifest does not know its end.
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let options = EngineOptions { durability: Durability::Os, ..options() };
    let engine = open_with(&shared, dir(), options.clone());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    while shard.log_segments().len() < 2 {
        put(shard, 1, format!("key{}", shard.tail().last.gsn).as_bytes(), &[1; 4000]);
    }
    put(shard, 1, b"more", &[1; 8000]);
    let whole = shard.log_segments()[0].end().expect("ended").last.last.gsn;
    // Of the second segment the first page is lost and the next is not.
    let lost = |unsynced: &crate::disk::Unsynced| matches!(unsynced, crate::disk::Unsynced::Page { path, page: 0, .. } if path.ends_with("0000000002.seg"));
    let crashed = disk.crash(&mut |unsynced| if lost(unsynced) { Keep::Drop } else { Keep::Keep });
    for _ in 0..2 {
        let shared: Arc<dyn Disk> = Arc::new(crashed.clone());
        let engine = open_with(&shared, dir(), EngineOptions { boot_id: Some([2; 16]), ..options.clone() });
        let shard = &engine.shards()[0];
        assert_eq!(shard.state(), ShardState::Amnesic);
        assert_eq!(shard.tail().last.gsn, whole);
        assert!(shard.verify().is_sound(), "{:?}", shard.verify());
        assert!(shard.log_segments()[0].end().is_some_and(|end| end.len > 60_000), "nothing of it was cut");
        shard.advance_commit(whole);
        shard.set_state(ShardState::Ready).expect("told");
        assert!((1..whole).all(|gsn| get(shard, format!("key{gsn}").as_bytes()).is_some()));
        shard.set_state(ShardState::Amnesic).expect("told");
    }
}
