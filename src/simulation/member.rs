//! A member process over [`MemberCore`] and the log rules, as the node is over the engine: role changes one at a
//! time with their disk writes in between, log shipping, acknowledgements, heartbeats, ASSEMBLE, full copies.
//!
//! Nothing is decided here that the rules decide. Clocks are the member's own: they start anywhere and run a
//! little fast or slow.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Mutant;
use super::log::{BARRIER, Entry, Log, Op};
use super::oracle::Oracle;
use super::wire::{Address, Message};
use crate::ident::{InstanceId, Sid};
use crate::position::{Epoch, Gsn, LogPosition, LogTail};
use crate::replication::rules::{
    Durable, FenceStep, FollowStep, InitStep, MemberCore, MetaChange, Outcome, PromoteStep, Quorum, Reconcile,
    RoleChange, check_append, check_truncate, outcome, reconcile,
};
use crate::topology::message::{
    AssembleReply, AssembleRequest, DataState, DiskRoom, FenceRequest, FollowRequest, FollowerReport, HealthReport,
    InitRequest, InitState, LastConfig, PromoteRequest, Refusal, Reply, Request, Role, StandingReply,
};
use crate::topology::random::Random;

const SHIP: usize = 16;
const RETRY: Duration = Duration::from_millis(60);
const CONNECTED: Duration = Duration::from_millis(700);

/// What a member keeps over its restarts.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) meta: Durable,
    pub(super) logs: Vec<Log>,
}

impl Disk {
    pub(super) fn format(sid: Sid, shards: usize) -> Self {
        let meta = Durable {
            cluster_id: None,
            lineage: 0,
            sid,
            open_count: 0,
            init: InitState::None,
            promised: 0,
            led: 0,
            last_config: None,
        };
        Self { meta, logs: (0..shards).map(|_| Log::blank()).collect() }
    }

    /// Whole and part of a cluster.
    pub(super) fn is_ready(&self) -> bool {
        self.meta.init == InitState::Done && self.logs.iter().all(|l| l.state == DataState::Ready)
    }
}

/// What a member wants of the world.
#[derive(Debug)]
pub(super) enum Wish {
    Send(Address, Message),
    After(Duration, Timer),
}

/// What a member waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// Heartbeats, reports, retries.
    Beat,
    /// The role thread's disk write is done.
    Job,
    /// A sync of the logs is done.
    Synced,
    /// In-flight writes had their time.
    DrainEnds,
    /// ASSEMBLE: its logs are synced.
    Assembled,
}

/// What a handler may use.
pub(super) struct Hands<'a> {
    /// True time.
    pub(super) now: Duration,
    pub(super) random: &'a mut Random,
    pub(super) oracle: &'a mut Oracle,
    pub(super) wishes: &'a mut Vec<Wish>,
    pub(super) mutant: Option<Mutant>,
    pub(super) slow_disk: bool,
    /// Durability Os.
    pub(super) relaxed: bool,
    pub(super) controllers: usize,
}

impl Hands<'_> {
    fn send(&mut self, to: Address, message: Message) {
        self.wishes.push(Wish::Send(to, message));
    }

    fn after(&mut self, after: Duration, timer: Timer) {
        self.wishes.push(Wish::After(after, timer));
    }

    fn disk_time(&mut self) -> Duration {
        let micros = if self.slow_disk { 100_000 + self.random.below(900_000) } else { 200 + self.random.below(4000) };
        Duration::from_micros(micros)
    }
}

/// A queued role change, with whoever waits for the answer.
#[derive(Debug)]
enum Job {
    Init(InitRequest, Caller),
    Fence(FenceRequest, bool, Caller),
    Promote(PromoteRequest, Caller),
    Follow(FollowRequest, Caller),
    Learn(Box<Joining>),
}

/// A role change whose disk write is under way.
#[derive(Debug)]
enum Running {
    Init(InitStep, Caller),
    Fence(FenceStep, bool, Caller),
    Promote(PromoteStep, Vec<Gsn>, Caller),
    Follow(FollowStep, Caller),
    Learn(MetaChange, Box<Joining>),
    Refused(Refusal, Caller),
}

type Caller = (Address, u64);

/// The leader's answer to a hello, until its configuration is durable.
#[derive(Debug)]
struct Joining {
    nonce: u64,
    epoch: Epoch,
    leader: Sid,
    config: LastConfig,
    shards: Vec<Reconcile>,
    goal: Vec<Gsn>,
}

/// A follower as its leader sees it.
#[derive(Debug)]
struct Session {
    address: usize,
    nonce: u64,
    cursors: Vec<Option<Gsn>>,
    durable: Vec<Gsn>,
    goal: Vec<Gsn>,
    whole: bool,
    heard: Duration,
}

/// A write whose client waits.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    op: Op,
    shard: usize,
    at: LogPosition,
}

#[derive(Debug)]
struct Assembling {
    request: AssembleRequest,
    caller: Caller,
    syncing: bool,
    asked: Option<(usize, Duration)>,
    since: Duration,
}

/// One run of a member process.
#[derive(Debug)]
pub(super) struct Process {
    offset: Duration,
    /// Local nanoseconds a true second, minus a billion.
    drift: i64,
    pub(super) core: MemberCore,
    commit: Vec<Gsn>,
    jobs: VecDeque<Job>,
    running: Option<Running>,
    /// A sync that is under way covers so much.
    syncing: Option<Vec<Gsn>>,
    unsynced_since: Option<Duration>,
    drain: Option<(FenceRequest, Caller, Duration)>,
    pub(super) draining: bool,
    /// The newest stream to a leader: what belongs to an earlier one is void.
    stream: u64,
    /// A hello that waits for its answer, and since when.
    hello: Option<(u64, Duration)>,
    joined: Option<(u64, Vec<Gsn>)>,
    /// Came on the stream before the answer's configuration was durable.
    early: Vec<(Address, Message)>,
    followed_since: Duration,
    leader_gone: bool,
    caught_up: bool,
    quorum: Option<Quorum>,
    sessions: BTreeMap<Sid, Session>,
    rounds: VecDeque<(u64, Duration)>,
    round: u64,
    waiting: Vec<Waiting>,
    assembling: Option<Assembling>,
    told: u64,
    relaxed: bool,
}

