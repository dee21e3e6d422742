//! What a member promises and refuses.

use super::*;
use crate::ident::AttemptId;
use crate::position::LogPosition;

const CLUSTER: ClusterId = ClusterId(42);

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn durable(sid: u128) -> Durable {
    Durable {
        cluster_id: Some(CLUSTER),
        lineage: 0,
        sid: Sid(sid),
        open_count: 1,
        init: InitState::Done,
        promised: 1,
        led: 0,
        last_config: None,
    }
}

fn member(sid: u128) -> MemberCore {
    let _ = AttemptId(0);
    MemberCore::new(durable(sid), InstanceId(sid), ms(0))
}

fn envelope(to: u128) -> Envelope {
    Envelope { cluster_id: CLUSTER, lineage: 0, to: Sid(to) }
}

fn fence_request(to: u128, epoch: Epoch) -> FenceRequest {
    FenceRequest { envelope: envelope(to), epoch, drain: None }
}

fn shard(epoch: Epoch, gsn: u64) -> ShardReport {
    let tail = LogTail { last: LogPosition::new(epoch, gsn), chain: 1 };
    ShardReport {
        state: DataState::Ready,
        tail,
        commit: gsn,
        known_commit: gsn,
        durable: gsn,
        log_floor: 1,
        tombstone_floor: 0,
    }
}

fn config(epoch: Epoch) -> LastConfig {
    LastConfig { epoch, voters: vec![Sid(1), Sid(2), Sid(3)], write_quorum: 2, min_voters: 2 }
}

fn fence(m: &mut MemberCore, epoch: Epoch, now: Duration) -> Result<FenceReply, Refusal> {
    let step = m.begin_fence(&fence_request(m.sid().0, epoch))?;
    m.finish_fence(&step, vec![shard(1, 5)], 0, 0, false, now)
}

fn promote_request(to: u128, epoch: Epoch, wait: Duration) -> PromoteRequest {
    PromoteRequest {
        envelope: envelope(to),
        config: config(epoch),
        targets: vec![shard(1, 5).tail],
        lease_wait: wait,
        shard_time_ms: 0,
        members: vec![],
    }
}

fn promote(m: &mut MemberCore, epoch: Epoch, wait: Duration, now: Duration) -> Result<Standing, Refusal> {
    let step = m.begin_promote(&promote_request(m.sid().0, epoch, wait), &[shard(1, 5)])?;
    m.finish_promote(step, now)
}

fn follow_request(to: u128, epoch: Epoch, leader: u128, as_learner: bool) -> FollowRequest {
    let leader = Donor { sid: Sid(leader), name: "l".into(), address: "a".into() };
    FollowRequest { envelope: envelope(to), epoch, leader, leader_client_address: String::new(), as_learner }
}

fn follow(m: &mut MemberCore, epoch: Epoch, leader: u128) -> Result<Standing, Refusal> {
    let step = m.begin_follow(&follow_request(m.sid().0, epoch, leader, false), false)?;
    m.finish_follow(step)
}

#[test]
fn a_promise_never_falls_and_is_idempotent() {
    let mut m = member(2);
    assert_eq!(fence(&mut m, 5, ms(10)).unwrap().standing.promised, 5);
    assert_eq!(fence(&mut m, 5, ms(10)).unwrap().standing.promised, 5);
    assert_eq!(fence(&mut m, 4, ms(10)), Err(Refusal::Promised { promised: 5, asked: 4 }));
}

#[test]
fn of_two_fences_that_cross_only_the_later_epoch_is_answered() {
    let mut m = member(2);
    let five = m.begin_fence(&fence_request(2, 5)).unwrap();
    let six = m.begin_fence(&fence_request(2, 6)).unwrap();
    assert!(m.finish_fence(&six, vec![], 0, 0, false, ms(1)).is_ok());
    assert_eq!(
        m.finish_fence(&five, vec![], 0, 0, false, ms(1)).unwrap_err(),
        Refusal::Promised { promised: 6, asked: 5 }
    );
    assert_eq!(m.durable().promised, 6);
}

