//! Committed time in the order of the log.
//!
//! A condition is judged when its batch is appended, a read shows what is applied. Were both judged by the newest time,
//! a read could show that a key has expired, and a batch whose condition had found it there would be committed
//! afterwards: no single copy does that. So every time has a place. Conditions are judged by it as soon as it is told; it
//! is shown to reads once all that was in the log by then is applied.
//!
//! Invariants: times and places rise together; nothing that waits is at or below what is shown.

use std::collections::VecDeque;

use crate::position::Gsn;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LogTime {
    /// The time at the log's end, unix milliseconds.
    end_ms: u64,
    /// Times that are not shown yet, with the gsn that has to be applied first.
    waiting: VecDeque<(Gsn, u64)>,
}

impl LogTime {
    /// The time that is shown: all of the log was judged by it, or an earlier one.
    pub(crate) fn new(shown_ms: u64) -> Self {
        Self { end_ms: shown_ms, waiting: VecDeque::new() }
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

    /// It is `time_ms` after all that the log, which ends at `tail`, holds.
    pub(crate) fn go_on(&mut self, time_ms: u64, tail: Gsn) {
        if time_ms <= self.end_ms {
            return;
        }
        self.end_ms = time_ms;
        match self.waiting.back_mut() {
            Some((gsn, waiting_ms)) if *gsn == tail => *waiting_ms = time_ms,
            _ => self.waiting.push_back((tail, time_ms)),
        }
    }

    /// Everything up to `applied` is applied: the time to show from now on, if that is another one.
    pub(crate) fn reach(&mut self, applied: Gsn) -> Option<u64> {
        let mut shown = None;
        while let Some((_, time_ms)) = self.waiting.pop_front_if(|(gsn, _)| *gsn <= applied) {
            shown = Some(time_ms);
        }
        shown
    }

    /// The log ends at `tail`, and was never longer; `shown_ms` is shown. Times that were told anew are taken anew.
    pub(crate) fn cut(&mut self, tail: Gsn, shown_ms: u64) {
        self.waiting.retain(|(gsn, _)| *gsn <= tail);
        self.end_ms = self.waiting.back().map_or(shown_ms, |(_, time_ms)| *time_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_shown_once_everything_before_it_is_applied() {
        let mut time = LogTime::new(100);
        time.go_on(90, 5);
        assert_eq!((time.end_ms(), time.shown_with(), time.reach(9)), (100, 0, None), "it never goes back");
        time.go_on(110, 5);
        time.go_on(120, 5);
        time.go_on(130, 8);
        assert_eq!((time.end_ms(), time.shown_with()), (130, 8));
        assert_eq!(time.reach(4), None);
        assert_eq!(time.reach(7), Some(120));
        assert_eq!(time.reach(7), None);
        assert_eq!(time.reach(8), Some(130));
        assert_eq!(time.shown_with(), 0);
    }

    #[test]
    fn what_was_to_be_shown_with_entries_that_were_cut_off_is_told_anew() {
        let mut time = LogTime::new(100);
        time.go_on(110, 5);
        time.go_on(120, 8);
        time.cut(6, 100);
        assert_eq!((time.end_ms(), time.shown_with()), (110, 5));
        time.cut(4, 100);
        assert_eq!((time.end_ms(), time.shown_with()), (100, 0));
        time.go_on(120, 4);
        assert_eq!(time.reach(4), Some(120));
    }
}
