//! What a controller says to a member, and what the member answers.
//!
//! These are the messages of `ChangeEpoch` (ALLOC, FENCE, TARGET, CHOOSE, ASSEMBLE, DECIDE, PROMOTE, FOLLOW)
//! as plain values; `proto/armdb/v1/peer.proto` carries the same fields on the wire. Every request names the
//! cluster and the lineage: a member compares those before it looks at an epoch.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api::quantity;
use crate::ident::{ClusterId, InstanceId, Sid};
use crate::position::{Epoch, Gsn, LogPosition, LogTail};

/// A member's address name: `<cluster>-<partition>-<ordinal>`. Never an identity.
pub type MemberName = String;

/// What every request begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The cluster this is said in.
    pub cluster_id: ClusterId,
    /// Raised only by an unsafe recovery; compared before any epoch.
    pub lineage: u64,
    /// The storage the sender believes it talks to; a member with another sid refuses.
    pub to: Sid,
}

/// The state of a shard's data, as a vote sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DataState {
    /// Formatted, never initialised: a positive record, not a guess.
    Blank,
    /// A full sync is under way: old data may be gone.
    Syncing,
    /// Whole.
    Ready,
    /// The page cache was lost under `Os` durability: acknowledged entries may be missing.
    Amnesic,
    /// Unsound; never votes.
    Quarantined,
    /// Rot below the persisted commit; votes, leads only when nobody sound can.
    Damaged,
}

/// One shard, as told in a FENCE reply or a health report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReport {
    /// State of the data.
    pub state: DataState,
    /// End of the log at a batch end, with its chain. Durable in FENCE and ASSEMBLE replies.
    pub tail: LogTail,
    /// Highest gsn known to be committed, of what is here.
    pub commit: Gsn,
    /// Highest gsn that this process ever heard to be committed, here or not.
    pub known_commit: Gsn,
    /// Durable gsn.
    pub durable: Gsn,
    /// First gsn of the contiguous log.
    pub log_floor: Gsn,
    /// No tombstone at or below this gsn is guaranteed to be kept.
    pub tombstone_floor: Gsn,
}

/// The configuration of an epoch as a member persisted it: how a lost register is rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LastConfig {
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// Its voters, sorted.
    pub voters: Vec<Sid>,
    /// W: how many voters must hold an entry before it is committed.
    pub write_quorum: u32,
    /// `ChangeEpoch` never goes below this many voters by itself.
    pub min_voters: u32,
}

/// How far a member's initialisation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum InitState {
    /// Formatted only.
    #[default]
    None,
    /// `Init` was accepted and is being carried out.
    Started,
    /// Done; nothing changes it, ever.
    Done,
}

/// A member's identity and standing promises: in FENCE replies and health reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// None before `Init`.
    pub cluster_id: Option<ClusterId>,
    /// See [`Envelope::lineage`].
    pub lineage: u64,
    /// Identity of the storage.
    pub sid: Sid,
    /// Raised and persisted at every open.
    pub open_count: u64,
    /// This run of the process.
    pub instance: InstanceId,
    /// How far initialisation has come.
    pub init: InitState,
    /// Highest epoch promised; durable.
    pub promised: Epoch,
    /// Highest epoch ever led; durable.
    pub led: Epoch,
    /// The epoch this process instance was promoted in; 0 after a restart.
    pub live_led: Epoch,
    /// Newest persisted configuration.
    pub last_config: Option<LastConfig>,
}

/// Who a member thinks it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Replicates from a leader or waits for one.
    Follower,
    /// Promised an epoch; acknowledges nothing older.
    Fenced,
    /// Pulls missing tails before a promotion.
    Assembling,
    /// Leads `Standing::live_led`.
    Leader,
}

/// Room on the file system of a member's data, in bytes; all zeros: not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRoom {
    /// All of it.
    pub total: u64,
    /// What may still be taken.
    pub available: u64,
    /// What is kept for deletes and the log's own end: below that, puts are refused.
    pub reserve: u64,
}

