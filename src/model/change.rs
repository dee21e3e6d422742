//! What controllers do, and what members answer them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::life::{core_of, sid, take_back};
use super::log::{Content, Entry};
use super::setup::{Durability, Mutant, Setup};
use super::state::{Attempt, Broken, Chosen, Config, Fenced, FencedShard, Member, SHARDS, State, Step, Term};
use crate::ident::{ClusterId, Sid};
use crate::position::{Epoch, LogTail};
use crate::replication::rules::{LogView, MemberCore, Quorum, Reconcile, reconcile};
use crate::topology::controller::choose::{
    Answer, Fitness, NoChoice, Question, ReadQuorum, at_targets, choose, read_quorum,
};
use crate::topology::message::{
    AssembleRequest, DataState, Donor, Envelope, FenceReply, FenceRequest, FollowRequest, InitState, LastConfig,
    PromoteRequest, ShardReport, ShardTarget, Standing,
};
use crate::topology::register::Leading;

/// The cluster of all of them.
pub(super) const CLUSTER: ClusterId = ClusterId(1);

pub(super) fn envelope(member: usize) -> Envelope {
    Envelope { cluster_id: CLUSTER, lineage: 0, to: sid(member) }
}

pub(super) fn donor(member: usize) -> Donor {
    Donor { sid: sid(member), name: String::new(), address: String::new() }
}

pub(super) fn last_config(epoch: u8, config: Config) -> LastConfig {
    LastConfig {
        epoch: epoch.into(),
        voters: config.members().map(sid).collect(),
        write_quorum: config.write_quorum.into(),
        min_voters: 1,
    }
}

/// The member's word on its shards.
pub(super) fn reports(member: &Member, shards: usize, os: bool) -> Vec<ShardReport> {
    let report = |s: &super::state::Shard| ShardReport {
        state: s.state,
        tail: s.log.tail(),
        commit: s.commit.into(),
        durable: if os { s.log.len() } else { s.believed }.into(),
        log_floor: s.floor.into(),
        tombstone_floor: 0,
        known_commit: 0,
    };
    member.shards[..shards].iter().map(report).collect()
}

impl Setup {
    fn tails(&self, targets: &[super::log::Log; SHARDS]) -> Vec<LogTail> {
        targets[..self.shards].iter().map(super::log::Log::tail).collect()
    }

    // --- ALLOC --------------------------------------------------------------------------------------------

    /// Takes the next epoch by a swap: reading and writing are one step.
    pub(super) fn alloc(&self, state: &mut State, plan: u8, stale: bool) {
        let epoch = if stale { state.register.epoch } else { state.register.epoch + 1 };
        let (found, last_leading) = match state.attempts.last() {
            Some(earlier) if stale => (earlier.found, earlier.last_leading),
            _ => (state.register.config, state.register.last_leading),
        };
        state.attempts.push(Attempt { epoch, found, last_leading, plan, step: Step::Fencing(Vec::new()) });
        state.register.epoch = epoch;
        state.register.attempt = state.attempts.len() as u8;
        state.register.leading = false;
    }

    // --- FENCE --------------------------------------------------------------------------------------------

    pub(super) fn fence(&self, state: &mut State, attempt: usize, m: usize, lost: bool) {
        let epoch = state.attempts[attempt].epoch;
        let mut core = core_of(state, m);
        let request = FenceRequest { envelope: envelope(m), epoch: epoch.into(), drain: None };
        let Ok(step) = core.begin_fence(&request) else { return };
        let member = &mut state.members[m];
        member.shards.iter_mut().for_each(|shard| shard.sync(false));
        let reports = reports(member, self.shards, self.durability == Durability::Os);
        let Ok(reply) = core.finish_fence(&step, reports, 0, 0, false, Duration::ZERO) else { return };
        take_back(member, &core);
        if !self.is(Mutant::PromiseNotPersisted) {
            member.persisted_promise = member.promised;
        }
        if lost {
            return;
        }
        debug_assert_eq!(reply.standing.promised, Epoch::from(epoch));
        let of = |s: &super::state::Shard| FencedShard { log: s.log, commit: s.commit, state: s.state, floor: s.floor };
        let fenced = Fenced {
            member: m as u8,
            live_led: reply.standing.live_led as u8,
            led: reply.standing.led as u8,
            shards: member.shards.each_ref().map(of),
        };
        if let Step::Fencing(answers) = &mut state.attempts[attempt].step {
            answers.push(fenced);
            answers.sort_by_key(|answer| answer.member);
        }
    }

