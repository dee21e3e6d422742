//! Both sides as one `stateright::Model`, with what must hold of every state.

use stateright::{Model, Property};

use super::life::EMPTY;
use super::log::{Content, Entry, Log};
use super::setup::{Durability, Mutant, Setup};
use super::state::{Broken, Member, Register, SHARDS, Shard, State, Step, Term};
use crate::topology::message::Role;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    Alloc { plan: u8, stale: bool },
    Fence { attempt: usize, member: usize, lost: bool },
    Choose { attempt: usize, want: usize },
    Pull { attempt: usize, member: usize, shard: usize },
    Assembled { attempt: usize, member: usize },
    Decide { attempt: usize },
    Promote { attempt: usize },
    Follow { attempt: Option<usize>, member: usize },
    Deliver { epoch: u8, member: usize, shard: usize },
    Acknowledged { epoch: u8, member: usize, shard: usize },
    Notice { member: usize, shard: usize },
    Write { member: usize, shard: usize, entries: u8 },
    Sync { member: usize, fails: bool },
    Compact { member: usize, shard: usize },
    Crash { member: usize, power: bool, lost: [u8; SHARDS] },
    Wipe { member: usize },
    ReadRegister { member: usize },
    ReadUncommitted { member: usize, shard: usize },
    CopyLate { epoch: u8, member: usize, shard: usize },
}

impl Setup {
    /// Epoch 1 serves: its leader is member 0, and its BARRIERs are committed and known to be.
    pub(super) fn first(&self) -> State {
        let barrier = Entry { epoch: 1, content: Content::Barrier, more: false };
        let log = Log::of(&[barrier]);
        let config = self.configs[0];
        let mut counted = [[0; super::log::CAPACITY]; SHARDS];
        let mut truth = [Log::EMPTY; SHARDS];
        let (mut sent, mut held) = ([[0; SHARDS]; super::state::MEMBERS], [[0; SHARDS]; super::state::MEMBERS]);
        let mut logs = [Log::EMPTY; SHARDS];
        for s in 0..self.shards {
            (truth[s], logs[s], counted[s][0]) = (log, log, 1);
            for m in config.members() {
                (sent[m][s], held[m][s]) = (1, 1);
            }
        }
        let member = |m: usize| {
            let votes = config.voters & 1 << m != 0;
            let shard =
                Shard { log, durable: 1, believed: 1, commit: 1, joined: m != 0, goal: u8::from(m != 0), ..EMPTY };
            let mut shards = [EMPTY; SHARDS];
            shards[..self.shards].fill(shard);
            Member {
                gone: false,
                promised: 1,
                persisted_promise: 1,
                led: u8::from(m == 0),
                live_led: u8::from(m == 0),
                config_epoch: 1,
                role: if m == 0 { Role::Leader } else { Role::Follower },
                following: u8::from(m != 0),
                waiting: 0,
                // A member that does not vote yet has learnt as much as anybody.
                shards: if votes || self.members > m { shards } else { [EMPTY; SHARDS] },
            }
        };
        State {
            register: Register { epoch: 1, attempt: 0, leading: true, last_leading: (1, 0), config: 0 },
            attempts: Vec::new(),
            members: (0..self.members).map(member).collect(),
            terms: vec![Term {
                epoch: 1,
                leader: 0,
                config,
                logs,
                barriers: [1; SHARDS],
                sent,
                held,
                commits: [1; SHARDS],
            }],
            truth,
            counted,
            never: 0,
            seen: [None; SHARDS],
            writes: 0,
            crashes: 0,
            compactions: 0,
            loss_told: false,
            broken: None,
        }
    }

