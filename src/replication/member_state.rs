//! What the parts of a replicated member share: its rules' state, its term while it leads, and what it publishes.
//!
//! Locks: `core` is held for the length of a decision, never across I/O (the heartbeat thread takes it); a shard's
//! append lock is held for one chunk, and taken once by FENCE between the promise in memory and reading the log's
//! end, so that no append slips in after it was read. Order: append lock, what is published (see [`Told`]), then `core`.
//!
//! ```text
//! engine threads --durable--> quorum --commit--> commit thread --> engine's index --applied--> progress
//! followers' acknowledgements ---'                                                               |
//! client services <------------------------------------------------------------------------------'
//! ```
//! Invariant: progress never tells an epoch together with figures of a later history: figures are read first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::clock;
use super::full_sync::{StagedCopy, WireManifest};
use super::leadership::{LeaderAddress, LeaderHint, Leadership, ShardProgress};
use super::rules::{Durable, LogView, MemberCore, MetaChange, Sightings, Staleness, SyncStall};
use super::term::LeaderTerm;
use super::told::Told;
use crate::engine::{self, Engine, EngineError, EngineListener, NodeMeta, Shard, ShardState};
use crate::ident::Sid;
use crate::net::peer::PeerAuth;
use crate::position::Gsn;
use crate::topology::message::{
    DataState, DiskRoom, FollowerReport, HealthReport, InitState, LastConfig, Role, ShardReport,
};

/// What a leader said of itself longer ago says nothing; its silence does.
const STALL_AGE: Duration = Duration::from_secs(1);

/// Who this member is to others.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    pub(crate) name: String,
    pub(crate) client_address: String,
    pub(crate) auth: PeerAuth,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct MemberState {
    pub(crate) addresses: Addresses,
    pub(crate) engine: Arc<Engine>,
    pub(crate) core: Mutex<MemberCore>,
    append_locks: Vec<Mutex<()>>,
    term: ArcSwapOption<LeaderTerm>,
    leadership: Told<Leadership>,
    progress: Vec<Told<ShardProgress>>,
    health_changes: watch::Sender<u64>,
    commit_targets: Vec<AtomicU64>,
    commit_due: Mutex<bool>,
    commit_wake: Condvar,
    /// Wakes the follower's acknowledging: something became durable or was applied.
    pub(crate) held: Notify,
    pub(crate) staleness: Mutex<Staleness>,
    /// Per shard: the highest gsn heard to be committed, here or not.
    known_commits: Vec<AtomicU64>,
    /// Largest shard time heard of.
    known_time_ms: AtomicU64,
    /// End of the lease, on the clock of [`clock::now`], in nanoseconds; 0: none.
    lease_end: AtomicU64,
    /// The epoch whose leader's log was verified to continue this one; 0: none.
    pub(crate) joined: AtomicU64,
    /// Equalled a leader's log once since the process started.
    pub(crate) caught_up: AtomicBool,
    /// The leader's process is gone, not merely silent.
    leader_gone: AtomicBool,
    followed_since: Mutex<Option<Duration>>,
    /// SIGTERM arrived.
    pub(crate) draining: AtomicBool,
    /// See there.
    sync_stall: Mutex<SyncStall>,
    /// When the main runtime ran last, nanoseconds; 0: it was not asked yet.
    last_tick: AtomicU64,
    /// For how long the followed leader's process has been stuck by its own word, and when it said so.
    leader_stall: Mutex<(Duration, Duration)>,
    pub(crate) sightings: Mutex<Sightings>,
    pub(crate) health_streams: AtomicUsize,
    /// Why data that cannot be used is not replaced yet.
    not_mended: Mutex<String>,
    /// Hellos and orders that were refused.
    pub(crate) refused_peers: AtomicU64,
    /// Bytes of full copies that have arrived.
    pub(crate) copied_bytes: AtomicU64,
    /// Damaged files that were mended from a leader.
    pub(crate) mended_files: AtomicU64,
    /// Ends the stream to the leader, so that it says hello again.
    pub(crate) rejoin: Notify,
    /// Full copies that were begun and may be resumed, by shard, with the storage that they are of.
    pub(crate) full_syncs: Mutex<HashMap<u16, (Sid, WireManifest)>>,
    /// Copies that this member makes as a candidate, by shard.
    pub(crate) staged_copies: Mutex<HashMap<u16, StagedCopy>>,
    /// Somebody asked that this storage make room for a new one.
    pub(crate) set_aside: CancellationToken,
    /// Ends everything.
    pub(crate) stop: CancellationToken,
}