#[test]
fn a_fence_that_has_begun_stops_acknowledgements_before_it_is_durable() {
    let mut m = member(2);
    follow(&mut m, 3, 1).unwrap();
    let change = m.learn_config(Sid(1), &config(3)).unwrap();
    assert!(!m.may_acknowledge(3, Sid(1)), "the configuration must be durable before the first ack");
    m.config_persisted(&change);
    assert!(m.may_acknowledge(3, Sid(1)));
    let step = m.begin_fence(&fence_request(2, 4)).unwrap();
    assert_eq!(step.role, RoleChange::StreamEnds);
    assert!(!m.may_acknowledge(3, Sid(1)));
    assert!(!m.heartbeat(3, Sid(1), ms(5)));
}

#[test]
fn blank_storage_is_not_fenced_and_not_promoted() {
    let blank = Durable { cluster_id: None, init: InitState::None, promised: 0, ..durable(2) };
    let mut m = MemberCore::new(blank, InstanceId(2), ms(0));
    assert!(matches!(m.begin_fence(&fence_request(2, 5)), Err(Refusal::NotReady { .. })));
    assert!(matches!(m.begin_promote(&promote_request(2, 5, ms(0)), &[]), Err(Refusal::NotReady { .. })));
}

#[test]
fn another_cluster_lineage_or_sid_is_refused_before_any_epoch_is_looked_at() {
    let mut m = member(2);
    let mut request = fence_request(2, 9);
    request.envelope.cluster_id = ClusterId(1);
    assert!(matches!(m.begin_fence(&request), Err(Refusal::WrongCluster { .. })));
    let mut request = fence_request(2, 9);
    request.envelope.lineage = 1;
    assert!(matches!(m.begin_fence(&request), Err(Refusal::WrongLineage { .. })));
    assert!(matches!(m.begin_fence(&fence_request(3, 9)), Err(Refusal::WrongSid { .. })));
    assert_eq!(m.promise(), 1);
}

#[test]
fn an_epoch_is_led_once_and_never_after_a_restart() {
    let mut m = member(1);
    fence(&mut m, 5, ms(0)).unwrap();
    promote(&mut m, 5, ms(0), ms(0)).unwrap();
    assert!(m.leads(5));
    assert!(m.begin_promote(&promote_request(1, 5, ms(0)), &[shard(1, 5)]).unwrap().already);
    let mut again = MemberCore::new(m.durable().clone(), InstanceId(9), ms(0));
    assert_eq!(again.role(), Role::Follower);
    assert_eq!(promote(&mut again, 5, ms(0), ms(0)).unwrap_err(), Refusal::Obsolete(5));
}

#[test]
fn a_promotion_wants_the_logs_exactly_at_the_targets() {
    let mut m = member(1);
    fence(&mut m, 5, ms(0)).unwrap();
    let at = |s| m.begin_promote(&promote_request(1, 5, ms(0)), &[s]);
    assert!(matches!(at(shard(1, 4)), Err(Refusal::NotAtTarget { .. })));
    assert!(matches!(at(shard(1, 6)), Err(Refusal::NotAtTarget { .. })));
    assert!(matches!(at(ShardReport { durable: 4, ..shard(1, 5) }), Err(Refusal::NotAtTarget { .. })));
    for state in [DataState::Blank, DataState::Syncing, DataState::Quarantined] {
        assert!(matches!(at(ShardReport { state, ..shard(1, 5) }), Err(Refusal::NotReady { .. })));
    }
    assert!(at(shard(1, 5)).is_ok());
    // Brought to what a read quorum holds, it is whole.
    assert!(at(ShardReport { state: DataState::Amnesic, ..shard(1, 5) }).is_ok());
}

#[test]
fn a_leader_fenced_during_its_lease_wait_tells_what_is_left_of_it() {
    let mut m = member(1);
    fence(&mut m, 5, ms(1000)).unwrap();
    promote(&mut m, 5, ms(400), ms(1000)).unwrap();
    // It alone is a read quorum for epoch 6: nobody else can tell that an older lease still runs.
    assert_eq!(fence(&mut m, 6, ms(1100)).unwrap().lease_remaining, ms(300));
}

#[test]
fn a_leader_fenced_after_its_wait_leaves_no_lease() {
    let mut m = member(1);
    fence(&mut m, 5, ms(1000)).unwrap();
    promote(&mut m, 5, ms(0), ms(1000)).unwrap();
    assert_eq!(fence(&mut m, 6, ms(1001)).unwrap().lease_remaining, ms(0));
    assert!(!m.leads(5) && m.lease().is_none());
}

