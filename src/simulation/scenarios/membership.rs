//! Who votes: beginnings, replaced volumes, growing, shrinking, voters that are missing.

use super::*;
use crate::topology::spec::{AckRule, PartitionSpec};
use crate::topology::view::PartitionState;

#[test]
fn a_new_cluster_waits_for_all_its_members_and_begins_with_all_of_them() {
    let mut w = world(3);
    w.places[2].kept_down = true;
    w.run_well(Duration::from_secs(5));
    assert!(w.store.present().is_none());
    assert_eq!(w.view().state, PartitionState::WaitingForMembers);
    assert!(w.condition("WaitingForMembers").is_some_and(|c| c.contains("m-2")));
    w.let_up(2);
    w.settle();
    assert_eq!(w.register().voters.len(), 3);
    assert_eq!(w.the_leader(), 0, "the first by ordinal");
    assert_eq!(w.view().transitions.last().map(|t| t.kind), Some("Bootstrap"));
}

#[test]
fn several_controllers_begin_one_cluster() {
    let mut w = controlled(3, 3);
    w.settle();
    assert_eq!(w.register().epoch, 2);
}

#[test]
fn a_volume_that_is_lost_before_the_first_leader_is_exchanged() {
    let mut w = world(3);
    w.reach("the register is written", |w| w.store.present().is_some());
    w.wipe(1);
    w.settle();
    assert!(w.register().voters.contains(&w.sid(1)));
}

#[test]
fn a_replaced_volume_learns_first_and_takes_the_lost_ones_vote_in_one_change() {
    let mut w = healthy(3);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    let lost = w.other_than(leader);
    let old = w.sid(lost);
    w.wipe(lost);
    while w.register().voters.contains(&old) {
        let new = w.sid(lost);
        assert!(!w.register().voters.contains(&new));
        w.run_well(ms(20));
    }
    assert!(w.register().voters.contains(&w.sid(lost)));
    assert!(w.places[lost].is_ready());
    w.settle();
    assert_eq!((w.the_leader(), w.epoch()), (leader, epoch + 1));
    assert_eq!(w.view().transitions.last().map(|t| t.kind), Some("ReplaceVoter"));
    w.check_everything();
}

#[test]
fn the_leaders_volume_may_be_lost_too() {
    let mut w = healthy(3);
    let leader = w.the_leader();
    w.wipe(leader);
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    w.settle();
    assert!(w.register().voters.contains(&w.sid(leader)));
    w.check_everything();
}

/// The leader that is left has only a lost storage to commit with; the other two hold everything, and do not vote.
#[test]
fn who_holds_everything_takes_the_place_of_a_voter_that_a_new_leader_cannot_commit_without() {
    let mut w = healthy(3);
    let leader = w.the_leader();
    let lost = w.other_than(leader);
    let away = 3 - leader - lost;
    w.keep_down(away);
    w.run_well(Duration::from_secs(65));
    assert_eq!((w.register().voters.len(), w.leader()), (2, Some(leader)));
    let epoch = w.epoch();
    w.wipe(lost);
    w.kill(leader, ms(50));
    w.let_up(away);
    w.reach("somebody serves", |w| w.epoch() > epoch && w.leader().is_some());
    w.settle();
    assert_eq!(w.register().voters.len(), 3);
    w.check_everything();
}

#[test]
fn of_two_members_the_one_left_goes_on_alone_and_takes_the_other_back() {
    let mut w = healthy(2);
    let leader = w.the_leader();
    for lost in [1 - leader, leader] {
        w.keep_down(lost);
        w.reach("the other one leads alone", |w| w.leader() == Some(1 - lost) && w.register().voters.len() == 1);
        let before = w.oracle.acknowledged();
        w.run_well(ms(500));
        assert!(w.oracle.acknowledged() > before);
        w.let_up(lost);
        w.settle();
        assert_eq!(w.register().voters.len(), 2);
    }
    w.check_everything();
}

