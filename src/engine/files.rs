//! A shard's `shard.meta` and manifest as they are on disk, and the *switch* that replaces them.
//!
//! A switch writes the whole manifest under a new name, syncs it and its name, and only then points the older
//! slot of `shard.meta` to it. Every change to the set of files is one switch.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use super::error::EngineError;
use super::file_keys::hint_path;
use super::format::manifest::Manifest;
use super::format::shard_meta::{SHARD_META_MAGIC, ShardMeta};
use super::format::slots::{self, SLOT_BYTES};
use super::segment::{Segment, io_error};
use super::shard_state::ShardState;
use super::shared::Shared;
use crate::disk::Disk;

/// Name of the file with the two slots.
pub(crate) const SHARD_META: &str = "shard.meta";

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Files {
    shard: u16,
    /// Sequence number and place of the newest slot.
    seq: u64,
    slot: usize,
    meta: ShardMeta,
    /// The manifest that the other slot names; 0: none.
    older_manifest: u64,
    manifest: Manifest,
    /// Whether `shard.meta` or the manifest could not be read.
    unreadable: bool,
    /// Whether the files were not taken for the shard's data, because it is quarantined or a sync of it did not
    /// end: the shard is empty then, whatever is on disk.
    void: bool,
}

impl Files {
    /// What was read at open.
    pub(crate) fn new(
        shard: u16,
        seq: u64,
        slot: usize,
        meta: ShardMeta,
        older_manifest: u64,
        manifest: Manifest,
    ) -> Self {
        Self { shard, seq, slot, meta, older_manifest, manifest, unreadable: false, void: false }
    }

    /// A shard whose metadata cannot be read: nothing of it is touched.
    pub(crate) fn unreadable(shard: u16, reason: String) -> Self {
        let state = ShardState::Quarantined { reason, alarm: false };
        let meta = ShardMeta { state, ..ShardMeta::blank() };
        let manifest = Manifest { shard, next_file_id: 1, log_floor: 1, ..Manifest::default() };
        Self { shard, seq: 0, slot: 1, meta, older_manifest: 0, manifest, unreadable: true, void: true }
    }

    /// Writes a fresh `shard.meta`, both slots.
    pub(crate) fn format(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), EngineError> {
        let path = dir.join(SHARD_META);
        let payload = ShardMeta::blank().encode();
        let file = disk.create(&path).map_err(io_error("create", &path))?;
        let both = [slots::encode(SHARD_META_MAGIC, 1, &payload), slots::encode(SHARD_META_MAGIC, 0, &payload)];
        file.write_at(&[IoSlice::new(&both[0]), IoSlice::new(&both[1])], 0).map_err(io_error("write", &path))?;
        file.sync_data().map_err(io_error("sync", &path))?;
        disk.sync_dir(dir).map_err(io_error("sync", dir))
    }

    pub(crate) fn state(&self) -> &ShardState {
        &self.meta.state
    }

    /// For a shard found unsound at open: told, not yet persisted.
    pub(crate) fn quarantine(&mut self, reason: String) {
        self.meta.state = ShardState::Quarantined { reason, alarm: false };
    }

    /// Whether `shard.meta` or the manifest could not be read.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// Numbers of the manifests that the two slots name.
    pub(crate) fn in_force(&self) -> [u64; 2] {
        [self.meta.manifest, self.older_manifest]
    }

    /// Whether the files were not taken for the shard's data.
    pub(crate) fn is_void(&self) -> bool {
        self.void
    }

    pub(crate) fn set_void(&mut self, void: bool) {
        self.void = void;
    }

