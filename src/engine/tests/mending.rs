//! Rot in files that no longer change: exactly known, told, lived with, and mended record by record from another member.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::disk::{CrashDisk, Disk};
use crate::engine::format::notes::Mark;
use crate::engine::format::record::{Kind, Record};
use crate::engine::segment::Segment;
use crate::position::Gsn;

fn dir() -> &'static Path {
    Path::new("/data")
}

fn path(id: u32) -> PathBuf {
    dir().join("shard-000").join(Segment::file_name(id))
}

/// Two members with the same log.
struct Pair {
    leader: Arc<Engine>,
    disk: CrashDisk,
    follower: Arc<Engine>,
    options: EngineOptions,
}

impl Pair {
    /// Three segments' worth of keys in two epochs, of which some are overwritten and some deleted; hints are made, and
    /// with [`eager`] all but the newest is compacted.
    fn new(options: EngineOptions) -> Self {
        let leader_disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
        let disk = CrashDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let leader = open_with(&leader_disk, dir(), options.clone());
        let follower = open_with(&shared, dir(), options.clone());
        let pair = Self { leader, disk, follower, options };
        let shard = &pair.leader.shards()[0];
        shard.open_epoch(1, 1).expect("opened");
        for i in 0..600 {
            let key = format!("key{:03}", i % 400);
            put(shard, if i < 300 { 1 } else { 2 }, key.as_bytes(), &[i as u8; 300]);
            if i % 7 == 0 {
                pair.leader.sync_all().expect("synced");
                pair.ship();
            }
            if i == 299 {
                shard.open_epoch(2, 5).expect("opened");
            }
            if i == 350 {
                (200..260).step_by(3).for_each(|i| {
                    append(shard, 2, &WriteBatch::new().delete(format!("key{i}").into_bytes()));
                });
            }
        }
        pair.ship();
        for engine in [&pair.leader, &pair.follower] {
            commit_all(engine);
            compact_all(engine);
        }
        pair
    }

    fn ship(&self) {
        self.leader.sync_all().expect("synced");
        let to = &self.follower.shards()[0];
        let mut reader = self.leader.shards()[0].log_reader(to.tail().last.gsn).expect("it has the log");
        while let Some(chunk) = reader.next_chunk(1 << 20).expect("sound") {
            to.append_chunk(&chunk).expect("taken");
        }
        self.follower.sync_all().expect("synced");
    }

    fn shard(&self) -> &Arc<Shard> {
        &self.follower.shards()[0]
    }

    /// The follower again, after its process has ended.
    fn reopen(&mut self) {
        self.disk = self.disk.kill();
        let shared: Arc<dyn Disk> = Arc::new(self.disk.clone());
        self.follower = open_with(&shared, dir(), self.options.clone());
        self.shard().advance_commit(self.shard().tail().last.gsn);
    }

    fn bytes(&self, id: u32) -> Vec<u8> {
        let file = self.disk.open_read(&path(id)).expect("opened");
        let mut bytes = vec![0; file.len().expect("measured") as usize];
        file.read_at(&mut bytes, 0).expect("read");
        bytes
    }

