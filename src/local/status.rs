//! The cluster's status in the shape of `ArmdbCluster.status`, from the controllers' pictures and the processes.
//!
//! Nothing is decided from it. The one thing remembered here is when each condition last changed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::status::condition;
use crate::api::{ArmdbClusterStatus, LagStatus, MemberRole, MemberState, PartitionStatus, Summary, quantity};
use crate::drive::status::{self, PartitionPicture};
use crate::topology::view;

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
        let mut partitions: Vec<PartitionStatus> = pictures.iter().map(status::partition).collect();
        for member in partitions.iter_mut().flat_map(|partition| &mut partition.members) {
            member.pid = pids.get(&member.name).and_then(|pid| i32::try_from(*pid).ok());
        }
        let members = || partitions.iter().flat_map(|partition| &partition.members);
        let wanted = i32::try_from(pictures.len()).unwrap_or(i32::MAX).saturating_mul(replicas);
        let ready = i32::try_from(members().filter(|member| member.state == MemberState::InSync).count()).unwrap_or(0);
        let followers = || members().filter(|member| member.role != MemberRole::Leader);
        let lag = LagStatus {
            max_bytes: followers().map(|member| member.lag_bytes).max().unwrap_or(0),
            max_entries: followers().map(|member| member.lag_entries).max().unwrap_or(0),
            since: None,
        };
        let recent_transitions = status::newest(pictures.iter().flat_map(status::transitions).collect());
        let conditions = self.conditions(pictures, &partitions, ready == wanted, paused, now);
        ArmdbClusterStatus {
            observed_generation: None,
            phase: Some(status::phase(pictures, ready == wanted, paused)),
            replicas,
            ready_members: ready,
            selector: None,
            version: Some(env!("CARGO_PKG_VERSION").into()),
            cluster_id: pictures.iter().find_map(|picture| picture.view.cluster_id).map(|id| id.to_string()),
            summary: Some(Summary {
                leader: status::leaders(&partitions),
                ready: format!("{ready}/{wanted}"),
                lag: quantity::format(u64::try_from(lag.max_bytes).unwrap_or(0)),
            }),
            lag: Some(lag),
            partitions,
            recent_transitions,
            last_request: None,
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
        let refused = pictures.iter().find_map(status::puts_refused);
        let full = told.iter().filter(|condition| condition.kind == status::DISK_FULL);
        let full = full.map(|condition| condition.text.as_str()).collect::<Vec<_>>().join("; ");
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
        match &refused {
            Some(text) if available => {
                add(condition::READY, false, status::DISK_FULL, text.clone());
                add(condition::AVAILABLE, false, status::DISK_FULL, text.clone());
            }
            _ => {
                add(condition::READY, ready, either(ready, "AllInSync", "NotReady"), absent.clone());
                add(condition::AVAILABLE, available, either(available, "Serving", "NoLeader"), why.clone());
            }
        }
        let progressing = changing || !all_in_sync && available;
        add(
            condition::PROGRESSING,
            progressing,
            either(changing, "Transition", either(progressing, "Sync", "Idle")),
            pictures
                .iter()
                .filter_map(|p| p.view.change.as_ref())
                .map(|change| change.text())
                .collect::<Vec<_>>()
                .join("; "),
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
            unsound.is_none() && full.is_empty(),
            match (unsound, full.is_empty()) {
                (Some(_), _) => "Unsound",
                (None, false) => status::DISK_FULL,
                (None, true) => "Sound",
            },
            unsound.map_or(full, |member| {
                let storage = |kind| {
                    matches!(
                        kind,
                        "Quarantined" | "Damaged" | "RolledBack" | "LineageOld" | "ForeignStorage" | "CopiedStorage"
                    )
                };
                let why = told.iter().filter(|c| storage(c.kind)).map(|c| c.text.as_str()).collect::<Vec<_>>();
                let is = format!("{} is {:?}", member.name, member.state);
                if why.is_empty() { is } else { format!("{is}: {}", why.join("; ")) }
            }),
        );
        add(condition::PAUSED, paused, either(paused, "Asked", "Running"), String::new());
        conditions
    }
}
