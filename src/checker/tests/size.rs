//! A million operations.

use std::time::Instant;

use super::super::*;
use super::random::Dice;
use crate::position::LogPosition;

/// Clients that put, read, swap and delete, some keys far more often than others.
fn million(versions: bool) -> History {
    const KEYS: u64 = 20_000;
    let mut dice = Dice(1);
    let mut history = History::default();
    let keys: Vec<Key> = (0..KEYS).map(|number| history.key(&format!("key/{number}"))).collect();
    let mut held: Vec<Option<u64>> = vec![None; keys.len()];
    let version = |gsn: u64| Version { lineage: 0, position: LogPosition::new(1 + gsn / 50_000, gsn) };
    let told = |gsn: u64| versions.then(|| version(gsn));
    for turn in 1..=1_000_000_u64 {
        let now = turn * 1000;
        // About eight under way at once.
        let times = (now.saturating_sub(dice.below(4000)), now + dice.below(4000));
        // One in ten is on one of ten keys.
        let number = if dice.below(10) == 0 { dice.below(10) } else { dice.below(KEYS) } as usize;
        let (key, now_held) = (keys[number], held[number]);
        let put = Change::Put { key, value: Value(turn), version: told(turn), lifetime: None };
        match (dice.below(10), now_held) {
            (0..=4, _) => history.read(0, times, key, now_held.map(|value| (Value(value), told(value)))),
            (5, Some(value)) if versions => {
                let condition = Condition { key, expect: Expect::Version(version(value)) };
                history.write(0, times, vec![condition], vec![put], Outcome::Done);
                held[number] = Some(turn);
            }
            (6, _) => {
                let delete = Change::Delete { key, version: told(turn) };
                history.write(0, times, vec![], vec![delete], Outcome::Done);
                held[number] = None;
            }
            (7, _) if dice.below(100) == 0 => history.write(0, times, vec![], vec![put], Outcome::Unknown),
            _ => {
                history.write(0, times, vec![], vec![put], Outcome::Done);
                held[number] = Some(turn);
            }
        }
    }
    history
}

#[test]
fn a_million_operations_are_judged() {
    for versions in [true, false] {
        let history = million(versions);
        let begun = Instant::now();
        let report = check(&history);
        println!("versions: {versions}: {report} in {:?}", begun.elapsed());
        assert!(report.is_linearizable());
    }
}
