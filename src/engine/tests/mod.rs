//! The engine as a whole: each file here is one kind of promise. They run on the crash disk, which can lose
//! power, fail, fill up and rot, and a few on a real one.

mod basics;
mod compaction;
mod crash;
mod damage;
mod fault;
mod full_disk;
mod history;
mod mending;
mod outcomes;
mod spare;
mod time;

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::disk::Disk;
use crate::ident::{InstanceId, Sid};

/// Small segments, nothing in the background.
fn options() -> EngineOptions {
    EngineOptions {
        segment_bytes: 64 << 10,
        zero_ahead_bytes: 16 << 10,
        max_value_bytes: 8 << 10,
        background: Background::Manual,
        boot_id: Some([1; 16]),
        ..EngineOptions::default()
    }
}

/// As [`options`], with no log kept but the newest segment, so that there is something to compact.
fn eager() -> EngineOptions {
    EngineOptions {
        retention: Retention { min_bytes: 0, min_age: std::time::Duration::ZERO, max_bytes: None },
        ..options()
    }
}

/// Opens a directory of one shard, formatted and made ready if it is new.
fn open_with(disk: &Arc<dyn Disk>, dir: &Path, options: EngineOptions) -> Arc<Engine> {
    if !Engine::is_formatted(disk, dir).expect("readable") {
        Engine::format(disk, dir, &Format { sid: Sid(7), shards: 1 }).expect("formatted");
    }
    let engine = Engine::open(disk.clone(), dir, options, InstanceId(1)).expect("opened");
    let shard = &engine.shards()[0];
    if shard.state() == ShardState::Blank {
        shard.set_state(ShardState::Ready).expect("ready");
    }
    engine
}

fn open(disk: &Arc<dyn Disk>, dir: &Path, durability: Durability) -> Arc<Engine> {
    let engine = open_with(disk, dir, EngineOptions { durability, ..options() });
    assert_eq!(engine.shards()[0].state(), ShardState::Ready);
    engine
}

fn get(shard: &Shard, key: &[u8]) -> Option<Vec<u8>> {
    shard.get(TreeId::DEFAULT, key, 0).expect("readable").map(|value| value.bytes.to_vec())
}

fn append(shard: &Shard, epoch: u64, batch: &WriteBatch) -> u64 {
    match shard.append(epoch, batch).expect("appended") {
        Appended::Written { position, .. } => position.gsn,
        Appended::ConditionFailed { .. } => panic!("no condition was set"),
    }
}

fn put(shard: &Shard, epoch: u64, key: &[u8], value: &[u8]) -> u64 {
    append(shard, epoch, &WriteBatch::new().put(key.to_vec(), value.to_vec()))
}

/// Makes everything appended durable and committed.
fn commit_all(engine: &Engine) {
    engine.sync_all().expect("synced");
    for shard in engine.shards() {
        shard.advance_commit(shard.tail().last.gsn);
    }
}

/// Housekeeping until there is nothing to do; how many steps that took.
fn compact_all(engine: &Engine) -> usize {
    let mut steps = 0;
    while engine.compact_step().expect("housekeeping works") {
        steps += 1;
        assert!(steps < 10_000, "housekeeping comes to rest");
    }
    steps
}

/// The seeds of a test that has some, or those that `ARMDB_SEEDS` asks for (`7` or `1..200`): a failure tells
/// its seed.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let Ok(asked) = std::env::var("ARMDB_SEEDS") else { return 1..count + 1 };
    let number = |text: &str| text.parse().expect("ARMDB_SEEDS is a number or two with `..` between them");
    match asked.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&asked)..number(&asked) + 1,
    }
}

/// A small generator: tests are the same for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6a09_e667_f3bc_c908)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
