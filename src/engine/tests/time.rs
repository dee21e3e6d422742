//! Committed time has its place in the log: no read shows a time that a write before it was not judged by.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::disk::{CrashDisk, Disk};

/// A leader of epoch 1, which began at 100, with one key that expires at 150.
fn leader(disk: &Arc<dyn Disk>) -> Arc<Engine> {
    let engine = open(disk, Path::new("/data"), Durability::Disk);
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 100).expect("opened");
    append(shard, 1, &WriteBatch::new().op(expiring("k", 150)));
    commit_all(&engine);
    assert_eq!(shard.committed_time_ms(), 100);
    engine
}

fn expiring(key: &'static str, expires_ms: u64) -> WriteOp {
    let (key, value) = (key.into(), "v".into());
    WriteOp::Put { tree: TreeId::DEFAULT, key, value, expires_ms: Some(expires_ms), value_type: 0 }
}

fn if_present() -> WriteBatch {
    WriteBatch::new().put("other", "1").expect("k", Expect::Present)
}

fn shows(shard: &Shard) -> bool {
    shard.get(TreeId::DEFAULT, b"k", shard.committed_time_ms()).expect("readable").is_some()
}

#[test]
fn no_read_shows_a_key_expired_before_a_write_that_was_judged_by_its_being_there() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let engine = leader(&disk);
    let shard = &engine.shards()[0];
    let judged = append(shard, 1, &if_present());
    let later = append(shard, 1, &WriteBatch::new().put("later", "1"));
    shard.note_committed_time(200, 0);
    assert!(shows(shard), "a write was judged at 100 and is not committed yet");
    let answer = shard.append(1, &if_present()).expect("judged");
    assert_eq!(answer, Appended::ConditionFailed { index: 0, judged_at: judged }, "it is 200 for conditions");
    engine.sync_all().expect("synced");
    shard.advance_commit(later);
    assert!(!shows(shard));
    // What nothing was judged by holds nothing up.
    append(shard, 1, &WriteBatch::new().put("more", "1"));
    shard.note_committed_time(300, 0);
    assert_eq!(shard.committed_time_ms(), 300);
}

#[test]
fn a_refusal_by_what_is_not_committed_yet_has_its_time_as_well() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let engine = leader(&disk);
    let shard = &engine.shards()[0];
    // Both in one batch: the entry that it is refused by is not the batch's last.
    append(shard, 1, &WriteBatch::new().op(expiring("new", 150)).put("other", "1"));
    let if_absent = WriteBatch::new().put("other", "2").expect("new", Expect::Absent);
    assert!(matches!(shard.append(1, &if_absent), Ok(Appended::ConditionFailed { .. })));
    shard.note_committed_time(200, 0);
    assert_eq!(shard.committed_time_ms(), 100, "nobody has seen it yet, and it was there");
    commit_all(&engine);
    assert_eq!((shard.applied(), shard.committed_time_ms()), (shard.tail_gsn(), 200));
}

#[test]
fn a_follower_shows_a_time_with_what_its_leader_had_committed_before() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let engine = leader(&disk);
    let shard = &engine.shards()[0];
    shard.close_epoch();
    let applied = shard.applied();
    shard.note_committed_time(200, applied + 1);
    assert_eq!((shard.committed_time_ms(), shard.told_time_ms()), (100, 200));
    shard.note_committed_time(150, applied);
    assert_eq!(shard.committed_time_ms(), 100, "places do not fall");
    let barrier = shard.open_epoch(2, 0).expect("opened").last.gsn;
    assert_eq!((barrier, shard.log_time_ms()), (applied + 1, 200), "an epoch begins with what was told");
    commit_all(&engine);
    assert_eq!(shard.committed_time_ms(), 200);
}

/// As after an unsafe recovery: what the follower was told of and never got is nobody's any more.
#[test]
fn time_goes_on_in_a_new_epoch_whatever_entries_it_had_been_told_together_with() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let engine = leader(&disk);
    let shard = &engine.shards()[0];
    shard.close_epoch();
    shard.note_committed_time(200, shard.applied() + 4000);
    let barrier = shard.open_epoch(2, 0).expect("opened").last.gsn;
    let judged = shard.append(2, &if_present()).expect("judged");
    assert_eq!(judged, Appended::ConditionFailed { index: 0, judged_at: barrier });
    commit_all(&engine);
    shard.note_committed_time(300, 0);
    assert_eq!(shard.committed_time_ms(), 300);
}

