//! The three ways a write can end, and what each says.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::stand_in::*;
use crate::net::proto::{self, error_detail::Kind, op_result, stream_op};
use crate::node::replica::{Leadership, Outcome};

fn within(mut write: proto::WriteRequest, timeout_ms: u32) -> proto::WriteRequest {
    write.timeout_ms = timeout_ms;
    write
}

fn error(result: op_result::Result) -> Kind {
    match result {
        op_result::Result::Error(detail) => detail.kind.expect("a kind"),
        other => panic!("an error was expected: {other:?}"),
    }
}

#[tokio::test]
async fn a_write_that_is_not_committed_in_time_is_indeterminate_with_its_position() {
    let served = Served::start().await;
    served.member.commits.store(false, Ordering::Relaxed);
    let status = served.client().await.write(within(put("a", "1"), 100)).await.expect_err("not committed");
    let Some(Kind::Indeterminate(it)) = detail(&status).kind else { panic!("{status:?}") };
    assert_eq!(it.token.expect("a token").positions[0].gsn, served.member.tail(0));
    let mut pipe = served.stream().await;
    pipe.send(vec![(1, stream_op::Op::Write(within(put("b", "1"), 100)))]).await;
    let (id, result) = pipe.next().await;
    assert!(id == 1 && matches!(error(result), Kind::Indeterminate(_)));
}

#[tokio::test]
async fn without_a_quorum_nothing_is_appended_and_the_answer_says_so() {
    let served = Served::start().await;
    served.member.quorum.store(false, Ordering::Relaxed);
    let before = served.member.tail(0);
    let status = served.client().await.write(put("a", "1")).await.expect_err("refused");
    assert!(matches!(detail(&status).kind, Some(Kind::NoQuorum(_))));
    assert_eq!(served.member.tail(0), before);
}

#[tokio::test]
async fn after_a_lost_leadership_the_outcome_is_told_once_it_is_known() {
    for (outcome, committed) in [(Outcome::Committed, true), (Outcome::DefinitelyNot, false)] {
        let served = Served::start().await;
        served.member.commits.store(false, Ordering::Relaxed);
        let mut pipe = served.stream().await;
        let before = served.member.tail(0);
        pipe.send(vec![(1, put_op("a", "1"))]).await;
        while served.member.tail(0) == before {
            tokio::task::yield_now().await;
        }
        served.member.follow(EPOCH + 1);
        assert!(pipe.is_silent().await, "nothing is known yet: nothing may be said");
        *served.member.outcome.lock() = outcome;
        served.member.follow(EPOCH + 1);
        let (_, result) = pipe.next().await;
        if committed {
            assert!(matches!(result, op_result::Result::Write(answer) if answer.applied));
        } else {
            let Kind::NotLeader(hint) = error(result) else { panic!("not the leader any more") };
            assert_eq!(hint.address, other_leader().client_address);
        }
    }
}

#[tokio::test]
async fn a_follower_names_the_leader_for_writes_and_linearizable_reads() {
    let served = Served::start().await;
    served.member.follow(EPOCH + 1);
    let mut client = served.client().await;
    for status in [
        client.write(put("a", "1")).await.expect_err("a follower"),
        client.get(get("a")).await.expect_err("a follower"),
    ] {
        let Some(Kind::NotLeader(hint)) = detail(&status).kind else { panic!("{status:?}") };
        assert_eq!((hint.address.as_str(), hint.epoch), ("127.0.0.1:9", EPOCH + 1));
    }
}

#[tokio::test]
async fn writes_wait_out_a_planned_move_and_then_name_the_next_leader() {
    let served = Served::start().await;
    served.member.lead(Leadership::Draining { epoch: EPOCH });
    let mut pipe = served.stream().await;
    let mut client = served.client().await;
    pipe.send(vec![(1, put_op("a", "1")), (2, put_op("b", "1"))]).await;
    let unary = tokio::spawn(async move { client.write(put("c", "1")).await });
    assert!(pipe.is_silent().await && !unary.is_finished(), "queued, not failed");
    served.member.lead(Leadership::Following { epoch: EPOCH + 1, leader: None });
    assert!(pipe.is_silent().await && !unary.is_finished(), "the next leader is not known yet");
    served.member.follow(EPOCH + 1);
    for id in [1, 2] {
        let (answered, result) = pipe.next().await;
        let Kind::NotLeader(hint) = error(result) else { panic!("moved") };
        assert_eq!((answered, hint.address), (id, other_leader().client_address));
    }
    let status = unary.await.expect("ran").expect_err("moved");
    let Some(Kind::NotLeader(hint)) = detail(&status).kind else { panic!("{status:?}") };
    assert_eq!(hint.address, other_leader().client_address);
}

