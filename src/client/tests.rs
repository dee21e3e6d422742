//! The client against a cluster of fakes: what it repeats, what it never repeats, and how it finds its way.

use std::time::Duration;

use bytes::Bytes;

use super::fake::{ANSWER_BYTES, FakeCluster, Fault};
use super::*;

fn options(cluster: &FakeCluster) -> ClientOptions {
    ClientOptions {
        suspect_after: Duration::from_millis(50),
        ..ClientOptions::new(cluster.addresses.clone()).request_timeout(Duration::from_secs(5))
    }
}

async fn connect(cluster: &FakeCluster) -> Client {
    Client::connect(options(cluster)).await.expect("connects")
}

async fn value_of(client: &Client, key: &'static str) -> Option<String> {
    let value = client.get(key).await.expect("reads");
    value.map(|value| String::from_utf8(value.bytes.to_vec()).expect("text"))
}

#[tokio::test]
async fn any_one_member_leads_to_the_leader_and_to_all_the_others() {
    let cluster = FakeCluster::start(3, Some(2)).await;
    let client = Client::connect(ClientOptions::new([cluster.addresses[0].clone()])).await.expect("connects");
    let written = client.put("k", "v").await.expect("writes");
    assert_eq!(written.versions.len(), 1);
    assert_eq!(value_of(&client, "k").await.as_deref(), Some("v"));
    assert_eq!(client.describe().await.expect("describes").member, "m-2");
    let all = client.describe_all().await;
    assert_eq!(all.iter().filter(|(_, answer)| answer.is_ok()).count(), 3, "{all:?}");
}

#[tokio::test]
async fn a_redirect_is_followed_and_the_write_is_done_once() {
    let cluster = FakeCluster::start(3, Some(0)).await;
    let client = connect(&cluster).await;
    client.put("a", "1").await.expect("writes");
    cluster.fail_over(1, false);
    client.put("b", "2").await.expect("follows the redirect");
    assert_eq!(cluster.done(), [("a".into(), "1".into()), ("b".into(), "2".into())]);
}

#[tokio::test]
async fn operations_wait_for_a_leader_to_be_elected() {
    let cluster = FakeCluster::start(3, None).await;
    let client = connect(&cluster).await;
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put("k", "v").await }
    });
    // Nothing to await: that there is no leader yet shows in nothing but the write not being answered.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!put.is_finished());
    cluster.fail_over(1, false);
    put.await.expect("runs").expect("writes");
}

