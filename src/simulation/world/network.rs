//! The network: what is sent arrives late, twice, in another order, or not at all.

use std::time::Duration;

use super::{Occurrence, World, member_name};
use crate::simulation::wire::{Address, Message};
use crate::topology::controller::Event;

/// How much the network remembers.
const OVERHEARD: usize = 48;

impl World {
    pub(super) fn delay(&mut self) -> Duration {
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

    pub(in crate::simulation) fn send(&mut self, from: Address, to: Address, message: Message) {
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

    pub(in crate::simulation) fn arrive(&mut self, from: Address, to: Address, message: Message) {
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

    pub(super) fn paused(&self, member: usize) -> Option<Duration> {
        let until = self.places[member].paused_until;
        (self.now < until).then(|| until - self.now)
    }

    pub(super) fn controller_paused(&self, controller: usize) -> Option<Duration> {
        let until = self.drivers[controller].paused_until;
        (self.now < until).then(|| until - self.now)
    }

    pub(in crate::simulation) fn block(&mut self, from: Address, to: Address, time: Duration) {
        self.blocked.insert((from, to));
        self.schedule(time, Occurrence::Unblock { link: (from, to) });
    }

    /// They hear each other again.
    #[cfg(test)]
    pub(in crate::simulation) fn unblock(&mut self, a: Address, b: Address) {
        self.blocked.remove(&(a, b));
        self.blocked.remove(&(b, a));
    }
}
