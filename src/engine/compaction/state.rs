//! What housekeeping of one shard remembers between its steps.
//!
//! `turn` is held for a whole step and is the first lock in the shard's order. Whoever is about to replace the
//! shard's files as a whole (a change of state) takes it by [`Shard::stop_housekeeping`], which makes a running
//! step give up first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::estimate::Estimate;
use super::report::Counters;
use super::retention::Keepers;
use crate::engine::files::Files;
use crate::engine::segment::Segment;
use crate::engine::shard::Shard;
use crate::position::Gsn;

/// First wait after a failed step; doubles from one failure to the next.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// A log that grows faster than this is busy.
const BUSY_ENTRIES_PER_S: f64 = 250_000.0;
const BUSY_OVER: Duration = Duration::from_millis(100);

/// See the module's comment.
#[derive(Debug, Default)]
pub(crate) struct Housekeeping {
    pub(super) turn: Mutex<Turn>,
    /// How many wait for a running step to give up.
    unwanted: AtomicU32,
    /// Segments that the manifest no longer lists and whose files may still be there.
    retired: Mutex<Vec<(u32, Weak<Segment>)>>,
    pub(super) keepers: Arc<Keepers>,
    pub(super) done: Counters,
}

/// What only the step that has the turn touches.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// What is estimated of files that may be worth compacting.
    pub(super) estimates: BTreeMap<u32, Estimate>,
    /// When log segments were first seen to have ended, on the worker's clock.
    pub(super) ended: BTreeMap<u32, Duration>,
    /// Files that do not verify: left alone, a full check tells where.
    pub(super) unfit: BTreeSet<u32>,
    /// Counts compactions: estimates of what holds tombstones back depend on the set of files.
    pub(super) generation: u64,
    /// Where the log's end was seen last, on the worker's clock, and whether it was moving fast.
    seen: (Gsn, Duration),
    busy: bool,
    /// After a failure, nothing is tried before.
    retry_at: Duration,
    delay: Duration,
}

impl Turn {
    /// Whether a failure is still waited out.
    pub(super) fn waits(&self, now: Duration) -> Option<Duration> {
        self.retry_at.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Whether so many entries a second are written that writers need the processors, and the disk, for themselves.
    pub(super) fn sees_writers(&mut self, tail_gsn: Gsn, now: Duration) -> bool {
        let elapsed = now.saturating_sub(self.seen.1);
        if elapsed >= BUSY_OVER {
            let entries = tail_gsn.saturating_sub(self.seen.0);
            self.busy = entries as f64 >= BUSY_ENTRIES_PER_S * elapsed.as_secs_f64();
            self.seen = (tail_gsn, now);
        }
        self.busy
    }

    /// Waits longer after each failure in a row.
    pub(super) fn failed(&mut self, now: Duration) {
        self.delay = (self.delay * 2).clamp(RETRY_FIRST, RETRY_LONGEST);
        self.retry_at = now + self.delay;
    }

    /// Something worked again.
    pub(super) fn worked(&mut self) {
        self.delay = Duration::ZERO;
    }
}

impl Housekeeping {
    /// Whether a running step shall give up.
    pub(super) fn is_unwanted(&self) -> bool {
        self.unwanted.load(Ordering::Acquire) > 0
    }

    /// Segments that are no longer listed but still pinned by somebody.
    pub(super) fn pinned(&self) -> Vec<Arc<Segment>> {
        self.retired.lock().iter().filter_map(|(_, segment)| segment.upgrade()).collect()
    }
}

impl Shard {
    /// Makes a running step of housekeeping give up, and keeps the next from starting while the guard lives.
    pub(crate) fn stop_housekeeping(&self) -> impl Sized + '_ {
        self.housekeeping.unwanted.fetch_add(1, Ordering::AcqRel);
        self.shared.background.wake_all();
        let turn: MutexGuard<'_, Turn> = self.housekeeping.turn.lock();
        self.housekeeping.unwanted.fetch_sub(1, Ordering::AcqRel);
        turn
    }

    /// Removes the files of segments that the manifest no longer lists once nobody reads them any more. The
    /// manifest names them as dropped, so that the next open does it if this process does not live to.
    pub(super) fn retire(&self, segments: impl IntoIterator<Item = Arc<Segment>>) {
        let retired = segments.into_iter().map(|segment| (segment.id(), Arc::downgrade(&segment)));
        self.housekeeping.retired.lock().extend(retired);
        self.sweep();
    }

    /// Removes the files of retired segments that nobody reads any more; whether there were any.
    pub(super) fn sweep(&self) -> bool {
        let mut free = Vec::new();
        self.housekeeping.retired.lock().retain(|(id, segment)| {
            let pinned = segment.strong_count() > 0;
            if !pinned {
                free.push(*id);
            }
            pinned
        });
        let any = !free.is_empty();
        Files::unlink(&self.shared, &self.dir, free);
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_grows_fast_is_busy_until_it_rests() {
        let mut turn = Turn::default();
        let at = Duration::from_millis;
        assert!(!turn.sees_writers(10, at(200)));
        assert!(!turn.sees_writers(400_000, at(250)), "too soon to say");
        assert!(turn.sees_writers(400_000, at(400)));
        assert!(turn.sees_writers(400_001, at(450)), "too soon to say otherwise");
        assert!(!turn.sees_writers(400_001, at(1000)));
    }
}