/// How an attempt to write ended at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    Appended,
    Refused,
}

impl Process {
    /// Opens the disk.
    pub(super) fn open(disk: &mut Disk, hands: &mut Hands<'_>) -> Self {
        disk.meta.open_count += 1;
        let instance = InstanceId(hands.random.next_u128());
        let offset = Duration::from_millis(hands.random.below(1_000_000));
        // Two clocks differ by less than one in a thousand.
        let drift = hands.random.below(900_000) as i64 - 450_000;
        let mut process = Self {
            offset,
            drift,
            core: MemberCore::new(disk.meta.clone(), instance, Duration::ZERO),
            commit: disk.logs.iter().map(|l| l.persisted_commit).collect(),
            jobs: VecDeque::new(),
            running: None,
            syncing: None,
            unsynced_since: None,
            drain: None,
            draining: false,
            stream: 0,
            hello: None,
            joined: None,
            early: Vec::new(),
            followed_since: Duration::ZERO,
            leader_gone: false,
            caught_up: false,
            quorum: None,
            sessions: BTreeMap::new(),
            rounds: VecDeque::new(),
            round: 0,
            waiting: Vec::new(),
            assembling: None,
            told: 0,
            relaxed: hands.relaxed,
        };
        process.core = MemberCore::new(disk.meta.clone(), instance, process.clock(hands.now));
        let first = Duration::from_millis(1 + hands.random.below(100));
        hands.after(first, Timer::Beat);
        process
    }

    /// Its own clock.
    fn clock(&self, now: Duration) -> Duration {
        let drift = now.as_nanos() as i128 * i128::from(self.drift) / 1_000_000_000;
        self.offset + Duration::from_nanos((now.as_nanos() as i128 + drift) as u64)
    }

    fn me(&self) -> Sid {
        self.core.sid()
    }

    /// Leads, by its own belief, and takes writes.
    pub(super) fn leads(&self) -> bool {
        self.core.role() == Role::Leader
    }

    pub(super) fn serving(&self, now: Duration) -> bool {
        let now = self.clock(now);
        self.quorum.as_ref().is_some_and(Quorum::serving)
            && self.core.lease().is_some_and(|lease| lease.may_acknowledge(now))
    }

    pub(super) fn commits(&self) -> &[Gsn] {
        &self.commit
    }

    pub(super) fn joined(&self) -> bool {
        self.joined.is_some()
    }

    /// How much of its stream came before the answer was taken.
    pub(super) fn came_early(&self) -> usize {
        self.early.len()
    }

    // --- clients ------------------------------------------------------------------------------------------

    pub(super) fn put(&mut self, disk: &mut Disk, op: Op, shard: usize, hands: &mut Hands<'_>) -> Put {
        let now = self.clock(hands.now);
        let epoch = match self.core.term() {
            Some(term) if self.core.leads(term.config.epoch) => term.config.epoch,
            _ => return Put::Refused,
        };
        let suspended = self.core.lease().is_some_and(|lease| lease.suspended(now));
        if suspended || self.drain.is_some() {
            return Put::Refused;
        }
        let gsn = disk.logs[shard].append(Entry { epoch, op });
        self.waiting.push(Waiting { op, shard, at: LogPosition::new(epoch, gsn) });
        self.appended(disk, hands);
        if self.relaxed || hands.mutant == Some(Mutant::LeaderCountsUnsynced) {
            self.count_own(disk, hands);
        }
        self.ship(disk, hands);
        Put::Appended
    }

    /// A read takes the value first...
    pub(super) fn read_begins(&self) -> Option<Vec<Gsn>> {
        (self.leads() && self.quorum.as_ref().is_some_and(Quorum::serving)).then(|| self.commit.clone())
    }

    /// ... and asks for the lease afterwards.
    pub(super) fn read_ends(&self, now: Duration) -> bool {
        let now = self.clock(now);
        self.leads() && self.core.lease().is_some_and(|lease| lease.valid(now))
    }

    // --- the log ------------------------------------------------------------------------------------------

    fn appended(&mut self, disk: &Disk, hands: &mut Hands<'_>) {
        if self.unsynced_since.is_none() {
            self.unsynced_since = Some(self.clock(hands.now));
        }
        if self.syncing.is_none() {
            self.syncing = Some(disk.logs.iter().map(Log::len).collect());
            let time = hands.disk_time();
            hands.after(time, Timer::Synced);
        }
    }

    fn synced(&mut self, disk: &mut Disk, hands: &mut Hands<'_>) {
        let Some(covered) = self.syncing.take() else { return };
        for (log, gsn) in disk.logs.iter_mut().zip(covered) {
            log.durable = log.durable.max(gsn.min(log.len()));
        }
        self.unsynced_since = None;
        for (shard, log) in disk.logs.iter_mut().enumerate() {
            // A lower bound, persisted lazily, never above what is durable.
            if hands.random.chance(100) {
                log.persisted_commit = log.persisted_commit.max(self.commit[shard].min(log.durable));
            }
        }
        if disk.logs.iter().any(|l| l.durable < l.len()) {
            self.appended(disk, hands);
        }
        self.count_own(disk, hands);
        self.acknowledge(disk, hands);
    }

    fn count_own(&mut self, disk: &Disk, hands: &mut Hands<'_>) {
        let me = self.me();
        let mut risen = false;
        if let Some(quorum) = &mut self.quorum {
            for (shard, log) in disk.logs.iter().enumerate() {
                let relaxed = self.relaxed || hands.mutant == Some(Mutant::LeaderCountsUnsynced);
                let held = log.held(relaxed);
                risen |= quorum.held(me, shard as u16, held).is_some();
            }
        }
        if risen {
            self.take_quorum(disk, hands);
        }
    }

