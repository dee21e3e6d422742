//! The cluster's status in the shape of `ArmdbCluster.status`, from the controllers' pictures and the processes.
//!
//! Nothing is decided from it. The one thing remembered here is when each condition last changed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::status::condition;
use crate::api::{
    ArmdbClusterStatus, LagStatus, MemberRole, MemberState, MemberStatus, PartitionState, PartitionStatus, Phase,
    Summary, Transition, TransitionType, quantity,
};
use crate::topology::view::{self, PartitionView};

/// What a status is made from, for one partition.
#[derive(Debug)]
pub struct PartitionPicture {
    /// Its number.
    pub id: u32,
    /// What its controller sees.
    pub view: PartitionView,
    /// When its controller's clock was zero.
    pub clock_zero: Timestamp,
}

/// Builds statuses and remembers when conditions changed.
#[derive(Debug, Default)]
pub struct StatusBuilder {
    since: BTreeMap<&'static str, (&'static str, Timestamp)>,
}

impl StatusBuilder {
    /// The status now. `replicas` is per partition; `pids` are those of running members by name.
    pub fn build(
        &mut self,
        pictures: &[PartitionPicture],
        replicas: i32,
        paused: bool,
        pids: &BTreeMap<String, u32>,
        now: Timestamp,
    ) -> ArmdbClusterStatus {
        let partitions: Vec<PartitionStatus> = pictures.iter().map(|picture| partition(picture, pids)).collect();
        let members = || partitions.iter().flat_map(|partition| &partition.members);
        let wanted = i32::try_from(pictures.len()).unwrap_or(i32::MAX).saturating_mul(replicas);
        let ready = i32::try_from(members().filter(|member| member.state == MemberState::InSync).count()).unwrap_or(0);
        let followers = || members().filter(|member| member.role != MemberRole::Leader);
        let lag = LagStatus {
            max_bytes: followers().map(|member| member.lag_bytes).max().unwrap_or(0),
            max_entries: followers().map(|member| member.lag_entries).max().unwrap_or(0),
            since: None,
        };
        let led = partitions.iter().filter(|partition| partition.leader.is_some()).count();
        let leader = match &partitions[..] {
            [one] => one.leader.clone().unwrap_or_default(),
            many => format!("{led}/{}", many.len()),
        };
        let mut recent_transitions: Vec<Transition> = pictures.iter().flat_map(transitions).collect();
        recent_transitions.sort_by(|a, b| b.at.cmp(&a.at));
        recent_transitions.truncate(crate::api::status::RECENT_TRANSITIONS);
        let conditions = self.conditions(pictures, &partitions, ready == wanted, paused, now);
        ArmdbClusterStatus {
            observed_generation: None,
            phase: Some(phase(pictures, ready == wanted, paused)),
            replicas,
            ready_members: ready,
            selector: None,
            version: Some(env!("CARGO_PKG_VERSION").into()),
            cluster_id: pictures.iter().find_map(|picture| picture.view.cluster_id).map(|id| id.to_string()),
            summary: Some(Summary {
                leader,
                ready: format!("{ready}/{wanted}"),
                lag: quantity::format(u64::try_from(lag.max_bytes).unwrap_or(0)),
            }),
            lag: Some(lag),
            partitions,
            recent_transitions,
            conditions,
        }
    }

