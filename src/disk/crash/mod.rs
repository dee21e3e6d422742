//! A disk in memory that can lose power, fail, fill up and rot, deterministically.
//!
//! [`CrashDisk::crash`] gives the disk as it may be after a power loss: every un-synced page (or only some
//! of its 512-byte sectors), length and name was kept or dropped as the caller chooses, in any order; names
//! that depend on each other keep their order, and a rename happened or did not. [`CrashDisk::kill`] gives
//! it after the end of the process alone: everything written survives. Both leave this disk as it is, so a
//! test can try many outcomes of one [`Moment`]: [`CrashDisk::observe`] is called after every operation.
//! A file sync does not make the file's *name* survive, although some file systems would: the engine must
//! not depend on it. Reads and stores through mappings are not counted as operations.

mod cache;
mod content;
mod moment;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use self::content::Content;
pub use self::moment::{Image, Moment};
use super::{DirEntry, DirLock, Disk, DiskFile, DiskMap, FaultWatch, Space};

/// Reported as the size of the disk while no capacity is set.
const UNLIMITED_BYTES: u64 = 1 << 40;
const ROOT: DirId = 0;

type DirId = u64;
type Observer = Box<dyn FnMut(&CrashDisk, u64) + Send>;

/// The in-memory disk; clones are handles on the same one.
#[derive(Clone)]
pub struct CrashDisk {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    observer: Mutex<Option<Observer>>,
}

#[derive(Default)]
struct State {
    dirs: BTreeMap<DirId, Dir>,
    next_dir: DirId,
    /// Changes of names that no directory sync has made durable, oldest first.
    pending: Vec<NameChange>,
    operations: u64,
    fails_after: Option<u64>,
    faults: Vec<Fault>,
    capacity_bytes: Option<u64>,
    locks: BTreeSet<DirId>,
}

#[derive(Default, Clone)]
struct Dir {
    live: BTreeMap<String, Node>,
    media: BTreeMap<String, Node>,
}

#[derive(Clone)]
enum Node {
    File(Arc<Content>),
    Dir(DirId),
}

/// One atomic change: these names get these nodes, or none.
#[derive(Clone)]
struct NameChange {
    sets: Vec<(DirId, String, Option<Node>)>,
    what: String,
}

/// Something that a power loss may keep or drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsynced {
    /// A 4 KiB page of a file that differs from the medium.
    Page {
        /// The file, by its last name.
        path: PathBuf,
        /// Number of the page.
        page: u64,
        /// A bit for every 512-byte sector in which cache and medium differ.
        sectors: u8,
        /// So many states that it was in between two writes, each of which may have reached the medium.
        earlier: usize,
    },
    /// A length that was not synced.
    Length {
        /// The file, by its last name.
        path: PathBuf,
        /// Bytes on the medium.
        from: u64,
        /// Bytes in the cache.
        to: u64,
    },
    /// A creation, rename or removal that was not synced.
    Name {
        /// In words.
        change: String,
    },
}

/// What becomes of something un-synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It reached the medium.
    Keep,
    /// It did not.
    Drop,
    /// Of a page: the 512-byte sectors whose bits are set reached the medium. Of a length: that many eighths
    /// of the difference (the low three bits). A name change is never torn: this keeps it.
    Torn(u8),
    /// Of a page: its state of this number, from 0, oldest first, and no later one reached the medium. Of anything
    /// else: this keeps it.
    Earlier(usize),
}

/// What a fault is injected into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOn {
    /// Writes and zeroing ahead; half of what was to be written is.
    Write,
    /// Syncs of files and directories. A file's un-synced pages are lost, though still seen.
    Sync,
    /// Reads.
    Read,
    /// Creations, renames and removals.
    Name,
}

/// An error to come.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which operations.
    pub on: FaultOn,
    /// Only paths that contain this.
    pub path_contains: String,
    /// So many matching operations succeed first.
    pub skip: u64,
    /// So many then fail.
    pub times: u64,
    /// With this error number (`libc::EIO`, `libc::ENOSPC`).
    pub errno: i32,
}

impl Default for CrashDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for CrashDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CrashDisk").field("operations", &self.operations()).finish_non_exhaustive()
    }
}

impl CrashDisk {
    /// An empty disk with a root directory.
    pub fn new() -> Self {
        let mut state = State { next_dir: ROOT + 1, ..State::default() };
        state.dirs.insert(ROOT, Dir::default());
        Self::from_state(state)
    }

