//! What clients write and read: few keys, so that everything collides.

use bytes::Bytes;

use super::truth::Truth;
use crate::engine::{Expect, TreeId, WriteBatch, WriteOp};
use crate::position::LogPosition;
use crate::topology::random::Random;

/// Keys of a shard.
const KEYS: u64 = 24;

/// Any key.
pub(super) fn key(random: &mut Random) -> Vec<u8> {
    // Some are written often, some seldom.
    let n = if random.chance(500) { random.below(4) } else { random.below(KEYS) };
    format!("key-{n:02}").into_bytes()
}

/// A value that no other write has.
pub(super) fn value(random: &mut Random, op: u64, place: u64) -> Vec<u8> {
    let len = if random.chance(50) { 900 } else { random.below(350) };
    let mut value = format!("{op}.{place}").into_bytes();
    value.resize(value.len() + len as usize, b'.');
    value
}

/// A batch: mostly one operation, sometimes several, sometimes on conditions. `now_ms` is committed time.
pub(super) fn batch(random: &mut Random, op: u64, now_ms: u64, truth: &Truth) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let count = if random.chance(700) { 1 } else { 2 + random.below(2) };
    for place in 0..count {
        let key = Bytes::from(key(random));
        batch = batch.op(if random.chance(250) {
            WriteOp::Delete { tree: TreeId::DEFAULT, key }
        } else {
            let expires_ms = random.chance(200).then(|| now_ms + 50 + random.below(3000));
            let value = Bytes::from(value(random, op, place));
            WriteOp::Put { tree: TreeId::DEFAULT, key, value, expires_ms, value_type: 0 }
        });
    }
    if random.chance(250) {
        let key = key(random);
        let expect = match random.below(3) {
            0 => Expect::Absent,
            1 => Expect::Present,
            // What it last was, which may be long ago.
            _ => {
                let back = random.below(6).min(truth.len());
                let version = truth
                    .written(&key, truth.len() - back)
                    .and_then(|written| Some(LogPosition::new(truth.at(written.gsn)?.epoch, written.gsn)));
                version.map_or(Expect::Absent, Expect::Version)
            }
        };
        batch = batch.expect(key, expect);
    }
    batch
}
