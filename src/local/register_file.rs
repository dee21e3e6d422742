//! The register as a file: compare-and-swap by way of a lock, replaced whole and durably.
//!
//! Owns `register.json` (or `register-<p>.json`), `<file>.lock` and `<file>.spare`. A write is: lock, read, compare,
//! write the spare file, fsync, exchange the two names, fsync the directory, read back, unlock. The version of a state
//! is the SHA-256 of its bytes. Invariants: nothing is ever written over a file that cannot be read or was written by a
//! newer version; a reader sees one state or the next, never a mixture.
//!
//! Members' data may lie on the same file system and fill it, and then a leader may be lost: so a write takes no room.
//! Both files have the same length, filled up with spaces, and what was in force becomes the spare, with the blocks it
//! has. (Where a file system writes elsewhere whatever is written, as btrfs and ZFS do, that is no help.)
//! Does not decide what to do about a register that is lost; that is topology's part.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::topology::register::{CasOutcome, ReadOutcome, Register, RegisterStore, Version};

/// Files are as long as a whole number of these: a register of nine members takes a third.
const LENGTH_BYTES: usize = 16 << 10;

/// A register in a file.
#[derive(Debug, Clone)]
pub struct RegisterFile {
    path: PathBuf,
}

/// What tells one state of the file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    inode: u64,
    modified_nanos: i128,
    bytes: u64,
}

impl RegisterFile {
    /// The register at `path`; nothing is touched yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes whenever the file is replaced or removed, by whomever; None when there is none.
    pub fn mark(&self) -> Option<Mark> {
        let meta = fs::metadata(&self.path).ok()?;
        Some(Mark {
            inode: meta.ino(),
            modified_nanos: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            bytes: meta.len(),
        })
    }

    /// Exclusively: held from reading to renaming, so that two writers cannot both find the state they expect. Shared:
    /// held while reading, so that what is read does not become the spare, and is written over, meanwhile.
    fn lock(&self, how: FlockOperation) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.beside(".lock"))?;
        rustix::fs::flock(&file, how)?;
        Ok(file)
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push(suffix);
        PathBuf::from(path)
    }

    fn open_spare(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(self.beside(".spare"))
    }

    /// Makes `bytes` the file's content, atomically and durably. The lock is held.
    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let spare = self.beside(".spare");
        let mut file = self.open_spare()?;
        file.write_all(bytes)?;
        if file.metadata()?.len() > bytes.len() as u64 {
            file.set_len(bytes.len() as u64)?;
        }
        file.sync_all()?;
        match rustix::fs::renameat_with(CWD, &spare, CWD, &self.path, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // There is none yet, or the file system knows no exchange.
            Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => fs::rename(&spare, &self.path)?,
            Err(error) => return Err(error.into()),
        }
        if let Some(parent) = self.path.parent() {
            File::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?.sync_all()?;
        }
        // What was written is in force, whether or not there is room for the next.
        if let Err(error) = self.fill_spare(bytes.len() as u64) {
            tracing::warn!(%error, path = %spare.display(), "no spare file: the next write of the register needs room");
        }
        Ok(())
    }

    /// Makes the spare as long as the file in force, if it is not.
    fn fill_spare(&self, bytes: u64) -> io::Result<()> {
        let mut file = self.open_spare()?;
        let have = file.seek(io::SeekFrom::End(0))?;
        if have >= bytes {
            return Ok(());
        }
        file.write_all(&vec![b' '; usize::try_from(bytes - have).unwrap_or(0)])?;
        file.sync_all()
    }

    fn present(&self) -> ReadOutcome {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return ReadOutcome::Absent,
            Err(error) => return ReadOutcome::Failed(format!("reading {}: {error}", self.path.display())),
        };
        match Register::from_json(&bytes) {
            Ok(register) => ReadOutcome::Found(Box::new(register), version_of(&bytes)),
            Err(error) => ReadOutcome::Failed(format!("{}: {error}", self.path.display())),
        }
    }
}

