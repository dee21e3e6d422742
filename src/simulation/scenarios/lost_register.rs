//! The register is gone, or older than the data.

use super::*;
use crate::topology::controller::{ControlRequest, Event};
use crate::topology::view::PartitionState;

fn adopt(w: &mut World) {
    let life = w.drivers[0].life;
    w.feed(0, life, Event::Request(ControlRequest::AdoptCluster { cluster_id: super::super::world::CLUSTER }));
}

fn recover(w: &mut World, left: usize) {
    let cluster_id = super::super::world::CLUSTER;
    let request = ControlRequest::Recover { cluster_id, from: format!("m-{left}"), id: "r-1".into() };
    let life = w.drivers[0].life;
    w.feed(0, life, Event::Request(request));
}

fn lose(w: &mut World) {
    w.store.lose();
    let life = w.drivers[0].life;
    w.feed(0, life, Event::Request(ControlRequest::RefreshRegister));
}

#[test]
fn a_lost_register_is_rebuilt_under_the_leader_that_is_there() {
    for members in [1, 2, 3, 5] {
        let mut w = healthy(members);
        let (leader, epoch, voters) = (w.the_leader(), w.epoch(), w.register().voters.clone());
        lose(&mut w);
        w.reach("there is one again", |w| w.leader().is_some());
        assert_eq!((w.the_leader(), &w.register().voters), (leader, &voters));
        assert!(w.epoch() > epoch);
        w.settle();
        assert_eq!(w.view().transitions.last().map(|t| t.kind), Some("Rebuild"));
        w.check_everything();
    }
}

#[test]
fn a_register_lost_with_a_member_down_waits_for_that_member() {
    let mut w = healthy(3);
    let down = w.other_than(w.the_leader());
    w.keep_down(down);
    w.run_well(ms(1500));
    lose(&mut w);
    w.run_well(Duration::from_secs(5));
    assert!(w.store.present().is_none());
    assert_eq!(w.view().state, PartitionState::RegisterLost);
    let told = w.condition("RegisterLost").unwrap_or_default();
    assert!(told.contains("adopt cluster") && told.contains(&w.sid(down).to_string()), "{told}");
    w.let_up(down);
    w.settle();
    w.check_everything();
}

#[test]
fn a_register_lost_with_a_volume_is_rebuilt_only_when_the_cluster_is_adopted() {
    let mut w = healthy(3);
    let lost = w.other_than(w.the_leader());
    for member in 0..3 {
        w.keep_down(member);
    }
    w.store.lose();
    w.wipe(lost);
    w.run_well(ms(1500));
    for member in 0..3 {
        w.let_up(member);
    }
    w.run_well(Duration::from_secs(6));
    assert!(w.store.present().is_none(), "a blank volume among used ones is no reason to begin anew");
    adopt(&mut w);
    w.settle();
    assert!(w.register().voters.contains(&w.sid(lost)), "the lost volume's successor votes in the end");
    assert!(w.view().transitions.iter().any(|t| t.kind == "Adopt"));
    w.check_everything();
}

#[test]
fn too_many_lost_volumes_are_not_adopted() {
    for (members, lost) in [(2, 1), (3, 2), (5, 2)] {
        let mut w = healthy(members);
        for member in 0..members {
            w.keep_down(member);
        }
        w.store.lose();
        for member in 0..lost {
            w.wipe(member);
        }
        w.run_well(ms(1500));
        for member in 0..members {
            w.let_up(member);
        }
        adopt(&mut w);
        w.run_well(Duration::from_secs(6));
        assert!(w.store.present().is_none(), "{lost} of {members} are gone");
        let told = w.condition("RegisterLost").unwrap_or_default();
        assert!(told.contains("start the members") && !told.contains("adopt cluster"), "{told}");
    }
}

#[test]
fn another_clusters_id_adopts_nothing() {
    let mut w = healthy(3);
    let down = w.other_than(w.the_leader());
    w.keep_down(down);
    w.run_well(ms(1500));
    lose(&mut w);
    let life = w.drivers[0].life;
    let other = crate::ident::ClusterId(0x0bad);
    w.feed(0, life, Event::Request(ControlRequest::AdoptCluster { cluster_id: other }));
    w.run_well(Duration::from_secs(4));
    assert!(w.store.present().is_none());
}

#[test]
fn a_register_that_went_back_is_brought_forward_by_the_members() {
    let mut w = healthy(3);
    for _ in 0..3 {
        w.ask(0, None);
        w.run_well(Duration::from_secs(1));
        w.settle();
    }
    let epoch = w.epoch();
    w.store.roll_back(3);
    assert!(w.epoch() < epoch);
    w.drivers[0].stop();
    w.start_controller(0);
    w.reach("the epoch is later than ever", |w| w.epoch() > epoch && w.leader().is_some());
    w.settle();
    w.check_everything();
}

