//! Decisions in a world where only what the test does goes wrong: one scenario a test.

mod changes;
mod clocks;
mod copied;
mod damage;
mod diverged;
mod failover;
mod lost_register;
mod membership;
mod recovery;
mod requests;
mod rollback;
mod rules;

use std::time::Duration;

use super::plan::Plan;
use super::wire::Address;
use super::world::World;
use crate::ident::Sid;
use crate::position::Epoch;
use crate::topology::register::{Phase, Register};
use crate::topology::view::PartitionView;

const SOON: Duration = Duration::from_secs(10);

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A world of `members` members, before anything happened.
fn world(members: usize) -> World {
    controlled(members, 1)
}

/// With so many controllers.
fn controlled(members: usize, controllers: usize) -> World {
    let mut world = World::new(Plan { controllers, ..Plan::calm(members) });
    world.told = Some(Vec::new());
    world
}

/// All members in sync under a leader.
fn healthy(members: usize) -> World {
    let mut world = world(members);
    world.settle();
    world
}

impl World {
    /// Until everything is as it should be, and a little longer.
    fn settle(&mut self) {
        self.reach("everything is well", |w| w.converged());
        self.run_well(ms(300));
    }

    /// Until `done`, without a broken rule.
    fn reach(&mut self, what: &str, done: impl FnMut(&Self) -> bool) {
        if !self.until(SOON, done) {
            let told = self.told.clone().unwrap_or_default();
            panic!("{what} was not reached: {:?}\n{}", self.oracle.violation(), told.join("\n"));
        }
    }

    fn run_well(&mut self, time: Duration) {
        assert!(self.run(time), "{:?}", self.oracle.violation());
    }

    fn register(&self) -> &Register {
        self.store.present().expect("there is a register")
    }

    fn epoch(&self) -> Epoch {
        self.register().epoch
    }

    fn electing(&self) -> bool {
        self.store.present().is_some_and(|r| r.phase == Phase::Electing)
    }

    fn the_leader(&self) -> usize {
        self.leader().expect("somebody leads and serves")
    }

    fn sid(&self, member: usize) -> Sid {
        self.places[member].sid
    }

    fn promised(&self, member: usize) -> Epoch {
        self.places[member].promised()
    }

    fn view(&self) -> PartitionView {
        self.drivers[0].view(self.now).expect("the controller runs")
    }

    fn condition(&self, kind: &str) -> Option<String> {
        self.view().conditions.iter().find(|c| c.kind == kind).map(|c| c.text.clone())
    }

    /// What became of a request, if that is known.
    fn outcome(&self, id: &str) -> Option<String> {
        self.view().last_request.filter(|r| r.id == id).map(|r| r.outcome)
    }

    /// Neither hears the other until the end of the test.
    fn part(&mut self, a: Address, b: Address) {
        let for_ever = Duration::from_secs(1_000_000);
        self.block(a, b, for_ever);
        self.block(b, a, for_ever);
    }

    /// Whether a write is in a member's log.
    fn holds(&self, member: usize, op: u64) -> bool {
        let Some(process) = &self.places[member].process else { return false };
        self.oracle.position(op).is_some_and(|(shard, at)| {
            let shard = &process.engine.shards()[shard];
            shard.tail_gsn() >= at.gsn && shard.epoch_table().epoch_at(at.gsn) == at.epoch
        })
    }

    /// The end of the first shard's log.
    fn log_end(&self, member: usize) -> crate::position::Gsn {
        self.places[member].tail(0).last.gsn
    }

    fn keep_down(&mut self, member: usize) {
        self.places[member].kept_down = true;
        self.kill(member, ms(0));
    }

    fn let_up(&mut self, member: usize) {
        self.places[member].kept_down = false;
        self.start(member);
    }

    /// Somebody else than `member`, with the lowest number.
    fn other_than(&self, member: usize) -> usize {
        (0..self.places.len()).find(|&m| m != member).expect("there is another member")
    }
}
