//! Read leases under clocks that run fast or slow: when may an old leader still answer, when may the next one write?
//!
//! Three members and a controller, each with a clock of its own that is never compared with another's. True time goes
//! in steps; everything may happen at any of them: heartbeats are sent, arrive and are acknowledged late or never, members
//! are fenced, restarted, promoted, processes pause between reading and answering (a read is begun at one step and
//! answered at any later one). The lease, the grant, the remainder in a FENCE reply and the new leader's wait are the
//! product's (`LeaderLease`, `LeaseGrant`, `wait_for_leases`). Of the log it is taken for granted what the other model
//! shows: whoever is promoted has everything that was acknowledged.
//!
//! No member's clock may run faster than another's by more than the bound, one in a thousand; the margin of 20 ms makes
//! that 3 % where nothing else is late. Beyond that the same model must find a stale read, or it would prove nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use stateright::{Model, Property};

use super::change::CLUSTER;
use super::life::sid;
use crate::ident::{InstanceId, Sid};
use crate::replication::rules::{LeaderLease, LeaseGrant};
use crate::topology::controller::choose::{Answer, ReadQuorum, read_quorum, wait_for_leases};
use crate::topology::message::{DataState, FenceReply, InitState, ShardReport, Standing};
use crate::topology::register::Leading;

const MEMBERS: usize = 3;
const CONTROLLER: usize = 3;
const WRITE_QUORUM: u32 = 2;

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum LeaseMutant {
    /// R13: whoever believes that it leads answers.
    ReadWithoutLease,
    /// R13: the lease is checked, and then the value is read.
    CheckBeforeReading,
    /// R13: a read is answered under the lease of another term than the one it was taken in.
    ReadForgetsItsEpoch,
    /// A new leader acknowledges while a lease of the one before may last.
    NoLeaseWait,
    /// The leader counts its lease from when the acknowledgement arrived.
    LeaseFromArrival,
    /// A restarted member takes it that it had granted nothing.
    GrantForgotten,
}

/// A world.
#[derive(Debug, Clone)]
pub(super) struct Leases {
    /// A step of true time.
    pub(super) step: Duration,
    /// How many of them.
    pub(super) steps: u16,
    /// By how much the fastest clock outruns the slowest, in millionths.
    pub(super) spread_ppm: u32,
    pub(super) epochs: u8,
    pub(super) writes: u8,
    pub(super) beats: u8,
    pub(super) restarts: u8,
    /// What has happened when the search begins.
    pub(super) past: &'static [Event],
    pub(super) mutant: Option<LeaseMutant>,
}

