//! Members' processes: what they wish is carried out; they start, end and fail.

use std::time::Duration;

use super::{Occurrence, World, member_name};
use crate::simulation::member::{Hands, Process, Wish};
use crate::simulation::volume::Volume;
use crate::simulation::wire::Address;
use crate::topology::controller::{Disconnect, Event};

impl World {
    /// Lets a process do something, and carries out what it wishes; it may be its end.
    pub(super) fn with(&mut self, member: usize, life: Option<u64>, action: impl FnOnce(&mut Process, &mut Hands<'_>)) {
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

    pub(in crate::simulation) fn start(&mut self, member: usize) {
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
    pub(in crate::simulation) fn kill(&mut self, member: usize, down: Duration) {
        self.end(member, false, down);
    }

    /// A loss of power.
    pub(in crate::simulation) fn power_off(&mut self, member: usize, down: Duration) {
        self.end(member, true, down);
    }

    /// No member has told a later time yet.
    pub(in crate::simulation) fn told_ms(&self) -> u64 {
        let running = self.places.iter().filter_map(|place| place.process.as_ref());
        running.map(|process| process.shard_time_ms(self.now)).max().unwrap_or(0)
    }

    /// What W voters that run know of the time.
    fn kept_ms(&self) -> u64 {
        let Some(register) = self.store.present() else { return 0 };
        let running = register.voters.iter().filter_map(|&sid| self.places[self.holder(sid)?].process.as_ref());
        let mut known_ms: Vec<u64> = running.map(|process| process.known_time_ms()).collect();
        known_ms.sort_unstable_by(|a, b| b.cmp(a));
        known_ms.get((register.write_quorum as usize).saturating_sub(1)).copied().unwrap_or(0)
    }

    fn end(&mut self, member: usize, power: bool, down: Duration) {
        let told_ms = self.told_ms();
        let place = &mut self.places[member];
        let Some(process) = place.process.take() else { return };
        self.oracle.forgets(told_ms, self.kept_ms());
        let place = &mut self.places[member];
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
    pub(in crate::simulation) fn wipe(&mut self, member: usize) {
        self.kill(member, Duration::from_millis(200));
        let sid = self.fresh_sid();
        self.places[member].replace(sid, Volume::format(sid, self.plan.shards));
        self.tell(|| format!("the volume of m-{member} is replaced"));
    }

    pub(in crate::simulation) fn terminate(&mut self, member: usize) {
        let life = self.places[member].life;
        self.with(member, None, |p, h| p.terminate(h));
        let after = Duration::from_secs(5);
        self.schedule(after, Occurrence::Exit { member, life });
    }
}
