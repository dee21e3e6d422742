//! Leases: until when a leader may answer a read without asking anyone, by durations alone.
//!
//! A follower that receives a heartbeat promises: until `D` from now my FENCE replies will carry what is left
//! of it. The leader counts from when it *sent* the heartbeat, for `D (1 - rho) - 20 ms`: it began earlier and
//! ends earlier, as long as two clocks' rates differ by less than `rho`. Clocks are never compared. A new
//! leader serves nothing before the longest remainder of a read quorum has passed. A follower keeps no durable
//! record: for `D` after its process started it assumes that it had granted one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ident::Sid;

/// D: how long a grant binds.
pub const LEASE_DURATION: Duration = Duration::from_millis(600);
/// What the leader's end subtracts on top of the drift.
const MARGIN: Duration = Duration::from_millis(20);
/// 1 / rho: clocks' rates differ by at most one in a thousand.
const DRIFT_DIVISOR: u32 = 1000;
/// How often a leader sends heartbeats.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);

/// How long a lease lasts from the sending of the heartbeat that made it.
pub const fn lease_span() -> Duration {
    Duration::from_nanos(
        (LEASE_DURATION.as_nanos() - LEASE_DURATION.as_nanos() / DRIFT_DIVISOR as u128 - MARGIN.as_nanos()) as u64,
    )
}

/// How long a new leader must wait for a grant of which `remaining` was left when it was told: on a third
/// clock, so the drift counts twice.
pub fn lease_wait(remaining: Duration) -> Duration {
    remaining + remaining * 2 / DRIFT_DIVISOR
}

/// The leader's side: send times of the freshest acknowledged heartbeats.
#[derive(Debug, Clone)]
pub struct LeaderLease {
    write_quorum: usize,
    own: Sid,
    /// Per other voter: send time of its freshest acknowledged heartbeat.
    freshest: BTreeMap<Sid, Option<Duration>>,
    /// Nothing is served before this: an older leader's lease may last until then.
    not_before: Duration,
    /// When the term began: silence is counted from here until someone was heard.
    since: Duration,
    released: bool,
}

impl LeaderLease {
    /// A term that begins at `now` and must wait `lease_wait` first.
    pub fn new(voters: &[Sid], write_quorum: u32, own: Sid, now: Duration, lease_wait: Duration) -> Self {
        Self {
            write_quorum: write_quorum as usize,
            own,
            freshest: voters.iter().filter(|&&sid| sid != own).map(|&sid| (sid, None)).collect(),
            not_before: now + lease_wait,
            since: now,
            released: false,
        }
    }

    /// `sid` acknowledged the heartbeat that was sent at `sent`.
    pub fn acknowledged(&mut self, sid: Sid, sent: Duration) {
        if let Some(freshest) = self.freshest.get_mut(&sid) {
            *freshest = (*freshest).max(Some(sent));
        }
    }

    /// Gives the lease up: no read is served any more.
    pub fn release(&mut self) {
        self.released = true;
    }

    /// The send time that W voters (the leader itself at `now`) have acknowledged.
    pub fn quorum_heard(&self, now: Duration) -> Option<Duration> {
        debug_assert!(!self.freshest.contains_key(&self.own));
        let mut times: Vec<Option<Duration>> = self.freshest.values().copied().collect();
        times.push(Some(now));
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(self.write_quorum.checked_sub(1)?).copied().flatten()
    }

    /// Until when reads are served locally; None: not at all.
    pub fn end(&self, now: Duration) -> Option<Duration> {
        (!self.released).then(|| self.quorum_heard(now).map(|sent| sent + lease_span())).flatten()
    }

    /// Whether a read that was taken before `now` may be answered (the other conditions, role and BARRIER,
    /// are the caller's). Ask *after* reading.
    pub fn valid(&self, now: Duration) -> bool {
        now >= self.not_before && self.end(now).is_some_and(|end| now < end)
    }

    /// Whether an older leader's lease has surely ended: before that, no write is acknowledged either.
    pub fn may_acknowledge(&self, now: Duration) -> bool {
        now >= self.not_before
    }

    /// What is left of the wait for older leases.
    pub fn wait_remaining(&self, now: Duration) -> Duration {
        self.not_before.saturating_sub(now)
    }

    /// ReadIndex: whether W voters have acknowledged a heartbeat sent at or after `asked`.
    pub fn confirmed_since(&self, asked: Duration, now: Duration) -> bool {
        !self.released && now >= self.not_before && self.quorum_heard(now).is_some_and(|sent| sent >= asked)
    }