    /// The quorum's commit becomes this member's.
    fn take_quorum(&mut self, disk: &Disk, hands: &mut Hands<'_>) {
        let Some(quorum) = &self.quorum else { return };
        let commits = quorum.commits().to_vec();
        for (shard, commit) in commits.into_iter().enumerate() {
            self.raise_commit(disk, shard, commit, hands);
        }
        self.answer_waiting(disk, hands);
        self.drained(disk, hands);
    }

    fn raise_commit(&mut self, disk: &Disk, shard: usize, commit: Gsn, hands: &mut Hands<'_>) {
        if commit > self.commit[shard] {
            self.commit[shard] = commit;
            let me = self.me();
            hands.oracle.committed(me, self.core.promise(), shard, &disk.logs[shard], commit);
            hands.oracle.agrees(me, shard, &disk.logs[shard], commit);
        }
    }

    /// R16: tells clients what is certain.
    fn answer_waiting(&mut self, disk: &Disk, hands: &mut Hands<'_>) {
        let now = self.clock(hands.now);
        if self.core.lease().is_some_and(|lease| !lease.may_acknowledge(now)) {
            return;
        }
        let commit = &self.commit;
        self.waiting.retain(|w| match outcome(w.at, commit[w.shard], disk.logs[w.shard].epochs()) {
            Outcome::Unknown => true,
            Outcome::Committed => {
                hands.oracle.acknowledge(w.op, w.shard, w.at.gsn);
                false
            }
            Outcome::DefinitelyNot => {
                hands.oracle.never(w.op);
                false
            }
        });
    }

    fn cut(&mut self, disk: &mut Disk, shard: usize, to: Gsn, hands: &mut Hands<'_>) {
        disk.logs[shard].truncate(to);
        if let Some(covered) = &mut self.syncing {
            covered[shard] = covered[shard].min(to);
        }
        if hands.mutant == Some(Mutant::TruncationIsAnAnswer) {
            self.waiting.retain(|w| {
                let gone = w.shard == shard && w.at.gsn > to;
                if gone {
                    hands.oracle.never(w.op);
                }
                !gone
            });
        }
    }

    // --- messages -----------------------------------------------------------------------------------------

    pub(super) fn take(&mut self, disk: &mut Disk, from: Address, message: Message, hands: &mut Hands<'_>) {
        let joining = self.stream != 0 && self.hello.is_none() && self.joined.is_none();
        if joining && matches!(message, Message::Chunk { .. } | Message::Copy { .. }) {
            return self.early.push((from, message));
        }
        match message {
            Message::Request { id, request } => self.request(disk, (from, id), *request, hands),
            Message::Hello { sid, epoch, nonce, views } => self.hello(disk, from, sid, epoch, nonce, &views, hands),
            Message::Answer { nonce, epoch, leader, config, shards, goal } => {
                // One answer a stream: a second one is of no stream.
                if self.hello.is_some_and(|(open, _)| open == nonce) && self.core.follows(epoch, leader) {
                    self.hello = None;
                    let joining = Joining { nonce, epoch, leader, config, shards, goal };
                    self.jobs.push_back(Job::Learn(Box::new(joining)));
                    self.next_job(disk, hands);
                }
            }
            Message::Chunk { epoch, leader, shard, prev, entries, commit } => {
                self.chunk(disk, (epoch, leader), shard, prev, &entries, commit, hands);
            }
            Message::Copy { nonce, epoch, leader, shard, entries } => {
                self.copy(disk, nonce, (epoch, leader), shard, &entries, hands);
            }
            Message::Ack { sid, epoch, nonce, durable } => self.ack(disk, from, (sid, epoch, nonce), &durable, hands),
            Message::Closed { nonce } if nonce == self.stream => self.say_hello(disk, hands),
            Message::Heartbeat { epoch, leader, round, commit, tails } => {
                self.heartbeat(disk, from, (epoch, leader), round, &commit, &tails, hands);
            }
            Message::HeartbeatAck { sid, epoch, round } => {
                let sent = self.rounds.iter().find(|(r, _)| *r == round).map(|(_, sent)| *sent);
                let leads = self.core.leads(epoch);
                if let (true, Some(sent), Some(lease)) = (leads, sent, self.core.lease_mut()) {
                    lease.acknowledged(sid, sent);
                }
                let now = self.clock(hands.now);
                if let Some(session) = self.sessions.get_mut(&sid).filter(|_| leads) {
                    session.heard = now;
                }
            }
            Message::Later { epoch } => {
                let change = self.core.observe_epoch(epoch);
                self.leave(&change, hands);
            }
            Message::Fetch { epoch, from: candidate, to, shard, view, target } => {
                let result = self.give(disk, epoch, to, shard, &view, target);
                let _ = candidate;
                hands.send(from, Message::Tail { epoch, shard, result });
            }
            Message::Tail { epoch, shard, result } => self.tail(disk, epoch, shard, result, hands),
            Message::Closed { .. } | Message::Reply { .. } | Message::Report(_) => {}
        }
    }

    fn request(&mut self, disk: &mut Disk, caller: Caller, request: Request, hands: &mut Hands<'_>) {
        match request {
            Request::Init(r) => self.jobs.push_back(Job::Init(r, caller)),
            Request::Promote(mut r) => {
                if hands.mutant == Some(Mutant::NoLeaseWait) {
                    r.lease_wait = Duration::ZERO;
                }
                self.jobs.push_back(Job::Promote(r, caller));
            }
            Request::Follow(r) => self.jobs.push_back(Job::Follow(r, caller)),
            Request::Assemble(r) => return self.assemble(disk, caller, r, hands),
            Request::Fence(r) => match r.drain.filter(|_| self.leads()) {
                Some(drain) if self.core.check_fence(&r).is_ok() && self.drain.is_none() => {
                    let until = self.clock(hands.now) + drain;
                    self.drain = Some((r, caller, until));
                    hands.after(drain, Timer::DrainEnds);
                    return self.drained(disk, hands);
                }
                _ => self.jobs.push_back(Job::Fence(r, false, caller)),
            },
        }
        self.next_job(disk, hands);
    }