    fn conditions(
        &mut self,
        pictures: &[PartitionPicture],
        partitions: &[PartitionStatus],
        all_in_sync: bool,
        paused: bool,
        now: Timestamp,
    ) -> Vec<Condition> {
        let available = pictures.iter().all(|picture| picture.view.state == view::PartitionState::Available);
        let changing = pictures.iter().any(|picture| picture.view.change.is_some());
        let safe = partitions.iter().all(|partition| partition.quorum_safe);
        let unsound = partitions.iter().flat_map(|partition| &partition.members).find(|member| {
            matches!(member.state, MemberState::Quarantined | MemberState::Damaged | MemberState::Amnesic)
        });
        let absent = partitions
            .iter()
            .flat_map(|partition| &partition.members)
            .filter(|member| member.state != MemberState::InSync)
            .map(|member| format!("{} is {:?}", member.name, member.state))
            .collect::<Vec<_>>()
            .join(", ");
        let told: Vec<_> = pictures.iter().flat_map(|picture| &picture.view.conditions).collect();
        let why = told.iter().map(|condition| condition.text.as_str()).collect::<Vec<_>>().join("; ");
        let failover_ready = available && safe;
        let mut conditions = Vec::new();
        let mut add = |kind: &'static str, is: bool, reason: &str, message: String| {
            let status = if is { "True" } else { "False" };
            let since = self.since.entry(kind).or_insert((status, now));
            if since.0 != status {
                *since = (status, now);
            }
            conditions.push(Condition {
                type_: kind.into(),
                status: status.into(),
                reason: reason.into(),
                message,
                last_transition_time: Time(since.1),
                observed_generation: None,
            });
        };
        let either = |is: bool, yes: &'static str, no: &'static str| if is { yes } else { no };
        let ready = available && all_in_sync && !changing;
        add(condition::READY, ready, either(ready, "AllInSync", "NotReady"), absent.clone());
        add(condition::AVAILABLE, available, either(available, "Serving", "NoLeader"), why.clone());
        let progressing = changing || !all_in_sync && available;
        add(
            condition::PROGRESSING,
            progressing,
            either(changing, "Transition", either(progressing, "Sync", "Idle")),
            String::new(),
        );
        add(condition::DEGRADED, !all_in_sync, either(all_in_sync, "AllInSync", "MembersMissing"), absent.clone());
        add(condition::REPLICATION_HEALTHY, all_in_sync, either(all_in_sync, "AllInSync", "Behind"), absent);
        add(condition::QUORUM_SAFE, safe, either(safe, "OneMayStop", "NoneMayStop"), String::new());
        add(
            condition::FAILOVER_READY,
            failover_ready,
            either(failover_ready, "CandidateInSync", "NoCandidate"),
            String::new(),
        );
        add(
            condition::STORAGE_HEALTHY,
            unsound.is_none(),
            either(unsound.is_none(), "Sound", "Unsound"),
            unsound.map(|member| format!("{} is {:?}", member.name, member.state)).unwrap_or_default(),
        );
        add(condition::PAUSED, paused, either(paused, "Asked", "Running"), String::new());
        conditions
    }
}

fn phase(pictures: &[PartitionPicture], all_in_sync: bool, paused: bool) -> Phase {
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

fn partition(picture: &PartitionPicture, pids: &BTreeMap<String, u32>) -> PartitionStatus {
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
        members: view.members.iter().map(|m| member(m, pids)).collect(),
    }
}

fn member(member: &view::MemberView, pids: &BTreeMap<String, u32>) -> MemberStatus {
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
        pid: pids.get(&member.name).and_then(|pid| i32::try_from(*pid).ok()),
    }
}

fn transitions(picture: &PartitionPicture) -> impl Iterator<Item = Transition> + '_ {
    picture.view.transitions.iter().map(|transition| Transition {
        transition_type: match transition.kind {
            "Bootstrap" => TransitionType::Bootstrap,
            "Failover" => TransitionType::Failover,
            "Switchover" | "Drain" => TransitionType::Switchover,
            "Rebuild" | "Adoption" | "Adopt" => TransitionType::Adoption,
            _ => TransitionType::Reconfiguration,
        },
        partition: i32::try_from(picture.id).unwrap_or(i32::MAX),
        from: transition.from.clone(),
        to: Some(transition.to.clone()),
        epoch: signed(transition.epoch),
        duration_millis: i64::try_from(transition.duration.as_millis()).unwrap_or(i64::MAX),
        reason: transition.reason.clone(),
        at: Time(
            picture.clock_zero + jiff::SignedDuration::try_from(transition.at).unwrap_or(jiff::SignedDuration::ZERO),
        ),
    })
}

/// Kubernetes has no unsigned integers.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
