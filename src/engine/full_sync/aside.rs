//! What becomes of the files of a quarantined shard when a copy takes their place: they are set aside, one
//! generation of them, for whoever wants to know what happened to them or to get something back.
//!
//! They are renamed into `quarantined/` within the shard's directory, with copies of what was in force and the
//! reason. It is begun before the state changes, in a directory of another name, and goes on after a crash: what is
//! in neither is never lost between the two. Nothing reads them again. They go when another quarantine takes their
//! name, or when a copy would not have room beside them.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::engine::error::EngineError;
use crate::engine::files::SHARD_META;
use crate::engine::format::manifest::Manifest;
use crate::engine::segment::{Segment, io_error};

/// The directory's name.
pub(crate) const ASIDE: &str = "quarantined";
/// Its name while files are being moved.
const UNFINISHED: &str = "quarantined.part";
/// Why, in words.
const REASON: &str = "REASON";

/// Whether a name in a shard's directory is one of these.
pub(crate) fn is_aside(name: &str) -> bool {
    name == ASIDE || name == UNFINISHED
}

/// Keeps what is about to be overwritten: after this, [`finish`] moves the rest, also in another process.
pub(super) fn begin(disk: &Arc<dyn Disk>, dir: &Path, reason: &str) -> Result<(), EngineError> {
    let to = dir.join(UNFINISHED);
    disk.create_dir_all(&to).map_err(io_error("create", &to))?;
    write(disk, &to.join(REASON), format!("{reason}\n").as_bytes())?;
    if disk.exists(&dir.join(SHARD_META)).map_err(io_error("look for", dir))? {
        copy(disk, &dir.join(SHARD_META), &to.join(SHARD_META))?;
    }
    disk.sync_dir(&to).map_err(io_error("sync", &to))?;
    disk.sync_dir(dir).map_err(io_error("sync", dir))
}

/// Moves the files, if that was begun. `keep` are the manifests in force: they are copied.
pub(super) fn finish(disk: &Arc<dyn Disk>, dir: &Path, keep: [u64; 2]) -> Result<(), EngineError> {
    let to = dir.join(UNFINISHED);
    if !disk.exists(&to).map_err(io_error("look for", &to))? {
        return Ok(());
    }
    for entry in disk.list(dir).map_err(io_error("list", dir))? {
        let (name, from) = (entry.name.as_str(), dir.join(&entry.name));
        match Manifest::seq_of(name) {
            Some(seq) if keep.contains(&seq) => copy(disk, &from, &to.join(name))?,
            Some(_) => disk.rename(&from, &to.join(name)).map_err(io_error("rename", &from))?,
            None if Segment::id_of(name).is_some() || name.ends_with(".hint") => {
                disk.rename(&from, &to.join(name)).map_err(io_error("rename", &from))?;
            }
            None => {}
        }
    }
    disk.sync_dir(&to).map_err(io_error("sync", &to))?;
    let aside = dir.join(ASIDE);
    if disk.exists(&aside).map_err(io_error("look for", &aside))? {
        disk.remove_dir_all(&aside).map_err(io_error("remove", &aside))?;
    }
    disk.rename(&to, &aside).map_err(io_error("rename", &to))?;
    disk.sync_dir(dir).map_err(io_error("sync", dir))?;
    tracing::warn!(path = %aside.display(), "the quarantined files are set aside: remove them when nobody needs them");
    Ok(())
}

/// Gives up what was set aside; whether there was anything.
pub(super) fn discard(disk: &Arc<dyn Disk>, dir: &Path) -> Result<bool, EngineError> {
    let aside = dir.join(ASIDE);
    if !disk.exists(&aside).map_err(io_error("look for", &aside))? {
        return Ok(false);
    }
    disk.remove_dir_all(&aside).map_err(io_error("remove", &aside))?;
    Ok(true)
}

fn copy(disk: &Arc<dyn Disk>, from: &Path, to: &Path) -> Result<(), EngineError> {
    let file = disk.open_read(from).map_err(io_error("open", from))?;
    let mut bytes = vec![0; file.len().map_err(io_error("measure", from))? as usize];
    let len = file.read_at(&mut bytes, 0).map_err(io_error("read", from))?;
    write(disk, to, &bytes[..len])
}

fn write(disk: &Arc<dyn Disk>, path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    if disk.exists(path).map_err(io_error("look for", path))? {
        disk.remove_file(path).map_err(io_error("remove", path))?;
    }
    let file = disk.create(path).map_err(io_error("create", path))?;
    file.write_at(&[IoSlice::new(bytes)], 0).map_err(io_error("write", path))?;
    file.sync_data().map_err(io_error("sync", path))
}
