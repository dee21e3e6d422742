//! A leader whose disk is full hands over, if somebody in sync has room, and not time and again.

use std::time::Duration;

use super::upkeep::{Given, name, report};
use crate::topology::message::{DiskRoom, HealthReport};
use crate::topology::view::Transition;

const MIB: u64 = 1 << 20;
/// Below what is kept.
const FULL: DiskRoom = DiskRoom { total: 320 * MIB, available: 100 * MIB, reserve: 128 * MIB };
/// Above it, for a batch or two.
const TIGHT: DiskRoom = DiskRoom { available: 130 * MIB, ..FULL };
const AMPLE: DiskRoom = DiskRoom { available: 200 * MIB, ..FULL };
/// Longer than a leader must have been full.
const MOMENT: Duration = Duration::from_millis(800);

/// Everybody is in sync; storage 1 leads.
fn with_room(disks: [DiskRoom; 3]) -> impl Fn(u128) -> HealthReport {
    move |sid| {
        let disk = disks[sid as usize - 1];
        HealthReport { disk, disk_full: disk.available < disk.reserve, ..report(sid, &[2, 3]) }
    }
}

fn kinds(given: &Given) -> Vec<&'static str> {
    given.controller.view(given.now).conditions.iter().map(|condition| condition.kind).collect()
}

#[test]
fn a_leader_without_room_hands_over_to_a_follower_in_sync_that_has_some() {
    let mut given = Given::new();
    given.pass_with(Duration::from_secs(2), with_room([AMPLE; 3]));
    assert!(!given.controller.changing());
    given.pass_with(MOMENT, with_room([FULL, AMPLE, TIGHT]));
    let view = given.controller.view(given.now);
    assert_eq!(view.change.expect("a change of leader").reason, "Switchover");
    let told = view.conditions.iter().find(|condition| condition.kind == "DiskFull").expect("told while it lasts");
    for part in [name(1).as_str(), "100Mi of 320Mi", "128Mi", "refuses puts", "Delete keys"] {
        assert!(told.text.contains(part), "{part}: {}", told.text);
    }
}

#[test]
fn nobody_with_room_takes_over_so_the_leader_stays_and_it_is_told() {
    let mut given = Given::new();
    given.pass_with(Duration::from_secs(2), with_room([AMPLE; 3]));
    // One would refuse puts at once, the other in a moment.
    given.pass_with(MOMENT, with_room([FULL, FULL, TIGHT]));
    assert!(!given.controller.changing());
    let told = kinds(&given);
    assert!(told.contains(&"NoCandidate"), "{told:?}");
    assert_eq!(told.iter().filter(|kind| **kind == "DiskFull").count(), 2, "each full disk is told: {told:?}");
    given.pass_with(MOMENT, with_room([AMPLE; 3]));
    assert_eq!(kinds(&given), Vec::<&str>::new());
}

#[test]
fn the_lead_does_not_go_to_and_fro_between_disks_that_are_nearly_full() {
    let mut given = Given::new();
    given.pass_with(Duration::from_secs(2), with_room([AMPLE; 3]));
    given.controller.history.push_back(Transition {
        kind: "Switchover",
        from: Some(name(2)),
        to: name(1),
        epoch: 3,
        duration: MOMENT,
        reason: format!("the disk of {} is full", name(2)),
        at: given.now,
        settled: true,
    });
    given.pass_with(Duration::from_secs(9), with_room([FULL, AMPLE, AMPLE]));
    assert!(!given.controller.changing(), "the last move is less than ten seconds ago");
    given.pass_with(Duration::from_secs(2), with_room([FULL, AMPLE, AMPLE]));
    assert!(given.controller.changing());
}
