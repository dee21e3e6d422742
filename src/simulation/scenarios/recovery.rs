//! A majority of the volumes is lost: nothing happens until somebody says whose data is the truth.

use super::super::world::CLUSTER;
use super::*;
use crate::topology::controller::{ControlRequest, Event};
use crate::topology::view::MemberState;

/// Of a member's data, while its process runs.
fn lineage(w: &World, member: usize) -> Option<u64> {
    w.places[member].process.as_ref().map(|process| process.core.standing().lineage)
}

/// Asks for an unsafe recovery from `survivor`.
fn recover(w: &mut World, survivor: usize, id: &str) {
    let request = ControlRequest::Recover { cluster_id: CLUSTER, from: format!("m-{survivor}"), id: id.to_owned() };
    let life = w.drivers[0].life;
    w.feed(0, life, Event::Request(request));
}

fn set_aside(w: &mut World, member: usize, sid: Sid, id: &str) {
    let request = ControlRequest::SetAside { member: format!("m-{member}"), sid, id: id.to_owned() };
    let life = w.drivers[0].life;
    w.feed(0, life, Event::Request(request));
}

/// Three members, of which only `survivor`, a follower that was cut off before the last writes, keeps its volume.
fn one_of_three_left() -> (World, usize) {
    let mut w = healthy(3);
    let leader = w.the_leader();
    let survivor = w.other_than(leader);
    w.expect_alarms = true;
    w.keep_down(survivor);
    let before = w.oracle.acknowledged();
    w.reach("writes are acknowledged without it", |w| w.oracle.acknowledged() > before + 20);
    w.clients = false;
    for member in (0..3).filter(|&m| m != survivor) {
        w.wipe(member);
    }
    w.let_up(survivor);
    (w, survivor)
}

#[test]
fn with_a_majority_of_volumes_lost_nobody_leads_until_somebody_accepts_the_loss() {
    let (mut w, survivor) = one_of_three_left();
    let epoch = w.epoch();
    w.run_well(Duration::from_secs(8));
    assert!(w.leader().is_none());
    assert_eq!((w.register().lineage, w.register().voters.len()), (0, 3));
    assert!(w.condition("NoQuorum").is_some(), "{:?}", w.view().conditions);

    let acknowledged = w.oracle.acknowledged();
    recover(&mut w, survivor, "r-1");
    w.reach("the survivor leads", |w| w.leader() == Some(survivor));
    assert_eq!((w.register().lineage, w.sid(survivor)), (1, w.register().voters[0]));
    assert!(w.epoch() > epoch);
    let told = w.outcome("r-1").expect("it is told");
    assert!(told.contains("are lost") && told.contains("lineage 1"), "{told}");
    assert!(w.oracle.acknowledged() < acknowledged, "what was lost is counted as lost");
    w.reach("the transition is told", |w| w.view().transitions.last().map(|t| t.kind) == Some("Recover"));

    w.clients = true;
    w.settle();
    assert_eq!(w.register().voters.len(), 3);
    assert!((0..3).all(|m| lineage(&w, m) == Some(1)));
    w.check_everything();
}

#[test]
fn a_recovery_is_finished_whatever_dies_in_its_middle() {
    let (mut w, survivor) = one_of_three_left();
    w.run_well(Duration::from_secs(2));
    recover(&mut w, survivor, "r-1");
    w.reach("the register says so", |w| w.register().lineage == 1);
    assert_eq!(lineage(&w, survivor), Some(0));
    w.keep_down(survivor);
    w.drivers[0].stop();
    w.run_well(Duration::from_secs(1));
    w.start_controller(0);
    w.let_up(survivor);
    w.clients = true;
    w.settle();
    assert_eq!(w.register().lineage, 1);
    recover(&mut w, survivor, "r-1");
    w.run_well(Duration::from_secs(2));
    assert_eq!(w.register().lineage, 1, "a request runs once");
    w.check_everything();
}

