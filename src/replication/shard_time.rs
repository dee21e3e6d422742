//! Shard time: the leader's clock for times to live.
//!
//! A leader goes on from where PROMOTE says, by its monotonic clock, slewed by at most a tenth towards the median of the
//! voters' wall clocks: it never goes back, so what has expired stays expired, and a wall clock that is wrong, the
//! leader's own too, changes nothing as long as it is one of a minority. It stands still rather than pass that median by
//! more than a second. It jumps but once a term, ahead to that median as soon as it is known (mostly PROMOTE knows it):
//! what was given a time to live before a jump loses a part of it, and what a read had shown as expired shall not be
//! shown again by voters that were all restarted.
//! Pure: clocks are arguments.

use std::time::Duration;

/// How far it may be ahead of the voters' median clock.
const AHEAD_MS: u64 = 1000;

/// Between which two of the voters' wall clocks, unix milliseconds, the right time is as long as a minority of all voters'
/// clocks is wrong (Marzullo, 1984): of all of them the median twice, of fewer two, because those that are not known may
/// be right ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockInterval {
    /// No minority of clocks moves it ahead.
    pub(crate) low_ms: u64,
    /// No minority of clocks moves it back.
    pub(crate) high_ms: u64,
}

impl ClockInterval {
    /// Of the clocks that are known, if that is a majority of `voters`.
    pub(crate) fn of(mut clocks_ms: Vec<u64>, voters: usize) -> Option<Self> {
        let (known, wrong) = (clocks_ms.len(), voters.saturating_sub(1) / 2);
        if known <= voters / 2 {
            return None;
        }
        clocks_ms.sort_unstable();
        // Of the `wrong + 1` latest one is right, and so it is of the earliest.
        let (a, b) = (clocks_ms[known - 1 - wrong], clocks_ms[wrong]);
        Some(Self { low_ms: a.min(b), high_ms: a.max(b) })
    }

    fn later(self, by_ms: u64) -> Self {
        Self { low_ms: self.low_ms.saturating_add(by_ms), high_ms: self.high_ms.saturating_add(by_ms) }
    }
}

/// Shard time of one term. [`Self::advance`] is called with every round of heartbeats; between two of them it goes on
/// from there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShardTime {
    base_ms: u64,
    since: Duration,
    /// As it was at `since`.
    clocks: Option<ClockInterval>,
}

impl ShardTime {
    /// A term that begins at `now` and goes on from `known_ms` (0: nothing is known, the wall clock begins).
    pub(crate) fn new(known_ms: u64, now: Duration, wall_ms: u64) -> Self {
        Self { base_ms: if known_ms == 0 { wall_ms } else { known_ms }, since: now, clocks: None }
    }

    /// Unix milliseconds as this term counts them.
    pub(crate) fn at(&self, now: Duration) -> u64 {
        let elapsed_ms = self.elapsed_ms(now);
        let (slew, even) = (elapsed_ms / 10, self.base_ms.saturating_add(elapsed_ms));
        // Nothing is corrected before the clocks are known.
        let Some(clocks) = self.clocks.map(|clocks| clocks.later(elapsed_ms)) else { return even };
        let slewed = if even < clocks.low_ms {
            clocks.low_ms.min(even.saturating_add(slew))
        } else if even > clocks.high_ms {
            clocks.high_ms.max(even - slew)
        } else {
            even
        };
        slewed.min(clocks.high_ms.saturating_add(AHEAD_MS)).max(self.base_ms)
    }

    fn elapsed_ms(&self, now: Duration) -> u64 {
        u64::try_from(now.saturating_sub(self.since).as_millis()).unwrap_or(u64::MAX)
    }

