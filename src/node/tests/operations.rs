//! What each operation answers when nothing stands in its way.

use tonic::Code;

use super::stand_in::*;
use crate::net::proto::{self, error_detail::Kind};
use crate::node::config::NodeConfig;

#[tokio::test]
async fn what_was_written_is_read_back_with_its_version() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let written = client.write(put("a", "1")).await.expect("written").into_inner();
    assert!(written.applied);
    let value = client.get(get("a")).await.expect("read").into_inner().value.expect("a value");
    assert_eq!(value.value, "1");
    assert_eq!(value.version, written.versions.first().copied());
    assert_eq!(written.token.expect("a token").positions, written.versions);
    assert!(client.get(get("b")).await.expect("read").into_inner().value.is_none());
    let keys = ["b", "a"].map(|key| key.as_bytes().to_vec().into()).to_vec();
    let many = client.multi_get(proto::MultiGetRequest { keys, ..Default::default() }).await.expect("read");
    let found: Vec<bool> = many.into_inner().values.iter().map(|found| found.value.is_some()).collect();
    assert_eq!(found, [false, true]);
}

#[tokio::test]
async fn a_condition_that_fails_writes_nothing_and_says_which() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let first = client.write(if_absent("a", put("a", "1"))).await.expect("answered").into_inner();
    assert!(first.applied);
    let second = client.write(if_absent("a", put("a", "2"))).await.expect("answered").into_inner();
    assert!(!second.applied && second.failed_condition == 0 && second.token.is_none());
    let version = first.versions[0];
    let mut swap = put("a", "3");
    let expect = Some(proto::condition::Expect::Version(version));
    swap.conditions.push(proto::Condition { tree: String::new(), key: "a".into(), expect });
    assert!(client.write(swap.clone()).await.expect("answered").into_inner().applied);
    assert!(!client.write(swap).await.expect("answered").into_inner().applied, "the version is no longer that");
    assert_eq!(text(&client.get(get("a")).await.expect("read").into_inner()).as_deref(), Some("3"));
}

#[tokio::test]
async fn scans_merge_the_shards_in_pages_both_ways_and_each_key_comes_once() {
    let served = Served::with(3, NodeConfig::default()).await;
    let mut client = served.client().await;
    let all: Vec<String> = (0..100).map(|i| format!("k{i:03}")).collect();
    for key in &all {
        client.write(put(key, key)).await.expect("written");
    }
    client.write(put("other", "x")).await.expect("written");
    for reverse in [false, true] {
        let mut seen: Vec<String> = Vec::new();
        let mut after = bytes::Bytes::new();
        loop {
            let request = proto::ScanRequest {
                prefix: "k".into(),
                after: after.clone(),
                reverse,
                limit: 7,
                ..Default::default()
            };
            let page = client.scan(request).await.expect("a page").into_inner();
            assert_eq!(page.token.is_some(), seen.is_empty(), "the first page carries the position");
            assert!(page.entries.len() <= 7);
            seen.extend(page.entries.iter().map(|e| String::from_utf8(e.key.to_vec()).expect("text")));
            let Some(last) = page.entries.last() else { break };
            after = last.key.clone();
            if !page.more {
                break;
            }
        }
        let mut expected = all.clone();
        if reverse {
            expected.reverse();
        }
        assert_eq!(seen, expected, "reverse: {reverse}");
    }
}

#[tokio::test]
async fn a_write_over_two_shards_is_refused_and_a_hash_tag_brings_keys_together() {
    let served = Served::with(4, NodeConfig::default()).await;
    let mut client = served.client().await;
    let both = |a: &str, b: &str| {
        let mut write = put(a, "1");
        write.ops.extend(put(b, "2").ops);
        write
    };
    // These two are in different shards of four.
    let refused = client.write(both("a", "b")).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("{user1}.name"), "{}", refused.message());
    assert!(client.write(both("{u}a", "{u}b")).await.expect("written").into_inner().applied);
}

#[tokio::test]
async fn trees_are_created_once_and_unknown_ones_refused() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let create = |hash| proto::CreateTreeRequest { route: None, name: "users".into(), hash };
    assert!(client.create_tree(create(false)).await.expect("created").into_inner().created);
    assert!(!client.create_tree(create(false)).await.expect("there").into_inner().created);
    let refused = client.create_tree(create(true)).await.expect_err("another kind");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let trees = client.list_trees(proto::ListTreesRequest::default()).await.expect("listed").into_inner().trees;
    let names: Vec<&str> = trees.iter().map(|tree| tree.name.as_str()).collect();
    assert_eq!(names, ["default", "users"]);
    let mut unknown = get("a");
    unknown.tree = "nobody".into();
    let refused = client.get(unknown).await.expect_err("unknown");
    assert!(matches!(detail(&refused).kind, Some(Kind::Invalid(_))) && refused.message().contains("nobody"));
}

#[tokio::test]
async fn a_watch_tells_every_committed_change_after_its_position_once() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let first = client.write(put("k1", "a")).await.expect("written").into_inner();
    client.write(put("k2", "b")).await.expect("written");
    let request = proto::WatchRequest { prefix: "k".into(), after: first.token, ..Default::default() };
    let mut watch = client.watch(request).await.expect("a watch").into_inner();
    let mut seen = Vec::new();
    let mut progress = None;
    while seen.len() < 2 {
        if seen.len() == 1 && progress.is_some() {
            client.write(put("x", "not of the prefix")).await.expect("written");
            client.write(put("k3", "c")).await.expect("written");
        }
        let message = watch.message().await.expect("no error").expect("it goes on");
        seen.extend(message.events.iter().map(|event| String::from_utf8(event.key.to_vec()).expect("text")));
        progress = message.progress;
        seen.dedup();
    }
    assert_eq!(seen, ["k2", "k3"]);
    let mut resumed = client
        .watch(proto::WatchRequest { after: progress, ..Default::default() })
        .await
        .expect("a watch")
        .into_inner();
    client.write(put("k4", "d")).await.expect("written");
    loop {
        let message = resumed.message().await.expect("no error").expect("it goes on");
        if let Some(event) = message.events.first() {
            assert_eq!(event.key, "k4", "what was told before the progress is not told again");
            break;
        }
    }
}

#[tokio::test]
async fn another_partition_is_refused_by_number() {
    let served = Served::start().await;
    let mut client = served.client().await;
    let mut elsewhere = get("a");
    elsewhere.route = Some(proto::Route { partition: 7, slot_table_version: 0 });
    let refused = client.get(elsewhere).await.expect_err("refused");
    assert!(matches!(detail(&refused).kind, Some(Kind::WrongPartition(_))), "{refused:?}");
}
