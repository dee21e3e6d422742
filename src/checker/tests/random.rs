//! Thousands of random histories: those of a store that keeps its promises, and the same with one thing changed, which
//! may or may not be wrong then. The independent checker says which.

use std::collections::HashMap;

use super::super::*;
use super::independent;
use crate::position::LogPosition;

/// The same numbers for the same seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

fn version(gsn: u64) -> Version {
    Version { lineage: 0, position: LogPosition::new(1 + gsn / 7, gsn) }
}

/// A store that does one thing at a time, and those who use it.
struct Store {
    history: History,
    dice: Dice,
    held: Vec<Option<(u64, Version, Option<Time>)>>,
    values: HashMap<(Key, Version), u64>,
    gsn: u64,
    versions: bool,
    /// Versions that a writer was told.
    told: Vec<Version>,
    uncertain: u32,
}

const COUNTER: usize = 3;

impl Store {
    fn new(seed: u64) -> Self {
        let mut history = History::default();
        for name in ["a", "b", "c", "n"] {
            history.key(name);
        }
        let mut dice = Dice(seed);
        let versions = !dice.one_in(3);
        Self {
            history,
            dice,
            held: vec![None; 4],
            values: HashMap::new(),
            gsn: 0,
            versions,
            told: Vec::new(),
            uncertain: 0,
        }
    }

    /// A time around the moment at which the store does it.
    fn around(&mut self, moment: Time) -> (Time, Time) {
        (moment - self.dice.below(60), moment + self.dice.below(60))
    }

    fn answer(&self, version: Version, outcome: Outcome) -> Option<Version> {
        (self.versions && outcome == Outcome::Done).then_some(version)
    }

    fn turn(&mut self, moment: Time) {
        for held in &mut self.held {
            *held = held.filter(|(_, _, until)| until.is_none_or(|until| moment < until));
        }
        let key = Key(self.dice.below(3) as u32);
        let times = self.around(moment);
        match self.dice.below(12) {
            0..=3 => {
                let saw = self.held[key.0 as usize];
                let saw = saw.map(|(value, version, _)| (Value(value), self.answer(version, Outcome::Done)));
                self.history.read(1, times, key, saw);
            }
            4 if !self.versions => {
                let count = self.held[COUNTER].map_or(0, |(value, ..)| value);
                let key = Key(COUNTER as u32);
                if self.dice.one_in(2) {
                    self.held[COUNTER] = Some((count + 1, version(0), None));
                    let add = Change::Add { key, amount: 1 };
                    self.history.write(1, times, vec![], vec![add], Outcome::Done);
                } else {
                    let saw = (count > 0).then_some((Value(count), None));
                    self.history.read(1, times, key, saw);
                }
            }
            _ => self.write(key, moment, times),
        }
    }

    fn write(&mut self, key: Key, moment: Time, times: (Time, Time)) {
        let held = self.held[key.0 as usize];
        let mut conditions = Vec::new();
        let mut outcome = Outcome::Done;
        let conditioned = self.dice.below(4);
        let condition = match (conditioned, held) {
            (0, _) => Some((Expect::Absent, held.is_none())),
            // A client knows the version of what was acknowledged, and value and version of what it read.
            (1, Some((_, version, _))) if self.told.contains(&version) => Some((Expect::Version(version), true)),
            (1, Some((value, version, _))) => {
                Some((Expect::Value(Value(value), self.versions.then_some(version)), true))
            }
            (1, None) if !self.told.is_empty() => {
                Some((Expect::Version(self.told[self.dice.below(self.told.len() as u64) as usize]), false))
            }
            (2, _) if self.dice.one_in(2) => Some((Expect::Present, held.is_some())),
            _ => None,
        };
        if let Some((expect, holds)) = condition {
            // Only what was a version of this key is expected of it.
            if matches!(expect, Expect::Version(version) if !self.values.contains_key(&(key, version))) {
                return;
            }
            conditions.push(Condition { key, expect });
            if !holds {
                outcome = Outcome::ConditionFailed(0);
            }
        }
        let mut does = outcome == Outcome::Done;
        if self.uncertain < 4 && self.dice.one_in(5) {
            self.uncertain += 1;
            does &= self.dice.one_in(2);
            outcome = Outcome::Unknown;
        } else if outcome == Outcome::Done && self.dice.one_in(12) {
            does = false;
            outcome = Outcome::Refused;
        }
        let mut keys = vec![key];
        if self.dice.one_in(4) {
            keys.push(Key((key.0 + 1) % 3));
        }
        let mut changes = Vec::new();
        for key in keys {
            self.gsn += 1;
            let gsn = self.gsn;
            let value = 100 + gsn;
            let told = self.answer(version(gsn), outcome);
            self.told.extend(told);
            if self.dice.one_in(4) {
                changes.push(Change::Delete { key, version: told });
                if does {
                    self.held[key.0 as usize] = None;
                }
                continue;
            }
            let until = (self.uncertain < 4 && self.dice.one_in(4)).then(|| moment + 1 + self.dice.below(80));
            let lifetime = until.map(|until| Lifetime {
                earliest: until.saturating_sub(self.dice.below(20)),
                latest: self.dice.one_in(2).then(|| until + self.dice.below(20)),
            });
            self.uncertain += u32::from(lifetime.is_some_and(|lifetime| lifetime.latest.is_none()));
            changes.push(Change::Put { key, value: Value(value), version: told, lifetime });
            self.values.insert((key, version(gsn)), value);
            if does {
                self.held[key.0 as usize] = Some((value, version(gsn), until));
            }
        }
        self.history.write(0, times, conditions, changes, outcome);
    }

