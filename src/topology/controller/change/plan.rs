//! What a change is for and shall achieve.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ident::Sid;
use crate::topology::register::Register;

/// What a change is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::topology::controller) enum Kind {
    Bootstrap,
    Failover,
    /// What was left unfinished is finished.
    Resume,
    Switchover,
    Drain,
    AddVoter,
    RemoveVoter,
    ReplaceVoter,
    Reconfigure,
    Rebuild,
    Adopt,
    /// After an unsafe recovery.
    Recover,
}

impl Kind {
    pub(in crate::topology::controller) fn name(self) -> &'static str {
        match self {
            Self::Bootstrap => "Bootstrap",
            Self::Failover => "Failover",
            Self::Resume => "Resume",
            Self::Switchover => "Switchover",
            Self::Drain => "Drain",
            Self::AddVoter => "AddVoter",
            Self::RemoveVoter => "RemoveVoter",
            Self::ReplaceVoter => "ReplaceVoter",
            Self::Reconfigure => "Reconfigure",
            Self::Rebuild => "Rebuild",
            Self::Adopt => "Adopt",
            Self::Recover => "Recover",
        }
    }
}

/// What a change shall achieve.
#[derive(Debug, Clone)]
pub(in crate::topology::controller) struct Plan {
    pub(in crate::topology::controller) kind: Kind,
    pub(in crate::topology::controller) reason: String,
    /// Of the suspicion or request.
    pub(in crate::topology::controller) since: Duration,
    /// V', sorted.
    pub(in crate::topology::controller) voters: Vec<Sid>,
    /// W'.
    pub(in crate::topology::controller) write_quorum: u32,
    /// Shall lead if it can.
    pub(in crate::topology::controller) want: Option<Sid>,
    /// Shall lead only if nobody else can.
    pub(in crate::topology::controller) avoid: Option<Sid>,
    /// Leads on if the one that shall lead cannot.
    pub(in crate::topology::controller) keep: Option<Sid>,
    /// Nobody else may lead.
    pub(in crate::topology::controller) only: Option<Sid>,
    /// Cannot give its entries to others: not a donor if a read quorum answers without it.
    pub(in crate::topology::controller) ignore: Option<Sid>,
    /// A leader that is asked first, to let its in-flight writes commit.
    pub(in crate::topology::controller) drain: Option<Sid>,
    /// Must have answered, besides what R asks for.
    pub(in crate::topology::controller) must_fence: BTreeSet<Sid>,
    /// The switchover request that this carries out.
    pub(in crate::topology::controller) request: Option<String>,
}

impl Plan {
    /// Voters and W stay as they are.
    pub(in crate::topology::controller) fn same_voters(
        kind: Kind,
        reason: String,
        since: Duration,
        register: &Register,
    ) -> Self {
        Self {
            kind,
            reason,
            since,
            voters: register.voters.clone(),
            write_quorum: register.write_quorum,
            want: None,
            avoid: None,
            keep: None,
            only: None,
            ignore: None,
            drain: None,
            must_fence: BTreeSet::new(),
            request: None,
        }
    }
}