    /// Has everything in flight been committed, or is the time over?
    fn drained(&mut self, disk: &Disk, hands: &mut Hands<'_>) {
        let Some((_, _, until)) = &self.drain else { return };
        let quiet = disk.logs.iter().zip(&self.commit).all(|(log, &commit)| log.len() == commit);
        if !quiet && self.clock(hands.now) < *until {
            return;
        }
        if let Some((request, caller, _)) = self.drain.take() {
            if let Some(lease) = self.core.lease_mut() {
                lease.release();
            }
            self.jobs.push_back(Job::Fence(request, true, caller));
            self.next_job(disk, hands);
        }
    }

    // --- roles --------------------------------------------------------------------------------------------

    fn next_job(&mut self, disk: &Disk, hands: &mut Hands<'_>) {
        if self.running.is_some() {
            return;
        }
        let Some(job) = self.jobs.pop_front() else { return };
        let running = match job {
            Job::Init(r, caller) => match self.core.begin_init(&r) {
                Ok(step) => Running::Init(step, caller),
                Err(refusal) => Running::Refused(refusal, caller),
            },
            Job::Fence(r, drained, caller) => match self.core.begin_fence(&r) {
                Ok(step) => {
                    self.leave(&step.role, hands);
                    Running::Fence(step, drained, caller)
                }
                Err(refusal) => Running::Refused(refusal, caller),
            },
            Job::Promote(r, caller) => {
                let reports: Vec<_> =
                    disk.logs.iter().zip(&self.commit).map(|(l, &c)| l.report(c, self.relaxed)).collect();
                match self.core.begin_promote(&r, &reports) {
                    Ok(step) => Running::Promote(step, self.commit.clone(), caller),
                    Err(refusal) => Running::Refused(refusal, caller),
                }
            }
            Job::Follow(r, caller) => match self.core.begin_follow(&r) {
                Ok(step) => {
                    self.leave(&step.role, hands);
                    Running::Follow(step, caller)
                }
                Err(refusal) => Running::Refused(refusal, caller),
            },
            Job::Learn(joining) => match self.core.learn_config(joining.leader, &joining.config) {
                Ok(change) => Running::Learn(change, joining),
                Err(_) => return self.next_job(disk, hands),
            },
        };
        let time = if matches!(running, Running::Refused(..)) { Duration::ZERO } else { hands.disk_time() };
        self.running = Some(running);
        hands.after(time, Timer::Job);
    }

    fn job_done(&mut self, disk: &mut Disk, hands: &mut Hands<'_>) {
        let Some(running) = self.running.take() else { return };
        let now = self.clock(hands.now);
        let mut answer = None;
        match running {
            Running::Refused(refusal, caller) => answer = Some((caller, Err(refusal))),
            Running::Init(step, caller) => {
                if !step.already {
                    step.started.apply(&mut disk.meta);
                    for log in &mut disk.logs {
                        if log.state == DataState::Blank {
                            log.state = DataState::Ready;
                        }
                    }
                    step.done.apply(&mut disk.meta);
                }
                let standing = self.core.finish_init(&step);
                answer = Some((caller, Ok(Reply::Done(StandingReply { standing }))));
            }
            Running::Fence(step, drained, caller) => {
                self.sync_all(disk);
                if hands.mutant != Some(Mutant::PromiseNotPersisted) {
                    step.change.apply(&mut disk.meta);
                }
                let reports = disk.logs.iter().zip(&self.commit).map(|(l, &c)| l.report(c, self.relaxed)).collect();
                let mut reply = self.core.finish_fence(&step, reports, 0, drained, now);
                if let (Some(Mutant::RestartedLeaderIsAQuorum), Ok(reply)) = (hands.mutant, &mut reply) {
                    reply.standing.live_led = reply.standing.led;
                }
                answer = Some((caller, reply.map(Reply::Fenced)));
            }
            Running::Promote(step, commits, caller) => {
                step.change.apply(&mut disk.meta);
                for log in disk.logs.iter_mut().filter(|l| l.state == DataState::Amnesic) {
                    log.state = DataState::Ready;
                }
                let already = step.already;
                let result = self.core.finish_promote(step, now);
                if result.is_ok() && !already {
                    self.begin_term(disk, commits, hands);
                }
                answer = Some((caller, result.map(|standing| Reply::Done(StandingReply { standing }))));
            }
            Running::Follow(step, caller) => {
                step.change.apply(&mut disk.meta);
                if step.adopted {
                    for log in &mut disk.logs {
                        if log.state == DataState::Blank {
                            log.state = DataState::Syncing;
                        }
                    }
                }
                let before = self.core.following().cloned();
                let result = self.core.finish_follow(step);
                if result.is_ok() && before.as_ref() != self.core.following() {
                    self.followed_since = now;
                    self.leader_gone = false;
                    self.say_hello(disk, hands);
                }
                answer = Some((caller, result.map(|standing| Reply::Done(StandingReply { standing }))));
            }
            Running::Learn(change, joining) => {
                change.apply(&mut disk.meta);
                self.core.config_persisted(&change);
                if joining.nonce == self.stream && self.core.follows(joining.epoch, joining.leader) {
                    self.join(disk, *joining, hands);
                    for (from, message) in std::mem::take(&mut self.early) {
                        self.take(disk, from, message, hands);
                    }
                }
            }
        }
        if let Some(((to, id), result)) = answer {
            let reply = result.unwrap_or_else(|refusal| Reply::Refused(refusal, Box::new(self.core.standing())));
            hands.send(to, Message::Reply { id, reply: Box::new(reply) });
            self.report_to_all(disk, hands);
        }
        self.next_job(disk, hands);
    }

    fn sync_all(&mut self, disk: &mut Disk) {
        for log in &mut disk.logs {
            log.durable = log.len();
        }
    }