impl MemberState {
    pub(crate) fn new(addresses: Addresses, engine: Arc<Engine>) -> Arc<Self> {
        let now = clock::now();
        let core = MemberCore::new(durable_of(&engine.meta()), engine.instance(), now);
        let shards = engine.shards().len();
        let known = engine.log_time_ms();
        let leadership = Leadership::Following { epoch: core.promise(), leader: None };
        let state = Arc::new(Self {
            addresses,
            core: Mutex::new(core),
            append_locks: (0..shards).map(|_| Mutex::default()).collect(),
            term: ArcSwapOption::empty(),
            leadership: Told::new(leadership),
            progress: (0..shards).map(|_| Told::new(ShardProgress::default())).collect(),
            health_changes: watch::Sender::new(0),
            commit_targets: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            known_commits: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            commit_due: Mutex::new(false),
            commit_wake: Condvar::new(),
            held: Notify::new(),
            staleness: Mutex::default(),
            known_time_ms: AtomicU64::new(known),
            lease_end: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            caught_up: AtomicBool::new(false),
            leader_gone: AtomicBool::new(false),
            followed_since: Mutex::new(None),
            draining: AtomicBool::new(false),
            sync_stall: Mutex::default(),
            last_tick: AtomicU64::new(0),
            leader_stall: Mutex::default(),
            sightings: Mutex::default(),
            health_streams: AtomicUsize::new(0),
            not_mended: Mutex::default(),
            refused_peers: AtomicU64::new(0),
            copied_bytes: AtomicU64::new(0),
            mended_files: AtomicU64::new(0),
            rejoin: Notify::new(),
            full_syncs: Mutex::default(),
            staged_copies: Mutex::default(),
            set_aside: CancellationToken::new(),
            stop: CancellationToken::new(),
            engine,
        });
        for shard in state.engine.shards() {
            state.publish_progress(shard);
        }
        state.engine.set_listener(Arc::new(Listener(Arc::downgrade(&state))));
        state
    }

    pub(crate) fn shard(&self, shard: u16) -> &Arc<Shard> {
        &self.engine.shards()[usize::from(shard)]
    }

    /// The lock under which a follower appends to a shard.
    pub(crate) fn append_lock(&self, shard: u16) -> &Mutex<()> {
        &self.append_locks[usize::from(shard)]
    }

    /// Returns once every append that was begun before has ended.
    pub(crate) fn drain_appends(&self) {
        for lock in &self.append_locks {
            drop(lock.lock());
        }
    }

    // --- the term -----------------------------------------------------------------------------------------

    pub(crate) fn term(&self) -> Option<Arc<LeaderTerm>> {
        self.term.load_full()
    }

    pub(crate) fn begin_term(&self, term: Arc<LeaderTerm>) {
        self.lease_end.store(0, Ordering::Release);
        self.term.store(Some(term));
        self.refresh_lease(clock::now());
    }

    /// Ends the term, if there is one: nothing is appended or served from it any more.
    pub(crate) fn end_term(&self) {
        self.lease_end.store(0, Ordering::Release);
        if let Some(term) = self.term.swap(None) {
            for shard in self.engine.shards() {
                shard.close_epoch();
            }
            term.ended.cancel();
            term.moved.notify_waiters();
            term.heard.notify_waiters();
        }
    }

    /// Tells everybody that the role or the leader changed.
    pub(crate) fn publish_roles(&self) {
        // Figures first, then the epoch: see the module's invariant.
        for shard in self.engine.shards() {
            self.publish_progress(shard);
        }
        self.leadership.tell(|| self.leadership_now(), |told, now| told != now);
        self.health_changed();
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.watch()
    }

