//! Who acts, with an API server.

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::cache::Key;
use super::super::kinds::Kind;
use super::super::lease;
use super::fake_api::FakeApi;

struct Replica {
    holds: watch::Receiver<bool>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn replica(server: &FakeApi, name: &str) -> Replica {
    let (sender, holds) = watch::channel(false);
    let stop = CancellationToken::new();
    let running = lease::run(server.kube(), Key::new("sys", "op"), name.into(), sender, stop.clone());
    Replica { holds, stop, task: tokio::spawn(running) }
}

fn holder(server: &FakeApi) -> String {
    let lease = server.get(Kind::Lease, "sys", "op").expect("a lease");
    lease["spec"]["holderIdentity"].as_str().expect("a holder").to_owned()
}

#[tokio::test]
async fn the_first_acts_and_gives_the_lease_back_when_it_stops_so_that_the_next_need_not_wait() {
    let server = FakeApi::default();
    let mut first = replica(&server, "a");
    first.holds.wait_for(|holds| *holds).await.expect("it runs");
    assert_eq!(holder(&server), "a");
    let mut second = replica(&server, "b");
    first.stop.cancel();
    first.task.await.expect("no panic");
    assert!(!*first.holds.borrow());
    second.holds.wait_for(|holds| *holds).await.expect("it runs");
    let lease = server.get(Kind::Lease, "sys", "op").expect("a lease");
    assert_eq!(lease["spec"]["holderIdentity"], "b");
    second.stop.cancel();
    second.task.await.expect("no panic");
}

#[tokio::test]
async fn a_lease_that_somebody_else_took_is_noticed_at_the_next_renewal() {
    let server = FakeApi::default();
    let mut first = replica(&server, "a");
    first.holds.wait_for(|holds| *holds).await.expect("it runs");
    server.change(Kind::Lease, "sys", "op", |lease| lease["spec"]["holderIdentity"] = "b".into());
    first.holds.wait_for(|holds| !*holds).await.expect("it runs");
    assert_eq!(holder(&server), "b", "what another one holds is not written over");
    first.stop.cancel();
    first.task.await.expect("no panic");
    assert_eq!(holder(&server), "b", "nor given back");
}
