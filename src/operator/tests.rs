//! What the tests of this floor share: pictures of partitions, an API server in memory; and the tests that need it.

mod applying;
mod electing;
mod fake_api;
mod looking_after;
mod registers;

use crate::ident::{ClusterId, Sid};
use crate::topology::register::{FORMAT_VERSION, MemberAddress, Phase, Register};
use crate::topology::view::{MemberRole, MemberState, MemberView, PartitionState, PartitionView};

/// A healthy partition of `members` members `kv-0-<n>` with storage n + 1; the first leads epoch 4, `voters` vote.
pub(super) fn view(voters: &[u128], members: u32) -> PartitionView {
    PartitionView {
        cluster_id: Some(ClusterId(7)),
        lineage: 0,
        epoch: 4,
        state: PartitionState::Available,
        leader: Some("kv-0-0".into()),
        leader_client_address: None,
        voters: voters.iter().copied().map(Sid).collect(),
        write_quorum: 2,
        min_voters: 2,
        quorum_safe: voters.len() > 2,
        change: None,
        members: (0..members)
            .map(|ordinal| {
                let sid = Sid(u128::from(ordinal) + 1);
                let voter = voters.contains(&sid.0);
                MemberView {
                    name: format!("kv-0-{ordinal}"),
                    ordinal,
                    sid: Some(sid),
                    role: match ordinal {
                        0 => MemberRole::Leader,
                        _ if voter => MemberRole::Follower,
                        _ => MemberRole::Learner,
                    },
                    state: MemberState::InSync,
                    voter,
                    epoch: 4,
                    tail: 100,
                    commit: 100,
                    lag_known: true,
                    lag_entries: 0,
                    lag_bytes: 0,
                    lag_ms: 0,
                    disk_full: false,
                    silence: None,
                }
            })
            .collect(),
        transitions: Vec::new(),
        conditions: Vec::new(),
        last_request: None,
    }
}

/// The register of such a partition: storage n is `kv-0-<n - 1>`.
pub(super) fn register(voters: &[u128]) -> Register {
    let address = |voter: &u128| MemberAddress { name: format!("kv-0-{}", voter - 1), ..MemberAddress::default() };
    Register {
        format_version: FORMAT_VERSION,
        cluster_id: ClusterId(7),
        lineage: 0,
        epoch: 4,
        phase: Phase::Leading,
        attempt: None,
        leader: Some(Sid(1)),
        last_leading: None,
        voters: voters.iter().copied().map(Sid).collect(),
        write_quorum: 2,
        min_voters: 2,
        learners: Vec::new(),
        members: voters.iter().map(|voter| (Sid(*voter), address(voter))).collect(),
        initialized: true,
        format_level: 1,
        slot_table_version: 1,
        shard_time_ms: 0,
        last_request: None,
        unknown: Default::default(),
    }
}