    fn of_attempts(&self, state: &State, actions: &mut Vec<Action>) {
        for (attempt, a) in state.attempts.iter().enumerate() {
            let asked = self.configs[usize::from(a.found)].voters | self.configs[usize::from(a.plan)].voters;
            for member in (0..self.members).filter(|m| asked & 1 << m != 0) {
                let promised = state.members[member].promised;
                let answered = match &a.step {
                    Step::Fencing(answers) => answers.iter().any(|f| usize::from(f.member) == member),
                    Step::Chosen(_) | Step::Decided(_) => true,
                };
                if promised <= a.epoch && !answered {
                    actions.push(Action::Fence { attempt, member, lost: false });
                }
                if self.lossy && promised < a.epoch {
                    actions.push(Action::Fence { attempt, member, lost: true });
                }
            }
            match &a.step {
                Step::Fencing(answers) => {
                    let next = self.configs[usize::from(a.plan)];
                    for f in answers.iter().filter(|f| next.voters & 1 << f.member != 0) {
                        actions.push(Action::Choose { attempt, want: f.member.into() });
                    }
                }
                Step::Chosen(chosen) | Step::Decided(chosen) => {
                    for member in (0..self.members).filter(|m| chosen.assemble & 1 << m != 0) {
                        let behind = |&s: &usize| state.members[member].shards[s].log != chosen.targets[s];
                        for shard in (0..self.shards).filter(behind) {
                            actions.push(Action::Pull { attempt, member, shard });
                        }
                        if matches!(a.step, Step::Chosen(_)) && chosen.done & 1 << member == 0 {
                            actions.push(Action::Assembled { attempt, member });
                        }
                    }
                    if matches!(a.step, Step::Chosen(_)) {
                        actions.push(Action::Decide { attempt });
                    } else {
                        if state.term(a.epoch).is_none_or(|term| term.leader != chosen.leader) {
                            actions.push(Action::Promote { attempt });
                        }
                        self.of_follow(state, Some(attempt), a.epoch, chosen.leader.into(), actions);
                    }
                }
            }
        }
        self.of_follow(state, None, 1, 0, actions);
    }

    fn of_follow(&self, state: &State, attempt: Option<usize>, epoch: u8, leader: usize, actions: &mut Vec<Action>) {
        for (member, m) in state.members.iter().enumerate() {
            if member != leader && m.promised <= epoch && m.following != epoch && m.live_led != epoch {
                actions.push(Action::Follow { attempt, member });
            }
        }
    }

    fn of_members(&self, state: &State, actions: &mut Vec<Action>) {
        for (member, m) in state.members.iter().enumerate() {
            for shard in 0..self.shards {
                if m.following > 0 && !self.is(Mutant::AnyLeaderIsObeyed) {
                    actions.push(Action::Deliver { epoch: m.following, member, shard });
                }
                if m.following > 0 && self.notices {
                    actions.push(Action::Notice { member, shard });
                }
                if state.compactions < self.compactions && m.shards[shard].kept <= m.shards[shard].commit {
                    actions.push(Action::Compact { member, shard });
                }
            }
            if m.role == Role::Leader && !m.gone {
                for shard in 0..self.shards {
                    let left = self.writes - state.writes;
                    if left > 0 {
                        actions.push(Action::Write { member, shard, entries: 1 });
                    }
                    if left > 1 && self.batches {
                        actions.push(Action::Write { member, shard, entries: 2 });
                    }
                    if self.is(Mutant::UncommittedIsVisible) {
                        actions.push(Action::ReadUncommitted { member, shard });
                    }
                }
                if self.is(Mutant::LeaderReadsRegister) {
                    actions.push(Action::ReadRegister { member });
                }
            }
            self.of_disk(state, member, m, actions);
        }
    }

    fn of_disk(&self, state: &State, member: usize, m: &Member, actions: &mut Vec<Action>) {
        let unsynced = |s: usize| m.shards[s].log.len() - m.shards[s].durable;
        let fsync = self.durability == Durability::Fsync;
        if fsync && m.shards[..self.shards].iter().any(|s| s.believed < s.log.len()) {
            actions.push(Action::Sync { member, fails: false });
            if self.is(Mutant::FailedSyncIgnored) {
                actions.push(Action::Sync { member, fails: true });
            }
        }
        if state.crashes >= self.crashes || m.gone {
            return;
        }
        let loses = fsync || self.durability == Durability::Os;
        let most = |s: usize| if loses && s < self.shards { unsynced(s) } else { 0 };
        if self.durability == Durability::Os {
            actions.push(Action::Crash { member, power: false, lost: [0; SHARDS] });
        }
        for first in 0..=most(0) {
            for second in 0..=most(1) {
                let power = self.durability == Durability::Os;
                actions.push(Action::Crash { member, power, lost: [first, second] });
            }
        }
        if self.wipes {
            actions.push(Action::Wipe { member });
        }
    }

