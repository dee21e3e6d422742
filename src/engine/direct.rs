//! One put or delete of an embedded database under `Os`: straight into the mapped log and the index.
//!
//! What is written is committed there, so nothing waits in the overlay, and no byte is copied but to its place. This is
//! the shortest way that an operation can take; whatever else there is (conditions, batches, a tail for followers, entries
//! that do wait) goes the general one. Its time is that of cache misses, and a lock's atomics wait for the stores before
//! them: so the index's line, the record that is replaced and the log's next lines are all asked for before they are
//! needed, and the locks are two.

use std::sync::atomic::Ordering;

use super::append::{Room, SingleOp, no_room};
use super::batch::Appended;
use super::error::AppendError;
use super::format::record::{Draft, Kind};
use super::shard::Shard;
use crate::position::Epoch;

impl Shard {
    /// Appends and applies one operation; `None` if it has to go the general way.
    pub(super) fn append_direct(&self, epoch: Epoch, op: &SingleOp<'_>) -> Result<Option<Appended>, AppendError> {
        self.check_single(op)?;
        let hash = self.shared.hash(op.tree.0, op.key);
        let view = self.view.load();
        view.index.prefetch(hash);
        self.check_open(op.value.is_some())?;
        let draft = op.draft(false);
        let body_crc = draft.body_crc();
        let mut log = loop {
            let log = self.log.lock();
            if log.open != Some(epoch) {
                return Err(AppendError::NotLeader);
            }
            if log.buffered || log.overlay.len() > 0 {
                return Ok(None);
            }
            match self.make_room(log, draft.len() as u64, false) {
                Ok(Room::Here(log)) => break log,
                Ok(Room::Again) => {}
                Err(error) => return Err(no_room(&error)),
            }
        };
        log.begin_batch(self.commit(), self.told_time_ms());
        let location = log.put_direct(&draft, body_crc);
        let Draft { tree, key, .. } = draft;
        match draft.kind {
            Kind::Delete => self.apply_delete(&view, hash, tree, key),
            _ => self.apply_put(&view, hash, tree, key, location),
        }
        let position = log.tail.last;
        log.applied = log.tail;
        self.take_time(&mut log);
        self.commit_gsn.store(position.gsn, Ordering::Release);
        self.applied_gsn.store(position.gsn, Ordering::Release);
        self.tail_gsn.store(position.gsn, Ordering::Release);
        drop(log);
        self.appended(position.gsn);
        Ok(Some(Appended::Written { position, first_gsn: position.gsn }))
    }
}
