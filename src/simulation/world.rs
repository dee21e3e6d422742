//! The world: one seeded scheduler, a network, disks, clocks, a register, clients, and everything that goes wrong.
//!
//! Everything that happens is an [`Occurrence`] at a time; the next one is taken from a queue ordered by time and
//! number, so that one seed is one history. A phase of faults is followed by one without: then a leader must
//! serve, everybody must follow, and nothing that was acknowledged may be missing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use super::Mutant;
use super::driver::Driver;
use super::faults::Fault;
use super::member::{Disk, Hands, Process, Put, Timer, Wish};
use super::oracle::Oracle;
use super::store::Store;
use super::wire::{Address, Message};
use crate::ident::{ClusterId, Sid};
use crate::position::Gsn;
use crate::topology::controller::{ControlRequest, Disconnect, Event};
use crate::topology::message::{MemberName, Request};
use crate::topology::random::Random;
use crate::topology::register::{CasOutcome, Phase, ReadOutcome, Register, Version};
use crate::topology::spec::{AckRule, ExpectedMember, PartitionSpec};

/// What a run is made of.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) members: usize,
    pub(super) controllers: usize,
    pub(super) shards: usize,
    pub(super) ack: AckRule,
    /// Durability Os.
    pub(super) relaxed: bool,
    /// How long things go wrong.
    pub(super) rough: Duration,
    pub(super) loss_permille: u64,
    pub(super) duplicate_permille: u64,
    pub(super) late_permille: u64,
    /// Of messages that are late, this many by seconds.
    pub(super) very_late_permille: u64,
    /// The longest time between two faults.
    pub(super) calm_ms: u64,
    /// How often something happens just after the register was written.
    pub(super) ambush_permille: u64,
    /// Whether things go wrong by themselves.
    pub(super) faults: bool,
    /// Volumes are replaced, the register is lost, the voters' number changes.
    pub(super) upheavals: bool,
    pub(super) mutant: Option<Mutant>,
}

