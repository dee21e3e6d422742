//! Histories that need many things in one order: what a rule is for, and what happens without it.

use super::*;
use crate::simulation::Mutant;
use crate::simulation::wire::Message;
use crate::simulation::world::Occurrence;
use crate::topology::controller::{Disconnect, Event};
use crate::topology::message::{Donor, Envelope, FollowRequest, Request};

const LONG: Duration = Duration::from_secs(1_000_000);

impl World {
    fn cut(&mut self, a: usize, others: &[usize]) {
        for &b in others {
            self.block(Address::Member(a), Address::Member(b), LONG);
            self.block(Address::Member(b), Address::Member(a), LONG);
        }
    }

    fn join(&mut self, a: usize, others: &[usize]) {
        for &b in others {
            self.unblock(Address::Member(a), Address::Member(b));
        }
    }

    fn hide(&mut self, member: usize) {
        self.part(Address::Member(member), Address::Controller(0));
    }

    fn show(&mut self, member: usize) {
        self.unblock(Address::Member(member), Address::Controller(0));
    }
}

/// R16, with five voters: x is held by a deposed leader and by one follower. The next leader fences three others, the
/// deposed one truncates x at its word, and then that leader dies with its BARRIER: x comes back from the follower.
fn a_truncated_entry_comes_back(mutant: Option<Mutant>) -> (World, u64) {
    let mut w = World::new(Plan { mutant, ..Plan::calm(5) });
    w.settle();
    w.clients = false;
    w.run_well(ms(200));
    let old = w.the_leader();
    let rest: Vec<usize> = (0..5).filter(|&m| m != old).collect();
    let (keeper, next, third, fourth) = (rest[0], rest[1], rest[2], rest[3]);
    w.cut(old, &[next, third, fourth]);
    w.hide(old);
    w.hide(keeper);
    let op = w.write(old);
    let held = w.log_end(old);
    w.reach("x is on two", |w| w.places[keeper].durable(0) == held);
    w.reach("another is decided", |w| !w.electing() && w.register().leader != Some(w.sid(old)));
    let next = w.holder(w.register().leader.expect("it is decided")).expect("it is a member");
    for other in rest.iter().copied().filter(|&m| m != next) {
        w.cut(next, &[other]);
    }
    w.reach("it leads", |w| w.places[next].process.as_ref().is_some_and(|p| p.leads()));
    w.join(next, &[old]);
    w.show(old);
    let still_there = |w: &World| w.holds(old, op);
    let ok = w.until(SOON, |w| !still_there(w));
    if ok {
        w.keep_down(old);
        w.keep_down(next);
        w.show(keeper);
        w.until(SOON, |w| w.oracle.is_committed(op));
    }
    (w, op)
}

#[test]
fn a_truncated_entry_may_come_back_and_was_not_called_gone() {
    let (mut w, op) = a_truncated_entry_comes_back(None);
    assert_eq!(w.oracle.violation(), None);
    assert!(w.oracle.is_committed(op), "this is the history that the rule is for");
    for member in 0..5 {
        w.let_up(member);
    }
    w.heal();
    w.settle();
    w.check_everything();
}

#[test]
fn answering_definitely_not_on_truncation_is_noticed() {
    let (w, op) = a_truncated_entry_comes_back(Some(Mutant::TruncationIsAnAnswer));
    let violation = w.oracle.violation().unwrap_or_default();
    assert!(violation.contains("definitely not") && violation.contains(&op.to_string()), "{violation}");
}

/// R2: a member promises a later epoch, is restarted, and then hears the leader of the earlier one.
fn an_old_leader_speaks_to_a_restarted_voter(mutant: Option<Mutant>) -> (World, u64) {
    let mut w = World::new(Plan { mutant, ..Plan::calm(3) });
    w.settle();
    w.clients = false;
    w.run_well(ms(200));
    let (old, epoch, register) = (w.the_leader(), w.epoch(), w.register().clone());
    let voter = w.other_than(old);
    let next = 3 - old - voter;
    w.cut(old, &[voter, next]);
    w.hide(old);
    w.reach("the next epoch is decided", |w| !w.electing() && w.epoch() > epoch);
    let leader = w.holder(w.register().leader.expect("it is decided")).expect("it is a member");
    let voter = 3 - old - leader;
    w.cut(voter, &[leader]);
    w.hide(voter);
    w.kill(voter, ms(10));
    w.run_well(ms(50));
    w.join(voter, &[old]);
    // One that was sent when the old leader was the leader.
    let follow = FollowRequest {
        envelope: Envelope { cluster_id: register.cluster_id, lineage: register.lineage, to: w.sid(voter) },
        epoch,
        leader: Donor { sid: w.sid(old), name: format!("m-{old}"), address: format!("m-{old}:{old}") },
        leader_client_address: String::new(),
        as_learner: false,
    };
    let late = Message::Request { id: u64::MAX, request: Box::new(Request::Follow(follow)) };
    w.show(voter);
    w.send(Address::Controller(0), Address::Member(voter), late);
    w.run_well(ms(5));
    w.hide(voter);
    w.run_well(ms(300));
    let op = w.write(old);
    let _ = w.run(Duration::from_secs(2));
    (w, op)
}

