//! Reads of followers that promise a position: they may be old, but not older than that, and never show what was not
//! written.

use super::hashing::HashMap;
use super::history::{Change, Expect, History, Key, Operation, Outcome, Value, Version};
use super::verdict::Violation;

/// What is known of the writes of one key.
#[derive(Default)]
struct Writes {
    /// By version.
    told: Vec<(Version, Option<Value>, usize)>,
    /// Values of puts whose version was not told.
    untold: Vec<(Value, usize)>,
    /// What may have removed it without a version: deletes of unknown outcome, and ends of lives, with their time.
    gone: Vec<u64>,
}

/// What is wrong with them.
pub(super) fn violations(history: &History) -> Vec<Violation> {
    if history.operations.iter().all(|operation| operation.at_least.is_none()) {
        return Vec::new();
    }
    let mut keys: HashMap<Key, Writes> = HashMap::default();
    let possible = |it: &&Operation| matches!(it.outcome, Outcome::Done | Outcome::Unknown);
    for (index, operation) in history.operations.iter().enumerate().filter(|(_, it)| possible(it)) {
        for change in &operation.changes {
            let writes = keys.entry(change.key()).or_default();
            match *change {
                Change::Put { value, version, lifetime, .. } => {
                    writes.gone.extend(lifetime.map(|lifetime| lifetime.earliest));
                    match version {
                        Some(version) => writes.told.push((version, Some(value), index)),
                        None => writes.untold.push((value, index)),
                    }
                }
                Change::Delete { version: Some(version), .. } => writes.told.push((version, None, index)),
                Change::Delete { version: None, .. } => writes.gone.push(operation.call),
                Change::Add { .. } => {}
            }
        }
    }
    for writes in keys.values_mut() {
        writes.told.sort_by_key(|(version, ..)| *version);
    }
    let nothing = Writes::default();
    let mut violations = Vec::new();
    for (index, read) in history.operations.iter().enumerate() {
        let (Some(position), [condition]) = (read.at_least, read.conditions.as_slice()) else { continue };
        let writes = keys.get(&condition.key).unwrap_or(&nothing);
        if let Some(mut against) = wrong(history, writes, read, condition.expect, position) {
            against.push(index);
            let key = history.name(condition.key).to_owned();
            violations.push(Violation::new(history, key, history.tell(read), against));
        }
    }
    violations
}

/// What contradicts the read; None = nothing.
fn wrong(history: &History, writes: &Writes, read: &Operation, saw: Expect, position: Version) -> Option<Vec<usize>> {
    let begun = |index: usize| history.operations[index].call <= read.end;
    let within = writes.told.partition_point(|(version, ..)| *version <= position);
    match saw {
        Expect::Value(value, version) => {
            let of_value = |(_, put, _): &&(Version, Option<Value>, usize)| *put == Some(value);
            let told = writes.told.iter().filter(of_value).find(|(had, ..)| version.is_none_or(|it| it == *had));
            let untold = writes.untold.iter().find(|(put, _)| *put == value);
            let writer = told.map(|(.., it)| *it).or(untold.map(|(_, it)| *it));
            // Nobody wrote it, or not before it was seen.
            let Some(writer) = writer.filter(|writer| begun(*writer)) else { return Some(Vec::new()) };
            let version = version.or(told.map(|(version, ..)| *version))?;
            let (newest, _, newer) = writes.told[..within].last()?;
            (version < *newest).then(|| vec![writer, *newer])
        }
        Expect::Absent => {
            let (version, put, writer) = writes.told[..within].last()?;
            put.as_ref()?;
            let deleted = writes.told[within..].iter().any(|(_, put, it)| put.is_none() && begun(*it));
            let gone = writes.gone.iter().any(|time| *time <= read.end);
            (!deleted && !gone && *version <= position).then(|| vec![*writer])
        }
        Expect::Present | Expect::Version(_) => None,
    }
}
