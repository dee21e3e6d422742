//! A member process over the engine, [`MemberCore`] and the log rules, as the node is: role changes one at a time, log
//! shipping, acknowledgements, heartbeats, ASSEMBLE, full copies, housekeeping.
//!
//! ```text
//! writes      clients, commit, outcomes      roles      Init, FENCE, PROMOTE, FOLLOW
//! following   hello, chunks, acks            leading    sessions, shipping, counting
//! assemble    ASSEMBLE, both sides           copying    a full copy, both sides
//! mending     entries for files that rotted, both sides
//! upkeep      syncs, heartbeats, housekeeping, reports
//! ```
//! Nothing is decided here that the rules or the engine decide. Clocks are the member's own: they start anywhere and
//! run a little fast or slow. An engine that failed ends the process: nobody here may acknowledge anything after it.

mod assemble;
mod copying;
mod following;
mod leading;
mod mending;
mod roles;
mod upkeep;
mod writes;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) use self::writes::Put;
use super::Mutant;
use super::oracle::Oracle;
use super::volume::Volume;
use super::wire::{Address, Message, Speaker};
use crate::engine::{Engine, EngineError, EngineOptions, HousekeepingReport, Shard, ShardState, SnapshotPin};
use crate::ident::{InstanceId, Sid};
use crate::position::{Epoch, Gsn};
use crate::replication::member_state::{durable_of, write_durable};
use crate::replication::rules::{MemberCore, MetaChange, RoleChange, Sightings};
use crate::replication::term::LeaderTerm;
use crate::topology::message::Role;
use crate::topology::random::Random;

/// How often something happened.
pub(super) type Counts = BTreeMap<&'static str, u64>;

/// A stream that broke is opened again after this.
const REDIAL: Duration = Duration::from_millis(50);
/// What is not answered is asked again after this.
const RETRY: Duration = Duration::from_millis(60);

/// What a member wants of the world.
#[derive(Debug)]
pub(super) enum Wish {
    Send(Address, Message),
    After(Duration, Timer),
    /// The storage makes room for new.
    SetAside,
}

/// What a member waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// Heartbeats, reports, retries.
    Beat,
    /// The role thread's disk write is due.
    Job,
    /// A sync of the logs is due.
    Sync,
    /// In-flight writes had their time.
    DrainEnds,
    /// ASSEMBLE: its logs are to be synced.
    Assembled,
    /// Older leases have ended.
    Commits,
    /// Housekeeping.
    Tidy,
}

/// What a handler may use.
pub(super) struct Hands<'a> {
    /// True time.
    pub(super) now: Duration,
    pub(super) random: &'a mut Random,
    pub(super) oracle: &'a mut Oracle,
    pub(super) wishes: &'a mut Vec<Wish>,
    pub(super) counts: &'a mut Counts,
    pub(super) mutant: Option<Mutant>,
    pub(super) slow_disk: bool,
    /// The wall clock of its machine.
    pub(super) wall_ms: u64,
    pub(super) controllers: usize,
}

impl Hands<'_> {
    fn send(&mut self, to: Address, message: Message) {
        self.wishes.push(Wish::Send(to, message));
    }

    fn after(&mut self, after: Duration, timer: Timer) {
        self.wishes.push(Wish::After(after, timer));
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn disk_time(&mut self) -> Duration {
        let micros = if self.slow_disk { 100_000 + self.random.below(900_000) } else { 200 + self.random.below(4000) };
        Duration::from_micros(micros)
    }
}

/// Whoever waits for the answer to a request.
type Caller = (Address, u64);