#[test]
fn what_an_unsafe_recovery_left_behind_is_refused_until_it_is_set_aside() {
    let mut w = healthy(3);
    let survivor = w.other_than(w.the_leader());
    let lost: Vec<usize> = (0..3).filter(|&m| m != survivor).collect();
    w.expect_alarms = true;
    w.keep_down(survivor);
    w.run_well(Duration::from_secs(1));
    lost.iter().for_each(|&m| w.keep_down(m));
    w.let_up(survivor);
    w.run_well(Duration::from_secs(3));
    recover(&mut w, survivor, "r-1");
    w.reach("the survivor leads", |w| w.leader() == Some(survivor));

    // They were not lost after all, and hold more; it is too late.
    for &member in &lost {
        w.let_up(member);
    }
    w.run_well(Duration::from_secs(5));
    assert_eq!(w.register().voters, [w.sid(survivor)]);
    let old: Vec<Sid> = lost.iter().map(|&m| w.sid(m)).collect();
    for (&member, sid) in lost.iter().zip(&old) {
        assert_eq!(lineage(&w, member), Some(0));
        assert_eq!(w.view().members[member].state, MemberState::Foreign);
        let told: Vec<_> = w.view().conditions.into_iter().filter(|c| c.kind == "LineageOld").collect();
        assert!(told.iter().any(|c| c.text.contains(&sid.to_string())), "{told:?}");
    }

    set_aside(&mut w, lost[0], old[1], "a-0");
    w.run_well(Duration::from_secs(1));
    let told = w.outcome("a-0").expect("it is told");
    assert!(told.contains("refused") && told.contains(&old[0].to_string()), "{told}");
    assert_eq!(w.sid(lost[0]), old[0], "another storage's name sets nothing aside");
    let own = w.sid(survivor);
    set_aside(&mut w, survivor, own, "a-1");
    w.run_well(Duration::from_secs(1));
    assert!(w.outcome("a-1").is_some_and(|told| told.contains("refused")));
    assert_eq!(w.leader(), Some(survivor));

    for (n, &member) in lost.iter().enumerate() {
        let id = format!("a-{}", n + 2);
        set_aside(&mut w, member, old[n], &id);
        w.reach("it holds new storage", |w| w.outcome(&id).is_some_and(|told| told.contains("new storage")));
    }
    w.settle();
    assert_eq!(w.register().voters.len(), 3);
    w.check_everything();
}

#[test]
fn nothing_is_given_up_while_a_leader_is_heard_or_a_quorum_answers() {
    let mut w = healthy(3);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    let follower = w.other_than(leader);
    recover(&mut w, follower, "r-1");
    w.run_well(ms(500));
    assert!(w.outcome("r-1").is_some_and(|told| told.contains("leads")), "{:?}", w.view().last_request);

    w.drivers[0].stop();
    w.keep_down(leader);
    w.start_controller(0);
    w.part(Address::Controller(0), Address::Member(3 - leader - follower));
    recover(&mut w, 7, "r-2");
    w.run_well(Duration::from_secs(1));
    assert!(w.outcome("r-2").is_some_and(|told| told.contains("no member m-7")));
    w.unblock(Address::Controller(0), Address::Member(3 - leader - follower));
    w.let_up(leader);
    w.settle();
    assert_eq!(w.register().lineage, 0);
    assert!(w.epoch() >= epoch);
    w.check_everything();
}

#[test]
fn the_survivor_that_holds_less_is_not_the_truth_while_one_that_holds_more_answers() {
    let mut w = healthy(5);
    let leader = w.the_leader();
    let behind = w.other_than(leader);
    let further = (0..5).find(|&m| m != leader && m != behind).expect("five");
    w.expect_alarms = true;
    w.keep_down(behind);
    w.run_well(Duration::from_secs(1));
    w.clients = false;
    for member in (0..5).filter(|&m| m != behind && m != further) {
        w.wipe(member);
    }
    w.let_up(behind);
    w.run_well(Duration::from_secs(3));
    recover(&mut w, behind, "r-1");
    w.run_well(Duration::from_secs(1));
    let told = w.outcome("r-1").expect("it is told");
    assert!(told.contains(&format!("m-{further} holds more")), "{told}");
    recover(&mut w, further, "r-2");
    w.reach("it leads", |w| w.leader() == Some(further));
    // The other survivor is of the older lineage now.
    let sid = w.sid(behind);
    set_aside(&mut w, behind, sid, "a-1");
    w.clients = true;
    w.settle();
    assert_eq!(w.register().voters.len(), 5);
    w.check_everything();
}

#[test]
fn a_register_older_than_an_unsafe_recovery_changes_nothing() {
    let (mut w, survivor) = one_of_three_left();
    w.run_well(Duration::from_secs(2));
    recover(&mut w, survivor, "r-1");
    w.settle();
    while w.register().lineage > 0 {
        w.store.roll_back(1);
    }
    let before = w.register().clone();
    w.drivers[0].stop();
    w.start_controller(0);
    w.run_well(Duration::from_secs(5));
    assert_eq!(*w.register(), before);
    let told = w.condition("ConfigRegressed").unwrap_or_default();
    assert!(told.contains("lineage 1"), "{told}");
}
