use std::time::Duration;

use super::super::facts::Trouble;
use super::super::rollout::Wait;
use super::super::tests::view;
use super::*;

const SHAPE: Shape = Shape {
    generation: 3,
    replicas: 3,
    partitions: 1,
    paused: false,
    failover: FailoverPolicy::Automatic,
    max_lag_bytes: 1 << 20,
    max_lag_millis: 10_000,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn pod(ordinal: usize) -> PodFacts {
    PodFacts {
        name: format!("kv-0-{ordinal}"),
        node: Some(format!("n{ordinal}")),
        image: "ghcr.io/example/armdb:0.1.0".into(),
        ..PodFacts::default()
    }
}

fn seen() -> PartitionSeen {
    PartitionSeen {
        id: 0,
        picture: Some(PartitionPicture { id: 0, view: view(&[1, 2, 3], 3), clock_zero: at(1000) }),
        pods: (0..3).map(pod).collect(),
        pods_wanted: Some(3),
        rollout: Some(Progress { updated: 3, total: 3, step: Step::Done }),
        rejected: None,
        drift: false,
        storage: Vec::new(),
    }
}

fn observed(partitions: &[PartitionSeen]) -> Observed<'_> {
    Observed {
        shape: SHAPE,
        cluster_id: None,
        selector: "armdb.io/cluster=kv".into(),
        partitions,
        refused: None,
        warnings: &[],
        obstacle: None,
        before: None,
        now: at(2000),
    }
}

