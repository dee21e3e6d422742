//! When to try again, and since when something has been wanted.

use std::time::Duration;

use super::change::Kind;
use crate::position::Epoch;
use crate::topology::random::Random;

/// The longest pause between attempts: never so long that a human would notice before it tries again.
const LONGEST_MS: u64 = 5000;

/// Pauses after attempts that failed.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Duration,
}

impl Backoff {
    /// Nothing begins before this.
    pub(super) fn until(&self) -> Duration {
        self.until
    }

    /// An attempt failed by itself.
    pub(super) fn failed(&mut self, now: Duration, random: &mut Random) {
        self.failures += 1;
        let scale = (20u64 << self.failures.min(10)).min(LONGEST_MS);
        self.until = now + Duration::from_millis(scale / 2 + random.below(scale / 2));
    }

    /// Somebody else was faster: do not chase each other.
    pub(super) fn overtaken(&mut self, now: Duration, random: &mut Random) {
        self.until = self.until.max(now + Duration::from_millis(20 + random.below(80)));
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// What is wanted now, and since when.
#[derive(Debug, Default)]
pub(super) struct Pending(Option<(Kind, Epoch, Duration)>);

impl Pending {
    /// Since when a change of this kind has been wanted in this epoch.
    pub(super) fn since(&mut self, kind: Kind, epoch: Epoch, now: Duration) -> Duration {
        match self.0 {
            Some((k, e, since)) if k == kind && e == epoch => since,
            _ => {
                self.0 = Some((kind, epoch, now));
                now
            }
        }
    }
}
