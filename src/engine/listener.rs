//! What the engine tells the floors above as it happens.

use crate::position::Gsn;

/// Told by engine threads, or by the caller's own, never under a shard's lock. Must not block.
pub trait EngineListener: Send + Sync {
    /// The log of `shard` now ends at `tail`.
    fn appended(&self, shard: u16, tail: Gsn) {
        let _ = (shard, tail);
    }
    /// Everything of `shard` up to `gsn` is durable.
    fn durable(&self, shard: u16, gsn: Gsn) {
        let _ = (shard, gsn);
    }
    /// Reads of `shard` now show everything up to `gsn`.
    fn applied(&self, shard: u16, gsn: Gsn) {
        let _ = (shard, gsn);
    }
    /// What the data of `shard` is worth has changed, by what the engine found itself.
    fn state_changed(&self, shard: u16) {
        let _ = shard;
    }
    /// The engine has failed; the process must stop.
    fn failed(&self, reason: &str) {
        let _ = reason;
    }
}
