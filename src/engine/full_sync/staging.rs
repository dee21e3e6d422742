//! The taking side's directory of staged files: `incoming-<hash of the manifest>` within the shard's.
//!
//! What a file has is its length; nothing else is recorded, so a crash may leave a length whose bytes did not
//! reach the disk. That is found when the file is whole: it is compared with its checksum then, and once more
//! when a staging is resumed, and thrown away if it differs. Nothing here is the shard's data yet, so no error
//! here ends the engine's life.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Sizes;
use super::aside;
use super::manifest::{SnapshotFile, SnapshotManifest};
use crate::disk::{Disk, DiskFile};
use crate::engine::error::EngineError;
use crate::engine::segment::io_error;
use crate::engine::shared::Shared;

/// What the name of every staging directory begins with.
const PREFIX: &str = "incoming-";
/// Read at once to compute a checksum.
const READ_BYTES: usize = 1 << 20;

/// See the module's comment.
#[derive(Debug)]
pub(super) struct Staging {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    files: Vec<SnapshotFile>,
    have: Sizes,
    /// The file that is being written.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    name: String,
    file: Arc<dyn DiskFile>,
    /// Checksum of its first bytes, if all of them passed through here.
    crc: Option<crc32fast::Hasher>,
}

/// Removes what was staged for a shard that does not want it any more. What cannot be removed now is removed at
/// the next open.
pub(crate) fn discard_staged(disk: &Arc<dyn Disk>, dir: &Path) {
    let removed = staging_dirs(disk, dir)
        .and_then(|dirs| dirs.iter().try_for_each(|dir| disk.remove_dir_all(dir).map_err(io_error("remove", dir))));
    if let Err(error) = removed {
        tracing::warn!(%error, "what was staged stays until the next open");
    }
}

/// Whether a name in a shard's directory is that of a staging directory.
pub(crate) fn is_staging(name: &str) -> bool {
    name.starts_with(PREFIX)
}

fn staging_dirs(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let entries = disk.list(dir).map_err(io_error("list", dir))?;
    Ok(entries.iter().filter(|e| e.is_dir && is_staging(&e.name)).map(|e| dir.join(&e.name)).collect())
}

impl Staging {
    /// Opens the staging of a manifest. Files that any earlier staging holds whole and that are wanted again
    /// are kept; so is the beginning of a file of this very manifest.
    pub(super) fn open(shared: &Shared, shard_dir: &Path, manifest: &SnapshotManifest) -> Result<Self, EngineError> {
        let disk = shared.disk.clone();
        let dir = shard_dir.join(format!("{PREFIX}{:032x}", digest(manifest)));
        let others: Vec<_> = staging_dirs(&disk, shard_dir)?.into_iter().filter(|other| *other != dir).collect();
        disk.create_dir_all(&dir).map_err(io_error("create", &dir))?;
        let mut staging = Self { disk, dir, files: manifest.files.clone(), have: Sizes::new(), open: None };
        staging.look()?;
        for other in &others {
            staging.take_over(other)?;
            staging.disk.remove_dir_all(other).map_err(io_error("remove", other))?;
        }
        let missing = manifest.total_bytes() - staging.have.values().sum::<u64>();
        let mut space = shared.refresh_space()?;
        let short = |available: u64, total: u64| available < missing.saturating_add(shared.reserve_bytes(total));
        if short(space.available_bytes, space.total_bytes) && aside::discard(&staging.disk, shard_dir)? {
            tracing::warn!(path = %shard_dir.display(), missing, "the files set aside are removed: a copy needs their room");
            space = shared.refresh_space()?;
        }
        if short(space.available_bytes, space.total_bytes) {
            return Err(EngineError::DiskFull(format!(
                "a full sync needs {missing} more bytes beside the reserve, {} are available",
                space.available_bytes
            )));
        }
        Ok(staging)
    }

