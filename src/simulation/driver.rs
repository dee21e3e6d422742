//! A controller process: the controller, and what its driver remembers between actions and events.

use std::collections::BTreeMap;
use std::time::Duration;

use super::world::CLUSTER;
use crate::topology::controller::{Action, Controller, ControllerConfig, Event, Weakness};
use crate::topology::message::{MemberName, Request};
use crate::topology::spec::{ExpectedMember, PartitionSpec};
use crate::topology::view::PartitionView;

/// See the module.
#[derive(Debug)]
pub(super) struct Driver {
    rank: usize,
    controller: Option<Controller>,
    started: Duration,
    pub(super) life: u64,
    pub(super) paused_until: Duration,
    /// Calls without an answer so far.
    pub(super) calls: BTreeMap<u64, MemberName>,
    /// When members were heard.
    pub(super) heard: BTreeMap<usize, Duration>,
    /// The tick that was asked for last.
    tick: Option<Duration>,
    scheduled: Option<Duration>,
}

impl Driver {
    pub(super) fn new(rank: usize) -> Self {
        Self {
            rank,
            controller: None,
            started: Duration::ZERO,
            life: 0,
            paused_until: Duration::ZERO,
            calls: BTreeMap::new(),
            heard: BTreeMap::new(),
            tick: None,
            scheduled: None,
        }
    }

    pub(super) fn start(&mut self, now: Duration, members: Vec<ExpectedMember>, spec: PartitionSpec, seed: u64) -> u64 {
        self.controller = Some(Controller::new(ControllerConfig {
            name: format!("controller-{}", self.rank),
            rank: self.rank as u32,
            cluster_id: CLUSTER,
            members,
            spec,
            seed,
        }));
        self.started = now;
        self.life += 1;
        self.calls.clear();
        self.heard.clear();
        self.tick = None;
        self.scheduled = None;
        self.life
    }

    /// Leaves a rule out from now on.
    pub(super) fn weaken(&mut self, weakness: Weakness) {
        if let Some(controller) = &mut self.controller {
            controller.weaken(weakness);
        }
    }

    pub(super) fn stop(&mut self) {
        self.controller = None;
    }

    pub(super) fn alive(&self) -> bool {
        self.controller.is_some()
    }

    /// None: that run is over.
    pub(super) fn step(&mut self, life: u64, now: Duration, event: Event) -> Option<Vec<Action>> {
        let controller = self.controller.as_mut().filter(|_| life == self.life)?;
        let actions = controller.step(now - self.started, event);
        self.tick = controller.next_deadline().map(|at| at + self.started);
        Some(actions)
    }

    /// A tick to schedule, if none is that comes early enough.
    pub(super) fn next_tick(&mut self) -> Option<Duration> {
        let tick = self.tick?;
        if self.scheduled.is_some_and(|at| at <= tick) {
            return None;
        }
        self.scheduled = Some(tick);
        Some(tick)
    }

    pub(super) fn tick_is_due(&mut self, life: u64, now: Duration) -> bool {
        if life != self.life {
            return false;
        }
        if self.scheduled.is_some_and(|at| at <= now) {
            self.scheduled = None;
        }
        self.tick.is_some()
    }

    pub(super) fn take_call(&mut self, life: u64, id: u64) -> Option<MemberName> {
        (life == self.life).then(|| self.calls.remove(&id)).flatten()
    }

    pub(super) fn view(&self, now: Duration) -> Option<PartitionView> {
        self.controller.as_ref().map(|c| c.view(now.saturating_sub(self.started)))
    }

    /// No change is running here.
    pub(super) fn idle(&self) -> bool {
        self.controller.as_ref().is_none_or(|c| !c.changing())
    }
}

/// A request in a few words.
pub(super) fn brief(request: &Request) -> String {
    match request {
        Request::Init(_) => "Init".into(),
        Request::Fence(r) => format!("FENCE {} drain {:?}", r.epoch, r.drain),
        Request::Assemble(r) => format!("ASSEMBLE {}", r.epoch),
        Request::Promote(r) => format!("PROMOTE {} wait {:?}", r.config.epoch, r.lease_wait),
        Request::Follow(r) => format!("FOLLOW {} of {}", r.epoch, r.leader.name),
        Request::Recover(r) => format!("Recover to lineage {}", r.lineage),
        Request::SetAside(r) => format!("SetAside for lineage {}", r.lineage),
    }
}