#[test]
fn a_later_epoch_makes_a_leader_step_down_without_a_promise() {
    let mut m = member(1);
    fence(&mut m, 5, ms(0)).unwrap();
    promote(&mut m, 5, ms(0), ms(0)).unwrap();
    assert_eq!(m.observe_epoch(5), RoleChange::None);
    assert_eq!(m.observe_epoch(7), RoleChange::SteppedDown(5));
    assert_eq!(m.durable().promised, 5);
    assert_eq!(m.promise(), 5);
}

#[test]
fn an_empty_volume_joins_as_a_learner_only_when_told_so() {
    let blank = Durable { cluster_id: None, init: InitState::None, promised: 0, ..durable(2) };
    let mut m = MemberCore::new(blank, InstanceId(2), ms(0));
    assert!(m.begin_follow(&follow_request(2, 5, 1, false), false).is_err());
    let step = m.begin_follow(&follow_request(2, 5, 1, true), false).unwrap();
    let standing = m.finish_follow(step).unwrap();
    assert_eq!((standing.cluster_id, standing.promised, standing.init), (Some(CLUSTER), 5, InitState::Done));
    let init = InitRequest { envelope: envelope(2), config: config(1) };
    assert_eq!(m.begin_init(&init).unwrap_err(), Refusal::AlreadyInitialised);
}

#[test]
fn init_is_refused_unless_the_sid_is_a_voter_and_changes_nothing_when_done() {
    let blank = |sid| Durable { cluster_id: None, init: InitState::None, promised: 0, ..durable(sid) };
    let m = MemberCore::new(blank(9), InstanceId(9), ms(0));
    let init = |to| InitRequest { envelope: envelope(to), config: config(1) };
    assert_eq!(m.begin_init(&init(9)).unwrap_err(), Refusal::NotAVoter(Sid(9)));
    let mut m = MemberCore::new(blank(2), InstanceId(2), ms(0));
    let step = m.begin_init(&init(2)).unwrap();
    assert!(!step.already);
    assert_eq!(m.finish_init(&step).init, InitState::Done);
    let other = InitRequest { config: LastConfig { epoch: 7, ..config(1) }, ..init(2) };
    let step = m.begin_init(&other).unwrap();
    assert!(step.already);
    assert_eq!(m.finish_init(&step).last_config.unwrap().epoch, 1);
}

#[test]
fn follow_of_an_older_epoch_is_refused_and_a_repeated_one_does_not_disturb_the_stream() {
    let mut m = member(2);
    follow(&mut m, 5, 1).unwrap();
    assert_eq!(m.begin_follow(&follow_request(2, 5, 1, false), false).unwrap().role, RoleChange::None);
    assert!(matches!(m.begin_follow(&follow_request(2, 4, 3, false), false), Err(Refusal::Promised { .. })));
    assert!(m.follows(5, Sid(1)));
}

#[test]
fn a_restarted_granter_still_reports_its_grant() {
    let m = MemberCore::new(durable(2), InstanceId(2), ms(0));
    let mut m = m;
    assert_eq!(fence(&mut m, 5, ms(100)).unwrap().lease_remaining, ms(500));
}

fn assemble_request(to: u128, epoch: Epoch) -> AssembleRequest {
    AssembleRequest { envelope: envelope(to), epoch, targets: vec![] }
}

#[test]
fn a_late_assemble_never_touches_the_log_of_who_follows_in_that_epoch() {
    let mut m = member(1);
    fence(&mut m, 2, ms(0)).unwrap();
    m.begin_assemble(&assemble_request(1, 2), &[DataState::Ready]).unwrap();
    follow(&mut m, 2, 2).unwrap();
    // One that is sent again, and the batches of one that was begun before.
    assert_eq!(m.begin_assemble(&assemble_request(1, 2), &[DataState::Ready]), Err(Refusal::Obsolete(2)));
    assert_eq!(m.check_assemble(2), Err(Refusal::Obsolete(2)));
    assert_eq!(m.check_promise(2), Ok(()), "it may still give to others");
}