#[test]
fn a_promise_outlives_a_restart() {
    let (mut w, op) = an_old_leader_speaks_to_a_restarted_voter(None);
    assert!(!w.oracle.is_acknowledged(op));
    w.heal();
    w.settle();
    w.check_everything();
}

#[test]
fn a_promise_that_is_not_persisted_is_noticed() {
    let (mut w, _) = an_old_leader_speaks_to_a_restarted_voter(Some(Mutant::PromiseNotPersisted));
    w.heal();
    let _ = w.run(Duration::from_secs(5));
    assert!(w.oracle.violation().is_some(), "two leaders committed different entries");
}

/// R3, R4: of three voters one does not sync, the second holds a write, the third hears nothing; then the second is gone
/// and the first restarts without what it had not synced.
fn one_of_two_copies_is_not_synced(mutant: Option<Mutant>, leader_is_slow: bool) -> World {
    let mut w = World::new(Plan { mutant, ..Plan::calm(3) });
    w.settle();
    w.clients = false;
    w.run_well(ms(200));
    let leader = w.the_leader();
    let follower = w.other_than(leader);
    let deaf = 3 - leader - follower;
    w.cut(deaf, &[leader, follower]);
    let (slow, quick) = if leader_is_slow { (leader, follower) } else { (follower, leader) };
    w.places[slow].stuck_disk = true;
    for _ in 0..10 {
        w.write(leader);
    }
    w.run_well(ms(150));
    w.keep_down(quick);
    w.keep_down(slow);
    w.places[slow].stuck_disk = false;
    w.join(deaf, &[leader, follower]);
    w.let_up(slow);
    let _ = w.run(Duration::from_secs(3));
    w
}

#[test]
fn what_is_not_synced_is_not_counted() {
    for leader_is_slow in [true, false] {
        let mut w = one_of_two_copies_is_not_synced(None, leader_is_slow);
        assert_eq!(w.oracle.violation(), None);
        w.heal();
        w.settle();
        w.check_everything();
    }
}

#[test]
fn a_leader_that_counts_itself_before_its_sync_is_noticed() {
    let w = one_of_two_copies_is_not_synced(Some(Mutant::LeaderCountsUnsynced), true);
    assert!(w.oracle.violation().is_some_and(|v| v.contains("without all")), "{:?}", w.oracle.violation());
}

#[test]
fn acknowledging_what_is_not_synced_is_noticed() {
    let w = one_of_two_copies_is_not_synced(Some(Mutant::AcknowledgesUnsynced), false);
    assert!(w.oracle.violation().is_some_and(|v| v.contains("without all")), "{:?}", w.oracle.violation());
}

/// R6: the entries that an ASSEMBLE of an earlier epoch asked for arrive after a write of a later one was acknowledged.
fn a_tail_of_an_earlier_epoch_arrives(mutant: Option<Mutant>) -> World {
    let mut w = World::new(Plan { mutant, ..Plan::calm(3) });
    w.settle();
    w.clients = false;
    w.run_well(ms(200));
    let leader = w.the_leader();
    let follower = w.other_than(leader);
    let deaf = 3 - leader - follower;
    w.cut(deaf, &[leader, follower]);
    let op = w.write(leader);
    w.reach("it is acknowledged", |w| w.oracle.is_acknowledged(op));
    let held = w.log_end(follower);
    let late = Message::Tail { epoch: w.epoch() - 1, shard: 0, result: Ok((held - 1, Vec::new())) };
    w.send(Address::Member(deaf), Address::Member(follower), late.clone());
    w.arrive(Address::Member(leader), Address::Member(follower), late);
    w.keep_down(leader);
    w.join(deaf, &[leader, follower]);
    let _ = w.run(Duration::from_secs(3));
    w
}

#[test]
fn a_tail_of_an_earlier_epoch_changes_nothing() {
    let mut w = a_tail_of_an_earlier_epoch_arrives(None);
    w.heal();
    w.settle();
    w.check_everything();
}

#[test]
fn an_assemble_that_goes_on_after_a_later_promise_is_noticed() {
    let w = a_tail_of_an_earlier_epoch_arrives(Some(Mutant::AssembleWithoutPromise));
    assert!(w.oracle.violation().is_some_and(|v| v.contains("without all")), "{:?}", w.oracle.violation());
}

