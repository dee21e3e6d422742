//! Role labels: what each pod's should say, by the register.
//!
//! Labels route clients and nothing else; members never read them. Each carries the epoch it was written in: one that
//! says a later epoch than is known here was written by somebody who knows more and is left alone. The old leader's
//! label goes first, so that no two pods are routed to as leaders for longer than it takes to write one label.

use super::facts::PodFacts;
use crate::api::names::label;
use crate::topology::view::{MemberRole, MemberState, MemberView, PartitionView};

/// Labels that shall be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolePatch {
    /// The pod.
    pub pod: String,
    /// As it was read: somebody else's later word wins.
    pub resource_version: String,
    /// `leader`, `follower`, or none.
    pub role: Option<&'static str>,
    /// The epoch to write beside it.
    pub epoch: u64,
}

/// Role labels that are not as the register says, the old leader's first.
pub fn role_patches(view: &PartitionView, pods: &[PodFacts]) -> Vec<RolePatch> {
    // Between leaders nothing is written: the old one may still serve.
    let Some(leader) = &view.leader else { return Vec::new() };
    let mut patches: Vec<_> = pods
        .iter()
        .filter_map(|pod| {
            let member = view.members.iter().find(|member| member.name == pod.name);
            let role = wanted(member, pod.name == *leader, pod);
            let known = pod.role_epoch.unwrap_or(0);
            let differs = pod.role.as_deref() != role;
            let due = known < view.epoch || known == view.epoch && differs;
            // A new epoch under the same roles needs no writing: the label is right already.
            (due && differs).then(|| RolePatch {
                pod: pod.name.clone(),
                resource_version: pod.resource_version.clone(),
                role,
                epoch: view.epoch,
            })
        })
        .collect();
    patches.sort_by_key(|patch| (patch.role == Some(label::LEADER), patch.pod.clone()));
    patches
}

fn wanted(member: Option<&MemberView>, is_leader: bool, pod: &PodFacts) -> Option<&'static str> {
    let member = member?;
    match member.role {
        MemberRole::Leader if is_leader => Some(label::LEADER),
        // It is the leader by the register and was not heard to lead yet, or not any more: routing waits for that,
        // and does not go away for a moment's silence.
        _ if is_leader => match pod.role.as_deref() {
            Some(label::LEADER) => Some(label::LEADER),
            Some(label::FOLLOWER) => Some(label::FOLLOWER),
            _ => None,
        },
        MemberRole::Leader | MemberRole::Follower | MemberRole::Learner => Some(label::FOLLOWER),
        MemberRole::None => None,
    }
}

/// How far behind a follower may be to answer reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadBound {
    /// In bytes.
    pub bytes: u64,
    /// In milliseconds.
    pub millis: u64,
}

/// A label that says whether a pod answers reads, to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPatch {
    /// The pod.
    pub pod: String,
    /// As it was read.
    pub resource_version: String,
    /// What to write.
    pub serves: bool,
}