#[tokio::test]
async fn keys_whose_values_do_not_fit_into_one_answer_are_asked_for_in_parts() {
    let cluster = FakeCluster::start(1, Some(0)).await;
    let client = connect(&cluster).await;
    let keys: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
    for (i, key) in keys.iter().enumerate() {
        client.put(key.clone(), vec![i as u8; ANSWER_BYTES / 3]).await.expect("writes");
    }
    let values = client.multi_get(keys).await.expect("reads");
    for (i, value) in values.into_iter().enumerate() {
        assert_eq!(value.expect("is there").bytes, vec![i as u8; ANSWER_BYTES / 3]);
    }
    // One value that is too large alone is told as such.
    client.put("huge", vec![0; ANSWER_BYTES + 1]).await.expect("writes");
    let error = client.multi_get(["k0", "huge"]).await.expect_err("refused");
    assert!(matches!(error.refusal(), Refusal::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn refusals_that_say_not_done_are_repeated_until_done() {
    let cluster = FakeCluster::start(1, Some(0)).await;
    let client = connect(&cluster).await;
    cluster.next_faults([Fault::NoQuorum, Fault::Overloaded, Fault::Unavailable, Fault::NoQuorum]);
    client.put("k", "v").await.expect("writes");
    assert_eq!(cluster.done(), [("k".into(), "v".into())]);
    assert!(cluster.data.lock().faults.is_empty());
}

#[tokio::test]
async fn no_quorum_until_the_deadline_is_certainly_not_done() {
    let cluster = FakeCluster::start(1, Some(0)).await;
    let client =
        Client::connect(options(&cluster).request_timeout(Duration::from_millis(200))).await.expect("connects");
    cluster.next_faults(std::iter::repeat_n(Fault::NoQuorum, 1000));
    let error = client.put("k", "v").await.expect_err("not done");
    assert!(matches!(&error, WriteError::NotDone(Refusal::TimedOut { .. })), "{error:?}");
    assert!(error.to_string().contains("no quorum"), "{error}");
    assert!(cluster.done().is_empty());
}

#[tokio::test]
async fn a_write_that_was_sent_on_a_lost_connection_is_indeterminate_and_never_sent_again() {
    for (fault, done) in [(Fault::DropAfter, 1), (Fault::DropBefore, 0)] {
        let cluster = FakeCluster::start(2, Some(0)).await;
        let client = connect(&cluster).await;
        cluster.next_faults([fault.clone()]);
        let error = client.put("k", "v").await.expect_err("unknown");
        assert!(error.is_indeterminate(), "{fault:?}: {error:?}");
        // Another write goes through on a new connection; the first one has not come along.
        client.put("other", "v").await.expect("writes");
        assert_eq!(cluster.done().iter().filter(|(key, _)| key == "k").count(), done, "{fault:?}");
    }
}

#[tokio::test]
async fn the_leaders_word_that_the_outcome_is_unknown_comes_with_a_token() {
    let cluster = FakeCluster::start(1, Some(0)).await;
    let client = connect(&cluster).await;
    cluster.next_faults([Fault::IndeterminateDone]);
    match client.delete("k").await {
        Err(WriteError::Indeterminate { token: Some(token), .. }) => assert!(!token.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_swap_by_version_is_sent_again_but_never_done_twice() {
    // Not done by the first attempt: the second does it, and says so.
    let cluster = FakeCluster::start(1, Some(0)).await;
    let client = connect(&cluster).await;
    let first = client.put("k", "1").await.expect("writes");
    cluster.next_faults([Fault::DropBefore]);
    let outcome = client.compare_and_swap("k", &first.versions[0], "2").await.expect("writes");
    assert!(outcome.applied());

    // Done by the first attempt: the condition of the second fails, which proves nothing about whose write it was.
    let now = client.get("k").await.expect("reads").expect("is there").version;
    cluster.next_faults([Fault::DropAfter]);
    let error = client.compare_and_swap("k", &now, "3").await.expect_err("unknown");
    assert!(error.is_indeterminate(), "{error:?}");
    let values: Vec<_> = cluster.done().into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, ["1", "2", "3"]);
}

#[tokio::test]
async fn put_if_absent_is_not_sent_again_when_its_outcome_is_unknown() {
    let cluster = FakeCluster::start(1, Some(0)).await;
    let client = connect(&cluster).await;
    cluster.next_faults([Fault::DropBefore]);
    let error = client.put_if_absent("k", "v").await.expect_err("unknown");
    assert!(error.is_indeterminate(), "{error:?}");
    assert!(client.put_if_absent("k", "v").await.expect("writes").applied());
    assert_eq!(client.put_if_absent("k", "w").await.expect("writes"), WriteOutcome::ConditionFailed { index: 0 });
}

#[tokio::test]
async fn reads_are_repeated_over_a_lost_connection() {
    let cluster = FakeCluster::start(3, Some(0)).await;
    let client = connect(&cluster).await;
    client.put("k", "v").await.expect("writes");
    for round in 0..5 {
        cluster.fail_over((round + 1) % 3, true);
        assert_eq!(value_of(&client, "k").await.as_deref(), Some("v"));
    }
}

#[tokio::test]
async fn answers_out_of_order_reach_their_own_callers_and_requests_share_messages() {
    let cluster = FakeCluster::start(1, Some(0)).await;
    let client = connect(&cluster).await;
    for i in 0..500 {
        cluster.put(&format!("k{i}"), &format!("v{i}"));
    }
    let reads = (0..500).map(|i| {
        let client = client.clone();
        async move { (i, client.get(format!("k{i}")).await.expect("reads").expect("is there").bytes) }
    });
    for (i, value) in futures::future::join_all(reads).await {
        assert_eq!(value, Bytes::from(format!("v{i}")));
    }
    let messages = cluster.data.lock().messages.clone();
    assert!(messages.len() < 100, "500 requests travelled in {} messages", messages.len());
}

#[tokio::test]
async fn writes_submitted_together_keep_their_order() {
    let cluster = FakeCluster::start(1, Some(0)).await;
    let client = connect(&cluster).await;
    let writes = (0..200).map(|i| client.put("k", format!("{i}")));
    for outcome in futures::future::join_all(writes).await {
        outcome.expect("writes");
    }
    let values: Vec<_> = cluster.done().into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, (0..200).map(|i| i.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_in_flight_is_bounded_and_the_rest_waits_its_turn() {
    let cluster = FakeCluster::start(1, Some(0)).await;
    let client =
        Client::connect(ClientOptions { max_in_flight_requests: 4, max_in_flight_bytes: 1000, ..options(&cluster) })
            .await
            .expect("connects");
    let value = Bytes::from(vec![b'x'; 400]);
    let writes = (0..50).map(|i| client.put(format!("k{i}"), value.clone()));
    for outcome in futures::future::join_all(writes).await {
        outcome.expect("writes");
    }
    assert!(cluster.data.lock().messages.iter().all(|ops| *ops <= 2), "{:?}", cluster.data.lock().messages);
    // One request over the whole allowance goes all the same, alone.
    client.put("large", vec![0; 5000]).await.expect("writes");
}

#[tokio::test]
async fn a_silent_leader_is_left_when_another_leads() {
    let cluster = FakeCluster::start(3, Some(0)).await;
    let client = connect(&cluster).await;
    client.put("k", "v").await.expect("writes");
    cluster.data.lock().frozen[0] = true;
    let (write, read) = tokio::join!(client.put("k", "w"), async {
        let read = client.get("k");
        tokio::pin!(read);
        assert!(futures::poll!(&mut read).is_pending());
        cluster.fail_over(1, false);
        read.await
    });
    // What the silent leader had in hand is unknown, and was not sent to the new one.
    assert!(write.expect_err("unknown").is_indeterminate());
    assert_eq!(read.expect("reads").expect("is there").bytes, "v");
    assert_eq!(cluster.done(), [("k".into(), "v".into())]);
}

#[tokio::test]
async fn a_write_without_an_answer_is_indeterminate_at_its_deadline() {
    let cluster = FakeCluster::start(1, Some(0)).await;
    let client =
        Client::connect(options(&cluster).request_timeout(Duration::from_millis(100))).await.expect("connects");
    cluster.next_faults([Fault::Hang]);
    let error = client.put("k", "v").await.expect_err("unknown");
    assert!(error.is_indeterminate(), "{error:?}");
}

#[tokio::test]
async fn follower_reads_go_to_the_member_that_was_named() {
    let cluster = FakeCluster::start(3, Some(0)).await;
    let client = connect(&cluster).await;
    client.put("k", "v").await.expect("writes");
    cluster.data.lock().frozen[1] = true;
    let local = |member: usize| ReadOptions {
        level: ReadLevel::Local,
        member: Some(cluster.addresses[member].clone()),
        timeout: Some(Duration::from_millis(200)),
    };
    assert!(client.get_with("k", &local(2)).await.expect("reads").is_some());
    assert!(client.get_with("k", &local(1)).await.is_err(), "member 1 does not answer");
    let misused = ReadOptions { member: Some(cluster.addresses[2].clone()), ..ReadOptions::default() };
    assert!(matches!(client.get_with("k", &misused).await, Err(ReadError(Refusal::Invalid(_)))));
    // Unnamed: the silent one is passed over.
    let any = ReadOptions::level(ReadLevel::Local);
    for _ in 0..3 {
        assert!(client.get_with("k", &any).await.expect("reads").is_some());
    }
}

#[tokio::test]
async fn a_scan_reads_every_key_once_across_pages_and_failovers() {
    let cluster = FakeCluster::start(3, Some(0)).await;
    let client = connect(&cluster).await;
    for i in 0..250 {
        cluster.put(&format!("k{i:03}"), "v");
    }
    cluster.put("other", "v");
    for reverse in [false, true] {
        let mut scan = client.scan(Scan::prefix("k").page_entries(10).reverse(reverse));
        let mut keys = Vec::new();
        while let Some(entry) = scan.next().await.expect("scans") {
            if keys.len() % 50 == 25 {
                let next = (keys.len() / 50) % 3;
                cluster.fail_over(next, true);
            }
            keys.push(String::from_utf8(entry.key.to_vec()).expect("text"));
        }
        let mut wanted: Vec<_> = (0..250).map(|i| format!("k{i:03}")).collect();
        if reverse {
            wanted.reverse();
        }
        assert_eq!(keys, wanted);
    }
    let mut limited = client.scan(Scan::all().limit(7).page_entries(3));
    let mut count = 0;
    while limited.next().await.expect("scans").is_some() {
        count += 1;
    }
    assert_eq!(count, 7);
}

#[tokio::test]
async fn a_watch_misses_nothing_and_repeats_nothing_across_reconnects() {
    let cluster = FakeCluster::start(3, Some(0)).await;
    let client = connect(&cluster).await;
    cluster.put("w-before", "x");
    let mut watch = client.watch(WatchOptions { prefix: "w".into(), after: None });
    watch.start().await.expect("starts");
    let mut seen = Vec::new();
    for i in 0..30 {
        cluster.put(&format!("w{i}"), "v");
        cluster.put(&format!("unwatched{i}"), "v");
        if i % 10 == 5 {
            cluster.fail_over((i / 10 + 1) % 3, true);
        }
        // Written while the watch is away, or not: it comes, once, in order.
        while seen.len() <= i {
            let changes = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("in time");
            seen.extend(changes.expect("watches").changes.into_iter().map(|change| change.key));
        }
    }
    assert_eq!(seen, (0..30).map(|i| Bytes::from(format!("w{i}"))).collect::<Vec<_>>());
}

#[tokio::test]
async fn trees_are_made_once_and_listed() {
    let cluster = FakeCluster::start(2, Some(0)).await;
    let client = connect(&cluster).await;
    cluster.fail_over(1, false);
    assert!(client.create_tree("t", false).await.expect("creates"));
    assert!(!client.create_tree("t", false).await.expect("creates"));
    let names: Vec<_> = client.list_trees().await.expect("lists").into_iter().map(|tree| tree.name).collect();
    assert_eq!(names, ["default", "t"]);
}

#[tokio::test]
async fn nobody_there_is_told_with_every_address() {
    let refused = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
    let options = ClientOptions::new([refused.to_string()]).request_timeout(Duration::from_millis(200));
    match Client::connect(options).await {
        Err(ConnectError::Unreachable { last, .. }) => assert!(last.contains(&refused.to_string()), "{last}"),
        other => panic!("{other:?}"),
    }
    for bad in ["", "host", "host:port:9", "http://", "a b:1"] {
        let refusal = Client::connect(ClientOptions::new([bad])).await.expect_err(bad);
        assert!(matches!(refusal, ConnectError::BadEndpoint { .. }), "{bad}: {refusal:?}");
    }
    assert!(matches!(Client::connect(ClientOptions::default()).await, Err(ConnectError::NoEndpoints)));
}