#[test]
fn a_new_epochs_first_conditions_are_judged_by_the_time_that_it_begins_at() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let engine = leader(&disk);
    let shard = &engine.shards()[0];
    let barrier = shard.open_epoch(2, 200).expect("opened").last.gsn;
    assert!(shows(shard), "its beginning is not committed");
    let judged = shard.append(2, &if_present()).expect("judged");
    assert_eq!(judged, Appended::ConditionFailed { index: 0, judged_at: barrier });
    commit_all(&engine);
    assert!(!shows(shard));
}

#[test]
fn an_epoch_begins_no_earlier_than_what_the_log_was_judged_by_before_a_restart() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let engine = leader(&disk);
    engine.shards()[0].open_epoch(2, 200).expect("opened");
    engine.close().expect("closed");
    drop(engine);
    let engine = open(&disk, Path::new("/data"), Durability::Disk);
    let shard = &engine.shards()[0];
    assert_eq!(engine.log_time_ms(), 200);
    shard.open_epoch(3, 0).expect("opened");
    let judged = shard.append(3, &if_present()).expect("judged");
    assert!(matches!(judged, Appended::ConditionFailed { .. }), "{judged:?}");
    commit_all(&engine);
    assert_eq!(shard.committed_time_ms(), 200);
}

#[test]
fn a_time_whose_place_was_cut_off_is_told_again() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let engine = leader(&disk);
    let shard = &engine.shards()[0];
    let committed = shard.commit();
    append(shard, 1, &if_present());
    shard.note_committed_time(200, 0);
    engine.sync_all().expect("synced");
    shard.close_epoch();
    shard.clone().truncate_to(committed).expect("cut");
    assert_eq!(shard.committed_time_ms(), 100);
    shard.note_committed_time(201, committed);
    assert_eq!(shard.committed_time_ms(), 201);
}

/// Ends the other threads, also when an assertion fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// One thread lets time pass, one writes as long as a key is there, one watches: once it has seen the key expired, no
/// such write is applied any more.
#[test]
fn writers_readers_and_a_clock_agree_when_a_key_expired() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let engine = open(&disk, Path::new("/data"), Durability::Disk);
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    commit_all(&engine);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            for time_ms in 2.. {
                if over.load(Ordering::Acquire) {
                    return;
                }
                shard.note_committed_time(time_ms, 0);
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            // Commits what is written, some time later.
            while !over.load(Ordering::Acquire) {
                commit_all(&engine);
                std::thread::yield_now();
            }
        });
        for _ in 0..50 {
            let expires_ms = shard.told_time_ms() + 50;
            append(shard, 1, &WriteBatch::new().op(expiring("k", expires_ms)));
            let writer = scope.spawn(|| {
                let mut last = 0;
                while !over.load(Ordering::Acquire) {
                    // However busy the processors are: what is on the way stays short.
                    if last > shard.applied() + 32 {
                        std::thread::yield_now();
                        continue;
                    }
                    match shard.append(1, &if_present()) {
                        Ok(Appended::Written { position, .. }) => last = position.gsn,
                        Ok(Appended::ConditionFailed { .. }) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                last
            });
            while shard.committed_time_ms() < expires_ms {
                std::thread::yield_now();
            }
            // Whoever looks at keys by that time looks at what was applied when it came to be shown.
            let applied = shard.log.lock().applied.last.gsn;
            let last = writer.join().expect("it ends");
            assert!(last <= applied, "{last} was judged by a key that {applied} showed expired at {expires_ms}");
        }
    });
}

#[test]
fn a_key_that_is_replaced_while_the_clock_is_looked_at_is_not_called_expired() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let engine = leader(&disk);
    let shard = &engine.shards()[0];
    let clock = || {
        put(shard, 1, b"k", b"new");
        commit_all(&engine);
        1000
    };
    let value = shard.get_at(TreeId::DEFAULT, b"k", clock).expect("readable").expect("it was there all the time");
    assert_eq!(&value.bytes[..], b"new");
    append(shard, 1, &WriteBatch::new().op(expiring("k", 150)));
    commit_all(&engine);
    let length = shard.get_with_at(TreeId::DEFAULT, b"k", clock, <[u8]>::len).expect("readable");
    assert_eq!(length, Some(3));
}
