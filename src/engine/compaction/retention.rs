//! How much log is kept: when the floor may rise past a segment, and who holds it back.
//!
//! Every member keeps the smaller of [`Retention::min_bytes`] and [`Retention::min_age`] of its log, so that
//! watchers and followers can reconnect. Whoever reads further back (a follower that lags, a full sync under
//! way) says so by a [`LogKeeper`] and is waited for up to [`Retention::max_bytes`]. A member that promised an
//! epoch holds its floor altogether for a while, because it told how far back its log reaches. While puts are refused
//! because the disk is full, nothing else holds it: deletes free room only below the floor, and whoever still wanted
//! that log takes a full copy, or is told that it was compacted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;

use super::report::count;
use super::state::Turn;
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::options::Retention;
use crate::engine::segment::Segment;
use crate::engine::shard::Shard;
use crate::position::Gsn;

/// Kept for laggards at most, unless the options say otherwise: this or a tenth of the disk.
const MAX_BYTES: u64 = 1 << 30;
/// What is kept for others on a full disk.
const NOTHING: Retention = Retention { min_bytes: 0, min_age: Duration::ZERO, max_bytes: Some(0) };

/// Who needs the log from where.
#[derive(Debug, Default)]
pub(crate) struct Keepers {
    wanted: Mutex<(u64, BTreeMap<u64, Gsn>)>,
}

impl Keepers {
    fn lowest(&self) -> Option<Gsn> {
        self.wanted.lock().1.values().min().copied()
    }
}

/// Keeps a shard's log from a gsn on, within [`Retention::max_bytes`], until it is dropped.
#[derive(Debug)]
pub struct LogKeeper {
    keepers: Arc<Keepers>,
    id: u64,
}

impl LogKeeper {
    /// From now on only what is at or after `from` is needed.
    pub fn advance(&self, from: Gsn) {
        if let Some(wanted) = self.keepers.wanted.lock().1.get_mut(&self.id) {
            *wanted = from;
        }
    }
}

impl Drop for LogKeeper {
    fn drop(&mut self) {
        self.keepers.wanted.lock().1.remove(&self.id);
    }
}

/// A segment of the log, as far as its retention goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LogFile {
    last_gsn: Gsn,
    bytes: u64,
    /// How long ago it ended.
    age: Duration,
    /// Whether it has ended, is durable and wholly committed, and is not the newest.
    releasable: bool,
}

/// What the floor may be, if it may be raised: files are oldest first.
fn floor(files: &[LogFile], wanted: Option<Gsn>, retention: &Retention, max_bytes: u64) -> Option<Gsn> {
    let mut behind: u64 = files.iter().map(|file| file.bytes).sum();
    let mut floor = None;
    for file in files {
        behind -= file.bytes;
        let old = behind >= retention.min_bytes || file.age >= retention.min_age;
        let unwanted = wanted.is_none_or(|gsn| file.last_gsn < gsn) || behind >= max_bytes;
        if !(file.releasable && old && unwanted) {
            break;
        }
        floor = Some(file.last_gsn + 1);
    }
    floor
}

impl Shard {
    /// Keeps the log from `from` on, as long as the keeper lives, but not more than
    /// [`Retention::max_bytes`] of it. For followers that are behind, and for what follows a full sync.
    pub fn keep_log(&self, from: Gsn) -> LogKeeper {
        let keepers = self.housekeeping.keepers.clone();
        let mut wanted = keepers.wanted.lock();
        wanted.0 += 1;
        let id = wanted.0;
        wanted.1.insert(id, from);
        drop(wanted);
        LogKeeper { keepers, id }
    }

    /// Raises the log's floor as far as retention allows; whether it did. `now` is the worker's clock.
    pub(super) fn raise_floor(&self, turn: &mut Turn, now: Duration) -> Result<bool, EngineError> {
        // Looked at under this lock, so that whoever holds the floor, or keeps some log, and then asks where the
        // floor is, can rely on the answer.
        let mut files = self.files.lock();
        let segments = self.log_segments();
        let log = self.log_files(&segments, turn, now);
        let held = self.shared.floor_hold.lock().is_some_and(|until| self.shared.now() < until);
        let full = self.shared.puts_refused.load(Ordering::Acquire);
        let wanted = self.housekeeping.keepers.lowest().filter(|_| !full);
        let retention = &self.shared.options.retention;
        let retention = if full { &NOTHING } else { retention };
        let max_bytes = retention.max_bytes.unwrap_or_else(|| self.default_max_bytes(wanted.is_some()));
        let Some(floor) = floor(&log, wanted, retention, max_bytes) else { return Ok(false) };
        if held || floor <= files.manifest().log_floor {
            return Ok(false);
        }
        let mark = self.log.lock().synced;
        let switched = files.switch(&self.shared, &self.dir, |manifest| {
            self.refresh(manifest, &segments, mark);
            manifest.log_floor = floor;
        });
        self.judge_switch(switched)?;
        // Only now that it is persisted: what is cold may be rewritten.
        for segment in segments.iter().filter(|segment| segment.end().is_some_and(|end| end.last.last.gsn < floor)) {
            segment.set_cold();
        }
        count(&self.housekeeping.done.floors_raised, 1);
        Ok(true)
    }

