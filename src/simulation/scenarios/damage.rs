//! A member with records that rotted below the commit.

use super::*;
use crate::engine::ShardState;

#[test]
fn a_leader_with_damaged_records_hands_over_and_is_mended_as_a_follower() {
    let mut w = healthy(3);
    w.run_well(Duration::from_secs(10));
    let leader = w.the_leader();
    let process = w.places[leader].process.as_ref().expect("it runs");
    process.engine.shards()[0].set_state(ShardState::Damaged { files: vec![1] }).expect("persisted");
    w.reach("another member leads", |w| w.leader().is_some_and(|l| l != leader));
    let last = w.view().transitions.pop().expect("it is told");
    assert!(last.reason.contains("do not verify"), "{last:?}");
    w.settle();
    w.check_everything();
}