    fn leadership_now(&self) -> Leadership {
        if let Some(term) = self.term.load().as_ref() {
            let epoch = term.epoch();
            if term.draining.load(Ordering::Acquire) {
                return Leadership::Draining { epoch };
            }
            return Leadership::Leading { epoch, serving: term.serving.load(Ordering::Acquire) };
        }
        let core = self.core.lock();
        let leader = core.following().map(|following| LeaderAddress {
            name: following.leader.name.clone(),
            sid: following.leader.sid,
            client_address: following.leader_client_address.clone(),
        });
        Leadership::Following { epoch: core.promise(), leader }
    }

    /// Who to ask instead.
    pub(crate) fn hint(&self) -> LeaderHint {
        self.leadership.look(|told| match told {
            Leadership::Following { epoch, leader } => LeaderHint { epoch: *epoch, leader: leader.clone() },
            Leadership::Leading { epoch, .. } | Leadership::Draining { epoch } => {
                LeaderHint { epoch: *epoch, leader: None }
            }
        })
    }

    // --- commit and progress ------------------------------------------------------------------------------

    /// Everything of `shard` up to `gsn` is committed, and the log here agrees up to it.
    pub(crate) fn raise_commit(&self, shard: u16, gsn: Gsn) {
        if self.commit_targets[usize::from(shard)].fetch_max(gsn, Ordering::AcqRel) < gsn {
            self.wake_commits();
        }
    }

    /// Lets the commit thread look again.
    pub(crate) fn wake_commits(&self) {
        *self.commit_due.lock() = true;
        self.commit_wake.notify_one();
    }

    /// The commit thread: moves what is committed into the index, until the member stops.
    pub(crate) fn run_commits(self: &Arc<Self>) {
        while !self.stop.is_cancelled() {
            {
                let mut due = self.commit_due.lock();
                if !*due {
                    self.commit_wake.wait(&mut due);
                    continue;
                }
                *due = false;
            }
            let targets: Vec<Gsn> = self.commit_targets.iter().map(|target| target.load(Ordering::Acquire)).collect();
            // Nothing that this leader commits may be seen before every older lease has ended. Asked after the targets were
            // read: a term may begin at any time, and its lease is known before anything raises a target in it.
            if let Some(hold) = self.lease_wait_remaining() {
                let mut due = self.commit_due.lock();
                self.commit_wake.wait_for(&mut due, hold);
                *due = true;
                continue;
            }
            for (shard, target) in self.engine.shards().iter().zip(targets) {
                if target > shard.commit() {
                    shard.advance_commit(target);
                    self.publish_progress(shard);
                }
            }
            self.check_serving();
            if let Some(term) = self.term.load().as_ref() {
                term.moved.notify_waiters();
            }
        }
    }

    fn lease_wait_remaining(&self) -> Option<Duration> {
        let core = self.core.lock();
        core.lease().map(|lease| lease.wait_remaining(clock::now())).filter(|wait| !wait.is_zero())
    }

    /// Whether the BARRIERs are committed and shown: from then on the leader serves.
    fn check_serving(&self) {
        let term = self.term.load();
        let Some(term) = term.as_ref() else { return };
        if term.begins_to_serve(self.engine.shards()) {
            self.caught_up.store(true, Ordering::Release);
            self.refresh_lease(clock::now());
            tracing::info!(epoch = term.epoch(), "leads and serves");
            self.publish_roles();
        }
    }

    pub(crate) fn progress(&self, shard: u16) -> watch::Receiver<ShardProgress> {
        self.progress[usize::from(shard)].watch()
    }

    pub(crate) fn publish_progress(&self, shard: &Shard) {
        let read = || {
            let (applied, commit) = (shard.applied(), shard.commit());
            let (durable, tail) = (shard.durable_gsn(), shard.tail_gsn());
            let acked_by_all = self.acked_by_all(shard.id());
            let epoch = self.core.lock().promise();
            ShardProgress { epoch, applied, commit, durable, tail, acked_by_all }
        };
        let is_news = |told: &ShardProgress, now: &ShardProgress| ShardProgress { tail: now.tail, ..*told } != *now;
        self.progress[usize::from(shard.id())].tell(read, is_news);
    }

    /// Highest gsn of `shard` that every voter holds; 0 unless this member leads.
    pub(crate) fn acked_by_all(&self, shard: u16) -> Gsn {
        self.term.load().as_ref().map_or(0, |term| term.quorum.lock().held_by_all(shard))
    }

