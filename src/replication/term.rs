//! A term of leadership as it runs: the quorum's counting, the followers, and what wakes whom.
//!
//! One value from PROMOTE to the end of the epoch. Whoever holds it after that counts into the void: a commit
//! counted late is still a commit (its W voters held the entry before they promised anything newer), and nothing
//! new is appended, because the engine's epoch is closed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::rules::{Quorum, Term};
use super::shard_time::{ClockInterval, ShardTime};
use crate::engine::{LogKeeper, Shard};
use crate::ident::Sid;
use crate::position::{Epoch, Gsn};

/// Samples of when a log ended where; the oldest unacknowledged entry's age is told from them.
const SAMPLES: usize = 1024;
/// At most one sample in this time.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);
/// A wall clock that was told longer ago says nothing.
const WALL_AGE: Duration = Duration::from_secs(5);
/// Heartbeat rounds whose send times are remembered.
const ROUNDS: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct LeaderTerm {
    pub(crate) term: Term,
    pub(crate) own: Sid,
    pub(crate) quorum: Mutex<Quorum>,
    pub(crate) shard_time: Mutex<ShardTime>,
    pub(crate) followers: Mutex<BTreeMap<Sid, Arc<Follower>>>,
    /// Wakes shippers: something was appended or committed.
    pub(crate) moved: Notify,
    /// Wakes whoever waits for a round of heartbeats to be acknowledged.
    pub(crate) heard: Notify,
    /// Wakes the heartbeat thread for a round out of turn.
    pub(crate) ask_round: Notify,
    /// The newest round of heartbeats.
    pub(crate) round: watch::Sender<u64>,
    /// Send times by round.
    rounds: Mutex<VecDeque<(u64, Duration)>>,
    /// Per shard: when its log ended where.
    samples: Vec<Mutex<VecDeque<(Gsn, Duration)>>>,
    /// Writes wait: leadership is being given away.
    pub(crate) draining: AtomicBool,
    /// No write quorum has answered for a while: new writes are refused.
    pub(crate) suspended: AtomicBool,
    /// The BARRIERs are committed and applied and older leases have ended.
    pub(crate) serving: AtomicBool,
    /// Per voter: the shard time it knows.
    times: Mutex<BTreeMap<Sid, u64>>,
    /// Per other member: its wall clock, and when it told that.
    walls: Mutex<BTreeMap<Sid, (u64, Duration)>>,
    /// Ends with the term.
    pub(crate) ended: CancellationToken,
}

/// A follower or learner as its leader knows it.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) sid: Sid,
    pub(crate) name: String,
    pub(crate) client_address: String,
    /// As its hello showed.
    pub(crate) open_count: u64,
    pub(crate) connected: AtomicBool,
    /// Whole on every shard when it said hello.
    pub(crate) whole: bool,
    /// What it must hold per shard to be in sync: the leader's log's end when it said hello.
    pub(crate) goal: Vec<Gsn>,
    /// Per shard: the log it may still need, kept within the retention's bounds even while it is away.
    pub(crate) keepers: Vec<LogKeeper>,
    pub(crate) durable: Vec<AtomicU64>,
    pub(crate) applied: Vec<AtomicU64>,
    /// Ends its stream.
    pub(crate) session: CancellationToken,
}

impl Follower {
    /// Whole, connected, and through what the leader had when it said hello.
    pub(crate) fn in_sync(&self) -> bool {
        self.whole
            && self.connected.load(Ordering::Acquire)
            && self.goal.iter().zip(&self.durable).all(|(goal, durable)| durable.load(Ordering::Acquire) >= *goal)
    }
}