#[test]
fn with_all_acknowledging_a_missing_voter_is_given_up_and_taken_back() {
    let mut w = World::new(Plan { ack: AckRule::All, ..Plan::calm(3) });
    w.settle();
    let lost = w.other_than(w.the_leader());
    w.keep_down(lost);
    w.reach("two voters are left", |w| w.register().voters.len() == 2 && w.leader().is_some());
    assert_eq!(w.register().write_quorum, 2);
    w.let_up(lost);
    w.settle();
    assert_eq!(w.register().write_quorum, 3);
    w.check_everything();
}

#[test]
fn nothing_goes_below_min_voters_by_itself() {
    let mut w = healthy(3);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    for member in (0..3).filter(|&m| m != leader) {
        w.keep_down(member);
    }
    w.run_well(Duration::from_secs(90));
    assert_eq!((w.register().voters.len(), w.epoch()), (3, epoch), "no epoch is used up for nothing either");
    assert!(w.condition("NoQuorum").is_some());
}

#[test]
fn a_voter_that_is_gone_for_a_minute_is_given_up_and_taken_back() {
    let mut w = healthy(5);
    let lost = w.other_than(w.the_leader());
    w.keep_down(lost);
    w.run_well(Duration::from_secs(55));
    assert_eq!(w.register().voters.len(), 5);
    w.reach("four voters are left", |w| w.register().voters.len() == 4);
    w.let_up(lost);
    w.settle();
    assert_eq!(w.register().voters.len(), 5);
}

#[test]
fn the_number_of_voters_follows_the_spec_up_and_down() {
    let mut w = healthy(1);
    for count in [3, 5, 3, 2, 1, 4] {
        while w.places.len() < count {
            w.add_place();
        }
        w.respec(|spec| {
            spec.replicas = count as u32;
            spec.min_voters = PartitionSpec::default_min_voters(count as u32);
        });
        w.run_well(ms(500));
        w.until(Duration::from_secs(30), World::converged);
        w.settle();
        assert_eq!(w.register().voters.len(), count);
    }
    w.check_everything();
}

#[test]
fn a_paused_cluster_changes_no_voters() {
    let mut w = healthy(3);
    w.respec(|spec| spec.paused = true);
    let voters = w.register().voters.clone();
    let lost = w.other_than(w.the_leader());
    w.wipe(lost);
    w.run_well(Duration::from_secs(6));
    assert_eq!(w.register().voters, voters);
    w.respec(|spec| spec.paused = false);
    w.settle();
    assert!(w.register().voters.contains(&w.sid(lost)));
}

#[test]
fn a_changed_write_quorum_is_one_change_with_everybody_assembled() {
    let mut w = healthy(3);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    w.respec(|spec| spec.ack = AckRule::All);
    w.settle();
    assert_eq!((w.register().write_quorum, w.epoch(), w.the_leader()), (3, epoch + 1, leader));
    assert_eq!(w.view().transitions.last().map(|t| t.kind), Some("Reconfigure"));
}

#[test]
fn a_volume_of_another_cluster_is_left_alone() {
    let mut w = healthy(3);
    let stranger = w.other_than(w.the_leader());
    w.wipe(stranger);
    w.places[stranger].volume.rewrite_meta(|meta| {
        meta.cluster_id = Some(crate::ident::ClusterId(0xbad));
        meta.init = crate::engine::InitState::Done;
    });
    w.run_well(Duration::from_secs(5));
    assert!(!w.register().voters.contains(&w.sid(stranger)));
    assert!(w.condition("ForeignStorage").is_some_and(|c| c.contains(&format!("m-{stranger}"))));
    assert_eq!(w.places[stranger].promised(), 0, "it was told nothing that it could have obeyed");
}

#[test]
fn a_copied_volume_is_refused_and_the_original_stays() {
    let mut w = healthy(3);
    let leader = w.the_leader();
    let original = w.other_than(leader);
    let copy = w.add_place();
    let volume = w.places[original].volume.copy();
    w.places[copy].volume = volume;
    w.expect_alarms = true;
    w.respec(|_| {});
    w.run_well(Duration::from_secs(3));
    assert!(w.condition("CopiedStorage").is_some_and(|c| c.contains(&format!("m-{copy}"))));
    assert_eq!((w.the_leader(), w.register().voters.len()), (leader, 3));
}
