//! What must have happened in a long run: a simulation in which nothing happens proves nothing.
//!
//! Counted where it happens, by name; a run of [`ENOUGH`] seeds or more that never saw one of these has failed.

use super::member::Counts;

/// So many seeds reach everything.
pub(super) const ENOUGH: u64 = 20_000;

/// Rare events. Others are counted as well, and printed in parentheses, that chance alone has not been seen to reach in
/// 20,000 seeds: a stream that its cursor ended, a shard copied by a candidate, an amnesic shard made whole by a promotion,
/// a read that a rotten record refused, a write that was refused for want of memory.
pub(crate) const EVENTS: &[&str] = &[
    "logs truncated after a failover",
    "logs truncated by ASSEMBLE",
    "tails pulled by candidates",
    "leaders deposed with writes under way",
    "leaders that died before they served",
    "commits held back for an older lease",
    "reads refused for want of a lease",
    "requests of epochs that are over refused",
    "cursors that fell out of memory",
    "cursors that fell out of memory during a failover",
    "full copies for want of log",
    "full copies of what was unsound",
    "full copies finished",
    "full copies gone on with",
    "epochs changed during a full copy",
    "deaths during a full copy",
    "deaths during a disk operation",
    "losses of power during a disk operation",
    "deaths during recovery",
    "engines that failed by an injected error",
    "shards quarantined at open",
    "shards amnesic at open",
    "amnesic shards made whole by a leader",
    "log floors raised",
    "compactions",
    "tombstones dropped",
    "laggards that return after tombstones were dropped",
    "expired values dropped",
    "writes refused by a full disk",
    "syncs that a full disk held up",
    "conditional writes appended",
    "conditions answered",
    "writes told to be not done after they were appended",
    "writes done and never told",
    "drains that came to an end",
    "drains cut short",
    "swaps that conflicted",
    "swaps of unknown outcome",
    "registers rebuilt",
    "voters replaced",
    "voters' numbers changed",
];

/// Which of them never happened.
pub(super) fn missing(counts: &Counts) -> Vec<&'static str> {
    EVENTS.iter().copied().filter(|event| counts.get(event).is_none_or(|n| *n == 0)).collect()
}
