//! One compaction: what of some cold files is still needed is copied, in gsn order, into as few as it takes.
//!
//! What may be left behind, judged record by record:
//! * a put that the index does not point to: something newer of its key is committed;
//! * a delete whose key has a value again: likewise;
//! * the newest delete of its key, or a put that has expired by committed time, when every other file with an
//!   older gsn, active and pinned ones included, has a key filter that excludes the key: it hides nothing any
//!   more. What such a record hid is dropped in the same step or was dropped before.
//! * barriers and notes: the manifest holds the epochs.
//!
//! The first two rest on newer records, which may not be durable here yet although they are committed: the log
//! is synced, and the commit that goes into the manifest covers them, before the old files go.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::input::Input;
use super::output::{Move, Output};
use super::throttle::{Stopped, Throttle};
use crate::engine::error::EngineError;
use crate::engine::format::record::{Kind, Record};
use crate::engine::index::{Location, MAX_SEGMENT_BYTES};
use crate::engine::segment::{Segment, View, io_error};
use crate::engine::shard::Shard;
use crate::engine::sync;
use crate::position::Gsn;

/// Why a compaction ended early.
pub(super) enum Ended {
    /// It was asked to.
    Stopped,
    /// It failed.
    Failed(EngineError),
}

impl From<EngineError> for Ended {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

impl From<Stopped> for Ended {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

/// What was decided about the inputs, before anything changes.
#[derive(Default)]
pub(super) struct Decided {
    /// Largest gsn of a delete or expired put that goes; 0: none does.
    pub(super) dropped_gsn: Gsn,
    pub(super) tombstones: u64,
    /// Expired puts that the index still points to.
    pub(super) expired: Vec<(u64, Location)>,
}

/// See the module's comment.
pub(super) struct Job<'a> {
    shard: &'a Arc<Shard>,
    view: Arc<View>,
    pub(super) inputs: Vec<Arc<Segment>>,
    /// Every other file that may be read again after a crash, or is still read by somebody.
    others: Vec<Arc<Segment>>,
    now_ms: u64,
    pub(super) decided: Decided,
    pub(super) outputs: Vec<Output<'a>>,
}

impl<'a> Job<'a> {
    /// Of the cold files with these ids.
    pub(super) fn new(shard: &'a Arc<Shard>, ids: &[u64]) -> Self {
        let view = shard.view.load_full();
        let is_input = |segment: &Arc<Segment>| segment.is_cold() && ids.contains(&u64::from(segment.id()));
        let (inputs, mut others): (Vec<_>, Vec<_>) = view.segments.iter().flatten().cloned().partition(is_input);
        others.extend(shard.housekeeping.pinned());
        Self {
            shard,
            view,
            inputs,
            others,
            now_ms: shard.committed_time_ms(),
            decided: Decided::default(),
            outputs: Vec::new(),
        }
    }

    /// Writes the outputs and makes durable whatever the decisions rest on.
    pub(super) fn write(&mut self, throttle: &mut Throttle<'_>) -> Result<(), Ended> {
        self.check_room()?;
        let mut inputs = Vec::new();
        for segment in &self.inputs {
            let end = segment.end().ok_or_else(|| EngineError::Corrupt {
                shard: self.shard.id,
                what: format!("{} is cold and has no end", Segment::file_name(segment.id())),
            })?;
            inputs.push(Input::open(segment.clone(), end)?);
        }
        let mut spent = 0;
        while let Some(next) = inputs.iter_mut().filter(|i| i.next_gsn().is_some()).min_by_key(|i| i.next_gsn()) {
            spent += next.take(|record, from| self.judge(record, from))?;
            if spent >= 1 << 20 {
                throttle.spend(std::mem::take(&mut spent))?;
            }
        }
        throttle.spend(spent)?;
        for output in &mut self.outputs {
            output.finish()?;
        }
        // Everything that anything was judged by.
        Ok(sync::until_applied(self.shard)?)
    }

    /// A compaction that would fill the disk is better not begun.
    fn check_room(&self) -> Result<(), EngineError> {
        let shared = &self.shard.shared;
        let live = |segment: &Arc<Segment>| {
            let entries = segment.keys().map_or(segment.written(), |keys| keys.figures.entry_bytes);
            entries.saturating_sub(segment.dead_bytes.load(Ordering::Relaxed))
        };
        let bytes: u64 = self.inputs.iter().map(live).sum();
        let available = shared.disk.space(&shared.dir).map_err(io_error("measure the room of", &shared.dir))?;
        if bytes > available.available_bytes {
            return Err(EngineError::DiskFull(format!("compaction needs {bytes} bytes for a while")));
        }
        Ok(())
    }

    /// Copies a record or leaves it behind; the bytes written.
    fn judge(&mut self, record: &Record<'_>, from: Location) -> Result<u64, EngineError> {
        let (tree, key, gsn) = (record.tree(), record.key(), record.gsn());
        let hash = self.shard.shared.hash(tree, key);
        match record.kind() {
            Kind::Put => {
                if !self.view.index.contains(hash, from) {
                    return Ok(0);
                }
                let expired = record.expires_ms().is_some_and(|expires_ms| expires_ms <= self.now_ms);
                if expired && self.hides_nothing(hash, gsn) {
                    self.decided.dropped_gsn = self.decided.dropped_gsn.max(gsn);
                    self.decided.expired.push((hash, from));
                    return Ok(0);
                }
                let to = self.copy(record)?;
                if let Some(output) = self.outputs.last_mut() {
                    output.moves.push(Move { hash, from, to });
                }
            }
            Kind::Delete => {
                if self.shard.find(hash, tree, key, |_, _, _| ()).is_some() {
                    return Ok(0);
                }
                if self.hides_nothing(hash, gsn) {
                    self.decided.dropped_gsn = self.decided.dropped_gsn.max(gsn);
                    self.decided.tombstones += 1;
                    return Ok(0);
                }
                self.copy(record)?;
            }
            // The creation of a tree is kept for whoever is sent these files.
            Kind::Catalog => {
                self.copy(record)?;
            }
            Kind::Barrier | Kind::Mark | Kind::Seal => return Ok(0),
        }
        Ok(record.len() as u64)
    }

    /// Whether no file that stays can hold an older record of the key.
    fn hides_nothing(&self, hash: u64, gsn: Gsn) -> bool {
        self.others.iter().all(|segment| !segment.may_hold_older(hash, gsn))
    }

    /// Adds a record to the output; where it is there.
    fn copy(&mut self, record: &Record<'_>) -> Result<u64, EngineError> {
        let limit = self.shard.shared.options.segment_bytes.min(MAX_SEGMENT_BYTES);
        let bytes = record.len() as u64;
        // A record larger than that stems from larger segments: it gets a file of its own.
        if self.outputs.last().is_none_or(|output| output.len() + bytes > limit) {
            self.outputs.push(Output::create(self.shard, self.outputs.len())?);
        }
        match self.outputs.last_mut() {
            Some(output) => output.push(record),
            None => unreachable!("one was just made"),
        }
    }

    /// What the inputs were seen in.
    pub(super) fn view(&self) -> &View {
        &self.view
    }
}
