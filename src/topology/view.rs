//! What a controller knows, for a status or a live table. A picture: nothing is decided from it.

use std::time::Duration;

use super::message::MemberName;
use super::register::DoneRequest;
use crate::ident::{ClusterId, Sid};
use crate::position::{Epoch, Gsn};

/// Where the partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionState {
    /// The register was not read yet.
    Unknown,
    /// Nothing is initialised; members are missing.
    WaitingForMembers,
    /// The first epoch is being made.
    Bootstrapping,
    /// The register is gone and the volumes are not blank: waiting for what makes a rebuild safe.
    RegisterLost,
    /// There is a leader, and it serves.
    Available,
    /// There is a leader by the register, and it does not serve (yet).
    LeaderNotServing,
    /// Between leaders.
    Electing,
}

/// What a member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// Leads.
    Leader,
    /// Votes and follows.
    Follower,
    /// Follows without a vote.
    Learner,
    /// Not in the register.
    None,
}

/// How a member's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// It is the leader, or equals a prefix of its log, connected and whole.
    InSync,
    /// Connected to the leader and whole, but far behind or just reconnected.
    CatchingUp,
    /// A full sync is under way.
    Syncing,
    /// Formatted, never initialised.
    Blank,
    /// See `DataState::Amnesic`.
    Amnesic,
    /// In sync but for records that rotted and are had from others.
    Damaged,
    /// Unsound.
    Quarantined,
    /// Another cluster, an older lineage, a clone of another member's storage.
    Foreign,
    /// Answers the controller, does not follow the leader.
    NotFollowing,
    /// Does not answer the controller.
    Unreachable,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its name.
    pub name: MemberName,
    /// Its number in the partition.
    pub ordinal: u32,
    /// Its storage, if it ever answered.
    pub sid: Option<Sid>,
    /// See [`MemberRole`].
    pub role: MemberRole,
    /// See [`MemberState`].
    pub state: MemberState,
    /// Whether its sid is among the voters.
    pub voter: bool,
    /// Highest epoch it promised.
    pub epoch: Epoch,
    /// Last gsn of its log, summed over shards.
    pub tail: Gsn,
    /// Committed gsn, summed over shards.
    pub commit: Gsn,
    /// Whether the lag below is the leader's word of now; otherwise it is not known.
    pub lag_known: bool,
    /// Entries behind the leader.
    pub lag_entries: u64,
    /// Bytes behind the leader.
    pub lag_bytes: u64,
    /// Age of the oldest entry it has not acknowledged, milliseconds.
    pub lag_ms: u64,
    /// Whether it refuses puts because its disk is full, by its word of now.
    pub disk_full: bool,
    /// Time since it was last heard.
    pub silence: Option<Duration>,
}

/// A running `ChangeEpoch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeView {
    /// Why.
    pub reason: &'static str,
    /// The step it is at: `Allocating`, `Fencing`, `Assembling`, `Deciding`, `Promoting`.
    pub step: &'static str,
    /// How far the copies of whole shards are that it waits for, if it does.
    pub copying: Option<String>,
    /// Its epoch, once allocated.
    pub epoch: Epoch,
    /// How long it has been running.
    pub age: Duration,
}

impl ChangeView {
    /// What is going on, in a few words.
    pub fn text(&self) -> String {
        let copies = self.copying.as_ref().map(|copying| format!(", copies {copying}")).unwrap_or_default();
        format!("{} to epoch {}{copies}", self.reason, self.epoch)
    }
}

/// A change that went through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// `Bootstrap`, `Failover`, `Switchover`, `AddVoter`, `RemoveVoter`, `Rebuild`...
    pub kind: &'static str,
    /// The leader before.
    pub from: Option<MemberName>,
    /// The leader after.
    pub to: MemberName,
    /// The new epoch.
    pub epoch: Epoch,
    /// From the suspicion or request to the new leader's word that it serves; to its word that it leads, if another
    /// change came before that.
    pub duration: Duration,
    /// Why, in words.
    pub reason: String,
    /// When, on the controller's clock.
    pub at: Duration,
    /// Whether the duration is final: the leader serves, or another change came first.
    pub settled: bool,
}

/// Something a human should know as long as it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// One word in CamelCase, stable: `AsymmetricPartition`, `ConfigRegressed`, `WaitingForMembers`, ...
    pub kind: &'static str,
    /// The sentence, with the remedy if there is one.
    pub text: String,
}

/// The whole picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionView {
    /// The cluster, once known.
    pub cluster_id: Option<ClusterId>,
    /// See `Register::lineage`.
    pub lineage: u64,
    /// Highest epoch allocated.
    pub epoch: Epoch,
    /// See [`PartitionState`].
    pub state: PartitionState,
    /// The leader by the register, if it is one of the expected members or was once seen.
    pub leader: Option<MemberName>,
    /// The leader's client address.
    pub leader_client_address: Option<String>,
    /// Voters in force.
    pub voters: Vec<Sid>,
    /// W in force.
    pub write_quorum: u32,
    /// minVoters in force.
    pub min_voters: u32,
    /// (in-sync valid voters - 1) >= max(R, minVoters): one member may stop without harm.
    pub quorum_safe: bool,
    /// A running change.
    pub change: Option<ChangeView>,
    /// Members, by ordinal.
    pub members: Vec<MemberView>,
    /// The last ten, newest last.
    pub transitions: Vec<Transition>,
    /// What lasts.
    pub conditions: Vec<Condition>,
    /// The last one-shot request that was carried out.
    pub last_request: Option<DoneRequest>,
}
