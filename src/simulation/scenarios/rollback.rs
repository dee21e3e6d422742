//! A volume that was put back to an older state.

use super::*;

#[test]
fn a_volume_restored_from_a_snapshot_counts_for_nothing_until_it_has_caught_up() {
    let mut w = healthy(3);
    let leader = w.the_leader();
    let restored = w.other_than(leader);
    let snapshot = w.places[restored].volume.copy();
    let before = w.oracle.acknowledged();
    w.reach("more is acknowledged", |w| w.oracle.acknowledged() > before + 20);
    w.run_well(ms(500));
    w.expect_alarms = true;
    w.keep_down(leader);
    w.keep_down(restored);
    w.places[restored].volume = snapshot;
    // A controller that knows nothing of earlier lives: the open count alone looks like a restart.
    w.drivers[0].stop();
    w.start_controller(0);
    w.let_up(restored);
    w.run_well(Duration::from_secs(6));
    assert!(w.leader().is_none(), "a read quorum was counted with an older state of a volume");
    let told = w.condition("RolledBack").unwrap_or_default();
    assert!(told.contains(&format!("m-{restored}")) && told.contains("held"), "{told}");

    w.let_up(leader);
    w.settle();
    assert_eq!(w.condition("RolledBack"), None);
    w.check_everything();
}
