//! The directory of a local cluster: its lock, its files, and `local.json`, which tells others where it runs.
//!
//! ```text
//! DIR/local.lock         flock; the holder's pid in text
//! DIR/local.json         endpoints, ports and pids (ClusterFile); replaced atomically
//! DIR/control.sock       status, switchover, adopt
//! DIR/register.json      the register of partition 0; register-<p>.json for the others; beside each .lock and .spare
//! DIR/secret             what peers must present, mode 0600
//! DIR/<member>/          config.yaml, data/, log, log.1
//! ```
//!
//! Invariants: everything but the lock file is changed only while the lock is held; the lock file is never
//! removed (removing it would let two processes lock two files of one name); the ports of a member never change.
//! It does not know what a manifest or a process is.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::error::LocalError;
use crate::ident::ClusterId;

/// Newest format of `local.json`.
const FORMAT_VERSION: u32 = 1;

/// A unix socket's path has at most 107 bytes; longer ones go by way of the open directory.
const SOCKET_PATH_BYTES: usize = 100;

/// What `local.json` holds: how other commands find the running cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFile {
    /// Of this file.
    pub format_version: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The id to bootstrap with; an existing register or volume wins.
    pub cluster_id: ClusterId,
    /// Partitions, fixed.
    pub partitions: u32,
    /// Shards a member, fixed when the data was formatted.
    pub shards: u32,
    /// The running supervisor, if one runs.
    pub supervisor_pid: Option<u32>,
    /// The control socket.
    pub control_socket: PathBuf,
    /// Every member, by partition and ordinal.
    pub members: Vec<MemberEntry>,
}

/// A member: where it listens and, while it runs, its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberEntry {
    /// `<cluster>-<partition>-<ordinal>`.
    pub name: String,
    /// Its partition.
    pub partition: u32,
    /// Its number in the partition.
    pub ordinal: u32,
    /// Where clients connect.
    pub client: SocketAddr,
    /// Where members and controllers connect.
    pub peer: SocketAddr,
    /// Metrics and probes.
    pub http: SocketAddr,
    /// Its process; None while it does not run.
    pub pid: Option<u32>,
}

impl ClusterFile {
    /// Reads `dir/local.json`; None if there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, LocalError> {
        let path = dir.join("local.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LocalError::io("reading", path)(error)),
        };
        /// Read first: a newer file may differ in everything else.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            format_version: u32,
        }
        let malformed = |source| LocalError::Malformed { path: path.clone(), source };
        let version: Version = serde_json::from_slice(&bytes).map_err(malformed)?;
        if version.format_version > FORMAT_VERSION {
            return Err(LocalError::Newer { path, found: version.format_version, known: FORMAT_VERSION });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(malformed)
    }

    /// The client addresses, in order.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.client.to_string()).collect()
    }

    /// A file for a cluster that never ran.
    pub(crate) fn new(cluster: String, cluster_id: ClusterId, partitions: u32, shards: u32, dir: &Path) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            cluster,
            cluster_id,
            partitions,
            shards,
            supervisor_pid: None,
            control_socket: dir.join("control.sock"),
            members: Vec::new(),
        }
    }
}

/// Finds the directory that a command means by `--dir`: itself if it holds a cluster, else the only one below it.
pub fn find(dir: &Path) -> io::Result<PathBuf> {
    if dir.join("local.json").exists() {
        return Ok(dir.to_owned());
    }
    let mut found = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                let path = entry?.path();
                if path.join("local.json").exists() {
                    found.push(path);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no local cluster in {}: start one with armdb local, or give --dir or --endpoints", dir.display()),
        )),
        _ => {
            found.sort();
            let names: Vec<_> = found.iter().map(|path| path.display().to_string()).collect();
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("several local clusters: give --dir with one of {}", names.join(", ")),
            ))
        }
    }
}

/// The locked directory of the cluster that this process runs.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Held for the lock on it. Never inherited by children: it is opened close-on-exec.
    _lock: File,
}

