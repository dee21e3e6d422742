//! `armdb status`: who leads, how far everybody is.
//!
//! Of a local cluster its supervisor tells; of any other the members themselves, which know less: their own state,
//! and the leader's view of the rest. Both have the shape of `ArmdbCluster.status`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{Format, Global, block_on, endpoints, output, switchover};
use crate::api::status::condition;
use crate::api::{
    ArmdbClusterStatus, LagStatus, MemberRole, MemberState, MemberStatus, PartitionState, PartitionStatus, Phase,
    Summary, quantity,
};
use crate::client::{Description, MemberDescription};
use crate::net::proto::LocalStatusRequest;

/// Print the cluster's leader, members and lag; -o json has the shape of ArmdbCluster.status
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints what is known.
pub fn run(Args {}: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let (name, status, addresses) = block_on(async {
        if let Some((dir, file)) = endpoints::local(global)? {
            match switchover::connect(&dir).await {
                Ok(mut control) => {
                    let answer =
                        switchover::answered("asking for the status", control.status(LocalStatusRequest {})).await?;
                    let status: ArmdbClusterStatus = serde_json::from_str(&answer.status_json)?;
                    let addresses =
                        file.members.iter().map(|m| (m.name.clone(), m.client.to_string())).collect::<BTreeMap<_, _>>();
                    return Ok((file.cluster, status, addresses));
                }
                // Members were named: they can be asked without a supervisor.
                Err(_) if !global.endpoints.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        let client = endpoints::connect(global, Duration::from_secs(5)).await?;
        let answers = client.describe_all().await;
        let addresses = answers
            .iter()
            .filter_map(|(address, answer)| Some((answer.as_ref().ok()?.member.clone(), address.clone())))
            .collect();
        let descriptions: Vec<Description> = answers.into_iter().filter_map(|(_, answer)| answer.ok()).collect();
        let name = descriptions.first().map(|description| description.cluster.clone()).unwrap_or_default();
        Ok((name, assemble(&descriptions), addresses))
    })?;
    match global.output {
        Format::Text => output::write((text(&name, &status, &addresses) + &amiss(&status)).as_bytes())?,
        Format::Json => output::json(&status)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The status for people.
pub(super) fn text(name: &str, status: &ArmdbClusterStatus, addresses: &BTreeMap<String, String>) -> String {
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let summary = status.summary.clone().unwrap_or_default();
    let epochs: Vec<_> = status.partitions.iter().map(|partition| partition.epoch.to_string()).collect();
    let safe = !status.partitions.is_empty() && status.partitions.iter().all(|partition| partition.quorum_safe);
    let mut text = format!(
        "cluster {name}  {}  leader {}  epoch {}  ready {}  safe {}\nid {}\n\n",
        status.phase.map(|phase| format!("{phase:?}")).unwrap_or_default(),
        dash(&summary.leader),
        dash(&epochs.join(",")),
        dash(&summary.ready),
        if safe { "yes" } else { "no" },
        dash(status.cluster_id.as_deref().unwrap_or_default()),
    );
    let members = || status.partitions.iter().flat_map(|partition| &partition.members);
    // What is not known of anybody has no column.
    let (processes, nodes) = (members().any(|m| m.pid.is_some()), members().any(|m| m.node.is_some()));
    let mut heading = vec!["MEMBER", "ROLE", "STATE", "EPOCH", "COMMIT", "LAG", "BYTES", "AGE"];
    heading.extend(processes.then_some("PID"));
    heading.extend(nodes.then_some("NODE"));
    heading.extend((!addresses.is_empty()).then_some("CLIENT"));
    let mut rows = vec![heading.into_iter().map(str::to_owned).collect()];
    for member in members() {
        let lag = |text: String| match member.role {
            MemberRole::Leader => "-".to_owned(),
            _ if member.stale => format!("{text}?"),
            _ => text,
        };
        let known = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let mut row = vec![
            member.name.clone(),
            format!("{:?}", member.role),
            format!("{:?}", member.state),
            member.epoch.to_string(),
            known(member.commit.map(|commit| commit.to_string())),
            lag(member.lag_entries.to_string()),
            lag(quantity::format(u64::try_from(member.lag_bytes).unwrap_or(0))),
            lag(format!("{} ms", member.lag_millis)),
        ];
        row.extend(processes.then(|| known(member.pid.map(|pid| pid.to_string()))));
        row.extend(nodes.then(|| known(member.node.clone())));
        row.extend((!addresses.is_empty()).then(|| known(addresses.get(&member.name).cloned())));
        rows.push(row);
    }
    text.push_str(&output::columns(&rows));
    if !status.recent_transitions.is_empty() {
        text.push('\n');
    }
    for transition in status.recent_transitions.iter().take(5) {
        text.push_str(&format!(
            "{}  {:?}  {} -> {}  epoch {}  {} ms  {}\n",
            transition.at.0,
            transition.transition_type,
            transition.from.as_deref().unwrap_or("-"),
            transition.to.as_deref().unwrap_or("-"),
            transition.epoch,
            transition.duration_millis,
            transition.reason,
        ));
    }
    text
}

/// Conditions that are not as one would like them, with their reasons, for people; nothing if all are.
pub(super) fn amiss(status: &ArmdbClusterStatus) -> String {
    let good_when_false =
        [condition::PROGRESSING, condition::DEGRADED, condition::PAUSED, condition::CONFIGURATION_WARNING];
    let is_amiss = |kind: &str, status: &str| status != if good_when_false.contains(&kind) { "False" } else { "True" };
    let rows: Vec<_> = status
        .conditions
        .iter()
        .filter(|condition| is_amiss(&condition.type_, &condition.status))
        .map(|c| vec![c.type_.clone(), c.status.clone(), c.reason.clone(), c.message.clone()])
        .collect();
    if rows.is_empty() { String::new() } else { format!("\n{}", output::columns(&rows)) }
}

/// The status as the members tell it.
fn assemble(descriptions: &[Description]) -> ArmdbClusterStatus {
    let mut by_partition: BTreeMap<u32, Vec<&Description>> = BTreeMap::new();
    for description in descriptions {
        by_partition.entry(description.partition).or_default().push(description);
    }
    let partitions: Vec<PartitionStatus> =
        by_partition.iter().map(|(id, described)| partition(*id, described)).collect();
    let members = || partitions.iter().flat_map(|partition| &partition.members);
    let wanted = members().count();
    let ready = members().filter(|member| member.state == MemberState::InSync).count();
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
    let full: Vec<&str> = descriptions.iter().filter_map(|d| d.disk_full.as_deref()).collect();
    let refuses = descriptions.iter().find(|d| d.leading && d.disk_full.is_some());
    let whole = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    ArmdbClusterStatus {
        phase: Some(match () {
            () if led < partitions.len() || partitions.is_empty() => Phase::Unavailable,
            () if ready < wanted || !full.is_empty() => Phase::Degraded,
            () => Phase::Healthy,
        }),
        replicas: whole(wanted / partitions.len().max(1)),
        ready_members: whole(ready),
        version: descriptions.first().map(|description| description.version.clone()),
        cluster_id: descriptions.iter().map(|d| d.cluster_id.clone()).find(|id| !id.is_empty()),
        summary: Some(Summary {
            leader,
            ready: format!("{ready}/{wanted}"),
            lag: quantity::format(u64::try_from(lag.max_bytes).unwrap_or(0)),
        }),
        lag: Some(lag),
        partitions,
        conditions: [
            refuses.map(|leader| disk_full(condition::AVAILABLE, leader.disk_full.as_deref().unwrap_or_default())),
            (!full.is_empty()).then(|| disk_full(condition::STORAGE_HEALTHY, &full.join("; "))),
        ]
        .into_iter()
        .flatten()
        .collect(),
        ..Default::default()
    }
}

/// Members tell what is, not since when.
fn disk_full(kind: &str, text: &str) -> Condition {
    Condition {
        type_: kind.into(),
        status: "False".into(),
        reason: crate::drive::status::DISK_FULL.into(),
        message: text.into(),
        last_transition_time: Time(Timestamp::now()),
        observed_generation: None,
    }
}

fn partition(id: u32, described: &[&Description]) -> PartitionStatus {
    let leader = described.iter().filter(|description| description.leading).max_by_key(|description| description.epoch);
    let mut members: BTreeMap<String, MemberStatus> = BTreeMap::new();
    // Each member of itself, then the leader of all: it knows how far behind they are.
    for description in described.iter().copied().filter(|d| !d.leading).chain(leader.copied()) {
        for told in &description.members {
            let mut told = member(told, description.epoch);
            if let Some(own) = members.get(&told.name) {
                told.commit = told.commit.max(own.commit);
                if told.name != description.member {
                    told.epoch = own.epoch;
                }
            }
            members.insert(told.name.clone(), told);
        }
    }
    let members: Vec<MemberStatus> = members.into_values().collect();
    let voters = members.iter().filter(|m| matches!(m.role, MemberRole::Leader | MemberRole::Follower));
    let in_sync = voters.clone().filter(|member| member.state == MemberState::InSync).count();
    PartitionStatus {
        id: i32::try_from(id).unwrap_or(i32::MAX),
        epoch: described.iter().map(|description| signed(description.epoch)).max().unwrap_or(0),
        leader: leader.map(|description| description.member.clone()),
        state: if leader.is_some() { PartitionState::Available } else { PartitionState::NoLeader },
        quorum_safe: leader.is_some() && in_sync > voters.count() / 2 + 1,
        members,
    }
}

fn member(told: &MemberDescription, epoch: u64) -> MemberStatus {
    let named = |text: &str| serde_json::Value::from(text);
    MemberStatus {
        name: told.name.clone(),
        // A newer server may know more words than this program.
        role: serde_json::from_value(named(&told.role)).unwrap_or_default(),
        state: serde_json::from_value(named(&told.state)).unwrap_or_default(),
        sid: Some(told.sid.clone()).filter(|sid| !sid.is_empty()),
        epoch: signed(epoch),
        lag_bytes: signed(told.lag_bytes),
        lag_entries: signed(told.lag_entries),
        lag_millis: signed(told.lag_ms),
        commit: Some(signed(told.commit.iter().sum())),
        ..Default::default()
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_amiss_is_printed() {
        let condition = |kind: &str, status: &str| Condition {
            type_: kind.into(),
            status: status.into(),
            reason: "R".into(),
            message: "m".into(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        };
        let mut status = ArmdbClusterStatus {
            conditions: vec![
                condition("Ready", "True"),
                condition("QuorumSafe", "False"),
                condition("Degraded", "True"),
                condition("Paused", "False"),
                condition("Available", "Unknown"),
            ],
            ..ArmdbClusterStatus::default()
        };
        let told = amiss(&status);
        let kinds: Vec<_> = told.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(kinds, ["QuorumSafe", "Degraded", "Available"], "{told}");
        status.conditions.truncate(1);
        assert_eq!(amiss(&status), "", "a cluster that is well has nothing to add");
    }
}
