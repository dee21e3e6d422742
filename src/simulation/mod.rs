//! The product's cores under one seeded scheduler: everything that goes wrong, by chance.
//!
//! ```text
//! plan     what a seed stands for, and what is left out of it     world     the scheduler, the network
//! place    where a member runs: its volume, its machine's clock   volume    the crash disk
//! member   a process over the engine, MemberCore, the log rules   workload  what clients ask for
//! driver   a controller process                                   store     the register's store
//! faults   what goes wrong                                        wire      what travels
//! oracle   what must hold at every moment                         truth     a shard's committed history
//! recorder what clients were told, for the checker
//! run      one seed    search    many    shrink    a failing one made small    coverage    what must have happened
//! ```
//! Decisions and data are the product's own: `Controller`, `MemberCore`, `Quorum`, `reconcile`, leases, terms and cursors,
//! and the whole `Engine` on an in-memory disk that loses what was not synced. What executes them here is as small as
//! it can be and as unkind as it may be. No thread, no clock, no random number but the seed's: one seed is one history.
//! Not here: gRPC, TLS, the client library; real processes have tests of their own.

mod coverage;
mod driver;
mod faults;
mod member;
mod oracle;
mod place;
mod plan;
mod recorder;
mod run;
#[cfg(test)]
mod scenarios;
mod search;
#[cfg(test)]
mod seeds;
mod shrink;
mod store;
mod truth;
mod volume;
mod wire;
mod workload;
mod world;

pub(crate) use coverage::EVENTS;
pub(crate) use plan::{Cut, Plan};
pub(crate) use run::run;
pub(crate) use search::{Search, search};
pub(crate) use shrink::shrink;

use crate::topology::controller::Weakness;

/// A rule left out on purpose: a simulation that does not notice proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
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
    /// All of them.
    pub(crate) const ALL: [Self; 11] = [
        Self::PromiseNotPersisted,
        Self::CommitsOlderEpochs,
        Self::AcknowledgesUnsynced,
        Self::LeaderCountsUnsynced,
        Self::NoDivergenceCheck,
        Self::AssembleWithoutPromise,
        Self::TruncationIsAnAnswer,
        Self::FenceByOneLess,
        Self::LongestLogWins,
        Self::RestartedLeaderIsAQuorum,
        Self::NoLeaseWait,
    ];

    /// As it is called on a command line.
    pub(crate) fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }

    /// What it is to the controllers.
    fn weakness(self) -> Option<Weakness> {
        match self {
            Self::FenceByOneLess => Some(Weakness::FenceByOneLess),
            Self::LongestLogWins => Some(Weakness::LongestLogWins),
            _ => None,
        }
    }
}
