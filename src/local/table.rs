//! The live table: the status as a person wants to see it, as lines of plain text.

use std::time::Duration;

use crate::api::{ArmdbClusterStatus, quantity};

/// The lines of the table; cut to the terminal by whoever draws them.
pub(crate) fn lines(cluster: &str, status: &ArmdbClusterStatus, up: Duration) -> Vec<String> {
    let mut rows =
        vec![["MEMBER", "PID", "ROLE", "STATE", "EPOCH", "COMMIT", "LAG", "BYTES", "AGE"].map(str::to_owned)];
    for member in status.partitions.iter().flat_map(|partition| &partition.members) {
        let leads = member.role == crate::api::MemberRole::Leader;
        let lag = |text: String| {
            if leads {
                "-".to_owned()
            } else if member.stale {
                format!("{text}?")
            } else {
                text
            }
        };
        rows.push([
            member.name.clone(),
            member.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
            format!("{:?}", member.role),
            format!("{:?}", member.state),
            member.epoch.to_string(),
            member.commit.map_or_else(|| "-".into(), |commit| commit.to_string()),
            lag(member.lag_entries.to_string()),
            lag(quantity::format(u64::try_from(member.lag_bytes).unwrap_or(0))),
            lag(format!("{} ms", member.lag_millis)),
        ]);
    }
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let summary = status.summary.clone().unwrap_or_default();
    let safe = status.partitions.iter().all(|partition| partition.quorum_safe);
    let mut lines = vec![
        String::new(),
        format!(
            "{cluster}  {}  leader {}  ready {}  safe {}  up {}",
            status.phase.map(|phase| format!("{phase:?}")).unwrap_or_default(),
            if summary.leader.is_empty() { "-" } else { &summary.leader },
            summary.ready,
            if safe { "yes" } else { "no" },
            clock(up),
        ),
    ];
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// `1:02:03`, or `2:03` within the first hour.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{MemberRole, MemberState, MemberStatus, PartitionStatus, Phase, Summary};

    #[test]
    fn the_table_has_a_line_a_member_in_columns() {
        let member = |name: &str, role, lag_entries| MemberStatus {
            name: name.into(),
            role,
            state: MemberState::InSync,
            epoch: 3,
            commit: Some(1234),
            lag_entries,
            pid: Some(77),
            ..Default::default()
        };
        let status = ArmdbClusterStatus {
            phase: Some(Phase::Healthy),
            summary: Some(Summary { leader: "kv-0-0".into(), ready: "2/2".into(), lag: "0".into() }),
            partitions: vec![PartitionStatus {
                members: vec![member("kv-0-0", MemberRole::Leader, 0), member("kv-0-1", MemberRole::Follower, 12)],
                quorum_safe: true,
                ..Default::default()
            }],
            ..Default::default()
        };
        let lines = lines("kv", &status, Duration::from_secs(3723));
        assert_eq!(lines[1], "kv  Healthy  leader kv-0-0  ready 2/2  safe yes  up 1:02:03");
        assert_eq!(lines[2], "MEMBER  PID  ROLE      STATE   EPOCH  COMMIT  LAG  BYTES  AGE");
        assert_eq!(lines[3], "kv-0-0  77   Leader    InSync  3      1234    -    -      -");
        assert_eq!(lines[4], "kv-0-1  77   Follower  InSync  3      1234    12   0      0 ms");
    }
}
