//! The model's histories, lived through again by the product: what the model keeps of it must be what it is.
//!
//! A walk of the model is a list of steps. Here each is done by objects that live as long as in a real process: a
//! `MemberCore` a process, a `Quorum` a term, a `Controller` an attempt, all of them over one register that is written
//! and read as JSON. The controller is told the answers that the attempt was told, and must ask, choose and write what
//! the attempt did. After every step everything is compared with the model's state.

use std::collections::BTreeMap;
use std::time::Duration;

use stateright::Model;

use super::change::{CLUSTER, donor, envelope, last_config, reports};
use super::life::{core_of, sid};
use super::setup::{Durability, Setup};
use super::state::{Config, Member, State, Step};
use super::steps::Action;
use crate::ident::{InstanceId, Sid};
use crate::position::LogTail;
use crate::replication::rules::{Durable, MemberCore, Quorum, check_append, check_truncate};
use crate::topology::controller::{Action as Order, Controller, ControllerConfig, Event};
use crate::topology::message::{
    AssembleReply, AssembleRequest, DataState, FenceRequest, FollowRequest, HealthReport, InitState, PromoteRequest,
    Reply, Request, Role, ShardTarget, StandingReply,
};
use crate::topology::random::Random;
use crate::topology::register::{
    CasOutcome, FORMAT_VERSION, Leading, MemberAddress, MemoryRegister, Phase, ReadOutcome, Register, RegisterStore,
    Version,
};
use crate::topology::spec::{ExpectedMember, PartitionSpec};

/// Long after every lease that a process may have granted before it started.
const NOW: Duration = Duration::from_secs(1000);

fn name(m: usize) -> String {
    format!("kv-0-{m}")
}

/// What a member told long ago.
fn report(core: &MemberCore) -> HealthReport {
    HealthReport {
        standing: core.standing(),
        role: core.role(),
        leader: core.following().map(|following| following.leader.sid),
        shards: Vec::new(),
        leader_silence: None,
        leader_gone: false,
        cannot_commit: Duration::ZERO,
        followers: Vec::new(),
        draining: false,
        sync_stall: Duration::ZERO,
        disk_full: false,
        disk: Default::default(),
        caught_up: true,
        serving: true,
        trouble: String::new(),
        clock_skew_ms: 0,
        leader_stall: Duration::ZERO,
    }
}

/// A controller that carries out one attempt.
struct Run {
    controller: Controller,
    now: Duration,
    fences: BTreeMap<usize, (u64, FenceRequest)>,
    assembles: BTreeMap<usize, (u64, AssembleRequest)>,
    promote: Option<(u64, PromoteRequest)>,
    swap: Option<(Option<Version>, Box<Register>)>,
    over: bool,
}

impl Run {
    fn take(&mut self, orders: Vec<Order>, store: &MemoryRegister) {
        for order in orders {
            match order {
                Order::ReadRegister => {
                    let orders = self.controller.step(self.now, Event::RegisterRead(store.read()));
                    self.take(orders, store);
                }
                Order::CompareAndSwap { expected, register } => self.swap = Some((expected, register)),
                Order::Send { request_id, member, request, .. } => {
                    let m: usize = member.rsplit('-').next().and_then(|m| m.parse().ok()).expect("a member's name");
                    match *request {
                        Request::Fence(request) => drop(self.fences.insert(m, (request_id, request))),
                        Request::Assemble(request) => drop(self.assembles.insert(m, (request_id, request))),
                        Request::Promote(request) => self.promote = Some((request_id, request)),
                        request @ (Request::Init(_)
                        | Request::Follow(_)
                        | Request::Recover(_)
                        | Request::SetAside(_)) => panic!("nobody asked for {request:?}"),
                    }
                }
                Order::Tell(_) => {}
            }
        }
    }

    fn step(&mut self, event: Event, store: &MemoryRegister) {
        if !self.over {
            let orders = self.controller.step(self.now, event);
            self.take(orders, store);
        }
    }

    fn reply(&mut self, request_id: u64, m: usize, reply: Reply, store: &MemoryRegister) {
        self.step(Event::Reply { request_id, member: name(m), result: Ok(Box::new(reply)) }, store);
    }