/// With spaces and a line end behind it, which JSON does not mind.
fn filled(mut json: Vec<u8>) -> Vec<u8> {
    let len = (json.len() + 1).next_multiple_of(LENGTH_BYTES);
    json.resize(len - 1, b' ');
    json.push(b'\n');
    json
}

fn version_of(bytes: &[u8]) -> Version {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    Version(text)
}

impl RegisterStore for RegisterFile {
    fn read(&self) -> ReadOutcome {
        match self.lock(FlockOperation::LockShared) {
            Ok(_lock) => self.present(),
            // No directory, so no register.
            Err(error) if error.kind() == io::ErrorKind::NotFound => ReadOutcome::Absent,
            Err(error) => ReadOutcome::Failed(format!("locking {}: {error}", self.path.display())),
        }
    }

    fn compare_and_swap(&self, expected: Option<&Version>, register: &Register) -> CasOutcome {
        let unknown = |operation: &str, error: &dyn std::fmt::Display| {
            CasOutcome::Unknown(format!("{operation} {}: {error}", self.path.display()))
        };
        let bytes = match register.to_json() {
            Ok(bytes) => filled(bytes),
            Err(error) => return unknown("writing", &error),
        };
        let _lock = match self.lock(FlockOperation::LockExclusive) {
            Ok(lock) => lock,
            Err(error) => return unknown("locking", &error),
        };
        match (self.present(), expected) {
            (ReadOutcome::Found(_, present), Some(expected)) if present == *expected => {}
            (ReadOutcome::Absent, None) => {}
            (ReadOutcome::Failed(why), _) => return CasOutcome::Unknown(why),
            _ => return CasOutcome::Conflict,
        }
        if let Err(error) = self.replace(&bytes) {
            return unknown("writing", &error);
        }
        match fs::read(&self.path) {
            Ok(stored) if stored == bytes => CasOutcome::Written(version_of(&bytes)),
            Ok(_) => unknown("reading back", &"another content was found; another program writes this file"),
            Err(error) => unknown("reading back", &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ident::{ClusterId, Sid};
    use crate::topology::register::{FORMAT_VERSION, Phase};

    fn register(epoch: u64) -> Register {
        Register {
            format_version: FORMAT_VERSION,
            cluster_id: ClusterId(1),
            lineage: 1,
            epoch,
            phase: Phase::Electing,
            attempt: None,
            leader: None,
            last_leading: None,
            voters: vec![Sid(1), Sid(2), Sid(3)],
            write_quorum: 2,
            min_voters: 2,
            learners: Vec::new(),
            members: BTreeMap::new(),
            initialized: true,
            format_level: 1,
            slot_table_version: 0,
            shard_time_ms: 0,
            last_request: None,
            unknown: BTreeMap::new(),
        }
    }

    fn written(outcome: CasOutcome) -> Version {
        match outcome {
            CasOutcome::Written(version) => version,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_swap_goes_through_only_from_the_version_it_names() {
        let temp = tempfile::tempdir().expect("a directory");
        let store = RegisterFile::new(temp.path().join("register.json"));
        assert!(matches!(store.read(), ReadOutcome::Absent));
        let first = written(store.compare_and_swap(None, &register(1)));
        assert_eq!(store.compare_and_swap(None, &register(2)), CasOutcome::Conflict);
        let second = written(store.compare_and_swap(Some(&first), &register(2)));
        assert_eq!(store.compare_and_swap(Some(&first), &register(3)), CasOutcome::Conflict);
        match store.read() {
            ReadOutcome::Found(found, version) => {
                assert_eq!(*found, register(2));
                assert_eq!(version, second);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_many_writers_from_one_version_exactly_one_wins() {
        let temp = tempfile::tempdir().expect("a directory");
        let store = RegisterFile::new(temp.path().join("register.json"));
        let first = written(store.compare_and_swap(None, &register(1)));
        let winners: usize = std::thread::scope(|scope| {
            let writers: Vec<_> = (2..10)
                .map(|epoch| {
                    let (store, first) = (store.clone(), first.clone());
                    scope.spawn(move || match store.compare_and_swap(Some(&first), &register(epoch)) {
                        CasOutcome::Written(_) => 1,
                        CasOutcome::Conflict => 0,
                        other => panic!("{other:?}"),
                    })
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().expect("no panic")).sum()
        });
        assert_eq!(winners, 1);
    }

    #[test]
    fn a_damaged_or_newer_register_is_neither_used_nor_overwritten() {
        let temp = tempfile::tempdir().expect("a directory");
        let store = RegisterFile::new(temp.path().join("register.json"));
        let first = written(store.compare_and_swap(None, &register(1)));
        let good = fs::read(store.path()).expect("reads");
        for bad in [
            &good[..100],
            &b"{\"formatVersion\": 9, \"digest\": \"\"}"[..],
            &String::from_utf8_lossy(&good).replace("\"epoch\":1", "\"epoch\":7").into_bytes(),
        ] {
            fs::write(store.path(), bad).expect("writes");
            let why = match store.read() {
                ReadOutcome::Failed(why) => why,
                other => panic!("{other:?}"),
            };
            assert!(why.contains("register.json"), "{why}");
            assert!(matches!(store.compare_and_swap(Some(&first), &register(2)), CasOutcome::Unknown(_)));
            assert!(matches!(store.compare_and_swap(None, &register(2)), CasOutcome::Unknown(_)));
            assert_eq!(fs::read(store.path()).expect("reads"), bad);
        }
    }

    #[test]
    fn a_write_takes_the_blocks_of_the_state_before_the_last_and_no_others() {
        let temp = tempfile::tempdir().expect("a directory");
        let store = RegisterFile::new(temp.path().join("register.json"));
        let files = || {
            let listed = fs::read_dir(temp.path()).expect("listed").map(|entry| entry.expect("an entry"));
            let of = |entry: fs::DirEntry| entry.metadata().map(|meta| (meta.ino(), meta.len())).expect("metadata");
            listed.map(of).collect::<std::collections::BTreeSet<_>>()
        };
        let mut version = written(store.compare_and_swap(None, &register(1)));
        let before = files();
        assert_eq!(before.iter().map(|(_, len)| len).sum::<u64>(), 2 * LENGTH_BYTES as u64, "register, spare and lock");
        for epoch in 2..6 {
            version = written(store.compare_and_swap(Some(&version), &register(epoch)));
            assert_eq!(files(), before, "the same files, of the same lengths");
            assert!(matches!(store.read(), ReadOutcome::Found(found, _) if *found == register(epoch)));
        }
        // Somebody tidied up, or made the file in force by hand: it is made good.
        fs::remove_file(temp.path().join("register.json.spare")).expect("removed");
        let json = register(9).to_json().expect("JSON");
        fs::write(store.path(), &json).expect("written");
        written(store.compare_and_swap(Some(&version_of(&json)), &register(10)));
        assert_eq!(files().len(), 3);
        assert_eq!(files().iter().map(|(_, len)| len).sum::<u64>(), 2 * LENGTH_BYTES as u64);
    }

    #[test]
    fn the_mark_changes_when_the_file_is_replaced_or_removed() {
        let temp = tempfile::tempdir().expect("a directory");
        let store = RegisterFile::new(temp.path().join("register.json"));
        assert_eq!(store.mark(), None);
        let first = written(store.compare_and_swap(None, &register(1)));
        let mark = store.mark().expect("a file");
        written(store.compare_and_swap(Some(&first), &register(2)));
        assert_ne!(store.mark(), Some(mark));
        fs::remove_file(store.path()).expect("removes");
        assert_eq!(store.mark(), None);
    }
}
