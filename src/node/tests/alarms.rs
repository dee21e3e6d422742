//! A broken rule of the protocol is an alarm: nothing is thrown away, nobody believes it, and it is told.

use std::sync::Arc;

use prometheus_client::encoding::text::encode;

use super::members::{Group, PATIENCE};
use crate::disk::RealDisk;
use crate::engine::{Engine, ShardState, WriteBatch};
use crate::ident::InstanceId;
use crate::node::admission::Budget;
use crate::node::http::Lifecycle;
use crate::node::metrics::{Metrics, Sources, registry};
use crate::topology::message::Reply;

/// What a scrape of the member sees.
fn scrape(group: &Group, i: usize) -> String {
    let lifecycle = Arc::new(Lifecycle::default());
    lifecycle.running(Arc::clone(group.member(i)) as _);
    let sources = Sources {
        metrics: Arc::new(Metrics::default()),
        ports: vec![],
        buffered: Budget::new(1),
        lifecycle,
        labels: vec![],
    };
    let mut text = String::new();
    encode(&mut text, &registry(sources)).expect("encoded");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_histories_of_one_epoch_are_an_alarm_and_both_are_kept() {
    let mut group = Group::new(3).await;
    let voters = group.bootstrap(0).await;
    group.serves(0).await;
    let at = group.put(0, "shared", "1").await;
    group.shows(2, at).await;
    group.stop(2).await;
    // What no member does: it opens an epoch that another one leads. Both begin it after the same entry.
    {
        let dir = group.temp.path().join("2");
        let engine =
            Engine::open(Arc::new(RealDisk::new()), &dir, group.engine.clone(), InstanceId(5)).expect("opened");
        let shard = &engine.shards()[0];
        assert_eq!(shard.tail().last, at);
        shard.open_epoch(3, 1).expect("opened");
        shard.append(3, &WriteBatch::new().put("forged", "2")).expect("appended");
        engine.sync_all().expect("durable");
    }
    group.change(0, &[0, 1], &voters, None).await;
    group.serves(0).await;
    for n in 0..5 {
        group.put(0, &format!("k{n}"), "3").await;
    }

    group.start(2).await;
    let (mut changes, forged) = (group.member(2).health_changes(), group.member(2).engine().shards()[0].clone());
    let tail = forged.tail();
    let reply = group.follow(2, 0, false).await;
    assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    let told = changes.wait_for(|_| matches!(forged.state(), ShardState::Quarantined { .. }));
    tokio::time::timeout(PATIENCE, told).await.expect("in time").expect("runs");
    let ShardState::Quarantined { reason, alarm: true } = forged.state() else {
        panic!("no alarm: {:?}", forged.state())
    };
    assert!(reason.contains("the logs differ"), "{reason}");
    assert_eq!(forged.tail(), tail, "nothing of it is thrown away");
    let metrics = scrape(&group, 2);
    for wanted in ["armdb_shard_alarm{shard=\"0\"} 1", "armdb_shard_state{shard=\"0\",state=\"quarantined\"} 1"] {
        assert!(metrics.contains(wanted), "no {wanted} in\n{metrics}");
    }
    assert!(scrape(&group, 0).contains("armdb_shard_alarm{shard=\"0\"} 0"), "the leader's is the committed one");
    drop((forged, changes));

    // The others go on without it, and no restart makes it count again.
    group.stop(2).await;
    group.start(2).await;
    let state = group.member(2).engine().shards()[0].state();
    assert!(matches!(state, ShardState::Quarantined { alarm: true, .. }), "{state:?}");
    let at = group.put(0, "after", "4").await;
    group.shows(1, at).await;
    group.all_stop().await;
}
