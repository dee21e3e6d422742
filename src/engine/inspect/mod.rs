//! What is in a data directory, and is it sound? Read-only: nothing is opened for writing, locked, counted or
//! repaired, so it may be asked of a directory in use and of one that no engine opens any more.
//!
//! It judges by the rules of recovery: what recovery would refuse is *unsound*; what it would cut or tidy away
//! and go on is told, and is no fault. It reads everything, also what recovery leaves alone because it was
//! vouched for. Of a directory in use it sees one moment of some files and another of others: what is found
//! at the log's end may be a write under way.
//!
//! Nothing found here is believed without its checksum; garbage is told with its place, never a panic.

mod directory;
mod log;
mod report;
mod shard;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use report::{
    DirectoryReport, FileKind, FileReport, Finding, Inspection, ManifestReport, NodeReport, Severity, ShardInspection,
    StagingReport,
};

use super::error::EngineError;
use super::member::NODE_META;
use super::segment::io_error;
use crate::disk::Disk;

/// How deep a directory is looked for: a local cluster keeps its members' two levels down.
const DEPTH: u32 = 3;

/// Inspects the data directory at `path`, or every data directory below it. Nothing found there: no report.
pub fn inspect(disk: &Arc<dyn Disk>, path: &Path) -> Result<Inspection, EngineError> {
    let mut dirs = Vec::new();
    find(disk, path, DEPTH, &mut dirs)?;
    let directories: Vec<_> = dirs.iter().map(|dir| directory::inspect(disk, dir)).collect();
    Ok(Inspection { sound: directories.iter().all(|directory| directory.sound), directories })
}

/// The data directories at or below `dir`.
fn find(disk: &Arc<dyn Disk>, dir: &Path, depth: u32, found: &mut Vec<PathBuf>) -> Result<(), EngineError> {
    let entries = disk.list(dir).map_err(io_error("list", dir))?;
    if entries.iter().any(|entry| entry.name == NODE_META || directory::shard_number(&entry.name).is_some()) {
        found.push(dir.to_owned());
        return Ok(());
    }
    if depth > 0 {
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            // What cannot be listed below the directory asked about is not what was asked about.
            let below = dir.join(&entry.name);
            if let Err(error) = find(disk, &below, depth - 1, found) {
                tracing::warn!(%error, "passed over");
            }
        }
    }
    Ok(())
}

/// At most the first `limit` bytes of a file, and its length.
fn read_some(disk: &Arc<dyn Disk>, path: &Path, limit: u64) -> Result<(Vec<u8>, u64), String> {
    let read = || {
        let file = disk.open_read(path)?;
        let len = file.len()?;
        let mut bytes = vec![0; len.min(limit) as usize];
        let mut at = 0;
        while at < bytes.len() {
            match file.read_at(&mut bytes[at..], at as u64)? {
                0 => break,
                got => at += got,
            }
        }
        bytes.truncate(at);
        Ok((bytes, len))
    };
    read().map_err(|error: std::io::Error| format!("it cannot be read: {error}"))
}

#[cfg(test)]
mod tests;
