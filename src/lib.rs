//! armdb: a replicated, sharded-bitcask key-value store on local disks.
//!
//! One crate, one binary. Dependencies run downwards only; each floor can be understood
//! without the ones above it (the picture is in `docs/architecture.md`):
//!
//! ```text
//! cli          commands
//! operator     topology's decisions executed over Kubernetes objects
//! local        topology's decisions executed over child processes
//! drive        what those two share: the driver of a partition, its status
//! client       finds the leader, follows redirects, pipelines, retries only what is safe
//! node         one member: engine + replication + services + lifecycle
//! replication  log shipping, acknowledgements, promises, full sync
//! topology     PURE: who leads, who votes, when to change
//! engine       sharded bitcask: segments, index, group commit, recovery, compaction
//! api          the ArmdbCluster type: spec, status, defaults, rules
//! disk         seam: the real disk, and an in-memory crash disk
//! checker      PURE: whether a history of operations is linearizable
//! ident, position   the words every floor shares
//! ```

pub mod api;
pub mod checker;
// Fuzzers do not reach this and the other floors that say so: they were most of what has to be compiled for them.
#[cfg(not(fuzzing))]
pub mod cli;
#[cfg(not(fuzzing))]
pub mod client;
pub mod disk;
#[cfg(not(fuzzing))]
pub mod drive;
pub mod engine;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod ident;
#[cfg(not(fuzzing))]
pub mod local;
#[cfg(test)]
mod model;
pub mod net;
pub mod node;
#[cfg(not(fuzzing))]
pub mod operator;
pub mod position;
pub mod replication;
#[cfg(any(test, feature = "simulation"))]
mod simulation;
pub mod topology;
