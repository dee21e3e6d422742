//! What the checker says.

use std::fmt;

use super::history::History;

/// The judgement of a history.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Operations that were judged.
    pub operations: usize,
    /// Sets of keys that were judged apart.
    pub components: usize,
    /// How many of them the order of the versions did not explain, so that every order had to be tried.
    pub searched: usize,
    /// What cannot be explained; empty = the history is linearizable, unless something is undecided.
    pub violations: Vec<Violation>,
    /// Sets of keys for which the search gave up, by their names.
    pub undecided: Vec<String>,
}

impl Report {
    /// Every operation is explained.
    pub fn is_linearizable(&self) -> bool {
        self.violations.is_empty() && self.undecided.is_empty()
    }
}

/// Operations that no order explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The keys, in words.
    pub keys: String,
    /// The first answer after which nothing explains the history.
    pub at: String,
    /// A small set of operations that is not linearizable by itself, by their indices, in the order of their calls.
    pub operations: Vec<usize>,
    /// The same in words.
    pub told: Vec<String>,
}

impl Violation {
    /// These operations, told in the order of their calls.
    pub(super) fn new(history: &History, keys: String, at: String, mut operations: Vec<usize>) -> Self {
        operations.sort_by_key(|index| history.operations[*index].call);
        let told = operations.iter().map(|index| history.tell(&history.operations[*index])).collect();
        Self { keys, at, operations, told }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no order explains these operations, since: {}", self.keys, self.at)?;
        for operation in &self.told {
            write!(f, "\n    {operation}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.violations.len(), self.undecided.len()) {
            (0, 0) => "linearizable".to_owned(),
            (0, undecided) => format!("undecided for {undecided} sets of keys"),
            (violations, _) => format!("NOT linearizable: {violations} violations"),
        };
        let Self { operations, components, searched, .. } = self;
        write!(f, "{verdict} ({operations} operations, {components} sets of keys, {searched} of them searched)")?;
        for violation in &self.violations {
            write!(f, "\n  {violation}")?;
        }
        for keys in &self.undecided {
            write!(f, "\n  {keys}: the search gave up")?;
        }
        Ok(())
    }
}