/// One run of a member process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) engine: Arc<Engine>,
    offset: Duration,
    /// Local nanoseconds a true second, minus a billion.
    drift: i64,
    pub(super) core: MemberCore,
    /// Known to be committed, per shard; the engine is told once no older lease may last.
    targets: Vec<Gsn>,
    jobs: VecDeque<roles::Job>,
    running: Option<roles::Running>,
    sync_due: bool,
    unsynced_since: Option<Duration>,
    drain: Option<roles::Drain>,
    pub(super) draining: bool,
    /// The newest stream to a leader: what belongs to an earlier one is void.
    stream: u64,
    /// A hello that waits for its answer, and since when.
    hello: Option<(u64, Duration)>,
    /// When the newest hello was said.
    said: Duration,
    joined: Option<(u64, Vec<Gsn>)>,
    /// Came on the stream before the answer's configuration was durable.
    early: Vec<(Address, Message)>,
    followed_since: Duration,
    leader_gone: bool,
    caught_up: bool,
    copying: Option<copying::Copying>,
    /// Shards that are to be copied after that one.
    to_copy: VecDeque<usize>,
    term: Option<Arc<LeaderTerm>>,
    /// When it began to lead, in true time.
    led_since: Duration,
    sessions: BTreeMap<Sid, leading::Session>,
    pins: BTreeMap<(Sid, usize), Arc<SnapshotPin>>,
    sightings: Sightings,
    waiting: Vec<writes::Waiting>,
    assembling: Option<assemble::Assembling>,
    /// Largest shard time heard of.
    known_time_ms: u64,
    tidied: Vec<HousekeepingReport>,
    relaxed: bool,
    /// [`Mutant::PromiseNotPersisted`].
    forgets_promises: bool,
    /// Since when everything but its heartbeats is stuck.
    hung_since: Option<Duration>,
    /// For how long its leader has been stuck, by the leader's word.
    leader_stall: Duration,
}

impl Process {
    /// Opens the volume.
    pub(super) fn open(volume: &Volume, options: &EngineOptions, hands: &mut Hands<'_>) -> Result<Self, EngineError> {
        let instance = InstanceId(hands.random.next_u128());
        let offset = Duration::from_millis(hands.random.below(1_000_000));
        // Two clocks differ by less than one in a thousand.
        let drift = hands.random.below(900_000) as i64 - 450_000;
        let engine = volume.open(options, instance)?;
        let shards = engine.shards().len();
        let process = Self {
            offset,
            drift,
            core: MemberCore::new(durable_of(&engine.meta()), instance, clock(offset, drift, hands.now)),
            targets: vec![0; shards],
            jobs: VecDeque::new(),
            running: None,
            sync_due: false,
            unsynced_since: None,
            drain: None,
            draining: false,
            stream: 0,
            hello: None,
            said: Duration::ZERO,
            joined: None,
            early: Vec::new(),
            followed_since: Duration::ZERO,
            leader_gone: false,
            caught_up: false,
            copying: None,
            to_copy: VecDeque::new(),
            term: None,
            led_since: Duration::ZERO,
            sessions: BTreeMap::new(),
            pins: BTreeMap::new(),
            sightings: Sightings::default(),
            waiting: Vec::new(),
            assembling: None,
            known_time_ms: engine.log_time_ms(),
            tidied: vec![HousekeepingReport::default(); shards],
            relaxed: options.durability == crate::engine::Durability::Os,
            forgets_promises: hands.mutant == Some(Mutant::PromiseNotPersisted),
            hung_since: None,
            leader_stall: Duration::ZERO,
            engine,
        };
        for (number, shard) in process.engine.shards().iter().enumerate() {
            match shard.state() {
                ShardState::Quarantined { alarm, reason } => {
                    hands.count("shards quarantined at open");
                    if alarm {
                        hands.oracle.broken(|| format!("a shard was quarantined by an alarm: {reason}"));
                    }
                }
                ShardState::Amnesic => hands.count("shards amnesic at open"),
                ShardState::Ready | ShardState::Damaged { .. } => {
                    hands.oracle.opened(process.me(), process.core.standing().lineage, number, shard);
                }
                ShardState::Syncing | ShardState::Blank => {}
            }
        }
        let (beat, tidy) = (1 + hands.random.below(100), 50 + hands.random.below(300));
        hands.after(Duration::from_millis(beat), Timer::Beat);
        hands.after(Duration::from_millis(tidy), Timer::Tidy);
        Ok(process)
    }

