//! What goes wrong, by chance.

use std::time::Duration;

use super::wire::Address;
use super::world::{Occurrence, World};

/// One mishap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Kill {
        member: usize,
        down: Duration,
    },
    KillAll {
        down: Duration,
    },
    Pause {
        member: usize,
        time: Duration,
    },
    Terminate {
        member: usize,
    },
    /// Cut off from everybody.
    Isolate {
        member: usize,
        time: Duration,
    },
    /// Two do not hear each other, or one does not hear the other.
    Cut {
        from: Address,
        to: Address,
        both: bool,
        time: Duration,
    },
    SlowDisk {
        member: usize,
        time: Duration,
    },
    RaiseFloor {
        member: usize,
    },
    RegisterOut {
        time: Duration,
    },
    /// Something that was said lately is said again.
    Replay,
    StopController {
        controller: usize,
        time: Duration,
    },
    PauseController {
        controller: usize,
        time: Duration,
    },
    Switchover {
        controller: usize,
        target: Option<usize>,
    },
    // Only while nothing else is wrong:
    Wipe {
        member: usize,
    },
    /// One machine at a time: what several lose together under durability Os is lost.
    LosePower {
        member: usize,
        down: Duration,
    },
    LoseRegister,
    RollRegisterBack {
        states: usize,
    },
    Replicas {
        count: u32,
    },
}

impl Fault {
    pub(super) fn random(world: &mut World) -> Self {
        let members = world.places.len() as u64;
        let controllers = world.drivers.len() as u64;
        let calm = world.calm();
        let upheaval = world.plan.upheavals && calm;
        let one_may_forget =
            calm && world.store.present().is_some_and(|r| r.voters.len() > r.read_quorum()) || !world.plan.relaxed;
        let r = &mut world.random;
        let member = r.below(members) as usize;
        let controller = r.below(controllers) as usize;
        let mut time = |from: u64, to: u64| Duration::from_millis(from + r.below(to - from));
        let (short, long) = (time(30, 1500), time(50, 4000));
        if upheaval && r.chance(300) {
            return match r.below(6) {
                0 | 1 => Self::Wipe { member },
                2 => Self::LoseRegister,
                3 => Self::RollRegisterBack { states: 1 + r.below(6) as usize },
                _ => Self::Replicas { count: 1 + r.below(5) as u32 },
            };
        }
        if one_may_forget && r.chance(100) {
            return Self::LosePower { member, down: short };
        }
        match r.below(33) {
            0..=5 => Self::Kill { member, down: short },
            6 => Self::KillAll { down: short },
            7..=9 => Self::Pause { member, time: long },
            10 => Self::Terminate { member },
            11..=13 => Self::Isolate { member, time: long },
            14..=17 => {
                let other = r.below(members + controllers) as usize;
                let to = if other < members as usize {
                    Address::Member(other)
                } else {
                    Address::Controller(other - members as usize)
                };
                Self::Cut { from: Address::Member(member), to, both: r.chance(600), time: long }
            }
            18 => Self::SlowDisk { member, time: long },
            19 => Self::RaiseFloor { member },
            20 => Self::RegisterOut { time: short },
            21 | 22 => Self::StopController { controller, time: short },
            23..=27 => Self::Replay,
            28 => Self::PauseController { controller, time: short },
            _ => {
                let target = r.chance(500).then_some(member);
                Self::Switchover { controller, target }
            }
        }
    }
}

impl Fault {
    /// In the middle of a change of epoch.
    pub(super) fn ambush(world: &mut World) -> Self {
        let members = world.places.len() as u64;
        let controllers = world.drivers.len() as u64;
        let r = &mut world.random;
        let member = r.below(members) as usize;
        let controller = r.below(controllers) as usize;
        let short = Duration::from_millis(20 + r.below(600));
        let long = Duration::from_millis(100 + r.below(4000));
        match r.below(8) {
            6 | 7 => Self::Replay,
            0 => Self::StopController { controller, time: short },
            1 => Self::PauseController { controller, time: long },
            2 | 3 => Self::Kill { member, down: short },
            4 => Self::Pause { member, time: long },
            _ => Self::Isolate { member, time: long },
        }
    }
}

