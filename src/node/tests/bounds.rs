//! Limits: each is refused by name and number, or makes the client wait; none lets memory grow.

use std::sync::atomic::Ordering;

use tokio::io::AsyncReadExt as _;
use tonic::Code;

use super::stand_in::*;
use crate::net::proto::{self, error_detail::Kind, op_result, stream_op};
use crate::node::config::NodeConfig;

fn small() -> NodeConfig {
    NodeConfig { segment_bytes: 1 << 20, max_value_bytes: 100_000, ..NodeConfig::default() }
}

#[tokio::test]
async fn what_breaks_a_limit_is_refused_by_its_number_and_nothing_is_appended() {
    let served = Served::with(1, small()).await;
    let mut client = served.client().await;
    let mut pipe = served.stream().await;
    let before = served.member.tail(0);
    let long = "x".repeat(70_000);
    let large = "x".repeat(100_001);
    let mut batch = put("k0", &"x".repeat(90_000));
    for i in 1..3 {
        batch.ops.extend(put(&format!("k{i}"), &"x".repeat(90_000)).ops);
    }
    let mut nothing = put("a", "1");
    nothing.ops.clear();
    let mut tree = put("a", "1");
    if let Some(proto::op::Op::Put(put)) = &mut tree.ops[0].op {
        put.tree = "nobody".into();
    }
    let mut never = put("a", "1");
    if let Some(proto::op::Op::Put(put)) = &mut never.ops[0].op {
        put.ttl_ms = Some(0);
    }
    for (write, said) in [
        (put("", "1"), "empty"),
        (put(&long, "1"), "65535"),
        (put("a", &large), "100000"),
        (batch, "262144"),
        (nothing, "empty"),
        (tree, "nobody"),
        (never, "ttl_ms"),
    ] {
        let status = client.write(write.clone()).await.expect_err(said);
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(said), "{said}: {}", status.message());
        assert!(matches!(detail(&status).kind, Some(Kind::Invalid(_) | Kind::TooLarge(_))), "{status:?}");
        pipe.send(vec![(7, stream_op::Op::Write(write))]).await;
        let (_, op_result::Result::Error(refused)) = pipe.next().await else { panic!("{said}") };
        assert!(refused.message.contains(said), "{said}: {}", refused.message);
    }
    let status = client.get(get("")).await.expect_err("an empty key");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(served.member.tail(0), before);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_with_the_limit_and_the_member_goes_on() {
    let served = Served::with(1, small()).await;
    let mut client = served.client().await;
    let huge = "x".repeat(2 << 20);
    let status = client.write(put("a", &huge)).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let Some(Kind::TooLarge(limit)) = detail(&status).kind else { panic!("{status:?}") };
    assert_eq!(limit.limit_bytes, small().limits().max_request_bytes as u64);
    let mut pipe = served.stream().await;
    pipe.send(vec![(1, put_op("a", &huge))]).await;
    let status = pipe.responses.message().await.expect_err("the stream ends");
    assert!(matches!(detail(&status).kind, Some(Kind::TooLarge(_))), "{status:?}");
    assert!(served.metrics.malformed_requests.load(Ordering::Relaxed) >= 2);
    client.write(put("a", "1")).await.expect("it still serves");
    assert_eq!(served.buffered.held(), 0, "nothing is held any more");
}

#[tokio::test]
async fn a_stream_takes_no_more_than_its_share_until_answers_went_out() {
    let config = NodeConfig { max_in_flight_requests: 4, ..NodeConfig::default() };
    let served = Served::with(1, config).await;
    served.member.commits.store(false, Ordering::Relaxed);
    let mut pipe = served.stream().await;
    let before = served.member.tail(0);
    for i in 0..10 {
        pipe.send(vec![(i, put_op(&format!("k{i}"), "v"))]).await;
    }
    assert!(pipe.is_silent().await);
    assert_eq!(served.member.tail(0), before + 4, "four are begun, the others wait");
    served.member.commits.store(true, Ordering::Relaxed);
    served.member.commit();
    let mut ids = Vec::new();
    while ids.len() < 10 {
        ids.push(pipe.next().await.0);
    }
    assert_eq!(ids, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_counted_and_the_others_go_on() {
    let config = NodeConfig { max_connections: 2, ..NodeConfig::default() };
    let served = Served::with(1, config).await;
    let mut first = served.client().await;
    let second = served.client().await;
    first.write(put("a", "1")).await.expect("written");
    let mut third = tokio::net::TcpStream::connect(served.address).await.expect("connected");
    let mut bytes = Vec::new();
    // Closed without a word; a reset says the same.
    let _ = third.read_to_end(&mut bytes).await;
    assert!(bytes.is_empty());
    assert_eq!(served.port.counts.refused.load(Ordering::Relaxed), 1);
    first.get(get("a")).await.expect("the others go on");
    drop(second);
    while served.port.counts.open.load(Ordering::Relaxed) > 1 {
        tokio::task::yield_now().await;
    }
    served.client().await.get(get("a")).await.expect("room again");
}
