//! The world: one seeded scheduler, a network, disks, clocks, a register, clients, and everything that goes wrong.
//!
//! Everything that happens is an [`Occurrence`] at a time; the next one is taken from a queue ordered by time and
//! number, so that one seed is one history. A phase of faults is followed by one without: then a leader must
//! serve, everybody must follow, and nothing that was acknowledged may be missing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use super::driver::Driver;
use super::faults::Fault;
use super::member::{Counts, Hands, Process, Put, Timer, Wish};
use super::oracle::{Look, Oracle, Seen};
use super::place::Place;
use super::plan::Plan;
use super::store::Store;
use super::volume::Volume;
use super::wire::{Address, Message};
use super::workload;
use crate::engine::WriteBatch;
use crate::ident::{ClusterId, Sid};
use crate::position::Epoch;
use crate::topology::controller::{ControlRequest, Disconnect, Event};
use crate::topology::message::{MemberName, Request};
use crate::topology::random::Random;
use crate::topology::register::{CasOutcome, Phase, ReadOutcome, Register, Version};
use crate::topology::spec::{ExpectedMember, PartitionSpec};

/// Something that is going to happen.
#[derive(Debug)]
pub(super) enum Occurrence {
    Arrive {
        from: Address,
        to: Address,
        message: Message,
    },
    Timer {
        member: usize,
        life: u64,
        timer: Timer,
    },
    Tick {
        controller: usize,
        life: u64,
    },
    /// A register operation reaches the store, or its outcome the controller.
    Read {
        controller: usize,
        life: u64,
    },
    Swap {
        controller: usize,
        life: u64,
        expected: Option<Version>,
        register: Box<Register>,
        lost: bool,
    },
    Tell {
        controller: usize,
        life: u64,
        event: Box<Event>,
    },
    /// A call had its time.
    Deadline {
        controller: usize,
        life: u64,
        id: u64,
    },
    /// Controllers look at health streams.
    Watch,
    /// A member finds its leader's process gone.
    Gone {
        member: usize,
        life: u64,
        leader: usize,
    },
    Client,
    ReadEnds {
        member: usize,
        life: u64,
        epoch: Epoch,
        look: Box<Look>,
        required: Seen,
        asked: Duration,
    },
    /// The next fault, by number.
    Fault {
        number: u32,
    },
    Ambush {
        number: u32,
    },
    Start {
        member: usize,
    },
    StartController {
        controller: usize,
    },
    Unblock {
        link: (Address, Address),
    },
    Hears {
        member: usize,
        shard: usize,
    },
    RegisterBack,
    DiskBack {
        member: usize,
    },
    Exit {
        member: usize,
        life: u64,
    },
}

struct Queued {
    at: Duration,
    number: u64,
    what: Occurrence,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// See the module.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) now: Duration,
    pub(super) random: Random,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
    pub(super) places: Vec<Place>,
    pub(super) drivers: Vec<Driver>,
    pub(super) store: Store,
    pub(super) oracle: Oracle,
    blocked: BTreeSet<(Address, Address)>,
    /// Members that the log of a shard does not reach.
    pub(super) deaf: BTreeSet<(usize, usize)>,
    /// What was said lately and may be said again by the network.
    pub(super) overheard: VecDeque<(Address, Address, Message)>,
    /// Streams deliver in order, except what is late.
    last_arrival: BTreeMap<(Address, Address), Duration>,
    pub(super) spec: PartitionSpec,
    next_op: u64,
    next_sid: u128,
    next_request: u64,
    pub(super) rough: bool,
    pub(super) clients: bool,
    /// Alarms are what the test is about.
    pub(super) expect_alarms: bool,
    /// A number that differs as soon as two histories do.
    pub(super) trace: u64,
    pub(super) steps: u64,
    pub(super) told: Option<Vec<String>>,
    pub(super) counts: Counts,
    /// How often each kind of fault happened.
    pub(super) faults: Counts,
    /// Numbers of the faults that happened.
    pub(super) fault_numbers: Vec<u32>,
    ambushes: u32,
}

/// How much the network remembers.
const OVERHEARD: usize = 48;

pub(super) const CLUSTER: ClusterId = ClusterId(0xc1);