    /// The follower's file and offset of the first record that `picks`.
    fn find(&self, picks: impl Fn(&Record<'_>) -> bool) -> (u32, u64, Gsn) {
        let names = self.disk.list(&dir().join("shard-000")).expect("listed");
        for id in names.iter().filter_map(|entry| Segment::id_of(&entry.name)) {
            let bytes = self.bytes(id);
            let mut at = 64;
            while let Some(record) = bytes.get(at..).and_then(Record::peek) {
                if picks(&record) {
                    return (id, at as u64, record.gsn());
                }
                at += record.len();
            }
        }
        panic!("there is no such record")
    }

    fn rot(&self, (id, at, _): (u32, u64, Gsn)) -> u32 {
        self.disk.rot(&path(id), at + 16, b"rot").expect("rotten");
        id
    }

    /// What the leader has of what a file lacks.
    fn had(&self, id: u32) -> BTreeMap<Gsn, Bytes> {
        let wanted = self.shard().wanted(id).expect("it can be told");
        assert!(!wanted.is_empty());
        let leader = &self.leader.shards()[0];
        wanted.iter().filter_map(|wanted| Some((wanted.gsn, leader.entry(wanted)?))).collect()
    }

    /// Both show the same, and every record of the follower verifies.
    fn assert_whole(&self) {
        assert_eq!(self.shard().state(), ShardState::Ready);
        let report = self.shard().verify();
        assert!(report.is_sound(), "{:?}", report.damage);
        for i in 0..400 {
            let key = format!("key{i:03}");
            assert_eq!(get(self.shard(), key.as_bytes()), get(&self.leader.shards()[0], key.as_bytes()), "{key}");
        }
    }
}

fn is_put<'a>(key: &'a str, value: u8) -> impl Fn(&Record<'_>) -> bool + 'a {
    move |r| r.kind() == Kind::Put && r.key() == key.as_bytes() && r.value().first() == Some(&value)
}

#[test]
fn a_damaged_record_of_the_log_is_told_lived_with_and_mended_under_a_new_id() {
    let mut pair = Pair::new(options());
    let id = pair.rot(pair.find(is_put("key300", 44)));
    assert!(pair.shard().get(TreeId::DEFAULT, b"key300", 0).is_err(), "never another answer than the right one");
    compact_all(&pair.follower);
    assert_eq!(pair.shard().state(), ShardState::Damaged { files: vec![id] }, "whoever reads it finds it");
    assert_eq!(get(pair.shard(), b"key301"), get(&pair.leader.shards()[0], b"key301"));
    assert!(pair.shard().pin_snapshot().is_err(), "it gives no files");
    let tail = pair.shard().tail();

    pair.reopen();
    assert_eq!(pair.shard().state(), ShardState::Damaged { files: vec![id] }, "that is persisted");
    assert_eq!(pair.shard().tail(), tail);
    assert!(pair.shard().get(TreeId::DEFAULT, b"key300", 0).is_err());
    // The log goes on meanwhile.
    put(&pair.leader.shards()[0], 2, b"key399", b"new");
    pair.ship();
    for engine in [&pair.leader, &pair.follower] {
        commit_all(engine);
    }

    let had = pair.had(id);
    assert_eq!(had.len(), 1);
    assert_eq!(pair.shard().mend(id, &had).expect("written"), Mended::Whole);
    pair.assert_whole();
    assert!(!pair.disk.exists(&path(id)).expect("looked for"), "the damaged file is gone");
    pair.reopen();
    pair.assert_whole();
}

#[test]
fn barriers_and_notes_that_rot_are_mended_as_well() {
    for what in [Kind::Barrier, Kind::Mark, Kind::Seal] {
        let mut pair = Pair::new(options());
        let later = |r: &Record<'_>| match what {
            Kind::Barrier => r.gsn() > 1,
            Kind::Mark => Mark::decode(r).is_ok_and(|mark| mark.durable.last.gsn > 1),
            _ => true,
        };
        let id = pair.rot(pair.find(|r| r.kind() == what && later(r)));
        pair.shard().scrub().expect("read");
        assert_eq!(pair.shard().state(), ShardState::Damaged { files: vec![id] }, "{what:?}");
        let wanted = pair.shard().wanted(id).expect("it can be told");
        assert_eq!(wanted.len(), usize::from(what == Kind::Barrier), "{what:?}");
        let leader = &pair.leader.shards()[0];
        let had = wanted.iter().filter_map(|wanted| Some((wanted.gsn, leader.entry(wanted)?))).collect();
        assert_eq!(pair.shard().mend(id, &had).expect("written"), Mended::Whole, "{what:?}");
        pair.assert_whole();
        pair.reopen();
        pair.assert_whole();
    }
}

#[test]
fn in_outputs_of_compaction_records_are_had_by_key_and_what_is_overwritten_needs_nobody() {
    let mut options = eager();
    options.compaction.min_garbage_ratio = 0.05;
    let mut pair = Pair::new(options);
    // One that is newest, and one that the log has overwritten since the compaction.
    let live = pair.find(is_put("key300", 44));
    let dead = pair.find(is_put("key310", 54));
    let cold = |found: &(u32, u64, Gsn)| pair.bytes(found.0)[14] == 1;
    assert!(cold(&live) && cold(&dead), "all of this is compacted");
    put(&pair.leader.shards()[0], 2, b"key310", b"new");
    pair.ship();
    for engine in [&pair.leader, &pair.follower] {
        commit_all(engine);
    }
    let ids: std::collections::BTreeSet<u32> = [live, dead].into_iter().map(|found| pair.rot(found)).collect();
    pair.shard().scrub().expect("read");
    for id in ids {
        let had = pair.had(id);
        assert_eq!(pair.shard().mend(id, &had).expect("written"), Mended::Whole);
    }
    pair.assert_whole();
    assert_eq!(get(pair.shard(), b"key310"), Some(b"new".to_vec()));
    pair.reopen();
    pair.assert_whole();
    compact_all(&pair.follower);
    pair.assert_whole();
}

/// Where in a record something rots: in each field of its header, in its key.
const PLACES: [u64; 7] = [0, 4, 8, 12, 16, 20, 26];

