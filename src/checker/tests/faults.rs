//! A long history of a sound store, with one fault put into it: each kind must be found, and the operations named.

use super::super::*;
use super::random::Dice;
use crate::position::LogPosition;

const MILLI: Time = 1_000_000;

fn version(gsn: u64) -> Version {
    Version { lineage: 0, position: LogPosition::new(1 + gsn / 500, gsn) }
}

/// What the store does wrong, once.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    StaleRead,
    LostWrite,
    Phantom,
    DoubleApply,
    ResurrectedDelete,
    ExpiredValueBack,
    TornBatch,
}

/// Thousands of operations on a few keys; `at` is the turn of the fault.
fn history(fault: Fault, seed: u64, versions: bool) -> History {
    const KEYS: usize = 6;
    const TURNS: u64 = 3000;
    let mut dice = Dice(seed);
    let mut history = History::default();
    let keys: Vec<Key> = (0..KEYS).map(|number| history.key(&format!("k{number}"))).collect();
    let mut held: Vec<Option<(u64, Option<Time>)>> = vec![None; KEYS];
    let mut old: Vec<Option<u64>> = vec![None; KEYS];
    let at = 1000 + dice.below(1000);
    let told = |gsn: u64| versions.then(|| version(gsn));
    for turn in 1..TURNS {
        let now = turn * MILLI;
        let times = (now - dice.below(MILLI * 3 / 4), now + dice.below(MILLI * 3 / 4));
        for content in &mut held {
            *content = content.filter(|(_, until)| until.is_none_or(|until| now < until));
        }
        let number = dice.below(KEYS as u64) as usize;
        let key = keys[number];
        let saw = |value: Option<u64>| value.map(|value| (Value(value), told(value)));
        if turn >= at && fault != Fault::None {
            let now_held = held[number].map(|(value, _)| value);
            let done = match fault {
                Fault::StaleRead if old[number].is_some() && old[number] != now_held => {
                    history.read(9, times, key, saw(old[number]));
                    // Nobody was beside it.
                    history.operations.last_mut().expect("entered").call = now;
                    true
                }
                Fault::LostWrite if now_held.is_some() => {
                    // Acknowledged, and then as if it had never been.
                    let put = Change::Put { key, value: Value(turn), version: told(turn), lifetime: None };
                    history.write(9, (now, now + 1), vec![], vec![put], Outcome::Done);
                    history.read(9, (now + 2, now + 3), key, saw(now_held));
                    true
                }
                Fault::Phantom => {
                    history.read(9, times, key, saw(Some(1_000_000)));
                    true
                }
                Fault::DoubleApply if now_held.is_some() => {
                    // One swap from a version is done, and so is another from the same.
                    let from = now_held.expect("asked");
                    for (offset, value) in [(0, 2_000_000), (2, 2_000_001)] {
                        let expect = Expect::Value(Value(from), told(from));
                        let put = Change::Put { key, value: Value(value), version: told(value), lifetime: None };
                        let times = (now + offset, now + offset + 1);
                        history.write(9, times, vec![Condition { key, expect }], vec![put], Outcome::Done);
                    }
                    true
                }
                Fault::ResurrectedDelete if now_held.is_some() => {
                    let delete = Change::Delete { key, version: told(turn) };
                    history.write(9, (now, now + 1), vec![], vec![delete], Outcome::Done);
                    history.read(9, (now + 2, now + 3), key, None);
                    history.read(9, (now + 4, now + 5), key, saw(now_held));
                    true
                }
                Fault::ExpiredValueBack => {
                    let lifetime = Some(Lifetime { earliest: now + 10, latest: None });
                    let put = Change::Put { key, value: Value(turn), version: told(turn), lifetime };
                    history.write(9, (now, now + 1), vec![], vec![put], Outcome::Done);
                    history.read(9, (now + 20, now + 21), key, None);
                    history.read(9, (now + 30, now + 31), key, saw(Some(turn)));
                    held[number] = Some((turn, None));
                    true
                }
                Fault::TornBatch => {
                    let other = keys[(number + 1) % KEYS];
                    let put = |key, gsn| Change::Put { key, value: Value(gsn), version: told(gsn), lifetime: None };
                    let (first, second) = (3_000_000, 3_000_001);
                    history.write(9, (now, now + 9), vec![], vec![put(key, first), put(other, second)], Outcome::Done);
                    history.read(9, (now + 1, now + 2), key, saw(Some(first)));
                    let before = held[(number + 1) % KEYS].map(|(value, _)| value);
                    history.read(9, (now + 3, now + 4), other, saw(before));
                    true
                }
                _ => false,
            };
            if done {
                // The store is not asked again: what comes after such a fault is a consequence of it.
                return history;
            }
        }
        match dice.below(10) {
            0..=4 => history.read(1, times, key, saw(held[number].map(|(value, _)| value))),
            5 => {
                let delete = Change::Delete { key, version: told(turn) };
                history.write(0, times, vec![], vec![delete], Outcome::Done);
                held[number] = None;
            }
            _ => {
                old[number] = held[number].map(|(value, _)| value);
                let put = Change::Put { key, value: Value(turn), version: told(turn), lifetime: None };
                history.write(0, times, vec![], vec![put], Outcome::Done);
                held[number] = Some((turn, None));
            }
        }
    }
    history
}

#[test]
fn a_sound_history_has_no_violation() {
    for seed in 0..10 {
        for versions in [true, false] {
            let report = check(&history(Fault::None, seed, versions));
            assert!(report.is_linearizable(), "seed {seed}: {report}");
            assert!(!versions || report.searched == 0, "seed {seed}: the versions explain it: {report}");
        }
    }
}

#[test]
fn every_kind_of_fault_is_found_and_named_by_a_few_operations() {
    use Fault::*;
    for fault in [StaleRead, LostWrite, Phantom, DoubleApply, ResurrectedDelete, ExpiredValueBack, TornBatch] {
        for seed in 0..10 {
            for versions in [true, false] {
                let history = history(fault, seed, versions);
                let report = check(&history);
                let context = || format!("{fault:?}, seed {seed}, versions {versions}: {report}");
                let [violation] = report.violations.as_slice() else { panic!("{}", context()) };
                assert!(violation.operations.len() <= 5, "{}", context());
                let last = history.operations.len() - 6;
                assert!(violation.operations.iter().any(|at| *at >= last), "{}", context());
            }
        }
    }
}