    /// Carries the waiting swap out.
    fn swap(&mut self, store: &MemoryRegister) -> bool {
        let (expected, register) = self.swap.take().expect("it wants to write the register");
        let outcome = store.compare_and_swap(expected.as_ref(), &register);
        let written = matches!(outcome, CasOutcome::Written(_));
        self.step(Event::CasDone(outcome), store);
        written
    }
}

struct Product<'a> {
    setup: &'a Setup,
    cores: Vec<MemberCore>,
    quorums: BTreeMap<u8, Quorum>,
    store: MemoryRegister,
    runs: Vec<Run>,
}

fn tails(logs: &[super::log::Log]) -> Vec<LogTail> {
    logs.iter().map(super::log::Log::tail).collect()
}

impl<'a> Product<'a> {
    fn new(setup: &'a Setup, first: &State) -> Self {
        let config = setup.configs[0];
        let address = |m: usize| MemberAddress { name: name(m), ..MemberAddress::default() };
        let register = Register {
            format_version: FORMAT_VERSION,
            cluster_id: CLUSTER,
            lineage: 0,
            epoch: 1,
            phase: Phase::Leading,
            attempt: None,
            leader: Some(sid(0)),
            last_leading: Some(Leading { epoch: 1, sid: sid(0) }),
            voters: config.members().map(sid).collect(),
            write_quorum: config.write_quorum.into(),
            min_voters: 1,
            learners: Vec::new(),
            members: (0..setup.members).map(|m| (sid(m), address(m))).collect(),
            initialized: true,
            format_level: 1,
            slot_table_version: 0,
            shard_time_ms: 0,
            last_request: None,
            unknown: BTreeMap::new(),
        };
        let store = MemoryRegister::default();
        assert!(matches!(store.compare_and_swap(None, &register), CasOutcome::Written(_)));
        let cores = (0..setup.members).map(|m| core_of(first, m)).collect();
        let quorums = BTreeMap::from([(1, setup.quorum_of(&first.terms[0]))]);
        Self { setup, cores, quorums, store, runs: Vec::new() }
    }

    fn config(&self, number: u8) -> Config {
        self.setup.configs[usize::from(number)]
    }

    fn alloc(&mut self, plan: u8, leader: Option<usize>) {
        let member = |m: usize| ExpectedMember {
            name: name(m),
            peer_address: String::new(),
            client_address: String::new(),
            ordinal: m as u32,
        };
        let controller = Controller::new(ControllerConfig {
            name: String::new(),
            rank: 0,
            cluster_id: CLUSTER,
            members: (0..self.setup.members).map(member).collect(),
            spec: PartitionSpec { min_voters: 1, paused: true, ..PartitionSpec::new(self.setup.members as u32) },
            seed: self.runs.len() as u64 + 1,
        });
        let mut run = Run {
            controller,
            now: Duration::ZERO,
            fences: BTreeMap::new(),
            assembles: BTreeMap::new(),
            promote: None,
            swap: None,
            over: false,
        };
        // It knows who is where, and nothing fresh: what it does, it does because the attempt did.
        let first = run.controller.step(run.now, Event::Tick);
        for (m, core) in self.cores.iter().enumerate() {
            let report = Box::new(report(core));
            run.controller.step(run.now, Event::Report { member: name(m), report });
        }
        run.now += Duration::from_secs(10);
        run.take(first, &self.store);
        let config = self.config(plan);
        let voters = config.members().map(sid).collect();
        let orders = run.controller.change_now(voters, config.write_quorum.into(), leader.map(sid));
        run.take(orders, &self.store);
        assert!(run.swap(&self.store), "ALLOC");
        self.runs.push(run);
    }

    fn fence(&mut self, after: &State, attempt: usize, m: usize, lost: bool) {
        let (id, request) = self.runs[attempt].fences[&m].clone();
        let core = &mut self.cores[m];
        let step = core.begin_fence(&request).expect("as in the model");
        let reports = reports(&after.members[m], self.setup.shards, self.setup.durability == Durability::Os);
        let reply = core.finish_fence(&step, reports, 0, 0, false, NOW).expect("as in the model");
        if !lost {
            self.runs[attempt].reply(id, m, Reply::Fenced(reply), &self.store);
        }
    }