    // --- leases and time ----------------------------------------------------------------------------------

    /// Reckons the lease anew.
    pub(crate) fn refresh_lease(&self, now: Duration) {
        let core = self.core.lock();
        let end = match core.lease() {
            Some(lease) if core.role() == Role::Leader => lease.end(now),
            _ => None,
        };
        // Stored under the lock: whoever releases the lease does so under it and stores zero.
        self.lease_end.store(end.map_or(0, nanos), Ordering::Release);
    }

    /// Gives the lease up: no read is served by it any more.
    pub(crate) fn release_lease(&self) {
        let mut core = self.core.lock();
        if let Some(lease) = core.lease_mut() {
            lease.release();
        }
        self.lease_end.store(0, Ordering::Release);
    }

    /// Whether a read taken before this call may be answered.
    pub(crate) fn lease_valid(&self) -> bool {
        let end = self.lease_end.load(Ordering::Acquire);
        end != 0
            && nanos(clock::now()) < end
            && self.term.load().as_ref().is_some_and(|term| term.serving.load(Ordering::Acquire))
    }

    /// Shard time as leader; else the largest known.
    pub(crate) fn shard_time_ms(&self) -> u64 {
        match self.term.load().as_ref() {
            Some(term) => term.shard_time.lock().at(clock::now()),
            None => self.known_time_ms(),
        }
    }

    /// Largest shard time that this member knows of.
    pub(crate) fn known_time_ms(&self) -> u64 {
        self.known_time_ms.load(Ordering::Acquire)
    }

    /// A leader's shard time was heard.
    pub(crate) fn heard_time(&self, time_ms: u64) {
        self.known_time_ms.fetch_max(time_ms, Ordering::AcqRel);
    }

    /// The followed leader has committed so much, per shard.
    pub(crate) fn heard_commits(&self, commits: &[Gsn]) {
        for (known, &commit) in self.known_commits.iter().zip(commits) {
            known.fetch_max(commit, Ordering::AcqRel);
        }
    }

    /// As leader: so much shard time is known to W voters.
    pub(crate) fn commit_time(&self, time_ms: u64) {
        self.time_committed(time_ms, &[]);
    }

    /// So much shard time is known to W voters; a leader shows it, which had committed so much of each shard.
    pub(crate) fn time_committed(&self, time_ms: u64, commits: &[Gsn]) {
        self.heard_time(time_ms);
        for (number, shard) in self.engine.shards().iter().enumerate() {
            shard.note_committed_time(time_ms, commits.get(number).copied().unwrap_or(0));
        }
    }

    /// The time that every shard shows: one that waits for a commit holds up what followers are told of all of them.
    pub(crate) fn committed_time_ms(&self) -> u64 {
        self.engine.shards().iter().map(|shard| shard.committed_time_ms()).min().unwrap_or(0)
    }

    // --- following ----------------------------------------------------------------------------------------

    /// Follows someone from now on, or nobody.
    pub(crate) fn following_changed(&self, following: bool) {
        self.joined.store(0, Ordering::Release);
        self.leader_gone.store(false, Ordering::Release);
        *self.followed_since.lock() = following.then(clock::now);
        *self.leader_stall.lock() = Default::default();
        self.staleness.lock().reset();
    }

    /// The leader's process was found gone, or back.
    pub(crate) fn set_leader_gone(&self, gone: bool) {
        if self.leader_gone.swap(gone, Ordering::AcqRel) != gone {
            self.health_changed();
        }
    }

    /// For how long nothing has been synced although something waits, as looks at it tell.
    pub(crate) fn sync_stall(&self) -> Duration {
        // The log's end first: what is appended in between does not wait yet.
        let shards = self.engine.shards().iter().map(|shard| (shard.tail_gsn(), shard.durable_gsn()));
        self.sync_stall.lock().look(shards, clock::now())
    }

    /// The main runtime runs.
    pub(crate) fn tick(&self, now: Duration) {
        self.last_tick.store(nanos(now), Ordering::Release);
    }

