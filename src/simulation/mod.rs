//! Topology, the members' rules and the log under one seeded scheduler: everything that goes wrong, by chance.
//!
//! ```text
//! world    the scheduler, the network, clients       member   a process over MemberCore and the log rules
//! driver   a controller process                      log      a shard's log, and what a crash leaves of it
//! store    the register's store                      oracle   what must hold at every moment
//! faults   what goes wrong                           wire     what travels
//! ```
//! The decisions are the product's own: `Controller`, `MemberCore`, `Quorum`, `reconcile`, `check_append`, `outcome`,
//! leases. What executes them here is as small as it can be and as unkind as it may be: messages are lost, late,
//! duplicated and reordered, unsynced entries go with a crash, swaps of the register are done without anybody
//! learning it. One seed is one history. Not modelled: the engine's files, compaction beyond a floor, time to live.

mod driver;
mod faults;
mod log;
mod member;
mod oracle;
mod scenarios;
mod seeds;
mod store;
mod wire;
mod world;

use crate::topology::controller::Weakness;

/// A rule left out on purpose: a simulation that does not notice proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// R2: a promise is answered before it is durable.
    PromiseNotPersisted,
    /// R4: entries of older epochs are committed by counting.
    CommitsOlderEpochs,
    /// R3: what is not durable is acknowledged.
    AcknowledgesUnsynced,
    /// R4: the leader counts itself before its own sync.
    LeaderCountsUnsynced,
    /// R3: logs are joined by length alone.
    NoDivergenceCheck,
    /// R6: an ASSEMBLE goes on after a later promise.
    AssembleWithoutPromise,
    /// R16: "definitely not" on truncation.
    TruncationIsAnAnswer,
    /// R5: FENCE is done with one answer fewer than R.
    FenceByOneLess,
    /// R7: TARGET is the longest log, not the one of the latest epoch.
    LongestLogWins,
    /// R5: the last leader's answer is a read quorum, also after a restart.
    RestartedLeaderIsAQuorum,
    /// A new leader acknowledges while a lease of the one before may last.
    NoLeaseWait,
}

impl Mutant {
    /// What it is to the controllers.
    fn weakness(self) -> Option<Weakness> {
        match self {
            Self::FenceByOneLess => Some(Weakness::FenceByOneLess),
            Self::LongestLogWins => Some(Weakness::LongestLogWins),
            _ => None,
        }
    }
}
