//! What applications saw, judged: could one copy of the data, changed by one operation at a time, have answered so?
//!
//! Each value is written at most once to a key, so the question has an exact answer in one pass (Gibbons and Korach,
//! "Testing Shared Memories", SIAM J. Comput. 1997, section 4.2). A value with its write and all its reads is a
//! *cluster*; its *zone* lies between the first end and the last beginning of its operations. If the first end comes
//! first, the value was certainly the current one throughout the zone (*forward*); else a single moment within the
//! zone is enough for all of them (*backward*). The history of a key is linearizable if and only if nobody reads what
//! was never written or not yet begun, no two forward zones overlap, and no backward zone lies within a forward one.
//!
//! A write of unknown outcome may take effect at any time after it began, or never: its end is never, and if nobody
//! read it, it says nothing. A write that was refused must not be read at all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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

/// The operations around one value of one key.
struct Zone {
    value: Option<String>,
    /// The earliest end of any of them.
    first_end: Instant,
    /// The latest beginning of any of them.
    last_begin: Instant,
}

impl Zone {
    fn is_forward(&self) -> bool {
        self.first_end < self.last_begin
    }

    fn low(&self) -> Instant {
        self.first_end.min(self.last_begin)
    }

    fn high(&self) -> Instant {
        self.first_end.max(self.last_begin)
    }
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
        let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            keys.entry(&operation.key).or_default().push(operation);
        }
        let Some(first) = self.operations.iter().map(|operation| operation.began).min() else { return Vec::new() };
        let last = self.operations.iter().map(|operation| operation.ended).max().unwrap_or(first);
        // Stand-ins for "before everything" and "never" that can be compared with the others.
        let (before, never) = (first - Duration::from_secs(1), last + Duration::from_secs(1));
        keys.into_iter().flat_map(|(key, operations)| judge(key, &operations, before, never)).collect()
    }
}

fn judge(key: &str, operations: &[&Operation], before: Instant, never: Instant) -> Vec<String> {
    let mut violations = Vec::new();
    // The key is absent as if that had been written before everything.
    let mut zones = BTreeMap::from([(None, Zone { value: None, first_end: before, last_begin: before })]);
    let mut begun: BTreeMap<Option<&str>, Instant> = BTreeMap::new();
    let mut refused: BTreeMap<&str, &str> = BTreeMap::new();
    for operation in operations {
        let (value, end) = match &operation.event {
            Event::Written(value) => (value, operation.ended),
            Event::Unknown(value) => (value, never),
            Event::Refused(value, why) => {
                refused.insert(value, why);
                continue;
            }
            Event::Read(_) | Event::Unread(_) => continue,
        };
        let zone = Zone { value: Some(value.clone()), first_end: end, last_begin: operation.began };
        assert!(zones.insert(Some(value.as_str()), zone).is_none(), "{key}: {value} is written twice");
        begun.insert(Some(value), operation.began);
    }
    for operation in operations {
        let Event::Read(value) = &operation.event else { continue };
        let value = value.as_deref();
        let Some(zone) = zones.get_mut(&value) else {
            let text = value.unwrap_or_default();
            violations.push(match refused.get(text) {
                Some(why) => format!("{key}: {text} was read; its write was refused: {why}"),
                None => format!("{key}: {text} was read; nobody wrote it"),
            });
            continue;
        };
        if begun.get(&value).is_some_and(|begun| operation.ended < *begun) {
            violations.push(format!("{key}: {value:?} was read before its write began"));
        }
        zone.first_end = zone.first_end.min(operation.ended);
        zone.last_begin = zone.last_begin.max(operation.began);
    }

    let at = |instant: Instant| format!("{:?}", instant - before);
    let told = |zone: &Zone| format!("{:?} ({} to {})", zone.value, at(zone.low()), at(zone.high()));
    // What nobody is certain of and nobody saw says nothing.
    let zones: Vec<Zone> = zones.into_values().filter(|zone| zone.first_end != never).collect();
    let (mut forward, backward): (Vec<Zone>, Vec<Zone>) = zones.into_iter().partition(Zone::is_forward);
    forward.sort_by_key(Zone::low);
    for pair in forward.windows(2) {
        if pair[1].low() < pair[0].high() {
            violations.push(format!("{key}: both were the value at once: {} and {}", told(&pair[0]), told(&pair[1])));
        }
    }
    for zone in &backward {
        // The only forward zone that can enclose it is the last that begins before it: they do not overlap.
        let next = forward.partition_point(|other| other.low() < zone.low());
        let enclosing = next.checked_sub(1).map(|last| &forward[last]);
        if let Some(other) = enclosing.filter(|other| zone.high() < other.high()) {
            violations.push(format!("{key}: {} was never the value, others saw {}", told(zone), told(other)));
        }
    }
    violations
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
        let violations = history(&[(0, 1, read("1")), (2, 3, written("1"))]).violations();
        assert!(violations.iter().any(|violation| violation.contains("before its write began")), "{violations:?}");
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