    fn choose(&mut self, after: &State, attempt: usize) {
        let Step::Chosen(chosen) = &after.attempts[attempt].step else { panic!("nobody was chosen") };
        let run = &mut self.runs[attempt];
        run.now += Duration::from_millis(40);
        run.step(Event::Tick, &self.store);
        let asked = run.assembles.keys().fold(0u8, |bits, m| bits | 1 << m);
        assert_eq!(asked, chosen.assemble & !chosen.done, "who must be brought to the targets");
        let targets = tails(&chosen.targets[..self.setup.shards]);
        for (_, request) in run.assembles.values() {
            assert_eq!(request.targets.iter().map(|t| t.tail).collect::<Vec<_>>(), targets);
        }
        assert_eq!(run.swap.is_some(), asked == 0, "DECIDE is next if everybody is there");
    }

    fn pull(&mut self, before: &State, attempt: usize, m: usize) {
        let a = &before.attempts[attempt];
        let (Step::Chosen(chosen) | Step::Decided(chosen)) = &a.step else { panic!("nobody was chosen") };
        let targets = tails(&chosen.targets[..self.setup.shards]);
        let own = AssembleRequest {
            envelope: envelope(m),
            epoch: a.epoch.into(),
            targets: targets.into_iter().map(|tail| ShardTarget { tail, donor: donor(0), copy: false }).collect(),
        };
        let request = self.runs[attempt].assembles.get(&m).map_or(own, |(_, request)| request.clone());
        let shards = &before.members[m].shards[..self.setup.shards];
        let states: Vec<DataState> = shards.iter().map(|s| s.state).collect();
        self.cores[m].begin_assemble(&request, &states).expect("as in the model");
        self.cores[m].check_assemble(a.epoch.into()).expect("as in the model");
    }

    fn assembled(&mut self, after: &State, attempt: usize, m: usize) {
        let epoch = after.attempts[attempt].epoch;
        let Some((id, request)) = self.runs[attempt].assembles.get(&m).cloned() else { return };
        self.cores[m].check_assemble(epoch.into()).expect("as in the model");
        let reply = AssembleReply {
            standing: self.cores[m].standing(),
            tails: request.targets.iter().map(|target| target.tail).collect(),
        };
        let run = &mut self.runs[attempt];
        run.reply(id, m, Reply::Assembled(reply), &self.store);
        if let Step::Chosen(chosen) = &after.attempts[attempt].step {
            let all = chosen.done & chosen.assemble == chosen.assemble;
            assert_eq!(run.swap.is_some(), all, "DECIDE is next if everybody is there");
        }
    }

    fn promote(&mut self, before: &State, after: &State, attempt: usize) {
        let run = &mut self.runs[attempt];
        let (id, request) = run.promote.clone().expect("PROMOTE was sent");
        let term = after.term(before.attempts[attempt].epoch).expect("it leads");
        let m = usize::from(term.leader);
        assert_eq!(request.envelope.to, sid(m));
        assert_eq!(request.config, last_config(term.epoch, term.config));
        let reports = reports(&before.members[m], self.setup.shards, self.setup.durability == Durability::Os);
        let core = &mut self.cores[m];
        let step = core.begin_promote(&request, &reports).expect("as in the model");
        let standing = core.finish_promote(step, NOW).expect("as in the model");
        run.reply(id, m, Reply::Done(StandingReply { standing }), &self.store);
        assert!(!run.controller.changing(), "it leads: the change is over");
        run.over = true;
        let commits = before.members[m].shards[..self.setup.shards].iter().map(|s| s.commit.into()).collect();
        let mut quorum = Quorum::new(request.config, commits);
        for s in 0..self.setup.shards {
            let _ = quorum.barrier_appended(s as u16, term.barriers[s].into());
        }
        self.quorums.insert(term.epoch, quorum);
    }

    fn follow(&mut self, before: &State, attempt: Option<usize>, m: usize) {
        let (epoch, leader) = match attempt.map(|attempt| &before.attempts[attempt]) {
            None => (1, 0),
            Some(a) => match &a.step {
                Step::Decided(chosen) => (a.epoch, usize::from(chosen.leader)),
                Step::Fencing(_) | Step::Chosen(_) => panic!("nothing was decided"),
            },
        };
        let request = FollowRequest {
            envelope: envelope(m),
            epoch: epoch.into(),
            leader: donor(leader),
            leader_client_address: String::new(),
            as_learner: false,
        };
        let step = self.cores[m].begin_follow(&request, false).expect("as in the model");
        self.cores[m].finish_follow(step).expect("as in the model");
    }

