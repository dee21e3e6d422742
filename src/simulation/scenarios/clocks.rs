//! Wall clocks that are wrong.

use std::sync::Arc;

use super::*;
use crate::engine::Shard;

fn shard(w: &World, member: usize) -> Arc<Shard> {
    w.places[member].process.as_ref().expect("it runs").engine.shards()[0].clone()
}

#[test]
fn a_wrong_clock_is_told_of_whoever_has_it_and_moves_no_time_to_live() {
    for of_the_leader in [false, true] {
        let mut w = healthy(3);
        let leader = w.the_leader();
        let wrong = if of_the_leader { leader } else { w.other_than(leader) };
        let known_ms = |w: &World| shard(w, leader).committed_time_ms();
        assert_eq!(w.condition("ClockSkew"), None);
        let (began, before_ms) = (w.now, known_ms(&w));
        w.places[wrong].wall_off_ms += 3_600_000;
        w.reach("it is told", |w| w.condition("ClockSkew").is_some());
        let told = w.condition("ClockSkew").unwrap_or_default();
        assert!(told.contains(&format!("the clock of m-{wrong} is ")) && told.contains("ahead of"), "{told}");
        w.run_well(Duration::from_secs(20));
        let (passed_ms, counted_ms) = ((w.now - began).as_millis() as u64, known_ms(&w) - before_ms);
        assert!(counted_ms.abs_diff(passed_ms) < 1000, "{counted_ms} ms were counted in {passed_ms} ms");
        w.places[wrong].wall_off_ms = 0;
        w.reach("it is over", |w| w.condition("ClockSkew").is_none());
    }
}

#[test]
fn a_new_leaders_first_conditions_are_judged_by_no_time_before_one_that_was_seen() {
    let mut w = healthy(3);
    let old = w.the_leader();
    let target = w.other_than(old);
    let id = w.ask(0, Some(target));
    let mut seen_ms = 0;
    w.reach("the target leads", |w| {
        seen_ms = seen_ms.max(shard(w, old).committed_time_ms());
        w.places[target].process.as_ref().is_some_and(|p| p.leads())
    });
    let (shown_ms, judging_ms) = (shard(&w, target).committed_time_ms(), shard(&w, target).judging_time_ms());
    assert!(w.leader().is_none() && shown_ms < seen_ms, "it serves already, or knew {shown_ms} of {seen_ms}");
    assert!(judging_ms >= seen_ms, "{judging_ms} after {seen_ms}");
    assert!(w.register().shard_time_ms >= seen_ms, "other voters may never hear of it: {:?}", w.register());
    w.reach("it is answered", |w| w.outcome(&id).is_some() && w.leader().is_some());
    w.run_well(ms(300));
    w.check_everything();
}
