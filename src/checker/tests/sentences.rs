//! What the checker says of histories that fit on one line.

use super::super::*;
use crate::position::LogPosition;

fn version(gsn: u64) -> Version {
    Version { lineage: 0, position: LogPosition::new(1, gsn) }
}

/// One key, with or without versions.
struct Book {
    history: History,
    versions: bool,
}

impl Book {
    fn put_as(mut self, times: (Time, Time), value: u64, outcome: Outcome, lifetime: Option<Lifetime>) -> Self {
        let key = self.history.key("k");
        let told = self.versions && outcome == Outcome::Done;
        let version = told.then(|| version(value));
        let put = Change::Put { key, value: Value(value), version, lifetime };
        self.history.write(0, times, vec![], vec![put], outcome);
        self
    }

    fn put(self, times: (Time, Time), value: u64) -> Self {
        self.put_as(times, value, Outcome::Done, None)
    }

    fn unknown(self, times: (Time, Time), value: u64) -> Self {
        self.put_as(times, value, Outcome::Unknown, None)
    }

    fn delete(mut self, times: (Time, Time), gsn: u64, outcome: Outcome) -> Self {
        let key = self.history.key("k");
        let told = self.versions && outcome == Outcome::Done;
        let delete = Change::Delete { key, version: told.then(|| version(gsn)) };
        self.history.write(0, times, vec![], vec![delete], outcome);
        self
    }

    fn swap(mut self, times: (Time, Time), from: u64, to: u64, outcome: Outcome) -> Self {
        let key = self.history.key("k");
        let told = outcome == Outcome::Done;
        let change = Change::Put { key, value: Value(to), version: told.then(|| version(to)), lifetime: None };
        let condition = Condition { key, expect: Expect::Version(version(from)) };
        self.history.write(0, times, vec![condition], vec![change], outcome);
        self
    }

    fn read(mut self, times: (Time, Time), value: u64) -> Self {
        let key = self.history.key("k");
        let saw = Some((Value(value), self.versions.then(|| version(value))));
        self.history.read(1, times, key, saw);
        self
    }

    fn absent(mut self, times: (Time, Time)) -> Self {
        let key = self.history.key("k");
        self.history.read(1, times, key, None);
        self
    }
}

/// The same verdict by witness and by search.
#[track_caller]
fn is(linearizable: bool, write: impl Fn(Book) -> Book) {
    for versions in [true, false] {
        let book = write(Book { history: History::default(), versions });
        let report = check(&book.history);
        assert_eq!(report.is_linearizable(), linearizable, "versions: {versions}: {report}");
    }
}

#[test]
fn a_read_sees_what_was_acknowledged_before_it_began() {
    is(true, |b| b.absent((0, 1)).put((2, 3), 1).read((4, 5), 1).put((6, 7), 2).read((8, 9), 2));
    is(false, |b| b.put((2, 3), 1).put((4, 5), 2).read((6, 7), 1));
    is(false, |b| b.put((2, 3), 1).absent((4, 5)));
}

#[test]
fn beside_a_write_either_is_seen_but_not_the_new_one_and_then_the_old_one() {
    is(true, |b| b.put((0, 1), 1).put((2, 9), 2).read((3, 4), 1).read((5, 6), 2));
    is(false, |b| b.put((0, 1), 1).put((2, 9), 2).read((3, 4), 2).read((5, 6), 1));
}

#[test]
fn a_write_of_unknown_outcome_is_seen_late_or_never_but_does_not_come_and_go() {
    is(true, |b| b.put((0, 1), 1).unknown((2, 3), 2).read((4, 5), 1));
    is(true, |b| b.put((0, 1), 1).unknown((2, 3), 2).read((4, 5), 1).read((6, 7), 2));
    is(false, |b| b.put((0, 1), 1).unknown((2, 3), 2).read((4, 5), 2).read((6, 7), 1));
    is(true, |b| b.put((0, 1), 1).delete((2, 3), 2, Outcome::Unknown).read((4, 5), 1).absent((6, 7)));
    is(false, |b| b.put((0, 1), 1).delete((2, 3), 2, Outcome::Unknown).absent((4, 5)).read((6, 7), 1));
}