    /// Changes one thing.
    fn disturb(&mut self) {
        let count = self.history.operations.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.dice.below(count) as usize;
        let known: Vec<_> = self.values.iter().map(|((key, version), value)| (*key, *version, *value)).collect();
        let other = self.dice.below(1 + known.len() as u64) as usize;
        let mut known = known;
        known.sort_unstable();
        let (shift, sign) = (self.dice.below(150), self.dice.one_in(2));
        let versions = self.versions;
        let expected: Vec<Expect> =
            self.history.operations.iter().flat_map(|it| &it.conditions).map(|it| it.expect).collect();
        let operation = &mut self.history.operations[at];
        // Nobody expects the version of a refused write.
        let awaited = |change: &Change| change.version().is_some_and(|it| expected.contains(&Expect::Version(it)));
        let awaited = operation.changes.iter().any(awaited);
        if operation.changes.is_empty() && !self.dice.one_in(3) {
            let condition = &mut operation.conditions[0];
            let candidates: Vec<_> = known.iter().filter(|(key, ..)| *key == condition.key).collect();
            condition.expect = match candidates.get(other % candidates.len().max(1)) {
                Some((_, version, value)) if sign => Expect::Value(Value(*value), versions.then_some(*version)),
                _ => Expect::Absent,
            };
        } else if self.dice.one_in(4) && !awaited && !operation.changes.is_empty() && operation.outcome == Outcome::Done
        {
            operation.outcome = Outcome::Refused;
        } else {
            let move_by = |time: Time| if sign { time + shift } else { time.saturating_sub(shift) };
            (operation.call, operation.end) = (move_by(operation.call), move_by(operation.end));
        }
    }
}

#[test]
fn six_thousand_random_histories_are_judged_as_an_independent_checker_judges_them() {
    let (mut sound, mut wrong, mut searched) = (0, 0, 0);
    for seed in 0..6000 {
        let mut store = Store::new(seed);
        let turns = 4 + store.dice.below(12);
        for turn in 0..turns {
            store.turn(100 + 20 * turn);
        }
        for _ in 0..store.dice.below(6) {
            store.disturb();
        }
        let Store { history, values, .. } = store;
        let expected = independent::is_linearizable(&history, &values);
        let report = check(&history);
        let told = || history.operations.iter().map(|it| history.tell(it) + "\n").collect::<String>();
        assert_eq!(report.is_linearizable(), expected, "seed {seed}:\n{}{report}", told());
        assert!(report.undecided.is_empty(), "seed {seed}: {report}");
        // What a violation shows is a violation by itself.
        for violation in &report.violations {
            let mut alone = history.clone();
            alone.operations = violation.operations.iter().map(|at| history.operations[*at].clone()).collect();
            assert!(!independent::is_linearizable(&alone, &values), "seed {seed}: {violation}\nof\n{}", told());
        }
        searched += report.searched;
        if expected {
            sound += 1;
        } else {
            wrong += 1;
        }
    }
    println!("{sound} linearizable, {wrong} not; {searched} sets of keys searched");
    assert!(sound > 1000 && wrong > 1000, "{sound} linearizable, {wrong} not");
}
