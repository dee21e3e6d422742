//! What each level of consistency needs before it answers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::stand_in::*;
use crate::net::proto::{self, ReadLevel, error_detail::Kind};
use crate::node::replica::Leadership;

fn at(key: &str, options: proto::ReadOptions) -> proto::GetRequest {
    proto::GetRequest { read: Some(options), ..get(key) }
}

fn level(level: ReadLevel) -> proto::ReadOptions {
    proto::ReadOptions { level: level.into(), ..Default::default() }
}

#[tokio::test]
async fn without_a_lease_a_read_asks_the_members_and_strict_reads_always_do() {
    let served = Served::start().await;
    let mut client = served.client().await;
    client.write(put("a", "1")).await.expect("written");
    client.get(get("a")).await.expect("read");
    assert_eq!(served.member.rounds.load(Ordering::Relaxed), 0, "the lease is enough");
    client.get(at("a", level(ReadLevel::ReadIndex))).await.expect("read");
    assert_eq!(served.member.rounds.load(Ordering::Relaxed), 1);
    served.member.lease.store(false, Ordering::Relaxed);
    let answer = client.get(get("a")).await.expect("read").into_inner();
    assert_eq!(text(&answer).as_deref(), Some("1"));
    assert_eq!(served.member.rounds.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_leader_that_does_not_serve_yet_answers_no_read_until_it_does() {
    let served = Served::start().await;
    served.client().await.write(put("a", "1")).await.expect("written");
    served.member.lead(Leadership::Leading { epoch: EPOCH, serving: false });
    let mut client = served.client().await;
    let read = tokio::spawn(async move { client.get(get("a")).await });
    let mut pipe = served.stream().await;
    pipe.send(vec![(1, get_op("a"))]).await;
    assert!(pipe.is_silent().await && !read.is_finished());
    served.member.lead(Leadership::Leading { epoch: EPOCH, serving: true });
    assert_eq!(pipe.next().await.0, 1);
    read.await.expect("ran").expect("read");
}

#[tokio::test]
async fn a_bounded_read_is_answered_only_within_its_bound() {
    let served = Served::start().await;
    let mut client = served.client().await;
    client.write(put("a", "1")).await.expect("written");
    served.member.follow(EPOCH + 1);
    let bounded = |ms| at("a", proto::ReadOptions { max_staleness_ms: ms, ..level(ReadLevel::Bounded) });
    let refused = client.get(bounded(10_000)).await.expect_err("it does not know how far behind it is");
    let Some(Kind::Stale(stale)) = detail(&refused).kind else { panic!("{refused:?}") };
    assert_eq!(stale.leader.expect("the leader").address, other_leader().client_address);
    *served.member.staleness.lock() = Some(Duration::from_millis(500));
    client.get(bounded(10_000)).await.expect("within the bound");
    let refused = client.get(bounded(400)).await.expect_err("over the bound");
    assert!(matches!(detail(&refused).kind, Some(Kind::Stale(_))));
}

#[tokio::test]
async fn a_follower_waits_for_the_position_asked_for_and_refuses_one_that_was_superseded() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let written = client.write(put("a", "1")).await.expect("written").into_inner();
    served.member.commits.store(false, Ordering::Relaxed);
    let mut pipe = served.stream().await;
    pipe.send(vec![(1, put_op("a", "2"))]).await;
    assert!(pipe.is_silent().await);
    let versions = written.versions.clone();
    let token = move |gsn, epoch| {
        let position = proto::Position { gsn, epoch, ..versions[0] };
        Some(proto::Token { positions: vec![position] })
    };
    let after = move |token| at("a", proto::ReadOptions { at_least: token, ..level(ReadLevel::AtPosition) });
    let ahead = served.member.tail(0);
    let mut waiting = client.clone();
    let request = after(token(ahead, EPOCH));
    let waits = tokio::spawn(async move { waiting.get(request).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waits.is_finished(), "it is ahead of what is committed here");
    served.member.commit();
    let answer = waits.await.expect("ran").expect("read").into_inner();
    assert_eq!(text(&answer).as_deref(), Some("2"));
    let refused = client.get(after(token(ahead, EPOCH - 1))).await.expect_err("superseded");
    assert!(matches!(detail(&refused).kind, Some(Kind::HistoryLost(_))), "{refused:?}");
}

#[tokio::test]
async fn a_local_read_is_answered_by_anybody() {
    let served = Served::start().await;
    let mut client = served.client().await;
    client.write(put("a", "1")).await.expect("written");
    served.member.follow(EPOCH + 1);
    let answer = client.get(at("a", level(ReadLevel::Local))).await.expect("read").into_inner();
    assert_eq!(text(&answer).as_deref(), Some("1"));
}