impl World {
    pub(super) fn apply_fault(&mut self, fault: Fault) {
        self.tell(|| format!("{fault:?}"));
        let kind = match fault {
            Fault::Kill { member, down } => {
                self.kill(member, down);
                "kills"
            }
            Fault::LosePower { member, down } => {
                self.power_off(member, down);
                "losses of power"
            }
            Fault::KillAll { down } => {
                for member in 0..self.places.len() {
                    self.kill(member, down);
                }
                "kills of all"
            }
            Fault::Pause { member, time } => {
                let place = &mut self.places[member];
                place.paused_until = place.paused_until.max(self.now + time);
                "pauses"
            }
            Fault::Terminate { member } => {
                self.terminate(member);
                "terminations"
            }
            Fault::Isolate { member, time } => {
                let me = Address::Member(member);
                let others = (0..self.places.len()).map(Address::Member);
                let all: Vec<Address> = others.chain((0..self.drivers.len()).map(Address::Controller)).collect();
                for other in all.into_iter().filter(|&other| other != me) {
                    self.block(me, other, time);
                    self.block(other, me, time);
                }
                "isolations"
            }
            Fault::Cut { from, to, both, time } => {
                if from != to {
                    self.block(from, to, time);
                    if both {
                        self.block(to, from, time);
                    }
                }
                "cuts"
            }
            Fault::SlowDisk { member, time } => {
                self.places[member].slow_disk = true;
                self.later(time, Occurrence::DiskBack { member });
                "slow disks"
            }
            Fault::RaiseFloor { member } => {
                // Retention is long: where volumes get lost, no voter is behind it at the same time.
                let early = self.plan.upheavals && !self.calm();
                let place = &mut self.places[member];
                // Not while a promise is open: whoever promised may be asked for its log.
                let settled = !early && place.process.as_ref().is_some_and(|p| p.leads() || p.joined());
                if let (true, Some(process)) = (settled, &place.process) {
                    for (log, &commit) in place.disk.logs.iter_mut().zip(process.commits()) {
                        log.floor = log.floor.max(commit.min(log.durable) + 1);
                    }
                }
                "raised floors"
            }
            Fault::RegisterOut { time } => {
                self.store.out = true;
                self.later(time, Occurrence::RegisterBack);
                "register outages"
            }
            Fault::Replay => {
                let count = self.overheard.len() as u64;
                for _ in 0..6.min(count) {
                    let which = self.random.below(count) as usize;
                    if let Some((from, to, message)) = self.overheard.get(which).cloned() {
                        self.send(from, to, message);
                    }
                }
                "replays"
            }
            Fault::StopController { controller, time } => {
                if self.drivers[controller].alive() {
                    self.drivers[controller].stop();
                    self.later(time, Occurrence::StartController { controller });
                }
                "controllers stopped"
            }
            Fault::PauseController { controller, time } => {
                let driver = &mut self.drivers[controller];
                driver.paused_until = driver.paused_until.max(self.now + time);
                "controllers paused"
            }
            Fault::Switchover { controller, target } => {
                self.ask(controller, target);
                "switchovers asked for"
            }
            Fault::Wipe { member } => {
                // The last one that holds everything stays.
                let voters = self.store.present().map_or(0, |r| r.voters.len());
                let needed = self.store.present().map_or(0, |r| r.read_quorum());
                if voters > needed {
                    self.wipe(member);
                }
                "volumes replaced"
            }
            Fault::LoseRegister => {
                self.store.lose();
                "registers lost"
            }
            Fault::RollRegisterBack { states } => {
                self.store.roll_back(states);
                "registers rolled back"
            }
            Fault::Replicas { count } => {
                while self.places.len() < count as usize {
                    self.add_place();
                }
                self.respec(|spec| {
                    spec.replicas = count;
                    spec.min_voters = crate::topology::spec::PartitionSpec::default_min_voters(count);
                });
                "changes of the voters' number"
            }
        };
        self.count(kind);
    }
}