/// Labels of readers that are not as they should be. Nothing is changed for a follower of which the lag is not known.
pub fn read_patches(view: &PartitionView, pods: &[PodFacts], bound: ReadBound) -> Vec<ReadPatch> {
    pods.iter()
        .filter_map(|pod| {
            let member = view.members.iter().find(|member| member.name == pod.name)?;
            let follows = matches!(member.role, MemberRole::Follower | MemberRole::Learner);
            let serves = match member.state {
                MemberState::InSync | MemberState::CatchingUp if follows && member.lag_known => {
                    // Once in, it stays until it is clearly behind: a figure at the bound would write labels for ever.
                    let slack = if pod.serves_reads { 1 } else { 2 };
                    member.lag_bytes <= bound.bytes / slack && member.lag_ms <= bound.millis / slack
                }
                MemberState::InSync | MemberState::CatchingUp if follows => return None,
                _ => false,
            };
            (serves != pod.serves_reads).then(|| ReadPatch {
                pod: pod.name.clone(),
                resource_version: pod.resource_version.clone(),
                serves,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::view;
    use super::*;

    fn pod(name: &str, role: Option<&str>, epoch: Option<u64>) -> PodFacts {
        PodFacts {
            name: name.into(),
            resource_version: format!("rv-{name}"),
            role: role.map(str::to_owned),
            role_epoch: epoch,
            ..PodFacts::default()
        }
    }

    fn told(patches: &[RolePatch]) -> Vec<(&str, Option<&str>)> {
        patches.iter().map(|patch| (patch.pod.as_str(), patch.role)).collect()
    }

    #[test]
    fn after_a_failover_the_old_leader_is_written_first() {
        let mut now = view(&[1, 2, 3], 3);
        now.epoch = 5;
        now.leader = Some("kv-0-2".into());
        now.members[0].role = MemberRole::Follower;
        now.members[2].role = MemberRole::Leader;
        let pods = [
            pod("kv-0-2", Some("follower"), Some(4)),
            pod("kv-0-0", Some("leader"), Some(4)),
            pod("kv-0-1", Some("follower"), Some(4)),
        ];
        assert_eq!(told(&role_patches(&now, &pods)), [("kv-0-0", Some("follower")), ("kv-0-2", Some("leader"))]);
    }

    #[test]
    fn a_label_of_a_later_epoch_is_left_alone_and_one_of_this_epoch_repaired() {
        let now = view(&[1, 2, 3], 3);
        let later = [pod("kv-0-0", Some("follower"), Some(now.epoch + 1))];
        assert!(role_patches(&now, &later).is_empty());
        let foreign = [pod("kv-0-0", None, Some(now.epoch))];
        assert_eq!(told(&role_patches(&now, &foreign)), [("kv-0-0", Some("leader"))]);
    }

    #[test]
    fn what_is_right_already_is_not_written_again_in_a_new_epoch() {
        let now = view(&[1, 2, 3], 3);
        let pods = [pod("kv-0-0", Some("leader"), Some(1)), pod("kv-0-1", Some("follower"), Some(1))];
        assert!(role_patches(&now, &pods).is_empty());
    }

    #[test]
    fn nobody_is_labelled_leader_before_it_was_heard_to_lead() {
        let mut now = view(&[1, 2, 3], 3);
        now.members[0].role = MemberRole::Follower;
        let pods = [pod("kv-0-0", None, None), pod("kv-0-1", Some("leader"), Some(0))];
        assert_eq!(told(&role_patches(&now, &pods)), [("kv-0-1", Some("follower"))]);
        now.leader = None;
        assert!(role_patches(&now, &pods).is_empty(), "between leaders nothing is written");
    }

    #[test]
    fn followers_leave_the_readers_beyond_the_bound_and_come_back_well_within() {
        let bound = ReadBound { bytes: 1000, millis: 100 };
        let mut now = view(&[1, 2, 3], 3);
        let reads = |now: &PartitionView, serves| {
            let pods = [PodFacts { serves_reads: serves, ..pod("kv-0-1", None, None) }];
            read_patches(now, &pods, bound).first().map(|patch| patch.serves)
        };
        assert_eq!(reads(&now, false), Some(true));
        now.members[1].lag_bytes = 900;
        assert_eq!((reads(&now, true), reads(&now, false)), (None, None), "what is at the bound stays as it is");
        now.members[1].lag_bytes = 1001;
        assert_eq!(reads(&now, true), Some(false));
        now.members[1].lag_known = false;
        assert_eq!(reads(&now, true), None);
        now.members[1].state = MemberState::Unreachable;
        assert_eq!(reads(&now, true), Some(false));
        let leader = [PodFacts { serves_reads: true, ..pod("kv-0-0", None, None) }];
        assert_eq!(read_patches(&now, &leader, bound).len(), 1, "the leader is no follower");
    }
}