    /// The segments of the log as retention sees them.
    fn log_files(&self, segments: &[Arc<Segment>], turn: &mut Turn, now: Duration) -> Vec<LogFile> {
        let sound = self.applied().min(self.synced());
        let mut files = Vec::new();
        for (i, segment) in segments.iter().enumerate() {
            let Some(end) = segment.end().filter(|_| segment.is_listed()) else {
                let bytes = segment.written();
                files.push(LogFile { last_gsn: u64::MAX, bytes, age: Duration::ZERO, releasable: false });
                continue;
            };
            // The newest listed one stays: the log must not lose its end.
            let follows = segments.get(i + 1).is_some_and(|next| next.is_listed());
            let durable = segment.synced.load(Ordering::Acquire);
            let since = *turn.ended.entry(segment.id()).or_insert(now);
            files.push(LogFile {
                last_gsn: end.last.last.gsn,
                bytes: end.len,
                age: now.saturating_sub(since),
                releasable: durable && follows && end.last.last.gsn <= sound,
            });
        }
        turn.ended.retain(|id, _| segments.iter().any(|segment| segment.id() == *id));
        files
    }

    fn default_max_bytes(&self, asked: bool) -> u64 {
        if !asked {
            return MAX_BYTES;
        }
        let space = self.shared.disk.space(&self.shared.dir);
        space.map_or(MAX_BYTES, |space| MAX_BYTES.max(space.total_bytes / 10))
    }
}

impl Engine {
    /// No log floor rises for `at_most`, or until [`Self::release_log_floor`]: for a member that promised an
    /// epoch, whose answer says how far back its log reaches. Once this returns, [`Shard::log_floor`] stays as
    /// it is. Holding again replaces the time that is left.
    pub fn hold_log_floor(&self, at_most: Duration) {
        *self.shared().floor_hold.lock() = self.shared().now().checked_add(at_most);
        for shard in self.shards() {
            // Whoever was about to raise it has done so before this lock is had.
            drop(shard.files.lock());
        }
    }

    /// Ends [`Self::hold_log_floor`].
    pub fn release_log_floor(&self) {
        *self.shared().floor_hold.lock() = None;
    }

    /// The epoch that was promised has its leader: log floors may rise, and what was staged to become that leader is of
    /// no use any more.
    pub fn epoch_has_its_leader(&self) {
        self.release_log_floor();
        for shard in self.shards() {
            shard.discard_staged();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86400);

    fn files(ages_s: &[u64]) -> Vec<LogFile> {
        let file = |(i, age): (usize, &u64)| LogFile {
            last_gsn: (i as u64 + 1) * 10,
            bytes: 100,
            age: Duration::from_secs(*age),
            releasable: i + 1 < ages_s.len(),
        };
        ages_s.iter().enumerate().map(file).collect()
    }

    fn retention(min_bytes: u64, min_age: Duration) -> Retention {
        Retention { min_bytes, min_age, max_bytes: None }
    }

    #[test]
    fn the_smaller_of_bytes_and_age_is_kept() {
        let young = files(&[50, 40, 30, 20, 10, 0]);
        assert_eq!(floor(&young, None, &retention(250, DAY), 0), Some(31), "three files, 300 bytes, stay");
        assert_eq!(floor(&young, None, &retention(1 << 30, Duration::from_secs(25)), 0), Some(31));
        assert_eq!(floor(&young, None, &retention(1 << 30, DAY), 0), None);
        assert_eq!(floor(&young, None, &retention(0, DAY), 0), Some(51), "all but the newest");
        assert_eq!(floor(&[], None, &retention(0, DAY), 0), None);
    }

    #[test]
    fn a_laggard_is_waited_for_up_to_the_bound() {
        let log = files(&[0; 8]);
        let keep = retention(0, DAY);
        assert_eq!(floor(&log, Some(25), &keep, 1 << 30), Some(21), "its file stays");
        assert_eq!(floor(&log, Some(1), &keep, 1 << 30), None);
        assert_eq!(floor(&log, Some(1), &keep, 300), Some(51), "three hundred bytes and the file they begin in");
        assert_eq!(floor(&log, Some(1 << 40), &keep, 0), Some(71));
    }

    #[test]
    fn nothing_is_released_behind_a_segment_that_must_stay() {
        let mut log = files(&[0; 5]);
        log[1].releasable = false;
        assert_eq!(floor(&log, None, &retention(0, DAY), 0), Some(11));
    }
}