impl Directory {
    /// Creates the directory if need be and locks it; refuses by pid if another process has it.
    pub fn lock(path: &Path) -> Result<Self, LocalError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(LocalError::io("creating the directory", path))?;
        let path = fs::canonicalize(path).map_err(LocalError::io("opening the directory", path))?;
        let lock_path = path.join("local.lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(LocalError::io("opening", &lock_path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                // The holder may be about to write it: the refusal stands without the number.
                let _ = lock.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
                return Err(LocalError::Running { dir: path, pid });
            }
            Err(error) => return Err(LocalError::io("locking", &lock_path)(error.into())),
        }
        (|| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        })()
        .map_err(LocalError::io("writing", &lock_path))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of one member; created.
    pub fn member(&self, name: &str) -> Result<PathBuf, LocalError> {
        let path = self.path.join(name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(LocalError::io("creating the directory", &path))?;
        Ok(path)
    }

    /// Where partition `partition`'s register is.
    pub fn register(&self, partition: u32) -> PathBuf {
        match partition {
            0 => self.path.join("register.json"),
            other => self.path.join(format!("register-{other}.json")),
        }
    }

    /// The secret that peers present: made once, readable by its owner only.
    pub fn secret(&self) -> Result<(PathBuf, String), LocalError> {
        let path = self.path.join("secret");
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => return Ok((path, text.trim().to_owned())),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LocalError::io("reading", path)(error));
            }
            _ => {}
        }
        // 256 bits, by two of the 128-bit identities: the same source of randomness.
        let secret = format!("{}{}", ClusterId::random(), ClusterId::random());
        replace(&path, secret.as_bytes(), 0o600).map_err(LocalError::io("writing", &path))?;
        Ok((path, secret))
    }

    /// Replaces `local.json`.
    pub fn write(&self, file: &ClusterFile) -> Result<(), LocalError> {
        let path = self.path.join("local.json");
        let mut bytes =
            serde_json::to_vec_pretty(file).map_err(|source| LocalError::Malformed { path: path.clone(), source })?;
        bytes.push(b'\n');
        replace(&path, &bytes, 0o644).map_err(LocalError::io("writing", path))
    }

    /// Replaces a member's configuration file.
    pub fn write_config(&self, member: &str, yaml: &str) -> Result<PathBuf, LocalError> {
        let path = self.member(member)?.join("config.yaml");
        replace(&path, yaml.as_bytes(), 0o644).map_err(LocalError::io("writing", &path))?;
        Ok(path)
    }
}

/// The control socket of `dir` as a path short enough to bind or connect to; the descriptor keeps the path good.
pub fn control_socket(dir: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    let path = dir.join("control.sock");
    if path.as_os_str().len() <= SOCKET_PATH_BYTES {
        return Ok((path, None));
    }
    let fd = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}/control.sock", fd.as_raw_fd())), Some(fd)))
}

/// Atomic and durable replacement: temporary file, fsync, rename, fsync of the directory.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(dir: &Path) -> ClusterFile {
        ClusterFile::new("kv".into(), ClusterId(7), 1, 1, dir)
    }

    #[test]
    fn a_second_supervisor_of_one_directory_is_refused_by_pid() {
        let temp = tempfile::tempdir().expect("a directory");
        let _first = Directory::lock(temp.path()).expect("locks");
        let error = Directory::lock(temp.path()).expect_err("refused").to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert!(error.contains(&temp.path().canonicalize().expect("path").display().to_string()), "{error}");
    }

    #[test]
    fn the_lock_goes_with_its_holder() {
        let temp = tempfile::tempdir().expect("a directory");
        drop(Directory::lock(temp.path()).expect("locks"));
        Directory::lock(temp.path()).expect("locks again");
    }

    #[test]
    fn the_cluster_file_comes_back_as_written_and_a_newer_one_is_refused() {
        let temp = tempfile::tempdir().expect("a directory");
        let directory = Directory::lock(temp.path()).expect("locks");
        let mut written = file(temp.path());
        written.members.push(MemberEntry {
            name: "kv-0-0".into(),
            partition: 0,
            ordinal: 0,
            client: "127.0.0.1:1".parse().expect("address"),
            peer: "127.0.0.1:2".parse().expect("address"),
            http: "127.0.0.1:3".parse().expect("address"),
            pid: Some(9),
        });
        directory.write(&written).expect("writes");
        assert_eq!(ClusterFile::read(temp.path()).expect("reads"), Some(written.clone()));
        assert_eq!(written.endpoints(), ["127.0.0.1:1"]);

        fs::write(temp.path().join("local.json"), br#"{"formatVersion": 2}"#).expect("writes");
        let error = ClusterFile::read(temp.path()).expect_err("refused").to_string();
        assert!(error.contains("format 2"), "{error}");
    }

    #[test]
    fn the_secret_is_made_once_and_is_its_owners_alone() {
        let temp = tempfile::tempdir().expect("a directory");
        let directory = Directory::lock(temp.path()).expect("locks");
        let (path, secret) = directory.secret().expect("made");
        assert_eq!(secret.len(), 64);
        assert_eq!(fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
        assert_eq!(directory.secret().expect("read").1, secret);
    }

    #[test]
    fn a_command_finds_the_only_cluster_and_asks_when_there_are_two() {
        let temp = tempfile::tempdir().expect("a directory");
        assert_eq!(find(temp.path()).expect_err("none").kind(), io::ErrorKind::NotFound);
        for name in ["a", "b"] {
            let directory = Directory::lock(&temp.path().join(name)).expect("locks");
            directory.write(&file(temp.path())).expect("writes");
            if name == "a" {
                assert_eq!(find(temp.path()).expect("one"), temp.path().join("a"));
            }
        }
        assert!(find(temp.path()).expect_err("two").to_string().contains("--dir"));
        assert_eq!(find(&temp.path().join("b")).expect("itself"), temp.path().join("b"));
    }
}
