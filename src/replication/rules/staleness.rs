//! How old a follower's committed state is, by its own clock alone.
//!
//! The follower pings with its own time `t0`; the leader echoes it with its commit vector and whether its lease
//! held. What the follower has applied up to that vector is then no older than `now - t0`: one clock, no skew.

use std::time::Duration;

use crate::position::Gsn;

/// The follower's side.
#[derive(Debug, Clone, Default)]
pub struct Staleness {
    /// Newest echo whose commit vector is applied here.
    proven: Option<Duration>,
    /// Newest echo not yet applied.
    pending: Option<(Duration, Vec<Gsn>)>,
}

impl Staleness {
    /// The leader echoed `t0` with its commit per shard. Ignored unless its lease held: a deposed leader's
    /// commit may be older than any bound.
    pub fn echoed(&mut self, t0: Duration, commit: Vec<Gsn>, lease_valid: bool) {
        // An unapplied echo is kept rather than replaced, else a follower that is always one echo behind
        // would never prove anything; the newest waits its turn.
        if lease_valid && self.pending.is_none() {
            self.pending = Some((t0, commit));
        }
    }

    /// What is applied here, per shard, now.
    pub fn applied(&mut self, applied: &[Gsn]) {
        if let Some((t0, commit)) = &self.pending
            && commit.len() == applied.len()
            && commit.iter().zip(applied).all(|(want, have)| have >= want)
        {
            self.proven = self.proven.max(Some(*t0));
            self.pending = None;
        }
    }

    /// Forgets everything: another leader, or none.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// How old this member's committed state is at most; None if nothing is known.
    pub fn bound(&self, now: Duration) -> Option<Duration> {
        self.proven.map(|t0| now.saturating_sub(t0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_bound_counts_from_the_ping_and_only_once_its_commit_is_applied() {
        let mut s = Staleness::default();
        s.echoed(ms(100), vec![5, 7], true);
        s.applied(&[5, 6]);
        assert_eq!(s.bound(ms(150)), None);
        s.applied(&[5, 7]);
        assert_eq!(s.bound(ms(150)), Some(ms(50)));
    }

    #[test]
    fn an_echo_without_a_lease_proves_nothing() {
        let mut s = Staleness::default();
        s.echoed(ms(100), vec![1], false);
        s.applied(&[9]);
        assert_eq!(s.bound(ms(150)), None);
    }
}
