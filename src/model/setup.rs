//! How large a world is, what may happen in it, and which rule is left out.

use super::state::Config;
use super::steps::Action;

/// When an entry may be acknowledged, and what a crash takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Every append is durable at once: the disk is not what is looked at.
    Instant,
    /// Acknowledged once synced; a crash takes any part of what was not.
    Fsync,
    /// Acknowledged once written; a crash of the process takes nothing, one of the machine any part of what was not
    /// synced, and leaves the storage amnesic.
    Os,
}

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Mutant {
    /// R1: an epoch is taken without a swap: a second attempt may take the same.
    EpochTakenTwice,
    /// R1: DECIDE is written whatever the register says.
    DecideWithoutSwap,
    /// R2: a promise is answered before it is durable.
    PromiseNotPersisted,
    /// R3: any leader is obeyed and acknowledged, whatever was promised.
    AnyLeaderIsObeyed,
    /// R3: logs are joined by length alone.
    JoinsByLength,
    /// R4: entries of older epochs are committed by counting.
    CommitsOlderEpochs,
    /// R4: the leader counts itself before its own sync.
    LeaderCountsUnsynced,
    /// R5: FENCE is done with one answer fewer than R.
    FenceByOneLess,
    /// R5: the last leader's answer is a read quorum, also after a restart.
    RestartedLeaderIsAQuorum,
    /// R6: an ASSEMBLE goes on after a later promise.
    AssembleWithoutPromise,
    /// R7: TARGET is the longest log, not the one of the latest epoch.
    LongestLogWins,
    /// R8: storage that lost what it had acknowledged is counted.
    AmnesicCounts,
    /// R8: an empty volume under an old name is counted.
    WipedVolumeCounts,
    /// R9: a leader takes its quorum from the register.
    LeaderReadsRegister,
    /// R9: the next voters are decided when only the candidate has everything.
    OnlyCandidateAssembled,
    /// R10: a restarted leader leads on.
    RestartedLeaderLeads,
    /// R11: a copy is taken from the leader of an epoch that is over.
    CopyFromAnOlderLeader,
    /// R12: a failed sync is passed over.
    FailedSyncIgnored,
    /// R14: a floor is persisted after what lies below it is dropped, if at all.
    FloorNotPersisted,
    /// R15: a read shows what is not committed.
    UncommittedIsVisible,
    /// R16: "definitely not" on truncation.
    TruncationIsAnAnswer,
    /// A batch that was torn by a crash is kept as far as it goes.
    TornBatchKept,
}

/// A world.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// Members, newcomers included.
    pub(super) members: usize,
    pub(super) shards: usize,
    /// The first is in force; an attempt may plan for any.
    pub(super) configs: Vec<Config>,
    /// Epochs, the first included.
    pub(super) epochs: u8,
    pub(super) writes: u8,
    /// Writes may be batches of two entries.
    pub(super) batches: bool,
    pub(super) durability: Durability,
    pub(super) crashes: u8,
    pub(super) compactions: u8,
    /// Volumes may be replaced by empty ones; each counts as a crash.
    pub(super) wipes: bool,
    /// R5 (b): the live leader's answer is a read quorum.
    pub(super) leader_only: bool,
    /// Members may promise an epoch without anybody learning it.
    pub(super) lossy: bool,
    /// Followers learn what is committed.
    pub(super) notices: bool,
    /// What has happened when the search begins.
    pub(super) past: Vec<Action>,
    pub(super) mutant: Option<Mutant>,
}

impl Setup {
    /// `n` voters, a majority of whom commits; nothing but elections and writes.
    pub(super) fn of(n: usize, epochs: u8, writes: u8) -> Self {
        Self {
            members: n,
            shards: 1,
            configs: vec![Config::majority(n)],
            epochs,
            writes,
            batches: false,
            durability: Durability::Instant,
            crashes: 0,
            compactions: 0,
            wipes: false,
            leader_only: false,
            lossy: false,
            notices: false,
            past: Vec::new(),
            mutant: None,
        }
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}
