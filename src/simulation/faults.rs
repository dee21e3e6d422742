//! What goes wrong, by chance.
//!
//! Each fault has a number and is drawn from a generator of its own, so that one can be left out without changing the
//! others. What several members lose for good at the same time is lost, and no fault of the product: such faults
//! happen only while everybody else holds everything ([`World::calm`]).

use std::time::Duration;

use super::volume::Volume;
use super::wire::Address;
use super::world::{Occurrence, World};
use crate::disk::{Fault as DiskFault, FaultOn};
use crate::topology::random::Random;
use crate::topology::spec::PartitionSpec;

/// One mishap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    Kill {
        member: usize,
        down: Duration,
    },
    KillAll {
        down: Duration,
    },
    /// The process dies after so many more disk operations, in the middle of whatever it does then.
    DieAtOperation {
        member: usize,
        operations: u64,
        power: bool,
        down: Duration,
    },
    /// One machine at a time: what several lose together under durability Os is lost.
    LosePower {
        member: usize,
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
    /// The log of one shard does not reach a member.
    Deafen {
        member: usize,
        shard: usize,
        time: Duration,
    },
    /// Two halves hear each other only through one member that both hear.
    Bridge {
        member: usize,
        time: Duration,
    },
    SlowDisk {
        member: usize,
        time: Duration,
    },
    /// A sync to come fails; what it should have synced is seen and is not on the disk.
    FailSync {
        member: usize,
        skip: u64,
    },
    /// A write to come fails half-way.
    FailWrite {
        member: usize,
        skip: u64,
    },
    /// Reads fail for a while: of whoever recovers or tidies up.
    FailReads {
        member: usize,
        skip: u64,
    },
    FillDisk {
        member: usize,
        room_bytes: u64,
        time: Duration,
    },
    JumpClock {
        member: usize,
        by_ms: i64,
    },
    RegisterOut {
        time: Duration,
    },
    /// Reads of the register take long: what they tell is old when it arrives.
    SlowRegister {
        time: Duration,
    },
    /// Somebody writes what nobody looks at: swaps that are under way conflict.
    TouchRegister,
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
    Rot {
        member: usize,
        what: Rot,
    },
    LoseRegister,
    RollRegisterBack {
        states: usize,
    },
    Replicas {
        count: u32,
    },
}

/// What of a stopped member's files rots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rot {
    /// A hint: made anew.
    Hint,
    /// The manifest in force: the shard is quarantined.
    Manifest,
    /// A record of a segment that has ended.
    Record,
}

