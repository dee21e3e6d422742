//! The world: one seeded scheduler, a network, disks, clocks, a register, clients, and everything that goes wrong.
//!
//! Everything that happens is an [`Occurrence`] at a time; the next one is taken from a queue ordered by time and
//! number, so that one seed is one history. A phase of faults is followed by one without: then a leader must
//! serve, everybody must follow, and nothing that was acknowledged may be missing.

mod clients;
mod controllers;
mod network;
mod processes;
mod standing;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use crate::ident::{ClusterId, Sid};
use crate::position::Epoch;
use crate::simulation::driver::Driver;
use crate::simulation::faults::Fault;
use crate::simulation::member::{Counts, Timer};
use crate::simulation::oracle::{Look, Oracle, Seen};
use crate::simulation::place::Place;
use crate::simulation::plan::Plan;
use crate::simulation::store::Store;
use crate::simulation::wire::{Address, Message};
use crate::topology::controller::Event;
use crate::topology::message::MemberName;
use crate::topology::random::Random;
use crate::topology::register::{ReadOutcome, Register, Version};
use crate::topology::spec::{ExpectedMember, PartitionSpec};

/// Something that is going to happen.
#[derive(Debug)]
pub(in crate::simulation) enum Occurrence {
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
pub(in crate::simulation) struct World {
    pub(in crate::simulation) plan: Plan,
    pub(in crate::simulation) now: Duration,
    pub(in crate::simulation) random: Random,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
    pub(in crate::simulation) places: Vec<Place>,
    pub(in crate::simulation) drivers: Vec<Driver>,
    pub(in crate::simulation) store: Store,
    pub(in crate::simulation) oracle: Oracle,
    blocked: BTreeSet<(Address, Address)>,
    /// Members that the log of a shard does not reach.
    pub(in crate::simulation) deaf: BTreeSet<(usize, usize)>,
    /// What was said lately and may be said again by the network.
    pub(in crate::simulation) overheard: VecDeque<(Address, Address, Message)>,
    /// Streams deliver in order, except what is late.
    last_arrival: BTreeMap<(Address, Address), Duration>,
    pub(in crate::simulation) spec: PartitionSpec,
    next_op: u64,
    next_sid: u128,
    next_request: u64,
    pub(in crate::simulation) rough: bool,
    pub(in crate::simulation) clients: bool,
    /// Alarms are what the test is about.
    pub(in crate::simulation) expect_alarms: bool,
    /// A number that differs as soon as two histories do.
    pub(in crate::simulation) trace: u64,
    pub(in crate::simulation) steps: u64,
    pub(in crate::simulation) told: Option<Vec<String>>,
    pub(in crate::simulation) counts: Counts,
    /// How often each kind of fault happened.
    pub(in crate::simulation) faults: Counts,
    /// Numbers of the faults that happened.
    pub(in crate::simulation) fault_numbers: Vec<u32>,
    ambushes: u32,
}

pub(in crate::simulation) const CLUSTER: ClusterId = ClusterId(0xc1);

pub(in crate::simulation) fn member_name(number: usize) -> MemberName {
    format!("m-{number}")
}

impl World {
    pub(in crate::simulation) fn new(plan: Plan) -> Self {
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

    pub(in crate::simulation) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(in crate::simulation) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            told.push(format!("{:>9.3} ms  {}", self.now.as_secs_f64() * 1000.0, line()));
        }
    }

    pub(in crate::simulation) fn schedule(&mut self, after: Duration, what: Occurrence) {
        self.queued += 1;
        self.queue.push(Reverse(Queued { at: self.now + after, number: self.queued, what }));
    }

    pub(in crate::simulation) fn add_place(&mut self) -> usize {
        let number = self.places.len();
        let sid = self.fresh_sid();
        self.places.push(Place::new(sid, self.plan.shards));
        let after = Duration::from_millis(self.random.below(50));
        self.schedule(after, Occurrence::Start { member: number });
        number
    }

    pub(in crate::simulation) fn fresh_sid(&mut self) -> Sid {
        self.next_sid += 1;
        // In no order that would help anybody.
        Sid((u128::from(Random::new(self.next_sid as u64).next()) << 16) | self.next_sid)
    }

    pub(in crate::simulation) fn expected(&self) -> Vec<ExpectedMember> {
        (0..self.places.len())
            .map(|n| ExpectedMember {
                name: member_name(n),
                peer_address: format!("{}:{n}", member_name(n)),
                client_address: format!("{}-client:{n}", member_name(n)),
                ordinal: n as u32,
            })
            .collect()
    }

    /// Does the next thing. False: a rule was broken, or nothing is left to do.
    pub(in crate::simulation) fn step(&mut self) -> bool {
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
    pub(in crate::simulation) fn until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
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
    pub(in crate::simulation) fn run(&mut self, time: Duration) -> bool {
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
}
