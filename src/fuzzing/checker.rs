//! Histories of a few operations, whose verdict is that of every order tried one after the other; and any history at all,
//! over which nobody panics.
//!
//! What is compared keeps the checker's contract: a value names its write, a version is expected only of a write that was
//! told it, or together with the value. What is not compared keeps nothing.

use super::Input;
use crate::checker::{
    Change, Condition, Expect, History, Key, Lifetime, Operation, Outcome, Report, Time, Value, Version, check,
    check_within,
};
use crate::position::LogPosition;

type Seeds = Vec<(String, Vec<u8>)>;

/// Every order of more would take too long.
const OPERATIONS: usize = 6;
const EXPIRIES: usize = 2;
/// Of histories that are not compared.
const SITUATIONS: usize = 10_000;
/// Keys that hold values; the next one counts.
const KEYS: u8 = 2;
const OPERATION_BYTES: usize = 6;

/// First byte: whether the verdict is compared.
pub(super) fn verdict(data: &[u8]) {
    let mut input = Input(data);
    if input.u8() % 4 == 3 {
        let history = anything(&mut input);
        // A dozen that all overlap may be tried in more orders than there is time for.
        let report = check_within(&history, SITUATIONS);
        for violation in &report.violations {
            assert!(violation.operations.iter().all(|at| *at < history.operations.len()));
        }
        assert!(!report.to_string().is_empty());
        return;
    }
    let history = few(&mut input);
    let told = |report: &Report| {
        let lines: String = history.operations.iter().map(|it| history.tell(it) + "\n").collect();
        format!("{report}\nof\n{lines}")
    };
    let report = check(&history);
    assert!(report.undecided.is_empty(), "{}", told(&report));
    assert_eq!(report.is_linearizable(), some_order_explains(&history.operations), "{}", told(&report));
    for violation in &report.violations {
        let shown: Vec<Operation> = violation.operations.iter().map(|at| history.operations[*at].clone()).collect();
        assert!(!some_order_explains(&shown), "what is shown is a violation by itself: {}", told(&report));
    }
    let mut backwards = history.clone();
    backwards.operations.reverse();
    let again = check(&backwards);
    assert_eq!(again.is_linearizable(), report.is_linearizable(), "however they are listed: {}", told(&report));
}

/// The version of what an operation wrote, whether or not it was told.
fn version(operation: usize, key: Key) -> Version {
    let gsn = 1 + 3 * operation as u64 + u64::from(key.0);
    Version { lineage: 0, position: LogPosition::new(1 + gsn / 4, gsn) }
}

fn value(operation: usize) -> Value {
    Value(100 + operation as u64)
}

/// Six bytes an operation: what, on which key, when, how long, about whose write, and what came of it.
fn few(input: &mut Input<'_>) -> History {
    let mut history = History::default();
    let keys: Vec<Key> = ["a", "b", "n"].iter().map(|name| history.key(name)).collect();
    let counter = keys[usize::from(KEYS)];
    let mut expected = Vec::new();
    let mut expiries = 0;
    while !input.is_empty() && history.operations.len() < OPERATIONS {
        let at = history.operations.len();
        let (what, key, call) = (input.u8(), keys[usize::from(input.u8() % KEYS)], Time::from(input.u8()));
        let (len, whose, how) = (input.u8() % 64, input.u8(), input.u8());
        let end = call + Time::from(len);
        let what = what % 10;
        let outcome = match how % 8 {
            4 if what == 7 => Outcome::ConditionFailed(0),
            0..=4 => Outcome::Done,
            5 | 6 => Outcome::Unknown,
            _ => Outcome::Refused,
        };
        let with_versions = how & 8 == 0;
        let version_of = |key| (with_versions && outcome == Outcome::Done).then(|| version(at, key));
        let lives = how & 16 != 0 && expiries < EXPIRIES;
        let lifetime = lives.then(|| {
            expiries += 1;
            let earliest = call + Time::from(whose % 32);
            Lifetime { earliest, latest: (how & 32 == 0).then(|| earliest + Time::from(whose / 32)) }
        });
        let put = |key, lifetime| Change::Put { key, value: value(at), version: version_of(key), lifetime };
        let delete = |key| Change::Delete { key, version: version_of(key) };
        let other = keys[1 - key.0 as usize];
        let writer = usize::from(whose) % (OPERATIONS + 1);
        match what {
            0..=2 => {
                let saw = (writer < OPERATIONS).then(|| (value(writer), with_versions.then(|| version(writer, key))));
                history.read(1, (call, end), key, saw);
            }
            3 => history.write(0, (call, end), vec![], vec![put(key, lifetime)], outcome),
            4 => history.write(0, (call, end), vec![], vec![delete(key)], outcome),
            5 => history.write(0, (call, end), vec![], vec![put(key, lifetime), delete(other)], outcome),
            6 => history.write(0, (call, end), vec![], vec![put(key, lifetime), put(other, None)], outcome),
            7 => {
                expected.push((at, writer));
                // What it expects is known once every write is.
                let conditions = vec![Condition { key, expect: Expect::Present }];
                history.write(0, (call, end), conditions, vec![put(key, None)], outcome);
            }
            8 => {
                let change = match whose % 4 {
                    0 => Change::Delete { key: counter, version: None },
                    amount => Change::Add { key: counter, amount: amount.into() },
                };
                history.write(0, (call, end), vec![], vec![change], outcome);
            }
            _ => {
                let saw = (whose % 8 > 0).then(|| (Value(u64::from(whose % 8)), None));
                history.read(1, (call, end), counter, saw);
            }
        }
    }
    for (at, writer) in expected {
        let Condition { key, .. } = history.operations[at].conditions[0];
        let told = history.operations.get(writer).is_some_and(|operation| {
            operation.changes.iter().any(|change| change.key() == key && change.version().is_some())
        });
        history.operations[at].conditions[0].expect = match writer {
            OPERATIONS => Expect::Absent,
            writer if writer == at => Expect::Present,
            writer if told => Expect::Version(version(writer, key)),
            writer => Expect::Value(value(writer), Some(version(writer, key))),
        };
    }
    history
}

