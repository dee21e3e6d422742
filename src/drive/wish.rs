//! What an `ArmdbPartition` asks for, in topology's words.

use std::time::Duration;

use crate::api::{ArmdbPartitionSpec, FailoverPolicy, WriteQuorumRule};
use crate::topology::spec::{self, AckRule, PartitionSpec};

/// The wanted shape of a partition.
pub fn partition_wish(spec: &ArmdbPartitionSpec) -> PartitionSpec {
    // The API's integers are signed, its bounds are not negative.
    let unsigned = |value: i32| u32::try_from(value).unwrap_or(0);
    PartitionSpec {
        replicas: unsigned(spec.replicas),
        ack: match spec.write_quorum {
            WriteQuorumRule::Majority => AckRule::Quorum,
            WriteQuorumRule::All => AckRule::All,
        },
        min_voters: unsigned(spec.min_voters),
        failover_policy: match spec.failover_policy {
            FailoverPolicy::Automatic => spec::FailoverPolicy::Automatic,
            FailoverPolicy::Manual => spec::FailoverPolicy::Manual,
        },
        leader_timeout: Duration::from_millis(u64::from(unsigned(spec.leader_timeout_millis))),
        paused: spec.paused,
    }
}