    /// How long ago the main runtime ran last.
    pub(crate) fn tick_age(&self, now: Duration) -> Duration {
        match self.last_tick.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            at => now.saturating_sub(Duration::from_nanos(at)),
        }
    }

    /// The followed leader's heartbeats say for how long its runtime has not run, and its oldest batch has not been
    /// synced. A slow disk counts against it only while this member's own is not as slow: a cause that both share is
    /// nobody's.
    pub(crate) fn heard_ages(&self, tick: Duration, sync: Duration, now: Duration) {
        let own = self.sync_stall();
        let stall = if own < sync / 2 { tick.max(sync) } else { tick };
        *self.leader_stall.lock() = (stall, now);
    }

    /// For how long the followed leader has been stuck, by its last word.
    fn leader_stall(&self, now: Duration) -> Duration {
        let (stall, at) = *self.leader_stall.lock();
        if now.saturating_sub(at) < STALL_AGE { stall } else { Duration::ZERO }
    }

    // --- health -------------------------------------------------------------------------------------------

    pub(crate) fn health_changed(&self) {
        self.health_changes.send_modify(|n| *n += 1);
    }

    pub(crate) fn health_changes(&self) -> watch::Receiver<u64> {
        self.health_changes.subscribe()
    }

    /// What controllers are told.
    pub(crate) fn health(&self) -> HealthReport {
        let now = clock::now();
        let shards = self.shard_reports();
        let term = self.term();
        let skews = term.as_ref().map(|term| term.clock_skews(clock::wall_ms(), now)).unwrap_or_default();
        let own_skew_ms = term.as_ref().and_then(|term| skews.get(&term.own)).copied().unwrap_or(0);
        let followers = term.as_ref().map(|term| self.follower_reports(term, &skews, now)).unwrap_or_default();
        let followed_since = *self.followed_since.lock();
        let trouble = self.trouble();
        let core = self.core.lock();
        HealthReport {
            standing: core.standing(),
            role: core.role(),
            leader: core.following().map(|following| following.leader.sid),
            shards,
            leader_silence: core
                .following()
                .and_then(|_| core.leader_silence(now).or(followed_since.map(|since| now.saturating_sub(since)))),
            leader_gone: core.following().is_some() && self.leader_gone.load(Ordering::Acquire),
            cannot_commit: core.lease().map_or(Duration::ZERO, |lease| lease.cannot_commit(now)),
            followers,
            draining: self.draining.load(Ordering::Acquire),
            sync_stall: self.sync_stall(),
            disk_full: self.engine.puts_refused(),
            disk: self.disk_room(),
            caught_up: self.caught_up.load(Ordering::Acquire),
            serving: term.is_some_and(|term| term.serving.load(Ordering::Acquire)),
            trouble,
            clock_skew_ms: own_skew_ms,
            leader_stall: core.following().map_or(Duration::ZERO, |_| self.leader_stall(now)),
        }
    }

    /// As it was when the engine last looked.
    fn disk_room(&self) -> DiskRoom {
        let space = self.engine.known_space();
        DiskRoom { total: space.total_bytes, available: space.available_bytes, reserve: space.reserve_bytes }
    }

    /// What is wrong with the data of this member, and why it is not mended yet.
    fn trouble(&self) -> String {
        let follows = self.core.lock().following().is_some();
        let why = match self.not_mended.lock().clone() {
            why if follows => why,
            _ => "nobody leads whom it could be copied from".to_owned(),
        };
        let wrong: Vec<String> = self
            .engine
            .shards()
            .iter()
            .filter_map(|shard| match shard.state() {
                ShardState::Quarantined { reason, .. } => {
                    Some(format!("shard {} is quarantined: {reason}", shard.id()))
                }
                ShardState::Syncing if !why.is_empty() => Some(format!("shard {} waits for its data", shard.id())),
                state @ ShardState::Damaged { .. } => Some(format!("shard {} is {state}", shard.id())),
                ShardState::Syncing | ShardState::Blank | ShardState::Ready | ShardState::Amnesic => None,
            })
            .collect();
        match (wrong.is_empty(), why.is_empty()) {
            (true, _) => String::new(),
            (false, true) => wrong.join("; "),
            (false, false) => format!("{}; not replaced yet: {why}", wrong.join("; ")),
        }
    }

    /// A stream to the leader ended, and why: what keeps unusable data from being replaced.
    pub(crate) fn not_mended(&self, why: &str) {
        let whole = |state: &ShardState| state.is_usable() || *state == ShardState::Amnesic;
        let why = if self.engine.shards().iter().all(|shard| whole(&shard.state())) { "" } else { why };
        let changed = {
            let mut told = self.not_mended.lock();
            let changed = *told != why;
            if changed {
                why.clone_into(&mut told);
            }
            changed
        };
        if changed {
            self.health_changed();
        }
    }

    /// A shard that an alarm has quarantined, in words: it is not rebuilt by itself.
    pub(crate) fn alarm(&self) -> Option<String> {
        self.engine.shards().iter().find_map(|shard| match shard.state() {
            ShardState::Quarantined { reason, alarm: true } => Some(format!(
                "an alarm has quarantined shard {}: {reason}. It is kept as it is for somebody to look at; an empty data \
                 directory in its place is filled from the leader",
                shard.id()
            )),
            _ => None,
        })
    }

    fn follower_reports(&self, term: &LeaderTerm, skews: &BTreeMap<Sid, i64>, now: Duration) -> Vec<FollowerReport> {
        let followers: Vec<_> = term.followers.lock().values().cloned().collect();
        followers
            .iter()
            .map(|follower| {
                let durable: Vec<Gsn> = follower.durable.iter().map(|gsn| gsn.load(Ordering::Acquire)).collect();
                let mut report = FollowerReport {
                    sid: follower.sid,
                    connected: follower.connected.load(Ordering::Acquire),
                    in_sync: follower.in_sync(),
                    lag_entries: 0,
                    lag_bytes: 0,
                    lag_ms: 0,
                    durable,
                    clock_skew_ms: skews.get(&follower.sid).copied().unwrap_or(0),
                };
                for (shard, &held) in self.engine.shards().iter().zip(&report.durable) {
                    let tail = shard.tail_gsn();
                    report.lag_entries += tail.saturating_sub(held);
                    report.lag_bytes += shard.log_bytes_between(held, tail);
                    let age = term.age_above(shard.id(), held, tail, now);
                    report.lag_ms = report.lag_ms.max(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
                }
                report
            })
            .collect()
    }

    /// Per shard, as FENCE replies tell it.
    pub(crate) fn shard_reports(&self) -> Vec<ShardReport> {
        let known = self.known_commits.iter().map(|commit| commit.load(Ordering::Acquire));
        let report = |shard: &Arc<Shard>, known: Gsn| {
            let report = shard_report(shard);
            ShardReport { known_commit: report.known_commit.max(known), ..report }
        };
        self.engine.shards().iter().zip(known).map(|(shard, known)| report(shard, known)).collect()
    }

    /// Persists a change of what must be durable. Called by one thread at a time (the promises').
    pub(crate) fn persist(&self, change: &MetaChange) -> Result<(), EngineError> {
        if change.is_empty() {
            return Ok(());
        }
        let mut durable = self.core.lock().durable().clone();
        change.apply(&mut durable);
        write_durable(&self.engine, &durable)
    }

    /// A rule of the protocol was found broken: the shard's data is kept and takes no part any more.
    pub(crate) fn quarantine(&self, shard: u16, reason: String) {
        tracing::error!(shard, reason, "ALARM: the shard is quarantined; its data is kept as it is");
        if let Err(error) = self.shard(shard).set_state(ShardState::Quarantined { reason, alarm: true }) {
            tracing::error!(shard, %error, "the quarantine could not be persisted");
        }
        self.health_changed();
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Makes what the rules know durable in `node.meta`.
pub(crate) fn write_durable(engine: &Engine, durable: &Durable) -> Result<(), EngineError> {
    engine.update_meta(|meta| {
        meta.cluster_id = durable.cluster_id;
        meta.lineage = durable.lineage;
        meta.promised = durable.promised;
        meta.led = durable.led;
        meta.init = match durable.init {
            InitState::None => engine::InitState::None,
            InitState::Started => engine::InitState::Started,
            InitState::Done => engine::InitState::Done,
        };
        meta.last_config = durable.last_config.as_ref().map(|config| engine::LastConfig {
            epoch: config.epoch,
            voters: config.voters.clone(),
            write_quorum: config.write_quorum,
            min_voters: config.min_voters,
        });
    })?;
    Ok(())
}

/// What of `node.meta` the rules know.
pub(crate) fn durable_of(meta: &NodeMeta) -> Durable {
    Durable {
        cluster_id: meta.cluster_id,
        lineage: meta.lineage,
        sid: meta.sid,
        open_count: meta.open_count,
        init: match meta.init {
            engine::InitState::None => InitState::None,
            engine::InitState::Started => InitState::Started,
            engine::InitState::Done => InitState::Done,
        },
        promised: meta.promised,
        led: meta.led,
        last_config: meta.last_config.as_ref().map(|config| LastConfig {
            epoch: config.epoch,
            voters: config.voters.clone(),
            write_quorum: config.write_quorum,
            min_voters: config.min_voters,
        }),
    }
}

/// The state of a shard as votes see it.
pub(crate) fn data_state(state: &ShardState) -> DataState {
    match state {
        ShardState::Blank => DataState::Blank,
        ShardState::Syncing => DataState::Syncing,
        ShardState::Ready => DataState::Ready,
        ShardState::Damaged { .. } => DataState::Damaged,
        ShardState::Amnesic => DataState::Amnesic,
        ShardState::Quarantined { .. } => DataState::Quarantined,
    }
}

/// A shard's log as a follower's hello tells it.
pub(crate) fn log_view(shard: &Shard) -> LogView {
    let state = data_state(&shard.state());
    let (tail, epochs) = match state {
        DataState::Quarantined => shard.known_log(),
        _ => (shard.tail(), shard.epoch_table()),
    };
    LogView { state, tail, commit: shard.known_commit(), log_floor: shard.log_floor(), epochs }
}

/// A shard as votes and reports tell it.
pub(crate) fn shard_report(shard: &Shard) -> ShardReport {
    // Of data that cannot be used, what its metadata says.
    let commit = shard.known_commit();
    ShardReport {
        state: data_state(&shard.state()),
        tail: shard.tail(),
        commit,
        known_commit: commit,
        durable: shard.durable_gsn(),
        log_floor: shard.log_floor(),
        tombstone_floor: shard.tombstone_floor(),
    }
}

/// The engine's word, handed on.
struct Listener(Weak<MemberState>);

impl EngineListener for Listener {
    fn appended(&self, shard: u16, tail: Gsn) {
        let Some(state) = self.0.upgrade() else { return };
        if let Some(term) = state.term.load().as_ref() {
            term.sample(shard, tail, clock::now());
            term.moved.notify_waiters();
        }
    }

    fn durable(&self, shard: u16, _gsn: Gsn) {
        let Some(state) = self.0.upgrade() else { return };
        let Some(term) = state.term() else { return state.held.notify_one() };
        // Not the gsn that is told: whoever tells may have lost the processor since, and the log been cut, before this
        // term began. While it lasts the log is not cut: what is read between two looks at it is of this history.
        let durable = state.shard(shard).durable_gsn();
        if state.term().is_some_and(|now| Arc::ptr_eq(&now, &term))
            && let Some(commit) = term.held(term.own, shard, durable)
        {
            state.raise_commit(shard, commit);
        }
        state.publish_progress(state.shard(shard));
    }

    fn applied(&self, shard: u16, _gsn: Gsn) {
        let Some(state) = self.0.upgrade() else { return };
        state.publish_progress(state.shard(shard));
        if state.term.load().is_some() {
            state.check_serving();
        } else {
            let applied: Vec<Gsn> = state.engine.shards().iter().map(|shard| shard.applied()).collect();
            state.staleness.lock().applied(&applied);
            state.held.notify_one();
        }
    }

    fn state_changed(&self, _shard: u16) {
        if let Some(state) = self.0.upgrade() {
            state.health_changed();
        }
    }

    fn failed(&self, reason: &str) {
        let Some(state) = self.0.upgrade() else { return };
        tracing::error!(reason, "the engine has failed: this member stops serving");
        state.health_changed();
    }
}