/// A history that nobody could have recorded.
fn anything(input: &mut Input<'_>) -> History {
    let mut history = History::default();
    history.key("a");
    while !input.is_empty() && history.operations.len() < 12 {
        let call = Time::from(input.u8());
        let end = Time::from(input.u8());
        let some = |input: &mut Input<'_>| {
            let byte = input.u8();
            let gsn = u64::from(byte % 8);
            (byte >= 128)
                .then(|| Version { lineage: u64::from(byte >> 5 & 1), position: LogPosition::new(gsn / 2, gsn) })
        };
        let kinds = input.u8();
        let mut conditions = Vec::new();
        for _ in 0..kinds % 3 {
            let (key, kind) = (Key(u32::from(input.u8() % 4)), input.u8());
            let expect = match (kind % 4, some(input)) {
                (0, _) => Expect::Absent,
                (1, Some(version)) => Expect::Version(version),
                (1 | 2, version) => Expect::Value(Value(u64::from(kind / 64)), version),
                _ => Expect::Present,
            };
            conditions.push(Condition { key, expect });
        }
        let mut changes = Vec::new();
        for _ in 0..kinds / 3 % 3 {
            let (key, kind) = (Key(u32::from(input.u8() % 4)), input.u8());
            let version = some(input);
            let lifetime = (kind & 4 != 0).then(|| Lifetime {
                earliest: input.u8().into(),
                latest: (kind & 8 != 0).then(|| Time::from(input.u8())),
            });
            changes.push(match kind % 4 {
                0 => Change::Delete { key, version },
                1 => Change::Add { key, amount: u64::MAX - u64::from(kind / 64) },
                _ => Change::Put { key, value: Value(u64::from(kind / 64)), version, lifetime },
            });
        }
        let outcome = match kinds / 9 % 6 {
            0..=2 => Outcome::Done,
            3 => Outcome::Unknown,
            4 => Outcome::Refused,
            _ => Outcome::ConditionFailed(usize::from(kinds / 54)),
        };
        let at_least = some(input);
        history.operations.push(Operation { client: 0, call, end, conditions, changes, outcome, at_least });
    }
    history
}

/// What a key holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    value: Value,
    version: Option<Version>,
    /// The operation that put it.
    put_by: usize,
}

/// An operation, or the end of the life of what one put.
#[derive(Debug, Clone, Copy)]
struct Step {
    operation: usize,
    call: Time,
    /// None: it need not take place.
    end: Option<Time>,
    ends_life: Option<Key>,
}

/// Whether one of all orders explains them.
fn some_order_explains(operations: &[Operation]) -> bool {
    let mut steps = Vec::new();
    for (operation, it) in operations.iter().enumerate() {
        if it.outcome == Outcome::Refused {
            continue;
        }
        let end = (it.outcome != Outcome::Unknown).then_some(it.end);
        steps.push(Step { operation, call: it.call, end, ends_life: None });
        for change in it.changes.iter().filter(|_| !matches!(it.outcome, Outcome::ConditionFailed(_))) {
            if let Change::Put { key, lifetime: Some(lifetime), .. } = *change {
                let call = lifetime.earliest.max(it.call);
                let end = lifetime.latest.map(|latest| latest.max(call));
                steps.push(Step { operation, call, end, ends_life: Some(key) });
            }
        }
    }
    explained(operations, &steps, [None; 3])
}

/// Whether what is left can follow when the keys hold this.
fn explained(operations: &[Operation], left: &[Step], held: [Option<Held>; 3]) -> bool {
    let Some(first_end) = left.iter().filter_map(|step| step.end).min() else { return true };
    (0..left.len()).any(|next| {
        let step = left[next];
        if step.call > first_end {
            return false;
        }
        let Some(held) = after(operations, step, held) else { return false };
        let rest: Vec<Step> = left.iter().enumerate().filter(|(at, _)| *at != next).map(|(_, step)| *step).collect();
        explained(operations, &rest, held)
    })
}

