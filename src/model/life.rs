//! What members do by themselves: write, ship, acknowledge, commit, sync, compact, restart, lose power.

use std::time::Duration;

use super::change::{CLUSTER, donor, last_config};
use super::log::{Content, Entry, Log};
use super::setup::{Durability, Mutant, Setup};
use super::state::{Broken, Config, Member, Shard, State};
use crate::ident::Sid;
use crate::replication::rules::{
    Durable, Following, LogView, MemberCore, Outcome, Reconcile, Term as LeaderTerm, check_append, check_truncate,
    outcome, reconcile,
};
use crate::topology::message::{DataState, InitState, Role};

pub(super) fn sid(member: usize) -> Sid {
    Sid(member as u128 + 1)
}

/// The product's member, as it would be at this point of its life.
pub(super) fn core_of(state: &State, m: usize) -> MemberCore {
    let member = &state.members[m];
    let config = |epoch: u8| {
        let config = state.term(epoch).map_or(Config { voters: 0, write_quorum: 1 }, |term| term.config);
        last_config(epoch, config)
    };
    let leader = |epoch: u8| {
        let decided = state.attempts.iter().find_map(|a| match &a.step {
            super::state::Step::Decided(chosen) if a.epoch == epoch => Some(chosen.leader),
            _ => None,
        });
        usize::from(decided.unwrap_or(0))
    };
    let durable = Durable {
        cluster_id: Some(CLUSTER),
        lineage: 0,
        // An empty volume that took the place of this one is other storage: it refuses what is meant for this sid.
        sid: if member.gone { Sid(0x100 + m as u128) } else { sid(m) },
        open_count: 1,
        init: if member.gone { InitState::None } else { InitState::Done },
        promised: member.promised.into(),
        led: member.led.into(),
        last_config: Some(config(member.config_epoch)),
    };
    let following = (member.following > 0).then(|| Following {
        epoch: member.following.into(),
        leader: donor(leader(member.following)),
        leader_client_address: String::new(),
    });
    let term = (member.role == Role::Leader).then(|| LeaderTerm {
        config: config(member.live_led),
        members: Vec::new(),
        shard_time_ms: 0,
    });
    MemberCore::restored(durable, member.role, member.live_led.into(), following, term)
}

/// What the model keeps of it.
pub(super) fn take_back(member: &mut Member, core: &MemberCore) {
    let durable = core.durable();
    debug_assert_eq!(core.promise(), durable.promised);
    let following = core.following().map_or(0, |f| f.epoch as u8);
    if following != member.following || core.role() == Role::Leader {
        member.shards.iter_mut().for_each(|shard| shard.joined = false);
    }
    member.promised = durable.promised as u8;
    member.led = durable.led as u8;
    member.live_led = core.standing().live_led as u8;
    member.config_epoch = durable.last_config.as_ref().map_or(0, |config| config.epoch as u8);
    member.role = core.role();
    member.following = following;
}

fn view(shard: &Shard) -> LogView {
    LogView {
        state: shard.state,
        tail: shard.log.tail(),
        commit: shard.commit.into(),
        log_floor: shard.floor.into(),
        epochs: shard.log.epochs(),
    }
}

impl Setup {
    /// Something was appended.
    pub(super) fn appended(&self, shard: &mut Shard) {
        if self.durability == Durability::Instant {
            shard.durable = shard.log.len();
            shard.believed = shard.log.len();
        }
    }

    /// What a follower may acknowledge of a shard.
    fn may_be_told(&self, shard: &Shard) -> u8 {
        if self.durability == Durability::Os { shard.log.len() } else { shard.believed }
    }

    // --- leading ------------------------------------------------------------------------------------------

    /// Whether `m` leads by its own belief.
    pub(super) fn leads(&self, state: &State, m: usize) -> bool {
        let member = &state.members[m];
        member.role == Role::Leader && core_of(state, m).leads(member.live_led.into())
    }