#[test]
fn a_register_that_went_back_is_left_alone_while_a_member_is_missing() {
    let mut w = healthy(3);
    w.ask(0, None);
    w.run_well(Duration::from_secs(1));
    w.settle();
    let down = w.other_than(w.the_leader());
    w.keep_down(down);
    w.store.roll_back(2);
    let epoch = w.epoch();
    w.drivers[0].stop();
    w.start_controller(0);
    w.run_well(Duration::from_secs(5));
    assert_eq!(w.epoch(), epoch);
    assert!(w.condition("ConfigRegressed").is_some(), "{:?}", w.view().conditions);
    w.let_up(down);
    w.settle();
    w.check_everything();
}

/// Two voters, of whom the follower was given up as a voter: its leader goes on alone, and the register is the one that was
/// there between ALLOC and DECIDE of that epoch. The leader and its epoch.
fn alone_and_rolled_back() -> (World, usize, Epoch) {
    let mut w = healthy(2);
    let leader = w.the_leader();
    w.keep_down(1 - leader);
    w.reach("it leads alone", |w| w.leader() == Some(leader) && w.register().voters.len() == 1);
    w.run_well(ms(300));
    let epoch = w.epoch();
    w.store.roll_back(1);
    assert!(w.electing() && w.epoch() == epoch && w.register().voters.len() == 2, "{:?}", w.register());
    (w, leader, epoch)
}

/// It is heard no more before the register is looked at; what it said before is known. The other one comes back.
fn lose_the_leader(w: &mut World, leader: usize) {
    w.keep_down(leader);
    w.let_up(1 - leader);
    w.run_well(Duration::from_secs(2));
    let life = w.drivers[0].life;
    w.feed(0, life, Event::Request(ControlRequest::RefreshRegister));
    w.run_well(Duration::from_secs(8));
    assert_eq!(w.leader(), None);
}

#[test]
fn a_register_that_went_back_within_an_epoch_is_brought_forward_under_that_epochs_leader() {
    let (mut w, leader, epoch) = alone_and_rolled_back();
    w.drivers[0].stop();
    w.start_controller(0);
    w.reach("the epoch is later than ever", |w| w.epoch() > epoch && w.leader() == Some(leader));
    assert_eq!(w.register().voters, [w.sid(leader)]);
    w.let_up(1 - leader);
    w.settle();
    w.check_everything();
}

#[test]
fn a_register_that_went_back_within_an_epoch_gives_nobody_the_lead_who_lacks_what_the_leader_wrote() {
    let (mut w, leader, epoch) = alone_and_rolled_back();
    lose_the_leader(&mut w, leader);
    let told = w.condition("ConfigRegressed").unwrap_or_default();
    assert!(told.contains(&w.sid(leader).to_string()), "{told}");
    w.let_up(leader);
    w.reach("it leads again", |w| w.leader() == Some(leader) && w.epoch() > epoch);
    w.settle();
    w.check_everything();
}

#[test]
fn nothing_is_given_up_where_those_who_answer_know_more_than_a_register_that_went_back() {
    let mut w = healthy(3);
    w.ask(0, None);
    w.run_well(Duration::from_secs(1));
    w.settle();
    let leader = w.the_leader();
    let left = w.other_than(leader);
    w.expect_alarms = true;
    w.store.roll_back(2);
    w.keep_down(leader);
    w.drivers[0].stop();
    w.start_controller(0);
    w.run_well(Duration::from_secs(8));
    recover(&mut w, left);
    w.reach("it is refused", |w| w.outcome("r-1").is_some());
    assert!(w.outcome("r-1").is_some_and(|told| told.contains("adopted")), "{:?}", w.outcome("r-1"));
    assert_eq!(w.register().lineage, 0);
    w.let_up(leader);
    w.settle();
    w.check_everything();
}

#[test]
fn where_the_only_one_who_holds_everything_is_lost_too_somebody_may_accept_the_loss() {
    let (mut w, leader, _) = alone_and_rolled_back();
    let left = 1 - leader;
    w.expect_alarms = true;
    lose_the_leader(&mut w, leader);
    w.clients = false;
    recover(&mut w, left);
    w.reach("the one that is left leads", |w| w.leader() == Some(left));
    assert!(w.outcome("r-1").is_some_and(|told| told.contains("lineage 1")), "{:?}", w.outcome("r-1"));
    w.wipe(leader);
    w.let_up(leader);
    w.clients = true;
    w.settle();
    w.check_everything();
}

#[test]
fn a_register_lost_before_the_first_leader_is_written_again() {
    let mut w = world(3);
    w.reach("some are initialised", |w| {
        w.places.iter().any(|p| p.process.as_ref().is_some_and(|p| p.core.durable().cluster_id.is_some()))
    });
    w.drivers[0].stop();
    w.store.lose();
    w.start_controller(0);
    w.settle();
    assert_eq!(w.register().voters.len(), 3);
}