    fn deliver(&mut self, before: &State, after: &State, epoch: u8, m: usize, s: usize) {
        let term = before.term(epoch).expect("it began");
        let leader = sid(term.leader.into());
        let config = last_config(epoch, term.config);
        let core = &mut self.cores[m];
        let change = core.learn_config(leader, &config).expect("as in the model");
        core.config_persisted(&change);
        let (old, new) = (&before.members[m].shards[s], &after.members[m].shards[s]);
        let copied = old.state != new.state || new.floor != old.floor;
        if new.log.len() > old.log.len() && !copied {
            let prev = term.logs[s].tail_at(old.log.len());
            check_append(core, epoch.into(), leader, prev, old.log.tail()).expect("as in the model");
        }
        if new.log.len() < old.log.len() && !copied {
            let commit = old.commit.into();
            check_truncate(core, epoch.into(), leader, new.log.len().into(), commit).expect("as in the model");
        }
    }

    fn restart(&mut self, m: usize, empty: bool) {
        let old = self.cores[m].durable().clone();
        let durable = if empty {
            Durable {
                cluster_id: None,
                sid: Sid(0x100 + m as u128),
                open_count: 1,
                init: InitState::None,
                promised: 0,
                led: 0,
                last_config: None,
                ..old
            }
        } else {
            Durable { open_count: old.open_count + 1, ..old }
        };
        let instance = InstanceId(durable.open_count.into());
        self.cores[m] = MemberCore::new(durable, instance, Duration::ZERO);
    }

    /// Does again what the model did; `leader` is whom an attempt that begins now will choose.
    fn follows(&mut self, before: &State, action: Action, after: &State, leader: Option<usize>) {
        match action {
            Action::Alloc { plan, .. } => self.alloc(plan, leader),
            Action::Fence { attempt, member, lost } => self.fence(after, attempt, member, lost),
            Action::Choose { attempt, .. } => self.choose(after, attempt),
            Action::Pull { attempt, member, .. } => self.pull(before, attempt, member),
            Action::Assembled { attempt, member } => self.assembled(after, attempt, member),
            Action::Decide { attempt } => assert!(self.runs[attempt].swap(&self.store), "DECIDE"),
            Action::Promote { attempt } => self.promote(before, after, attempt),
            Action::Follow { attempt, member } => self.follow(before, attempt, member),
            Action::Deliver { epoch, member, shard } => self.deliver(before, after, epoch, member, shard),
            Action::Acknowledged { epoch, member, shard } => {
                let term = before.term(epoch).expect("it began");
                let log = before.members[usize::from(term.leader)].shards[shard].log.len();
                let held = term.sent[member][shard].min(log);
                let _ = self.quorums.get_mut(&epoch).expect("it leads").held(sid(member), shard as u16, held.into());
            }
            Action::Crash { member, .. } => self.restart(member, false),
            Action::Wipe { member } => self.restart(member, true),
            Action::Notice { .. } | Action::Write { .. } | Action::Sync { .. } | Action::Compact { .. } => {}
            Action::ReadRegister { .. } | Action::ReadUncommitted { .. } | Action::CopyLate { .. } => {
                panic!("only a mutant does {action:?}")
            }
        }
        // The leader's own copy counts as far as it is durable.
        for (epoch, quorum) in &mut self.quorums {
            let term = after.term(*epoch).expect("it began");
            let leader = usize::from(term.leader);
            for s in 0..self.setup.shards {
                let _ = quorum.held(sid(leader), s as u16, term.held[leader][s].into());
            }
        }
    }

