//! For how long a member's disk has synced nothing although something waits for it.
//!
//! Told from looks at two figures of each shard, not from what happens in between: appends and syncs are reported by
//! several threads, in no order. It is short by the time between two looks at most; whoever looks seldom learns of a
//! stall later.

use std::time::Duration;

use crate::position::Gsn;

/// See the module.
#[derive(Debug, Default)]
pub struct SyncStall {
    /// Per shard: what was durable when something was first seen to wait for more, and when that was.
    waits: Vec<Option<(Gsn, Duration)>>,
}

impl SyncStall {
    /// How long it has been at `now`, of the shard where it is longest. `shards`: the end of each one's log, and how far
    /// that is durable (read after it).
    pub fn look(&mut self, shards: impl IntoIterator<Item = (Gsn, Gsn)>, now: Duration) -> Duration {
        let mut longest = Duration::ZERO;
        for (shard, (tail, durable)) in shards.into_iter().enumerate() {
            if self.waits.len() <= shard {
                self.waits.push(None);
            }
            let since = match self.waits[shard] {
                _ if durable >= tail => None,
                Some((then, since)) if then == durable => Some(since),
                _ => Some(now),
            };
            self.waits[shard] = since.map(|since| (durable, since));
            longest = longest.max(since.map_or(Duration::ZERO, |since| now.saturating_sub(since)));
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_disk_stalls_while_something_waits_and_nothing_is_synced() {
        let mut stall = SyncStall::default();
        assert_eq!(stall.look([(5, 5)], ms(0)), ms(0));
        assert_eq!(stall.look([(6, 5)], ms(100)), ms(0));
        assert_eq!(stall.look([(9, 5)], ms(700)), ms(600), "appends do not make it shorter");
        assert_eq!(stall.look([(9, 6)], ms(800)), ms(0), "it got on");
        assert_eq!(stall.look([(9, 6)], ms(900)), ms(100));
        assert_eq!(stall.look([(9, 9)], ms(1000)), ms(0));
    }

    #[test]
    fn an_idle_disk_does_not_stall_however_long_ago_it_was_used() {
        let mut stall = SyncStall::default();
        stall.look([(6, 5)], ms(0));
        stall.look([(6, 6)], ms(100));
        assert_eq!(stall.look([(7, 6)], ms(60_000)), ms(0), "the first entry for a minute is not a minute old");
        assert_eq!(stall.look([(7, 7)], ms(60_001)), ms(0));
    }

    #[test]
    fn one_shard_that_is_synced_does_not_hide_another_that_is_not() {
        let mut stall = SyncStall::default();
        stall.look([(2, 1), (2, 1)], ms(0));
        assert_eq!(stall.look([(3, 2), (2, 1)], ms(500)), ms(500));
    }

    #[test]
    fn a_log_that_was_cut_waits_for_nothing_of_before() {
        let mut stall = SyncStall::default();
        stall.look([(9, 5)], ms(0));
        assert_eq!(stall.look([(4, 4)], ms(10)), ms(0));
        assert_eq!(stall.look([(6, 5)], ms(900)), ms(0));
    }
}
