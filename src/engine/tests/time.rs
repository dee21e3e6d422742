//! Committed time has its place in the log: no read shows a time that a write before it was not judged by.

use std::path::Path;
use std::sync::Arc;

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
    let written = append(shard, 1, &if_present());
    shard.note_committed_time(200);
    assert!(shows(shard), "the write was judged at 100 and is not committed yet");
    let later = append(shard, 1, &WriteBatch::new().put("later", "1"));
    // Judged by the time that was told, which is shown with what was in the log by then.
    let judged = shard.append(1, &if_present()).expect("judged");
    assert_eq!(judged, Appended::ConditionFailed { index: 0, judged_at: written });
    engine.sync_all().expect("synced");
    shard.advance_commit(written);
    assert!(!shows(shard), "all before the time is applied");
    assert_eq!((shard.applied(), shard.committed_time_ms()), (written, 200));
    shard.advance_commit(later);
    // Nothing is on the way: what is told is shown.
    shard.note_committed_time(300);
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
    shard.open_epoch(3, 0).expect("opened");
    let judged = shard.append(3, &if_present()).expect("judged");
    assert!(matches!(judged, Appended::ConditionFailed { .. }), "{judged:?}");
    commit_all(&engine);
    assert_eq!(shard.committed_time_ms(), 200);
}

#[test]
fn a_time_whose_place_was_cut_off_is_shown_at_the_new_end() {
    let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
    let engine = leader(&disk);
    let shard = &engine.shards()[0];
    let committed = shard.commit();
    append(shard, 1, &if_present());
    shard.note_committed_time(200);
    engine.sync_all().expect("synced");
    shard.close_epoch();
    shard.clone().truncate_to(committed).expect("cut");
    assert_eq!(shard.committed_time_ms(), 200, "it was told: W voters know it");
}