impl Fault {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::KillAll { .. } => "kill-all",
            Self::DieAtOperation { .. } => "die-at-operation",
            Self::LosePower { .. } => "lose-power",
            Self::Pause { .. } => "pause",
            Self::Terminate { .. } => "terminate",
            Self::Isolate { .. } => "isolate",
            Self::Cut { .. } => "cut",
            Self::Deafen { .. } => "deafen",
            Self::Bridge { .. } => "bridge",
            Self::SlowDisk { .. } => "slow-disk",
            Self::FailSync { .. } => "fail-sync",
            Self::FailWrite { .. } => "fail-write",
            Self::FailReads { .. } => "fail-reads",
            Self::FillDisk { .. } => "fill-disk",
            Self::JumpClock { .. } => "jump-clock",
            Self::RegisterOut { .. } => "register-out",
            Self::SlowRegister { .. } => "slow-register",
            Self::TouchRegister => "touch-register",
            Self::Replay => "replay",
            Self::StopController { .. } => "stop-controller",
            Self::PauseController { .. } => "pause-controller",
            Self::Switchover { .. } => "switchover",
            Self::Wipe { .. } => "wipe",
            Self::Rot { .. } => "rot",
            Self::LoseRegister => "lose-register",
            Self::RollRegisterBack { .. } => "roll-register-back",
            Self::Replicas { .. } => "replicas",
        }
    }

    pub(super) fn random(world: &World, r: &mut Random) -> Self {
        let members = world.places.len() as u64;
        let controllers = world.drivers.len() as u64;
        let calm = world.calm();
        let upheaval = world.plan.upheavals && calm;
        let relaxed = world.plan.relaxed();
        let one_may_forget =
            calm && world.store.present().is_some_and(|r| r.voters.len() > r.read_quorum()) || !relaxed;
        let member = r.below(members) as usize;
        let controller = r.below(controllers) as usize;
        let mut time = |from: u64, to: u64| Duration::from_millis(from + r.below(to - from));
        let (short, long) = (time(30, 1500), time(50, 4000));
        if upheaval && r.chance(300) {
            // A record that cannot be read is mended by a new volume, which takes what only a page cache holds.
            let rot = [Rot::Hint, Rot::Manifest, Rot::Record][r.below(if relaxed { 2 } else { 3 }) as usize];
            return match r.below(8) {
                0 | 1 => Self::Wipe { member },
                2 => Self::LoseRegister,
                3 => Self::RollRegisterBack { states: 1 + r.below(6) as usize },
                4 | 5 => Self::Rot { member, what: rot },
                _ => Self::Replicas { count: 1 + r.below(5) as u32 },
            };
        }
        if one_may_forget && r.chance(100) {
            return Self::LosePower { member, down: short };
        }
        match r.below(49) {
            0..=4 => Self::Kill { member, down: short },
            5 => Self::KillAll { down: short },
            6..=8 => Self::Pause { member, time: long },
            9 => Self::Terminate { member },
            10..=12 => Self::Isolate { member, time: long },
            13..=16 => {
                let other = r.below(members + controllers) as usize;
                let to = if other < members as usize {
                    Address::Member(other)
                } else {
                    Address::Controller(other - members as usize)
                };
                Self::Cut { from: Address::Member(member), to, both: r.chance(600), time: long }
            }
            17 => Self::Bridge { member, time: long },
            18 => Self::SlowDisk { member, time: long },
            // Under `Os` a sync that fails forgets as a loss of power does: those are drawn above, where one may forget.
            19 if relaxed => Self::Kill { member, down: short },
            19 => Self::FailSync { member, skip: r.below(20) },
            20 => Self::FailWrite { member, skip: r.below(20) },
            21 => Self::FailReads { member, skip: r.below(20) },
            22 => Self::FillDisk { member, room_bytes: r.below(64 << 10), time: long },
            23 => Self::JumpClock { member, by_ms: r.below(7_200_000) as i64 - 3_600_000 },
            24 => Self::RegisterOut { time: short },
            25 => Self::SlowRegister { time: long },
            26 => Self::TouchRegister,
            27 | 28 => Self::StopController { controller, time: short },
            29..=33 => Self::Replay,
            34 => Self::PauseController { controller, time: short },
            46..=48 => Self::Deafen { member, shard: r.below(world.plan.shards as u64) as usize, time: long },
            35..=40 => {
                let power = !relaxed && r.chance(500);
                Self::DieAtOperation { member, operations: r.below(120), power, down: short }
            }
            _ => {
                let target = r.chance(500).then_some(member);
                Self::Switchover { controller, target }
            }
        }
    }

    /// In the middle of a change of epoch.
    pub(super) fn ambush(world: &World, r: &mut Random) -> Self {
        let members = world.places.len() as u64;
        let controllers = world.drivers.len() as u64;
        let member = r.below(members) as usize;
        let controller = r.below(controllers) as usize;
        let short = Duration::from_millis(20 + r.below(600));
        let long = Duration::from_millis(100 + r.below(4000));
        match r.below(10) {
            6 | 7 => Self::Replay,
            0 => Self::StopController { controller, time: short },
            1 => Self::PauseController { controller, time: long },
            2 => Self::Kill { member, down: short },
            3 | 8 => {
                let power = !world.plan.relaxed() && r.chance(500);
                Self::DieAtOperation { member, operations: r.below(12), power, down: short }
            }
            4 => Self::Pause { member, time: long },
            _ => Self::Isolate { member, time: long },
        }
    }
}

