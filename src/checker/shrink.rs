//! A history that nothing explains, made as small as it can be.
//!
//! First the end: what is linearizable stays so when it is cut off at a time (what had not ended then is of unknown
//! outcome), so bisection finds the first answer that is too much. Then everything that can be missing is left out, in
//! ever smaller portions (Zeller's delta debugging), a write always with all who saw it.

use super::hashing::HashSet;
use super::history::{Change, Expect, History, Operation, Outcome, Time};
use super::problem::{Effect, Guard, NEVER, Problem};
use super::verdict::Violation;
use super::{search, witness};

/// Situations for one trial: a part that needs more is not left out.
const TRIAL: usize = 100_000;
/// Steps looked at in all trials together; after that what is left is told as it is.
const EFFORT: usize = 30_000_000;

/// What is wrong with a problem that nothing explains.
pub(super) fn violation(history: &History, problem: &Problem) -> Violation {
    let mut ends: Vec<Time> = problem.steps.iter().filter(|step| !step.optional).map(|step| step.end).collect();
    ends.sort_unstable();
    ends.dedup();
    // The first end with which it fails; with the last one it does.
    let first = ends.partition_point(|end| !fails(&cut(problem, *end)));
    let end = ends[first.min(ends.len() - 1)];
    let mut rest = cut(problem, end);
    if !fails(&rest) {
        // Too much for a trial: nothing can be left out.
        rest = problem.clone();
    }
    leave_out(&mut rest);
    let at = rest.steps.iter().filter(|step| step.end == end && step.expires.is_none()).map(|step| step.origin).next();
    let mut operations: Vec<usize> = rest.steps.iter().map(|step| step.origin).collect();
    operations.sort_unstable();
    operations.dedup();
    let all = history.operations.iter().enumerate();
    let refused = all.filter(|(_, it)| seen_though_refused(history, it, &operations)).map(|(index, _)| index);
    let refused: Vec<usize> = refused.collect();
    operations.extend(refused);
    let at = at.map_or_else(|| problem.names(history), |origin| history.tell(&history.operations[origin]));
    Violation::new(history, rest.names(history), at, operations)
}

/// Whether it is a refused write of something that one of these saw.
fn seen_though_refused(history: &History, refused: &Operation, among: &[usize]) -> bool {
    let put = |change: &Change| match *change {
        Change::Put { key, value, .. } => Some((key, value)),
        _ => None,
    };
    let saw = |condition: &super::Condition| match condition.expect {
        Expect::Value(value, _) => Some((condition.key, value)),
        _ => None,
    };
    refused.outcome == Outcome::Refused
        && among
            .iter()
            .flat_map(|index| &history.operations[*index].conditions)
            .filter_map(saw)
            .any(|seen| refused.changes.iter().filter_map(put).any(|put| put == seen))
}

fn fails(problem: &Problem) -> bool {
    !witness::explains(problem) && matches!(search::explain(problem, TRIAL), search::Found::Nothing)
}

/// As much of it as had happened at `time`.
fn cut(problem: &Problem, time: Time) -> Problem {
    let mut cut = problem.clone();
    for step in &mut cut.steps {
        if step.end > time {
            step.optional = true;
            step.end = NEVER;
        }
    }
    cut.retain(|step| step.call <= time && (!step.optional || !step.effects.is_empty()));
    cut
}

fn leave_out(problem: &mut Problem) {
    let mut effort = 0;
    let mut portion = problem.steps.len().div_ceil(2);
    while portion > 0 {
        let mut from = 0;
        let mut less = false;
        while from < problem.steps.len() && effort < EFFORT {
            effort += problem.steps.len();
            let without = without(problem, from, portion);
            if without.steps.len() < problem.steps.len() && fails(&without) {
                *problem = without;
                less = true;
            } else {
                from += portion;
            }
        }
        if effort >= EFFORT || (portion == 1 && !less) {
            break;
        }
        portion = if portion == 1 { 1 } else { portion.div_ceil(2) };
    }
}

/// Without the steps in this range, and without those who saw what they wrote.
fn without(problem: &Problem, from: usize, count: usize) -> Problem {
    let range = from..(from + count).min(problem.steps.len());
    let mut values = HashSet::default();
    let mut versions = HashSet::default();
    for (key, effect) in problem.steps[range.clone()].iter().flat_map(|step| &step.effects) {
        match effect {
            Effect::Put { value, version, .. } => {
                values.insert((*key, *value));
                versions.extend(version.map(|version| (*key, version)));
            }
            Effect::Delete { version } => versions.extend(version.map(|version| (*key, version))),
            Effect::Add(_) | Effect::Expire(_) => {}
        }
    }
    let mut rest = problem.clone();
    let mut index = 0;
    let keep: Vec<bool> = problem
        .steps
        .iter()
        .map(|step| {
            index += 1;
            let saw = |(key, guard): &(u32, Guard)| match guard {
                Guard::Is { value, .. } => values.contains(&(*key, *value)),
                Guard::Version { version, .. } => versions.contains(&(*key, *version)),
                _ => false,
            };
            // A life goes with the value, not by itself.
            (step.expires.is_some() || !range.contains(&(index - 1))) && !step.guards.iter().any(saw)
        })
        .collect();
    // `retain` asks in order.
    let asked = std::cell::Cell::new(0);
    rest.retain(|_| {
        asked.set(asked.get() + 1);
        keep[asked.get() - 1]
    });
    rest
}
