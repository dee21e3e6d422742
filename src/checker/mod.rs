//! Could one copy of the data, changed by one operation at a time, have answered so? Linearizability (Herlihy and Wing,
//! 1990) of histories of key-value operations, decided.
//!
//! ```text
//! History --components--> Problem, one a set of keys that batches join --witness--> explained (almost always)
//!                                                                        `-search--> explained | not | gave up
//!                                                    not explained --shrink--> the few operations that show it
//! ```
//! Linearizability is local (it holds if it holds for each key), so keys are judged apart, and only keys that one
//! operation touches together are judged together. The *witness* takes the order that the versions of the writes claim,
//! finds every read its place in it and checks the result: O(n log n). Where there are no versions, or they explain
//! nothing, the *search* of Wing and Gong decides, with Lowe's memory of what was tried ("Testing for linearizability",
//! 2017; Horn and Kroening, "Faster linearizability checking via P-compositionality", 2015).
//!
//! Invariant: what is called explained comes with an order that [`problem`] has replayed, whoever proposed it.
//! Knows neither clusters nor clients: the history is an argument. Reads of followers that promise a position are judged
//! by [`positions`].

mod component;
mod hashing;
mod history;
mod positions;
mod problem;
mod search;
mod shrink;
#[cfg(test)]
mod tests;
mod verdict;
mod witness;

pub use history::{Change, Condition, Expect, History, Key, Lifetime, Operation, Outcome, Time, Value, Version};
pub use verdict::{Report, Violation};

/// How many different situations the search may look at in one component before it gives up...
const SEARCH_LIMIT: usize = 4_000_000;
/// ...and once it has given up, in each of the others: where one cannot be decided, minutes for each are of no use.
const AFTER_GIVING_UP: usize = 100_000;

/// Judges a history.
pub fn check(history: &History) -> Report {
    check_within(history, SEARCH_LIMIT)
}

/// Judges a history; what takes more than `limit` situations of one component stays undecided.
pub fn check_within(history: &History, limit: usize) -> Report {
    let mut report = Report { operations: history.operations.len(), ..Report::default() };
    for problem in component::problems(history) {
        report.components += 1;
        if witness::explains(&problem) {
            continue;
        }
        report.searched += 1;
        let limit = if report.undecided.is_empty() { limit } else { limit.min(AFTER_GIVING_UP) };
        match search::explain(&problem, limit) {
            search::Found::Order(order) => {
                assert!(problem.replays(&order), "the search found an order that does not explain the history");
            }
            search::Found::Nothing => report.violations.push(shrink::violation(history, &problem)),
            search::Found::GaveUp => report.undecided.push(problem.names(history)),
        }
    }
    report.violations.extend(positions::violations(history));
    report
}
