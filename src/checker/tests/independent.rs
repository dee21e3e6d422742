//! The verdict of somebody else: `todc-utils` has a checker of its own, after the same papers, that knows neither versions
//! nor unknown outcomes. So a version is taken for the value it stands for, and every choice of what took place among the
//! uncertain is tried.

use std::collections::HashMap;

use todc_utils::{Action, History as Actions, Specification, WGLChecker};

use super::super::{Change, Expect, History, Key, Outcome, Time, Version};

/// What a step needs of a key.
#[derive(Debug, Clone, Copy)]
enum Need {
    Absent,
    Present,
    Value(u64),
    NotValue(u64),
}

#[derive(Debug, Clone, Copy)]
enum Deed {
    Put(u64),
    Delete,
    Add(u64),
    /// Deletes this value, if it is there.
    Expire(u64),
}

/// A step of the other checker.
#[derive(Debug, Clone, Default)]
struct Step {
    needs: Vec<(usize, Need)>,
    deeds: Vec<(usize, Deed)>,
}

struct Keys;

impl Specification for Keys {
    type State = Vec<Option<u64>>;
    type Operation = Step;

    fn init() -> Self::State {
        vec![None; 8]
    }

    fn apply(step: &Step, state: &Self::State) -> (bool, Self::State) {
        let meets = |(key, need): &(usize, Need)| match need {
            Need::Absent => state[*key].is_none(),
            Need::Present => state[*key].is_some(),
            Need::Value(value) => state[*key] == Some(*value),
            Need::NotValue(value) => state[*key] != Some(*value),
        };
        if !step.needs.iter().all(meets) {
            return (false, state.clone());
        }
        let mut next = state.clone();
        for (key, deed) in &step.deeds {
            next[*key] = match deed {
                Deed::Put(value) => Some(*value),
                Deed::Delete => None,
                Deed::Add(amount) => Some(next[*key].unwrap_or(0) + amount),
                Deed::Expire(value) => next[*key].filter(|had| had != value),
            };
        }
        (true, next)
    }
}

/// Whether it is linearizable; `values` says which value each version stands for.
pub(super) fn is_linearizable(history: &History, values: &HashMap<(Key, Version), u64>) -> bool {
    let mut certain: Vec<(Time, Time, Step)> = Vec::new();
    let mut uncertain: Vec<(Time, Step)> = Vec::new();
    let value = |key: Key, version: &Version| values.get(&(key, *version)).copied().unwrap_or(u64::MAX);
    for operation in &history.operations {
        let mut step = Step::default();
        let failed = match operation.outcome {
            Outcome::Refused => continue,
            Outcome::ConditionFailed(index) => Some(index),
            _ => None,
        };
        for (index, condition) in operation.conditions.iter().enumerate() {
            let key = condition.key;
            let need = match (&condition.expect, failed.map(|failed| failed.cmp(&index))) {
                (_, Some(std::cmp::Ordering::Less)) => continue,
                (Expect::Absent, Some(std::cmp::Ordering::Equal)) => Need::Present,
                (Expect::Present, Some(std::cmp::Ordering::Equal)) => Need::Absent,
                (Expect::Version(version), Some(std::cmp::Ordering::Equal)) => Need::NotValue(value(key, version)),
                (Expect::Value(..), Some(std::cmp::Ordering::Equal)) => continue,
                (Expect::Absent, _) => Need::Absent,
                (Expect::Present, _) => Need::Present,
                (Expect::Version(version), _) => Need::Value(value(key, version)),
                (Expect::Value(value, _), _) => Need::Value(value.0),
            };
            step.needs.push((key.0 as usize, need));
        }
        for change in operation.changes.iter().filter(|_| failed.is_none()) {
            let key = change.key().0 as usize;
            step.deeds.push((
                key,
                match change {
                    Change::Put { value, .. } => Deed::Put(value.0),
                    Change::Delete { .. } => Deed::Delete,
                    Change::Add { amount, .. } => Deed::Add(*amount),
                },
            ));
            if let Change::Put { value, lifetime: Some(lifetime), .. } = change {
                let end = Step { needs: vec![], deeds: vec![(key, Deed::Expire(value.0))] };
                let earliest = lifetime.earliest.max(operation.call);
                match lifetime.latest {
                    Some(latest) => certain.push((earliest, latest.max(earliest), end)),
                    None => uncertain.push((earliest, end)),
                }
            }
        }
        match operation.outcome {
            Outcome::Unknown if step.deeds.is_empty() => {}
            Outcome::Unknown => uncertain.push((operation.call, step)),
            _ => certain.push((operation.call, operation.end, step)),
        }
    }
    (0..1_u32 << uncertain.len()).any(|chosen| {
        let mut steps = certain.clone();
        for (index, (call, step)) in uncertain.iter().enumerate() {
            if chosen >> index & 1 == 1 {
                steps.push((*call, Time::MAX, step.clone()));
            }
        }
        let mut times: Vec<(Time, bool, usize)> = Vec::new();
        for (index, (call, end, _)) in steps.iter().enumerate() {
            times.push((*call, false, index));
            times.push((*end, true, index));
        }
        times.sort_unstable();
        let action = |(_, end, index): (Time, bool, usize)| {
            let step = steps[index].2.clone();
            (index, if end { Action::Response(step) } else { Action::Call(step) })
        };
        times.is_empty()
            || WGLChecker::<Keys>::is_linearizable(Actions::from_actions(times.into_iter().map(action).collect()))
    })
}
