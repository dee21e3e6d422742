//! Order on one stream: reads see the writes before them and none after them.

use std::sync::atomic::Ordering;

use super::stand_in::*;
use crate::net::proto::{self, error_detail::Kind, op_result, stream_op};

#[tokio::test]
async fn a_read_sees_the_write_pipelined_before_it() {
    let served = Served::start().await;
    served.member.commits.store(false, Ordering::Relaxed);
    let mut pipe = served.stream().await;
    pipe.send(vec![(1, put_op("a", "1")), (2, get_op("a")), (3, get_op("b"))]).await;
    assert!(pipe.is_silent().await, "the write is not committed: no read may show it, none may miss it");
    served.member.commit();
    assert!(matches!(pipe.next().await, (1, op_result::Result::Write(_))));
    let (id, op_result::Result::Get(answer)) = pipe.next().await else { panic!("a read") };
    assert_eq!((id, text(&answer).as_deref()), (2, Some("1")));
}

#[tokio::test]
async fn a_write_does_not_overtake_an_earlier_read_of_its_key() {
    let served = Served::start().await;
    served.member.commits.store(false, Ordering::Relaxed);
    let mut pipe = served.stream().await;
    let before = served.member.tail(0);
    pipe.send(vec![(1, put_op("a", "1")), (2, get_op("a")), (3, put_op("a", "2")), (4, get_op("a"))]).await;
    assert!(pipe.is_silent().await);
    assert_eq!(served.member.tail(0), before + 1, "the second write waits for the read");
    served.member.commit();
    assert!(matches!(pipe.next().await, (1, op_result::Result::Write(_))));
    let (id, op_result::Result::Get(answer)) = pipe.next().await else { panic!("a read") };
    assert_eq!((id, text(&answer).as_deref()), (2, Some("1")));
    while served.member.tail(0) == before + 1 {
        tokio::task::yield_now().await;
    }
    served.member.commit();
    assert!(matches!(pipe.next().await, (3, op_result::Result::Write(_))));
    let (id, op_result::Result::Get(answer)) = pipe.next().await else { panic!("a read") };
    assert_eq!((id, text(&answer).as_deref()), (4, Some("2")));
}

#[tokio::test]
async fn reads_of_other_keys_wait_for_nothing_but_the_streams_own_writes() {
    let served = Served::start().await;
    served.client().await.write(put("b", "old")).await.expect("written");
    served.member.commits.store(false, Ordering::Relaxed);
    let mut writer = served.stream().await;
    writer.send(vec![(1, put_op("a", "1"))]).await;
    assert!(writer.is_silent().await);
    // Another stream has written nothing: it reads at once.
    let mut reader = served.stream().await;
    reader.send(vec![(1, get_op("b")), (2, get_op("a"))]).await;
    let (_, op_result::Result::Get(b)) = reader.next().await else { panic!("a read") };
    let (_, op_result::Result::Get(a)) = reader.next().await else { panic!("a read") };
    assert_eq!((text(&b).as_deref(), text(&a)), (Some("old"), None), "what is not committed is not shown");
}

#[tokio::test]
async fn reads_that_wait_for_lost_writes_are_sent_to_the_next_leader_and_later_ones_wait_no_more() {
    let served = Served::start().await;
    served.member.commits.store(false, Ordering::Relaxed);
    let mut pipe = served.stream().await;
    pipe.send(vec![(1, put_op("a", "1")), (2, get_op("a"))]).await;
    assert!(pipe.is_silent().await);
    served.member.follow(EPOCH + 1);
    let (id, op_result::Result::Error(refused)) = pipe.next().await else { panic!("lost") };
    assert!(id == 2 && matches!(refused.kind, Some(Kind::NotLeader(_))));
    // A local read is answered here and now: the memory of the lost write is gone.
    let mut local = get("a");
    local.read = Some(proto::ReadOptions { level: proto::ReadLevel::Local.into(), ..Default::default() });
    pipe.send(vec![(3, stream_op::Op::Get(local))]).await;
    assert!(matches!(pipe.next().await, (3, op_result::Result::Get(answer)) if answer.value.is_none()));
}

#[tokio::test]
async fn many_operations_are_answered_in_few_messages() {
    let served = Served::start().await;
    let mut pipe = served.stream().await;
    let ops = (0..500).map(|i| (i, put_op(&format!("k{i}"), "v"))).collect();
    pipe.send(ops).await;
    let mut answered = 0;
    let mut messages = 0;
    while answered < 500 {
        let response = pipe.responses.message().await.expect("no error").expect("it goes on");
        answered += response.results.len();
        messages += 1;
    }
    assert!(messages <= 5, "{messages} messages for 500 results");
}
