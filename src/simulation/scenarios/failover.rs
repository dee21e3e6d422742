//! A leader that is gone, silent, restarted, cut off, or not allowed to be replaced.

use super::*;
use crate::topology::spec::FailoverPolicy;

#[test]
fn a_killed_leader_is_replaced_within_a_second_and_nothing_is_lost() {
    for seed in 1..20 {
        let mut w = World::new(Plan { seed, ..Plan::calm(3) });
        w.settle();
        let (leader, killed) = (w.the_leader(), w.now);
        w.keep_down(leader);
        w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
        assert!(w.now - killed < ms(900), "seed {seed}: it took {:?}", w.now - killed);
        assert_eq!(w.register().voters.len(), 3, "two of three can commit: nobody is given up at once");
        w.let_up(leader);
        w.settle();
        w.check_everything();
        let last = w.view().transitions.pop().expect("it is told");
        assert_eq!(
            (last.kind, last.from, last.to),
            ("Failover", Some(format!("m-{leader}")), format!("m-{}", w.the_leader()))
        );
        assert!(
            last.settled && last.duration > ms(400),
            "the wait for older leases is part of it: {:?}",
            last.duration
        );
    }
}

#[test]
fn a_silent_leader_is_replaced_after_its_timeout_and_not_before() {
    let mut w = healthy(3);
    let (leader, stopped, epoch) = (w.the_leader(), w.now, w.epoch());
    w.places[leader].paused_until = w.now + Duration::from_secs(5);
    w.run_well(ms(900));
    assert_eq!(w.epoch(), epoch);
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    assert!(w.now - stopped < ms(1500), "it took {:?}", w.now - stopped);
    w.run_well(Duration::from_secs(5));
    w.settle();
    w.check_everything();
}

#[test]
fn a_short_pause_of_the_leader_changes_nothing() {
    let mut w = healthy(3);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    w.places[leader].paused_until = w.now + ms(600);
    w.run_well(Duration::from_secs(3));
    assert_eq!((w.the_leader(), w.epoch()), (leader, epoch));
}

#[test]
fn a_leader_that_the_controller_alone_does_not_hear_stays() {
    let mut w = healthy(3);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    w.part(Address::Member(leader), Address::Controller(0));
    w.run_well(Duration::from_secs(5));
    assert_eq!(w.epoch(), epoch);
    let told = w.condition("AsymmetricPartition").expect("it is told");
    assert!(told.contains("still hear it"), "{told}");
}

#[test]
fn a_leader_that_hears_no_follower_gives_its_place_up_although_it_answers() {
    let mut w = healthy(3);
    let leader = w.the_leader();
    for other in (0..3).filter(|&m| m != leader) {
        w.part(Address::Member(leader), Address::Member(other));
    }
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    assert_eq!(w.register().voters.len(), 3, "it stays a voter: two would be left, and one of them may go too");
}

#[test]
fn with_too_few_voters_nobody_is_elected_and_it_is_told() {
    let mut w = healthy(3);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    let left = w.other_than(leader);
    for member in (0..3).filter(|&m| m != left) {
        w.keep_down(member);
    }
    w.run_well(Duration::from_secs(5));
    assert_eq!(w.epoch(), epoch, "no epoch is used up for nothing");
    assert!(w.condition("NoQuorum").is_some(), "{:?}", w.view().conditions);
    for member in 0..3 {
        w.let_up(member);
    }
    w.settle();
    w.check_everything();
}

#[test]
fn all_members_killed_at_once_come_back_with_everything() {
    for members in 1..=5 {
        let mut w = healthy(members);
        for member in 0..members {
            w.kill(member, ms(100 + 50 * member as u64));
        }
        w.run_well(ms(400));
        w.settle();
        w.check_everything();
        assert_eq!(w.register().voters.len(), members);
    }
}

#[test]
fn a_restarted_leader_leads_only_a_new_epoch() {
    let mut w = healthy(1);
    let epoch = w.epoch();
    w.kill(0, ms(50));
    w.reach("it leads again", |w| w.leader() == Some(0) && w.epoch() > epoch);
    assert_eq!(w.epoch(), epoch + 1);
}

#[test]
fn with_manual_failover_a_dead_leader_is_replaced_only_when_asked() {
    let mut w = healthy(3);
    w.respec(|spec| spec.failover_policy = FailoverPolicy::Manual);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    w.keep_down(leader);
    w.run_well(Duration::from_secs(4));
    assert_eq!(w.epoch(), epoch);
    assert!(w.condition("ManualFailover").is_some());
    let id = w.ask(0, None);
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    assert!(w.outcome(&id).is_some_and(|o| o.contains("leads epoch")));
}

