//! What time brings: syncs, heartbeats, retries, housekeeping, reports.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Hands, Process, Timer};
use crate::engine::{HousekeepingReport, ShardState};
use crate::position::Gsn;
use crate::replication::member_state::shard_report;
use crate::simulation::wire::{Address, Message};
use crate::topology::message::{DiskRoom, FollowerReport, HealthReport, VoterFigure};

impl Process {
    // --- syncs --------------------------------------------------------------------------------------------

    /// Something was appended.
    pub(super) fn appended(&mut self, hands: &mut Hands<'_>) {
        if self.unsynced_since.is_none() {
            self.unsynced_since = Some(self.clock(hands.now));
        }
        if !self.sync_due {
            self.sync_due = true;
            let time = hands.disk_time();
            hands.after(time, Timer::Sync);
        }
    }

    pub(super) fn sync(&mut self, hands: &mut Hands<'_>) {
        self.sync_due = false;
        if self.engine.sync_now().is_err() {
            return;
        }
        self.unsynced_since = None;
        if self.engine.shards().iter().any(|shard| shard.synced() < shard.tail_gsn()) {
            hands.count("syncs that a full disk held up");
            self.appended(hands);
        }
        self.count_own(hands);
        self.run_commits(hands);
        self.acknowledge(hands);
    }

    // --- heartbeats and retries ---------------------------------------------------------------------------

    /// A round of heartbeats, if it leads.
    pub(super) fn beat_out(&mut self, hands: &mut Hands<'_>) {
        let now = self.clock(hands.now);
        let Some(term) = self.term.clone() else { return };
        let tick_age = self.hung_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let round = term.begin_round(now);
        let tails: Vec<Gsn> = self.engine.shards().iter().map(|shard| shard.tail_gsn()).collect();
        let commit: Vec<Gsn> = self.engine.shards().iter().map(|shard| shard.commit()).collect();
        term.shard_time.lock().advance(now, term.clock_interval(&term.walls(hands.wall_ms, now)));
        let own_ms = self.shard_time_ms(hands.now);
        self.commit_time(term.time_known(term.own, own_ms, own_ms), &[]);
        let committed_time_ms = self.engine.shards().iter().map(|s| s.committed_time_ms()).min().unwrap_or(0);
        let figures = self.figures(&commit);
        self.core.hear_figures(term.epoch(), &figures);
        let figures = self.core.figures();
        for session in self.sessions.values() {
            let beat = Message::Heartbeat {
                epoch: term.epoch(),
                leader: self.core.sid(),
                round,
                commit: commit.clone(),
                tails: tails.clone(),
                shard_time_ms: own_ms,
                committed_time_ms,
                figures: figures.clone(),
                tick_age,
            };
            hands.wishes.push(super::Wish::Send(Address::Member(session.address), beat));
        }
    }

    /// What voters hold of what is committed, as this leader counts.
    fn figures(&self, commits: &[Gsn]) -> Vec<VoterFigure> {
        let held = |durable: Vec<Gsn>| durable.iter().zip(commits).map(|(&held, &commit)| held.min(commit)).collect();
        let standing = self.core.standing();
        let own = self.engine.shards().iter().map(|shard| shard.durable_gsn()).collect();
        let mut figures = vec![VoterFigure { sid: standing.sid, open_count: standing.open_count, held: held(own) }];
        for (&sid, session) in &self.sessions {
            let follower = &session.follower;
            let durable = follower.durable.iter().map(|gsn| gsn.load(Ordering::Acquire)).collect();
            figures.push(VoterFigure { sid, open_count: follower.open_count, held: held(durable) });
        }
        figures
    }

    pub(super) fn beat(&mut self, hands: &mut Hands<'_>) {
        let now = self.clock(hands.now);
        let _ = self.engine.space();
        if hands.random.chance(30) {
            let _ = self.engine.idle_now();
        }
        if self.term.is_some() {
            self.beat_out(hands);
            self.ship(hands);
            self.answer_waiting(hands);
        }
        self.pull(hands);
        if self.copy_is_slow(now) {
            self.ask_for_copy(hands);
        }
        if self.hello_is_due(now) {
            self.say_hello(hands);
        }
    }

    // --- housekeeping -------------------------------------------------------------------------------------

