//! The register file is lost: with all members there it is rebuilt; with less, somebody must ask for it.

use armdb::api::{MemberState, PartitionState, TransitionType};
use rustix::process::Signal;

use crate::support::{Cluster, Manifest, Writers, process};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_register_is_rebuilt_from_living_members_and_never_bootstrapped_over_data() {
    let cluster = Cluster::start(Manifest::members(3)).await;
    let writers = Writers::start(&cluster, 4).await;
    writers.acknowledge(300).await;
    let before = cluster.try_status().await.expect("it answers");
    let register = cluster.dir().join("register.json");
    std::fs::remove_file(&register).expect("removed");
    cluster
        .until("the register is rebuilt", |status| {
            let rebuilt = status.recent_transitions.iter().any(|t| t.transition_type == TransitionType::Adoption);
            (rebuilt && status.partitions[0].state == PartitionState::Available && register.exists()).then_some(())
        })
        .await;
    let after = cluster.try_status().await.expect("it answers");
    assert_eq!(after.cluster_id, before.cluster_id);
    assert!(after.partitions[0].epoch > before.partitions[0].epoch);
    cluster.healthy().await;
    writers.acknowledge(300).await;
    writers.finish().await.compare_everywhere(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_register_lost_together_with_a_member_is_rebuilt_only_when_somebody_adopts_the_cluster() {
    let mut cluster = Cluster::start(Manifest::members(3)).await;
    let writers = Writers::start(&cluster, 4).await;
    writers.acknowledge(300).await;
    let books = writers.finish().await;
    let id = cluster.try_status().await.and_then(|status| status.cluster_id).expect("a cluster has an id");
    assert!(cluster.end(Signal::TERM).await.success());
    std::fs::remove_file(cluster.dir().join("register.json")).expect("removed");
    std::fs::remove_dir_all(cluster.dir().join("kv-0-1/data")).expect("removed");
    cluster.run();

    let told = cluster
        .until("it is said why nobody leads", |status| {
            assert_ne!(status.partitions[0].state, PartitionState::Available, "a cluster was made over data");
            let condition = status.conditions.iter().find(|condition| condition.type_ == "Available")?;
            let blank = status.partitions[0].members.iter().filter(|m| m.state == MemberState::Blank).count();
            let reached = status.partitions[0].members.iter().all(|m| m.sid.is_some());
            (reached && blank == 1 && condition.message.contains("adopt")).then(|| condition.message.clone())
        })
        .await;
    assert!(told.contains(&id), "the id to adopt is not told: {told}");

    let other = cluster.ask(["adopt", "0123456789abcdef0123456789abcdef"]).await;
    assert!(!other.status.success(), "another cluster's id was taken: {}", process::told(&other));
    assert!(String::from_utf8_lossy(&other.stderr).contains(&id), "{}", process::told(&other));
    let status = cluster.try_status().await.expect("it answers");
    assert_ne!(status.partitions[0].state, PartitionState::Available);

    let adopted = cluster.ask(["adopt", &id]).await;
    assert!(adopted.status.success(), "{}", process::told(&adopted));
    cluster.healthy().await;
    let status = cluster.try_status().await.expect("it answers");
    assert_eq!(status.cluster_id.as_ref(), Some(&id));
    books.compare_everywhere(&cluster).await;
}
