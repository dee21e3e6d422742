//! The checkpoint beside the file: how far everything is acknowledged, and in which cluster.
//!
//! It may be behind (then lines are put again, which changes nothing), never ahead. It is only believed if the file
//! still reads the same just before the place it names: a mended line lies after that place, an edited one may not.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Bytes before the offset that must not have changed.
const TAIL_BYTES: u64 = 64 << 10;

/// What an earlier run has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Checkpoint {
    pub(super) format_version: u32,
    pub(super) cluster_id: String,
    pub(super) tree: String,
    /// The fields that key and value were taken from; other fields make other entries.
    pub(super) key: String,
    pub(super) value: Option<String>,
    /// Everything before this byte is acknowledged.
    pub(super) offset: u64,
    /// Lines before it.
    pub(super) line: u64,
    /// CRC-32 of the bytes before `offset`, 64 KiB at most.
    pub(super) tail_crc: u32,
}

/// The format written.
pub(super) const FORMAT_VERSION: u32 = 1;

impl Checkpoint {
    /// `FILE.armdb-load`.
    pub(super) fn path(file: &Path) -> PathBuf {
        let mut path = file.as_os_str().to_owned();
        path.push(".armdb-load");
        path.into()
    }

    /// The checkpoint of `file`; None if there is none, or one that this version cannot read.
    pub(super) fn read(file: &Path) -> Option<Self> {
        let checkpoint: Self = serde_json::from_slice(&fs::read(Self::path(file)).ok()?).ok()?;
        (checkpoint.format_version == FORMAT_VERSION).then_some(checkpoint)
    }

    /// Replaces the checkpoint of `file` atomically. Not synced: losing it costs time, nothing else.
    pub(super) fn write(&self, file: &Path) -> io::Result<()> {
        let path = Self::path(file);
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(&temporary, &path)
    }

    /// Removes the checkpoint of `file`, if there is one.
    pub(super) fn remove(file: &Path) -> io::Result<()> {
        match fs::remove_file(Self::path(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// CRC-32 of the bytes of `file` that end at `offset`; None if the file is shorter. Leaves the file at `offset`.
pub(super) fn tail_crc(file: &mut File, offset: u64) -> io::Result<Option<u32>> {
    if file.metadata()?.len() < offset {
        return Ok(None);
    }
    let from = offset.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = vec![0; (offset - from) as usize];
    file.read_exact(&mut bytes)?;
    Ok(Some(crc32fast::hash(&bytes)))
}
