//! Switchovers, drains, and what becomes of those that cannot be carried out.

use super::*;

#[test]
fn a_switchover_moves_the_lead_where_it_was_asked_to_without_failing_a_write() {
    let mut w = healthy(3);
    for target in [1, 2, 0, 2] {
        if w.the_leader() == target {
            continue;
        }
        let nevers = w.oracle.nevers();
        let (asked, epoch) = (w.now, w.epoch());
        let id = w.ask(0, Some(target));
        w.reach("the target leads", |w| w.leader() == Some(target));
        assert!(w.now - asked < ms(150), "it took {:?}", w.now - asked);
        assert_eq!(w.epoch(), epoch + 1);
        w.run_well(ms(400));
        assert_eq!(w.outcome(&id), Some(format!("m-{target} leads epoch {}", epoch + 1)));
        // Refused while the lead moves: certainly not done, so the client sends it again.
        assert!(w.oracle.nevers() - nevers < 20);
        w.settle();
    }
    w.check_everything();
}

#[test]
fn a_switchover_to_anybody_moves_it_to_somebody_else() {
    let mut w = healthy(3);
    let leader = w.the_leader();
    w.ask(0, None);
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    assert_eq!(w.view().transitions.last().map(|t| t.kind), Some("Switchover"));
}

#[test]
fn a_switchover_that_makes_no_sense_is_refused_with_its_reason() {
    let mut w = healthy(3);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    for (target, why) in [(Some(leader), "leads already"), (Some(77), "refused: there is no member m-77")] {
        let id = w.ask(0, target);
        w.reach("it is answered", |w| w.outcome(&id).is_some());
        let said = w.outcome(&id).unwrap_or_default();
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(w.epoch(), epoch);
}

#[test]
fn a_switchover_to_a_member_that_is_gone_is_refused_after_a_while() {
    let mut w = healthy(3);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    let target = w.other_than(leader);
    w.keep_down(target);
    w.run_well(ms(200));
    let id = w.ask(0, Some(target));
    w.run_well(Duration::from_secs(11));
    let said = w.outcome(&id).expect("it is answered");
    assert!(said.contains("not in sync"), "{said}");
    assert_eq!((w.the_leader(), w.epoch()), (leader, epoch));
}

#[test]
fn a_switchover_whose_target_vanishes_on_the_way_says_who_leads_instead() {
    let mut w = healthy(3);
    let leader = w.the_leader();
    let target = w.other_than(leader);
    let id = w.ask(0, Some(target));
    w.reach("the leader is fenced", |w| w.promised(leader) == w.epoch() && w.electing());
    w.keep_down(target);
    w.reach("it is answered", |w| w.outcome(&id).is_some() && w.leader().is_some());
    let said = w.outcome(&id).unwrap_or_default();
    assert!(said.contains("could not take over"), "{said}");
    assert_eq!(w.the_leader(), leader, "nobody asked for a third one");
    w.let_up(target);
    w.settle();
    w.check_everything();
}

#[test]
fn a_request_is_run_once_even_if_it_is_handed_over_twice() {
    let mut w = healthy(3);
    let id = w.ask(0, None);
    w.reach("it is done", |w| w.outcome(&id).is_some() && w.leader().is_some());
    w.settle();
    let epoch = w.epoch();
    w.ask_again(0, &id);
    w.run_well(Duration::from_secs(2));
    assert_eq!(w.epoch(), epoch);
}

#[test]
fn a_paused_cluster_refuses_a_switchover() {
    let mut w = healthy(3);
    w.respec(|spec| spec.paused = true);
    let id = w.ask(0, None);
    w.reach("it is answered", |w| w.outcome(&id).is_some());
    assert!(w.outcome(&id).is_some_and(|o| o.contains("paused")));
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over_before_it_goes() {
    let mut w = healthy(3);
    let leader = w.the_leader();
    w.terminate(leader);
    let told = w.now;
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    assert!(w.now - told < ms(300), "it took {:?}", w.now - told);
    assert!(w.places[leader].process.is_some(), "it is still there");
    assert_eq!(w.view().transitions.last().map(|t| t.kind), Some("Drain"));
    w.run_well(Duration::from_secs(6));
    w.settle();
    w.check_everything();
}

#[test]
fn of_two_members_the_one_that_stops_is_given_up_as_a_voter_first() {
    let mut w = healthy(2);
    let leader = w.the_leader();
    w.terminate(leader);
    w.reach("the other one leads alone", |w| w.leader().is_some_and(|l| l != leader));
    assert_eq!(w.register().voters, [w.sid(1 - leader)]);
    w.run_well(Duration::from_secs(7));
    w.settle();
    assert_eq!(w.register().voters.len(), 2);
}

#[test]
fn a_single_member_that_stops_has_nobody_to_hand_over_to() {
    let mut w = healthy(1);
    let epoch = w.epoch();
    w.terminate(0);
    w.run_well(Duration::from_secs(3));
    assert_eq!(w.epoch(), epoch);
    w.run_well(Duration::from_secs(4));
    w.settle();
    assert_eq!(w.epoch(), epoch + 1);
}
