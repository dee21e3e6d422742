//! Shard time: the leader's clock for times to live.
//!
//! A leader goes on from the largest time that any voter knew, by its monotonic clock, slewed towards the wall clock by
//! at most a tenth: it never goes back, so what has expired stays expired. Nor does it run ahead of the others: it stands
//! still rather than pass the median of the voters' wall clocks by more than a second, so that one clock that is wrong
//! expires nothing early. It jumps but once a term, ahead to that median as soon as it is known: voters that were all
//! restarted remember the time of their logs' last entry, which may be long ago, and what a read had shown as expired
//! since then shall not be shown again. Pure: clocks are arguments.

use std::time::Duration;

/// How far it may be ahead of the voters' median clock.
const AHEAD_MS: u64 = 1000;

/// Shard time of one term. [`Self::advance`] is called with every round of heartbeats; between two of them it goes on
/// from there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShardTime {
    base_ms: u64,
    since: Duration,
    /// The voters' median clock at `since`.
    median_ms: Option<u64>,
}

impl ShardTime {
    /// A term that begins at `now` and goes on from `known_ms` (0: nothing is known, the wall clock begins).
    pub(crate) fn new(known_ms: u64, now: Duration, wall_ms: u64) -> Self {
        Self { base_ms: if known_ms == 0 { wall_ms } else { known_ms }, since: now, median_ms: None }
    }

    /// Unix milliseconds as this term counts them.
    pub(crate) fn at(&self, now: Duration, wall_ms: u64) -> u64 {
        self.reckon(self.elapsed_ms(now), wall_ms, self.median_at(now))
    }

    fn elapsed_ms(&self, now: Duration) -> u64 {
        u64::try_from(now.saturating_sub(self.since).as_millis()).unwrap_or(u64::MAX)
    }

    /// What the voters' median clock shows at `now`, if it runs as this one.
    fn median_at(&self, now: Duration) -> Option<u64> {
        self.median_ms.map(|median| median.saturating_add(self.elapsed_ms(now)))
    }

    fn reckon(&self, elapsed_ms: u64, wall_ms: u64, median_ms: Option<u64>) -> u64 {
        let slew = elapsed_ms / 10;
        let (slow, fast) = (self.base_ms + elapsed_ms - slew, self.base_ms + elapsed_ms + slew);
        let most = median_ms.map_or(u64::MAX, |median| median.saturating_add(AHEAD_MS));
        wall_ms.clamp(slow, fast).min(most).max(self.base_ms)
    }

    /// Goes on from here: a wall clock that jumps moves it by a tenth of what passes from now on, not of all that passed.
    pub(crate) fn advance(&mut self, now: Duration, wall_ms: u64, median_ms: Option<u64>) {
        let least_ms = if self.median_ms.is_none() { median_ms.unwrap_or(0) } else { 0 };
        let median_ms = median_ms.or(self.median_at(now));
        let time_ms = self.reckon(self.elapsed_ms(now), wall_ms, median_ms).max(least_ms);
        (self.base_ms, self.since, self.median_ms) = (time_ms, now, median_ms);
    }
}

/// The median of the voters' wall clocks: what a majority of them does not exceed, so that no minority moves it ahead.
pub(crate) fn median(mut clocks_ms: Vec<u64>) -> Option<u64> {
    clocks_ms.sort_unstable();
    clocks_ms.get(clocks_ms.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_follows_the_wall_clock_within_a_tenth_and_never_goes_back() {
        let time = ShardTime::new(1_000_000, s(5), 0);
        assert_eq!(time.at(s(5), 2_000_000), 1_000_000, "a wall clock that is ahead does not make it jump");
        assert_eq!(time.at(s(15), 2_000_000), 1_011_000);
        assert_eq!(time.at(s(15), 1_010_123), 1_010_123, "a wall clock within reach is followed");
        assert_eq!(time.at(s(15), 7), 1_009_000, "a wall clock that went back slows it down");
        assert_eq!(ShardTime::new(0, s(5), 77_000).at(s(5), 77_000), 77_000);
    }

    #[test]
    fn a_jump_of_the_wall_clock_late_in_a_term_is_slewed_as_well() {
        let mut time = ShardTime::new(1_000_000, s(0), 1_000_000);
        for second in 1..=36_000 {
            time.advance(s(second), 1_000_000 + second * 1000, None);
        }
        let true_ms = 1_000_000 + 36_000_000;
        assert_eq!(time.at(s(36_000), true_ms + 3_600_000), true_ms);
        assert_eq!(time.at(s(36_010), true_ms + 3_600_000), true_ms + 11_000);
    }

    #[test]
    fn it_stands_still_rather_than_pass_the_voters_median_by_more_than_a_second() {
        let mut time = ShardTime::new(1_000_000, s(0), 2_000_000);
        let mut last = 0;
        for second in 1..=600 {
            let true_ms = 1_000_000 + second * 1000;
            time.advance(s(second), true_ms + 1_000_000, Some(true_ms));
            let now_ms = time.at(s(second), true_ms + 1_000_000);
            assert!((last..=true_ms + AHEAD_MS).contains(&now_ms), "{now_ms} after {second} s");
            last = now_ms;
        }
        assert_eq!(last, 1_000_000 + 600_000 + AHEAD_MS, "the leader's own clock pulls it as far as that");
        // A leader before this one was further ahead than the voters' clocks are.
        let mut ahead = ShardTime::new(5_000_000, s(0), 1_000_000);
        ahead.advance(s(1), 1_001_000, Some(1_001_000));
        ahead.advance(s(2), 1_002_000, Some(1_002_000));
        assert_eq!(ahead.at(s(3), 1_003_000), 5_000_000, "what has expired stays expired, and nothing more does");
    }

    #[test]
    fn a_term_takes_up_the_voters_median_once() {
        let hour = 3_600_000;
        let mut time = ShardTime::new(1_000_000, s(0), 1_000_000 + hour);
        time.advance(s(1), 1_001_000 + hour, None);
        assert!(time.at(s(1), 1_001_000 + hour) < 1_002_000, "nobody else has said what time it is");
        time.advance(s(2), 1_002_000 + hour, Some(1_002_000 + hour));
        assert_eq!(time.at(s(2), 1_002_000 + hour), 1_002_000 + hour);
        time.advance(s(3), 1_003_000 + 2 * hour, Some(1_003_000 + 2 * hour));
        assert!(time.at(s(3), 1_003_000 + 2 * hour) < 1_004_000 + hour, "later it is slewed");
        time.advance(s(4), 1_004_000, None);
        time.advance(s(5), 1_005_000, Some(1_005_000));
        assert!(time.at(s(5), 1_005_000) > 1_002_000 + hour, "it never goes back");
    }

    #[test]
    fn no_minority_of_clocks_moves_the_median_ahead() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![9]), Some(9));
        assert_eq!(median(vec![900, 5]), Some(5), "of two the one behind");
        assert_eq!(median(vec![900, 5, 6]), Some(6));
        assert_eq!(median(vec![900, 5, 6, 901]), Some(6));
    }
}