impl World {
    pub(super) fn apply_fault(&mut self, number: u32, fault: Fault, random: &mut Random) {
        let kind = fault.kind();
        if self.plan.without.contains(kind) {
            return;
        }
        self.tell(|| format!("fault {number}: {fault:?}"));
        *self.faults.entry(kind).or_default() += 1;
        self.fault_numbers.push(number);
        match fault {
            Fault::Kill { member, down } => self.kill(member, down),
            Fault::LosePower { member, down } => self.power_off(member, down),
            Fault::KillAll { down } => (0..self.places.len()).for_each(|member| self.kill(member, down)),
            Fault::DieAtOperation { member, operations, power, down } => {
                let place = &mut self.places[member];
                place.doom = Some((power, down));
                place.volume.disk.fail_after(operations);
            }
            Fault::Pause { member, time } => {
                let place = &mut self.places[member];
                place.paused_until = place.paused_until.max(self.now + time);
            }
            Fault::Terminate { member } => self.terminate(member),
            Fault::Isolate { member, time } => {
                for other in self.addresses() {
                    self.part_for(Address::Member(member), other, time);
                }
            }
            Fault::Cut { from, to, both, time } => {
                if from != to {
                    self.block(from, to, time);
                    if both {
                        self.block(to, from, time);
                    }
                }
            }
            Fault::Deafen { member, shard, time } => {
                self.deaf.insert((member, shard));
                self.schedule(time, Occurrence::Hears { member, shard });
            }
            Fault::Bridge { member, time } => {
                let others: Vec<_> =
                    self.addresses().into_iter().filter(|&other| other != Address::Member(member)).collect();
                let (left, right): (Vec<Address>, Vec<Address>) = others.into_iter().partition(|_| random.chance(500));
                for &a in &left {
                    for &b in &right {
                        self.part_for(a, b, time);
                    }
                }
            }
            Fault::SlowDisk { member, time } => {
                self.places[member].slow_disk = true;
                self.schedule(time, Occurrence::DiskBack { member });
            }
            Fault::FailSync { member, skip } => self.fail_disk(member, FaultOn::Sync, skip, 1),
            Fault::FailWrite { member, skip } => self.fail_disk(member, FaultOn::Write, skip, 1),
            Fault::FailReads { member, skip } => self.fail_disk(member, FaultOn::Read, skip, 3),
            Fault::FillDisk { member, room_bytes, time } => {
                let place = &mut self.places[member];
                place.full = true;
                place.volume.disk.set_capacity(None);
                let used = place.volume.used_bytes();
                place.volume.disk.set_capacity(Some(used + room_bytes));
                self.schedule(time, Occurrence::DiskBack { member });
            }
            Fault::JumpClock { member, by_ms } => self.places[member].wall_off_ms += by_ms,
            Fault::RegisterOut { time } => {
                self.store.out = true;
                self.schedule(time, Occurrence::RegisterBack);
            }
            Fault::SlowRegister { time } => {
                self.store.slow = true;
                self.schedule(time, Occurrence::RegisterBack);
            }
            Fault::TouchRegister => self.store.touch(),
            Fault::Replay => {
                let count = self.overheard.len() as u64;
                for _ in 0..6.min(count) {
                    let which = random.below(count) as usize;
                    if let Some((from, to, message)) = self.overheard.get(which).cloned() {
                        self.send(from, to, message);
                    }
                }
            }
            Fault::StopController { controller, time } => {
                if self.drivers[controller].alive() {
                    self.drivers[controller].stop();
                    self.schedule(time, Occurrence::StartController { controller });
                }
            }
            Fault::PauseController { controller, time } => {
                let driver = &mut self.drivers[controller];
                driver.paused_until = driver.paused_until.max(self.now + time);
            }
            Fault::Switchover { controller, target } => drop(self.ask(controller, target)),
            Fault::Wipe { member } => {
                // The last one that holds everything stays.
                if self.may_go(member) {
                    self.wipe(member);
                }
            }
            Fault::Rot { member, what } => {
                if self.may_go(member) {
                    self.kill(member, Duration::from_millis(100));
                    let shard = random.below(self.plan.shards as u64) as usize;
                    let rotten = rot(&self.places[member].volume, shard, what, random);
                    if rotten && what == Rot::Record {
                        self.places[member].rotten = true;
                        self.oracle.rotted(self.places[member].sid);
                    }
                }
            }
            Fault::LoseRegister => {
                self.oracle.forgets(self.told_ms(), 0);
                self.store.lose();
            }
            Fault::RollRegisterBack { states } => {
                self.oracle.forgets(self.told_ms(), 0);
                self.store.roll_back(states);
            }
            Fault::Replicas { count } => {
                while self.places.len() < count as usize {
                    self.add_place();
                }
                self.respec(|spec| {
                    spec.replicas = count;
                    spec.min_voters = PartitionSpec::default_min_voters(count);
                });
            }
        }
    }

    /// Whether what a member holds may be lost for good: the voters that are left, and hold what they should, are enough to
    /// choose a leader.
    pub(super) fn may_go(&self, member: usize) -> bool {
        self.store.present().is_some_and(|register| {
            let holders = register.voters.iter().filter_map(|&sid| self.holder(sid));
            holders.filter(|&n| n != member && self.places[n].is_ready()).count() >= register.read_quorum()
        })
    }

    fn addresses(&self) -> Vec<Address> {
        let members = (0..self.places.len()).map(Address::Member);
        members.chain((0..self.drivers.len()).map(Address::Controller)).collect()
    }

    /// Neither hears the other for a while.
    fn part_for(&mut self, a: Address, b: Address, time: Duration) {
        if a != b {
            self.block(a, b, time);
            self.block(b, a, time);
        }
    }

    fn fail_disk(&mut self, member: usize, on: FaultOn, skip: u64, times: u64) {
        let place = &mut self.places[member];
        place.ailing = true;
        place.volume.disk.inject(DiskFault { on, path_contains: String::new(), skip, times, errno: libc::EIO });
    }
}

/// Lets some bytes of a stopped member's files rot; whether there were any.
fn rot(volume: &Volume, shard: usize, what: Rot, random: &mut Random) -> bool {
    let files = match what {
        Rot::Hint => volume.files(shard, ".hint"),
        Rot::Manifest => volume.manifests(shard),
        Rot::Record => {
            // Not of the newest two: their end may not be vouched for yet.
            let mut segments = volume.files(shard, ".seg");
            segments.truncate(segments.len().saturating_sub(2));
            segments
        }
    };
    let which: Vec<_> = match what {
        Rot::Manifest => files,
        _ if files.is_empty() => files,
        _ => vec![files[random.below(files.len() as u64) as usize].clone()],
    };
    for path in &which {
        let len = volume.len(path);
        let at = if what == Rot::Record { 64 + random.below(len.saturating_sub(80).max(1)) } else { random.below(len) };
        let _ = volume.disk.rot(path, at.min(len.saturating_sub(8)), &random.next().to_le_bytes());
    }
    !which.is_empty()
}
