//! What housekeeping has done since the directory was opened.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::shard::Shard;

/// What housekeeping of a shard has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HousekeepingReport {
    /// Hints made for files that no longer change.
    pub hints: u64,
    /// Times the log's floor was raised.
    pub floors_raised: u64,
    /// Compactions.
    pub compactions: u64,
    /// Files they rewrote.
    pub files_in: u64,
    /// Files they made.
    pub files_out: u64,
    /// Bytes of the files they rewrote.
    pub bytes_in: u64,
    /// Bytes of the files they made.
    pub bytes_out: u64,
    /// Deletes they dropped because nothing older was left to hide.
    pub tombstones_dropped: u64,
    /// Expired values they dropped.
    pub expired_dropped: u64,
    /// Steps that failed and are tried again.
    pub failures: u64,
}

/// The same, while it grows.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hints: AtomicU64,
    pub(super) floors_raised: AtomicU64,
    pub(super) compactions: AtomicU64,
    pub(super) files_in: AtomicU64,
    pub(super) files_out: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) tombstones_dropped: AtomicU64,
    pub(super) expired_dropped: AtomicU64,
    pub(super) failures: AtomicU64,
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Shard {
    /// What housekeeping has done since the directory was opened.
    pub fn housekeeping_report(&self) -> HousekeepingReport {
        let done = &self.housekeeping.done;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HousekeepingReport {
            hints: read(&done.hints),
            floors_raised: read(&done.floors_raised),
            compactions: read(&done.compactions),
            files_in: read(&done.files_in),
            files_out: read(&done.files_out),
            bytes_in: read(&done.bytes_in),
            bytes_out: read(&done.bytes_out),
            tombstones_dropped: read(&done.tombstones_dropped),
            expired_dropped: read(&done.expired_dropped),
            failures: read(&done.failures),
        }
    }
}