impl Plan {
    /// What a seed stands for.
    pub(super) fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed_5eed_5eed_5eed);
        let members = [1, 2, 3, 3, 3, 4, 5, 5][random.below(8) as usize];
        Self {
            seed,
            members,
            controllers: 1 + random.below(3) as usize,
            shards: 1 + random.below(2) as usize,
            ack: if random.chance(250) { AckRule::All } else { AckRule::Quorum },
            relaxed: random.chance(200),
            rough: Duration::from_millis(4000 + random.below(8000)),
            loss_permille: [0, 0, 5, 30][random.below(4) as usize],
            duplicate_permille: [0, 10, 50][random.below(3) as usize],
            late_permille: [0, 10, 50, 150][random.below(4) as usize],
            very_late_permille: [0, 100, 300][random.below(3) as usize],
            calm_ms: [100, 300, 700][random.below(3) as usize],
            ambush_permille: [0, 100, 400][random.below(3) as usize],
            faults: true,
            upheavals: random.chance(400),
            mutant: None,
        }
    }

    /// Nothing goes wrong by itself.
    pub(super) fn calm(members: usize) -> Self {
        Self {
            members,
            controllers: 1,
            shards: 1,
            ack: AckRule::Quorum,
            relaxed: false,
            loss_permille: 0,
            duplicate_permille: 0,
            late_permille: 0,
            ambush_permille: 0,
            faults: false,
            upheavals: false,
            ..Self::of_seed(1)
        }
    }
}

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
        applied: Vec<Gsn>,
        required: Vec<Gsn>,
    },
    Fault,
    Ambush,
    Start {
        member: usize,
    },
    StartController {
        controller: usize,
    },
    Unblock {
        link: (Address, Address),
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

/// A place where a member runs: its disk stays, its process comes and goes.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) disk: Disk,
    pub(super) process: Option<Process>,
    pub(super) life: u64,
    pub(super) paused_until: Duration,
    pub(super) slow_disk: bool,
    /// No sync ends any more.
    pub(super) stuck_disk: bool,
    /// Held back by a test.
    pub(super) kept_down: bool,
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
    pub(super) counts: BTreeMap<&'static str, u64>,
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
            counts: BTreeMap::new(),
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
            world.schedule(Duration::from_millis(300), Occurrence::Fault);
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
        let disk = Disk::format(self.fresh_sid(), self.plan.shards);
        self.places.push(Place {
            disk,
            process: None,
            life: 0,
            paused_until: Duration::ZERO,
            slow_disk: false,
            stuck_disk: false,
            kept_down: false,
        });
        let after = Duration::from_millis(self.random.below(50));
        self.schedule(after, Occurrence::Start { member: number });
        number
    }

    fn fresh_sid(&mut self) -> Sid {
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
        match what {
            Occurrence::Arrive { from, to, message } => self.arrive(from, to, message),
            Occurrence::Timer { member, life, timer } => {
                if let Some(delay) = self.paused(member) {
                    return self.schedule(delay, Occurrence::Timer { member, life, timer });
                }
                if self.places[member].stuck_disk && timer == Timer::Synced {
                    return;
                }
                self.with(member, Some(life), |p, d, h| p.timer(d, timer, h));
            }
            Occurrence::Tick { controller, life } => {
                if self.drivers[controller].tick_is_due(life, self.now) {
                    self.feed(controller, life, Event::Tick);
                }
            }
            Occurrence::Read { controller, life } => {
                let outcome = if self.store.out { ReadOutcome::Failed("out".into()) } else { self.store.read() };
                let event = Event::RegisterRead(outcome);
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
                self.with(member, Some(life), |p, d, h| p.leader_is_gone(leader, d, h));
            }
            Occurrence::Client => self.client(),
            Occurrence::ReadEnds { member, life, applied, required } => {
                if let Some(delay) = self.paused(member) {
                    return self.schedule(delay, Occurrence::ReadEnds { member, life, applied, required });
                }
                let place = &self.places[member];
                let answered = place.life == life && place.process.as_ref().is_some_and(|p| p.read_ends(self.now));
                let sid = place.disk.meta.sid;
                if answered {
                    self.count("reads");
                    self.oracle.read(sid, &applied, &required);
                }
            }
            Occurrence::Fault => {
                if self.rough {
                    let fault = Fault::random(self);
                    self.apply_fault(fault);
                    let after = Duration::from_millis(20 + self.random.below(self.plan.calm_ms));
                    self.schedule(after, Occurrence::Fault);
                }
            }
            Occurrence::Ambush => {
                if self.rough {
                    let fault = Fault::ambush(self);
                    self.apply_fault(fault);
                }
            }
            Occurrence::Start { member } => self.start(member),
            Occurrence::StartController { controller } => self.start_controller(controller),
            Occurrence::Unblock { link } => {
                self.blocked.remove(&link);
            }
            Occurrence::RegisterBack => self.store.out = false,
            Occurrence::DiskBack { member } => self.places[member].slow_disk = false,
            Occurrence::Exit { member, life } => {
                if self.places[member].life == life && self.places[member].process.is_some() {
                    self.kill(member, Duration::from_millis(300));
                }
            }
        }
    }

    /// Lets a process do something with its disk, and carries out what it wishes.
    fn with(&mut self, member: usize, life: Option<u64>, action: impl FnOnce(&mut Process, &mut Disk, &mut Hands<'_>)) {
        let place = &mut self.places[member];
        if life.is_some_and(|life| life != place.life) {
            return;
        }
        let Some(process) = &mut place.process else { return };
        let mut wishes = Vec::new();
        let mut hands = Hands {
            now: self.now,
            random: &mut self.random,
            oracle: &mut self.oracle,
            wishes: &mut wishes,
            mutant: self.plan.mutant,
            slow_disk: place.slow_disk,
            relaxed: self.plan.relaxed,
            controllers: self.drivers.len(),
        };
        action(process, &mut place.disk, &mut hands);
        self.carry_out(member, wishes);
    }

    fn carry_out(&mut self, member: usize, wishes: Vec<Wish>) {
        let life = self.places[member].life;
        for wish in wishes {
            match wish {
                Wish::After(after, timer) => self.schedule(after, Occurrence::Timer { member, life, timer }),
                Wish::Send(to, message) => self.send(Address::Member(member), to, message),
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
                self.with(member, None, |p, d, h| p.take(d, from, message, h));
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
        if let Some(weakness) = self.plan.mutant.and_then(Mutant::weakness) {
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
            let outcome = self.store.swap(expected.as_ref(), register);
            if let CasOutcome::Written(_) = outcome {
                self.written(register);
            }
            if lost || self.store.forgetful && matches!(outcome, CasOutcome::Written(_)) {
                CasOutcome::Unknown("no answer".into())
            } else {
                outcome
            }
        };
        if life != u64::MAX {
            self.tell_later(controller, life, Event::CasDone(outcome));
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
            self.schedule(after, Occurrence::Ambush);
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
        if self.random.chance(400) {
            let place = &self.places[member];
            if let Some(applied) = place.process.as_ref().and_then(Process::read_begins) {
                let (life, required) = (place.life, self.oracle.seen());
                let after = self.delay();
                self.schedule(after, Occurrence::ReadEnds { member, life, applied, required });
            }
        } else {
            self.write(member);
        }
    }

    /// A client writes there: the operation's number.
    pub(super) fn write(&mut self, member: usize) -> u64 {
        let op = self.next_op;
        self.next_op += 1;
        let shard = self.random.below(self.plan.shards as u64) as usize;
        let mut put = Put::Refused;
        self.with(member, None, |p, d, h| put = p.put(d, op, shard, h));
        if put == Put::Refused {
            self.oracle.never(op);
        }
        op
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
            mutant: self.plan.mutant,
            slow_disk: place.slow_disk,
            relaxed: self.plan.relaxed,
            controllers: self.drivers.len(),
        };
        let process = Process::open(&mut place.disk, &mut hands);
        place.process = Some(process);
        self.tell(|| format!("m-{member} starts"));
        self.carry_out(member, wishes);
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
        place.paused_until = Duration::ZERO;
        process.die(&mut place.disk, power, &mut self.random);
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
        self.places[member].disk = Disk::format(self.fresh_sid(), self.plan.shards);
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
    pub(super) fn unblock(&mut self, a: Address, b: Address) {
        self.blocked.remove(&(a, b));
        self.blocked.remove(&(b, a));
    }

    pub(super) fn terminate(&mut self, member: usize) {
        let life = self.places[member].life;
        self.with(member, None, |p, d, h| p.terminate(d, h));
        let after = Duration::from_secs(5);
        self.schedule(after, Occurrence::Exit { member, life });
    }

    // --- looking ------------------------------------------------------------------------------------------

    /// Which place holds `sid`.
    pub(super) fn holder(&self, sid: Sid) -> Option<usize> {
        self.places.iter().position(|p| p.disk.meta.sid == sid)
    }

    /// The leader by the register, if its process serves.
    pub(super) fn leader(&self) -> Option<usize> {
        let register = self.store.present()?;
        let number = self.holder(register.leader.filter(|_| register.phase == Phase::Leading)?)?;
        let process = self.places[number].process.as_ref()?;
        (process.core.leads(register.epoch) && process.serving(self.now)).then_some(number)
    }

    /// Everything is as it should be in the end.
    pub(super) fn converged(&self) -> bool {
        let (Some(register), Some(leader)) = (self.store.present(), self.leader()) else { return false };
        let wanted = self.spec.replicas as usize;
        let mut voters: Vec<Sid> = self.places.iter().take(wanted).map(|p| p.disk.meta.sid).collect();
        voters.sort_unstable();
        let logs = &self.places[leader].disk.logs;
        voters == register.voters
            && register.write_quorum == self.spec.ack.write_quorum(wanted)
            && self.drivers.iter().all(Driver::idle)
            && self.places.iter().enumerate().all(|(n, p)| {
                let Some(process) = &p.process else { return false };
                n == leader
                    || p.disk.is_ready()
                        && process.joined()
                        && p.disk.logs.iter().zip(logs).all(|(a, b)| a.tail() == b.tail() && a.durable == a.len())
            })
            && self.places[leader]
                .process
                .as_ref()
                .is_some_and(|p| p.commits().iter().zip(logs).all(|(&commit, log)| commit == log.len()))
    }

    /// Nothing is going on and nobody is missing: a volume may be taken away.
    pub(super) fn calm(&self) -> bool {
        let (Some(register), Some(leader)) = (self.store.present(), self.leader()) else { return false };
        let commits = self.places[leader].process.as_ref().map(|p| p.commits().to_vec()).unwrap_or_default();
        let sound = |&sid: &Sid| {
            self.holder(sid).is_some_and(|n| {
                let place = &self.places[n];
                let whole = place.disk.logs.iter().zip(&commits).all(|(log, &commit)| log.durable >= commit);
                place.disk.is_ready()
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
        self.store.out = false;
        for member in 0..self.places.len() {
            self.places[member].slow_disk = false;
            self.places[member].kept_down = false;
            self.start(member);
        }
        for controller in 0..self.drivers.len() {
            if !self.drivers[controller].alive() {
                self.start_controller(controller);
            }
        }
        self.tell(|| "everything heals".into());
    }

    /// Everything that was acknowledged is everywhere.
    pub(super) fn check_everything(&mut self) {
        for place in &self.places {
            for (shard, log) in place.disk.logs.iter().enumerate() {
                self.oracle.holds_all(place.disk.meta.sid, shard, log);
            }
        }
    }
}