/// A leader's lease, in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lead {
    epoch: u8,
    since: u16,
    wait: Duration,
    /// When the freshest heartbeat that each acknowledged was sent.
    heard: [Option<u16>; MEMBERS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Node {
    promised: u8,
    lead: Option<Lead>,
    /// When its process started; None: so long ago that it does not matter.
    started: Option<u16>,
    granted: Option<u16>,
    /// As leader: it binds until its own wait is over.
    waits: Option<(u16, Duration)>,
    /// What its index shows.
    applied: u8,
}

/// A heartbeat that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Beat {
    epoch: u8,
    sent: u16,
    /// Granted, and the acknowledgement is on its way or has arrived.
    granted: [bool; MEMBERS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Told {
    member: u8,
    live_led: u8,
    remaining: Duration,
    at: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Read {
    member: u8,
    epoch: u8,
    /// None: only the lease was checked so far.
    value: Option<u8>,
    /// What had been acknowledged when it began.
    required: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Moment {
    now: u16,
    /// Which clocks run fast, as bits; the others run slow.
    fast: u8,
    members: [Node; MEMBERS],
    beats: Vec<Beat>,
    /// The running change, if one runs: its epoch and the answers to FENCE.
    change: Option<(u8, Vec<Told>)>,
    last: (u8, u8),
    acknowledged: u8,
    restarts: u8,
    read: Option<Read>,
    stale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Event {
    TimePasses,
    Beat(usize),
    Arrives { beat: usize, member: usize },
    Acknowledged { beat: usize, member: usize },
    Alloc,
    Fence(usize),
    Promote(usize),
    Write { leader: usize, with: usize },
    Restart(usize),
    CopyBegins(usize),
    Read(usize),
    Answer,
}

impl Leases {
    /// What the clock of `who` shows at `step`.
    fn clock(&self, moment: &Moment, who: usize, step: u16) -> Duration {
        let true_nanos = self.step.as_nanos() as u64 * u64::from(step);
        let half = true_nanos / 1_000_000 * u64::from(self.spread_ppm) / 2;
        let offset = Duration::from_secs(10 * (who as u64 + 1));
        let fast = moment.fast & 1 << who != 0;
        offset + Duration::from_nanos(if fast { true_nanos + half } else { true_nanos - half })
    }

    fn lease(&self, moment: &Moment, m: usize, lead: &Lead) -> LeaderLease {
        let voters: Vec<Sid> = (0..MEMBERS).map(sid).collect();
        let since = self.clock(moment, m, lead.since);
        let mut lease = LeaderLease::new(&voters, WRITE_QUORUM, sid(m), since, lead.wait);
        for (other, heard) in lead.heard.iter().enumerate() {
            if let Some(step) = heard {
                lease.acknowledged(sid(other), self.clock(moment, m, *step));
            }
        }
        lease
    }

    fn remaining(&self, moment: &Moment, m: usize) -> Duration {
        let node = &moment.members[m];
        let now = self.clock(moment, m, moment.now);
        let mut grant = LeaseGrant::new(Duration::ZERO);
        if let Some(step) = node.started.filter(|_| self.mutant != Some(LeaseMutant::GrantForgotten)) {
            grant = LeaseGrant::new(self.clock(moment, m, step));
        }
        if let Some((step, wait)) = node.waits {
            grant.clear();
            grant.extend(self.clock(moment, m, step) + wait);
        }
        if let Some(step) = node.granted {
            grant.grant(self.clock(moment, m, step));
        }
        grant.remaining(now)
    }

    fn answers(&self, moment: &Moment, epoch: u8, told: &[Told]) -> BTreeMap<Sid, Answer> {
        let answer = |t: &Told| {
            let standing = Standing {
                cluster_id: Some(CLUSTER),
                lineage: 0,
                sid: sid(t.member.into()),
                open_count: 1,
                instance: InstanceId(1),
                init: InitState::Done,
                promised: epoch.into(),
                led: t.live_led.into(),
                live_led: t.live_led.into(),
                last_config: None,
            };
            let shard = ShardReport {
                state: DataState::Ready,
                tail: Default::default(),
                commit: 0,
                durable: 0,
                log_floor: 1,
                tombstone_floor: 0,
                known_commit: 0,
            };
            let reply = FenceReply {
                standing,
                shards: vec![shard],
                lease_remaining: t.remaining,
                shard_time_ms: 0,
                wall_ms: 0,
                drained: false,
                figures: Vec::new(),
            };
            let at = self.clock(moment, CONTROLLER, t.at);
            (sid(t.member.into()), Answer { name: String::new(), reply, at })
        };
        told.iter().map(answer).collect()
    }

    /// Until when its own lease and grants of before matter to nobody: what such times are reduced to.
    fn forget(&self, moment: &mut Moment) {
        for node in &mut moment.members {
            if node.lead.is_none() {
                node.waits = node.waits.filter(|_| node.granted.is_none());
            }
        }
    }

    fn promote(&self, moment: &mut Moment, m: usize) -> Option<()> {
        let (epoch, told) = moment.change.clone()?;
        let answers = self.answers(moment, epoch, &told);
        let voters: Vec<Sid> = (0..MEMBERS).map(sid).collect();
        let last = Some(Leading { epoch: moment.last.0.into(), sid: sid(moment.last.1.into()) });
        let needed = MEMBERS + 1 - WRITE_QUORUM as usize;
        if !told.iter().any(|t| usize::from(t.member) == m)
            || moment.members[m].promised != epoch
            || read_quorum(&answers, epoch.into(), &voters, needed, last) != ReadQuorum::Valid
        {
            return None;
        }
        let now = self.clock(moment, CONTROLLER, moment.now);
        let wait = match self.mutant {
            Some(LeaseMutant::NoLeaseWait) => Duration::ZERO,
            _ => wait_for_leases(&answers, &voters, last, now),
        };
        let lead = Lead { epoch, since: moment.now, wait, heard: [None; MEMBERS] };
        let (now, acknowledged) = (moment.now, moment.acknowledged);
        let node = &mut moment.members[m];
        (node.lead, node.waits, node.granted) = (Some(lead), Some((now, wait)), None);
        node.applied = acknowledged;
        (moment.last, moment.change) = ((epoch, m as u8), None);
        Some(())
    }

    fn answer(&self, moment: &mut Moment) -> Option<()> {
        let read = moment.read.take()?;
        let m = usize::from(read.member);
        let node = &moment.members[m];
        let value = match (self.mutant, read.value) {
            (Some(LeaseMutant::CheckBeforeReading), None) => node.applied,
            (_, value) => {
                let lead = node.lead?;
                let same = lead.epoch == read.epoch || self.mutant == Some(LeaseMutant::ReadForgetsItsEpoch);
                let now = self.clock(moment, m, moment.now);
                let valid = self.lease(moment, m, &lead).valid(now);
                if !same || !(valid || self.mutant == Some(LeaseMutant::ReadWithoutLease)) {
                    return Some(());
                }
                value?
            }
        };
        moment.stale |= value < read.required;
        Some(())
    }

    fn happens(&self, moment: &mut Moment, event: Event) -> Option<()> {
        let now = moment.now;
        match event {
            Event::TimePasses => moment.now += 1,
            Event::Beat(m) => {
                let epoch = moment.members[m].lead?.epoch;
                moment.beats.push(Beat { epoch, sent: now, granted: [false; MEMBERS] });
            }
            Event::Arrives { beat, member } => {
                let Beat { epoch, .. } = moment.beats[beat];
                let node = &mut moment.members[member];
                if node.promised > epoch || node.lead.is_some_and(|lead| lead.epoch == epoch) {
                    return None;
                }
                // FOLLOW came just before, if it had not come yet.
                (node.promised, node.lead, node.granted) = (epoch, None, Some(now));
                moment.beats[beat].granted[member] = true;
            }
            Event::Acknowledged { beat, member } => {
                let Beat { epoch, sent, .. } = moment.beats[beat];
                let leader = moment.members.iter_mut().find(|node| node.lead.is_some_and(|l| l.epoch == epoch))?;
                let lead = leader.lead.as_mut()?;
                let sent = if self.mutant == Some(LeaseMutant::LeaseFromArrival) { now } else { sent };
                lead.heard[member] = lead.heard[member].max(Some(sent));
            }
            Event::Alloc => {
                let newest = moment.change.as_ref().map_or(moment.last.0, |(epoch, _)| *epoch);
                moment.change = Some((newest + 1, Vec::new()));
            }
            Event::Fence(m) => {
                let epoch = moment.change.as_ref()?.0;
                if moment.members[m].promised > epoch {
                    return None;
                }
                let remaining = self.remaining(moment, m);
                let node = &mut moment.members[m];
                let live_led = node.lead.map_or(0, |lead| lead.epoch);
                (node.promised, node.lead) = (epoch, None);
                let told = &mut moment.change.as_mut()?.1;
                told.push(Told { member: m as u8, live_led, remaining, at: now });
                told.sort_by_key(|t| t.member);
            }
            Event::Promote(m) => self.promote(moment, m)?,
            Event::Write { leader, with } => {
                let lead = moment.members[leader].lead?;
                let clock = self.clock(moment, leader, now);
                if moment.members[with].promised > lead.epoch
                    || !self.lease(moment, leader, &lead).may_acknowledge(clock)
                {
                    return None;
                }
                moment.members[with].promised = lead.epoch;
                moment.members[with].lead = None;
                moment.acknowledged += 1;
                moment.members[leader].applied = moment.acknowledged;
            }
            Event::Restart(m) => {
                moment.restarts += 1;
                let node = &mut moment.members[m];
                (node.lead, node.started, node.granted, node.waits) = (None, Some(now), None, None);
            }
            Event::CopyBegins(m) => moment.members[m].applied = 0,
            Event::Read(m) => {
                let node = &moment.members[m];
                let lead = node.lead?;
                let mut read = Read {
                    member: m as u8,
                    epoch: lead.epoch,
                    value: Some(node.applied),
                    required: moment.acknowledged,
                };
                if self.mutant == Some(LeaseMutant::CheckBeforeReading) {
                    if !self.lease(moment, m, &lead).valid(self.clock(moment, m, now)) {
                        return None;
                    }
                    read.value = None;
                }
                moment.read = Some(read);
            }
            Event::Answer => self.answer(moment)?,
        }
        self.forget(moment);
        Some(())
    }
}

impl Model for Leases {
    type State = Moment;
    type Action = Event;

    fn init_states(&self) -> Vec<Moment> {
        let node = |m: usize| Node {
            promised: 1,
            lead: (m == 0).then_some(Lead { epoch: 1, since: 0, wait: Duration::ZERO, heard: [None; MEMBERS] }),
            started: None,
            granted: None,
            waits: None,
            applied: 1,
        };
        let first = |fast: u8| Moment {
            now: 0,
            fast,
            members: std::array::from_fn(node),
            beats: Vec::new(),
            change: None,
            last: (1, 0),
            acknowledged: 1,
            restarts: 0,
            read: None,
            stale: false,
        };
        let after = |mut moment: Moment, event: &Event| {
            self.happens(&mut moment, *event).unwrap_or_else(|| panic!("{event:?} changes nothing in {moment:#?}"));
            moment
        };
        (0..1 << (MEMBERS + 1)).map(|fast| self.past.iter().fold(first(fast), after)).collect()
    }

    fn actions(&self, moment: &Moment, events: &mut Vec<Event>) {
        if moment.stale {
            return;
        }
        if moment.now < self.steps {
            events.push(Event::TimePasses);
        }
        let newest = moment.change.as_ref().map_or(moment.last.0, |(epoch, _)| *epoch);
        if newest < self.epochs {
            events.push(Event::Alloc);
        }
        if moment.read.is_some() {
            events.push(Event::Answer);
        }
        for (m, node) in moment.members.iter().enumerate() {
            if let Some(lead) = node.lead {
                let sent = |b: &Beat| b.epoch == lead.epoch && b.sent == moment.now;
                if moment.beats.len() < usize::from(self.beats) && !moment.beats.iter().any(sent) {
                    events.push(Event::Beat(m));
                }
                if moment.read.is_none() {
                    events.push(Event::Read(m));
                }
                if moment.acknowledged <= self.writes {
                    let others = (0..MEMBERS).filter(|&with| with != m);
                    events.extend(others.map(|with| Event::Write { leader: m, with }));
                }
            } else if self.mutant == Some(LeaseMutant::CheckBeforeReading) {
                events.push(Event::CopyBegins(m));
            }
            if let Some((epoch, told)) = &moment.change {
                if told.iter().any(|t| usize::from(t.member) == m) {
                    events.push(Event::Promote(m));
                } else if node.promised <= *epoch {
                    events.push(Event::Fence(m));
                }
            }
            if moment.restarts < self.restarts {
                events.push(Event::Restart(m));
            }
        }
        for (beat, b) in moment.beats.iter().enumerate() {
            for member in 0..MEMBERS {
                if !b.granted[member] {
                    events.push(Event::Arrives { beat, member });
                } else {
                    events.push(Event::Acknowledged { beat, member });
                }
            }
        }
    }

    fn next_state(&self, last: &Moment, event: Event) -> Option<Moment> {
        let mut moment = last.clone();
        self.happens(&mut moment, event)?;
        (moment != *last).then_some(moment)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("no linearizable read is stale", |_, moment: &Moment| !moment.stale)]
    }
}
