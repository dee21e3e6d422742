//! What the model remembers: members, attempts of controllers, the register, and what only an onlooker knows.

use super::log::{Content, Entry, Log};
use crate::topology::message::{DataState, Role};

/// How many members there may be, learners and newcomers included.
pub(super) const MEMBERS: usize = 5;
/// How many shards there may be.
pub(super) const SHARDS: usize = 2;

/// Voters as a set of bits, and W.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Config {
    pub(super) voters: u8,
    pub(super) write_quorum: u8,
}

impl Config {
    pub(super) const fn of(voters: &[usize], write_quorum: u8) -> Self {
        let mut set = 0;
        let mut i = 0;
        while i < voters.len() {
            set |= 1 << voters[i];
            i += 1;
        }
        Self { voters: set, write_quorum }
    }

    /// N voters, W of them a majority.
    pub(super) const fn majority(n: usize) -> Self {
        Self { voters: (1 << n) - 1, write_quorum: n as u8 / 2 + 1 }
    }

    pub(super) fn members(self) -> impl Iterator<Item = usize> {
        (0..MEMBERS).filter(move |m| self.voters & 1 << m != 0)
    }

    /// R.
    pub(super) fn read_quorum(self) -> usize {
        self.voters.count_ones() as usize + 1 - usize::from(self.write_quorum)
    }
}

/// A member's shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shard {
    pub(super) log: Log,
    /// What outlives a loss of power.
    pub(super) durable: u8,
    /// What the member believes to be durable: more, only if a failed sync was passed over (R12).
    pub(super) believed: u8,
    pub(super) commit: u8,
    pub(super) state: DataState,
    /// The log was joined to the followed leader's: acknowledgements mean something.
    pub(super) joined: bool,
    /// Where the leader's log ended at the hello: the data is whole when that is reached.
    pub(super) goal: u8,
    /// First gsn that may be read as log, as the member tells it.
    pub(super) floor: u8,
    /// First gsn of which nothing was dropped.
    pub(super) kept: u8,
    /// The floor that a restart finds.
    pub(super) persisted_floor: u8,
}

/// A member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Member {
    /// Its volume was replaced by an empty one: the sid that votes is nowhere any more.
    pub(super) gone: bool,
    pub(super) promised: u8,
    /// The promise that a restart finds: less, only if it was not persisted (R2).
    pub(super) persisted_promise: u8,
    pub(super) led: u8,
    pub(super) live_led: u8,
    /// Epoch of the newest configuration that is persisted.
    pub(super) config_epoch: u8,
    pub(super) role: Role,
    /// Epoch of the leader it follows; 0: nobody.
    pub(super) following: u8,
    /// Writes that it appended as a leader and of which its clients know nothing yet.
    pub(super) waiting: u16,
    pub(super) shards: [Shard; SHARDS],
}

/// What a member told when it was fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fenced {
    pub(super) member: u8,
    pub(super) live_led: u8,
    pub(super) led: u8,
    pub(super) shards: [FencedShard; SHARDS],
}

/// One shard of that; the log stands for its end, and for what a donor will give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FencedShard {
    pub(super) log: Log,
    pub(super) commit: u8,
    pub(super) state: DataState,
    pub(super) floor: u8,
}

/// How far an attempt has come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Fencing(Vec<Fenced>),
    Chosen(Chosen),
    Decided(Chosen),
}

/// TARGET and CHOOSE.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Chosen {
    pub(super) leader: u8,
    /// Who must have it all, as bits.
    pub(super) assemble: u8,
    pub(super) done: u8,
    pub(super) targets: [Log; SHARDS],
    /// The donors' floors.
    pub(super) floors: [u8; SHARDS],
}

/// A `ChangeEpoch`. Whoever runs it may sleep between any two steps, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    pub(super) epoch: u8,
    /// The configuration and the last leadership that ALLOC found.
    pub(super) found: u8,
    pub(super) last_leading: (u8, u8),
    /// The next configuration.
    pub(super) plan: u8,
    pub(super) step: Step,
}

/// The register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Register {
    pub(super) epoch: u8,
    /// Which attempt allocated the epoch, by number: its nonce.
    pub(super) attempt: u8,
    pub(super) leading: bool,
    /// Epoch and leader of the newest decided leadership.
    pub(super) last_leading: (u8, u8),
    pub(super) config: u8,
}

