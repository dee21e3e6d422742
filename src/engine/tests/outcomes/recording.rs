//! A workload runs once; the disk after each of its operations is kept, with what must be true of it.

use std::sync::{Arc, Mutex};

use crate::disk::{CrashDisk, Moment};

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The machine: what is not synced may be lost.
    Power,
    /// The process: everything written is there.
    Process,
}

/// What a directory was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Sound,
    /// It says that something may be missing.
    Amnesic,
    /// It says so, because it is damaged or was told.
    Quarantined,
}

/// What must be true of what is left. All of it panics if it is not.
pub(super) trait Expected: Send + Sync {
    /// Equal if the same is expected.
    fn fingerprint(&self) -> u64;

    /// Opens the directory and looks at everything; `further` also goes on with it.
    fn check(&self, disk: &CrashDisk, end: End, further: bool) -> Found;

    /// Only opens it. Answers what is to be expected while that goes on, and once it is done.
    fn recover(&self, disk: &CrashDisk, end: End) -> (Arc<dyn Expected>, Arc<dyn Expected>);
}

/// The disk after one operation.
pub(super) struct Boundary {
    pub(super) moment: Moment,
    pub(super) expected: Arc<dyn Expected>,
}

/// All of them, in order.
#[derive(Clone, Default)]
pub(super) struct Recording {
    boundaries: Arc<Mutex<Vec<Boundary>>>,
}

impl Recording {
    /// Notes every operation of `disk` from now on, with what is expected then.
    pub(super) fn watch(&self, disk: &CrashDisk, expected: impl Fn() -> Arc<dyn Expected> + Send + 'static) {
        let recording = self.clone();
        disk.observe(move |disk, _| recording.add(disk, expected()));
    }

    /// Notes the disk as it is now.
    pub(super) fn add(&self, disk: &CrashDisk, expected: Arc<dyn Expected>) {
        let boundary = Boundary { moment: disk.moment(), expected };
        self.boundaries.lock().expect("not poisoned").push(boundary);
    }

    pub(super) fn take(&self) -> Vec<Boundary> {
        std::mem::take(&mut *self.boundaries.lock().expect("not poisoned"))
    }
}