#[test]
fn a_late_assemble_never_touches_what_was_acknowledged_before_a_restart() {
    let mut m = member(1);
    follow(&mut m, 2, 2).unwrap();
    assert!(!m.may_acknowledge(2, Sid(2)));
    let change = m.learn_config(Sid(2), &config(2)).unwrap();
    m.config_persisted(&change);
    assert!(m.may_acknowledge(2, Sid(2)));
    let restarted = MemberCore::new(m.durable().clone(), InstanceId(99), ms(0));
    assert_eq!(restarted.following(), None);
    assert_eq!(restarted.check_assemble(2), Err(Refusal::Obsolete(2)));
}

fn recover_request(to: u128, lineage: u64, epoch: Epoch) -> RecoverRequest {
    let config = LastConfig { epoch, voters: vec![Sid(to)], write_quorum: 1, min_voters: 1 };
    RecoverRequest { envelope: envelope(to), lineage, config }
}

#[test]
fn a_survivor_takes_a_newer_lineage_once_and_hears_nobody_of_the_older_one() {
    let mut m = member(2);
    follow(&mut m, 3, 1).unwrap();
    m.hear_figures(3, &[VoterFigure { sid: Sid(2), open_count: 1, held: vec![9] }]);
    let ready = [DataState::Ready];
    let older = m.begin_recover(&recover_request(2, 0, 9), &ready).map(drop);
    assert!(older.is_ok(), "sent again, it is answered");
    assert_eq!(
        m.begin_recover(&recover_request(2, 1, 2), &ready).unwrap_err(),
        Refusal::Promised { promised: 3, asked: 2 }
    );
    let quarantined = m.begin_recover(&recover_request(2, 1, 9), &[DataState::Quarantined]).unwrap_err();
    assert!(matches!(quarantined, Refusal::NotReady { .. }));
    assert!(m.follows(3, Sid(1)), "what was refused changed nothing");

    let step = m.begin_recover(&recover_request(2, 1, 9), &ready).unwrap();
    assert_eq!(step.role, RoleChange::StreamEnds);
    let standing = m.finish_recover(&step);
    assert_eq!((standing.lineage, standing.promised), (1, 9));
    assert_eq!(standing.last_config.map(|config| config.voters), Some(vec![Sid(2)]));
    assert!(m.figures().is_empty(), "figures are of one lineage");
    assert_eq!(fence(&mut m, 10, ms(5)), Err(Refusal::WrongLineage { have: 1, want: 0 }));
    assert!(matches!(m.begin_follow(&follow_request(2, 10, 1, false), false), Err(Refusal::WrongLineage { .. })));
    let again = m.begin_recover(&recover_request(2, 1, 9), &ready).unwrap();
    assert!(again.change.is_empty() && again.role == RoleChange::None);
}

#[test]
fn only_storage_of_an_older_lineage_is_set_aside_and_only_by_its_name() {
    let m = member(2);
    let request = |to, lineage| SetAsideRequest { envelope: envelope(to), lineage };
    assert_eq!(m.check_set_aside(&request(2, 1)), Ok(()));
    assert_eq!(m.check_set_aside(&request(2, 0)), Err(Refusal::WrongLineage { have: 0, want: 0 }));
    assert_eq!(m.check_set_aside(&request(3, 1)), Err(Refusal::WrongSid { have: Sid(2), want: Sid(3) }));
}

#[test]
fn a_learner_that_never_had_data_joins_a_newer_lineage_and_nobody_else_does() {
    let newer = |as_learner| {
        let mut request = follow_request(2, 9, 1, as_learner);
        request.envelope.lineage = 1;
        request
    };
    let mut m = member(2);
    assert!(matches!(m.begin_follow(&newer(true), false), Err(Refusal::WrongLineage { .. })), "it has data");
    assert!(matches!(m.begin_follow(&newer(false), true), Err(Refusal::WrongLineage { .. })), "it is to vote");
    let step = m.begin_follow(&newer(true), true).unwrap();
    assert_eq!(m.finish_follow(step).unwrap().lineage, 1);
    let older = follow_request(2, 9, 1, true);
    assert!(matches!(m.begin_follow(&older, true), Err(Refusal::WrongLineage { .. })));
}