    /// Some steps of what the engine's own thread does.
    pub(super) fn tidy(&mut self, hands: &mut Hands<'_>) {
        let next = 30 + hands.random.below(400);
        hands.after(Duration::from_millis(next), Timer::Tidy);
        self.ask_for_entries(hands);
        for _ in 0..1 + hands.random.below(4) {
            // An error costs the step and is tried again.
            match self.engine.compact_step() {
                Ok(true) => {}
                Ok(false) | Err(_) => break,
            }
        }
        for number in 0..self.engine.shards().len() {
            let shard = self.shard(number).clone();
            let (done, known) = (shard.housekeeping_report(), self.tidied[number]);
            if done == known {
                continue;
            }
            self.tidied[number] = done;
            note(&done, &known, hands);
            // I7: what may be rewritten is committed.
            let (floor, commit) = (shard.log_floor(), shard.commit());
            if shard.state() == ShardState::Ready && floor > commit + 1 {
                self.alarm(number, format!("its floor {floor} is above its commit {commit}"), hands);
            }
            if done.compactions > known.compactions {
                hands.oracle.folds(self.me(), number, &shard);
            }
        }
    }

    // --- reports ------------------------------------------------------------------------------------------

    /// SIGTERM arrived.
    pub(in crate::simulation) fn terminate(&mut self, hands: &mut Hands<'_>) {
        self.draining = true;
        self.report_to_all(hands);
    }

    pub(super) fn report_to_all(&mut self, hands: &mut Hands<'_>) {
        let report = self.report(hands.now, hands.wall_ms);
        for controller in 0..hands.controllers {
            hands.send(Address::Controller(controller), Message::Report(Box::new(report.clone())));
        }
    }

    fn report(&self, now: Duration, wall_ms: u64) -> HealthReport {
        let now = self.clock(now);
        let skews = self.term.as_ref().map(|term| term.clock_skews(wall_ms, now)).unwrap_or_default();
        let skew_ms = |sid| skews.get(&sid).copied().unwrap_or(0);
        let shards = self.engine.shards();
        let followers = self
            .sessions
            .iter()
            .map(|(&sid, session)| {
                let follower = &session.follower;
                let connected = session.connected(now);
                follower.connected.store(connected, Ordering::Release);
                let durable: Vec<Gsn> = follower.durable.iter().map(|gsn| gsn.load(Ordering::Acquire)).collect();
                let lags = shards.iter().zip(&durable).map(|(shard, &held)| shard.tail_gsn().saturating_sub(held));
                let lag_entries = lags.sum();
                FollowerReport {
                    sid,
                    connected,
                    in_sync: follower.in_sync(),
                    lag_entries,
                    lag_bytes: lag_entries * 100,
                    lag_ms: if lag_entries < 100 { 0 } else { 2000 },
                    durable,
                    clock_skew_ms: skew_ms(sid),
                }
            })
            .collect();
        let silence = self.core.leader_silence(now).unwrap_or_else(|| now.saturating_sub(self.followed_since));
        let sound = shards.iter().all(|shard| !matches!(shard.state(), ShardState::Quarantined { .. }));
        HealthReport {
            standing: self.core.standing(),
            role: self.core.role(),
            leader: self.core.following().map(|f| f.leader.sid),
            shards: shards.iter().map(|shard| shard_report(shard)).collect(),
            leader_silence: self.core.following().map(|_| silence),
            leader_gone: self.core.following().is_some() && self.leader_gone,
            cannot_commit: self.core.lease().map_or(Duration::ZERO, |l| l.cannot_commit(now)),
            followers,
            draining: self.draining,
            sync_stall: self.unsynced_since.map_or(Duration::ZERO, |since| now.saturating_sub(since)),
            disk_full: self.engine.puts_refused(),
            disk: DiskRoom::default(),
            caught_up: self.caught_up,
            serving: self.serving(),
            trouble: if sound { String::new() } else { "a shard is quarantined".into() },
            clock_skew_ms: skew_ms(self.core.sid()),
            leader_stall: self.core.following().map_or(Duration::ZERO, |_| self.leader_stall),
        }
    }
}

fn note(done: &HousekeepingReport, known: &HousekeepingReport, hands: &mut Hands<'_>) {
    let mut add = |what, now: u64, before: u64| {
        if now > before {
            *hands.counts.entry(what).or_default() += now - before;
        }
    };
    add("hints made", done.hints, known.hints);
    add("log floors raised", done.floors_raised, known.floors_raised);
    add("compactions", done.compactions, known.compactions);
    add("tombstones dropped", done.tombstones_dropped, known.tombstones_dropped);
    add("expired values dropped", done.expired_dropped, known.expired_dropped);
    add("steps of housekeeping that failed", done.failures, known.failures);
}
