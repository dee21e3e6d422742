//! How the world stands: who leads, whether all is well, and how it is made well.

use super::World;
use crate::ident::Sid;
use crate::simulation::driver::Driver;
use crate::simulation::place::Place;
use crate::topology::register::Phase;

impl World {
    /// Which place holds `sid`.
    pub(in crate::simulation) fn holder(&self, sid: Sid) -> Option<usize> {
        self.places.iter().position(|p| p.sid == sid)
    }

    /// The leader by the register, if its process serves.
    pub(in crate::simulation) fn leader(&self) -> Option<usize> {
        let register = self.store.present()?;
        let number = self.holder(register.leader.filter(|_| register.phase == Phase::Leading)?)?;
        let process = self.places[number].process.as_ref()?;
        (process.core.leads(register.epoch) && process.serving()).then_some(number)
    }

    /// Everything is as it should be in the end.
    pub(in crate::simulation) fn converged(&self) -> bool {
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
    pub(in crate::simulation) fn calm(&self) -> bool {
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
    pub(in crate::simulation) fn heal(&mut self) {
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
            self.start(member);
        }
        // Nobody but its owner mends a record that rotted, where no leader has it any more.
        for member in 0..self.places.len() {
            if self.places[member].rotten && self.may_go(member) {
                self.wipe(member);
            }
        }
        for controller in 0..self.drivers.len() {
            if !self.drivers[controller].alive() {
                self.start_controller(controller);
            }
        }
        self.tell(|| "everything heals".into());
    }

    /// Everything that was acknowledged is everywhere, and every index shows it.
    pub(in crate::simulation) fn check_everything(&mut self) {
        for place in &self.places {
            let Some(process) = &place.process else { continue };
            for (number, shard) in process.engine.shards().iter().enumerate() {
                self.oracle.holds_all(place.sid, number, shard);
            }
        }
    }
}