    /// Goes on from here; the clocks as they are now, if they are known. A clock that jumps moves it by a tenth of what
    /// passes from now on, not of all that passed.
    pub(crate) fn advance(&mut self, now: Duration, clocks: Option<ClockInterval>) {
        let elapsed_ms = self.elapsed_ms(now);
        let least_ms = if self.clocks.is_none() { clocks.map_or(0, |clocks| clocks.low_ms) } else { 0 };
        let time_ms = self.at(now).max(least_ms);
        let clocks = clocks.or(self.clocks.map(|clocks| clocks.later(elapsed_ms)));
        (self.base_ms, self.since, self.clocks) = (time_ms, now, clocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn both(ms: u64) -> Option<ClockInterval> {
        Some(ClockInterval { low_ms: ms, high_ms: ms })
    }

    #[test]
    fn it_is_slewed_to_the_median_by_a_tenth_and_never_goes_back() {
        let mut time = ShardTime::new(1_000_000, s(5), 0);
        assert_eq!(time.at(s(15)), 1_010_000, "the clocks are not known yet");
        time.advance(s(5), both(1_000_000));
        time.advance(s(5), both(2_000_000));
        assert_eq!(time.at(s(5)), 1_000_000, "once it is known it does not jump");
        assert_eq!(time.at(s(15)), 1_011_000);
        time.advance(s(15), both(1_011_500));
        assert_eq!(time.at(s(25)), 1_021_500, "what is within reach is reached");
        time.advance(s(25), both(1_021_000));
        assert_eq!(time.at(s(35)), 1_031_000, "half a second ahead: slower for a while");
        assert_eq!(ShardTime::new(0, s(5), 77_000).at(s(5)), 77_000);
    }

    #[test]
    fn a_term_takes_up_the_median_once() {
        let hour = 3_600_000;
        let mut time = ShardTime::new(1_000_000, s(0), 0);
        time.advance(s(1), None);
        assert_eq!(time.at(s(1)), 1_001_000, "nobody else has said what time it is");
        time.advance(s(2), Some(ClockInterval { low_ms: 1_002_000 + hour, high_ms: 1_002_000 + 2 * hour }));
        assert_eq!(time.at(s(2)), 1_002_000 + hour, "no further than what no minority moves ahead");
        time.advance(s(3), both(1_003_000 + 2 * hour));
        assert!(time.at(s(4)) < 1_005_000 + hour, "later it is slewed");
    }

    #[test]
    fn a_clock_that_jumps_late_in_a_term_is_slewed_as_well() {
        let mut time = ShardTime::new(1_000_000, s(0), 1_000_000);
        for second in 1..=36_000 {
            time.advance(s(second), both(1_000_000 + second * 1000));
        }
        let true_ms = 1_000_000 + 36_000_000;
        assert_eq!(time.at(s(36_000)), true_ms);
        time.advance(s(36_000), both(true_ms + 3_600_000));
        assert_eq!(time.at(s(36_010)), true_ms + 11_000);
    }

    #[test]
    fn it_stands_still_rather_than_pass_the_median_by_more_than_a_second() {
        // A leader before this one was further ahead than the voters' clocks are.
        let mut ahead = ShardTime::new(5_000_000, s(0), 1_000_000);
        ahead.advance(s(1), both(1_001_000));
        let at_first = ahead.at(s(1));
        ahead.advance(s(60), both(1_060_000));
        assert_eq!(ahead.at(s(60)), at_first, "what has expired stays expired, and nothing more does");
        ahead.advance(s(4_100), both(5_100_000));
        assert_eq!(ahead.at(s(4_101)), 5_101_900, "until the clocks are there");
    }

    #[test]
    fn where_one_of_two_clocks_may_be_wrong_it_goes_on_evenly_between_them() {
        let mut time = ShardTime::new(1_000_000, s(0), 0);
        for second in 1..=60 {
            let right = 1_000_000 + second * 1000;
            let wrong = if second % 2 == 0 { right + 3_600_000 } else { right - 900_000 };
            time.advance(s(second), ClockInterval::of(vec![wrong, right], 3));
            assert_eq!(time.at(s(second)), right);
        }
    }

    #[test]
    fn no_minority_of_clocks_moves_the_median() {
        let of = |clocks: &[u64], voters| ClockInterval::of(clocks.to_vec(), voters).map(|m| (m.low_ms, m.high_ms));
        assert_eq!(of(&[], 1), None);
        assert_eq!(of(&[9], 1), Some((9, 9)));
        assert_eq!(of(&[9], 2), None, "one of two");
        assert_eq!(of(&[900, 5], 3), Some((5, 900)));
        assert_eq!(of(&[900, 5, 6], 3), Some((6, 6)));
        assert_eq!(of(&[900, 5, 6, 901], 4), Some((6, 900)));
        assert_eq!(of(&[900, 5, 6, 901], 5), Some((6, 900)));
        assert_eq!(of(&[900, 5, 901], 5), Some((5, 901)), "two of five are a minority");
        assert_eq!(of(&[900, 5, 6, 7, 901], 5), Some((7, 7)));
        assert_eq!(of(&[900, 5], 4), None);
    }
}
