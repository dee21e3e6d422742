//! Putting a compaction's outputs in the place of its inputs.
//!
//! First the manifest, then the index, entry by entry, each only if it still says what was copied; readers go
//! on by whichever view they hold. The inputs leave the view when nothing points to them, and the directory
//! when nobody reads them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::job::{Decided, Job};
use super::output::{self, Move, Output};
use super::report::count;
use crate::engine::error::EngineError;
use crate::engine::files::Files;
use crate::engine::index::Location;
use crate::engine::segment::{Segment, View};
use crate::engine::shard::Shard;
use crate::engine::shared::is_full;
use crate::position::Gsn;

impl Shard {
    /// Makes a finished job's outputs part of the shard. Nothing has changed if it fails, or the engine has.
    pub(super) fn adopt(&self, mut job: Job<'_>) -> Result<(), EngineError> {
        self.raise_tombstone_floor(job.decided.dropped_gsn)?;
        let segments = self.switch_files(&job.inputs, &mut job.outputs)?;
        // From here on it cannot fail: what the manifest says is made true in memory.
        self.view.rcu(|view| segments.iter().fold(View::clone(view), |view, s| view.with_segment(s.clone())));
        let outputs = std::mem::take(&mut job.outputs);
        for (mut output, segment) in outputs.into_iter().zip(&segments) {
            output.keep();
            self.relocate(segment, &output.moves);
        }
        self.forget_expired(job.view(), &job.decided);
        self.view.rcu(|view| view.without(&job.inputs));
        let done = &self.housekeeping.done;
        count(&done.compactions, 1);
        count(&done.files_in, job.inputs.len() as u64);
        count(&done.files_out, segments.len() as u64);
        count(&done.bytes_in, job.inputs.iter().map(|s| s.end().map_or(0, |end| end.len)).sum());
        count(&done.bytes_out, segments.iter().map(|s| s.written()).sum());
        count(&done.tombstones_dropped, job.decided.tombstones);
        count(&done.expired_dropped, job.decided.expired.len() as u64);
        let inputs = std::mem::take(&mut job.inputs);
        drop(job);
        self.retire(inputs);
        Ok(())
    }

    /// Before a tombstone goes, it is on record that it may have gone.
    fn raise_tombstone_floor(&self, gsn: Gsn) -> Result<(), EngineError> {
        let mut files = self.files.lock();
        if gsn <= files.manifest().tombstone_floor {
            return Ok(());
        }
        let switched = files.switch(&self.shared, &self.dir, |manifest| manifest.tombstone_floor = gsn);
        self.judge_switch(switched)
    }

    /// A full disk costs the step; any other failure of a switch ends the engine's life.
    pub(super) fn judge_switch(&self, result: Result<(), EngineError>) -> Result<(), EngineError> {
        match result {
            Err(error) if is_full(&error) => Err(error),
            other => self.shared.failing(other),
        }
    }

    fn switch_files(
        &self,
        inputs: &[Arc<Segment>],
        outputs: &mut [Output<'_>],
    ) -> Result<Vec<Arc<Segment>>, EngineError> {
        let mut files = self.files.lock();
        let mut segments = Vec::new();
        for output in outputs.iter_mut() {
            let (id, slot) = {
                let mut log = self.log.lock();
                log.next_file_id += 1;
                (log.next_file_id - 1, self.take_slot(&mut log))
            };
            segments.push(output.name(id, slot, &self.view.load().epochs)?);
        }
        // The names become durable with the manifest's, by the same sync of the directory, before a slot names it.
        let switched = self.list_outputs(&mut files, inputs, &segments);
        self.judge_switch(switched)?;
        Ok(segments)
    }

    fn list_outputs(
        &self,
        files: &mut Files,
        inputs: &[Arc<Segment>],
        outputs: &[Arc<Segment>],
    ) -> Result<(), EngineError> {
        let log = self.log_segments();
        // Read under the lock on the files: a truncation could have lowered it since.
        let mark = self.log.lock().synced;
        files.switch(&self.shared, &self.dir, |manifest| {
            // The commit goes along: it covers whatever made records superfluous.
            self.refresh(manifest, &log, mark);
            manifest.files.retain(|file| inputs.iter().all(|input| input.id() != file.id));
            manifest.files.extend(outputs.iter().map(|segment| output::entry(segment)));
            manifest.drops.extend(inputs.iter().map(|input| input.id()));
            let next = outputs.iter().map(|segment| segment.id() + 1).max().unwrap_or(0);
            manifest.next_file_id = manifest.next_file_id.max(next);
        })
    }

    /// Points the index to the copies. What was overwritten or deleted meanwhile is dead already.
    fn relocate(&self, output: &Segment, moves: &[Move]) {
        let view = self.view.load();
        for Move { hash, from, to } in moves {
            let Some(record) = output.peek(*to) else { continue };
            let to = Location::at(output.slot, *to);
            if !view.index.insert_or_replace(*hash, Some(*from), to) {
                output.bury(record.len() as u64);
            }
        }
    }

    /// Takes out of the indexes what expired and was not copied. No entry is applied between the two: a key
    /// that is put again must not go from one of them only.
    fn forget_expired(&self, view: &View, decided: &Decided) {
        for some in decided.expired.chunks(64) {
            // Read before the locks: a record of long ago may have to come from the disk.
            let keys: Vec<_> = some
                .iter()
                .filter_map(|(hash, from)| {
                    let record = view.peek(*from)?;
                    Some((*hash, *from, record.tree(), record.key().to_vec()))
                })
                .collect();
            let _apply = self.apply.lock();
            let _log = self.log.lock();
            for (hash, from, tree, key) in keys {
                if view.index.remove(hash, from) {
                    self.note_key(view, tree, |ordered| ordered.remove(&key));
                }
            }
        }
    }

    /// A free place in the segment table. Places are used again as late as possible: a reader may still hold a
    /// location in a segment that is gone.
    pub(crate) fn take_slot(&self, log: &mut crate::engine::log::Log) -> u32 {
        let view = self.view.load();
        let mut slot = log.take_slot();
        while view.segment(slot).is_some() {
            slot = log.take_slot();
        }
        slot
    }

    /// Highest gsn that is synced here.
    pub(crate) fn synced(&self) -> Gsn {
        self.synced_gsn.load(Ordering::Acquire)
    }
}