impl DiskRoom {
    /// Whether puts would find room for a while: a quarter more than what is kept, or not known.
    pub fn is_ample(&self) -> bool {
        self.available >= self.reserve.saturating_add(self.reserve / 4)
    }
}

/// What a member tells every controller, at least every 100 ms and at once on a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// Identity and promises.
    pub standing: Standing,
    /// Present role.
    pub role: Role,
    /// The leader it follows (its sid), if any.
    pub leader: Option<Sid>,
    /// Per shard.
    pub shards: Vec<ShardReport>,
    /// How long ago the leader was last heard; None if it never was, or if this is the leader.
    pub leader_silence: Option<Duration>,
    /// The leader's connection was refused or reset (its process is gone), not merely silent.
    pub leader_gone: bool,
    /// As leader: for how long no write quorum has answered heartbeats. Zero when it can commit.
    pub cannot_commit: Duration,
    /// As leader: per voter and learner, what replication knows.
    pub followers: Vec<FollowerReport>,
    /// SIGTERM arrived or the node is being drained: wants to give leadership away.
    pub draining: bool,
    /// For how long nothing has been synced although something waits.
    pub sync_stall: Duration,
    /// Puts are refused because the disk is full.
    pub disk_full: bool,
    /// How full it is.
    pub disk: DiskRoom,
    /// The follower equals the leader's log at some point since this process started.
    pub caught_up: bool,
    /// BARRIER of the led epoch is committed on every shard: the leader serves.
    pub serving: bool,
    /// What is wrong with its data, and why it is not mended yet; empty: nothing.
    pub trouble: String,
    /// As leader: its wall clock less the voters' median, in milliseconds.
    pub clock_skew_ms: i64,
    /// As follower: for how long the leader has been stuck by its own word, for a cause that is not this member's too.
    pub leader_stall: Duration,
}

impl HealthReport {
    /// If its disk is full: whose, how full, what it does about it, and what a human can do.
    pub fn told_full(&self, name: &str, leads: bool) -> Option<String> {
        let DiskRoom { total, available, reserve } = self.disk;
        let [total, available, reserve] = [total, available, reserve].map(quantity::format);
        let does = if leads { "it refuses puts" } else { "it would refuse puts if it led" };
        self.disk_full.then(|| {
            format!(
                "the disk of {name} is full: {available} of {total} are available, {reserve} are kept for deletes, so \
                 {does}; reads and deletes go on. Delete keys (their room comes back within seconds), free room on its \
                 file system, or give it a larger one"
            )
        })
    }
}

/// A follower as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowerReport {
    /// Identity of the storage.
    pub sid: Sid,
    /// A replication stream is open.
    pub connected: bool,
    /// Ready on every shard and verified to be a prefix of the leader's log.
    pub in_sync: bool,
    /// Entries behind, summed over shards.
    pub lag_entries: u64,
    /// Bytes behind, summed over shards.
    pub lag_bytes: u64,
    /// Age of the oldest entry it has not acknowledged, in milliseconds.
    pub lag_ms: u64,
    /// Durable gsn per shard.
    pub durable: Vec<Gsn>,
    /// Its wall clock less the voters' median, in milliseconds.
    pub clock_skew_ms: i64,
}

/// `Init`: makes a blank member part of a cluster. Refused unless `Envelope::to` is in `voters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitRequest {
    /// The addressee.
    pub envelope: Envelope,
    /// The first configuration; its epoch is 1.
    pub config: LastConfig,
}

/// FENCE: promise `epoch`, stop acknowledging older ones, make everything appended durable, then tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceRequest {
    /// The addressee.
    pub envelope: Envelope,
    /// The epoch to promise.
    pub epoch: Epoch,
    /// Planned move: gate new writes (queued, not appended), let in-flight ones commit for at most this long,
    /// give up the lease, then fence. `None` for a failover.
    pub drain: Option<Duration>,
}