    fn answer(&self, epoch: u8, fenced: &Fenced) -> Answer {
        let restarted = self.is(Mutant::RestartedLeaderIsAQuorum);
        let standing = Standing {
            cluster_id: Some(CLUSTER),
            lineage: 0,
            sid: sid(fenced.member.into()),
            open_count: 1,
            instance: crate::ident::InstanceId(1),
            init: InitState::Done,
            promised: epoch.into(),
            led: fenced.led.into(),
            live_led: if restarted { fenced.led } else { fenced.live_led }.into(),
            last_config: None,
        };
        let report = |s: &FencedShard| ShardReport {
            state: s.state,
            tail: s.log.tail(),
            commit: s.commit.into(),
            durable: s.log.len().into(),
            log_floor: s.floor.into(),
            tombstone_floor: 0,
            known_commit: 0,
        };
        let reply = FenceReply {
            standing,
            shards: fenced.shards[..self.shards].iter().map(report).collect(),
            lease_remaining: Duration::ZERO,
            shard_time_ms: 0,
            wall_ms: 0,
            drained: false,
            figures: Vec::new(),
        };
        Answer { name: String::new(), reply, at: Duration::ZERO }
    }

    // --- TARGET, CHOOSE -----------------------------------------------------------------------------------

    pub(super) fn choose(&self, state: &mut State, attempt: usize, want: usize) {
        let a = &state.attempts[attempt];
        let Step::Fencing(fenced) = &a.step else { return };
        let answers: BTreeMap<Sid, Answer> =
            fenced.iter().map(|f| (sid(f.member.into()), self.answer(a.epoch, f))).collect();
        let (found, next) = (self.configs[usize::from(a.found)], self.configs[usize::from(a.plan)]);
        let voters: Vec<Sid> = found.members().map(sid).collect();
        let next_voters: Vec<Sid> = next.members().map(sid).collect();
        let needed = found.read_quorum() - usize::from(self.is(Mutant::FenceByOneLess));
        let last = Leading { epoch: a.last_leading.0.into(), sid: sid(a.last_leading.1.into()) };
        let last = self.leader_only.then_some(last);
        let quorum = read_quorum(&answers, a.epoch.into(), &voters, needed, last);
        if quorum == ReadQuorum::Missing {
            return;
        }
        let changes = found != next && !self.is(Mutant::OnlyCandidateAssembled);
        let fitness: BTreeMap<Sid, Fitness> = BTreeMap::new();
        let question = Question {
            epoch: a.epoch.into(),
            amnesia: quorum == ReadQuorum::Amnesic,
            voters: &voters,
            next: &next_voters,
            assembled: if changes { next.write_quorum.into() } else { 1 },
            want: Some(sid(want)),
            avoid: None,
            keep: None,
            only: Some(sid(want)),
            excluded: &BTreeSet::new(),
            fitness: &fitness,
            longest_wins: self.is(Mutant::LongestLogWins),
        };
        let choice = match choose(&answers, &question) {
            Ok(choice) => choice,
            Err(NoChoice::Few(_)) => return,
            Err(NoChoice::Diverged(_)) => return state.break_rule(Broken::Alarm),
        };
        let mut targets = [super::log::Log::default(); SHARDS];
        let mut floors = [1; SHARDS];
        for (s, target) in choice.targets.iter().enumerate() {
            let donor = fenced.iter().find(|f| sid(f.member.into()) == target.donor);
            let Some(donor) = donor else { return state.break_rule(Broken::Alarm) };
            targets[s] = donor.shards[s].log;
            floors[s] = donor.shards[s].floor;
        }
        let bits = |sids: &[Sid]| sids.iter().fold(0u8, |bits, sid| bits | 1 << (sid.0 - 1));
        let ready: Vec<Sid> =
            choice.assemble.iter().copied().filter(|sid| at_targets(&answers[sid], &choice.targets)).collect();
        let chosen = Chosen {
            leader: (choice.leader.0 - 1) as u8,
            assemble: bits(&choice.assemble),
            done: bits(&ready),
            targets,
            floors,
        };
        state.loss_told |= quorum == ReadQuorum::Amnesic;
        state.attempts[attempt].step = Step::Chosen(chosen);
    }