    /// For how long no write quorum has answered; zero while it does.
    pub fn cannot_commit(&self, now: Duration) -> Duration {
        let heard = self.quorum_heard(now).unwrap_or(self.since).max(self.since);
        // Up to two intervals are the normal age of an acknowledged heartbeat.
        let silence = now.saturating_sub(heard);
        if silence <= HEARTBEAT_INTERVAL * 3 { Duration::ZERO } else { silence }
    }

    /// A leader that no quorum has answered for 2 D refuses new requests (`NoQuorum`) until one does.
    pub fn suspended(&self, now: Duration) -> bool {
        self.cannot_commit(now) > LEASE_DURATION * 2
    }
}

/// The follower's side.
#[derive(Debug, Clone, Copy)]
pub struct LeaseGrant {
    /// Until when the newest grant, or one of an earlier process, binds.
    until: Duration,
}

impl LeaseGrant {
    /// A process that started at `now` may have granted until just then.
    pub fn new(now: Duration) -> Self {
        Self { until: now + LEASE_DURATION }
    }

    /// A heartbeat of the followed leader arrived.
    pub fn grant(&mut self, now: Duration) {
        self.until = self.until.max(now + LEASE_DURATION);
    }

    /// What is left.
    pub fn remaining(&self, now: Duration) -> Duration {
        self.until.saturating_sub(now)
    }

    /// The grant is covered by something else (a lease wait).
    pub(crate) fn clear(&mut self) {
        self.until = Duration::ZERO;
    }

    /// Binds at least until `until`.
    pub(crate) fn extend(&mut self, until: Duration) {
        self.until = self.until.max(until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn lease(n: u128, w: u32) -> LeaderLease {
        let voters: Vec<_> = (1..=n).map(Sid).collect();
        LeaderLease::new(&voters, w, Sid(1), ms(1000), ms(0))
    }

    #[test]
    fn the_lease_counts_from_the_sending_of_the_wth_freshest_heartbeat() {
        let mut l = lease(5, 3);
        l.acknowledged(Sid(2), ms(1500));
        assert_eq!(l.end(ms(1510)), None);
        l.acknowledged(Sid(3), ms(1400));
        assert_eq!(l.end(ms(1510)), Some(ms(1400) + lease_span()));
        assert!(l.valid(ms(1510)));
        assert!(!l.valid(ms(1400) + lease_span()));
    }

    #[test]
    fn a_lease_ends_before_the_grant_it_rests_on_even_with_drifting_clocks() {
        // The follower's clock runs fast by rho: D on it is D / (1 + rho) of true time.
        let grant_true = LEASE_DURATION.as_secs_f64() / 1.001;
        assert!(lease_span().as_secs_f64() < grant_true);
    }

    #[test]
    fn a_single_voter_always_has_its_lease() {
        let voters = [Sid(1)];
        let l = LeaderLease::new(&voters, 1, Sid(1), ms(0), ms(0));
        assert!(l.valid(ms(999_999)));
        assert_eq!(l.cannot_commit(ms(999_999)), ms(0));
    }

    #[test]
    fn nothing_is_served_or_acknowledged_before_the_lease_wait_has_passed() {
        let mut l = LeaderLease::new(&[Sid(1), Sid(2)], 2, Sid(1), ms(1000), ms(400));
        l.acknowledged(Sid(2), ms(1300));
        assert!(!l.valid(ms(1399)) && !l.may_acknowledge(ms(1399)));
        assert!(l.valid(ms(1400)) && l.may_acknowledge(ms(1400)));
    }

    #[test]
    fn without_answers_a_leader_reports_it_and_suspends() {
        let mut l = lease(3, 2);
        l.acknowledged(Sid(2), ms(2000));
        assert_eq!(l.cannot_commit(ms(2200)), ms(0));
        assert_eq!(l.cannot_commit(ms(3100)), ms(1100));
        assert!(!l.suspended(ms(3100)) && l.suspended(ms(3300)));
        l.acknowledged(Sid(3), ms(3300));
        assert!(!l.suspended(ms(3310)));
    }

    #[test]
    fn read_index_wants_heartbeats_sent_after_the_question() {
        let mut l = lease(3, 2);
        l.acknowledged(Sid(2), ms(2000));
        assert!(!l.confirmed_since(ms(2001), ms(2010)));
        l.acknowledged(Sid(3), ms(2001));
        assert!(l.confirmed_since(ms(2001), ms(2010)));
    }

    #[test]
    fn a_fresh_process_assumes_that_it_had_granted_a_lease() {
        let g = LeaseGrant::new(ms(100));
        assert_eq!(g.remaining(ms(100)), LEASE_DURATION);
        assert_eq!(g.remaining(ms(700)), ms(0));
    }
}