    /// Operations so far: everything that changes or syncs something, failed or not.
    pub fn operations(&self) -> u64 {
        self.inner.state.lock().operations
    }

    /// Lets `operations` more succeed; then every one fails with EIO and changes nothing.
    pub fn fail_after(&self, operations: u64) {
        let mut state = self.inner.state.lock();
        state.fails_after = Some(state.operations + operations);
    }

    /// Injects a fault.
    pub fn inject(&self, fault: Fault) {
        self.inner.state.lock().faults.push(fault);
    }

    /// Whether an injected fault is still to come.
    pub fn has_faults(&self) -> bool {
        self.inner.state.lock().faults.iter().any(|fault| fault.times > 0)
    }

    /// Takes all injected faults away.
    pub fn heal(&self) {
        let mut state = self.inner.state.lock();
        state.faults.clear();
        state.fails_after = None;
    }

    /// Bounds the sum of all files' lengths; `StorageFull` beyond it.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.inner.state.lock().capacity_bytes = bytes;
    }

    /// Calls `observer` with this disk and the operation's number after every operation, on its thread,
    /// and not for operations made by the observer itself.
    pub fn observe(&self, observer: impl FnMut(&CrashDisk, u64) + Send + 'static) {
        *self.inner.observer.lock() = Some(Box::new(observer));
    }

    /// Ends [`Self::observe`].
    pub fn unobserve(&self) {
        *self.inner.observer.lock() = None;
    }

    /// Overwrites bytes of a file in cache and medium alike, unnoticed: rot.
    pub fn rot(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let content = self.inner.state.lock().file(path)?;
        content.growth(offset, bytes.len() as u64)?;
        content.rot(bytes, offset);
        Ok(())
    }

    /// The disk as it is now, to make many outcomes of.
    pub fn moment(&self) -> Moment {
        Moment::of(&self.inner.state.lock())
    }

    /// The disk after this process was killed: everything written survives, locks are free. Faults and
    /// observer do not come along; what was un-synced still is.
    pub fn kill(&self) -> Self {
        self.moment().kill()
    }

    /// The disk after a power loss in which `choice` decides about everything un-synced. It is asked in one
    /// fixed order: names, oldest first, then file by file length and pages.
    pub fn crash(&self, choice: &mut dyn FnMut(&Unsynced) -> Keep) -> Self {
        self.moment().crash(&mut |_, what| choice(what)).disk()
    }

    fn from_state(state: State) -> Self {
        Self { inner: Arc::new(Inner { state: Mutex::new(state), observer: Mutex::new(None) }) }
    }

    /// Runs one operation: counted, perhaps failed, observed.
    fn operate<T>(
        &self,
        on: FaultOn,
        path: &Path,
        run: impl FnOnce(&mut State, Option<io::Error>) -> io::Result<T>,
    ) -> io::Result<T> {
        let (number, result) = {
            let mut state = self.inner.state.lock();
            if state.fails_after.is_some_and(|last| state.operations >= last) {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            state.operations += 1;
            let fault = state.fault(on, path);
            (state.operations, run(&mut state, fault))
        };
        // Taken out while it runs: what it does to this disk is not observed.
        let observer = self.inner.observer.lock().take();
        if let Some(mut observer) = observer {
            observer(self, number);
            let mut slot = self.inner.observer.lock();
            if slot.is_none() {
                *slot = Some(observer);
            }
        }
        result
    }

    fn rename_names(&self, path: &Path, run: impl FnOnce(&mut State) -> io::Result<NameChange>) -> io::Result<()> {
        self.operate(FaultOn::Name, path, |state, fault| {
            if let Some(error) = fault {
                return Err(error);
            }
            let change = run(state)?;
            state.change(change);
            Ok(())
        })
    }

    fn handle(&self, content: Arc<Content>, path: &Path, writable: bool) -> Arc<dyn DiskFile> {
        Arc::new(CrashFile { disk: self.clone(), content, path: path.to_owned(), writable })
    }
}

fn set_name<N: Clone>(names: &mut BTreeMap<String, N>, name: &str, node: &Option<N>) {
    match node {
        Some(node) => names.insert(name.to_owned(), node.clone()),
        None => names.remove(name),
    };
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist on the crash disk", path.display()))
}

impl State {
    fn fault(&mut self, on: FaultOn, path: &Path) -> Option<io::Error> {
        let path = path.to_string_lossy();
        let fault = self.faults.iter_mut().find(|f| f.on == on && f.times > 0 && path.contains(&f.path_contains))?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        fault.times -= 1;
        Some(io::Error::from_raw_os_error(fault.errno))
    }