    pub(super) fn write(&self, state: &mut State, m: usize, s: usize, entries: u8) {
        let epoch = state.members[m].live_led;
        for left in (0..entries).rev() {
            let write = state.writes;
            state.writes += 1;
            let shard = &mut state.members[m].shards[s];
            shard.log.append(Entry { epoch, content: Content::Write(write), more: left > 0 });
            self.appended(shard);
            state.members[m].waiting |= 1 << write;
        }
        let log = state.members[m].shards[s].log;
        if let Some(term) = state.term_mut(epoch) {
            term.logs[s] = log;
        }
        self.leader_counts_itself(state, m);
    }

    /// The leader's own copy is one of W.
    pub(super) fn leader_counts_itself(&self, state: &mut State, m: usize) {
        if !self.leads(state, m) {
            return;
        }
        for s in 0..self.shards {
            let shard = &state.members[m].shards[s];
            let unsynced = self.is(Mutant::LeaderCountsUnsynced);
            let held = if unsynced { shard.log.len() } else { self.may_be_told(shard) };
            self.counts(state, m, m, s, held);
        }
    }

    /// The acknowledgement of `m` arrives at the leader of `epoch`.
    pub(super) fn acknowledged(&self, state: &mut State, epoch: u8, m: usize, s: usize) {
        let Some(term) = state.term(epoch) else { return };
        let (leader, sent) = (usize::from(term.leader), term.sent[m][s]);
        if state.members[leader].live_led == epoch && self.leads(state, leader) {
            self.counts(state, leader, m, s, sent);
        }
    }

    /// `leader` learns that `m` holds so much.
    fn counts(&self, state: &mut State, leader: usize, m: usize, s: usize, held: u8) {
        let epoch = state.members[leader].live_led;
        let Some(term) = state.term(epoch) else { return };
        let mut quorum = self.quorum_of(term);
        let held = held.min(state.members[leader].shards[s].log.len());
        let risen = quorum.held(sid(m), s as u16, held.into());
        let commit = risen.unwrap_or_else(|| quorum.commit(s as u16)) as u8;
        let term = state.term_mut(epoch).expect("it was just found");
        term.held[m][s] = term.held[m][s].max(held);
        self.takes_commit(state, leader, s, commit);
    }

    /// The leader calls so much committed.
    pub(super) fn takes_commit(&self, state: &mut State, leader: usize, s: usize, commit: u8) {
        let member = &mut state.members[leader];
        let (epoch, log) = (member.live_led, member.shards[s].log);
        if commit <= member.shards[s].commit {
            return;
        }
        member.shards[s].commit = commit;
        if let Some(term) = state.term_mut(epoch) {
            term.commits[s] = term.commits[s].max(commit);
        }
        state.committed(epoch, s, &log, commit);
        self.answer_waiting(state, leader, None);
    }

    /// R16: tells clients what is certain. `cut`: a shard was just cut to this gsn.
    pub(super) fn answer_waiting(&self, state: &mut State, m: usize, cut: Option<(usize, u8)>) {
        let member = state.members[m];
        for write in (0..state.writes).filter(|write| member.waiting & 1 << write != 0) {
            let place = state.terms.iter().filter(|term| usize::from(term.leader) == m).find_map(|term| {
                let s = (0..self.shards).find(|&s| term.logs[s].find(write).is_some())?;
                Some((s, term.logs[s].find(write)?, term.epoch))
            });
            let Some((s, gsn, epoch)) = place else { continue };
            let shard = &member.shards[s];
            let at = crate::position::LogPosition::new(epoch.into(), gsn.into());
            let mut told = outcome(at, shard.commit.into(), &shard.log.epochs());
            if self.is(Mutant::TruncationIsAnAnswer) && cut.is_some_and(|(cut, to)| cut == s && gsn > to) {
                told = Outcome::DefinitelyNot;
            }
            let truth = state.truth[s].find(write) == Some(gsn);
            match told {
                Outcome::Unknown => continue,
                Outcome::Committed if !truth => state.break_rule(Broken::PrefixesDiffer),
                Outcome::Committed => {}
                Outcome::DefinitelyNot => {
                    state.never |= 1 << write;
                    if truth {
                        state.break_rule(Broken::NeverIsCommitted);
                    }
                }
            }
            state.members[m].waiting &= !(1 << write);
        }
    }

