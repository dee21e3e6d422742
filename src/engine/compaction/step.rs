//! One step of housekeeping, and the thread that takes one after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::job::{Ended, Job};
use super::plan::{Decision, Pace, plan};
use super::report::count;
use super::state::Turn;
use super::throttle::Throttle;
use crate::engine::error::EngineError;
use crate::engine::file_keys::{FileKeys, hint_of};
use crate::engine::segment::Segment;
use crate::engine::shard::Shard;
use crate::engine::shard_state::ShardState;
use crate::engine::shared::Shared;

/// How often the thread looks around unasked.
const LOOK: Duration = Duration::from_millis(500);

/// Files that wait for their hints at most while writers are busy: opening has to read so many more.
const HINTS_BEHIND: usize = 8;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something was done.
    Done,
    /// There is nothing to do.
    Idle,
    /// There is, but not before this has passed.
    Wait(Duration),
}

/// Its priority: a tenth of the others' share.
const NICE: i32 = 10;

/// The thread, until the engine stops.
pub(crate) fn run(shared: &Shared, shards: &[Arc<Shard>]) {
    // Of this thread, on Linux. Where the processors are busy, whoever reads and writes comes first.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "compaction runs at the priority of everything else");
    }
    let start = Instant::now();
    let mut pace = Pace::new(Duration::ZERO);
    let stop = || shared.stopping.load(Ordering::Acquire) || shared.poison.is_set();
    while !stop() {
        shared.keep_reserve();
        let mut wait = LOOK;
        for shard in shards {
            match shard.housekeep(start.elapsed(), &mut pace) {
                Ok(Step::Done) => wait = Duration::ZERO,
                Ok(Step::Wait(left)) => wait = wait.min(left),
                // Told already; what failed is tried again later.
                Ok(Step::Idle) | Err(_) => {}
            }
        }
        if !wait.is_zero() {
            shared.background.wait(Some(wait), stop);
        }
    }
}

impl Shard {
    /// Takes one step. `now` is a monotonic clock of the caller's; an error has been told, and ends the
    /// engine's life only if the engine says so.
    pub(crate) fn housekeep(self: &Arc<Self>, now: Duration, pace: &mut Pace) -> Result<Step, EngineError> {
        if self.shared.poison.is_set() {
            return Ok(Step::Idle);
        }
        self.look_for_damage(now).inspect_err(|error| {
            tracing::warn!(shard = self.id, %error, "looking for damage failed and is tried again later");
        })?;
        let mut turn = self.housekeeping.turn.lock();
        // What is damaged is mended first: nothing of it may be copied, or lost to whoever could mend it.
        if self.state() != ShardState::Ready {
            return Ok(Step::Idle);
        }
        let swept = self.sweep();
        if let Some(left) = turn.waits(now).filter(|_| !self.shared.manual()) {
            return Ok(Step::Wait(left));
        }
        match self.step(&mut turn, now, pace) {
            Ok(step) => {
                turn.worked();
                Ok(if swept && step == Step::Idle { Step::Done } else { step })
            }
            Err(error) => {
                turn.failed(now);
                count(&self.housekeeping.done.failures, 1);
                tracing::warn!(shard = self.id, %error, "a step of housekeeping failed and is tried again later");
                Err(error)
            }
        }
    }

    fn step(self: &Arc<Self>, turn: &mut Turn, now: Duration, pace: &mut Pace) -> Result<Step, EngineError> {
        if self.make_hint(turn, now, pace)? || self.raise_floor(turn, now)? {
            return Ok(Step::Done);
        }
        let figures = self.figures(turn)?;
        let options = &self.shared.options;
        let full = self.shared.puts_refused.load(Ordering::Acquire);
        let room = full.then(|| self.shared.refresh_space()).transpose()?.map(|space| space.available_bytes);
        match plan(&figures, options.segment_bytes, &options.compaction, room, now, pace) {
            Decision::Idle => Ok(Step::Idle),
            Decision::Wait(left) => Ok(Step::Wait(left)),
            Decision::Compact(ids) => self.compact(turn, &ids, pace),
        }
    }

    /// Makes one hint that is missing; whether one was. While writers are busy a few files go without: a hint takes the
    /// processor and the disk as long as a third of what it is about, and is worth most when the log rests.
    fn make_hint(&self, turn: &mut Turn, now: Duration, pace: &mut Pace) -> Result<bool, EngineError> {
        let busy = turn.sees_writers(self.tail_gsn(), now) && !self.shared.manual();
        let applied = self.applied();
        let view = self.view.load_full();
        let due = |segment: &&Arc<Segment>| {
            segment.keys().is_none()
                && segment.is_listed()
                && segment.synced.load(Ordering::Acquire)
                && segment.end().is_some_and(|end| end.last.last.gsn <= applied)
                && !turn.unfit.contains(&segment.id())
        };
        if busy && view.segments.iter().flatten().filter(due).count() <= HINTS_BEHIND {
            return Ok(false);
        }
        let Some(segment) = view.segments.iter().flatten().filter(due).min_by_key(|s| (s.base_gsn(), s.id())) else {
            return Ok(false);
        };
        let hint = hint_of(&self.shared, segment).inspect_err(|_| {
            turn.unfit.insert(segment.id());
        })?;
        segment.set_keys(FileKeys::of(hint));
        pace.spend(segment.written());
        count(&self.housekeeping.done.hints, 1);
        Ok(true)
    }

    fn compact(self: &Arc<Self>, turn: &mut Turn, ids: &[u64], pace: &mut Pace) -> Result<Step, EngineError> {
        let mut job = Job::new(self, ids);
        let mut throttle = Throttle::new(self);
        let written = job.write(&mut throttle);
        pace.spend(throttle.bytes());
        match written {
            Ok(()) => {}
            Err(Ended::Stopped) => return Ok(Step::Idle),
            Err(Ended::Failed(error)) => {
                if matches!(error, EngineError::Corrupt { .. }) {
                    turn.unfit.extend(job.inputs.iter().map(|input| input.id()));
                    job.inputs.iter().for_each(|input| self.suspect(input.slot));
                }
                return Err(error);
            }
        }
        self.adopt(job)?;
        turn.generation += 1;
        Ok(Step::Done)
    }
}
