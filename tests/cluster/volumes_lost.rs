//! A majority of the volumes is lost: nobody leads until somebody says whose data is the truth, and what that gives up.

use std::time::Duration;

use armdb::api::{MemberState, PartitionState, TransitionType};
use rustix::process::Signal;

use crate::support::{Cluster, Manifest, process};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_most_volumes_lost_one_request_makes_the_survivors_data_the_truth_and_the_others_are_set_aside_by_another()
{
    let mut cluster = Cluster::start(Manifest::members(3)).await;
    let client = cluster.client().await;
    for i in 0..50 {
        client.put(format!("kept/{i}"), "1").await.expect("a write");
    }
    let id = cluster.try_status().await.and_then(|status| status.cluster_id).expect("a cluster has an id");
    let survivor = cluster.followers().await.remove(0).name;
    let down = cluster.keep_down(&survivor).await;
    for i in 0..30 {
        client.put(format!("lost/{i}"), "1").await.expect("a write");
    }

    // Nothing is given up while there is no need.
    let early = cluster.ask(["recover", "--from", &survivor, "--cluster-id", &id, "--accept-data-loss"]).await;
    assert!(!early.status.success(), "{}", process::told(&early));
    down.release();
    drop(client);
    assert!(cluster.end(Signal::TERM).await.success());
    // As if it had been down until the others were lost: what it caught up with meanwhile may not be there.
    let lost: Vec<String> = cluster.names().into_iter().filter(|name| *name != survivor).collect();
    for name in &lost {
        let data = cluster.dir().join(name).join("data");
        std::fs::rename(data, cluster.scratch().join(name)).expect("moved away");
    }
    cluster.run();
    cluster
        .until("it is said why nobody leads", |status| {
            let partition = &status.partitions[0];
            assert_ne!(partition.state, PartitionState::Available, "a leader was chosen by itself");
            let blank = partition.members.iter().filter(|m| m.state == MemberState::Blank).count();
            let available = status.conditions.iter().find(|condition| condition.type_ == "Available")?;
            (blank == 2 && available.message.contains("1 of the 2 voters")).then_some(())
        })
        .await;

    let unsure = cluster.ask(["recover", "--from", &survivor, "--cluster-id", &id]).await;
    assert_eq!(unsure.status.code(), Some(2), "{}", process::told(&unsure));
    assert!(process::told(&unsure).contains("--accept-data-loss"), "{}", process::told(&unsure));
    let other = "0123456789abcdef0123456789abcdef";
    let mistaken = cluster.ask(["recover", "--from", &survivor, "--cluster-id", other, "--accept-data-loss"]).await;
    assert!(!mistaken.status.success() && process::told(&mistaken).contains(&id), "{}", process::told(&mistaken));
    let blank = cluster.ask(["recover", "--from", &lost[0], "--cluster-id", &id, "--accept-data-loss"]).await;
    assert!(!blank.status.success(), "a blank volume is no truth: {}", process::told(&blank));

    let done = cluster.ask(["recover", "--from", &survivor, "--cluster-id", &id, "--accept-data-loss"]).await;
    assert!(done.status.success(), "{}", process::told(&done));
    assert!(process::told(&done).contains("lineage 1"), "{}", process::told(&done));
    assert_eq!(cluster.leader().await.name, survivor);
    cluster.healthy().await;
    let status = cluster.try_status().await.expect("it answers");
    let recovered = |t: &armdb::api::Transition| t.transition_type == TransitionType::UnsafeRecovery;
    assert!(status.recent_transitions.iter().any(recovered), "{:#?}", status.recent_transitions);
    assert!(cluster.said().contains("UnsafeRecovery"), "it is told in the log");
    let client = cluster.client().await;
    for i in 0..50 {
        assert!(client.get(format!("kept/{i}")).await.expect("a read").is_some(), "kept/{i}");
    }
    client.put("new", "1").await.expect("a write");
    drop(client);

    // One of the lost volumes turns up again.
    assert!(cluster.end(Signal::TERM).await.success());
    let old = &lost[0];
    let data = cluster.dir().join(old).join("data");
    std::fs::remove_dir_all(&data).expect("removed");
    std::fs::rename(cluster.scratch().join(old), &data).expect("put back");
    cluster.run();
    let told = cluster
        .until("the old lineage is told", |status| {
            let storage = status.conditions.iter().find(|condition| condition.type_ == "StorageHealthy")?;
            let serves = status.partitions[0].state == PartitionState::Available;
            (serves && storage.message.contains("lineage 0")).then(|| storage.message.clone())
        })
        .await;
    let sid = cluster.member(old, "shows its storage", |member| member.sid.is_some()).await.sid.expect("waited for");
    assert!(told.contains(&sid) && told.contains(old), "{told}");
    let wrong = cluster.ask(["set-aside", old, "--sid", other]).await;
    assert!(!wrong.status.success() && process::told(&wrong).contains(&sid), "{}", process::told(&wrong));
    let done = cluster.ask(["set-aside", old, "--sid", &sid]).await;
    assert!(done.status.success(), "{}", process::told(&done));
    cluster.healthy().await;
    let aside = data.with_file_name(format!("data.lineage-0-{sid}"));
    assert!(aside.join("node.meta").exists(), "what it held is kept at {}", aside.display());
    let client = cluster.impatient(Duration::from_secs(30)).await;
    assert!(client.get("new").await.expect("a read").is_some());
}