    /// The mutant's: a read shows the end of the log.
    pub(super) fn read_uncommitted(&self, state: &mut State, m: usize, s: usize) {
        let log = state.members[m].shards[s].log;
        let entry = log.at(log.len()).expect("a leader's log is not empty");
        if state.truth[s].at(log.len()).is_some_and(|other| other != entry) {
            state.break_rule(Broken::UncommittedSeen);
        }
        state.seen[s] = Some((log.len(), entry));
    }

    /// The mutant's: a leader takes voters and W from the register.
    pub(super) fn read_register(&self, state: &mut State, m: usize) {
        let epoch = state.members[m].live_led;
        let config = self.configs[usize::from(state.register.config)];
        let Some(term) = state.term_mut(epoch) else { return };
        term.config = config;
        for s in 0..self.shards {
            let commit = self.quorum_of(state.term(epoch).expect("it was just found")).commit(s as u16) as u8;
            self.takes_commit(state, m, s, commit);
        }
    }

    // --- following ----------------------------------------------------------------------------------------

    /// Something of what the leader of `epoch` ever said reaches `m`: the answer to its hello, or the next batch.
    pub(super) fn deliver(&self, state: &mut State, epoch: u8, m: usize, s: usize) {
        let Some(term) = state.term(epoch) else { return };
        let (leader, commit, config) = (usize::from(term.leader), term.commits[s], last_config(epoch, term.config));
        let source = term.logs[s];
        let lives = state.members[leader].live_led == epoch && self.leads(state, leader);
        let (floor, kept) = match &state.members[leader].shards[s] {
            shard if lives => (shard.floor, shard.kept),
            _ => (1, 1),
        };
        let mut core = core_of(state, m);
        let anybody = self.is(Mutant::AnyLeaderIsObeyed);
        match core.learn_config(sid(leader), &config) {
            Ok(change) => core.config_persisted(&change),
            Err(_) if anybody => {}
            Err(_) => return,
        }
        take_back(&mut state.members[m], &core);
        let ours = LogView {
            state: DataState::Ready,
            tail: source.tail(),
            commit: commit.into(),
            log_floor: floor.into(),
            epochs: source.epochs(),
        };
        let shard = state.members[m].shards[s];
        let by_length = self.is(Mutant::JoinsByLength);
        let answer = match reconcile(&ours, &view(&shard)) {
            Reconcile::Match { .. } | Reconcile::Truncate { .. } if by_length => {
                Reconcile::Match { at: source.tail_at(shard.log.len().min(source.len())).last }
            }
            answer => answer,
        };
        let at = match answer {
            Reconcile::Match { at } => at.gsn as u8,
            Reconcile::Truncate { to } => {
                match check_truncate(&core, epoch.into(), sid(leader), to.gsn, shard.commit.into()) {
                    Ok(()) => {}
                    Err(refusal) if refusal.is_alarm() => return state.break_rule(Broken::Alarm),
                    Err(_) if anybody => {}
                    Err(_) => return,
                }
                let shard = &mut state.members[m].shards[s];
                shard.log.truncate(to.gsn as u8);
                shard.durable = shard.durable.min(to.gsn as u8);
                shard.believed = shard.believed.min(to.gsn as u8);
                self.joins(state, epoch, m, s, lives.then_some(source.len()));
                return self.answer_waiting(state, m, Some((s, to.gsn as u8)));
            }
            Reconcile::Full { .. } if lives && core.follows(epoch.into(), sid(leader)) => {
                return self.copy(state, epoch, m, s, &source, commit);
            }
            Reconcile::Full { .. } | Reconcile::Lacking { .. } => return,
            Reconcile::Diverged { .. } => return state.break_rule(Broken::Alarm),
        };
        let batch = source.batch_after(at);
        if !batch.is_empty() && (shard.joined || shard.log.len() == at) {
            let (prev, tail) = (source.tail_at(at), shard.log.tail());
            match check_append(&core, epoch.into(), sid(leader), prev, tail) {
                Ok(()) => {}
                Err(refusal) if refusal.is_alarm() && !by_length => return state.break_rule(Broken::Alarm),
                Err(_) if by_length || anybody => {}
                Err(_) => return,
            }
            let shard = &mut state.members[m].shards[s];
            for &entry in batch {
                let dropped = shard.log.len() + 1 < kept;
                let content = if dropped { Content::Hole } else { entry.content };
                shard.log.append(Entry { content, ..entry });
            }
            self.appended(shard);
        }
        self.joins(state, epoch, m, s, lives.then_some(source.len()));
    }