    fn begin_term(&mut self, disk: &mut Disk, commits: Vec<Gsn>, hands: &mut Hands<'_>) {
        let Some(term) = self.core.term() else { return };
        let epoch = term.config.epoch;
        let mut quorum = Quorum::new(term.config.clone(), commits);
        hands.oracle.leads(self.me(), epoch, &disk.logs);
        for (shard, log) in disk.logs.iter_mut().enumerate() {
            let gsn = log.append(Entry { epoch, op: BARRIER });
            let counted = if hands.mutant == Some(Mutant::CommitsOlderEpochs) { 0 } else { gsn };
            let _ = quorum.barrier_appended(shard as u16, counted);
        }
        self.quorum = Some(quorum);
        self.sessions.clear();
        self.rounds.clear();
        self.joined = None;
        self.hello = None;
        self.count_own(disk, hands);
        self.appended(disk, hands);
    }

    /// Ends what a role did.
    fn leave(&mut self, change: &RoleChange, hands: &mut Hands<'_>) {
        let _ = hands;
        match change {
            RoleChange::None => {}
            RoleChange::SteppedDown(_) => {
                self.quorum = None;
                self.sessions.clear();
                self.drain = None;
            }
            RoleChange::StreamEnds => {}
        }
        if *change != RoleChange::None {
            self.stream = 0;
            self.joined = None;
            self.hello = None;
        }
    }

    // --- following ----------------------------------------------------------------------------------------

    fn leader_address(&self) -> Option<(usize, Epoch, Sid)> {
        let following = self.core.following()?;
        let number = following.leader.address.rsplit(':').next()?.parse().ok()?;
        Some((number, following.epoch, following.leader.sid))
    }

    fn say_hello(&mut self, disk: &Disk, hands: &mut Hands<'_>) {
        let Some((leader, epoch, _)) = self.leader_address() else { return };
        let nonce = hands.random.next();
        self.stream = nonce;
        self.early.clear();
        self.joined = None;
        self.hello = Some((nonce, self.clock(hands.now)));
        let views = disk.logs.iter().zip(&self.commit).map(|(l, &c)| l.view(c)).collect();
        hands.send(Address::Member(leader), Message::Hello { sid: self.me(), epoch, nonce, views });
    }