#[test]
fn with_manual_failover_a_restarted_leader_goes_on() {
    let mut w = healthy(3);
    w.respec(|spec| spec.failover_policy = FailoverPolicy::Manual);
    let (leader, epoch) = (w.the_leader(), w.epoch());
    w.kill(leader, ms(200));
    w.reach("it leads again", |w| w.leader() == Some(leader) && w.epoch() > epoch);
}

#[test]
fn a_paused_cluster_still_fails_over() {
    let mut w = healthy(3);
    w.respec(|spec| spec.paused = true);
    let leader = w.the_leader();
    w.keep_down(leader);
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
}

#[test]
fn a_leader_whose_disk_syncs_nothing_hands_over() {
    let mut w = healthy(3);
    w.run_well(Duration::from_secs(10));
    let leader = w.the_leader();
    // A sync that was begun takes for ever: what is appended after it never becomes durable.
    w.places[leader].stuck_disk = true;
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    let last = w.view().transitions.pop().expect("it is told");
    assert!(last.reason.contains("synced nothing"), "{last:?}");
}

#[test]
fn a_leader_of_which_only_the_heartbeats_run_is_replaced() {
    let mut w = healthy(3);
    w.run_well(Duration::from_secs(10));
    let (leader, hung) = (w.the_leader(), w.now);
    w.places[leader].process.as_mut().expect("it runs").hang(hung);
    w.run_well(ms(1500));
    assert_eq!(w.register().leader, Some(w.sid(leader)), "followers hear it, and it may come round");
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    assert!(w.now - hung < Duration::from_secs(6), "{:?}", w.now - hung);
    w.kill(leader, ms(0));
    w.settle();
    w.check_everything();
}

#[test]
fn a_second_controller_takes_over_when_the_first_is_gone_too() {
    let mut w = controlled(3, 2);
    w.settle();
    let leader = w.the_leader();
    w.drivers[0].stop();
    w.keep_down(leader);
    let killed = w.now;
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    assert!(w.now - killed > ms(500), "a controller of rank 1 waits for the first");
}

/// Durability Os.
fn relaxed(members: usize) -> Plan {
    let mut plan = Plan::calm(members);
    plan.engine.durability = crate::engine::Durability::Os;
    plan
}

#[test]
fn under_os_durability_an_amnesic_voter_is_not_counted_until_it_equals_the_leader() {
    let mut w = World::new(relaxed(3));
    w.settle();
    let leader = w.the_leader();
    let (first, second) = (w.other_than(leader), 3 - leader - w.other_than(leader));
    // One after the other, without a leader in between that could make the first whole again.
    w.keep_down(leader);
    w.places[first].kept_down = true;
    w.power_off(first, ms(0));
    w.run_well(ms(200));
    let epoch = w.epoch();
    w.let_up(first);
    w.run_well(Duration::from_secs(3));
    assert!(w.leader().is_none(), "one whole voter and one that forgot are no read quorum");
    assert!(w.epoch() <= epoch + 1, "no epochs are used up for nothing");
    assert!(w.condition("Amnesic").is_some() || w.condition("NoQuorum").is_some(), "{:?}", w.view().conditions);
    w.let_up(leader);
    w.settle();
    assert!(w.places[first].is_ready() && w.places[second].is_ready());
    w.check_everything();
}

#[test]
fn when_all_lost_power_under_os_durability_all_must_answer_and_it_is_told() {
    for members in [1, 2, 3] {
        let mut w = World::new(relaxed(members));
        w.told = Some(Vec::new());
        w.settle();
        w.clients = false;
        // Everything was synced: nothing is really lost, which nobody can know.
        w.run_well(Duration::from_secs(1));
        w.expect_alarms = true;
        for member in 0..members {
            w.places[member].kept_down = true;
            w.power_off(member, ms(0));
        }
        for member in 1..members {
            w.let_up(member);
        }
        w.run_well(Duration::from_secs(4));
        assert!(w.leader().is_none() || members == 1);
        w.let_up(0);
        w.settle();
        let told = w.told.take().unwrap_or_default();
        assert!(told.iter().any(|line| line.contains("PossibleDataLoss")), "{told:#?}");
        assert!(w.places.iter().all(|p| p.is_ready()));
        w.check_everything();
    }
}