    // --- ASSEMBLE -----------------------------------------------------------------------------------------

    fn chosen(state: &State, attempt: usize) -> Option<&Chosen> {
        match &state.attempts[attempt].step {
            Step::Fencing(_) => None,
            Step::Chosen(chosen) | Step::Decided(chosen) => Some(chosen),
        }
    }

    /// The next batch of the tail that ASSEMBLE asked for arrives; what conflicts is cut first. It may be late.
    pub(super) fn pull(&self, state: &mut State, attempt: usize, m: usize, s: usize) {
        let epoch = state.attempts[attempt].epoch;
        let Some(chosen) = Self::chosen(state, attempt) else { return };
        let (target, floor) = (chosen.targets[s], chosen.floors[s]);
        let request = AssembleRequest {
            envelope: envelope(m),
            epoch: epoch.into(),
            targets: self
                .tails(&chosen.targets)
                .into_iter()
                .map(|tail| ShardTarget { tail, donor: donor(usize::from(chosen.leader)), copy: false })
                .collect(),
        };
        let mut core = core_of(state, m);
        let unchecked = self.is(Mutant::AssembleWithoutPromise);
        let states: Vec<DataState> = state.members[m].shards[..self.shards].iter().map(|s| s.state).collect();
        let began = core.begin_assemble(&request, &states).and_then(|()| core.check_assemble(epoch.into()));
        let leads = core.role() == crate::topology::message::Role::Leader;
        if began.is_err() && (!unchecked || leads) {
            return;
        }
        let member = &mut state.members[m];
        if began.is_ok() {
            take_back(member, &core);
        }
        let shard = &mut member.shards[s];
        // As a donor answers: by its log as it was fenced, whatever the candidate thinks to be committed.
        let ours = LogView {
            state: DataState::Ready,
            tail: target.tail(),
            commit: 0,
            log_floor: floor.into(),
            epochs: target.epochs(),
        };
        let theirs =
            LogView { state: shard.state, tail: shard.log.tail(), commit: 0, log_floor: 1, epochs: shard.log.epochs() };
        let common = match reconcile(&ours, &theirs) {
            Reconcile::Match { at } | Reconcile::Truncate { to: at } => at.gsn as u8,
            Reconcile::Full { .. } | Reconcile::Diverged { .. } | Reconcile::Lacking { .. } => return,
        };
        if common < shard.commit {
            return state.break_rule(Broken::Alarm);
        }
        shard.log.truncate(common);
        for &entry in target.batch_after(common) {
            shard.log.append(entry);
        }
        shard.durable = shard.durable.min(common);
        shard.believed = shard.believed.min(common);
        self.appended(shard);
        self.answer_waiting(state, m, Some((s, common)));
    }

    /// It is at the targets, durably, and says so.
    pub(super) fn assembled(&self, state: &mut State, attempt: usize, m: usize) {
        let epoch = state.attempts[attempt].epoch;
        let core = core_of(state, m);
        let Some(chosen) = Self::chosen(state, attempt) else { return };
        let targets = self.tails(&chosen.targets);
        let member = &mut state.members[m];
        let mut synced = *member;
        synced.shards.iter_mut().for_each(|shard| shard.sync(false));
        let reports = reports(&synced, self.shards, false);
        if core.check_assemble(epoch.into()).is_err() || !MemberCore::at_targets(&reports, &targets) {
            return;
        }
        *member = synced;
        if let Step::Chosen(chosen) = &mut state.attempts[attempt].step {
            chosen.done |= 1 << m;
        }
    }

    // --- DECIDE -------------------------------------------------------------------------------------------