#[test]
fn whatever_of_a_record_rots_what_it_hid_does_not_come_back_with_a_restart() {
    let is_tombstone = |r: &Record<'_>| r.kind() == Kind::Delete && r.key() == b"key203";
    for options in [options(), eager()] {
        for place in PLACES {
            let mut pair = Pair::new(options.clone());
            let tombstone = pair.find(is_tombstone);
            let newer = pair.find(is_put("key100", 500u16 as u8));
            for (id, at, _) in [tombstone, newer] {
                pair.disk.rot(&path(id), at + place, b"rot").expect("rotten");
            }
            pair.reopen();
            let value = |key: &str| pair.shard().get(TreeId::DEFAULT, key.as_bytes(), 0);
            assert!(value("key203").is_ok_and(|found| found.is_none()), "{place}: a removed value is back");
            let found = value("key100");
            assert!(
                found.as_ref().is_err() || found.as_ref().is_ok_and(|v| v.as_ref().is_some_and(|v| v.bytes[0] == 244)),
                "{place}: an overwritten value is back: {found:?}"
            );
            pair.shard().scrub().expect("read");
            for id in pair.shard().damaged_files() {
                assert_eq!(pair.shard().mend(id, &pair.had(id)).expect("written"), Mended::Whole, "{place}");
            }
            pair.assert_whole();
        }
    }
}

#[test]
fn nobody_is_told_a_chain_that_goes_through_a_record_that_rotted() {
    for place in PLACES {
        let mut pair = Pair::new(options());
        // Nothing of the log is in memory.
        pair.reopen();
        let (id, at, gsn) = pair.find(is_put("key300", 44));
        let before = pair.shard().chain_at(gsn + 3).expect("sound");
        assert!(before.is_some());
        pair.disk.rot(&path(id), at + place, b"rot").expect("rotten");
        let told = pair.shard().chain_at(gsn + 3);
        assert!(matches!(told, Err(EngineError::Corrupt { .. })), "{place}: {told:?}, {before:?} is right");
        let reads = pair.shard().log_reader(gsn + 3);
        assert!(matches!(reads, Err(EngineError::Corrupt { .. })), "{place}");
        assert!(pair.shard().log_reader(gsn - 1).is_ok(), "{place}: what lies before it is sound");
        compact_all(&pair.follower);
        assert_eq!(pair.shard().state(), ShardState::Damaged { files: vec![id] }, "{place}: whoever reads it finds it");
    }
}

#[test]
fn a_rotten_record_that_is_overwritten_and_deleted_leaves_nothing_behind() {
    for place in PLACES {
        let mut pair = Pair::new(options());
        let found = pair.find(is_put("key300", 44));
        pair.disk.rot(&path(found.0), found.1 + place, b"rot").expect("rotten");
        for batch in [WriteBatch::new().put("key300", "new"), WriteBatch::new().delete("key300")] {
            append(&pair.leader.shards()[0], 2, &batch);
            pair.ship();
            for engine in [&pair.leader, &pair.follower] {
                commit_all(engine);
            }
            assert_eq!(get(pair.shard(), b"key300"), get(&pair.leader.shards()[0], b"key300"), "{place}");
        }
        pair.shard().scrub().expect("read");
        for id in pair.shard().damaged_files() {
            assert_eq!(pair.shard().mend(id, &pair.had(id)).expect("written"), Mended::Whole, "{place}");
        }
        pair.assert_whole();
        pair.reopen();
        pair.assert_whole();
    }
}

#[test]
fn nothing_is_replaced_by_what_is_not_the_same_record() {
    let pair = Pair::new(options());
    let found = pair.find(is_put("key300", 44));
    let id = pair.rot(found);
    pair.shard().scrub().expect("read");
    let before = pair.bytes(id);
    assert_eq!(pair.shard().mend(id, &BTreeMap::new()).expect("looked at"), Mended::Missing(found.2));
    // Sound by itself, of that key and gsn, and another value.
    let mut other = Vec::new();
    let draft = crate::engine::format::record::Draft {
        kind: Kind::Put,
        more: false,
        tree: 0,
        value_type: 0,
        expires_ms: None,
        key: b"key300",
        value: &[9; 300],
    };
    draft.encode_stamped(found.2, &mut other);
    let had = BTreeMap::from([(found.2, Bytes::from(other))]);
    let judged = pair.shard().mend(id, &had).expect("looked at");
    assert!(matches!(judged, Mended::Hopeless(_)), "the chain tells: {judged:?}");
    assert_eq!(pair.shard().state(), ShardState::Damaged { files: vec![id] });
    assert!(pair.bytes(id) == before, "it is left as it is");
    assert_eq!(pair.shard().mend(id, &pair.had(id)).expect("written"), Mended::Whole);
    pair.assert_whole();
}

#[test]
fn a_damaged_file_that_cannot_be_told_is_no_ground_for_a_guess() {
    let pair = Pair::new(options());
    let id = pair.rot(pair.find(is_put("key300", 44)));
    pair.shard().scrub().expect("read");
    pair.disk.remove_file(&path(id).with_extension("hint")).expect("removed");
    assert!(pair.shard().wanted(id).is_err_and(|why| why.contains("hint")));
    let judged = pair.shard().mend(id, &BTreeMap::new()).expect("looked at");
    assert!(matches!(judged, Mended::Hopeless(_)), "{judged:?}");
}