    fn join(&mut self, disk: &mut Disk, joining: Joining, hands: &mut Hands<'_>) {
        let Joining { nonce, epoch, leader, config: _, shards, goal } = joining;
        for (shard, answer) in shards.into_iter().enumerate() {
            let log = &disk.logs[shard];
            match answer {
                Reconcile::Match { at } => {
                    if log.tail().last != at && hands.mutant != Some(Mutant::NoDivergenceCheck) {
                        return self.say_hello(disk, hands);
                    }
                }
                Reconcile::Truncate { to } => {
                    if hands.mutant == Some(Mutant::NoDivergenceCheck) {
                        continue;
                    }
                    if let Err(refusal) = check_truncate(&self.core, epoch, leader, to.gsn, self.commit[shard]) {
                        if refusal.is_alarm() {
                            let me = self.me();
                            hands.oracle.broken(|| format!("{me}: {refusal}"));
                        }
                        return;
                    }
                    self.cut(disk, shard, to.gsn, hands);
                }
                Reconcile::Full { .. } => {
                    if !self.core.follows(epoch, leader) {
                        return;
                    }
                    // Persisted before anything is touched.
                    disk.logs[shard].state = DataState::Syncing;
                    disk.logs[shard].truncate(0);
                    disk.logs[shard].persisted_commit = 0;
                    self.commit[shard] = 0;
                }
                Reconcile::Diverged { common, commit } => {
                    let me = self.me();
                    hands.oracle.broken(|| {
                        format!("{me} committed {commit} of shard {shard}, its leader {leader} shares {common:?}")
                    });
                    return;
                }
                Reconcile::Lacking { .. } => return,
            }
        }
        self.joined = Some((nonce, goal));
        self.acknowledge(disk, hands);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn chunk(
        &mut self,
        disk: &mut Disk,
        (epoch, leader): (Epoch, Sid),
        shard: usize,
        prev: LogTail,
        entries: &[Entry],
        commit: Gsn,
        hands: &mut Hands<'_>,
    ) {
        if self.joined.is_none() {
            return;
        }
        let tail = disk.logs[shard].tail();
        let by_length = hands.mutant == Some(Mutant::NoDivergenceCheck) && prev.last.gsn == tail.last.gsn;
        match check_append(&self.core, epoch, leader, prev, tail) {
            Ok(()) => {}
            Err(_) if by_length && self.core.follows(epoch, leader) => {}
            Err(refusal) => {
                if refusal.is_alarm() {
                    let me = self.me();
                    hands.oracle.broken(|| format!("{me}: {refusal}"));
                }
                // A chunk that was overtaken or sent twice is behind the end; one that was lost leaves a gap.
                if prev.last.gsn > tail.last.gsn && self.hello.is_none() {
                    self.say_hello(disk, hands);
                }
                return;
            }
        }
        for &entry in entries {
            disk.logs[shard].append(entry);
        }
        self.appended(disk, hands);
        if self.relaxed {
            self.acknowledge(disk, hands);
        }
        self.take_commit(disk, shard, commit, hands);
    }

    fn take_commit(&mut self, disk: &Disk, shard: usize, commit: Gsn, hands: &mut Hands<'_>) {
        self.raise_commit(disk, shard, commit.min(disk.logs[shard].len()), hands);
        self.answer_waiting(disk, hands);
    }

    fn copy(
        &mut self,
        disk: &mut Disk,
        nonce: u64,
        (epoch, leader): (Epoch, Sid),
        shard: usize,
        entries: &[Entry],
        hands: &mut Hands<'_>,
    ) {
        let open = self.joined.as_ref().is_some_and(|(open, _)| *open == nonce);
        let log = &mut disk.logs[shard];
        if open && self.core.follows(epoch, leader) && log.state == DataState::Syncing && log.len() == 0 {
            log.replace(entries);
            let commit = log.len();
            self.raise_commit(disk, shard, commit, hands);
            self.acknowledge(disk, hands);
        }
    }

    fn acknowledge(&mut self, disk: &mut Disk, hands: &mut Hands<'_>) {
        let Some((number, epoch, leader)) = self.leader_address() else { return };
        let Some((nonce, goal)) = &self.joined else { return };
        if !self.core.may_acknowledge(epoch, leader) {
            return;
        }
        let relaxed = self.relaxed || hands.mutant == Some(Mutant::AcknowledgesUnsynced);
        let durable: Vec<Gsn> = disk.logs.iter().map(|log| log.held(relaxed)).collect();
        let reached = goal.iter().zip(&durable).all(|(goal, have)| have >= goal);
        let nonce = *nonce;
        hands.send(Address::Member(number), Message::Ack { sid: self.me(), epoch, nonce, durable });
        if reached {
            self.caught_up = true;
            let waits = |l: &Log| matches!(l.state, DataState::Syncing | DataState::Amnesic);
            if disk.logs.iter().any(waits) {
                self.sync_all(disk);
                for log in &mut disk.logs {
                    log.state = DataState::Ready;
                }
                // Said anew, so that the leader knows it as whole.
                self.say_hello(disk, hands);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn heartbeat(
        &mut self,
        disk: &mut Disk,
        from: Address,
        (epoch, leader): (Epoch, Sid),
        round: u64,
        commit: &[Gsn],
        tails: &[Gsn],
        hands: &mut Hands<'_>,
    ) {
        let now = self.clock(hands.now);
        if !self.core.heartbeat(epoch, leader, now) {
            if self.core.promise() > epoch {
                hands.send(from, Message::Later { epoch: self.core.promise() });
            }
            return;
        }
        self.leader_gone = false;
        hands.send(from, Message::HeartbeatAck { sid: self.me(), epoch, round });
        if self.joined.is_none() {
            return;
        }
        for (shard, &commit) in commit.iter().enumerate() {
            self.take_commit(disk, shard, commit, hands);
        }
        // What a stream would have delivered in order may be lost here: begin anew.
        let behind = disk.logs.iter().zip(tails).any(|(log, &tail)| log.len() < tail);
        if behind && hands.random.chance(300) {
            self.say_hello(disk, hands);
        } else {
            self.acknowledge(disk, hands);
        }
    }

    // --- leading ------------------------------------------------------------------------------------------

    #[expect(clippy::too_many_arguments, reason = "the fields of one message")]
    fn hello(
        &mut self,
        disk: &Disk,
        from: Address,
        sid: Sid,
        epoch: Epoch,
        nonce: u64,
        views: &[crate::replication::rules::LogView],
        hands: &mut Hands<'_>,
    ) {
        let Address::Member(address) = from else { return };
        if !self.core.leads(epoch) {
            let change = self.core.observe_epoch(epoch);
            self.leave(&change, hands);
            return;
        }
        let Some(term) = self.core.term() else { return };
        let config = term.config.clone();
        let now = self.clock(hands.now);
        let mut cursors = Vec::new();
        let mut answers = Vec::new();
        let mut copies = Vec::new();
        for (shard, (log, theirs)) in disk.logs.iter().zip(views).enumerate() {
            let mut answer = reconcile(&log.view(self.commit[shard]), theirs);
            if hands.mutant == Some(Mutant::NoDivergenceCheck) {
                // Joined by length alone.
                let gsn = theirs.tail.last.gsn.min(log.len());
                answer = Reconcile::Match { at: log.tail_at(gsn).last };
            }
            cursors.push(match &answer {
                Reconcile::Match { at } => Some(at.gsn),
                Reconcile::Truncate { to } => Some(to.gsn),
                Reconcile::Full { .. } => {
                    copies.push(shard);
                    Some(self.commit[shard])
                }
                Reconcile::Diverged { .. } | Reconcile::Lacking { .. } => None,
            });
            answers.push(answer);
        }
        let goal: Vec<Gsn> = disk.logs.iter().map(Log::len).collect();
        let whole = views.iter().all(|v| v.state == DataState::Ready);
        let durable = vec![0; goal.len()];
        let session = Session { address, nonce, cursors, durable, goal: goal.clone(), whole, heard: now };
        self.sessions.insert(sid, session);
        let leader = self.me();
        hands.send(from, Message::Answer { nonce, epoch, leader, config, shards: answers, goal });
        for shard in copies {
            let entries = disk.logs[shard].entries()[..self.commit[shard] as usize].to_vec();
            hands.send(from, Message::Copy { nonce, epoch, leader, shard, entries });
        }
        self.ship(disk, hands);
    }

    fn ship(&mut self, disk: &Disk, hands: &mut Hands<'_>) {
        let Some(term) = self.core.term() else { return };
        let (epoch, leader) = (term.config.epoch, self.core.sid());
        for session in self.sessions.values_mut() {
            for (shard, log) in disk.logs.iter().enumerate() {
                let Some(cursor) = &mut session.cursors[shard] else { continue };
                while *cursor < log.len() {
                    let from = *cursor as usize;
                    let first = log.entries()[from].epoch;
                    // A chunk never spans a BARRIER.
                    let entries: Vec<Entry> =
                        log.entries()[from..].iter().take(SHIP).take_while(|e| e.epoch == first).copied().collect();
                    let prev = log.tail_at(*cursor);
                    *cursor += entries.len() as Gsn;
                    let commit = self.commit[shard];
                    let chunk = Message::Chunk { epoch, leader, shard, prev, entries, commit };
                    hands.wishes.push(Wish::Send(Address::Member(session.address), chunk));
                }
            }
        }
    }

    fn ack(
        &mut self,
        disk: &Disk,
        from: Address,
        (sid, epoch, nonce): (Sid, Epoch, u64),
        durable: &[Gsn],
        hands: &mut Hands<'_>,
    ) {
        let now = self.clock(hands.now);
        if !self.core.leads(epoch) {
            return;
        }
        match self.sessions.get_mut(&sid).filter(|s| s.nonce == nonce) {
            Some(session) => {
                session.heard = now;
                for (known, &gsn) in session.durable.iter_mut().zip(durable) {
                    *known = (*known).max(gsn);
                }
            }
            None => hands.send(from, Message::Closed { nonce }),
        }
        let mut risen = false;
        if let Some(quorum) = &mut self.quorum {
            for (shard, &gsn) in durable.iter().enumerate() {
                // What a follower holds beyond this leader's log is not of this leader.
                risen |= quorum.held(sid, shard as u16, gsn.min(disk.logs[shard].len())).is_some();
            }
        }
        if risen {
            self.take_quorum(disk, hands);
        }
    }

    // --- ASSEMBLE -----------------------------------------------------------------------------------------

    fn assemble(&mut self, disk: &mut Disk, caller: Caller, request: AssembleRequest, hands: &mut Hands<'_>) {
        let states: Vec<_> = disk.logs.iter().map(|l| l.state).collect();
        let begun = self.core.begin_assemble(&request, &states);
        if let Err(refusal) = begun {
            let reply = Reply::Refused(refusal, Box::new(self.core.standing()));
            return hands.send(caller.0, Message::Reply { id: caller.1, reply: Box::new(reply) });
        }
        let since = self.clock(hands.now);
        self.assembling = Some(Assembling { request, caller, syncing: false, asked: None, since });
        self.pull(disk, hands);
    }

    fn pull(&mut self, disk: &mut Disk, hands: &mut Hands<'_>) {
        let me = self.me();
        let now = self.clock(hands.now);
        let Some(a) = &mut self.assembling else { return };
        if a.syncing || a.asked.is_some_and(|(_, at)| now < at + RETRY) {
            return;
        }
        let lacking =
            (0..disk.logs.len()).find(|&s| a.request.targets.get(s).is_some_and(|t| disk.logs[s].tail() != t.tail));
        let Some(shard) = lacking else {
            a.syncing = true;
            let time = hands.disk_time();
            return hands.after(time, Timer::Assembled);
        };
        let target = &a.request.targets[shard];
        let donor = target.donor.address.rsplit(':').next().and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        a.asked = Some((shard, now));
        let message = Message::Fetch {
            epoch: a.request.epoch,
            from: me,
            to: target.donor.sid,
            shard,
            view: disk.logs[shard].view(self.commit[shard]),
            target: target.tail,
        };
        hands.send(Address::Member(donor), message);
    }

    fn give(
        &self,
        disk: &Disk,
        epoch: Epoch,
        to: Sid,
        shard: usize,
        theirs: &crate::replication::rules::LogView,
        target: LogTail,
    ) -> Result<(Gsn, Vec<Entry>), Refusal> {
        if to != self.me() {
            return Err(Refusal::WrongSid { have: self.me(), want: to });
        }
        self.core.check_promise(epoch)?;
        let log = &disk.logs[shard];
        let ours = log.view(self.commit[shard]);
        let theirs = crate::replication::rules::LogView { commit: 0, log_floor: 1, ..theirs.clone() };
        let common = match reconcile(&ours, &theirs) {
            Reconcile::Match { at } => at,
            Reconcile::Truncate { to } => to,
            _ => {
                let common = ours.epochs.last_common(ours.tail.last.gsn, &theirs.epochs, theirs.tail.last.gsn);
                return Err(Refusal::BelowFloor { shard: shard as u16, common, floor: log.floor });
            }
        };
        if log.tail_at(target.last.gsn) != target {
            return Err(Refusal::Failed("the donor's log does not end at the target".into()));
        }
        let from = common.gsn.min(target.last.gsn);
        Ok((from, log.entries()[from as usize..target.last.gsn as usize].to_vec()))
    }

    fn tail(
        &mut self,
        disk: &mut Disk,
        epoch: Epoch,
        shard: usize,
        result: Result<(Gsn, Vec<Entry>), Refusal>,
        hands: &mut Hands<'_>,
    ) {
        let unchecked = hands.mutant == Some(Mutant::AssembleWithoutPromise);
        if let (true, Ok((from, entries))) = (unchecked && !self.leads(), &result)
            && *from >= self.commit[shard]
            && *from <= disk.logs[shard].len()
        {
            self.cut(disk, shard, *from, hands);
            for &entry in entries {
                disk.logs[shard].append(entry);
            }
            self.appended(disk, hands);
        }
        let Some(a) = &mut self.assembling else { return };
        if a.request.epoch != epoch || a.asked.is_none_or(|(asked, _)| asked != shard) {
            return;
        }
        a.asked = None;
        let caller = a.caller;
        let joined = result.and_then(|tail| self.core.check_assemble(epoch).map(|()| tail));
        match joined {
            Ok((from, entries)) => {
                if from < self.commit[shard] {
                    let (me, commit) = (self.me(), self.commit[shard]);
                    hands.oracle.broken(|| format!("{me} was told to cut to {from} below its commit {commit}"));
                    return;
                }
                // The log may have grown or been cut since it was asked about.
                if from > disk.logs[shard].len() {
                    return;
                }
                self.cut(disk, shard, from, hands);
                for entry in entries {
                    disk.logs[shard].append(entry);
                }
                self.appended(disk, hands);
                self.pull(disk, hands);
            }
            Err(refusal) => {
                self.assembling = None;
                let reply = Reply::Refused(refusal, Box::new(self.core.standing()));
                hands.send(caller.0, Message::Reply { id: caller.1, reply: Box::new(reply) });
            }
        }
    }

    fn assembled(&mut self, disk: &mut Disk, hands: &mut Hands<'_>) {
        let Some(a) = self.assembling.take() else { return };
        // A sync covers what was appended before it began; nothing was appended since, or the promise is gone.
        for (log, target) in disk.logs.iter_mut().zip(&a.request.targets) {
            if log.tail() == target.tail {
                log.durable = log.len();
            }
        }
        let reports: Vec<_> = disk.logs.iter().zip(&self.commit).map(|(l, &c)| l.report(c, self.relaxed)).collect();
        let targets: Vec<LogTail> = a.request.targets.iter().map(|t| t.tail).collect();
        let result = self.core.check_assemble(a.request.epoch).and_then(|()| {
            if MemberCore::at_targets(&reports, &targets) {
                Ok(Reply::Assembled(AssembleReply { standing: self.core.standing(), tails: targets }))
            } else {
                Err(Refusal::Failed("what was pulled is not durable yet".into()))
            }
        });
        let reply = result.unwrap_or_else(|refusal| Reply::Refused(refusal, Box::new(self.core.standing())));
        hands.send(a.caller.0, Message::Reply { id: a.caller.1, reply: Box::new(reply) });
    }

    // --- time ---------------------------------------------------------------------------------------------

    pub(super) fn timer(&mut self, disk: &mut Disk, timer: Timer, hands: &mut Hands<'_>) {
        match timer {
            Timer::Job => self.job_done(disk, hands),
            Timer::Synced => self.synced(disk, hands),
            Timer::Assembled => self.assembled(disk, hands),
            Timer::DrainEnds => self.drained(disk, hands),
            Timer::Beat => {
                hands.after(Duration::from_millis(100), Timer::Beat);
                self.beat(disk, hands);
                self.report_to_all(disk, hands);
            }
        }
    }

    fn beat(&mut self, disk: &mut Disk, hands: &mut Hands<'_>) {
        let now = self.clock(hands.now);
        if let Some(epoch) = self.core.term().map(|t| t.config.epoch) {
            self.round += 1;
            self.rounds.push_back((self.round, now));
            if self.rounds.len() > 64 {
                self.rounds.pop_front();
            }
            let tails: Vec<Gsn> = disk.logs.iter().map(Log::len).collect();
            for session in self.sessions.values() {
                let beat = Message::Heartbeat {
                    epoch,
                    leader: self.core.sid(),
                    round: self.round,
                    commit: self.commit.clone(),
                    tails: tails.clone(),
                };
                hands.wishes.push(Wish::Send(Address::Member(session.address), beat));
            }
            self.answer_waiting(disk, hands);
        }
        if self.assembling.as_ref().is_some_and(|a| now > a.since + Duration::from_secs(20)) {
            self.assembling = None;
        }
        self.pull(disk, hands);
        let stale = self.hello.is_none_or(|(_, said)| now >= said + RETRY);
        if self.core.following().is_some() && self.joined.is_none() && stale && self.running.is_none() {
            self.say_hello(disk, hands);
        }
    }

    /// The followed leader's process is known to be gone.
    pub(super) fn leader_is_gone(&mut self, number: usize, disk: &Disk, hands: &mut Hands<'_>) {
        if self.leader_address().is_some_and(|(n, ..)| n == number) {
            self.leader_gone = true;
            self.report_to_all(disk, hands);
        }
    }

    /// SIGTERM arrived.
    pub(super) fn terminate(&mut self, disk: &Disk, hands: &mut Hands<'_>) {
        self.draining = true;
        self.report_to_all(disk, hands);
    }

    fn report_to_all(&mut self, disk: &Disk, hands: &mut Hands<'_>) {
        let report = self.report(disk, hands.now);
        self.told += 1;
        for controller in 0..hands.controllers {
            hands.send(Address::Controller(controller), Message::Report(Box::new(report.clone())));
        }
    }

    fn report(&self, disk: &Disk, now: Duration) -> HealthReport {
        let serving = self.serving(now);
        let now = self.clock(now);
        let followers = self
            .sessions
            .iter()
            .map(|(&sid, s)| {
                let connected = now < s.heard + CONNECTED;
                let lag: u64 = disk.logs.iter().zip(&s.durable).map(|(l, &d)| l.len().saturating_sub(d)).sum();
                FollowerReport {
                    sid,
                    connected,
                    in_sync: connected && s.whole && s.goal.iter().zip(&s.durable).all(|(goal, have)| have >= goal),
                    lag_entries: lag,
                    lag_bytes: lag * 100,
                    lag_ms: if lag < 100 { 0 } else { 2000 },
                    durable: s.durable.clone(),
                }
            })
            .collect();
        let silence = self.core.leader_silence(now).unwrap_or_else(|| now.saturating_sub(self.followed_since));
        HealthReport {
            standing: self.core.standing(),
            role: self.core.role(),
            leader: self.core.following().map(|f| f.leader.sid),
            shards: disk.logs.iter().zip(&self.commit).map(|(l, &c)| l.report(c, self.relaxed)).collect(),
            leader_silence: self.core.following().map(|_| silence),
            leader_gone: self.core.following().is_some() && self.leader_gone,
            cannot_commit: self.core.lease().map_or(Duration::ZERO, |l| l.cannot_commit(now)),
            followers: if self.leads() { followers } else { Vec::new() },
            draining: self.draining,
            sync_stall: self.unsynced_since.map_or(Duration::ZERO, |since| now.saturating_sub(since)),
            disk_full: false,
            disk: DiskRoom::default(),
            caught_up: self.caught_up,
            serving,
            trouble: String::new(),
        }
    }

    /// What was in flight when the process died may or may not have reached the disk.
    pub(super) fn die(self, disk: &mut Disk, power: bool, random: &mut Random) {
        let change = match &self.running {
            Some(Running::Init(step, _)) if !step.already => Some(&step.started),
            Some(Running::Fence(step, ..)) => Some(&step.change),
            Some(Running::Promote(step, ..)) => Some(&step.change),
            Some(Running::Learn(change, _)) => Some(change),
            _ => None,
        };
        if let Some(change) = change.filter(|_| random.chance(500)) {
            change.apply(&mut disk.meta);
        }
        for log in &mut disk.logs {
            // The page cache outlives a process.
            if power || !self.relaxed {
                log.crash(random);
            }
            if power && self.relaxed && log.state == DataState::Ready {
                log.state = DataState::Amnesic;
            }
        }
    }
}
