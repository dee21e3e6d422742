//! What applications saw, for the checker (`armdb::checker`): could one copy of the data, changed by one operation at a
//! time, have answered so? Each value is written at most once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use armdb::checker::{self, Change, Outcome, Value};

/// What was asked, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A write that was acknowledged.
    Written(String),
    /// A write that may be done, or become done, or never.
    Unknown(String),
    /// A write that was certainly not done, and why.
    Refused(String, String),
    /// A linearizable read; None = there was no such key.
    Read(Option<String>),
    /// A read that was not answered, and why.
    Unread(String),
}

/// One operation on one key.
#[derive(Debug, Clone)]
pub struct Operation {
    /// The key.
    pub key: String,
    /// When the application asked.
    pub began: Instant,
    /// When it had its answer.
    pub ended: Instant,
    /// What it asked and got.
    pub event: Event,
}

/// Everything that was asked, in no order.
#[derive(Debug, Default)]
pub struct History {
    /// See the type.
    pub operations: Vec<Operation>,
}

impl History {
    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.operations.iter().filter(|operation| matches!(operation.event, Event::Written(_))).count()
    }

    /// Operations that failed although nothing was done wrong by whoever asked: refused, unread or unknown.
    pub fn failures(&self) -> Vec<&Operation> {
        let failed = |event: &Event| !matches!(event, Event::Written(_) | Event::Read(_));
        self.operations.iter().filter(|operation| failed(&operation.event)).collect()
    }

    /// The longest time, from the first to the last acknowledgement, in which no write was acknowledged.
    pub fn longest_silence(&self) -> Duration {
        let acknowledged = |operation: &&Operation| matches!(operation.event, Event::Written(_));
        let mut ends: Vec<Instant> = self.operations.iter().filter(acknowledged).map(|write| write.ended).collect();
        ends.sort_unstable();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// What is wrong with it; empty = every read and every acknowledgement was true.
    pub fn violations(&self) -> Vec<String> {
        let Some(first) = self.operations.iter().map(|operation| operation.began).min() else { return Vec::new() };
        let at = |instant: Instant| (instant - first).as_nanos() as checker::Time;
        let mut numbers: HashMap<&String, u64> = HashMap::new();
        let mut number = |value| {
            let next = numbers.len() as u64;
            Value(*numbers.entry(value).or_insert(next))
        };
        let mut history = checker::History::default();
        for operation in &self.operations {
            let key = history.key(&operation.key);
            let times = (at(operation.began), at(operation.ended));
            let (value, outcome) = match &operation.event {
                Event::Written(value) => (value, Outcome::Done),
                Event::Unknown(value) => (value, Outcome::Unknown),
                Event::Refused(value, _) => (value, Outcome::Refused),
                Event::Read(found) => {
                    history.read(0, times, key, found.as_ref().map(|value| (number(value), None)));
                    continue;
                }
                Event::Unread(_) => continue,
            };
            let put = Change::Put { key, value: number(value), version: None, lifetime: None };
            history.write(0, times, Vec::new(), vec![put], outcome);
        }
        let report = checker::check(&history);
        let undecided = report.undecided.iter().map(|keys| format!("{keys}: undecided"));
        report.violations.iter().map(ToString::to_string).chain(undecided).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Operations on one key, as (from, to, what) in milliseconds.
    fn history(operations: &[(u64, u64, Event)]) -> History {
        let zero = Instant::now();
        let at = |millis: u64| zero + Duration::from_millis(millis);
        let operation = |(began, ended, event): &(u64, u64, Event)| Operation {
            key: "k".to_owned(),
            began: at(*began),
            ended: at(*ended),
            event: event.clone(),
        };
        History { operations: operations.iter().map(operation).collect() }
    }

    fn written(value: &str) -> Event {
        Event::Written(value.to_owned())
    }

    fn unknown(value: &str) -> Event {
        Event::Unknown(value.to_owned())
    }

    fn read(value: &str) -> Event {
        Event::Read(Some(value.to_owned()))
    }

    #[track_caller]
    fn sound(operations: &[(u64, u64, Event)]) {
        assert_eq!(history(operations).violations(), Vec::<String>::new());
    }

    #[track_caller]
    fn wrong(operations: &[(u64, u64, Event)]) {
        assert_eq!(history(operations).violations().len(), 1, "{:?}", history(operations).violations());
    }

    #[test]
    fn reads_that_follow_acknowledged_writes_are_sound() {
        sound(&[
            (0, 1, Event::Read(None)),
            (2, 3, written("1")),
            (4, 5, read("1")),
            (6, 7, written("2")),
            (8, 9, read("2")),
        ]);
    }

    #[test]
    fn a_read_beside_a_write_may_see_either() {
        sound(&[(0, 1, written("1")), (2, 9, written("2")), (3, 4, read("1")), (5, 6, read("2"))]);
    }

    #[test]
    fn two_reads_beside_a_write_may_not_see_it_go_away_again() {
        wrong(&[(0, 1, written("1")), (2, 9, written("2")), (3, 4, read("2")), (5, 6, read("1"))]);
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_is_a_loss() {
        wrong(&[(0, 1, written("1")), (2, 3, written("2")), (4, 5, read("1"))]);
        wrong(&[(0, 1, written("1")), (4, 5, Event::Read(None))]);
    }

    #[test]
    fn a_write_of_unknown_outcome_may_be_seen_late_or_never_but_not_come_and_go() {
        sound(&[(0, 1, written("1")), (2, 3, unknown("2")), (4, 5, read("1"))]);
        sound(&[(0, 1, written("1")), (2, 3, unknown("2")), (4, 5, read("1")), (6, 7, read("2"))]);
        sound(&[(0, 1, unknown("1")), (2, 3, written("2")), (4, 5, read("2")), (6, 7, read("1"))]);
        wrong(&[(0, 1, written("1")), (2, 3, unknown("2")), (4, 5, read("2")), (6, 7, read("1"))]);
    }

    #[test]
    fn a_refused_write_and_one_that_nobody_made_may_not_be_seen() {
        wrong(&[(0, 1, Event::Refused("1".to_owned(), "no leader".to_owned())), (2, 3, read("1"))]);
        wrong(&[(2, 3, read("1"))]);
        sound(&[(0, 1, Event::Refused("1".to_owned(), "no leader".to_owned())), (2, 3, Event::Read(None))]);
    }

    #[test]
    fn nobody_sees_a_write_before_it_is_asked_for() {
        wrong(&[(0, 1, read("1")), (2, 3, written("1"))]);
    }

    #[test]
    fn a_write_that_was_overwritten_while_another_was_certainly_there_was_never_the_value() {
        wrong(&[(0, 1, written("1")), (4, 5, written("2")), (8, 9, read("1"))]);
    }

    #[test]
    fn a_silence_lies_between_acknowledgements() {
        let operations =
            [(0, 10, written("1")), (10, 20, unknown("2")), (20, 500, written("3")), (501, 510, written("4"))];
        assert_eq!(history(&operations).longest_silence(), Duration::from_millis(490));
        assert_eq!(history(&operations).acknowledged(), 3);
        assert_eq!(history(&operations).failures().len(), 1);
    }
}