    fn compare(&self, after: &State, action: Action) {
        for (m, member) in after.members.iter().enumerate() {
            let core = &self.cores[m];
            let standing = core.standing();
            let Member { gone, promised, led, live_led, config_epoch, role, following, .. } = *member;
            let config = standing.last_config.as_ref().map_or(0, |config| config.epoch);
            let product = (
                standing.promised,
                standing.led,
                standing.live_led,
                config,
                core.role(),
                core.following().map_or(0, |f| f.epoch),
            );
            let model = (promised.into(), led.into(), live_led.into(), config_epoch.into(), role, following.into());
            assert_eq!(product, model, "member {m} after {action:?}");
            assert_eq!(standing.sid != sid(m), gone);
            if let Some(config) = &standing.last_config {
                let term = after.term(config_epoch).expect("whose configuration it is");
                assert_eq!(*config, last_config(config_epoch, term.config), "member {m} after {action:?}");
            }
            if role == Role::Leader {
                let commits: Vec<u64> = member.shards[..self.setup.shards].iter().map(|s| s.commit.into()).collect();
                assert_eq!(self.quorums[&live_led].commits(), commits, "member {m} after {action:?}");
            }
        }
        let ReadOutcome::Found(register, _) = self.store.read() else { panic!("the register is gone") };
        let r = &after.register;
        let config = self.config(r.config);
        assert_eq!(register.epoch, u64::from(r.epoch), "after {action:?}");
        assert_eq!(register.phase == Phase::Leading, r.leading, "after {action:?}");
        let last = Leading { epoch: r.last_leading.0.into(), sid: sid(r.last_leading.1.into()) };
        assert_eq!(register.last_leading, Some(last), "after {action:?}");
        assert_eq!(register.voters, config.members().map(sid).collect::<Vec<_>>(), "after {action:?}");
        assert_eq!(register.write_quorum, u32::from(config.write_quorum), "after {action:?}");
    }

    /// What was never carried out fails, because another attempt came before.
    fn late_swaps_fail(&mut self, last: &State) {
        for (attempt, run) in self.runs.iter_mut().enumerate() {
            if run.swap.is_some() && attempt + 1 != usize::from(last.register.attempt) {
                assert!(!run.swap(&self.store), "attempt {attempt} was overtaken and wrote the register all the same");
            }
        }
    }
}

/// A walk of the model, and the same by the product; how many steps it had.
fn live_through(setup: &Setup, random: &mut Random) -> usize {
    let mut states = vec![setup.first()];
    let mut walk = Vec::new();
    loop {
        let state = states.last().expect("there is a first");
        let mut actions = Vec::new();
        setup.actions(state, &mut actions);
        let mut next = None;
        while next.is_none() && !actions.is_empty() {
            let action = actions.swap_remove(random.below(actions.len() as u64) as usize);
            next = setup.next_state(state, action).map(|state| (action, state));
        }
        let Some((action, state)) = next else { break };
        walk.push(action);
        states.push(state);
    }
    let mut product = Product::new(setup, &states[0]);
    let mut attempts = 0;
    for (i, &action) in walk.iter().enumerate() {
        let leader = walk[i..].iter().find_map(|later| match later {
            Action::Choose { attempt, want } if *attempt == attempts => Some(*want),
            _ => None,
        });
        product.follows(&states[i], action, &states[i + 1], leader);
        product.compare(&states[i + 1], action);
        attempts += usize::from(matches!(action, Action::Alloc { .. }));
    }
    product.late_swaps_fail(&states[walk.len()]);
    assert_eq!(states[walk.len()].broken, None);
    walk.len()
}

#[test]
fn the_product_lives_through_the_models_histories() {
    let full = |n: usize, durability: Durability| Setup {
        shards: 2,
        batches: true,
        durability,
        crashes: 2,
        compactions: 1,
        leader_only: true,
        lossy: true,
        notices: true,
        ..Setup::of(n, 5, 4)
    };
    let changes = vec![Config::majority(3), Config::of(&[0, 1, 3], 2), Config::of(&[1, 3], 2), Config::majority(5)];
    let setups = [
        Setup { configs: changes, ..full(5, Durability::Fsync) },
        full(2, Durability::Fsync),
        Setup { wipes: true, ..full(3, Durability::Fsync) },
        full(3, Durability::Os),
        full(4, Durability::Instant),
    ];
    let mut random = Random::new(7);
    for setup in &setups {
        let steps: usize = (0..60).map(|_| live_through(setup, &mut random)).sum();
        println!("{} members, {:?}: 60 histories, {steps} steps", setup.members, setup.durability);
        assert!(steps > 60 * 30, "histories in which nothing happens show nothing");
    }
}
