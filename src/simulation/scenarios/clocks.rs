//! Wall clocks that are wrong.

use super::*;

#[test]
fn a_wrong_clock_is_told_of_whoever_has_it_and_moves_no_time_to_live() {
    for of_the_leader in [false, true] {
        let mut w = healthy(3);
        let leader = w.the_leader();
        let wrong = if of_the_leader { leader } else { w.other_than(leader) };
        let known_ms = |w: &World| {
            let process = w.places[leader].process.as_ref().expect("it runs");
            process.committed_time_ms(0)
        };
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