/// The answer to FENCE, valid only if `standing.promised` equals the epoch asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceReply {
    /// Identity and promises, after the promise was made durable.
    pub standing: Standing,
    /// Per shard, durable.
    pub shards: Vec<ShardReport>,
    /// How long this member still honours the lease it granted.
    pub lease_remaining: Duration,
    /// Largest shard time known, unix milliseconds.
    pub shard_time_ms: u64,
    /// Its wall clock, unix milliseconds; 0: not told.
    pub wall_ms: u64,
    /// It drained: its lease is given up and no write is in flight.
    pub drained: bool,
    /// What it heard of what voters hold, itself included.
    pub figures: Vec<VoterFigure>,
}

/// What a voter was known to hold: a later answer below that shows a volume that was rolled back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterFigure {
    /// Identity of the storage.
    pub sid: Sid,
    /// Highest open count it showed.
    pub open_count: u64,
    /// Per shard, the highest gsn that it had acknowledged and that was committed.
    pub held: Vec<Gsn>,
}

/// Where a missing tail can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Donor {
    /// Identity of the donor's storage.
    pub sid: Sid,
    /// Its name.
    pub name: MemberName,
    /// Its peer address, `host:port`.
    pub address: String,
}

/// What a shard must become before a promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardTarget {
    /// The log's end to reach exactly.
    pub tail: LogTail,
    /// Who has it.
    pub donor: Donor,
    /// Nobody else can lead: what is no longer in the donor's log is had by a copy of the whole shard.
    pub copy: bool,
}

/// ASSEMBLE: pull what is missing, cut what conflicts, until every shard is durably at its target. Answered within
/// seconds: with [`Refusal::Copying`] while a shard must be copied whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssembleRequest {
    /// The addressee.
    pub envelope: Envelope,
    /// The promised epoch; checked again for every batch (R6).
    pub epoch: Epoch,
    /// Per shard.
    pub targets: Vec<ShardTarget>,
}

/// The answer to ASSEMBLE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssembleReply {
    /// Identity and promises.
    pub standing: Standing,
    /// Durable ends, per shard.
    pub tails: Vec<LogTail>,
}

/// PROMOTE: lead `config.epoch`. Refused unless promised equals it, it was never led, and the logs are at `targets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoteRequest {
    /// The addressee.
    pub envelope: Envelope,
    /// Epoch, voters, W, minVoters: the only place a leader learns its quorum from (R9).
    pub config: LastConfig,
    /// Ends that the logs must have, per shard.
    pub targets: Vec<LogTail>,
    /// Acknowledge no write and serve no read before this has passed.
    pub lease_wait: Duration,
    /// Where shard time goes on, unix milliseconds: the largest of the FENCE replies and the register, or the median of the
    /// wall clocks.
    pub shard_time_ms: u64,
    /// Followers and learners, where they are: only so that heartbeats can name them.
    pub members: Vec<Donor>,
}

/// FOLLOW: replicate from `leader` in `epoch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowRequest {
    /// The addressee.
    pub envelope: Envelope,
    /// The epoch of that leader.
    pub epoch: Epoch,
    /// Where it is.
    pub leader: Donor,
    /// Its client address, for redirects.
    pub leader_client_address: String,
    /// A blank member joins as a learner of the cluster: it takes the cluster id with this request.
    pub as_learner: bool,
}

/// The end of an unsafe recovery: what this member holds is the truth from now on, in a lineage of its own. Sent only to
/// a voter of a register whose lineage is newer than the member's; the envelope names the member's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverRequest {
    /// The addressee, in the lineage that is given up.
    pub envelope: Envelope,
    /// The new lineage.
    pub lineage: u64,
    /// The first configuration of the new lineage.
    pub config: LastConfig,
}

/// Renames the data of a member of an older lineage aside and formats new storage in its place. The envelope names the
/// member's own lineage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAsideRequest {
    /// The addressee, in the lineage that was given up.
    pub envelope: Envelope,
    /// The lineage in force: refused unless it is newer than the member's.
    pub lineage: u64,
}