    /// The log is a prefix of the leader's: what is durable may be acknowledged.
    fn joins(&self, state: &mut State, epoch: u8, m: usize, s: usize, end: Option<u8>) {
        let shard = &mut state.members[m].shards[s];
        if !shard.joined
            && let Some(end) = end
        {
            // The goal is of a hello that a live leader answered.
            shard.goal = end;
        }
        shard.joined = true;
        self.tells(state, epoch, m, s);
        let shard = &mut state.members[m].shards[s];
        let waits = matches!(shard.state, DataState::Amnesic | DataState::Syncing);
        if waits && shard.goal > 0 && self.may_be_told(shard) >= shard.goal {
            shard.sync(false);
            shard.state = DataState::Ready;
        }
    }

    /// Acknowledges what it holds of a shard.
    fn tells(&self, state: &mut State, epoch: u8, m: usize, s: usize) {
        let Some(term) = state.term(epoch) else { return };
        let leader = sid(term.leader.into());
        let may = core_of(state, m).may_acknowledge(epoch.into(), leader) || self.is(Mutant::AnyLeaderIsObeyed);
        let shard = &state.members[m].shards[s];
        if may && shard.joined {
            let held = self.may_be_told(shard);
            let term = state.term_mut(epoch).expect("it was just found");
            term.sent[m][s] = term.sent[m][s].max(held);
        }
    }

    /// A full copy: first what is there is given up, then the committed state of the leader arrives whole.
    fn copy(&self, state: &mut State, epoch: u8, m: usize, s: usize, source: &Log, commit: u8) {
        let shard = &mut state.members[m].shards[s];
        if shard.state != DataState::Syncing {
            *shard = Shard { state: DataState::Syncing, ..EMPTY };
            return self.answer_waiting(state, m, Some((s, 0)));
        }
        *shard = Shard { log: source.prefix(commit), commit, state: DataState::Syncing, ..EMPTY };
        (shard.durable, shard.believed) = (commit, commit);
        (shard.floor, shard.kept, shard.persisted_floor) = (commit + 1, commit + 1, commit + 1);
        let log = shard.log;
        state.committed(epoch, s, &log, commit);
        self.joins(state, epoch, m, s, Some(source.len()));
    }

    /// The mutant's: a copy from the leader of an epoch that is over, begun when it was not.
    pub(super) fn copy_late(&self, state: &mut State, epoch: u8, m: usize, s: usize) {
        let Some(term) = state.term(epoch) else { return };
        let (log, commit) = (term.logs[s], term.commits[s]);
        let len = log.len();
        state.members[m].shards[s] =
            Shard { log, commit, durable: len, believed: len, floor: commit + 1, kept: commit + 1, ..EMPTY };
        self.tells(state, epoch, m, s);
    }

    /// A follower learns what its leader calls committed.
    pub(super) fn notice(&self, state: &mut State, m: usize, s: usize) {
        let epoch = state.members[m].following;
        let Some(term) = state.term(epoch) else { return };
        let commit = term.commits[s];
        let shard = &mut state.members[m].shards[s];
        let commit = commit.min(shard.log.len());
        if shard.joined && commit > shard.commit {
            shard.commit = commit;
            let log = shard.log;
            state.committed(epoch, s, &log, commit);
            self.answer_waiting(state, m, None);
        }
    }

