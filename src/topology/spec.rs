//! What a partition shall be, as its owner wrote it: the only wish a controller reads.

use std::time::Duration;

use super::message::MemberName;

/// W as a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckRule {
    /// W = majority of the voters.
    Quorum,
    /// W = all voters.
    All,
}

impl AckRule {
    /// W for `voters` voters.
    pub fn write_quorum(self, voters: usize) -> u32 {
        match self {
            Self::Quorum => voters as u32 / 2 + 1,
            Self::All => voters as u32,
        }
    }
}

/// Whether a dead leader is replaced without being asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailoverPolicy {
    /// Yes.
    Automatic,
    /// Only a switchover request changes the leader.
    Manual,
}

/// The wanted shape of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSpec {
    /// How many voters there shall be.
    pub replicas: u32,
    /// W.
    pub ack: AckRule,
    /// No automatic change goes below this many voters.
    pub min_voters: u32,
    /// See [`FailoverPolicy`].
    pub failover_policy: FailoverPolicy,
    /// Silence of the leader after which it counts as unreachable.
    pub leader_timeout: Duration,
    /// Stops planned moves and changes of membership, never a failover.
    pub paused: bool,
}

impl PartitionSpec {
    /// The defaults for `replicas` members: quorum, automatic, one second.
    pub fn new(replicas: u32) -> Self {
        Self {
            replicas,
            ack: AckRule::Quorum,
            min_voters: Self::default_min_voters(replicas),
            failover_policy: FailoverPolicy::Automatic,
            leader_timeout: Duration::from_secs(1),
            paused: false,
        }
    }

    /// Majority of the replicas; 1 for two replicas, where a majority would make the second member a burden.
    pub fn default_min_voters(replicas: u32) -> u32 {
        if replicas <= 2 { 1 } else { replicas / 2 + 1 }
    }
}

/// A member that shall exist, and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedMember {
    /// Its name.
    pub name: MemberName,
    /// Peer address, `host:port`.
    pub peer_address: String,
    /// Client address, `host:port`.
    pub client_address: String,
    /// Its number in the partition.
    pub ordinal: u32,
}