/// What the keys hold after the step; None if it cannot take place.
fn after(operations: &[Operation], step: Step, mut held: [Option<Held>; 3]) -> Option<[Option<Held>; 3]> {
    if let Some(key) = step.ends_life {
        let held_by = &mut held[key.0 as usize];
        *held_by = held_by.filter(|held| held.put_by != step.operation);
        return Some(held);
    }
    let operation = &operations[step.operation];
    let holds = |condition: &Condition| {
        let held = held[condition.key.0 as usize];
        match condition.expect {
            Expect::Absent => held.is_none(),
            Expect::Present => held.is_some(),
            Expect::Version(version) => held.is_some_and(|held| held.version == Some(version)),
            // A write that was not told its version has the one that its value was seen with.
            Expect::Value(value, version) => held.is_some_and(|held| {
                let differs = held.version.zip(version).is_some_and(|(had, seen)| had != seen);
                held.value == value && !differs
            }),
        }
    };
    if matches!(operation.outcome, Outcome::ConditionFailed(_)) {
        let condition = operation.conditions[0];
        // By value alone nothing is conditioned.
        let failed = matches!(condition.expect, Expect::Value(..)) || !holds(&condition);
        return failed.then_some(held);
    }
    if !operation.conditions.iter().all(holds) {
        return None;
    }
    for change in &operation.changes {
        let held = &mut held[change.key().0 as usize];
        let value = match *change {
            Change::Put { value, .. } => value,
            Change::Add { amount, .. } => Value(held.map_or(0, |held| held.value.0) + amount),
            Change::Delete { .. } => {
                *held = None;
                continue;
            }
        };
        *held = Some(Held { value, version: change.version(), put_by: step.operation });
    }
    Some(held)
}

pub(super) fn verdict_seeds() -> Seeds {
    const READ: u8 = 0;
    const PUT: u8 = 3;
    const DELETE: u8 = 4;
    const BATCH: u8 = 5;
    const SWAP: u8 = 7;
    const ADD: u8 = 8;
    const COUNT: u8 = 9;
    const UNKNOWN: u8 = 5;
    const UNTOLD: u8 = 8;
    const MORTAL: u8 = 16;
    let seed = |name: &str, operations: &[[u8; OPERATION_BYTES]]| (name.into(), [&[0], &*operations.concat()].concat());
    vec![
        seed("none", &[]),
        seed("fresh", &[[PUT, 0, 1, 5, 0, 0], [READ, 0, 10, 5, 0, 0], [PUT, 0, 20, 9, 0, 0], [READ, 0, 25, 9, 2, 0]]),
        seed("stale", &[[PUT, 0, 1, 5, 0, 0], [PUT, 0, 10, 5, 0, 0], [READ, 0, 20, 5, 0, 0]]),
        seed("unknown", &[[PUT, 0, 1, 5, 0, UNKNOWN], [READ, 0, 10, 5, 6, UNTOLD], [READ, 0, 20, 5, 0, 0]]),
        seed("swap", &[[PUT, 1, 1, 5, 0, 0], [SWAP, 1, 10, 20, 0, 0], [SWAP, 1, 10, 20, 0, 4], [READ, 1, 40, 5, 1, 0]]),
        seed("batch", &[[PUT, 0, 1, 5, 0, 0], [BATCH, 1, 10, 5, 0, 0], [READ, 0, 20, 5, 6, 0], [READ, 1, 20, 5, 1, 0]]),
        seed("expired", &[[PUT, 0, 1, 5, 40, MORTAL], [READ, 0, 5, 5, 0, 0], [READ, 0, 60, 5, 6, 0]]),
        seed("deleted", &[[PUT, 0, 1, 5, 0, UNTOLD], [DELETE, 0, 10, 5, 0, UNKNOWN], [READ, 0, 20, 5, 0, UNTOLD]]),
        seed("counted", &[[ADD, 0, 1, 5, 1, 0], [ADD, 0, 3, 5, 2, UNKNOWN], [COUNT, 0, 10, 5, 3, 0]]),
        seed(
            "six",
            &[
                [PUT, 0, 1, 5, 0, UNTOLD],
                [BATCH, 0, 3, 9, 0, UNKNOWN],
                [PUT, 1, 4, 9, 50, MORTAL],
                [SWAP, 0, 8, 30, 0, 0],
                [READ, 0, 20, 20, 1, 0],
                [READ, 1, 30, 30, 6, 0],
            ],
        ),
        ("anything".into(), vec![3, 1, 9, 12, 0, 2, 0, 5, 66, 131, 200, 0, 7, 3, 1, 1, 131, 3, 10, 0, 9, 200, 64]),
    ]
}