    /// Its own clock.
    fn clock(&self, now: Duration) -> Duration {
        clock(self.offset, self.drift, now)
    }

    fn me(&self) -> Sid {
        self.core.sid()
    }

    fn shard(&self, shard: usize) -> &Arc<Shard> {
        &self.engine.shards()[shard]
    }

    /// Why it must die, if it must.
    pub(super) fn failure(&self) -> Option<String> {
        self.engine.failure()
    }

    /// Leads, by its own belief.
    pub(super) fn leads(&self) -> bool {
        self.core.role() == Role::Leader
    }

    /// Leads and serves.
    pub(super) fn serving(&self) -> bool {
        self.term.as_ref().is_some_and(|term| term.serving.load(Ordering::Acquire))
    }

    pub(super) fn joined(&self) -> bool {
        self.joined.is_some()
    }

    /// Whether a full copy is under way here.
    pub(super) fn copies(&self) -> bool {
        self.copying.is_some()
    }

    /// How much of its stream came before the answer was taken.
    #[cfg(test)]
    pub(super) fn came_early(&self) -> usize {
        self.early.len()
    }

    /// Makes a change of what must be durable so.
    fn persist(&self, change: &MetaChange) -> Result<(), EngineError> {
        if change.is_empty() {
            return Ok(());
        }
        let mut durable = self.core.durable().clone();
        change.apply(&mut durable);
        if self.forgets_promises {
            durable.promised = self.engine.meta().promised;
        }
        write_durable(&self.engine, &durable)
    }

    /// A rule was found broken: in the simulation that is the end.
    fn alarm(&self, shard: usize, why: impl std::fmt::Display, hands: &mut Hands<'_>) {
        let me = self.me();
        hands.oracle.broken(|| format!("{me}, shard {shard}: {why}"));
    }

    /// Ends what a role did.
    fn leave(&mut self, change: &RoleChange, hands: &mut Hands<'_>) {
        match change {
            RoleChange::None => return,
            RoleChange::SteppedDown(_) => {
                if !self.waiting.is_empty() {
                    hands.count("leaders deposed with writes under way");
                }
                if let Some(term) = self.term.take() {
                    for shard in self.engine.shards() {
                        shard.close_epoch();
                    }
                    term.ended.cancel();
                }
                self.sessions.clear();
                self.pins.clear();
                self.drain = None;
                self.waiting.retain(|waiting| !waiting.is_condition());
            }
            RoleChange::StreamEnds => {}
        }
        if self.copying.is_some() {
            hands.count("epochs changed during a full copy");
        }
        self.copying = None;
        self.to_copy.clear();
        self.stream = 0;
        self.joined = None;
        self.hello = None;
    }

    fn speaker(&self) -> Speaker {
        let standing = self.core.standing();
        Speaker { sid: standing.sid, open_count: standing.open_count, instance: standing.instance }
    }

    // --- messages -----------------------------------------------------------------------------------------

    /// From now on nothing runs but the thread that beats.
    #[cfg(test)]
    pub(super) fn hang(&mut self, now: Duration) {
        self.hung_since = Some(self.clock(now));
    }

    pub(super) fn is_hung(&self) -> bool {
        self.hung_since.is_some()
    }

