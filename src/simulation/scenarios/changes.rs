//! A `ChangeEpoch` that is interrupted at each of its steps.

use super::*;

/// Asks for a switchover and runs until `at` holds; the epoch before.
fn interrupted(w: &mut World, at: impl Fn(&World, Epoch) -> bool) -> Epoch {
    let epoch = w.epoch();
    w.ask(0, None);
    w.reach("the step to interrupt", |w| at(w, epoch));
    epoch
}

fn restart_controller(w: &mut World) {
    w.drivers[0].stop();
    w.run_well(ms(200));
    w.start_controller(0);
}

#[test]
fn a_controller_that_dies_after_alloc_leaves_the_old_leader_serving() {
    let mut w = healthy(3);
    let leader = w.the_leader();
    let epoch = interrupted(&mut w, |w, epoch| w.electing() && w.epoch() == epoch + 1);
    restart_controller(&mut w);
    let before = w.oracle.acknowledged();
    w.run_well(ms(500));
    assert!(w.oracle.acknowledged() > before, "nobody was fenced: the old leader serves");
    w.settle();
    assert_eq!(w.the_leader(), leader, "a live leader is a read quorum by itself and keeps its place");
    assert_eq!(w.epoch(), epoch + 2);
}

#[test]
fn a_controller_that_dies_during_fence_is_followed_by_a_later_epoch() {
    let mut w = healthy(3);
    let epoch = interrupted(&mut w, |w, epoch| (0..3).any(|m| w.promised(m) == epoch + 1));
    restart_controller(&mut w);
    w.settle();
    assert!(w.epoch() > epoch + 1);
    w.check_everything();
}

#[test]
fn a_controller_that_dies_between_decide_and_promote_leaves_an_epoch_that_nobody_leads() {
    let mut w = healthy(3);
    let epoch = interrupted(&mut w, |w, epoch| !w.electing() && w.epoch() == epoch + 1);
    let decided = w.register().leader;
    restart_controller(&mut w);
    w.settle();
    assert!(w.epoch() > epoch + 1);
    let led = (0..3).map(|m| w.places[m].led()).collect::<Vec<_>>();
    assert!(!led.contains(&(epoch + 1)), "{decided:?} was decided, {led:?} were led");
    w.check_everything();
}

#[test]
fn a_leader_that_dies_right_after_its_promotion_never_leads_that_epoch_again() {
    let mut w = healthy(3);
    let epoch = interrupted(&mut w, |w, epoch| {
        (0..3).any(|m| w.places[m].process.as_ref().is_some_and(|p| p.core.leads(epoch + 1)))
    });
    let promoted = (0..3).find(|&m| w.places[m].led() == epoch + 1).expect("it leads");
    w.kill(promoted, ms(20));
    w.run_well(ms(100));
    w.settle();
    assert!(w.epoch() > epoch + 1);
    w.check_everything();
}

#[test]
fn a_candidate_that_dies_while_it_assembles_is_passed_over() {
    let mut w = healthy(3);
    let leader = w.the_leader();
    let (a, b) = (w.other_than(leader), 3 - leader - w.other_than(leader));
    // b hears nothing for a while, so that it lacks entries that a has.
    w.block(Address::Member(leader), Address::Member(b), ms(300));
    w.run_well(ms(250));
    w.keep_down(leader);
    w.reach("an attempt is fencing", |w| w.promised(a) == w.epoch() && w.electing());
    w.kill(a, ms(3000));
    w.reach("somebody leads", |w| w.leader().is_some_and(|l| l != leader));
    w.let_up(leader);
    w.settle();
    w.check_everything();
}

#[test]
fn a_controller_that_wakes_after_another_finished_changes_nothing() {
    let mut w = controlled(3, 2);
    w.settle();
    let epoch = w.epoch();
    w.ask(0, None);
    w.reach("the first one has fenced", |w| (0..3).any(|m| w.promised(m) == epoch + 1));
    w.drivers[0].paused_until = w.now + Duration::from_secs(6);
    w.reach("the second one finishes", |w| w.epoch() > epoch + 1 && w.leader().is_some());
    let (finished, leader) = (w.epoch(), w.the_leader());
    w.run_well(Duration::from_secs(7));
    assert_eq!((w.epoch(), w.the_leader()), (finished, leader));
    w.check_everything();
}

#[test]
fn a_lost_answer_to_fence_is_asked_for_again_under_the_same_epoch() {
    let mut w = healthy(3);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    w.keep_down(leader);
    w.reach("an epoch is allocated", |w| w.electing());
    for member in (0..3).filter(|&m| m != leader) {
        w.block(Address::Member(member), Address::Controller(0), ms(200));
    }
    w.reach("another member leads", |w| w.leader().is_some());
    assert_eq!(w.epoch(), epoch + 1);
}

#[test]
fn a_swap_whose_answer_is_lost_is_neither_repeated_nor_forgotten() {
    let mut w = healthy(3);
    let epoch = w.epoch();
    // Each swap is done and the controller is told that nobody knows.
    w.store.forgetful = true;
    let id = w.ask(0, None);
    w.reach("it is done", |w| w.outcome(&id).is_some() && w.leader().is_some());
    assert_eq!(w.epoch(), epoch + 1, "both ALLOC and DECIDE were found done");
}

#[test]
fn what_a_deposed_leader_appended_alone_is_truncated_and_never_acknowledged() {
    let mut w = healthy(3);
    let leader = w.the_leader();
    for other in (0..3).filter(|&m| m != leader) {
        w.block(Address::Member(leader), Address::Member(other), Duration::from_secs(4));
        w.block(Address::Member(other), Address::Member(leader), Duration::from_secs(4));
    }
    w.block(Address::Member(leader), Address::Controller(0), Duration::from_secs(4));
    let op = w.write(leader);
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    assert!(!w.oracle.is_acknowledged(op));
    w.run_well(Duration::from_secs(5));
    w.settle();
    assert!(!w.holds(leader, op));
    assert!(!w.oracle.is_acknowledged(op));
    w.check_everything();
}