pub(super) fn member_name(number: usize) -> MemberName {
    format!("m-{number}")
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let mut spec = PartitionSpec::new(plan.members as u32);
        spec.ack = plan.ack;
        let store = Store::new(random.next());
        let mut world = Self {
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            queued: 0,
            places: Vec::new(),
            drivers: Vec::new(),
            store,
            oracle: Oracle::new(plan.shards),
            deaf: BTreeSet::new(),
            blocked: BTreeSet::new(),
            overheard: VecDeque::new(),
            last_arrival: BTreeMap::new(),
            clients: true,
            expect_alarms: false,
            spec,
            next_op: 1,
            next_sid: 1,
            next_request: 1,
            rough: plan.faults,
            trace: 0,
            steps: 0,
            told: None,
            counts: Counts::new(),
            faults: Counts::new(),
            fault_numbers: Vec::new(),
            ambushes: 0,
            plan,
            random,
        };
        for _ in 0..world.plan.members {
            world.add_place();
        }
        for controller in 0..world.plan.controllers {
            world.drivers.push(Driver::new(controller));
            world.start_controller(controller);
        }
        world.schedule(Duration::ZERO, Occurrence::Watch);
        world.schedule(Duration::from_millis(500), Occurrence::Client);
        if world.plan.faults {
            world.schedule(Duration::from_millis(300), Occurrence::Fault { number: 1 });
        }
        world
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            told.push(format!("{:>9.3} ms  {}", self.now.as_secs_f64() * 1000.0, line()));
        }
    }

    fn schedule(&mut self, after: Duration, what: Occurrence) {
        self.queued += 1;
        self.queue.push(Reverse(Queued { at: self.now + after, number: self.queued, what }));
    }

    pub(super) fn add_place(&mut self) -> usize {
        let number = self.places.len();
        let sid = self.fresh_sid();
        self.places.push(Place::new(sid, self.plan.shards));
        let after = Duration::from_millis(self.random.below(50));
        self.schedule(after, Occurrence::Start { member: number });
        number
    }

    pub(super) fn fresh_sid(&mut self) -> Sid {
        self.next_sid += 1;
        // In no order that would help anybody.
        Sid((u128::from(Random::new(self.next_sid as u64).next()) << 16) | self.next_sid)
    }

    pub(super) fn expected(&self) -> Vec<ExpectedMember> {
        (0..self.places.len())
            .map(|n| ExpectedMember {
                name: member_name(n),
                peer_address: format!("{}:{n}", member_name(n)),
                client_address: format!("{}-client:{n}", member_name(n)),
                ordinal: n as u32,
            })
            .collect()
    }

    // --- running ------------------------------------------------------------------------------------------

    /// Does the next thing. False: a rule was broken, or nothing is left to do.
    pub(super) fn step(&mut self) -> bool {
        let Some(Reverse(next)) = self.queue.pop() else { return false };
        self.now = next.at;
        self.steps += 1;
        self.trace = (self.trace ^ next.at.as_nanos() as u64 ^ next.number.rotate_left(40))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(17);
        self.happen(next.what);
        self.oracle.violation().is_none()
    }

    /// Goes on until `done`, at most for `limit`. True: it was.
    pub(super) fn until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            if self.now > end || !self.step() {
                return false;
            }
        }
    }

    /// Goes on for so long.
    pub(super) fn run(&mut self, time: Duration) -> bool {
        let end = self.now + time;
        while self.now < end {
            if !self.step() {
                return false;
            }
        }
        true
    }

    fn happen(&mut self, what: Occurrence) {
        self.oracle.now = self.now;
        match what {
            Occurrence::Arrive { from, to, message } => self.arrive(from, to, message),
            Occurrence::Timer { member, life, timer } => {
                if let Some(delay) = self.paused(member) {
                    return self.schedule(delay, Occurrence::Timer { member, life, timer });
                }
                if self.places[member].stuck_disk && timer == Timer::Sync {
                    return;
                }
                self.with(member, Some(life), |p, h| p.timer(timer, h));
            }
            Occurrence::Tick { controller, life } => {
                if self.drivers[controller].tick_is_due(life, self.now) {
                    self.feed(controller, life, Event::Tick);
                }
            }
            Occurrence::Read { controller, life } => {
                let outcome = if self.store.out { ReadOutcome::Failed("out".into()) } else { self.store.read() };
                let event = Event::RegisterRead(outcome);
                if self.store.slow {
                    self.count("reads of the register that were old when they arrived");
                    let after = Duration::from_millis(self.random.below(1500));
                    let event = Box::new(event);
                    return self.schedule(after, Occurrence::Tell { controller, life, event });
                }
                self.tell_later(controller, life, event);
            }
            Occurrence::Swap { controller, life, expected, register, lost } => {
                self.swap(controller, life, expected, &register, lost);
            }
            Occurrence::Tell { controller, life, event } => {
                if let Some(delay) = self.controller_paused(controller) {
                    return self.schedule(delay, Occurrence::Tell { controller, life, event });
                }
                self.feed(controller, life, *event);
            }
            Occurrence::Deadline { controller, life, id } => {
                if let Some(member) = self.drivers[controller].take_call(life, id) {
                    let result = Err("no answer in time".to_owned());
                    self.feed(controller, life, Event::Reply { request_id: id, member, result });
                }
            }
            Occurrence::Watch => self.watch(),
            Occurrence::Gone { member, life, leader } => {
                self.with(member, Some(life), |p, h| p.leader_is_gone(leader, h));
            }
            Occurrence::Client => self.client(),
            Occurrence::ReadEnds { member, life, epoch, look, required, asked } => {
                if let Some(delay) = self.paused(member) {
                    return self.schedule(delay, Occurrence::ReadEnds { member, life, epoch, look, required, asked });
                }
                let place = &self.places[member];
                let alive = place.life == life && place.process.is_some();
                let answered = alive && place.process.as_ref().is_some_and(|p| p.read_ends(epoch, self.now));
                let sid = place.sid;
                if answered {
                    self.count("reads answered");
                    self.oracle.read(sid, &look, &required, asked);
                } else if alive {
                    self.count("reads refused for want of a lease");
                }
            }
            Occurrence::Fault { number } => {
                if self.rough {
                    let mut random = self.fault_random(number);
                    let after = Duration::from_millis(20 + random.below(self.plan.calm_ms));
                    self.schedule(after, Occurrence::Fault { number: number + 1 });
                    if !self.plan.skip.contains(&number) {
                        let fault = Fault::random(self, &mut random);
                        self.apply_fault(number, fault, &mut random);
                    }
                }
            }
            Occurrence::Ambush { number } => {
                if self.rough && !self.plan.skip.contains(&number) {
                    let mut random = self.fault_random(number);
                    let fault = Fault::ambush(self, &mut random);
                    self.apply_fault(number, fault, &mut random);
                }
            }
            Occurrence::Start { member } => self.start(member),
            Occurrence::StartController { controller } => self.start_controller(controller),
            Occurrence::Unblock { link } => {
                self.blocked.remove(&link);
            }
            Occurrence::Hears { member, shard } => {
                self.deaf.remove(&(member, shard));
            }
            Occurrence::RegisterBack => {
                self.store.out = false;
                self.store.slow = false;
            }
            Occurrence::DiskBack { member } => {
                let place = &mut self.places[member];
                place.slow_disk = false;
                place.full = false;
                place.volume.disk.set_capacity(None);
            }
            Occurrence::Exit { member, life } => {
                if self.places[member].life == life && self.places[member].process.is_some() {
                    self.kill(member, Duration::from_millis(300));
                }
            }
        }
    }

    /// What is drawn for one fault: leaving others out does not change it.
    fn fault_random(&self, number: u32) -> Random {
        Random::new(Random::new(self.plan.seed ^ (u64::from(number) << 32)).next())
    }

    /// Lets a process do something, and carries out what it wishes; it may be its end.
    fn with(&mut self, member: usize, life: Option<u64>, action: impl FnOnce(&mut Process, &mut Hands<'_>)) {
        let place = &mut self.places[member];
        if life.is_some_and(|life| life != place.life) {
            return;
        }
        let wall_ms = place.wall_ms(self.now);
        let Some(process) = &mut place.process else { return };
        let mut wishes = Vec::new();
        let mut hands = Hands {
            now: self.now,
            random: &mut self.random,
            oracle: &mut self.oracle,
            wishes: &mut wishes,
            counts: &mut self.counts,
            mutant: self.plan.mutant,
            slow_disk: place.slow_disk,
            wall_ms,
            controllers: self.drivers.len(),
        };
        action(process, &mut hands);
        let failure = process.failure();
        self.carry_out(member, wishes);
        if let Some(why) = failure {
            self.collapse(member, &why);
        }
    }

    /// The engine of a member has failed: its process ends, as it must.
    fn collapse(&mut self, member: usize, why: &str) {
        let doom = self.places[member].doom;
        self.tell(|| format!("m-{member} has failed: {why}"));
        let (power, down) = match doom {
            Some((power, down)) => {
                self.count(if power {
                    "losses of power during a disk operation"
                } else {
                    "deaths during a disk operation"
                });
                (power, down)
            }
            None if self.places[member].may_fail() => {
                self.count("engines that failed by an injected error");
                (false, Duration::from_millis(100))
            }
            None => {
                self.oracle.broken(|| format!("m-{member} has failed although nothing was wrong: {why}"));
                return;
            }
        };
        self.end(member, power, down);
    }

    fn carry_out(&mut self, member: usize, wishes: Vec<Wish>) {
        let life = self.places[member].life;
        for wish in wishes {
            match wish {
                Wish::After(after, timer) => self.schedule(after, Occurrence::Timer { member, life, timer }),
                Wish::Send(to, message) => self.send(Address::Member(member), to, message),
                Wish::SetAside => self.wipe(member),
            }
        }
    }

    // --- the network --------------------------------------------------------------------------------------

    fn delay(&mut self) -> Duration {
        Duration::from_micros(100 + self.random.below(2000))
    }

    /// When something sent now arrives. What is late arrives out of order.
    fn travel(&mut self, from: Address, to: Address, stream: bool) -> Duration {
        if !stream && self.rough && self.random.chance(self.plan.late_permille) {
            let most = if self.random.chance(self.plan.very_late_permille) { 4_000_000 } else { 400_000 };
            return Duration::from_micros(20_000 + self.random.below(most));
        }
        let soon = self.now + self.delay();
        let last = self.last_arrival.entry((from, to)).or_default();
        *last = (*last + Duration::from_nanos(1)).max(soon);
        *last - self.now
    }

    pub(super) fn send(&mut self, from: Address, to: Address, message: Message) {
        if self.blocked.contains(&(from, to)) {
            return;
        }
        if self.rough && matches!(message, Message::Request { .. } | Message::Tail { .. } | Message::Ack { .. }) {
            if self.overheard.len() >= OVERHEARD {
                let forgotten = self.random.below(OVERHEARD as u64) as usize;
                self.overheard.remove(forgotten);
            }
            self.overheard.push_back((from, to, message.clone()));
        }
        if self.rough && self.random.chance(self.plan.loss_permille) {
            self.count("lost messages");
            return;
        }
        // A health stream is a stream: what overtakes it is of a later connection, which begins when it ended.
        let stream = matches!(message, Message::Report(_));
        let after = self.travel(from, to, stream);
        if !stream && self.rough && self.random.chance(self.plan.duplicate_permille) {
            self.count("duplicated messages");
            let again = self.travel(from, to, false);
            self.schedule(again, Occurrence::Arrive { from, to, message: message.clone() });
        }
        self.schedule(after, Occurrence::Arrive { from, to, message });
    }

    pub(super) fn arrive(&mut self, from: Address, to: Address, message: Message) {
        if self.blocked.contains(&(from, to)) {
            return;
        }
        if let (Address::Member(member), Message::Chunk { chunk, .. }) = (to, &message)
            && self.deaf.contains(&(member, usize::from(chunk.shard)))
        {
            return;
        }
        if let Some(brief) = message.brief() {
            self.tell(|| format!("{from} -> {to}: {brief}"));
        }
        match to {
            Address::Member(member) => {
                if member >= self.places.len() {
                    return;
                }
                if let Some(delay) = self.paused(member) {
                    return self.schedule(delay, Occurrence::Arrive { from, to, message });
                }
                if self.places[member].process.is_none() {
                    return self.refuse(from, to, &message);
                }
                self.with(member, None, |p, h| p.take(from, message, h));
            }
            Address::Controller(controller) => {
                if let Some(delay) = self.controller_paused(controller) {
                    return self.schedule(delay, Occurrence::Arrive { from, to, message });
                }
                let Address::Member(member) = from else { return };
                let life = self.drivers[controller].life;
                match message {
                    Message::Report(report) => {
                        self.drivers[controller].heard.insert(member, self.now);
                        self.feed(controller, life, Event::Report { member: member_name(member), report });
                    }
                    Message::Reply { id, reply } => {
                        let (life_asked, id) = (id >> 32, id & 0xffff_ffff);
                        if life_asked == life
                            && let Some(member) = self.drivers[controller].take_call(life, id)
                        {
                            let event = Event::Reply { request_id: id, member, result: Ok(reply) };
                            self.feed(controller, life, event);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Nobody listens there: a call fails at once.
    fn refuse(&mut self, from: Address, to: Address, message: &Message) {
        let (Address::Controller(controller), Message::Request { id, .. }) = (from, message) else { return };
        if self.blocked.contains(&(to, from)) {
            return;
        }
        let (life, id) = (*id >> 32, *id & 0xffff_ffff);
        if let Some(member) = self.drivers[controller].take_call(life, id) {
            let event = Event::Reply { request_id: id, member, result: Err("refused".into()) };
            self.tell_later(controller, life, event);
        }
    }

    fn paused(&self, member: usize) -> Option<Duration> {
        let until = self.places[member].paused_until;
        (self.now < until).then(|| until - self.now)
    }

    fn controller_paused(&self, controller: usize) -> Option<Duration> {
        let until = self.drivers[controller].paused_until;
        (self.now < until).then(|| until - self.now)
    }

    // --- controllers --------------------------------------------------------------------------------------

    pub(super) fn start_controller(&mut self, controller: usize) {
        let (members, spec, seed) = (self.expected(), self.spec.clone(), self.random.next());
        let life = self.drivers[controller].start(self.now, members, spec, seed);
        if let Some(weakness) = self.plan.mutant.and_then(super::Mutant::weakness) {
            self.drivers[controller].weaken(weakness);
        }
        self.feed(controller, life, Event::Tick);
    }

    fn tell_later(&mut self, controller: usize, life: u64, event: Event) {
        let after = self.delay();
        self.schedule(after, Occurrence::Tell { controller, life, event: Box::new(event) });
    }

    pub(super) fn feed(&mut self, controller: usize, life: u64, event: Event) {
        use crate::topology::controller::Action;
        let Some(actions) = self.drivers[controller].step(life, self.now, event) else { return };
        for action in actions {
            match action {
                Action::ReadRegister => {
                    let after = self.delay();
                    self.schedule(after, Occurrence::Read { controller, life });
                }
                Action::CompareAndSwap { expected, register } => {
                    let after = self.delay() + Duration::from_millis(self.random.below(8));
                    let lost = self.rough && self.random.chance(30);
                    self.schedule(after, Occurrence::Swap { controller, life, expected, register, lost });
                }
                Action::Send { request_id, member, timeout, request } => {
                    self.call(controller, life, request_id, &member, timeout, *request);
                }
                Action::Tell(notice) => {
                    if notice.severity == crate::topology::notice::Severity::Alarm && !self.expect_alarms {
                        self.oracle.broken(|| format!("controller {controller}: {notice}"));
                    }
                    self.tell(|| format!("controller {controller}: {notice}"));
                }
            }
        }
        if let Some(at) = self.drivers[controller].next_tick() {
            let after = at.saturating_sub(self.now);
            self.schedule(after, Occurrence::Tick { controller, life });
        }
    }

    fn call(&mut self, controller: usize, life: u64, id: u64, name: &str, timeout: Duration, request: Request) {
        let Some(member) = name.strip_prefix("m-").and_then(|n| n.parse::<usize>().ok()) else { return };
        self.drivers[controller].calls.insert(id, name.to_owned());
        self.schedule(timeout, Occurrence::Deadline { controller, life, id });
        self.tell(|| format!("controller {controller} -> {name}: {}", super::driver::brief(&request)));
        let message = Message::Request { id: life << 32 | id, request: Box::new(request) };
        self.send(Address::Controller(controller), Address::Member(member), message);
    }

    fn swap(&mut self, controller: usize, life: u64, expected: Option<Version>, register: &Register, lost: bool) {
        let outcome = if self.store.out {
            CasOutcome::Unknown("out".into())
        } else if lost && self.random.chance(300) {
            // It will be written, but later than anybody thinks.
            let after = Duration::from_millis(self.random.below(500));
            let register = Box::new(register.clone());
            self.schedule(after, Occurrence::Swap { controller, life: u64::MAX, expected, register, lost: false });
            CasOutcome::Unknown("late".into())
        } else if lost && self.random.chance(500) {
            CasOutcome::Unknown("not sent".into())
        } else {
            let before = self.store.present().cloned();
            let outcome = self.store.swap(expected.as_ref(), register);
            if let CasOutcome::Written(_) = outcome {
                self.note_change(before.as_ref(), register);
                self.written(register);
            }
            if lost || self.store.forgetful && matches!(outcome, CasOutcome::Written(_)) {
                CasOutcome::Unknown("no answer".into())
            } else {
                outcome
            }
        };
        match &outcome {
            CasOutcome::Conflict => self.count("swaps that conflicted"),
            CasOutcome::Unknown(_) => self.count("swaps of unknown outcome"),
            CasOutcome::Written(_) => {}
        }
        if life != u64::MAX {
            self.tell_later(controller, life, Event::CasDone(outcome));
        }
    }

    fn note_change(&mut self, before: Option<&Register>, register: &Register) {
        match before {
            None if register.epoch > 1 && self.oracle.acknowledged() > 0 => self.count("registers rebuilt"),
            Some(before) if before.voters.len() != register.voters.len() => self.count("voters' numbers changed"),
            Some(before) if before.voters != register.voters => self.count("voters replaced"),
            _ => {}
        }
    }

    fn written(&mut self, register: &Register) {
        self.tell(|| {
            format!(
                "register: epoch {} {:?} leader {:?} of {} voters",
                register.epoch,
                register.phase,
                register.leader,
                register.voters.len()
            )
        });
        if self.rough && self.random.chance(self.plan.ambush_permille) {
            let after = Duration::from_micros(self.random.below(40_000));
            self.ambushes += 1;
            // Apart from the numbers of other faults.
            self.schedule(after, Occurrence::Ambush { number: 10_000 + self.ambushes });
        }
        if let (Phase::Leading, Some(leader)) = (register.phase, register.leader) {
            self.oracle.decided(leader, register.epoch);
            if !register.voters.contains(&leader) {
                self.oracle.broken(|| format!("epoch {} is led by {leader}, who does not vote", register.epoch));
            }
        }
    }

    fn watch(&mut self) {
        self.schedule(Duration::from_millis(100), Occurrence::Watch);
        for controller in 0..self.drivers.len() {
            let life = self.drivers[controller].life;
            for member in 0..self.places.len() {
                let (m, c) = (Address::Member(member), Address::Controller(controller));
                let cut = self.blocked.contains(&(m, c)) || self.blocked.contains(&(c, m));
                let heard = self.drivers[controller].heard.get(&member).copied().unwrap_or_default();
                let silent = self.now.saturating_sub(heard) > Duration::from_millis(500);
                let kind = match (self.places[member].process.is_some(), cut) {
                    (false, false) => Disconnect::Refused,
                    _ if silent => Disconnect::Silent,
                    _ => continue,
                };
                self.feed(controller, life, Event::Disconnected { member: member_name(member), kind });
            }
        }
    }

    /// Hands a wish to a controller.
    pub(super) fn ask(&mut self, controller: usize, target: Option<usize>) -> String {
        let id = format!("request-{}", self.next_request);
        self.next_request += 1;
        self.hand(controller, target, &id);
        id
    }

    /// Hands a wish over that was handed over before.
    #[cfg(test)]
    pub(super) fn ask_again(&mut self, controller: usize, id: &str) {
        self.hand(controller, None, id);
    }

    fn hand(&mut self, controller: usize, target: Option<usize>, id: &str) {
        let request = ControlRequest::Switchover { target: target.map(member_name), id: id.to_owned() };
        let life = self.drivers[controller].life;
        self.feed(controller, life, Event::Request(request));
    }

    /// The owner wants so many voters.
    pub(super) fn respec(&mut self, change: impl FnOnce(&mut PartitionSpec)) {
        change(&mut self.spec);
        for controller in 0..self.drivers.len() {
            let life = self.drivers[controller].life;
            let event = Event::SpecChanged { spec: Box::new(self.spec.clone()), members: self.expected() };
            self.feed(controller, life, event);
        }
    }

    // --- clients ------------------------------------------------------------------------------------------

    fn client(&mut self) {
        let after = Duration::from_millis(5 + self.random.below(30));
        self.schedule(after, Occurrence::Client);
        if !self.clients {
            return;
        }
        let leaders: Vec<usize> = (0..self.places.len())
            .filter(|&n| self.paused(n).is_none() && self.places[n].process.as_ref().is_some_and(Process::leads))
            .collect();
        if leaders.is_empty() {
            return;
        }
        let member = leaders[self.random.below(leaders.len() as u64) as usize];
        let shard = self.random.below(self.plan.shards as u64) as usize;
        if self.random.chance(400) {
            let place = &self.places[member];
            let key = workload::key(&mut self.random);
            match place.process.as_ref().and_then(|p| p.read_begins(shard, &key)) {
                Some(Ok((look, epoch))) => {
                    let (life, required) = (place.life, self.oracle.seen());
                    let after = self.delay();
                    let (look, asked) = (Box::new(look), self.now);
                    self.schedule(after, Occurrence::ReadEnds { member, life, epoch, look, required, asked });
                }
                Some(Err(why)) => {
                    if self.places[member].rotten {
                        self.count("reads refused by a rotten record");
                    } else {
                        self.oracle.broken(|| format!("m-{member} cannot read: {why}"));
                    }
                }
                None => {}
            }
        } else {
            let now_ms = self.places[member].process.as_ref().map_or(0, |p| p.committed_time_ms(shard));
            let op = self.next_op;
            let batch = workload::batch(&mut self.random, op, now_ms, self.oracle.truth(shard));
            self.put(member, shard, &batch);
        }
    }

    /// A client writes there: the operation's number.
    fn put(&mut self, member: usize, shard: usize, batch: &WriteBatch) -> u64 {
        let op = self.next_op;
        self.next_op += 1;
        self.oracle.asked(op, shard, batch);
        let mut put = Put::Refused;
        self.with(member, None, |p, h| put = p.put(op, shard, batch, h));
        if put == Put::Refused {
            self.oracle.never(op);
        }
        op
    }

    /// A client writes one value there.
    #[cfg(test)]
    pub(super) fn write(&mut self, member: usize) -> u64 {
        self.write_to(member, 0)
    }

    /// To this shard.
    #[cfg(test)]
    pub(super) fn write_to(&mut self, member: usize, shard: usize) -> u64 {
        let key = workload::key(&mut self.random);
        let batch = WriteBatch::new().put(key, workload::value(&mut self.random, self.next_op, 0));
        self.put(member, shard, &batch)
    }

    // --- processes ----------------------------------------------------------------------------------------

    pub(super) fn start(&mut self, member: usize) {
        let place = &mut self.places[member];
        if place.process.is_some() || place.kept_down {
            return;
        }
        place.life += 1;
        let mut wishes = Vec::new();
        let mut hands = Hands {
            now: self.now,
            random: &mut self.random,
            oracle: &mut self.oracle,
            wishes: &mut wishes,
            counts: &mut self.counts,
            mutant: self.plan.mutant,
            slow_disk: place.slow_disk,
            wall_ms: place.wall_ms(self.now),
            controllers: self.drivers.len(),
        };
        match Process::open(&place.volume, &self.plan.engine, &mut hands) {
            Ok(process) => {
                place.started(process);
                self.laggard_returns(member);
                self.tell(|| format!("m-{member} starts"));
                self.carry_out(member, wishes);
            }
            Err(error) => {
                self.tell(|| format!("m-{member} cannot start: {error}"));
                let (doom, may_fail) = (self.places[member].doom.take(), self.places[member].may_fail());
                if doom.is_none() && !may_fail {
                    return self.oracle.broken(|| format!("m-{member} cannot be opened: {error}"));
                }
                self.count("deaths during recovery");
                let (power, down) = doom.unwrap_or((false, Duration::from_millis(200)));
                self.places[member].volume.crash(power, &mut self.random);
                self.schedule(down, Occurrence::Start { member });
            }
        }
    }

    /// Whoever was away while tombstones were dropped that it never saw must not bring back what they hid.
    fn laggard_returns(&mut self, member: usize) {
        let tails: Vec<_> = (0..self.plan.shards).map(|shard| self.places[member].tail(shard).last.gsn).collect();
        let dropped = self.places.iter().enumerate().any(|(other, place)| {
            let shards = place.process.as_ref().map(|p| p.engine.shards()).unwrap_or_default();
            other != member && shards.iter().zip(&tails).any(|(shard, &tail)| shard.tombstone_floor() > tail)
        });
        if dropped {
            self.count("laggards that return after tombstones were dropped");
        }
    }

    /// kill -9; it comes back after `down`.
    pub(super) fn kill(&mut self, member: usize, down: Duration) {
        self.end(member, false, down);
    }

    /// A loss of power.
    pub(super) fn power_off(&mut self, member: usize, down: Duration) {
        self.end(member, true, down);
    }

    fn end(&mut self, member: usize, power: bool, down: Duration) {
        let place = &mut self.places[member];
        let Some(process) = place.process.take() else { return };
        if process.copies() {
            *self.counts.entry("deaths during a full copy").or_default() += 1;
        }
        if process.leads() && !process.serving() {
            *self.counts.entry("leaders that died before they served").or_default() += 1;
        }
        place.ended(&process);
        drop(process);
        place.volume.crash(power, &mut self.random);
        self.tell(|| format!("m-{member} {}", if power { "loses power" } else { "is killed" }));
        for other in 0..self.places.len() {
            let life = self.places[other].life;
            let link = (Address::Member(member), Address::Member(other));
            if other != member && !self.blocked.contains(&link) {
                let after = Duration::from_micros(500 + self.random.below(5000));
                self.schedule(after, Occurrence::Gone { member: other, life, leader: member });
            }
        }
        for controller in 0..self.drivers.len() {
            let link = (Address::Member(member), Address::Controller(controller));
            if !self.blocked.contains(&link) {
                let life = self.drivers[controller].life;
                let event = Event::Disconnected { member: member_name(member), kind: Disconnect::Reset };
                self.tell_later(controller, life, event);
            }
        }
        self.schedule(down, Occurrence::Start { member });
    }

    /// An empty volume takes the place of the old one.
    pub(super) fn wipe(&mut self, member: usize) {
        self.kill(member, Duration::from_millis(200));
        let sid = self.fresh_sid();
        self.places[member].replace(sid, Volume::format(sid, self.plan.shards));
        self.tell(|| format!("the volume of m-{member} is replaced"));
    }

    pub(super) fn later(&mut self, after: Duration, what: Occurrence) {
        self.schedule(after, what);
    }

    pub(super) fn block(&mut self, from: Address, to: Address, time: Duration) {
        self.blocked.insert((from, to));
        self.schedule(time, Occurrence::Unblock { link: (from, to) });
    }

    /// They hear each other again.
    #[cfg(test)]
    pub(super) fn unblock(&mut self, a: Address, b: Address) {
        self.blocked.remove(&(a, b));
        self.blocked.remove(&(b, a));
    }

    pub(super) fn terminate(&mut self, member: usize) {
        let life = self.places[member].life;
        self.with(member, None, |p, h| p.terminate(h));
        let after = Duration::from_secs(5);
        self.schedule(after, Occurrence::Exit { member, life });
    }

    // --- looking ------------------------------------------------------------------------------------------

    /// Which place holds `sid`.
    pub(super) fn holder(&self, sid: Sid) -> Option<usize> {
        self.places.iter().position(|p| p.sid == sid)
    }

    /// The leader by the register, if its process serves.
    pub(super) fn leader(&self) -> Option<usize> {
        let register = self.store.present()?;
        let number = self.holder(register.leader.filter(|_| register.phase == Phase::Leading)?)?;
        let process = self.places[number].process.as_ref()?;
        (process.core.leads(register.epoch) && process.serving()).then_some(number)
    }

    /// Everything is as it should be in the end.
    pub(super) fn converged(&self) -> bool {
        let (Some(register), Some(leader)) = (self.store.present(), self.leader()) else { return false };
        let wanted = self.spec.replicas as usize;
        let mut voters: Vec<Sid> = self.places.iter().take(wanted).map(|p| p.sid).collect();
        voters.sort_unstable();
        let whole = |place: &Place| {
            place.is_ready() && (0..self.plan.shards).all(|shard| place.durable(shard) == place.tail(shard).last.gsn)
        };
        let equal =
            |place: &Place| (0..self.plan.shards).all(|shard| place.tail(shard) == self.places[leader].tail(shard));
        voters == register.voters
            && register.write_quorum == self.spec.ack.write_quorum(wanted)
            && self.drivers.iter().all(Driver::idle)
            && self.places.iter().enumerate().all(|(n, place)| {
                let Some(process) = &place.process else { return false };
                let settled = process.engine.shards().iter().all(|s| s.applied() == s.tail_gsn());
                n == leader || whole(place) && equal(place) && process.joined() && settled
            })
            && self.places[leader]
                .process
                .as_ref()
                .is_some_and(|p| p.engine.shards().iter().all(|s| s.applied() == s.tail_gsn()))
    }

    /// Nothing is going on and nobody is missing: a volume may be taken away.
    pub(super) fn calm(&self) -> bool {
        let (Some(register), Some(leader)) = (self.store.present(), self.leader()) else { return false };
        let shards = self.places[leader].process.as_ref().map(|p| p.engine.shards()).unwrap_or_default();
        let commits: Vec<_> = shards.iter().map(|shard| shard.commit()).collect();
        let sound = |&sid: &Sid| {
            self.holder(sid).is_some_and(|n| {
                let place = &self.places[n];
                let whole = commits.iter().enumerate().all(|(shard, &commit)| place.durable(shard) >= commit);
                place.is_ready()
                    && place.doom.is_none()
                    && !place.rotten
                    && whole
                    && self.paused(n).is_none()
                    && (n == leader || place.process.as_ref().is_some_and(|p| p.joined() && !p.draining))
            })
        };
        register.voters.iter().all(sound)
            && register.voters.len() == self.spec.replicas as usize
            && self.drivers.iter().all(Driver::idle)
            && self.places[leader].process.as_ref().is_some_and(|p| !p.draining)
    }

    /// Ends everything that goes wrong; pauses take their time.
    pub(super) fn heal(&mut self) {
        self.rough = false;
        self.blocked.clear();
        self.deaf.clear();
        self.store.out = false;
        self.store.slow = false;
        for member in 0..self.places.len() {
            let place = &mut self.places[member];
            place.slow_disk = false;
            place.stuck_disk = false;
            place.kept_down = false;
            place.doom = None;
            place.full = false;
            place.volume.disk.heal();
            place.volume.disk.set_capacity(None);
            // Nobody but its owner mends a record that rotted.
            if place.rotten && self.one_may_go() {
                self.wipe(member);
            }
            self.start(member);
        }
        for controller in 0..self.drivers.len() {
            if !self.drivers[controller].alive() {
                self.start_controller(controller);
            }
        }
        self.tell(|| "everything heals".into());
    }

    /// Everything that was acknowledged is everywhere, and every index shows it.
    pub(super) fn check_everything(&mut self) {
        for place in &self.places {
            let Some(process) = &place.process else { continue };
            for (number, shard) in process.engine.shards().iter().enumerate() {
                self.oracle.holds_all(place.sid, number, shard);
            }
        }
    }
}