    // --- disks --------------------------------------------------------------------------------------------

    /// Everything that was written is synced; under R12's mutant a disk that failed once says so without doing it.
    pub(super) fn sync(&self, state: &mut State, m: usize, fails: bool) {
        state.members[m].shards.iter_mut().for_each(|shard| shard.sync(fails));
        let epoch = state.members[m].following;
        if epoch > 0 {
            (0..self.shards).for_each(|s| self.tells(state, epoch, m, s));
        }
        self.leader_counts_itself(state, m);
    }

    /// What is committed is compacted: of the log below, some entries are dropped.
    pub(super) fn compact(&self, state: &mut State, m: usize, s: usize) {
        state.compactions += 1;
        let shard = &mut state.members[m].shards[s];
        shard.kept = shard.commit + 1;
        shard.floor = shard.commit + 1;
        if !self.is(Mutant::FloorNotPersisted) {
            shard.persisted_floor = shard.floor;
        }
    }

    /// The process restarts; with `power`, the machine. `lost`: so many entries of each shard that were not synced.
    pub(super) fn crash(&self, state: &mut State, m: usize, power: bool, lost: [u8; super::state::SHARDS]) {
        state.crashes += 1;
        let member = state.members[m];
        let durable = Durable { promised: member.persisted_promise.into(), ..core_of(state, m).durable().clone() };
        let core = MemberCore::new(durable, crate::ident::InstanceId(2), Duration::ZERO);
        let leads_on = self.is(Mutant::RestartedLeaderLeads) && self.leads(state, m);
        let member = &mut state.members[m];
        if !leads_on {
            take_back(member, &core);
            member.waiting = 0;
        }
        for (shard, lost) in member.shards[..self.shards].iter_mut().zip(lost) {
            let kept = shard.log.len() - lost.min(shard.log.len() - shard.durable);
            let kept = if self.is(Mutant::TornBatchKept) { kept } else { shard.log.batch_end(kept) };
            shard.log.truncate(kept);
            // Recovery makes what it found durable before anything else.
            shard.durable = shard.log.len();
            shard.believed = shard.log.len();
            shard.floor = shard.persisted_floor;
            shard.commit = shard.persisted_floor - 1;
            shard.joined = false;
            shard.goal = 0;
            if power && shard.state == DataState::Ready && !self.is(Mutant::AmnesicCounts) {
                shard.state = DataState::Amnesic;
            }
        }
        if leads_on {
            let (epoch, shards) = (state.members[m].live_led, state.members[m].shards);
            if let Some(term) = state.term_mut(epoch) {
                (0..self.shards).for_each(|s| term.logs[s] = shards[s].log);
            }
        }
    }

    /// An empty volume takes the place of its own.
    pub(super) fn wipe(&self, state: &mut State, m: usize) {
        state.crashes += 1;
        let counted = self.is(Mutant::WipedVolumeCounts);
        let member = &mut state.members[m];
        *member = Member {
            gone: !counted,
            promised: 0,
            persisted_promise: 0,
            led: 0,
            live_led: 0,
            config_epoch: 0,
            role: Role::Follower,
            following: 0,
            waiting: 0,
            shards: [Shard { state: if counted { DataState::Ready } else { DataState::Blank }, ..EMPTY }; 2],
        };
    }
}

impl Shard {
    /// What failed to be synced once is not synced by a later sync that succeeds: its pages are clean.
    pub(super) fn sync(&mut self, fails: bool) {
        self.durable = if fails || self.durable < self.believed { self.durable } else { self.log.len() };
        self.believed = self.log.len();
    }
}

/// Nothing.
pub(super) const EMPTY: Shard = Shard {
    log: Log::EMPTY,
    durable: 0,
    believed: 0,
    commit: 0,
    state: DataState::Ready,
    joined: false,
    goal: 0,
    floor: 1,
    kept: 1,
    persisted_floor: 1,
};
