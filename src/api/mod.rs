//! The custom resources: what a user asks for and what is told back.
//!
//! Owns the types of `ArmdbCluster` (spec, status) and of the internal `ArmdbPartition`, their defaults and
//! bounds, every rule with its CEL form, its Rust form and its one message ([`rules`]), the reading of
//! manifests ([`manifest`]) and the names of everything that is derived from a cluster ([`names`]).
//!
//! Invariants: what the API server refuses, [`validate()`] refuses with the same words, and the other way
//! round; a field, once published, keeps its name and its meaning; integers are signed (`uint32` is no format
//! that Kubernetes knows); enum values are PascalCase.
//!
//! Does not do: I/O, Kubernetes clients, decisions. The operator and `armdb local` both start from here.

#[cfg(test)]
mod cases;
pub mod crd;
pub mod defaults;
pub mod manifest;
pub mod names;
pub mod partition;
mod place;
pub mod quantity;
#[cfg(test)]
mod reference;
pub mod rules;
mod schema;
pub mod spec;
pub mod status;
pub mod validate;

pub use crd::{cluster_crd, crds_yaml, partition_crd};
pub use partition::{ArmdbPartition, ArmdbPartitionSpec, ArmdbPartitionStatus, WriteQuorumRule};
pub use spec::{
    Ack, ArmdbCluster, ArmdbClusterSpec, Bootstrap, Durability, EngineSpec, FailoverPolicy, FailoverSpec, LeaderUpdate,
    LostVolumePolicy, PlacementSpec, ReplicationSpec, RetentionPolicy, SpreadPolicy, StorageSpec, UpdateSpec,
};
pub use status::{
    ArmdbClusterStatus, LagStatus, MemberRole, MemberState, MemberStatus, PartitionState, PartitionStatus, Phase,
    Summary, Transition, TransitionType,
};
pub use validate::{Violation, validate, validate_update};

/// API group of every kind here.
pub const GROUP: &str = "armdb.io";
/// The one version there is.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of a manifest.
pub const API_VERSION: &str = "armdb.io/v1alpha1";
