//! Controllers and the register that they share.

use std::time::Duration;

use super::{Occurrence, World, member_name};
use crate::simulation::wire::{Address, Message};
use crate::topology::controller::{Action, ControlRequest, Disconnect, Event};
use crate::topology::message::Request;
use crate::topology::register::{CasOutcome, Phase, Register, Version};
use crate::topology::spec::PartitionSpec;

impl World {
    pub(in crate::simulation) fn start_controller(&mut self, controller: usize) {
        let (members, spec, seed) = (self.expected(), self.spec.clone(), self.random.next());
        let life = self.drivers[controller].start(self.now, members, spec, seed);
        if let Some(weakness) = self.plan.mutant.and_then(crate::simulation::Mutant::weakness) {
            self.drivers[controller].weaken(weakness);
        }
        self.feed(controller, life, Event::Tick);
    }

    pub(super) fn tell_later(&mut self, controller: usize, life: u64, event: Event) {
        let after = self.delay();
        self.schedule(after, Occurrence::Tell { controller, life, event: Box::new(event) });
    }

    pub(in crate::simulation) fn feed(&mut self, controller: usize, life: u64, event: Event) {
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
        self.tell(|| format!("controller {controller} -> {name}: {}", crate::simulation::driver::brief(&request)));
        let message = Message::Request { id: life << 32 | id, request: Box::new(request) };
        self.send(Address::Controller(controller), Address::Member(member), message);
    }

    pub(super) fn swap(
        &mut self,
        controller: usize,
        life: u64,
        expected: Option<Version>,
        register: &Register,
        lost: bool,
    ) {
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

    pub(super) fn watch(&mut self) {
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
    pub(in crate::simulation) fn ask(&mut self, controller: usize, target: Option<usize>) -> String {
        let id = format!("request-{}", self.next_request);
        self.next_request += 1;
        self.hand(controller, target, &id);
        id
    }

    /// Hands a wish over that was handed over before.
    #[cfg(test)]
    pub(in crate::simulation) fn ask_again(&mut self, controller: usize, id: &str) {
        self.hand(controller, None, id);
    }

    fn hand(&mut self, controller: usize, target: Option<usize>, id: &str) {
        let request = ControlRequest::Switchover { target: target.map(member_name), id: id.to_owned() };
        let life = self.drivers[controller].life;
        self.feed(controller, life, Event::Request(request));
    }

    /// The owner wants so many voters.
    pub(in crate::simulation) fn respec(&mut self, change: impl FnOnce(&mut PartitionSpec)) {
        change(&mut self.spec);
        for controller in 0..self.drivers.len() {
            let life = self.drivers[controller].life;
            let event = Event::SpecChanged { spec: Box::new(self.spec.clone()), members: self.expected() };
            self.feed(controller, life, event);
        }
    }
}
