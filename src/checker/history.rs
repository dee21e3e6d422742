//! What was asked and what came of it: the input of the checker.
//!
//! Everything is one shape: an operation has conditions that must hold and changes that are made if they all do, at one
//! moment between its call and its end. A read is an operation with one condition, that the key is as it was seen; a
//! compare-and-swap has a condition and a change; a batch has several of each.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::hashing::HashMap;
use crate::position::LogPosition;

/// Nanoseconds of one clock, the same for the whole history. Equal times are taken as simultaneous.
pub type Time = u64;

/// A key, as [`History::key`] has numbered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(pub u32);

/// A value, as the recorder has numbered it. Two writes of unknown version should not put the same value under one key:
/// the search would take either for what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Value(pub u64);

/// Which write of a key; ordered as the log of the key's shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Counts recoveries that gave data up; compared first.
    pub lineage: u64,
    /// Epoch and gsn.
    pub position: LogPosition,
}

/// What a condition expects of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// There is no such key.
    Absent,
    /// There is one, whatever its value.
    Present,
    /// The key has this version.
    Version(Version),
    /// The key has this value: what a read saw, with its version if it was told.
    Value(Value, Option<Version>),
}

/// A condition on one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Of which key.
    pub key: Key,
    /// What it expects.
    pub expect: Expect,
}

/// When a value with a time to live goes away by itself. By which clock that is decided is the store's affair; the
/// history needs only the bounds, by its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetime {
    /// Not before.
    pub earliest: Time,
    /// Gone by then, if that is promised.
    pub latest: Option<Time>,
}

/// A change of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Puts a value.
    Put {
        /// Which key.
        key: Key,
        /// The value.
        value: Value,
        /// The version it got, if that was told.
        version: Option<Version>,
        /// When it expires, if it does.
        lifetime: Option<Lifetime>,
    },
    /// Deletes the key.
    Delete {
        /// Which key.
        key: Key,
        /// The version of the deletion, if that was told.
        version: Option<Version>,
    },
    /// Adds to a number; an absent key counts as 0.
    Add {
        /// Which key.
        key: Key,
        /// How much, modulo 2^64.
        amount: u64,
    },
}

impl Change {
    /// Of which key.
    pub fn key(&self) -> Key {
        match *self {
            Self::Put { key, .. } | Self::Delete { key, .. } | Self::Add { key, .. } => key,
        }
    }

    /// The version that was told.
    pub fn version(&self) -> Option<Version> {
        match *self {
            Self::Put { version, .. } | Self::Delete { version, .. } => version,
            Self::Add { .. } => None,
        }
    }
}

/// What came of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Every condition held and every change was made.
    Done,
    /// The condition with this index was the first that did not hold; nothing was changed. That is as good as a read.
    ConditionFailed(usize),
    /// It may be done, or become done after any time, or never.
    Unknown,
    /// It was certainly not done and never will be.
    Refused,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Who asked; told in reports, and not used otherwise.
    pub client: u32,
    /// When it was asked.
    pub call: Time,
    /// When the answer was there.
    pub end: Time,
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What is changed.
    pub changes: Vec<Change>,
    /// What came of it.
    pub outcome: Outcome,
    /// A read of a follower that promised at least this position; it may be older than the latest.
    pub at_least: Option<Version>,
}

/// Everything that was asked, in any order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct History {
    /// See the type.
    pub operations: Vec<Operation>,
    names: Vec<String>,
    #[serde(skip)]
    keys: HashMap<String, Key>,
}

impl History {
    /// The number of a key.
    pub fn key(&mut self, name: &str) -> Key {
        if self.keys.len() < self.names.len() {
            let number = |(index, name): (usize, &String)| (name.clone(), Key(index as u32));
            self.keys = self.names.iter().enumerate().map(number).collect();
        }
        if let Some(key) = self.keys.get(name) {
            return *key;
        }
        let key = Key(u32::try_from(self.names.len()).expect("fewer than 2^32 keys"));
        self.names.push(name.to_owned());
        self.keys.insert(name.to_owned(), key);
        key
    }

    /// The name of a key.
    pub fn name(&self, key: Key) -> &str {
        self.names.get(key.0 as usize).map_or("?", String::as_str)
    }

    /// Enters an operation that changes something.
    pub fn write(
        &mut self,
        client: u32,
        (call, end): (Time, Time),
        conditions: Vec<Condition>,
        changes: Vec<Change>,
        outcome: Outcome,
    ) {
        self.operations.push(Operation { client, call, end, conditions, changes, outcome, at_least: None });
    }

    /// Enters a linearizable read and what it saw.
    pub fn read(&mut self, client: u32, (call, end): (Time, Time), key: Key, saw: Option<(Value, Option<Version>)>) {
        let expect = saw.map_or(Expect::Absent, |(value, version)| Expect::Value(value, version));
        self.write(client, (call, end), vec![Condition { key, expect }], Vec::new(), Outcome::Done);
    }

    /// Enters a read that promised everything up to `position` and perhaps no more.
    pub fn read_at_least(
        &mut self,
        client: u32,
        times: (Time, Time),
        key: Key,
        saw: Option<(Value, Option<Version>)>,
        position: Version,
    ) {
        self.read(client, times, key, saw);
        let read = self.operations.last_mut().expect("it was just entered");
        read.at_least = Some(position);
    }

    /// One operation in words.
    pub fn tell(&self, operation: &Operation) -> String {
        let mut text = format!("client {} {}..", operation.client, seconds(operation.call));
        text += &match operation.outcome {
            Outcome::Unknown => format!("{} or later", seconds(operation.end)),
            _ => seconds(operation.end),
        };
        for condition in &operation.conditions {
            let key = self.name(condition.key);
            let reads = operation.changes.is_empty();
            text += &match condition.expect {
                Expect::Absent if reads => format!(" {key} is absent"),
                Expect::Absent => format!(" if {key} is absent"),
                Expect::Present => format!(" if {key} is present"),
                Expect::Version(version) => format!(" if {key} is at {version}"),
                Expect::Value(value, version) => {
                    format!(" {key} is {}{}", value.0, at(version))
                }
            };
        }
        for change in &operation.changes {
            let key = self.name(change.key());
            text += &match change {
                Change::Put { value, version, lifetime, .. } => {
                    let until = lifetime.map(|it| format!(" for {} at least", seconds(it.earliest)));
                    format!(" put {key} = {}{}{}", value.0, at(*version), until.unwrap_or_default())
                }
                Change::Delete { version, .. } => format!(" delete {key}{}", at(*version)),
                Change::Add { amount, .. } => format!(" add {amount} to {key}"),
            };
        }
        text += &match operation.outcome {
            Outcome::Done if operation.changes.is_empty() => String::new(),
            Outcome::Done => ": done".to_owned(),
            Outcome::ConditionFailed(index) => format!(": condition {index} did not hold"),
            Outcome::Unknown => ": outcome unknown".to_owned(),
            Outcome::Refused => ": refused".to_owned(),
        };
        if let Some(position) = operation.at_least {
            text += &format!(" (read at {position} or later)");
        }
        text
    }
}

fn seconds(time: Time) -> String {
    format!("{:.6}s", time as f64 / 1e9)
}

fn at(version: Option<Version>) -> String {
    version.map(|version| format!(" at {version}")).unwrap_or_default()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lineage > 0 {
            write!(f, "{}/", self.lineage)?;
        }
        write!(f, "{}-{}", self.position.epoch, self.position.gsn)
    }
}
