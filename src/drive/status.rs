//! What a controller's picture of a partition says, in the shape of `ArmdbCluster.status`.
//!
//! Shared by `local` and `operator`: translations only. Conditions, and what is remembered between two statuses, are
//! theirs. A figure that is not known is marked stale, never shown as zero that means "none".

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::status::RECENT_TRANSITIONS;
use crate::api::{
    MemberRole, MemberState, MemberStatus, PartitionState, PartitionStatus, Phase, Transition, TransitionType,
};
use crate::topology::view::{self, PartitionView};

/// Kind of condition, and reason in a status, of a disk that is full.
pub const DISK_FULL: &str = "DiskFull";

/// A partition as its controller sees it.
#[derive(Debug, Clone)]
pub struct PartitionPicture {
    /// Its number.
    pub id: u32,
    /// What its controller sees.
    pub view: PartitionView,
    /// When its controller's clock was zero.
    pub clock_zero: Timestamp,
}

/// One word for the whole.
pub fn phase(pictures: &[PartitionPicture], all_in_sync: bool, paused: bool) -> Phase {
    use view::PartitionState as S;
    let any = |states: &[S]| pictures.iter().any(|picture| states.contains(&picture.view.state));
    if any(&[S::RegisterLost, S::LeaderNotServing]) {
        Phase::Unavailable
    } else if any(&[S::Electing]) {
        Phase::FailingOver
    } else if any(&[S::Bootstrapping]) {
        Phase::Bootstrapping
    } else if any(&[S::Unknown, S::WaitingForMembers]) {
        Phase::Pending
    } else if paused {
        Phase::Paused
    } else if pictures.iter().any(|picture| picture.view.change.is_some()) {
        Phase::Progressing
    } else if any_full(pictures) {
        Phase::Degraded
    } else if all_in_sync {
        Phase::Healthy
    } else if pictures.iter().flat_map(|picture| &picture.view.members).any(|member| {
        matches!(member.state, view::MemberState::CatchingUp | view::MemberState::Syncing | view::MemberState::Blank)
    }) && !pictures
        .iter()
        .flat_map(|picture| &picture.view.members)
        .any(|member| member.state == view::MemberState::Unreachable)
    {
        Phase::Progressing
    } else {
        Phase::Degraded
    }
}

/// Whether a member's disk is full.
fn any_full(pictures: &[PartitionPicture]) -> bool {
    pictures.iter().flat_map(|picture| &picture.view.members).any(|member| member.disk_full)
}

/// Why puts are refused, where a leader's disk is full: the picture's sentence about it.
pub fn puts_refused(picture: &PartitionPicture) -> Option<String> {
    let full = |m: &&view::MemberView| m.disk_full && m.role == view::MemberRole::Leader;
    let leader = &picture.view.members.iter().find(full)?.name;
    let told = picture.view.conditions.iter().filter(|c| c.kind == DISK_FULL).map(|c| c.text.as_str());
    let text = told.filter(|text| text.contains(leader.as_str())).collect::<Vec<_>>().join("; ");
    Some(if text.is_empty() { format!("the disk of {leader} is full") } else { text })
}

/// The leader's name; with more than one partition, how many have one.
pub fn leaders(partitions: &[PartitionStatus]) -> String {
    match partitions {
        [one] => one.leader.clone().unwrap_or_default(),
        many => {
            let led = many.iter().filter(|partition| partition.leader.is_some()).count();
            format!("{led}/{}", many.len())
        }
    }
}

/// The partition and its members.
pub fn partition(picture: &PartitionPicture) -> PartitionStatus {
    let view = &picture.view;
    PartitionStatus {
        id: i32::try_from(picture.id).unwrap_or(i32::MAX),
        epoch: signed(view.epoch),
        leader: view.leader.clone(),
        state: match view.state {
            view::PartitionState::Unknown => PartitionState::Unknown,
            view::PartitionState::WaitingForMembers | view::PartitionState::Bootstrapping => {
                PartitionState::Bootstrapping
            }
            view::PartitionState::RegisterLost => PartitionState::NoLeader,
            view::PartitionState::Available => PartitionState::Available,
            view::PartitionState::LeaderNotServing => PartitionState::NoQuorum,
            view::PartitionState::Electing => PartitionState::Transitioning,
        },
        quorum_safe: view.quorum_safe,
        members: view.members.iter().map(member).collect(),
    }
}

fn member(member: &view::MemberView) -> MemberStatus {
    MemberStatus {
        name: member.name.clone(),
        role: match member.role {
            view::MemberRole::Leader => MemberRole::Leader,
            view::MemberRole::Follower => MemberRole::Follower,
            view::MemberRole::Learner => MemberRole::Learner,
            view::MemberRole::None => MemberRole::Unknown,
        },
        state: match member.state {
            view::MemberState::InSync => MemberState::InSync,
            view::MemberState::CatchingUp | view::MemberState::NotFollowing => MemberState::CatchingUp,
            view::MemberState::Syncing => MemberState::Syncing,
            view::MemberState::Blank => MemberState::Blank,
            view::MemberState::Amnesic => MemberState::Amnesic,
            view::MemberState::Damaged => MemberState::Damaged,
            view::MemberState::Quarantined | view::MemberState::Foreign => MemberState::Quarantined,
            view::MemberState::Unreachable => MemberState::Unreachable,
        },
        node: None,
        sid: member.sid.map(|sid| sid.to_string()),
        epoch: signed(member.epoch),
        lag_bytes: signed(member.lag_bytes),
        lag_entries: signed(member.lag_entries),
        lag_millis: signed(member.lag_ms),
        commit: Some(signed(member.commit)),
        stale: !member.lag_known,
        pid: None,
    }
}

/// The changes of leadership that the controller made, once it is known how long they took.
pub fn transitions(picture: &PartitionPicture) -> impl Iterator<Item = Transition> + '_ {
    picture.view.transitions.iter().filter(|transition| transition.settled).map(|transition| Transition {
        transition_type: match transition.kind {
            "Bootstrap" => TransitionType::Bootstrap,
            "Failover" => TransitionType::Failover,
            "Switchover" | "Drain" => TransitionType::Switchover,
            "Rebuild" | "Adoption" | "Adopt" => TransitionType::Adoption,
            "Recover" => TransitionType::UnsafeRecovery,
            _ => TransitionType::Reconfiguration,
        },
        partition: i32::try_from(picture.id).unwrap_or(i32::MAX),
        from: transition.from.clone(),
        to: Some(transition.to.clone()),
        epoch: signed(transition.epoch),
        duration_millis: i64::try_from(transition.duration.as_millis()).unwrap_or(i64::MAX),
        reason: transition.reason.clone(),
        at: Time(picture.clock_zero + SignedDuration::try_from(transition.at).unwrap_or(SignedDuration::ZERO)),
    })
}

/// The newest first, as many as a status keeps.
pub fn newest(mut transitions: Vec<Transition>) -> Vec<Transition> {
    transitions.sort_by(|a, b| b.at.cmp(&a.at));
    transitions.truncate(RECENT_TRANSITIONS);
    transitions
}

/// Kubernetes has no unsigned integers.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
