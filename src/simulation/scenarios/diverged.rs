//! Logs that differ within one epoch, which no sound member can have: nothing is decided from them.

use super::*;

#[test]
fn nobody_is_elected_from_logs_that_differ_within_an_epoch_and_whoever_is_taken_away_ends_it() {
    let mut w = calm();
    // The same world until now, from here on with other writes by the same leader in the same epoch.
    let mut other = calm();
    let leader = w.the_leader();
    assert_eq!((leader, w.epoch()), (other.the_leader(), other.epoch()));
    let forged = w.other_than(leader);
    other.random.next();
    for world in [&mut w, &mut other] {
        world.write(leader);
        world.settle();
    }
    let (have, differs) = (w.places[forged].tail(0), other.places[forged].tail(0));
    assert!(have.last == differs.last && have.chain != differs.chain, "{have:?} and {differs:?}");

    w.keep_down(forged);
    w.places[forged].volume = other.places[forged].volume.copy();
    w.expect_alarms = true;
    w.keep_down(leader);
    w.let_up(forged);
    w.run_well(Duration::from_secs(6));
    assert!(w.leader().is_none(), "one of two histories was taken");
    let told = w.told.clone().unwrap_or_default().join("\n");
    assert!(told.contains("LogsDiverge"), "{told}");

    w.keep_down(forged);
    w.let_up(leader);
    w.reach("the others, who agree, have a leader", |w| w.leader().is_some());
}

/// Three members in sync, and no client.
fn calm() -> World {
    let mut w = world(3);
    w.clients = false;
    w.settle();
    w
}