#[tokio::test]
async fn writes_go_on_when_a_planned_move_is_called_off() {
    let served = Served::start().await;
    served.member.lead(Leadership::Draining { epoch: EPOCH });
    let mut pipe = served.stream().await;
    pipe.send(vec![(1, put_op("a", "1"))]).await;
    assert!(pipe.is_silent().await);
    served.member.lead(Leadership::Leading { epoch: EPOCH, serving: true });
    assert!(matches!(pipe.next().await.1, op_result::Result::Write(answer) if answer.applied));
}

#[tokio::test]
async fn a_failed_condition_is_told_only_once_what_it_saw_is_committed_and_the_lease_holds() {
    let served = Served::start().await;
    served.member.commits.store(false, Ordering::Relaxed);
    let mut pipe = served.stream().await;
    // The first is appended; the second is judged against it while it is not committed.
    pipe.send(vec![(1, put_op("a", "1")), (2, stream_op::Op::Write(if_absent("a", put("a", "2"))))]).await;
    assert!(pipe.is_silent().await);
    served.member.lease.store(false, Ordering::Relaxed);
    served.member.rounds_answered.send_replace(false);
    served.member.commit();
    assert!(matches!(pipe.next().await, (1, op_result::Result::Write(answer)) if answer.applied));
    assert!(pipe.is_silent().await, "without a lease a round of heartbeats is needed");
    served.member.rounds_answered.send_replace(true);
    assert!(matches!(pipe.next().await, (2, op_result::Result::Write(answer)) if !answer.applied));
    assert!(served.member.rounds.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_failed_condition_of_an_epoch_that_ended_is_never_told() {
    let served = Served::start().await;
    served.member.commits.store(false, Ordering::Relaxed);
    let mut pipe = served.stream().await;
    pipe.send(vec![(1, put_op("a", "1")), (2, stream_op::Op::Write(if_absent("a", put("a", "2"))))]).await;
    assert!(pipe.is_silent().await);
    served.member.follow(EPOCH + 1);
    let (id, result) = pipe.next().await;
    assert!(id == 2 && matches!(error(result), Kind::NotLeader(_)));
}

#[tokio::test]
async fn an_acknowledgement_of_the_leader_alone_waits_for_its_disk_only() {
    let served = Served::start().await;
    served.member.commits.store(false, Ordering::Relaxed);
    let mut pipe = served.stream().await;
    let mut write = put("a", "1");
    write.ack = proto::AckLevel::Leader.into();
    pipe.send(vec![(1, stream_op::Op::Write(write)), (2, put_op("b", "1"))]).await;
    assert!(pipe.is_silent().await, "not from a buffer");
    served.member.sync();
    assert!(matches!(pipe.next().await, (1, op_result::Result::Write(answer)) if answer.applied));
    assert!(pipe.is_silent().await, "the other waits for a quorum");
    served.member.commit();
    assert!(matches!(pipe.next().await, (2, op_result::Result::Write(answer)) if answer.applied));
}

#[tokio::test]
async fn a_stopping_member_finishes_what_it_began_and_refuses_the_rest_by_name() {
    let served = Served::start().await;
    served.member.commits.store(false, Ordering::Relaxed);
    let mut pipe = served.stream().await;
    pipe.send(vec![(1, put_op("a", "1"))]).await;
    assert!(pipe.is_silent().await);
    served.stop.send_replace(true);
    pipe.send(vec![(2, put_op("b", "1"))]).await;
    let (id, result) = pipe.next().await;
    assert!(id == 2 && matches!(error(result), Kind::Unavailable(_)));
    served.member.commit();
    assert!(matches!(pipe.next().await, (1, op_result::Result::Write(answer)) if answer.applied));
    // The client has not ended its side: a stream that the client ended has no reason to fail.
    let ended = tokio::time::timeout(Duration::from_secs(10), pipe.responses.message()).await.expect("it ends");
    assert!(matches!(detail(&ended.expect_err("with a reason")).kind, Some(Kind::Unavailable(_))));
}