    /// Writes metadata where there was none that could be read. It lists no file and removes none: what is in
    /// the directory is told as unsound until something replaces it.
    pub(crate) fn renew(&mut self, shared: &Shared, dir: &Path, state: ShardState) -> Result<(), EngineError> {
        let (disk, path) = (&shared.disk, dir.join(SHARD_META));
        let (mut next_file_id, mut seq) = (1, 0);
        for entry in disk.list(dir).map_err(io_error("list", dir))? {
            next_file_id = next_file_id.max(Segment::id_of(&entry.name).map_or(0, |id| id.saturating_add(1)));
            seq = seq.max(Manifest::seq_of(&entry.name).unwrap_or(0));
        }
        let exists = disk.exists(&path).map_err(io_error("look for", &path))?;
        let file = if exists { disk.open(&path) } else { disk.create(&path) };
        let file = file.map_err(io_error("open", &path))?;
        let mut old = vec![0; 2 * SLOT_BYTES];
        let got = file.read_at(&mut old, 0).map_err(io_error("read", &path))?;
        let newest = slots::newest(SHARD_META_MAGIC, &old[..got]).map_or(0, |newest| newest.seq);
        self.manifest = Manifest { seq, shard: self.shard, next_file_id, log_floor: 1, ..Manifest::default() };
        let (manifest, len, crc) = self.write_manifest(shared, dir, |_| {})?;
        let meta = ShardMeta { state, manifest: manifest.seq, manifest_len: len, manifest_crc: crc };
        let payload = meta.encode();
        let both = [newest + 1, newest + 2].map(|seq| slots::encode(SHARD_META_MAGIC, seq, &payload));
        file.write_at(&[IoSlice::new(&both[0]), IoSlice::new(&both[1])], 0).map_err(io_error("write", &path))?;
        file.sync_data().map_err(io_error("sync", &path))?;
        disk.sync_dir(dir).map_err(io_error("sync", dir))?;
        (self.seq, self.slot, self.older_manifest) = (newest + 2, 1, manifest.seq);
        (self.meta, self.manifest, self.unreadable) = (meta, manifest, false);
        Ok(())
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Persists another state.
    pub(crate) fn set_state(&mut self, shared: &Shared, dir: &Path, state: ShardState) -> Result<(), EngineError> {
        let meta = ShardMeta { state, ..self.meta.clone() };
        let manifest = meta.manifest;
        self.write_slot(shared, dir, meta)?;
        self.older_manifest = manifest;
        Ok(())
    }

    /// Makes `edit` of the present manifest the manifest in force.
    pub(crate) fn switch(
        &mut self,
        shared: &Shared,
        dir: &Path,
        edit: impl FnOnce(&mut Manifest),
    ) -> Result<(), EngineError> {
        let state = self.meta.state.clone();
        self.switch_to(shared, dir, state, edit)
    }

    /// As [`Self::switch`], and another state with it.
    pub(crate) fn switch_to(
        &mut self,
        shared: &Shared,
        dir: &Path,
        state: ShardState,
        edit: impl FnOnce(&mut Manifest),
    ) -> Result<(), EngineError> {
        let (next, len, crc) = self.write_manifest(shared, dir, edit)?;
        let meta = ShardMeta { state, manifest: next.seq, manifest_len: len, manifest_crc: crc };
        let (previous, dropped) = (self.meta.manifest, self.older_manifest);
        self.write_slot(shared, dir, meta)?;
        self.older_manifest = previous;
        self.manifest = next;
        if dropped != 0 && dropped != previous {
            let path = dir.join(Manifest::name(dropped));
            if let Err(error) = shared.disk.remove_file(&path) {
                tracing::debug!(%error, path = %path.display(), "an old manifest stays until the next open");
            }
        }
        Ok(())
    }

    /// Writes the next manifest, durably, and answers it with its length and checksum. No slot names it yet.
    fn write_manifest(
        &self,
        shared: &Shared,
        dir: &Path,
        edit: impl FnOnce(&mut Manifest),
    ) -> Result<(Manifest, u32, u32), EngineError> {
        let mut next = self.manifest.clone();
        // Beyond what the slots name, also where the manifest itself could not be read: its name is not used again, and
        // what is removed as the older one is never the new one.
        next.seq = next.seq.max(self.meta.manifest).max(self.older_manifest) + 1;
        next.shard = self.shard;
        edit(&mut next);
        // Ids are given out in one order and listed in another (a planned segment's file comes later than an
        // output of compaction). What is passed over here may still become a file, whose own switch a crash
        // may forestall: it is told from an unknown file by being expected.
        for id in self.manifest.next_file_id..next.next_file_id {
            if !next.drops.contains(&id) {
                next.drops.push(id);
            }
        }
        next.drops.retain(|id| next.files.iter().all(|file| file.id != *id));
        debug_assert!(next.files.iter().all(|f| f.id < next.next_file_id), "ids below next_file_id: {next:?}");
        let bytes = next.encode();
        let path = dir.join(Manifest::name(next.seq));
        // Also on a full disk: what frees room, and what ends a log, is a switch.
        shared.with_reserve(|| Self::store_manifest(shared, dir, &path, &bytes))?;
        Ok((next, bytes.len() as u32, crc32fast::hash(&bytes)))
    }

    fn store_manifest(shared: &Shared, dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
        if shared.disk.exists(path).map_err(io_error("look for", path))? {
            shared.disk.remove_file(path).map_err(io_error("remove", path))?;
        }
        let file = shared.disk.create(path).map_err(io_error("create", path))?;
        file.write_at(&[IoSlice::new(bytes)], 0).map_err(io_error("write", path))?;
        file.sync_data().map_err(io_error("sync", path))?;
        shared.disk.sync_dir(dir).map_err(io_error("sync", dir))
    }

    fn write_slot(&mut self, shared: &Shared, dir: &Path, meta: ShardMeta) -> Result<(), EngineError> {
        let path = dir.join(SHARD_META);
        let (seq, slot) = (self.seq + 1, 1 - self.slot);
        let bytes = slots::encode(SHARD_META_MAGIC, seq, &meta.encode());
        let file = shared.disk.open(&path).map_err(io_error("open", &path))?;
        let written = file
            .write_at(&[IoSlice::new(&bytes)], (slot * SLOT_BYTES) as u64)
            .map_err(io_error("write", &path))
            .and_then(|()| file.sync_data().map_err(io_error("sync", &path)));
        // Nobody knows now which slot the disk holds: whatever the reason, it is not tried again, and what the
        // new manifest lists must not be removed.
        written.map_err(|error| match error {
            EngineError::Io { operation, path, source } => {
                EngineError::Io { operation, path, source: std::io::Error::other(source) }
            }
            other => other,
        })?;
        (self.seq, self.slot, self.meta) = (seq, slot, meta);
        Ok(())
    }

    /// Removes files that are no longer part of the shard. Mappings that others hold stay valid; what cannot be
    /// removed now is removed at the next open.
    pub(crate) fn unlink(shared: &Shared, dir: &Path, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            let path = dir.join(Segment::file_name(id));
            for path in [hint_path(&path), path] {
                if let Err(error) = shared.disk.remove_file(&path)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    tracing::warn!(%error, path = %path.display(), "a dropped file stays until the next open");
                }
            }
        }
    }
}