#[test]
fn what_was_refused_or_written_by_nobody_is_never_seen() {
    is(true, |b| b.put_as((0, 1), 1, Outcome::Refused, None).absent((2, 3)));
    is(false, |b| b.put_as((0, 1), 1, Outcome::Refused, None).read((2, 3), 1));
    is(false, |b| b.read((2, 3), 7));
    is(false, |b| b.read((0, 1), 1).put((2, 3), 1));
}

#[test]
fn a_compare_and_swap_needs_the_version_that_it_names_and_a_failed_one_is_a_read() {
    let with_versions = |linearizable, write: &dyn Fn(Book) -> Book| {
        let book = write(Book { history: History::default(), versions: true });
        let report = check(&book.history);
        assert_eq!(report.is_linearizable(), linearizable, "{report}");
    };
    let failed = Outcome::ConditionFailed(0);
    with_versions(true, &|b| b.put((0, 1), 1).swap((2, 3), 1, 2, Outcome::Done).read((4, 5), 2));
    with_versions(false, &|b| b.put((0, 1), 1).swap((2, 3), 1, 2, Outcome::Done).swap((4, 5), 1, 3, Outcome::Done));
    with_versions(true, &|b| b.put((0, 1), 1).swap((2, 3), 1, 2, Outcome::Done).swap((4, 5), 1, 3, failed));
    with_versions(false, &|b| b.put((0, 1), 1).swap((2, 3), 1, 3, failed));
    // What failed for a write of unknown outcome has seen that write.
    with_versions(true, &|b| b.put((0, 1), 1).unknown((2, 3), 2).swap((4, 5), 1, 3, failed).put((6, 7), 4));
    with_versions(false, &|b| b.put((0, 1), 1).unknown((2, 3), 2).swap((4, 5), 1, 3, failed).read((6, 7), 1));
}

#[test]
fn what_expired_is_absent_not_before_its_time_and_never_comes_back() {
    let life = |latest| Some(Lifetime { earliest: 10, latest });
    is(true, |b| b.put_as((0, 1), 1, Outcome::Done, life(None)).read((2, 3), 1).absent((11, 12)));
    is(true, |b| b.put_as((0, 1), 1, Outcome::Done, life(None)).read((20, 21), 1).absent((22, 23)));
    is(false, |b| b.put_as((0, 1), 1, Outcome::Done, life(None)).absent((2, 3)));
    is(false, |b| b.put_as((0, 1), 1, Outcome::Done, life(None)).absent((11, 12)).read((13, 14), 1));
    is(false, |b| b.put_as((0, 1), 1, Outcome::Done, life(Some(20))).read((21, 22), 1));
    is(true, |b| b.put_as((0, 1), 1, Outcome::Done, life(Some(20))).put((3, 4), 2).read((21, 22), 2));
}

#[test]
fn a_batch_is_seen_whole() {
    let batch = |second_read: u64| {
        let mut history = History::default();
        let (a, b) = (history.key("a"), history.key("b"));
        let put =
            |key, value, gsn| Change::Put { key, value: Value(value), version: Some(version(gsn)), lifetime: None };
        history.write(0, (0, 1), vec![], vec![put(a, 1, 1), put(b, 1, 2)], Outcome::Done);
        history.write(0, (2, 30), vec![], vec![put(a, 2, 3), put(b, 2, 4)], Outcome::Done);
        history.read(1, (3, 4), a, Some((Value(2), Some(version(3)))));
        history.read(1, (5, 6), b, Some((Value(second_read), Some(version(second_read * 2)))));
        check(&history)
    };
    assert!(batch(2).is_linearizable());
    let torn = batch(1);
    assert_eq!(torn.violations.len(), 1, "{torn}");
    assert_eq!(torn.violations[0].keys, "a, b");
    assert_eq!(torn.components, 1);
}

