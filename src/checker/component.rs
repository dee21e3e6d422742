//! Which keys must be judged together, and what was done to them.
//!
//! Refused operations are left out: what they would have written then has no writer, and whoever saw it is found.

use super::history::{Change, Expect, History, Lifetime, Operation, Outcome};
use super::problem::{Effect, Guard, NEVER, Problem, Slot, Step, StepId};

/// The history in independent parts.
pub(super) fn problems(history: &History) -> Vec<Problem> {
    let judged = |operation: &&Operation| operation.outcome != Outcome::Refused && operation.at_least.is_none();
    let keys = |operation: &Operation| {
        let conditions = operation.conditions.iter().map(|condition| condition.key.0);
        conditions.chain(operation.changes.iter().map(|change| change.key().0)).collect::<Vec<_>>()
    };
    let count = history.operations.iter().flat_map(keys).max().map_or(0, |key| key as usize + 1);
    let mut joined = Joined::new(count);
    for operation in history.operations.iter().filter(judged) {
        keys(operation).windows(2).for_each(|pair| joined.join(pair[0], pair[1]));
    }

    let mut problems: Vec<Problem> = Vec::new();
    // Of each key: its component and its place there.
    let mut places: Vec<(usize, Slot)> = vec![(usize::MAX, 0); count];
    for (index, operation) in history.operations.iter().enumerate().filter(|(_, operation)| judged(operation)) {
        let mut component = usize::MAX;
        for key in keys(operation) {
            let root = joined.root(key) as usize;
            if places[root].0 == usize::MAX {
                places[root] = (problems.len(), 0);
                problems.push(Problem { keys: vec![super::Key(root as u32)], steps: Vec::new() });
            }
            component = places[root].0;
            if places[key as usize].0 == usize::MAX {
                let keys = &mut problems[component].keys;
                places[key as usize] = (component, keys.len() as Slot);
                keys.push(super::Key(key));
            }
        }
        if component != usize::MAX {
            add(&mut problems[component], index, operation, |key| places[key.0 as usize].1);
        }
    }
    problems.iter_mut().for_each(Problem::prepare);
    problems
}

fn add(problem: &mut Problem, origin: usize, operation: &Operation, slot: impl Fn(super::Key) -> Slot) {
    let id = problem.steps.len() as StepId;
    let optional = operation.outcome == Outcome::Unknown;
    let failed = match operation.outcome {
        Outcome::ConditionFailed(index) => Some(index),
        _ => None,
    };
    let judged = operation.conditions.iter().take(failed.map_or(usize::MAX, |index| index + 1));
    let mut guards = Vec::with_capacity(operation.conditions.len());
    for (index, condition) in judged.enumerate() {
        let guard = match (condition.expect, failed == Some(index)) {
            (Expect::Absent, false) | (Expect::Present, true) => Guard::Absent,
            (Expect::Present, false) | (Expect::Absent, true) => Guard::Present,
            (Expect::Version(version), false) => Guard::Version { version, loose: false },
            (Expect::Version(version), true) => Guard::NotVersion(version),
            (Expect::Value(value, version), false) => Guard::Is { value, version, loose: false },
            // By value alone nothing is conditioned; there is nothing to be learned.
            (Expect::Value(..), true) => continue,
        };
        guards.push((slot(condition.key), guard));
    }
    let mut expiries = Vec::new();
    let mut effects = Vec::new();
    for change in operation.changes.iter().filter(|_| failed.is_none()) {
        let key = slot(change.key());
        effects.push((
            key,
            match *change {
                Change::Put { value, version, lifetime, .. } => {
                    expiries.extend(lifetime.map(|lifetime| (key, lifetime)));
                    Effect::Put { value, version, mortal: lifetime.map(|_| id) }
                }
                Change::Delete { version, .. } => Effect::Delete { version },
                Change::Add { amount, .. } => Effect::Add(amount),
            },
        ));
    }
    // Of what was asked and changed nothing, only the answer tells something.
    if optional && effects.is_empty() {
        return;
    }
    let end = if optional { NEVER } else { operation.end };
    let step = Step { call: operation.call, end, optional, guards, effects, position: None, origin, expires: None };
    problem.steps.push(step);
    problem.steps.extend(expiries.into_iter().map(|(key, Lifetime { earliest, latest })| Step {
        call: earliest.max(operation.call),
        end: latest.map_or(NEVER, |latest| latest.max(earliest).max(operation.call)),
        optional: latest.is_none(),
        // A life that certainly ends has ended even if the value was overwritten before.
        guards: if latest.is_none() { vec![(key, Guard::HeldBy(id))] } else { Vec::new() },
        effects: vec![(key, Effect::Expire(id))],
        position: None,
        origin,
        expires: Some(id),
    }));
}

/// Sets of keys that are joined pairwise (Tarjan's union-find).
struct Joined(Vec<u32>);

impl Joined {
    fn new(count: usize) -> Self {
        Self((0..count as u32).collect())
    }

    fn root(&mut self, mut key: u32) -> u32 {
        while self.0[key as usize] != key {
            let above = self.0[self.0[key as usize] as usize];
            self.0[key as usize] = above;
            key = above;
        }
        key
    }

    fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.root(one), self.root(other));
        // The smaller number is the root: the first key names the set.
        self.0[one.max(other) as usize] = one.min(other);
    }
}
