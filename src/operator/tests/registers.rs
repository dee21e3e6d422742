//! Registers behind an API server.

use serde_json::json;

use super::super::cache::Key;
use super::super::kinds::Kind;
use super::super::register::PartitionRegister;
use super::fake_api::FakeApi;
use crate::drive::AsyncRegister as _;
use crate::topology::register::{CasOutcome, ReadOutcome, Register, Version};

fn register(epoch: u64) -> Register {
    Register { epoch, ..super::register(&[1, 2, 3]) }
}

/// A server with an empty partition, and two who use its register.
fn two() -> (FakeApi, PartitionRegister, PartitionRegister) {
    let server = FakeApi::default();
    let object = server.put(Kind::Partition, json!({"metadata": {"name": "kv-0", "namespace": "prod"}, "spec": {}}));
    let uid = object["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let one = || PartitionRegister::new(&server.kube(), Key::new("prod", "kv-0"), uid.clone());
    let (first, second) = (one(), one());
    (server, first, second)
}

fn written(outcome: CasOutcome) -> Version {
    match outcome {
        CasOutcome::Written(version) => version,
        other => panic!("{other:?}"),
    }
}

fn found(outcome: ReadOutcome) -> (Register, Version) {
    match outcome {
        ReadOutcome::Found(register, version) => (*register, version),
        other => panic!("{other:?}"),
    }
}

fn failed(outcome: ReadOutcome) -> String {
    match outcome {
        ReadOutcome::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn of_two_who_swap_from_one_version_one_wins_and_the_other_sees_it() {
    let (_server, first, second) = two();
    assert!(matches!(first.read().await, ReadOutcome::Absent));
    let begun = written(first.compare_and_swap(None, &register(1)).await);
    assert_eq!(second.compare_and_swap(None, &register(9)).await, CasOutcome::Conflict);
    let (seen, version) = found(second.read().await);
    assert_eq!((seen.epoch, &version), (1, &begun));
    written(second.compare_and_swap(Some(&version), &register(2)).await);
    assert_eq!(first.compare_and_swap(Some(&begun), &register(3)).await, CasOutcome::Conflict);
    assert_eq!(found(first.read().await).0.epoch, 2);
}

#[tokio::test]
async fn a_winner_swaps_again_from_what_it_wrote_with_one_request() {
    let (server, first, _) = two();
    let mut version = written(first.compare_and_swap(None, &register(1)).await);
    let reads = server.reads();
    for epoch in 2..5 {
        version = written(first.compare_and_swap(Some(&version), &register(epoch)).await);
    }
    assert_eq!(server.reads(), reads, "a failover does not wait for reads that tell nothing new");
}

#[tokio::test]
async fn a_change_of_the_objects_spec_costs_a_read_and_never_a_register() {
    let (server, first, _) = two();
    let version = written(first.compare_and_swap(None, &register(1)).await);
    server.change(Kind::Partition, "prod", "kv-0", |object| object["spec"]["paused"] = true.into());
    assert_eq!(first.compare_and_swap(Some(&version), &register(2)).await, CasOutcome::Conflict);
    let (_, version) = found(first.read().await);
    written(first.compare_and_swap(Some(&version), &register(2)).await);
    let stored = server.get(Kind::Partition, "prod", "kv-0").expect("there");
    assert_eq!(stored["spec"]["paused"], true);
}

#[tokio::test]
async fn fields_that_others_wrote_stay() {
    let (server, first, _) = two();
    server.change(Kind::Partition, "prod", "kv-0", |object| object["status"]["note"] = "of a newer operator".into());
    written(first.compare_and_swap(None, &register(1)).await);
    let stored = server.get(Kind::Partition, "prod", "kv-0").expect("there");
    assert_eq!(stored["status"]["note"], "of a newer operator");
}

#[tokio::test]
async fn a_store_that_changes_what_is_written_stops_all_deciding() {
    let (server, first, _) = two();
    server.admit(|collection, object| {
        if collection.ends_with("armdbpartitions")
            && let Some(register) = object["status"]["register"].as_object_mut()
        {
            register.remove("lineage");
        }
    });
    match first.compare_and_swap(None, &register(1)).await {
        CasOutcome::Unknown(why) => assert!(why.contains("not stored as it was written"), "{why}"),
        other => panic!("{other:?}"),
    }
    server.admit(|_, _| {});
    assert!(failed(first.read().await).contains("until that is mended"));
    let writes = server.writes().len();
    assert!(matches!(first.compare_and_swap(None, &register(1)).await, CasOutcome::Unknown(_)));
    assert!(writes > 0 && server.writes().is_empty(), "nothing is written any more");
}

#[tokio::test]
async fn a_register_that_somebody_edited_is_not_acted_upon() {
    let (server, first, _) = two();
    written(first.compare_and_swap(None, &register(1)).await);
    server.change(Kind::Partition, "prod", "kv-0", |object| object["status"]["register"]["epoch"] = 7.into());
    assert!(failed(first.read().await).contains("digest"));
}

#[tokio::test]
async fn an_answer_that_never_came_is_unknown_and_a_refusal_by_conflict_is_not() {
    let (server, first, _) = two();
    let version = written(first.compare_and_swap(None, &register(1)).await);
    for (code, unknown) in [(500, true), (503, true), (409, false), (429, true)] {
        server.fail("PUT", code);
        let outcome = first.compare_and_swap(Some(&version), &register(2)).await;
        assert_eq!(matches!(outcome, CasOutcome::Unknown(_)), unknown, "{code}: {outcome:?}");
        assert_eq!(outcome == CasOutcome::Conflict, !unknown, "{code}");
    }
    server.fail("GET", 500);
    assert!(matches!(first.read().await, ReadOutcome::Failed(_)));
}

#[tokio::test]
async fn the_register_of_another_object_of_the_same_name_is_another_one() {
    let (server, first, _) = two();
    let version = written(first.compare_and_swap(None, &register(1)).await);
    server.remove(Kind::Partition, "prod", "kv-0");
    assert!(failed(first.read().await).contains("gone"));
    server.put(Kind::Partition, json!({"metadata": {"name": "kv-0", "namespace": "prod"}, "spec": {}}));
    assert!(failed(first.read().await).contains("another object"));
    assert_eq!(first.compare_and_swap(Some(&version), &register(2)).await, CasOutcome::Conflict);
}