/// R4, figure 8 of the Raft paper: x of the first epoch comes onto three of five in the third, whose BARRIER does not;
/// then whoever led the second one, with nothing but its BARRIER, leads again.
fn an_older_entry_comes_onto_a_majority(mutant: Option<Mutant>) -> (World, u64) {
    let mut w = World::new(Plan { mutant, ..Plan::calm(5) });
    w.settle();
    w.clients = false;
    w.run_well(ms(200));
    let first = w.the_leader();
    let rest: Vec<usize> = (0..5).filter(|&m| m != first).collect();
    let keeper = rest[0];
    w.cut(first, &rest[1..]);
    w.hide(first);
    w.hide(keeper);
    let op = w.write(first);
    let held = w.log_end(first);
    w.reach("x is on two", |w| w.places[keeper].durable(0) == held);
    w.reach("another is decided", |w| !w.electing() && w.register().leader != Some(w.sid(first)));
    let second = w.holder(w.register().leader.expect("it is decided")).expect("it is a member");
    let others: Vec<usize> = (0..5).filter(|&m| m != second).collect();
    w.cut(second, &others);
    w.reach("its BARRIER is durable", |w| {
        let place = &w.places[second];
        place.process.as_ref().is_some_and(|p| p.leads()) && place.durable(0) == place.tail(0).last.gsn
    });
    w.keep_down(second);
    let bare: Vec<usize> = rest[1..].iter().copied().filter(|&m| m != second).collect();
    let (third, last) = (bare[0], bare[1]);
    w.cut(last, &[first, keeper, third]);
    w.join(first, &[third]);
    w.show(first);
    w.show(keeper);
    w.reach("x comes to a third", |w| {
        let place = &w.places[third];
        place.tail(0).last.gsn == held || place.process.as_ref().is_some_and(|p| p.came_early() == 1)
    });
    // Its acknowledgement passes, the BARRIER does not.
    for holder in [first, keeper] {
        w.block(Address::Member(holder), Address::Member(third), LONG);
    }
    // Older leases end meanwhile.
    w.run_well(ms(650));
    assert_eq!(w.log_end(third), held, "x and nothing else is on a third");
    (w, op)
}

fn whoever_led_second_leads_again(w: &mut World) {
    for member in 0..5 {
        let others: Vec<usize> = (0..5).filter(|&m| m != member).collect();
        w.join(member, &others);
    }
    let second = (0..5).find(|&m| w.places[m].process.is_none()).expect("it is down");
    let holders: Vec<usize> =
        (0..5).filter(|&m| w.places[m].tail(0).last.epoch > w.places[second].tail(0).last.epoch).collect();
    for holder in holders {
        w.keep_down(holder);
    }
    w.let_up(second);
    let _ = w.run(Duration::from_secs(4));
}

#[test]
fn an_older_entry_on_a_majority_is_not_committed_by_that() {
    let (mut w, op) = an_older_entry_comes_onto_a_majority(None);
    assert!(!w.oracle.is_committed(op));
    whoever_led_second_leads_again(&mut w);
    w.heal();
    w.settle();
    w.check_everything();
    assert!(!w.oracle.is_committed(op), "this is the history that the rule is for");
}

#[test]
fn counting_entries_of_older_epochs_is_noticed() {
    let (mut w, op) = an_older_entry_comes_onto_a_majority(Some(Mutant::CommitsOlderEpochs));
    assert!(w.oracle.is_committed(op));
    whoever_led_second_leads_again(&mut w);
    assert!(w.oracle.violation().is_some_and(|v| v.contains("without all")), "{:?}", w.oracle.violation());
}

/// R5: a write is held by the leader and one follower; both are gone when the third, who never saw it, is fenced.
fn only_one_that_missed_a_write_answers(mutant: Option<Mutant>) -> World {
    let mut w = World::new(Plan { mutant, ..Plan::calm(3) });
    w.settle();
    w.clients = false;
    w.run_well(ms(200));
    let leader = w.the_leader();
    let follower = w.other_than(leader);
    let deaf = 3 - leader - follower;
    w.cut(deaf, &[leader, follower]);
    let op = w.write(leader);
    w.reach("it is acknowledged", |w| w.oracle.is_acknowledged(op));
    w.run_well(Duration::from_secs(1));
    w.keep_down(leader);
    // Both are there when the election begins, one of them when it is decided.
    w.reach("an election has begun", |w| w.electing());
    w.keep_down(follower);
    w.join(deaf, &[leader, follower]);
    let _ = w.run(Duration::from_secs(4));
    w
}

#[test]
fn fewer_than_a_read_quorum_choose_nobody() {
    let mut w = only_one_that_missed_a_write_answers(None);
    assert_eq!(w.oracle.violation(), None);
    assert!(w.electing(), "R are needed, and one answers");
    w.heal();
    w.settle();
    w.check_everything();
}

