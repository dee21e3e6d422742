//! A member's rules as pure state: promises, fencing, acknowledgements, commit, leases, outcomes.
//!
//! No clock, socket, disk or thread: time is an argument, and what must be durable before an answer is
//! returned to the caller as a step to carry out first. The node executes these over the engine and gRPC, the
//! simulation over a seeded scheduler.
//!
//! ```text
//! member      MemberCore: who this member is, what it promised, whom it follows, whether it leads
//! quorum      Quorum: what W voters hold durably, hence what is committed
//! lease       LeaderLease, LeaseGrant: until when a leader may read without asking
//! reconcile   how a follower's log is joined to the leader's
//! append      what a follower appends, and what it refuses
//! staleness   how old a follower's committed state may be
//! sighting    reconnects, restarts and clones told apart
//! outcome     R16: what may be said of an entry that was appended
//! sync_stall  for how long a disk has synced nothing
//! ```

pub mod append;
pub mod figures;
pub mod lease;
pub mod member;
pub mod outcome;
pub mod quorum;
pub mod reconcile;
pub mod sighting;
pub mod staleness;
pub mod sync_stall;

pub use append::{AppendRefusal, check_append, check_truncate};
pub use figures::Figures;
pub use lease::{HEARTBEAT_INTERVAL, LEASE_DURATION, LeaderLease, LeaseGrant, lease_wait};
pub use member::{
    Durable, FenceStep, FollowStep, Following, InitStep, MemberCore, MetaChange, PromoteStep, RecoverStep, RoleChange,
    Term, is_vacant,
};
pub use outcome::{Outcome, outcome};
pub use quorum::Quorum;
pub use reconcile::{FullReason, LogView, Reconcile, reconcile};
pub use sighting::{Sighting, Sightings};
pub use staleness::Staleness;
pub use sync_stall::SyncStall;