    fn of_streams(&self, state: &State, actions: &mut Vec<Action>) {
        for term in &state.terms {
            let epoch = term.epoch;
            for member in (0..self.members).filter(|&m| m != usize::from(term.leader)) {
                for shard in 0..self.shards {
                    if term.sent[member][shard] > term.held[member][shard]
                        && state.members[usize::from(term.leader)].live_led == epoch
                    {
                        actions.push(Action::Acknowledged { epoch, member, shard });
                    }
                    if self.is(Mutant::AnyLeaderIsObeyed) && state.members[member].role != Role::Leader {
                        actions.push(Action::Deliver { epoch, member, shard });
                    }
                    if self.is(Mutant::CopyFromAnOlderLeader)
                        && epoch < state.members[member].promised
                        && state.members[usize::from(term.leader)].shards[shard].floor > 1
                    {
                        actions.push(Action::CopyLate { epoch, member, shard });
                    }
                }
            }
        }
    }
}

/// What a rule is broken by, as a property that never fails.
const fn never(what: Broken) -> fn(&Setup, &State) -> bool {
    match what {
        Broken::PrefixesDiffer => |_, state| state.broken != Some(Broken::PrefixesDiffer),
        Broken::LeaderLacks => |_, state| state.broken != Some(Broken::LeaderLacks),
        Broken::CommittedTooLate => |_, state| state.broken != Some(Broken::CommittedTooLate),
        Broken::TwoLeaders => |_, state| state.broken != Some(Broken::TwoLeaders),
        Broken::NeverIsCommitted => |_, state| state.broken != Some(Broken::NeverIsCommitted),
        Broken::TornBatch => |_, state| state.broken != Some(Broken::TornBatch),
        Broken::UncommittedSeen => |_, state| state.broken != Some(Broken::UncommittedSeen),
        Broken::Alarm => |_, state| state.broken != Some(Broken::Alarm),
    }
}

impl Model for Setup {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let after = |state: State, action: &Action| {
            self.next_state(&state, *action).unwrap_or_else(|| panic!("{action:?} changes nothing in {state:#?}"))
        };
        vec![self.past.iter().fold(self.first(), after)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() || state.loss_told {
            return;
        }
        if usize::from(self.epochs) > state.attempts.len() + 1 {
            for plan in 0..self.configs.len() as u8 {
                actions.push(Action::Alloc { plan, stale: false });
                if self.is(Mutant::EpochTakenTwice) && !state.attempts.is_empty() {
                    actions.push(Action::Alloc { plan, stale: true });
                }
            }
        }
        self.of_attempts(state, actions);
        self.of_members(state, actions);
        self.of_streams(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let next = &mut state;
        match action {
            Action::Alloc { plan, stale } => self.alloc(next, plan, stale),
            Action::Fence { attempt, member, lost } => self.fence(next, attempt, member, lost),
            Action::Choose { attempt, want } => self.choose(next, attempt, want),
            Action::Pull { attempt, member, shard } => self.pull(next, attempt, member, shard),
            Action::Assembled { attempt, member } => self.assembled(next, attempt, member),
            Action::Decide { attempt } => self.decide(next, attempt),
            Action::Promote { attempt } => self.promote(next, attempt),
            Action::Follow { attempt, member } => self.follow(next, attempt, member),
            Action::Deliver { epoch, member, shard } => self.deliver(next, epoch, member, shard),
            Action::Acknowledged { epoch, member, shard } => self.acknowledged(next, epoch, member, shard),
            Action::Notice { member, shard } => self.notice(next, member, shard),
            Action::Write { member, shard, entries } => self.write(next, member, shard, entries),
            Action::Sync { member, fails } => self.sync(next, member, fails),
            Action::Compact { member, shard } => self.compact(next, member, shard),
            Action::Crash { member, power, lost } => self.crash(next, member, power, lost),
            Action::Wipe { member } => self.wipe(next, member),
            Action::ReadRegister { member } => self.read_register(next, member),
            Action::ReadUncommitted { member, shard } => self.read_uncommitted(next, member, shard),
            Action::CopyLate { epoch, member, shard } => self.copy_late(next, epoch, member, shard),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("committed prefixes agree", never(Broken::PrefixesDiffer)),
            Property::always("who is promoted has all that was committed", never(Broken::LeaderLacks)),
            Property::always("nothing is committed that a later leader lacks", never(Broken::CommittedTooLate)),
            Property::always("an epoch has one leader", never(Broken::TwoLeaders)),
            Property::always("what was called gone is never committed", never(Broken::NeverIsCommitted)),
            Property::always("batches are committed whole", never(Broken::TornBatch)),
            Property::always("reads show what is committed", never(Broken::UncommittedSeen)),
            Property::always("nobody finds its own rules broken", never(Broken::Alarm)),
        ]
    }
}