/// A term of leadership that began: everything its leader ever appended may still be on its way to anybody.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Term {
    pub(super) epoch: u8,
    pub(super) leader: u8,
    /// By which it counts.
    pub(super) config: Config,
    pub(super) logs: [Log; SHARDS],
    /// Where the BARRIERs are.
    pub(super) barriers: [u8; SHARDS],
    /// Acknowledgements sent, per member, and those that have arrived.
    pub(super) sent: [[u8; SHARDS]; MEMBERS],
    pub(super) held: [[u8; SHARDS]; MEMBERS],
    /// What the leader calls committed.
    pub(super) commits: [u8; SHARDS],
}

/// A rule that was found broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Broken {
    /// Two members call different entries committed.
    PrefixesDiffer,
    /// Somebody is promoted without all that earlier epochs committed.
    LeaderLacks,
    /// Something is committed that a later leader lacks.
    CommittedTooLate,
    /// An epoch has two leaders.
    TwoLeaders,
    /// A client was told "definitely not", and it is committed.
    NeverIsCommitted,
    /// Half a batch is committed.
    TornBatch,
    /// A read showed what was never committed.
    UncommittedSeen,
    /// A member or a controller found its own rules broken, and stopped.
    Alarm,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) register: Register,
    pub(super) attempts: Vec<Attempt>,
    pub(super) members: Vec<Member>,
    pub(super) terms: Vec<Term>,
    /// The history that is committed, and the epoch that each entry was counted in.
    pub(super) truth: [Log; SHARDS],
    pub(super) counted: [[u8; super::log::CAPACITY]; SHARDS],
    /// Writes of which a client was told "definitely not".
    pub(super) never: u16,
    /// What a read showed above the commit (R15), per shard.
    pub(super) seen: [Option<(u8, Entry)>; SHARDS],
    pub(super) writes: u8,
    pub(super) crashes: u8,
    pub(super) compactions: u8,
    /// The amnesia rule was used: the controller told that something may be lost, and no promise holds from here.
    pub(super) loss_told: bool,
    pub(super) broken: Option<Broken>,
}

impl State {
    pub(super) fn term(&self, epoch: u8) -> Option<&Term> {
        self.terms.iter().find(|term| term.epoch == epoch)
    }

    pub(super) fn term_mut(&mut self, epoch: u8) -> Option<&mut Term> {
        self.terms.iter_mut().find(|term| term.epoch == epoch)
    }

    pub(super) fn break_rule(&mut self, what: Broken) {
        self.broken.get_or_insert(what);
    }

    /// `log` is committed through `commit`, as was counted or told in `epoch`.
    pub(super) fn committed(&mut self, epoch: u8, shard: usize, log: &Log, commit: u8) {
        let known = self.truth[shard];
        let common = usize::from(commit.min(known.len()));
        if log.len() < commit || log.entries()[..common] != known.entries()[..common] {
            return self.break_rule(Broken::PrefixesDiffer);
        }
        if log.at(commit).is_some_and(|entry| entry.more) {
            self.break_rule(Broken::TornBatch);
        }
        for gsn in known.len() + 1..=commit {
            let entry = log.entries()[usize::from(gsn) - 1];
            self.truth[shard].append(entry);
            self.counted[shard][usize::from(gsn) - 1] = epoch;
            if entry.content == Content::Hole {
                self.break_rule(Broken::PrefixesDiffer);
            }
            if let Content::Write(write) = entry.content
                && self.never & 1 << write != 0
            {
                self.break_rule(Broken::NeverIsCommitted);
            }
            if self.seen[shard].is_some_and(|(seen, other)| seen == gsn && other != entry) {
                self.break_rule(Broken::UncommittedSeen);
            }
            if self.terms.iter().any(|term| term.epoch > epoch && term.logs[shard].at(gsn) != Some(entry)) {
                self.break_rule(Broken::CommittedTooLate);
            }
        }
    }

    /// `log` is what the leader of `epoch` begins with.
    pub(super) fn leads_with(&mut self, epoch: u8, shard: usize, log: &Log) {
        let truth = self.truth[shard];
        // What later epochs committed, the leader of one that is over need not have: it commits nothing any more.
        let counted = &self.counted[shard][..usize::from(truth.len())];
        let want = counted.iter().rposition(|&counted| counted < epoch).map_or(0, |last| last + 1);
        if usize::from(log.len()) < want || log.entries()[..want] != truth.entries()[..want] {
            self.break_rule(Broken::LeaderLacks);
        }
    }
}