#[test]
fn choosing_by_one_answer_fewer_than_a_read_quorum_is_noticed() {
    let w = only_one_that_missed_a_write_answers(Some(Mutant::FenceByOneLess));
    assert!(w.oracle.violation().is_some_and(|v| v.contains("without all")), "{:?}", w.oracle.violation());
}

/// R7: a leader that is cut off goes on writing what nobody acknowledges; the next one's log is shorter and has the
/// write that was acknowledged. Then that one is gone, and the two others are asked.
fn the_longer_log_is_of_an_earlier_epoch(mutant: Option<Mutant>) -> (World, u64) {
    let mut w = World::new(Plan { mutant, ..Plan::calm(3) });
    w.settle();
    w.clients = false;
    w.run_well(ms(200));
    let old = w.the_leader();
    let others: Vec<usize> = (0..3).filter(|&m| m != old).collect();
    w.cut(old, &others);
    w.hide(old);
    for _ in 0..20 {
        w.write(old);
    }
    w.reach("another serves", |w| w.leader().is_some_and(|leader| leader != old));
    let next = w.the_leader();
    let third = 3 - old - next;
    let op = w.write(next);
    w.reach("it is acknowledged", |w| w.oracle.is_acknowledged(op));
    assert!(w.log_end(old) > w.log_end(third));
    w.keep_down(next);
    w.join(old, &[third]);
    w.show(old);
    let _ = w.run(Duration::from_secs(4));
    (w, op)
}

#[test]
fn the_log_of_the_latest_epoch_wins_not_the_longest() {
    let (mut w, _) = the_longer_log_is_of_an_earlier_epoch(None);
    assert_eq!(w.oracle.violation(), None);
    assert!(w.leader().is_some(), "two of three are enough");
    w.heal();
    w.settle();
    w.check_everything();
}

#[test]
fn letting_the_longest_log_win_is_noticed() {
    let (w, op) = the_longer_log_is_of_an_earlier_epoch(Some(Mutant::LongestLogWins));
    assert!(w.oracle.is_acknowledged(op));
    assert!(w.oracle.violation().is_some(), "an acknowledged write gave way to longer nonsense");
}

// R5 (b), a restarted leader is one voter and no more, has no scenario here: an engine without threads writes and syncs in
// one step, so that its leader never acknowledges what it would lose by a restart. The model shows it (`model::mutants`).

/// A leader is taken for gone while it lives and holds a lease; the next one writes, and the old one is read.
fn a_leader_with_a_lease_is_taken_for_gone(mutant: Option<Mutant>) -> (World, u64, bool) {
    let mut w = World::new(Plan { mutant, ..Plan::calm(3) });
    w.settle();
    w.clients = false;
    w.run_well(ms(200));
    let old = w.the_leader();
    let others: Vec<usize> = (0..3).filter(|&m| m != old).collect();
    w.cut(old, &others);
    w.hide(old);
    // Connections are reset by something in between: to everybody it looks as if the process had ended.
    for &member in &others {
        let life = w.places[member].life;
        w.schedule(ms(0), Occurrence::Gone { member, life, leader: old });
    }
    let event = Event::Disconnected { member: format!("m-{old}"), kind: Disconnect::Reset };
    let life = w.drivers[0].life;
    w.schedule(ms(0), Occurrence::Tell { controller: 0, life, event: Box::new(event) });
    let leads = |w: &World, m: usize| w.places[m].process.as_ref().is_some_and(|p| p.leads());
    w.reach("another leads", |w| others.iter().any(|&m| leads(w, m)));
    let next = others.iter().copied().find(|&m| leads(&w, m)).expect("just seen");
    let op = w.write(next);
    w.reach("it is acknowledged", |w| w.oracle.is_acknowledged(op));
    let (required, now) = (w.oracle.seen(), w.now);
    let process = w.places[old].process.as_ref().expect("it was never gone");
    let begun = process.read_begins(0, b"key-00").expect("it believes that it leads");
    let (look, epoch) = begun.expect("it can be read");
    let answered = process.read_ends(epoch, now);
    if answered {
        w.oracle.read(w.places[old].sid, &look, &required, w.now);
    }
    (w, op, answered)
}

#[test]
fn a_new_leader_acknowledges_nothing_while_an_older_lease_lasts() {
    let (mut w, _, answered) = a_leader_with_a_lease_is_taken_for_gone(None);
    assert!(!answered, "its lease had ended before the write was acknowledged");
    assert_eq!(w.oracle.violation(), None);
    w.heal();
    w.settle();
    w.check_everything();
}

#[test]
fn not_waiting_for_an_older_lease_is_noticed() {
    let (w, _, answered) = a_leader_with_a_lease_is_taken_for_gone(Some(Mutant::NoLeaseWait));
    assert!(answered);
    assert!(w.oracle.violation().is_some_and(|v| v.contains("had been seen")), "{:?}", w.oracle.violation());
}