    pub(super) fn take(&mut self, from: Address, message: Message, hands: &mut Hands<'_>) {
        if self.is_hung() && !matches!(message, Message::HeartbeatAck { .. }) {
            return;
        }
        let joining = self.stream != 0 && self.hello.is_none() && self.joined.is_none() && self.copying.is_none();
        if joining && matches!(message, Message::Chunk { .. }) {
            return self.early.push((from, message));
        }
        match message {
            Message::Request { id, request } => self.request((from, id), *request, hands),
            Message::Hello { speaker, epoch, nonce, views } => {
                self.take_hello(from, speaker, epoch, nonce, &views, hands);
            }
            Message::Answer { nonce, epoch, leader, config, shards, goal } => {
                // One answer a stream: a second one is of no stream.
                if self.hello.is_some_and(|(open, _)| open == nonce) && self.core.follows(epoch, leader) {
                    self.hello = None;
                    let joining = following::Joining { nonce, epoch, leader, config, shards, goal };
                    self.jobs.push_back(roles::Job::Learn(Box::new(joining)));
                    self.next_job(hands);
                }
            }
            Message::Chunk { epoch, leader, chunk, commit } => self.chunk((epoch, leader), chunk, commit, hands),
            Message::Ack { sid, epoch, nonce, durable, applied } => {
                self.ack(from, (sid, epoch, nonce), &durable, &applied, hands);
            }
            Message::Closed { nonce } => {
                self.pin_is_gone(nonce);
                if nonce == self.stream {
                    self.stream_broke(hands);
                }
            }
            Message::Heartbeat {
                epoch,
                leader,
                round,
                commit,
                tails,
                shard_time_ms,
                committed_time_ms,
                figures,
                tick_age,
            } => {
                if self.core.follows(epoch, leader) {
                    self.leader_stall = tick_age;
                    self.core.hear_figures(epoch, &figures);
                }
                let times = (shard_time_ms, committed_time_ms);
                self.heartbeat(from, (epoch, leader), round, &commit, &tails, times, hands);
            }
            Message::HeartbeatAck { sid, epoch, round, shard_time_ms, wall_ms } => {
                self.heartbeat_ack((sid, epoch), round, (shard_time_ms, wall_ms), hands);
            }
            Message::Later { epoch } => self.observe(epoch, hands),
            Message::Fetch { epoch, to, shard, tail, epochs, target } => {
                let result = self.give(epoch, to, shard, tail, epochs, target);
                hands.send(from, Message::Tail { epoch, shard, result });
            }
            Message::Tail { epoch, shard, result } => self.tail(epoch, shard, result, hands),
            Message::Pin { nonce, epoch, sid, donor, shard, again } => {
                if self.may_give(epoch, donor) {
                    self.take_pin(from, nonce, (sid, shard), again, hands);
                }
            }
            Message::Manifest { nonce, shard, manifest } => self.take_manifest(nonce, shard, *manifest, hands),
            Message::Ask { nonce, epoch, sid, donor, shard, name, offset } => {
                let pin = self.pins.get(&(sid, shard)).filter(|_| self.may_give(epoch, donor)).cloned();
                self.take_ask(from, nonce, shard, pin.as_deref(), name, offset, hands);
            }
            Message::Part { nonce, shard, name, offset, bytes } => {
                self.take_part(nonce, shard, &name, offset, &bytes, hands);
            }
            Message::Want { epoch, shard, file, wanted } => self.take_want(from, epoch, shard, file, &wanted, hands),
            Message::Entries { epoch, shard, file, records } => self.take_entries(epoch, shard, file, records, hands),
            Message::Reply { .. } | Message::Report(_) => {}
        }
    }

    fn observe(&mut self, epoch: Epoch, hands: &mut Hands<'_>) {
        let change = self.core.observe_epoch(epoch);
        self.leave(&change, hands);
    }

    pub(super) fn timer(&mut self, timer: Timer, hands: &mut Hands<'_>) {
        self.engine.set_now(self.clock(hands.now));
        if self.is_hung() {
            if timer == Timer::Beat {
                hands.after(Duration::from_millis(100), Timer::Beat);
                self.beat_out(hands);
            }
            return;
        }
        match timer {
            Timer::Job => self.job_done(hands),
            Timer::Sync => self.sync(hands),
            Timer::Assembled => self.assembled(hands),
            Timer::DrainEnds => self.drained(hands),
            Timer::Commits => self.run_commits(hands),
            Timer::Tidy => self.tidy(hands),
            Timer::Beat => {
                hands.after(Duration::from_millis(100), Timer::Beat);
                self.beat(hands);
                self.report_to_all(hands);
            }
        }
    }
}

fn clock(offset: Duration, drift: i64, now: Duration) -> Duration {
    let drift = now.as_nanos() as i128 * i128::from(drift) / 1_000_000_000;
    offset + Duration::from_nanos((now.as_nanos() as i128 + drift) as u64)
}
