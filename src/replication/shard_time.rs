//! Shard time: the leader's clock for times to live.
//!
//! A leader goes on from the largest time that any voter knew, by its monotonic clock, slewed towards the wall
//! clock by at most a tenth: it never jumps and never goes back, so what has expired stays expired. Pure: both
//! clocks are arguments.

use std::time::Duration;

/// Shard time of one term.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShardTime {
    base_ms: u64,
    since: Duration,
}

impl ShardTime {
    /// A term that begins at `now` and goes on from `known_ms` (0: nothing is known, the wall clock begins).
    pub(crate) fn new(known_ms: u64, now: Duration, wall_ms: u64) -> Self {
        Self { base_ms: if known_ms == 0 { wall_ms } else { known_ms }, since: now }
    }

    /// Unix milliseconds as this term counts them.
    pub(crate) fn at(&self, now: Duration, wall_ms: u64) -> u64 {
        let elapsed_ms = u64::try_from(now.saturating_sub(self.since).as_millis()).unwrap_or(u64::MAX);
        let slew = elapsed_ms / 10;
        let (slow, fast) = (self.base_ms + elapsed_ms - slew, self.base_ms + elapsed_ms + slew);
        wall_ms.clamp(slow, fast)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_wall_clock_within_a_tenth_and_never_goes_back() {
        let s = Duration::from_secs;
        let time = ShardTime::new(1_000_000, s(5), 0);
        assert_eq!(time.at(s(5), 2_000_000), 1_000_000, "a wall clock that is ahead does not make it jump");
        assert_eq!(time.at(s(15), 2_000_000), 1_011_000);
        assert_eq!(time.at(s(15), 1_010_123), 1_010_123, "a wall clock within reach is followed");
        assert_eq!(time.at(s(15), 7), 1_009_000, "a wall clock that went back slows it down");
        assert_eq!(ShardTime::new(0, s(5), 77_000).at(s(5), 77_000), 77_000);
    }
}
