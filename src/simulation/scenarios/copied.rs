//! Nobody has everything, and what the others lack is no longer in anybody's log: a candidate copies whole shards.

use super::*;
use crate::engine::{CompactionOptions, EngineOptions, Retention};

/// Three members, two shards, logs that are as short as may be.
fn forgetful() -> World {
    let calm = Plan::calm(3);
    let engine = EngineOptions {
        retention: Retention { min_bytes: 0, min_age: ms(0), max_bytes: None },
        compaction: CompactionOptions { min_garbage_ratio: 0.05, ..CompactionOptions::default() },
        ..calm.engine.clone()
    };
    let mut w = World::new(Plan { shards: 2, engine, ..calm });
    w.told = Some(Vec::new());
    w.settle();
    w.clients = false;
    w.run_well(ms(500));
    w
}

/// `behind` hears nothing of `shard` while `ahead` and the leader go on, until what it lacks is no longer in `ahead`'s log.
fn leave_behind(w: &mut World, shard: usize, behind: usize, ahead: usize) {
    let leader = w.the_leader();
    w.deaf.insert((behind, shard));
    let end = w.places[behind].tail(shard).last.gsn;
    let mut rounds = 0;
    let floor = |w: &World| w.places[ahead].process.as_ref().expect("it runs").engine.shards()[shard].log_floor();
    while floor(w) <= end + 1 {
        rounds += 1;
        assert!(rounds < 200, "the floor of m-{ahead} stays at {}, m-{behind} ends at {end}", floor(w));
        for _ in 0..10 {
            w.write_to(leader, shard);
            w.run_well(ms(5));
        }
        w.run_well(ms(100));
    }
    w.run_well(ms(500));
}

/// Each of two followers lacks of one shard what the other has no log of any more; the leader is gone.
fn gaps() -> (World, usize) {
    let mut w = forgetful();
    let leader = w.the_leader();
    let others: Vec<usize> = (0..3).filter(|&m| m != leader).collect();
    leave_behind(&mut w, 0, others[0], others[1]);
    leave_behind(&mut w, 1, others[1], others[0]);
    assert_eq!(w.the_leader(), leader);
    w.keep_down(leader);
    w.deaf.clear();
    (w, leader)
}

/// Who copies a shard now.
fn copies(w: &World) -> Option<usize> {
    (0..3).find(|&m| w.places[m].process.as_ref().is_some_and(|p| p.copies()))
}

fn copied(w: &World) -> u64 {
    w.counts.get("shards copied by candidates").copied().unwrap_or(0)
}

#[test]
fn a_candidate_copies_what_nobody_has_log_of_and_leads() {
    let (mut w, leader) = gaps();
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    assert_eq!(copied(&w), 1);
    let told = w.told.clone().unwrap_or_default().join("\n");
    assert!(told.contains("AssembleCopies"), "{told}");
    w.check_everything();
    w.let_up(leader);
    w.settle();
    w.check_everything();
}

#[test]
fn a_candidate_that_dies_while_it_copies_has_lost_nothing_and_copies_again() {
    // What a call to a process that ended was worth is known when its time is over.
    let patience = Duration::from_secs(60);
    let (mut w, leader) = gaps();
    let mut deaths = 0;
    for round in 0..3 {
        assert!(w.until(patience, |w| copies(w).is_some() || w.leader().is_some()), "{:?}", w.oracle.violation());
        w.run_well(ms(round * 2));
        let Some(copying) = copies(&w) else { break };
        w.kill(copying, ms(200));
        deaths += 1;
    }
    assert!(deaths > 0);
    assert!(w.until(patience, |w| w.leader().is_some_and(|l| l != leader)), "{:?}", w.oracle.violation());
    w.check_everything();
    w.let_up(leader);
    w.settle();
    w.check_everything();
}

#[test]
fn a_leader_of_old_that_is_back_spares_the_copy() {
    let (mut w, leader) = gaps();
    w.reach("a copy is under way", |w| copies(w).is_some());
    let epoch = w.epoch();
    // Whoever copies reaches its donor no more.
    let others: Vec<usize> = (0..3).filter(|&m| m != leader).collect();
    w.part(Address::Member(others[0]), Address::Member(others[1]));
    w.let_up(leader);
    w.reach("it leads again", |w| w.leader() == Some(leader));
    assert_eq!((w.epoch(), copied(&w)), (epoch, 0), "in the same attempt");
    w.unblock(Address::Member(others[0]), Address::Member(others[1]));
    w.settle();
    w.check_everything();
}

#[test]
fn a_promise_that_comes_late_but_comes_spares_the_copy() {
    let (mut w, leader) = gaps();
    let others: Vec<usize> = (0..3).filter(|&m| m != leader).collect();
    // It is there before FENCE is asked for, and answers after all stragglers were waited for.
    w.let_up(leader);
    w.places[leader].paused_until = w.now + ms(1200);
    w.reach("a copy is under way", |w| copies(w).is_some());
    w.part(Address::Member(others[0]), Address::Member(others[1]));
    w.reach("it leads again", |w| w.leader() == Some(leader));
    assert_eq!(copied(&w), 0);
    w.unblock(Address::Member(others[0]), Address::Member(others[1]));
    w.settle();
    w.check_everything();
}