    pub(super) fn decide(&self, state: &mut State, attempt: usize) {
        let a = &state.attempts[attempt];
        let Step::Chosen(chosen) = &a.step else { return };
        let r = &state.register;
        let mine = r.epoch == a.epoch && usize::from(r.attempt) == attempt + 1 && !r.leading;
        if chosen.done & chosen.assemble != chosen.assemble || !(mine || self.is(Mutant::DecideWithoutSwap)) {
            return;
        }
        state.register.leading = true;
        state.register.last_leading = (a.epoch, chosen.leader);
        state.register.config = a.plan;
        state.attempts[attempt].step = Step::Decided(chosen.clone());
    }

    // --- PROMOTE, FOLLOW ----------------------------------------------------------------------------------

    pub(super) fn promote(&self, state: &mut State, attempt: usize) {
        let a = &state.attempts[attempt];
        let Step::Decided(chosen) = &a.step else { return };
        let (epoch, m, config) = (a.epoch, usize::from(chosen.leader), self.configs[usize::from(a.plan)]);
        let request = PromoteRequest {
            envelope: envelope(m),
            config: last_config(epoch, config),
            targets: self.tails(&chosen.targets),
            lease_wait: Duration::ZERO,
            shard_time_ms: 0,
            members: Vec::new(),
        };
        let mut core = core_of(state, m);
        let reports = reports(&state.members[m], self.shards, self.durability == Durability::Os);
        let Ok(step) = core.begin_promote(&request, &reports) else { return };
        if step.already || core.finish_promote(step, Duration::ZERO).is_err() {
            return;
        }
        if state.term(epoch).is_some() {
            return state.break_rule(Broken::TwoLeaders);
        }
        take_back(&mut state.members[m], &core);
        let mut term = Term {
            epoch,
            leader: m as u8,
            config,
            logs: Default::default(),
            barriers: [0; SHARDS],
            sent: Default::default(),
            held: Default::default(),
            commits: [0; SHARDS],
        };
        for s in 0..self.shards {
            let shard = &mut state.members[m].shards[s];
            let log = shard.log;
            term.commits[s] = shard.commit;
            shard.state = DataState::Ready;
            shard.log.append(Entry { epoch, content: Content::Barrier, more: false });
            shard.joined = false;
            term.barriers[s] = shard.log.len();
            term.logs[s] = shard.log;
            self.appended(shard);
            state.leads_with(epoch, s, &log);
        }
        state.terms.push(term);
        state.terms.sort_by_key(|term| term.epoch);
        self.leader_counts_itself(state, m);
    }

    pub(super) fn follow(&self, state: &mut State, attempt: Option<usize>, m: usize) {
        let (epoch, leader) = match attempt {
            None => (1, 0),
            Some(attempt) => match &state.attempts[attempt].step {
                Step::Decided(chosen) => (state.attempts[attempt].epoch, usize::from(chosen.leader)),
                Step::Fencing(_) | Step::Chosen(_) => return,
            },
        };
        let request = FollowRequest {
            envelope: envelope(m),
            epoch: epoch.into(),
            leader: donor(leader),
            leader_client_address: String::new(),
            as_learner: false,
        };
        let mut core = core_of(state, m);
        let Ok(step) = core.begin_follow(&request, false) else { return };
        if core.finish_follow(step).is_ok() {
            let member = &mut state.members[m];
            take_back(member, &core);
            member.persisted_promise = member.promised;
        }
    }

    /// The commit counting of a term, as it stands.
    pub(super) fn quorum_of(&self, term: &Term) -> Quorum {
        let commits = term.commits[..self.shards].iter().map(|&gsn| gsn.into()).collect();
        let mut quorum = Quorum::new(last_config(term.epoch, term.config), commits);
        for s in 0..self.shards {
            let barrier = if self.is(Mutant::CommitsOlderEpochs) { 0 } else { term.barriers[s] };
            let _ = quorum.barrier_appended(s as u16, barrier.into());
            for m in term.config.members().filter(|&m| term.held[m][s] > 0) {
                let _ = quorum.held(sid(m), s as u16, term.held[m][s].into());
            }
        }
        quorum
    }
}
