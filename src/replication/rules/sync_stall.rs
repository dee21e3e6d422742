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
    /// What was durable of each shard when something was first seen to wait for more, and when that was.
    waits: Option<(Vec<Gsn>, Duration)>,
}

impl SyncStall {
    /// How long it has been at `now`. `shards`: the end of each one's log, and how far that is durable (read after it).
    /// A disk that syncs one shard after the other has not stalled: it has when none gets on.
    pub fn look(&mut self, shards: impl IntoIterator<Item = (Gsn, Gsn)>, now: Duration) -> Duration {
        let (mut waits, mut durable) = (false, Vec::new());
        for (tail, synced) in shards {
            waits |= synced < tail;
            durable.push(synced);
        }
        let since = match &self.waits {
            Some((then, since)) if *then == durable => *since,
            _ => now,
        };
        self.waits = waits.then_some((durable, since));
        if waits { now.saturating_sub(since) } else { Duration::ZERO }
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
    fn a_disk_that_syncs_one_shard_after_the_other_does_not_stall() {
        let mut stall = SyncStall::default();
        stall.look([(2, 1), (2, 1)], ms(0));
        assert_eq!(stall.look([(3, 2), (2, 1)], ms(500)), ms(0));
        assert_eq!(stall.look([(3, 2), (2, 2)], ms(900)), ms(0));
        assert_eq!(stall.look([(3, 2), (2, 2)], ms(1300)), ms(400));
    }

    #[test]
    fn a_log_that_was_cut_waits_for_nothing_of_before() {
        let mut stall = SyncStall::default();
        stall.look([(9, 5)], ms(0));
        assert_eq!(stall.look([(4, 4)], ms(10)), ms(0));
        assert_eq!(stall.look([(6, 5)], ms(900)), ms(0));
    }
}
