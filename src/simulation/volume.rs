//! A volume: the in-memory crash disk with a member's directory on it, and the machine that it is in.
//!
//! What a crash leaves is the crash disk's business; here it is decided by chance which of it: after the end of the
//! process everything written, after a loss of power any part of what was not synced, torn where it may be torn.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{CrashDisk, Disk, Keep};
use crate::engine::{Engine, EngineError, EngineOptions, Format};
use crate::ident::{InstanceId, Sid};
use crate::topology::random::Random;

const DIR: &str = "/member";

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub(super) disk: CrashDisk,
    /// Changes with every loss of power.
    boot: u8,
}

impl Volume {
    /// A formatted one.
    pub(super) fn format(sid: Sid, shards: usize) -> Self {
        let volume = Self { disk: CrashDisk::new(), boot: 1 };
        let format = Format { sid, shards: shards as u16 };
        Engine::format(&volume.as_disk(), Path::new(DIR), &format).expect("an empty disk can be formatted");
        volume
    }

    fn as_disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    /// Recovers what is there.
    pub(super) fn open(&self, options: &EngineOptions, instance: InstanceId) -> Result<Arc<Engine>, EngineError> {
        let options = EngineOptions { boot_id: Some([self.boot; 16]), ..options.clone() };
        Engine::open(self.as_disk(), Path::new(DIR), options, instance)
    }

    /// The process is gone, and with `power` the machine was.
    pub(super) fn crash(&mut self, power: bool, random: &mut Random) {
        if power {
            self.boot = self.boot % 250 + 1;
            // Some losses take nearly everything, some nearly nothing.
            let (drop, torn) = (random.below(1000), random.below(300));
            self.disk = self.disk.crash(&mut |_| match random.below(1000) {
                n if n < drop => Keep::Drop,
                n if n < drop + torn => Keep::Torn(random.next() as u8),
                _ => Keep::Keep,
            });
        }
        self.disk.heal();
    }

    /// As it is now, for a copy.
    #[cfg(test)]
    pub(super) fn copy(&self) -> Self {
        Self { disk: self.disk.kill(), boot: self.boot }
    }

    /// Bytes that files take.
    pub(super) fn used_bytes(&self) -> u64 {
        let space = self.disk.space(Path::new(DIR)).expect("a crash disk knows its room");
        space.total_bytes - space.available_bytes
    }

    /// Paths of a shard's files whose names end in `suffix`, in order.
    pub(super) fn files(&self, shard: usize, suffix: &str) -> Vec<PathBuf> {
        self.files_that(shard, |name| name.ends_with(suffix))
    }

    /// Paths of a shard's manifests.
    pub(super) fn manifests(&self, shard: usize) -> Vec<PathBuf> {
        self.files_that(shard, |name| name.starts_with("MANIFEST-"))
    }

    fn files_that(&self, shard: usize, is_it: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        let dir = Path::new(DIR).join(format!("shard-{shard:03}"));
        let entries = self.disk.list(&dir).unwrap_or_default();
        entries.iter().filter(|e| !e.is_dir && is_it(&e.name)).map(|e| dir.join(&e.name)).collect()
    }

    /// Bytes of a file.
    pub(super) fn len(&self, path: &Path) -> u64 {
        self.disk.open_read(path).and_then(|file| file.len()).unwrap_or(0)
    }

    /// Changes what the directory says of its member.
    #[cfg(test)]
    pub(super) fn rewrite_meta(&self, change: impl FnOnce(&mut crate::engine::NodeMeta)) {
        let options = EngineOptions { background: crate::engine::Background::Manual, ..EngineOptions::default() };
        let engine = self.open(&options, InstanceId(0)).expect("it can be opened");
        engine.update_meta(change).expect("it can be written");
    }
}