fn told_with(
    partitions: &[PartitionSeen],
    before: Option<&ArmdbClusterStatus>,
    change: impl FnOnce(&mut Observed<'_>),
) -> ArmdbClusterStatus {
    let mut observed = Observed { before, ..observed(partitions) };
    change(&mut observed);
    status(&observed)
}

fn told(change: impl FnOnce(&mut PartitionSeen)) -> ArmdbClusterStatus {
    let mut seen = seen();
    change(&mut seen);
    told_with(&[seen], None, |_| {})
}

fn view_of(seen: &mut PartitionSeen) -> &mut view::PartitionView {
    &mut seen.picture.as_mut().expect("a picture").view
}

fn is(status: &ArmdbClusterStatus, kind: &str) -> (String, String) {
    let found = status.conditions.iter().find(|c| c.type_ == kind).unwrap_or_else(|| panic!("no condition {kind}"));
    (found.status.clone(), found.reason.clone())
}

fn says(status: &ArmdbClusterStatus, kind: &str) -> String {
    status.conditions.iter().find(|c| c.type_ == kind).expect("the condition").message.clone()
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}

#[test]
fn a_healthy_cluster_is_healthy_in_every_respect() {
    let status = told(|_| {});
    assert_eq!(status.phase, Some(Phase::Healthy));
    let all: Vec<_> = status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
    let wanted = [
        ("Ready", "True"),
        ("Available", "True"),
        ("Progressing", "False"),
        ("Degraded", "False"),
        ("ReplicationHealthy", "True"),
        ("QuorumSafe", "True"),
        ("FailoverReady", "True"),
        ("RolloutHealthy", "True"),
        ("StorageHealthy", "True"),
        ("Paused", "False"),
        ("ConfigurationWarning", "False"),
    ];
    assert_eq!(all, wanted);
    assert!(status.conditions.iter().all(|c| c.observed_generation == Some(3) && !c.reason.is_empty()));
    let summary = status.summary.expect("a summary");
    assert_eq!((summary.leader.as_str(), summary.ready.as_str(), summary.lag.as_str()), ("kv-0-0", "3/3", "0"));
    assert_eq!(status.version.as_deref(), Some("0.1.0"));
    assert_eq!(status.partitions[0].members[1].node.as_deref(), Some("n1"));
}

#[test]
fn a_register_that_went_back_leaves_nobody_to_take_over_and_says_so_also_where_nobody_leads() {
    let regressed = |state| {
        told(|seen| {
            let view = view_of(seen);
            view.state = state;
            view.conditions.push(view::Condition { kind: "ConfigRegressed", text: "adopt cluster 7".into() });
        })
    };
    let led = regressed(view::PartitionState::Available);
    assert_eq!(is(&led, "Available"), pair("True", "Serving"));
    assert_eq!(is(&led, "FailoverReady"), pair("False", "ConfigRegressed"));
    assert!(says(&led, "FailoverReady").contains("adopt cluster 7"));
    let lost = regressed(view::PartitionState::Electing);
    for kind in ["Available", "Ready"] {
        assert_eq!(is(&lost, kind), pair("False", "ConfigRegressed"), "{kind}");
        assert!(says(&lost, kind).contains("adopt cluster 7"), "{kind}");
    }
}

#[test]
fn a_full_disk_is_told_and_where_the_leader_has_it_puts_are_not_served() {
    let full = |ordinal: usize| {
        told(|seen| {
            let view = view_of(seen);
            view.members[ordinal].disk_full = true;
            let text = format!("the disk of kv-0-{ordinal} is full: 1Mi of 1Gi are available");
            view.conditions.push(view::Condition { kind: "DiskFull", text });
        })
    };
    let follower = full(1);
    assert_eq!(is(&follower, "StorageHealthy"), pair("False", "DiskFull"));
    assert!(says(&follower, "StorageHealthy").contains("kv-0-1"));
    assert_eq!(is(&follower, "Available"), pair("True", "Serving"));
    assert_eq!(is(&follower, "Ready"), pair("True", "AllInSync"));
    assert_eq!(follower.phase, Some(Phase::Degraded));

    let leader = full(0);
    for kind in ["StorageHealthy", "Available", "Ready"] {
        assert_eq!(is(&leader, kind), pair("False", "DiskFull"), "{kind}");
        assert!(says(&leader, kind).contains("kv-0-0"), "{kind}");
    }
    for kind in ["ReplicationHealthy", "FailoverReady"] {
        assert_eq!(is(&leader, kind).0, "True", "{kind}: everything but puts is served");
    }
    assert_eq!(leader.phase, Some(Phase::Degraded));
}

#[test]
fn of_what_is_amiss_with_storage_the_worst_gives_the_reason_and_all_is_told() {
    let kinds = ["Damaged", "DiskFull", "LineageOld", "ForeignStorage", "CopiedStorage", "RolledBack", "Quarantined"];
    for (i, kind) in kinds.into_iter().enumerate() {
        let alone = told(|seen| view_of(seen).conditions.push(view::Condition { kind, text: format!("it is {kind}") }));
        assert_eq!(is(&alone, "StorageHealthy"), pair("False", kind));
        let all = told(|seen| {
            seen.storage.push(("ResizeUnsupported", "it does not grow".into()));
            let conditions = &mut view_of(seen).conditions;
            conditions.extend(kinds[..=i].iter().map(|kind| view::Condition { kind, text: format!("it is {kind}") }));
        });
        let worst = if kind == "DiskFull" { "Damaged" } else { kind };
        assert_eq!(is(&all, "StorageHealthy"), pair("False", worst));
        let text = says(&all, "StorageHealthy");
        assert!(text.contains("it does not grow"), "{text}");
        assert!(kinds[..=i].iter().all(|kind| text.contains(&format!("it is {kind}"))), "{text}");
    }
}

#[test]
fn a_wrong_clock_is_told_beside_what_the_definition_asks_for_in_vain() {
    let warnings = [Warning { reason: "MonitoringIgnored", text: "no monitor".into() }];
    let mut skewed = seen();
    view_of(&mut skewed).conditions.push(view::Condition { kind: "ClockSkew", text: "an hour ahead".into() });
    let partitions = [skewed];
    assert_eq!(is(&status(&observed(&partitions)), "ConfigurationWarning"), pair("True", "ClockSkew"));
    let mut observed = observed(&partitions);
    observed.warnings = &warnings;
    let status = status(&observed);
    assert_eq!(is(&status, "ConfigurationWarning"), pair("True", "ClockSkew"));
    let text = says(&status, "ConfigurationWarning");
    assert!(text.contains("an hour ahead") && text.contains("no monitor"), "{text}");
}

#[test]
fn a_copy_that_a_candidate_waits_for_is_told_with_its_figures() {
    let status = told(|seen| {
        let view = view_of(seen);
        view.state = view::PartitionState::Electing;
        view.leader = None;
        view.change = Some(view::ChangeView {
            reason: "Failover",
            step: "Assembling",
            copying: Some("shard 3: 2 GiB of 5 GiB".into()),
            epoch: 9,
            age: Duration::from_secs(30),
        });
    });
    assert_eq!(is(&status, "Progressing"), pair("True", "FailingOver"));
    let text = says(&status, "Progressing");
    assert!(text.contains("to epoch 9") && text.contains("shard 3: 2 GiB of 5 GiB"), "{text}");
}

#[test]
fn a_leader_without_a_quorum_and_a_lost_register_are_told_apart() {
    let state = |state| told(|seen| view_of(seen).state = state);
    assert_eq!(is(&state(view::PartitionState::LeaderNotServing), "Available"), pair("False", "NoQuorum"));
    assert_eq!(is(&state(view::PartitionState::RegisterLost), "Available"), pair("False", "RegisterLost"));
}

#[test]
fn nothing_moves_while_nothing_changes() {
    let partitions = [seen()];
    let first = told_with(&partitions, None, |_| {});
    let later = told_with(&partitions, Some(&first), |observed| observed.now = at(9000));
    assert_eq!(first, later);
    let json = serde_json::to_value(&first).expect("JSON");
    let read_back: ArmdbClusterStatus = serde_json::from_value(json).expect("a status");
    assert_eq!(read_back, first, "what the API server gives back equals what was written");
}

#[test]
fn a_new_spec_is_not_ready_in_the_status_that_first_speaks_of_it() {
    let mut rolling = seen();
    let wait = Wait { reason: "NotQuorumSafe", text: "no".into(), again: None, stuck: false };
    for step in [Step::Restart { member: "kv-0-2".into(), uid: "u".into(), why: "x".into() }, Step::Wait(wait)] {
        rolling.rollout = Some(Progress { updated: 0, total: 3, step });
        let status = told_with(&[rolling.clone()], None, |observed| observed.shape.generation = 4);
        assert_eq!(status.observed_generation, Some(4));
        assert_eq!(is(&status, "Ready"), pair("False", "RollingOut"));
        assert_eq!(is(&status, "Available"), pair("True", "Serving"));
        assert_eq!(status.phase, Some(Phase::Progressing));
    }
}

#[test]
fn a_member_in_sync_that_shall_vote_and_does_not_yet_is_still_to_come() {
    let learns = |seen: &mut PartitionSeen| view_of(seen).members[2].role = view::MemberRole::Learner;
    let status = told(learns);
    assert_eq!(is(&status, "Ready"), pair("False", "Joining"));
    assert!(says(&status, "Progressing").contains("kv-0-2"));
    assert_eq!(status.phase, Some(Phase::Progressing));
    let mut paused = seen();
    learns(&mut paused);
    let status = told_with(&[paused], None, |observed| observed.shape.paused = true);
    assert_eq!(is(&status, "Ready"), pair("False", "Paused"));
}

#[test]
fn a_lost_leader_is_told_by_what_is_known_of_it() {
    let status = told(|seen| {
        let view = view_of(seen);
        view.state = view::PartitionState::Electing;
        view.leader = None;
        view.quorum_safe = false;
        view.conditions.push(view::Condition { kind: "NoQuorum", text: "1 of 2 voters answer".into() });
    });
    assert_eq!(status.phase, Some(Phase::FailingOver));
    assert_eq!(is(&status, "Available"), pair("False", "FailingOver"));
    assert!(says(&status, "Available").contains("1 of 2 voters answer"));
    assert_eq!(is(&status, "Ready"), pair("False", "FailingOver"));
    assert_eq!(is(&status, "ReplicationHealthy"), pair("Unknown", "NoLeader"));
    assert_eq!(is(&status, "FailoverReady").0, "False");
}

#[test]
fn a_member_that_does_not_start_is_told_with_its_reason() {
    let status = told(|seen| {
        seen.pods[2].trouble = Some(Trouble { reason: "Unschedulable".into(), text: "0/3 nodes are available".into() });
        let view = view_of(seen);
        view.members[2].state = view::MemberState::Unreachable;
        view.members[2].lag_known = false;
        view.quorum_safe = false;
    });
    assert_eq!(status.phase, Some(Phase::Degraded));
    assert_eq!(is(&status, "Ready"), pair("False", "MembersMissing"));
    assert!(says(&status, "Degraded").contains("kv-0-2 is unreachable (Unschedulable: 0/3 nodes are available)"));
    assert_eq!(is(&status, "QuorumSafe"), pair("False", "NoneMayBeLost"));
    assert_eq!(status.summary.expect("a summary").ready, "2/3");
}

#[test]
fn a_lag_that_is_not_known_stays_as_it_was_and_is_marked() {
    let mut behind = seen();
    view_of(&mut behind).members[1].lag_bytes = 5000;
    let before = told_with(&[behind.clone()], None, |_| {});
    assert_eq!(before.partitions[0].members[1].lag_bytes, 8192, "rounded up");
    let view = view_of(&mut behind);
    view.members[1].lag_known = false;
    view.members[1].lag_bytes = 0;
    view.members[1].state = view::MemberState::Unreachable;
    let after = told_with(&[behind], Some(&before), |_| {});
    let member = &after.partitions[0].members[1];
    assert_eq!((member.lag_bytes, member.stale), (8192, true));
    assert_eq!(after.summary.expect("a summary").lag, "8Ki (stale)");
}

#[test]
fn a_follower_beyond_the_bound_is_told_since_when() {
    let mut behind = seen();
    view_of(&mut behind).members[1].lag_bytes = 3 << 20;
    let first = told_with(&[behind.clone()], None, |_| {});
    assert_eq!(is(&first, "ReplicationHealthy"), pair("False", "Behind"));
    let since = first.lag.clone().expect("lag").since;
    assert_eq!(since, Some(Time(at(2000))));
    let later = told_with(&[behind], Some(&first), |observed| observed.now = at(3000));
    assert_eq!(later.lag.expect("lag").since, since);
    assert_eq!(told(|_| {}).lag.expect("lag").since, None);
}

#[test]
fn figures_alone_are_no_news_and_everything_else_is() {
    let before = told(|_| {});
    let more_lag = told(|seen| view_of(seen).members[1].lag_bytes = 500_000);
    assert_ne!(before, more_lag);
    assert!(!is_news(Some(&before), &more_lag));
    assert!(is_news(Some(&before), &told(|seen| view_of(seen).epoch = 5)));
    assert!(is_news(Some(&before), &told(|seen| view_of(seen).members[1].state = view::MemberState::CatchingUp)));
    assert!(is_news(None, &before));
}

#[test]
fn a_spec_that_is_refused_leaves_the_rest_of_the_status_true() {
    let status = told_with(&[seen()], None, |observed| observed.refused = Some("spec.image: pin it".into()));
    assert_eq!(is(&status, "ConfigurationWarning"), pair("True", "Refused"));
    assert!(says(&status, "ConfigurationWarning").contains("spec.image: pin it"));
    assert_eq!(is(&status, "Ready"), pair("False", "ConfigurationRefused"));
    assert_eq!(is(&status, "Available"), pair("True", "Serving"));
}

#[test]
fn a_rollout_that_was_taken_back_is_unhealthy_and_says_how_to_go_on() {
    let status = told(|seen| seen.rejected = Some("v1:bad".into()));
    assert_eq!(is(&status, "RolloutHealthy"), pair("False", "TakenBack"));
    assert!(says(&status, "RolloutHealthy").contains("armdb.io/retry-rollout"));
    assert_eq!(is(&status, "Ready"), pair("False", "RolloutFailed"));
    assert_eq!(status.phase, Some(Phase::Degraded));
}

#[test]
fn a_paused_cluster_is_not_ready_while_something_is_left_undone() {
    let rest = told_with(&[seen()], None, |observed| observed.shape.paused = true);
    assert_eq!(
        (is(&rest, "Ready").0, is(&rest, "Paused").0, rest.phase),
        ("True".into(), "True".into(), Some(Phase::Paused))
    );
    let mut rolling = seen();
    let wait = Wait { reason: "Paused", text: "paused".into(), again: None, stuck: false };
    rolling.rollout = Some(Progress { updated: 1, total: 3, step: Step::Wait(wait) });
    let pending = told_with(&[rolling], None, |observed| observed.shape.paused = true);
    assert_eq!(is(&pending, "Ready"), pair("False", "Paused"));
}

#[test]
fn before_anything_is_heard_nothing_is_claimed() {
    let status = told(|seen| seen.picture = None);
    assert_eq!(status.phase, Some(Phase::Pending));
    assert_eq!(is(&status, "Available"), pair("Unknown", "NotObserved"));
    assert_eq!(is(&status, "Ready"), pair("Unknown", "NotObserved"));
    let empty = told_with(&[], None, |_| {});
    assert_eq!(is(&empty, "Available"), pair("False", "Bootstrapping"));
}

#[test]
fn sixteen_partitions_are_told_in_full_and_more_only_where_something_is_amiss() {
    let many = |count: i32| {
        let partitions: Vec<_> = (0..count)
            .map(|id| {
                let mut seen = seen();
                seen.id = id;
                seen.picture.as_mut().expect("a picture").id = u32::try_from(id).expect("small");
                if id == 1 {
                    view_of(&mut seen).members[2].state = view::MemberState::CatchingUp;
                }
                seen
            })
            .collect();
        told_with(&partitions, None, |observed| observed.shape.partitions = count)
    };
    let listed = |status: &ArmdbClusterStatus| status.partitions.iter().map(|p| p.members.len()).sum::<usize>();
    assert_eq!(listed(&many(16)), 48);
    let seventeen = many(17);
    assert_eq!(listed(&seventeen), 1);
    assert_eq!(seventeen.summary.expect("a summary").leader, "17/17");
}

#[test]
fn transitions_are_kept_across_replicas_of_the_operator_and_told_once() {
    let mut moved = seen();
    view_of(&mut moved).transitions.push(view::Transition {
        kind: "Failover",
        from: Some("kv-0-1".into()),
        to: "kv-0-0".into(),
        epoch: 4,
        duration: std::time::Duration::from_millis(840),
        reason: "the process of kv-0-1 is gone".into(),
        at: std::time::Duration::from_millis(1500),
        settled: true,
    });
    let first = told_with(&[moved.clone()], None, |_| {});
    assert_eq!((first.recent_transitions.len(), first.recent_transitions[0].duration_millis), (1, 840));
    let again = told_with(&[moved], Some(&first), |_| {});
    assert_eq!(again.recent_transitions, first.recent_transitions);
    let other_replica = told_with(&[seen()], Some(&first), |_| {});
    assert_eq!(other_replica.recent_transitions, first.recent_transitions);
}

#[test]
fn a_change_of_leader_that_another_replica_made_is_told_too() {
    let before = told(|_| {});
    let mut moved = seen();
    let view = view_of(&mut moved);
    (view.epoch, view.leader) = (5, Some("kv-0-1".into()));
    let after = told_with(&[moved.clone()], Some(&before), |_| {});
    let transition = after.recent_transitions.first().expect("a transition");
    assert_eq!(
        (transition.from.as_deref(), transition.to.as_deref(), transition.epoch),
        (Some("kv-0-0"), Some("kv-0-1"), 5)
    );
    let later = told_with(&[moved], Some(&after), |observed| observed.now = at(5000));
    assert_eq!(later.recent_transitions, after.recent_transitions);
}

#[test]
fn the_lowest_version_is_told_while_members_differ() {
    let status = told(|seen| {
        seen.pods[0].image = "r:5000/armdb:0.10.0".into();
        seen.pods[1].image = "r:5000/armdb:0.9.1@sha256:ab".into();
        seen.pods[2].image = "r:5000/armdb".into();
    });
    assert_eq!(status.version.as_deref(), Some("0.9.1"));
}

#[test]
fn a_scale_up_is_progress_until_the_new_members_are_in_sync() {
    let status = told_with(&[seen()], None, |observed| observed.shape.replicas = 5);
    assert_eq!(is(&status, "Progressing"), pair("True", "Scaling"));
    assert_eq!(is(&status, "Ready").0, "False");
    assert_eq!(status.summary.expect("a summary").ready, "3/5");
}