    fn node(&self, path: &Path) -> io::Result<Node> {
        let mut node = Node::Dir(ROOT);
        for part in path.components() {
            match part {
                Component::Normal(name) => {
                    let Node::Dir(dir) = node else { return Err(io::ErrorKind::NotADirectory.into()) };
                    let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
                    node = self.dirs[&dir].live.get(name).cloned().ok_or_else(|| not_found(path))?;
                }
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
            }
        }
        Ok(node)
    }

    fn file(&self, path: &Path) -> io::Result<Arc<Content>> {
        match self.node(path)? {
            Node::File(content) => Ok(content),
            Node::Dir(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn dir(&self, path: &Path) -> io::Result<DirId> {
        match self.node(path)? {
            Node::Dir(id) => Ok(id),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The directory and name that `path` stands for.
    fn place(&self, path: &Path) -> io::Result<(DirId, String)> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.dir(path.parent().unwrap_or(Path::new("/")))?, name.to_owned()))
    }

    fn change(&mut self, change: NameChange) {
        for (dir, name, node) in &change.sets {
            set_name(&mut self.dirs.entry(*dir).or_default().live, name, node);
        }
        self.pending.push(change);
    }

    /// Makes durable what touches `dir`, and what that builds on.
    fn sync_dir(&mut self, dir: DirId) {
        let mut needed: BTreeSet<(DirId, String)> = BTreeSet::new();
        let mut chosen = vec![false; self.pending.len()];
        for (i, change) in self.pending.iter().enumerate().rev() {
            let touches = |(d, name, _): &(DirId, String, _)| *d == dir || needed.contains(&(*d, name.clone()));
            chosen[i] = change.sets.iter().any(touches);
            if chosen[i] {
                needed.extend(change.sets.iter().map(|(d, name, _)| (*d, name.clone())));
            }
        }
        let mut chosen = chosen.into_iter();
        let dirs = &mut self.dirs;
        self.pending.retain(|change| {
            let persist = chosen.next().unwrap_or(false);
            if persist {
                for (dir, name, node) in &change.sets {
                    set_name(&mut dirs.entry(*dir).or_default().media, name, node);
                }
            }
            !persist
        });
    }

    fn used_bytes(&self) -> u64 {
        let files = self.dirs.values().flat_map(|dir| dir.live.values());
        files.map(|node| if let Node::File(content) = node { content.len() } else { 0 }).sum()
    }

    fn take_room(&self, growth: u64) -> io::Result<()> {
        match self.capacity_bytes {
            Some(capacity) if growth > 0 && self.used_bytes() + growth > capacity => {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            _ => Ok(()),
        }
    }
}

impl Disk for CrashDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let content = Content::new()?;
        self.rename_names(path, |state| {
            let (dir, name) = state.place(path)?;
            if state.dirs[&dir].live.contains_key(&name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let sets = vec![(dir, name, Some(Node::File(content.clone())))];
            Ok(NameChange { sets, what: format!("create {}", path.display()) })
        })?;
        Ok(self.handle(content, path, true))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.inner.state.lock().file(path)?;
        Ok(self.handle(content, path, true))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let content = self.inner.state.lock().file(path)?;
        Ok(self.handle(content, path, false))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename_names(from, |state| {
            let node = state.node(from)?;
            let ((from_dir, from_name), (to_dir, to_name)) = (state.place(from)?, state.place(to)?);
            match (&node, state.dirs[&to_dir].live.get(&to_name)) {
                (Node::File(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
                (Node::Dir(_), Some(Node::File(_))) => return Err(io::ErrorKind::NotADirectory.into()),
                (Node::Dir(_), Some(Node::Dir(there))) if !state.dirs[there].live.is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                _ => {}
            }
            Ok(NameChange {
                sets: vec![(from_dir, from_name, None), (to_dir, to_name, Some(node))],
                what: format!("rename {} to {}", from.display(), to.display()),
            })
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.rename_names(path, |state| {
            state.file(path)?;
            let (dir, name) = state.place(path)?;
            Ok(NameChange { sets: vec![(dir, name, None)], what: format!("remove {}", path.display()) })
        })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        for entry in self.list(path)? {
            let path = path.join(&entry.name);
            if entry.is_dir { self.remove_dir_all(&path)? } else { self.remove_file(&path)? }
        }
        self.rename_names(path, |state| {
            let (dir, name) = state.place(path)?;
            Ok(NameChange { sets: vec![(dir, name, None)], what: format!("remove {}", path.display()) })
        })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let exists = self.inner.state.lock().node(path);
        match exists {
            Ok(Node::Dir(_)) => return Ok(()),
            Ok(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Err(_) => {}
        }
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        self.rename_names(path, |state| {
            let (dir, name) = state.place(path)?;
            let id = state.next_dir;
            state.next_dir += 1;
            state.dirs.insert(id, Dir::default());
            let sets = vec![(dir, name, Some(Node::Dir(id)))];
            Ok(NameChange { sets, what: format!("create {}", path.display()) })
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.inner.state.lock();
        let id = state.dir(dir)?;
        let entry = |(name, node): (&String, &Node)| match node {
            Node::File(content) => DirEntry { name: name.clone(), is_dir: false, len: content.len() },
            Node::Dir(_) => DirEntry { name: name.clone(), is_dir: true, len: 0 },
        };
        Ok(state.dirs[&id].live.iter().map(entry).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.operate(FaultOn::Sync, dir, |state, fault| {
            if let Some(error) = fault {
                return Err(error);
            }
            let id = state.dir(dir)?;
            state.sync_dir(id);
            Ok(())
        })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.inner.state.lock().node(path) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let mut state = self.inner.state.lock();
        let id = state.dir(dir)?;
        if !state.locks.insert(id) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(CrashLock { disk: self.clone(), id }))
    }

    fn is_locked(&self, dir: &Path) -> io::Result<bool> {
        let state = self.inner.state.lock();
        Ok(state.locks.contains(&state.dir(dir)?))
    }

    fn note_faults(&self, _dir: &Path, _note: &Path) -> io::Result<Box<dyn FaultWatch>> {
        Ok(Box::new(NoFaults))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let state = self.inner.state.lock();
        let total_bytes = state.capacity_bytes.unwrap_or(UNLIMITED_BYTES);
        Ok(Space { total_bytes, available_bytes: total_bytes.saturating_sub(state.used_bytes()) })
    }
}

#[derive(Debug)]
struct NoFaults;

/// Memory can always be read.
impl FaultWatch for NoFaults {}

#[derive(Debug)]
struct CrashLock {
    disk: CrashDisk,
    id: DirId,
}

impl DirLock for CrashLock {}

impl Drop for CrashLock {
    fn drop(&mut self) {
        self.disk.inner.state.lock().locks.remove(&self.id);
    }
}

struct CrashFile {
    disk: CrashDisk,
    content: Arc<Content>,
    path: PathBuf,
    writable: bool,
}

impl std::fmt::Debug for CrashFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CrashFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl CrashFile {
    fn read_fault(&self) -> io::Result<()> {
        match self.disk.inner.state.lock().fault(FaultOn::Read, &self.path) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn synced(&self, sync: impl FnOnce(&Content)) -> io::Result<()> {
        self.disk.operate(FaultOn::Sync, &self.path, |_, fault| match fault {
            Some(error) => {
                self.content.sync_failed();
                Err(error)
            }
            None => {
                sync(&self.content);
                Ok(())
            }
        })
    }

    fn written(&self, offset: u64, len: u64, write: impl FnOnce(&Content, u64)) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.disk.operate(FaultOn::Write, &self.path, |state, fault| {
            let growth = self.content.growth(offset, len)?;
            if let Some(error) = fault {
                write(&self.content, len / 2);
                return Err(error);
            }
            state.take_room(growth)?;
            write(&self.content, len);
            Ok(())
        })
    }
}

impl DiskFile for CrashFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_fault()?;
        Ok(self.content.read(buf, offset))
    }

    fn read_at_uncached(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_fault()?;
        Ok(self.content.read_uncached(buf, offset))
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.written(offset, bytes.len() as u64, |content, len| content.write(&bytes[..len as usize], offset))
    }

    fn zero_ahead(&self, offset: u64, len: u64) -> io::Result<()> {
        self.written(offset, len, |content, len| content.zero(offset, len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.synced(|content| content.sync())
    }

    fn sync_mapped(&self, _: &dyn DiskMap, offset: u64, len: u64) -> io::Result<()> {
        self.synced(|content| content.sync_part(offset, len))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.len())
    }

    fn map(&self, len: u64, writable: bool) -> io::Result<Arc<dyn DiskMap>> {
        self.content.map(len, writable)
    }
}

#[cfg(test)]
mod tests;