/// The answer to `Init`, PROMOTE, FOLLOW, and to what an unsafe recovery asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingReply {
    /// Identity and promises after the request.
    pub standing: Standing,
}

/// Why a member did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Another cluster's volume.
    #[error("this volume belongs to cluster {have}, the request to {want}")]
    WrongCluster {
        /// The member's.
        have: ClusterId,
        /// The request's.
        want: ClusterId,
    },
    /// Another lineage.
    #[error("this volume is of lineage {have}, the request of {want}")]
    WrongLineage {
        /// The member's.
        have: u64,
        /// The request's.
        want: u64,
    },
    /// The address is held by other storage than meant.
    #[error("this storage is {have}, the request is for {want}")]
    WrongSid {
        /// The member's.
        have: Sid,
        /// The request's.
        want: Sid,
    },
    /// It promised a later epoch.
    #[error("epoch {promised} was promised here, the request is of epoch {asked}")]
    Promised {
        /// Standing promise.
        promised: Epoch,
        /// The request's.
        asked: Epoch,
    },
    /// It leads this very epoch already.
    #[error("this member leads epoch {0} already")]
    AlreadyLeading(Epoch),
    /// The request is of a step that is over here: this member led this epoch in an earlier life (an epoch is never
    /// led twice), or follows in it.
    #[error("epoch {0} was led here before or is followed here: this step of it is over")]
    Obsolete(Epoch),
    /// Its logs are not at the targets.
    #[error("shard {shard} ends at {have:?}, the target is {want:?}")]
    NotAtTarget {
        /// The shard.
        shard: u16,
        /// Its end.
        have: LogTail,
        /// The target.
        want: LogTail,
    },
    /// A shard that may not vote.
    #[error("shard {shard} is {state:?}: not valid for this")]
    NotReady {
        /// The shard.
        shard: u16,
        /// Its state.
        state: DataState,
    },
    /// The sid is not among the voters named.
    #[error("{0} is not among the voters named")]
    NotAVoter(Sid),
    /// `Init` on a volume that is initialised otherwise.
    #[error("this volume is initialised already")]
    AlreadyInitialised,
    /// A last common position below what the donor still has as log.
    #[error("shard {shard}: the last common entry {common:?} is below the donor's log floor {floor}")]
    BelowFloor {
        /// The shard.
        shard: u16,
        /// Last position both logs share.
        common: LogPosition,
        /// First gsn the donor has.
        floor: Gsn,
    },
    /// What it lacks is no longer in the donor's log, and a copy of the shard is under way: ask again.
    #[error("shard {shard} is being copied: {staged} of {total} bytes are here")]
    Copying {
        /// The shard.
        shard: u16,
        /// Bytes that are here.
        staged: u64,
        /// All of it; 0: not known yet.
        total: u64,
    },
    /// The donor did not answer, or the disk failed; try again.
    #[error("not done: {0}")]
    Failed(String),
}

/// A request to a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// See [`InitRequest`].
    Init(InitRequest),
    /// See [`FenceRequest`].
    Fence(FenceRequest),
    /// See [`AssembleRequest`].
    Assemble(AssembleRequest),
    /// See [`PromoteRequest`].
    Promote(PromoteRequest),
    /// See [`FollowRequest`].
    Follow(FollowRequest),
    /// See [`RecoverRequest`].
    Recover(RecoverRequest),
    /// See [`SetAsideRequest`].
    SetAside(SetAsideRequest),
}

/// A member's answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To `Init`, PROMOTE, FOLLOW, `Recover`, `SetAside`.
    Done(StandingReply),
    /// To FENCE.
    Fenced(FenceReply),
    /// To ASSEMBLE.
    Assembled(AssembleReply),
    /// Not done, and why; with the standing, so that a higher promise is learnt at once.
    Refused(Refusal, Box<Standing>),
}