    /// Finds out what is here.
    fn look(&mut self) -> Result<(), EngineError> {
        for entry in self.disk.list(&self.dir).map_err(io_error("list", &self.dir))? {
            let path = self.dir.join(&entry.name);
            let wanted = self.files.iter().find(|file| file.name == entry.name);
            let good = match wanted {
                Some(file) if entry.len == file.len => self.crc(&path, file.len)? == file.crc,
                Some(file) => entry.len < file.len,
                None => false,
            };
            if good {
                self.have.insert(entry.name, entry.len);
            } else {
                self.disk.remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Moves what another staging holds whole. By content: another donor gives the same file another number.
    fn take_over(&mut self, other: &Path) -> Result<(), EngineError> {
        for entry in self.disk.list(other).map_err(io_error("list", other))? {
            let alike = |file: &&SnapshotFile| file.len == entry.len && self.have(&file.name) < file.len;
            if !self.files.iter().any(|file| alike(&file)) {
                continue;
            }
            let path = other.join(&entry.name);
            let crc = self.crc(&path, entry.len)?;
            let Some(file) = self.files.iter().filter(alike).find(|file| file.crc == crc) else { continue };
            let (name, to) = (file.name.clone(), self.dir.join(&file.name));
            self.disk.rename(&path, &to).map_err(io_error("rename", &path))?;
            self.have.insert(name, entry.len);
        }
        Ok(())
    }

    fn crc(&self, path: &Path, len: u64) -> Result<u32, EngineError> {
        let file = self.disk.open_read(path).map_err(io_error("open", path))?;
        crc_of(&file, len).map_err(io_error("read", path))
    }

    /// Bytes of a file that are staged.
    pub(super) fn have(&self, name: &str) -> u64 {
        self.have.get(name).copied().unwrap_or(0)
    }

    /// Where a file is staged.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Throws everything away.
    pub(super) fn discard(&mut self) {
        self.open = None;
        self.have.clear();
        if let Err(error) = self.disk.remove_dir_all(&self.dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.dir.display(), "a staging directory stays until the next open");
        }
    }

    /// Adds a piece to a file.
    pub(super) fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), EngineError> {
        let refuse = |why: String| Err(EngineError::FullSync(why));
        let Some(wanted) = self.files.iter().find(|file| file.name == name).cloned() else {
            return refuse(format!("the snapshot has no file {name:?}"));
        };
        let have = self.have(name);
        let end = offset.saturating_add(bytes.len() as u64);
        if end <= have {
            // A sender that does not know what is here sends all of it.
            return Ok(());
        }
        if offset != have || end > wanted.len {
            let want = format!("{have} of {} bytes are here", wanted.len);
            return refuse(format!("{name}: a piece from {offset} to {end} was sent, {want}"));
        }
        let path = self.path(name);
        if self.open.as_ref().is_none_or(|open| open.name != name) {
            let file = if have > 0 || self.disk.exists(&path).map_err(io_error("look for", &path))? {
                self.disk.open(&path).map_err(io_error("open", &path))?
            } else {
                self.disk.create(&path).map_err(io_error("create", &path))?
            };
            let crc = (have == 0).then(crc32fast::Hasher::new);
            self.open = Some(Open { name: name.to_owned(), file, crc });
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        if let Err(source) = open.file.write_at(&[IoSlice::new(bytes)], offset) {
            // How much of it was written is not known: what is there is looked at anew.
            self.open = None;
            return Err(EngineError::Io { operation: "write", path, source });
        }
        if let Some(crc) = &mut open.crc {
            crc.update(bytes);
        }
        self.have.insert(name.to_owned(), end);
        if end == wanted.len { self.complete(&wanted, &path) } else { Ok(()) }
    }

    /// A file is whole: is it what it should be?
    fn complete(&mut self, wanted: &SnapshotFile, path: &Path) -> Result<(), EngineError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        open.file.sync_data().map_err(io_error("sync", path))?;
        let crc = match open.crc {
            Some(crc) => crc.finalize(),
            None => crc_of(&open.file, wanted.len).map_err(io_error("read", path))?,
        };
        if crc == wanted.crc {
            return Ok(());
        }
        self.have.remove(&wanted.name);
        self.disk.remove_file(path).map_err(io_error("remove", path))?;
        Err(EngineError::FullSync(format!("{} did not arrive as it was sent: it is to be sent again", wanted.name)))
    }
}

fn crc_of(file: &Arc<dyn DiskFile>, len: u64) -> std::io::Result<u32> {
    let mut crc = crc32fast::Hasher::new();
    let mut buf = vec![0; READ_BYTES.min(len as usize).max(1)];
    let mut at = 0;
    while at < len {
        let want = buf.len().min((len - at) as usize);
        let got = file.read_at(&mut buf[..want], at)?;
        if got == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        crc.update(&buf[..got]);
        at += got as u64;
    }
    Ok(crc.finalize())
}

/// Names a manifest: equal manifests share a staging.
fn digest(manifest: &SnapshotManifest) -> u128 {
    let mut text = format!("{:?} {:?} ", manifest.g0, manifest.epoch_table.starts());
    text += &format!("{} {} {:?}", manifest.tombstone_floor, manifest.log_floor, manifest.files);
    xxhash_rust::xxh3::xxh3_128(text.as_bytes())
}
