//! When to try again: a deadline for the whole operation, and growing, jittered pauses within it.
//!
//! The first repetition follows at once (a redirect costs one round trip); later ones pause 10, 20, 40, 80, then
//! 100 ms at most, each shortened by a random part: a failover takes about 0.7 s, and whoever waits for the new
//! leader should neither miss it by much nor arrive with everyone else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// When an operation must have been answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    pub(super) started: Instant,
    pub(super) at: Instant,
}

impl Deadline {
    pub(super) fn after(timeout: Duration) -> Self {
        let started = Instant::now();
        // An absurd timeout means "for ever": a year.
        let at = started + timeout.min(Duration::from_secs(365 * 24 * 3600));
        Self { started, at }
    }

    pub(super) fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// The rest in milliseconds, never 0 (on the wire that means the server's default).
    pub(super) fn remaining_ms(&self) -> u32 {
        u32::try_from(self.remaining().as_millis()).unwrap_or(u32::MAX).max(1)
    }
}

/// The pauses between attempts of one operation.
#[derive(Debug)]
pub(super) struct Backoff<'a> {
    jitter: &'a Jitter,
    next: Duration,
}

impl<'a> Backoff<'a> {
    pub(super) fn new(jitter: &'a Jitter) -> Self {
        Self { jitter, next: Duration::ZERO }
    }

    /// Pauses; false = the deadline comes first, do not try again.
    pub(super) async fn pause(&mut self, deadline: &Deadline) -> bool {
        let pause = self.jitter.shorten(self.next);
        self.next = (self.next * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        if Instant::now() + pause >= deadline.at {
            return false;
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        true
    }
}

/// Random numbers that only need to differ between clients.
#[derive(Debug)]
pub(super) struct Jitter(AtomicU64);

impl Jitter {
    pub(super) fn new() -> Self {
        let mut seed = [0; 8];
        // Without randomness every client has the same pauses: a pity, not an error.
        let _ = getrandom::fill(&mut seed);
        Self(AtomicU64::new(u64::from_le_bytes(seed)))
    }

    /// Between half and all of `pause`.
    fn shorten(&self, pause: Duration) -> Duration {
        pause.mul_f64(0.5 + 0.5 * (self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }

    /// SplitMix64.
    pub(super) fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
