//! Truncation: a manifest switch that records where a segment ends, drops what follows and opens a fresh
//! segment. No file is shortened or written over: files are mapped, and old bytes in a used place could pass
//! for new ones.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::{EngineError, TruncateError};
use super::files::Files;
use super::format::manifest::{FileEnd, FileEntry};
use super::log::Log;
use super::overlay::ENTRY_BYTES;
use super::segment::{Segment, View};
use super::shard::Shard;
use super::sync;
use crate::position::{Gsn, LogTail};

impl Shard {
    /// Drops everything above `gsn`, durably. Closes the epoch that is open, if any.
    pub fn truncate_to(self: &Arc<Self>, gsn: Gsn) -> Result<LogTail, TruncateError> {
        self.shared.poison.check()?;
        loop {
            // Everything is written and synced first: what is kept must be, and there is no queue to cut.
            sync::round(&self.shared, std::slice::from_ref(self))?;
            let _io = self.io.lock();
            let mut files = self.files.lock();
            let _apply = self.apply.lock();
            let mut log = self.log.lock();
            let (tail, commit) = (log.tail, self.commit());
            if gsn > tail.last.gsn {
                return Err(TruncateError::BeyondTail { gsn, tail: tail.last.gsn });
            }
            if gsn < commit {
                return Err(TruncateError::BelowCommit { gsn, commit });
            }
            log.open = None;
            if log.has_unwritten() || log.synced != tail {
                if self.shared.no_room.load(Ordering::Acquire) && !self.shared.spend_reserve() {
                    return Err(EngineError::DiskFull("the log's end could not be written".into()).into());
                }
                continue;
            }
            if gsn == tail.last.gsn {
                return Ok(tail);
            }
            let (Some((to, true)), Some(next)) = (log.tail_at(gsn), log.overlay.get(gsn + 1)) else {
                return Err(TruncateError::InsideBatch(gsn));
            };
            let (slot, offset) = (next.location.segment, next.location.offset_bytes());
            let result = self.cut_files(&mut files, &mut log, to, slot, offset);
            self.shared.failing(result)?;
            return Ok(to);
        }
    }

    /// Ends the log at `to`, which lies before `offset` of the segment in `slot`.
    pub(crate) fn cut_files(
        &self,
        files: &mut Files,
        log: &mut Log,
        to: LogTail,
        slot: u32,
        offset: u64,
    ) -> Result<(), EngineError> {
        let gsn = to.last.gsn;
        let segments = self.log_segments();
        let (kept, dropped): (Vec<_>, Vec<_>) = segments.iter().cloned().partition(|s| s.base_gsn() <= gsn);
        if let Some(closing) = kept.last() {
            let len = if closing.slot == slot { offset } else { closing.end().map_or(offset, |end| end.len) };
            closing.sync()?;
            closing.synced.store(true, Ordering::Release);
            closing.set_end(FileEnd { len, last: to });
        }
        let entries = log.overlay.len();
        let freed = log.cut(to);
        log.time.cut(gsn, self.committed_time_ms());
        let freed = freed + (entries - log.overlay.len()) as u64 * ENTRY_BYTES;
        self.shared.memory_bytes.fetch_sub(freed, Ordering::Relaxed);
        log.unsynced.clear();
        log.active = None;
        let slot = self.take_slot(log);
        let fresh = log.rotate(slot);
        let options = &self.shared.options;
        let (bytes, ahead, writable) = (options.segment_bytes, options.zero_ahead_bytes, self.shared.relaxed());
        self.shared.with_reserve(|| fresh.create(&self.shared.disk, &self.dir, bytes, ahead, writable))?;
        self.view.rcu(|view| {
            let next = view.with_segment(fresh.clone()).without(&dropped);
            View { epochs: log.epochs.clone(), ..next }
        });
        let gone = |id: u32| dropped.iter().any(|s: &Arc<Segment>| s.id() == id);
        files.switch(&self.shared, &self.dir, |manifest| {
            manifest.files.retain(|file| !gone(file.id));
            self.refresh(manifest, &kept, to);
            // A truncation lowers the mark: what is dropped was durable and is nothing to vouch for any more.
            manifest.mark = to;
            manifest.commit = manifest.commit.min(gsn);
            if let Some(closing) = kept.last() {
                for file in manifest.files.iter_mut().filter(|file| file.id == closing.id()) {
                    file.end = closing.end();
                }
            }
            manifest.next_file_id = manifest.next_file_id.max(fresh.id() + 1);
            manifest.add_log_file(FileEntry::active(fresh.id(), fresh.header.before()));
            manifest.drops.extend(dropped.iter().map(|s| s.id()));
        })?;
        fresh.listed.store(true, Ordering::Release);
        Files::unlink(&self.shared, &self.dir, dropped.iter().map(|s| s.id()));
        self.tail_gsn.store(gsn, Ordering::Release);
        self.synced_gsn.store(gsn, Ordering::Release);
        Ok(())
    }
}