impl LeaderTerm {
    pub(crate) fn new(term: Term, own: Sid, commits: Vec<Gsn>, shard_time: ShardTime) -> Self {
        let shards = commits.len();
        Self {
            quorum: Mutex::new(Quorum::new(term.config.clone(), commits)),
            term,
            own,
            shard_time: Mutex::new(shard_time),
            walls: Mutex::default(),
            followers: Mutex::default(),
            moved: Notify::new(),
            heard: Notify::new(),
            ask_round: Notify::new(),
            round: watch::Sender::new(0),
            rounds: Mutex::default(),
            samples: (0..shards).map(|_| Mutex::default()).collect(),
            draining: AtomicBool::new(false),
            suspended: AtomicBool::new(false),
            serving: AtomicBool::new(false),
            times: Mutex::default(),
            ended: CancellationToken::new(),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.term.config.epoch
    }

    /// `sid` holds `shard` through `gsn` durably: the new commit, if it rose.
    pub(crate) fn held(&self, sid: Sid, shard: u16, gsn: Gsn) -> Option<Gsn> {
        self.quorum.lock().held(sid, shard, gsn)
    }

    /// Begins a round of heartbeats at `now`; its number.
    pub(crate) fn begin_round(&self, now: Duration) -> u64 {
        let mut rounds = self.rounds.lock();
        let number = rounds.back().map_or(1, |(number, _)| number + 1);
        rounds.push_back((number, now));
        if rounds.len() > ROUNDS {
            rounds.pop_front();
        }
        drop(rounds);
        self.round.send_replace(number);
        number
    }

    /// When a round was sent, if it is still remembered.
    pub(crate) fn round_sent(&self, number: u64) -> Option<Duration> {
        let rounds = self.rounds.lock();
        let first = rounds.front()?.0;
        let index = usize::try_from(number.checked_sub(first)?).ok()?;
        rounds.get(index).map(|(_, sent)| *sent)
    }

    /// The log of `shard` ends at `tail` at `now`.
    pub(crate) fn sample(&self, shard: u16, tail: Gsn, now: Duration) {
        let Some(samples) = self.samples.get(usize::from(shard)) else { return };
        let mut samples = samples.lock();
        if samples.back().is_some_and(|(_, at)| now.saturating_sub(*at) < SAMPLE_EVERY) {
            return;
        }
        samples.push_back((tail, now));
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
    }

    /// Age of the oldest entry of `shard` above `held`; zero if there is none. Exact to [`SAMPLE_EVERY`].
    pub(crate) fn age_above(&self, shard: u16, held: Gsn, tail: Gsn, now: Duration) -> Duration {
        if held >= tail {
            return Duration::ZERO;
        }
        let samples = self.samples[usize::from(shard)].lock();
        let first = samples.partition_point(|(tail, _)| *tail <= held);
        samples.get(first).map_or(Duration::ZERO, |(_, at)| now.saturating_sub(*at))
    }

    /// `sid` knows shard time `time_ms`: the time that W voters know now, itself at `own_ms` included.
    pub(crate) fn time_known(&self, sid: Sid, time_ms: u64, own_ms: u64) -> u64 {
        let config = &self.term.config;
        let mut times = self.times.lock();
        if config.voters.contains(&sid) {
            let known = times.entry(sid).or_default();
            *known = (*known).max(time_ms);
        }
        let mut all: Vec<u64> = config
            .voters
            .iter()
            .map(|voter| if *voter == self.own { own_ms } else { times.get(voter).copied().unwrap_or(0) })
            .collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        (config.write_quorum as usize).checked_sub(1).and_then(|w| all.get(w).copied()).unwrap_or(0)
    }

    /// `sid` told its wall clock at `now`.
    pub(crate) fn wall_heard(&self, sid: Sid, wall_ms: u64, now: Duration) {
        self.walls.lock().insert(sid, (wall_ms, now));
    }

    /// The wall clocks of members that told them lately, as they are at `now`; this one's is `own_ms`.
    pub(crate) fn walls(&self, own_ms: u64, now: Duration) -> BTreeMap<Sid, u64> {
        let mut walls: BTreeMap<Sid, u64> = BTreeMap::from([(self.own, own_ms)]);
        for (&sid, &(wall_ms, at)) in self.walls.lock().iter() {
            let age = now.saturating_sub(at);
            if age < WALL_AGE {
                walls.insert(sid, wall_ms.saturating_add(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
            }
        }
        walls
    }

    /// True once: as soon as its BARRIERs are committed and shown.
    pub(crate) fn begins_to_serve(&self, shards: &[Arc<Shard>]) -> bool {
        if self.serving.load(Ordering::Acquire) {
            return false;
        }
        let quorum = self.quorum.lock();
        let shown = quorum.serving() && shards.iter().all(|s| s.applied() >= quorum.barrier(s.id()));
        shown && !self.serving.swap(true, Ordering::AcqRel)
    }

    /// Where the right time lies by the voters' wall clocks, if a majority of them is known.
    pub(crate) fn clock_interval(&self, walls: &BTreeMap<Sid, u64>) -> Option<ClockInterval> {
        let of_voters = walls.iter().filter(|(sid, _)| self.is_voter(**sid)).map(|(_, &wall)| wall);
        ClockInterval::of(of_voters.collect(), self.term.config.voters.len())
    }

    /// How far each wall clock is from the voters' median, in milliseconds; of those that are known.
    pub(crate) fn clock_skews(&self, own_ms: u64, now: Duration) -> BTreeMap<Sid, i64> {
        let walls = self.walls(own_ms, now);
        let Some(clocks) = self.clock_interval(&walls) else { return BTreeMap::new() };
        let skew = |wall: u64| i64::try_from(i128::from(wall) - i128::from(clocks.low_ms)).unwrap_or(i64::MAX);
        walls.into_iter().map(|(sid, wall)| (sid, skew(wall))).collect()
    }

    /// Whether `sid` votes.
    pub(crate) fn is_voter(&self, sid: Sid) -> bool {
        self.term.config.voters.contains(&sid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::message::LastConfig;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn term() -> LeaderTerm {
        let config = LastConfig { epoch: 2, voters: vec![Sid(1), Sid(2), Sid(3)], write_quorum: 2, min_voters: 2 };
        let term = Term { config, members: vec![], shard_time_ms: 0 };
        LeaderTerm::new(term, Sid(1), vec![0], ShardTime::new(1, ms(0), 0))
    }

    #[test]
    fn the_age_of_the_oldest_unacknowledged_entry_is_told_from_samples() {
        let t = term();
        for i in 1..=10 {
            t.sample(0, i * 10, ms(i * 100));
        }
        assert_eq!(t.age_above(0, 100, 100, ms(2000)), ms(0));
        assert_eq!(t.age_above(0, 99, 100, ms(2000)), ms(1000));
        assert_eq!(t.age_above(0, 10, 100, ms(2000)), ms(1800));
    }

    #[test]
    fn committed_time_is_what_w_voters_know() {
        let t = term();
        assert_eq!(t.time_known(Sid(2), 5, 9), 5);
        assert_eq!(t.time_known(Sid(3), 7, 9), 7);
        assert_eq!(t.time_known(Sid(77), 100, 9), 7, "a learner does not count");
    }

    #[test]
    fn the_median_wall_clock_is_of_voters_that_told_theirs_lately() {
        let t = term();
        let median = |own, at| t.clock_interval(&t.walls(own, ms(at))).map(|clocks| clocks.low_ms);
        assert_eq!(median(9_000, 0), None, "one of three");
        t.wall_heard(Sid(2), 1_000, ms(0));
        t.wall_heard(Sid(77), 0, ms(0));
        assert_eq!(median(9_000, 500), Some(1_500), "a learner does not count");
        t.wall_heard(Sid(3), 5_000, ms(1000));
        assert_eq!(median(9_000, 1000), Some(5_000));
        assert_eq!(median(9_000, 5_500), Some(9_000), "of the two that are left");
        assert_eq!(median(9_000, 7_000), None);
    }

    #[test]
    fn rounds_remember_when_they_were_sent() {
        let t = term();
        for i in 1..=300 {
            assert_eq!(t.begin_round(ms(i)), i);
        }
        assert_eq!(t.round_sent(300), Some(ms(300)));
        assert_eq!(t.round_sent(44), None);
        assert_eq!(t.round_sent(301), None);
    }
}