#[test]
fn numbers_that_are_added_count_once() {
    let adding = |read: u64| {
        let mut history = History::default();
        let key = history.key("n");
        history.write(0, (0, 1), vec![], vec![Change::Add { key, amount: 2 }], Outcome::Done);
        history.write(0, (0, 1), vec![], vec![Change::Add { key, amount: 3 }], Outcome::Unknown);
        history.read(0, (2, 3), key, Some((Value(read), None)));
        check(&history).is_linearizable()
    };
    assert_eq!([2, 3, 5, 7].map(adding), [true, false, true, false]);
}

#[test]
fn a_delete_whose_fate_is_unknown_may_have_begun_a_number_anew() {
    let deleted = |outcome| {
        let mut history = History::default();
        let key = history.key("n");
        history.write(0, (0, 1), vec![], vec![Change::Add { key, amount: 2 }], Outcome::Done);
        history.write(0, (2, 3), vec![], vec![Change::Delete { key, version: None }], outcome);
        history.write(0, (4, 5), vec![], vec![Change::Add { key, amount: 3 }], Outcome::Done);
        history.read(0, (6, 7), key, Some((Value(3), None)));
        check(&history).is_linearizable()
    };
    assert_eq!([Outcome::Done, Outcome::Unknown, Outcome::Refused].map(deleted), [true, true, false]);
}

#[test]
fn a_violation_is_told_by_the_few_operations_that_show_it() {
    let mut book = Book { history: History::default(), versions: true };
    for turn in 1..200 {
        book = book.put((10 * turn, 10 * turn + 3), turn).read((10 * turn + 5, 10 * turn + 6), turn);
    }
    let book = book.read((1008, 1009), 99);
    let report = check(&book.history);
    let [violation] = report.violations.as_slice() else { panic!("{report}") };
    assert_eq!(violation.operations.len(), 3, "{report}");
    assert!(violation.at.contains("k is 99"), "{report}");
    let told = violation.told.join("\n");
    assert!(told.contains("put k = 99") && told.contains("put k = 100"), "{report}");
}

#[test]
fn a_refused_write_that_was_seen_is_named() {
    let book = Book { history: History::default(), versions: true };
    let book = book.put_as((0, 1), 1, Outcome::Refused, None).read((2, 3), 1);
    let report = check(&book.history);
    assert!(report.violations[0].told[0].contains("refused"), "{report}");
}

#[test]
fn a_follower_read_at_a_position_is_not_older_than_that() {
    let reading = |saw: Option<u64>, position: u64| {
        let book = Book { history: History::default(), versions: true };
        let mut book = book.put((0, 1), 1).put((2, 3), 2).put((4, 5), 3);
        let key = book.history.key("k");
        let saw = saw.map(|value| (Value(value), Some(version(value))));
        book.history.read_at_least(1, (6, 7), key, saw, version(position));
        check(&book.history).violations.len()
    };
    assert_eq!(reading(Some(2), 2), 0);
    assert_eq!(reading(Some(3), 2), 0);
    assert_eq!(reading(Some(1), 2), 1);
    assert_eq!(reading(None, 2), 1);
    assert_eq!(reading(None, 0), 0);
    assert_eq!(reading(Some(9), 2), 1);
}

#[test]
fn a_history_survives_its_text() {
    let book = Book { history: History::default(), versions: true };
    let mut book = book.put((0, 1), 1).unknown((2, 3), 2).read((4, 5), 1);
    let text = serde_json::to_string(&book.history).expect("written");
    let mut read: History = serde_json::from_str(&text).expect("read");
    assert_eq!(read.operations, book.history.operations);
    assert_eq!(read.key("k"), book.history.key("k"));
    assert!(check(&read).is_linearizable());
}
