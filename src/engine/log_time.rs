//! Committed time in the order of the log.
//!
//! A condition is judged when its batch is appended, a read shows what is applied. Were both judged by the newest time,
//! a read could show that a key has expired, and a batch whose condition had found it there would be committed
//! afterwards: no single copy does that. So every time has a place: the last entry that was judged by an earlier one.
//! Conditions are judged by a time as soon as it is told; it is shown to reads once everything up to its place is
//! applied. A follower is told, together with the time, a place that is no earlier: all that its leader had committed.
//!
//! Invariant: times and places rise together.

use std::collections::VecDeque;

use crate::position::Gsn;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LogTime {
    /// The newest time, unix milliseconds.
    end_ms: u64,
    /// The last entry that was judged by the newest time or an earlier one.
    judged: Gsn,
    /// Times that are not shown yet, with the gsn that has to be applied first.
    waiting: VecDeque<(Gsn, u64)>,
}

impl LogTime {
    /// A log of which nothing is known to be judged by a later time than the one that is shown.
    pub(crate) fn new(shown_ms: u64) -> Self {
        Self { end_ms: shown_ms, ..Self::default() }
    }

    /// What conditions are judged by now.
    pub(crate) fn end_ms(&self) -> u64 {
        self.end_ms
    }

    /// The gsn whose being applied shows [`Self::end_ms`]; 0: it is shown.
    pub(crate) fn shown_with(&self) -> Gsn {
        self.waiting.back().map_or(0, |(gsn, _)| *gsn)
    }

    /// The first gsn that shows another time: entries after it are not applied before that is shown.
    pub(crate) fn next_shown_with(&self) -> Option<Gsn> {
        self.waiting.front().map(|(gsn, _)| *gsn)
    }

    /// A condition was judged by [`Self::end_ms`]; that stands once `gsn` is applied.
    pub(crate) fn judged(&mut self, gsn: Gsn) {
        self.judged = self.judged.max(gsn);
    }

    /// It is `time_ms` after all that was judged so far, and not before `after`.
    pub(crate) fn go_on(&mut self, time_ms: u64, after: Gsn) {
        if time_ms <= self.end_ms {
            return;
        }
        self.end_ms = time_ms;
        let place = after.max(self.judged).max(self.shown_with());
        match self.waiting.back_mut() {
            Some((gsn, waiting_ms)) if *gsn == place => *waiting_ms = time_ms,
            _ => self.waiting.push_back((place, time_ms)),
        }
    }

    /// Everything up to `applied` is applied: the time to show from now on, if that is another one.
    pub(crate) fn reach(&mut self, applied: Gsn) -> Option<u64> {
        let mut shown = None;
        while self.waiting.front().is_some_and(|(gsn, _)| *gsn <= applied) {
            shown = self.waiting.pop_front().map(|(_, time_ms)| time_ms);
        }
        shown
    }

    /// The log ends at `tail`, and was never longer; `shown_ms` is shown. Times whose places are gone are told anew.
    pub(crate) fn cut(&mut self, tail: Gsn, shown_ms: u64) {
        self.waiting.retain(|(gsn, _)| *gsn <= tail);
        self.end_ms = self.waiting.back().map_or(shown_ms, |(_, time_ms)| *time_ms);
        self.judged = self.judged.min(tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_shown_once_everything_that_was_judged_before_it_is_applied() {
        let mut time = LogTime::new(100);
        time.go_on(110, 0);
        assert_eq!((time.end_ms(), time.reach(3)), (110, Some(110)), "nothing was judged");
        time.judged(5);
        time.go_on(90, 0);
        assert_eq!((time.end_ms(), time.shown_with(), time.reach(9)), (110, 0, None), "it never goes back");
        time.go_on(115, 0);
        time.go_on(120, 0);
        time.judged(8);
        time.go_on(130, 0);
        assert_eq!((time.end_ms(), time.shown_with(), time.next_shown_with()), (130, 8, Some(5)));
        assert_eq!(time.reach(4), None);
        assert_eq!(time.reach(7), Some(120));
        assert_eq!(time.reach(7), None);
        assert_eq!(time.reach(8), Some(130));
        assert_eq!(time.shown_with(), 0);
    }

    #[test]
    fn a_place_that_is_told_counts_and_places_never_fall() {
        let mut time = LogTime::new(100);
        time.go_on(110, 9);
        time.go_on(120, 7);
        assert_eq!((time.reach(8), time.reach(9)), (None, Some(120)));
    }

    #[test]
    fn what_was_to_be_shown_with_entries_that_were_cut_off_is_told_anew() {
        let mut time = LogTime::new(100);
        time.go_on(110, 5);
        time.go_on(120, 8);
        time.judged(8);
        time.cut(6, 100);
        assert_eq!((time.end_ms(), time.shown_with()), (110, 5));
        time.cut(4, 100);
        assert_eq!((time.end_ms(), time.shown_with()), (100, 0));
        time.go_on(120, 0);
        assert_eq!(time.reach(4), Some(120));
    }
}
