//! What the last process could not read of a mapped file, looked at before this one maps it again.
//!
//! The disk seam notes the file and the offset and ends the process (a mapped read has no error to return). Here
//! the file is read as files are read, past the page cache: what cannot be read, or is not there any more, is
//! durable data lost, so the shard is quarantined, and that is persisted before the note is cleared: a file that
//! was shortened may look like a torn tail afterwards. A file that can be read is told, and taken as it is.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use super::error::EngineError;
use super::segment::io_error;
use crate::disk::{Disk, FAULT_NOTE_BYTES, FaultNote, NO_FAULT};

/// Name of the note's file in a data directory.
pub(crate) const FAULT_NOTE: &str = "fault.note";
/// Read at once.
const PIECE: usize = 1 << 20;

/// What the last process noted.
pub(crate) fn noted(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Option<FaultNote>, EngineError> {
    let path = dir.join(FAULT_NOTE);
    if !disk.exists(&path).map_err(io_error("look for", &path))? {
        return Ok(None);
    }
    let file = disk.open_read(&path).map_err(io_error("open", &path))?;
    let mut bytes = [0; FAULT_NOTE_BYTES];
    let len = file.read_at(&mut bytes, 0).map_err(io_error("read", &path))?;
    Ok(FaultNote::decode(&bytes[..len]).unwrap_or_else(|reason| {
        tracing::warn!(path = %path.display(), reason, "what the last process noted is not known");
        None
    }))
}

/// Nothing is noted any more.
pub(crate) fn clear(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), EngineError> {
    let path = dir.join(FAULT_NOTE);
    let file = disk.open(&path).map_err(io_error("open", &path))?;
    file.write_at(&[IoSlice::new(&NO_FAULT)], 0).map_err(io_error("write", &path))?;
    file.sync_data().map_err(io_error("sync", &path))
}

/// Reads all of a file of which a page could not be read; what is wrong with it now, if anything is. It must have
/// `least` bytes.
pub(crate) fn check(
    disk: &Arc<dyn Disk>,
    path: &Path,
    note: &FaultNote,
    least: u64,
) -> Result<Option<String>, EngineError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let before = format!("the last process was ended by a read at offset {} of it", note.offset);
    let file = disk.open_read(path).map_err(io_error("open", path))?;
    let len = file.len().map_err(io_error("measure", path))?;
    let mut bytes = vec![0; PIECE.min(len as usize).max(1)];
    let mut at = 0;
    while at < len {
        match file.read_at_uncached(&mut bytes, at) {
            Ok(0) => break,
            Ok(got) => at += got as u64,
            Err(error) => {
                return Ok(Some(format!(
                    "{name} cannot be read in the {PIECE} bytes from offset {at}: {error}; {before}"
                )));
            }
        }
    }
    let least = least.max(note.offset.saturating_add(1));
    Ok((at < least).then(|| format!("{name} ends at offset {at} and had {least} bytes or more; {before}")))
}
