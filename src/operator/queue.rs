//! Which cluster is looked at next, and when: pure, but for jitter.
//!
//! A key is worked on by one at a time; what happens to it meanwhile makes it due again. Failures are followed by
//! pauses that double, with jitter, so that many clusters that fail for one reason do not come back all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cache::Key;

/// Pauses after failures: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// `pause`, up to a quarter shorter or longer.
pub fn jittered(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    pause.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

/// What became of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Only when something happens.
    OnChange,
    /// After this long, if nothing happens before.
    After(Duration),
    /// It failed.
    Failed,
}

/// See the module. Times are since any fixed point.
#[derive(Debug, Default)]
pub struct Queue {
    due: BTreeMap<Key, Duration>,
    working: BTreeSet<Key>,
    /// Keys that something happened to while they were worked on.
    again: BTreeSet<Key>,
    failures: BTreeMap<Key, u32>,
}

impl Queue {
    /// Something happened to `key`.
    pub fn add(&mut self, key: Key, now: Duration) {
        if self.working.contains(&key) {
            self.again.insert(key);
        } else if self.failures.contains_key(&key) && self.due.contains_key(&key) {
            // It pauses after a failure: news do not cut that short, or a failing cluster that moves never pauses.
        } else {
            self.due.insert(key, now);
        }
    }

    /// The next key that is due, to be worked on; it must be handed back by [`Self::done`].
    pub fn take(&mut self, now: Duration) -> Option<Key> {
        let key = self.due.iter().filter(|(_, due)| **due <= now).min_by_key(|(_, due)| **due)?.0.clone();
        self.due.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    /// `key` was worked on.
    pub fn done(&mut self, key: Key, next: Next, now: Duration, jitter: impl FnOnce(Duration) -> Duration) {
        self.working.remove(&key);
        let again = self.again.remove(&key);
        if next != Next::Failed {
            self.failures.remove(&key);
        }
        match next {
            Next::Failed => {
                let failures = self.failures.entry(key.clone()).or_insert(0);
                let pause = FIRST_PAUSE.saturating_mul(1 << (*failures).min(10)).min(LONGEST_PAUSE);
                *failures += 1;
                self.due.insert(key, now + jitter(pause));
            }
            _ if again => {
                self.due.insert(key, now);
            }
            Next::After(pause) => {
                self.due.insert(key, now + pause);
            }
            Next::OnChange => {}
        }
    }

    /// When something is due; None: only when something happens.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.values().min().copied()
    }

    /// Nothing is to be done any more; what is worked on goes on.
    pub fn clear(&mut self) {
        self.due.clear();
        self.again.clear();
        self.failures.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    const NOW: Duration = Duration::from_secs(100);

    fn same(pause: Duration) -> Duration {
        pause
    }

    #[test]
    fn a_key_is_worked_on_by_one_at_a_time_and_again_if_something_happened() {
        let mut queue = Queue::default();
        queue.add(key("a"), NOW);
        queue.add(key("a"), NOW);
        assert_eq!(queue.take(NOW), Some(key("a")));
        queue.add(key("a"), NOW);
        assert_eq!(queue.take(NOW), None);
        queue.done(key("a"), Next::OnChange, NOW, same);
        assert_eq!(queue.take(NOW), Some(key("a")));
        queue.done(key("a"), Next::OnChange, NOW, same);
        assert_eq!((queue.take(NOW), queue.next_due()), (None, None));
    }

    #[test]
    fn failures_are_followed_by_longer_and_longer_pauses_that_news_do_not_cut_short() {
        let mut queue = Queue::default();
        let mut now = NOW;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            queue.add(key("a"), now);
            assert_eq!(queue.take(now), Some(key("a")));
            queue.done(key("a"), Next::Failed, now, same);
            queue.add(key("a"), now);
            assert_eq!(queue.take(now), None);
            let due = queue.next_due().expect("due");
            pauses.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(queue.take(now), Some(key("a")));
        queue.done(key("a"), Next::OnChange, now, same);
        queue.add(key("a"), now);
        assert_eq!(queue.take(now), Some(key("a")), "a success ends the pauses");
    }

    #[test]
    fn others_do_not_wait_for_one_that_fails() {
        let mut queue = Queue::default();
        queue.add(key("a"), NOW);
        queue.add(key("b"), NOW);
        assert_eq!(queue.take(NOW), Some(key("a")));
        queue.done(key("a"), Next::Failed, NOW, same);
        assert_eq!(queue.take(NOW), Some(key("b")));
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(4));
            assert!((Duration::from_secs(3)..=Duration::from_secs(5)).contains(&pause), "{pause:?}");
        }
    }
}
