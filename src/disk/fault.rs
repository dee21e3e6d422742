//! What happens when a page of a mapped file cannot be read: the kernel sends SIGBUS, and the process ends.
//!
//! A mapped read has no error to return. Either the disk failed there, or somebody shortened the file; going on
//! is not possible, and without a trace the next start would do the same again. So the handler finds out which
//! mapping the address belongs to, writes a [`FaultNote`](super::FaultNote) into the file that
//! [`RealDisk::note_faults`](super::RealDisk) has made ready, says the same on stderr, and aborts. A SIGBUS of
//! anybody else's goes to the handler that was there before.
//!
//! The handler takes no lock, allocates nothing and calls only what POSIX allows in a signal handler. It finds
//! mappings in a table of slots that are never freed; each is guarded by a version that is odd while the slot
//! changes. A slot whose range holds the address belongs to a mapping in use by the thread that faulted, so it
//! cannot go away meanwhile; its descriptors stay open with it.

use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::fault_note::{FAULT_NOTE_BYTES, encode};

/// Slots that are made at once.
const CHUNK: usize = 256;
/// Mappings that can be told apart: of segments of 64 MiB as many as 16 TiB hold. A fault in one more is
/// treated as a stranger's.
const CHUNKS: usize = 1024;

type Chunk = [Slot; CHUNK];

/// One mapping, as the handler sees it.
struct Slot {
    /// Odd while the rest changes.
    version: AtomicU64,
    start: AtomicUsize,
    /// Where it ends; 0: no mapping.
    end: AtomicUsize,
    file: AtomicI32,
    /// The file for the note; -1: none.
    note: AtomicI32,
}

static TABLE: [AtomicPtr<Chunk>; CHUNKS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS];

/// Who may write which slot.
struct Places {
    free: Vec<usize>,
    made: usize,
}

static PLACES: Mutex<Places> = Mutex::new(Places { free: Vec::new(), made: 0 });

/// Directories whose faults are noted, and where.
static NOTED: Mutex<Vec<(PathBuf, Arc<File>)>> = Mutex::new(Vec::new());

/// Makes the faults of mappings below a directory noted until it is dropped. Mappings that outlive it keep
/// their note.
#[derive(Debug)]
pub(super) struct Noting {
    note: Arc<File>,
}

impl Noting {
    /// From now on, for files below `dir` that are mapped after this. The file has its bytes already.
    pub(super) fn start(dir: &Path, note: File) -> io::Result<Self> {
        install()?;
        let note = Arc::new(note);
        NOTED.lock().push((dir.to_owned(), note.clone()));
        Ok(Self { note })
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        NOTED.lock().retain(|(_, note)| !Arc::ptr_eq(note, &self.note));
    }
}

/// A mapping that the handler knows. To be dropped before the mapping is.
#[derive(Debug)]
pub(super) struct Tracked {
    place: Option<usize>,
    /// Held open for the handler.
    _file: Arc<File>,
    _note: Option<Arc<File>>,
}

impl Tracked {
    /// Of `len` bytes from `start`, mapped from the beginning of `file`.
    pub(super) fn new(start: *const u8, len: usize, file: &Arc<File>, path: &Path) -> Self {
        let note = {
            let noted = NOTED.lock();
            let nearest =
                noted.iter().filter(|(dir, _)| path.starts_with(dir)).max_by_key(|(dir, _)| dir.as_os_str().len());
            nearest.map(|(_, note)| note.clone())
        };
        let place = take_place();
        if let Some(slot) = place.and_then(slot) {
            let fd = note.as_ref().map_or(-1, |note| note.as_raw_fd());
            slot.set(start as usize, start as usize + len, file.as_raw_fd(), fd);
        }
        Self { place, _file: file.clone(), _note: note }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            if let Some(slot) = slot(place) {
                slot.set(0, 0, -1, -1);
            }
            PLACES.lock().free.push(place);
        }
    }
}

fn take_place() -> Option<usize> {
    let mut places = PLACES.lock();
    if let Some(place) = places.free.pop() {
        return Some(place);
    }
    let place = places.made;
    let chunk = TABLE.get(place / CHUNK)?;
    if place.is_multiple_of(CHUNK) {
        let empty = || Slot {
            version: AtomicU64::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            file: AtomicI32::new(-1),
            note: AtomicI32::new(-1),
        };
        // Never freed: the handler may look at it at any time.
        chunk.store(Box::into_raw(Box::new(std::array::from_fn(|_| empty()))), Ordering::Release);
    }
    places.made += 1;
    Some(place)
}

fn slot(place: usize) -> Option<&'static Slot> {
    let chunk = TABLE.get(place / CHUNK)?.load(Ordering::Acquire);
    // SAFETY: what is stored in the table was made by `Box::into_raw` and is never freed or changed but through
    // its atomics.
    unsafe { chunk.as_ref() }.map(|chunk| &chunk[place % CHUNK])
}

impl Slot {
    /// By the one who holds the place.
    fn set(&self, start: usize, end: usize, file: i32, note: i32) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.file.store(file, Ordering::Relaxed);
        self.note.store(note, Ordering::Relaxed);
        self.version.store(version + 2, Ordering::Release);
    }

    /// If the address is in it: the offset, the file and the note.
    fn holds(&self, address: usize) -> Option<(u64, i32, i32)> {
        let version = self.version.load(Ordering::Acquire);
        let (start, end) = (self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        let (file, note) = (self.file.load(Ordering::Relaxed), self.note.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        (whole && (start..end).contains(&address)).then(|| ((address - start) as u64, file, note))
    }
}

fn find(address: usize) -> Option<(u64, i32, i32)> {
    TABLE
        .iter()
        .map_while(|chunk| {
            // SAFETY: as in `slot`.
            unsafe { chunk.load(Ordering::Acquire).as_ref() }
        })
        .flatten()
        .find_map(|slot| slot.holds(address))
}

/// What was done about SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALLED: Mutex<bool> = Mutex::new(false);

/// Installs the handler, once a process.
fn install() -> io::Result<()> {
    let mut installed = INSTALLED.lock();
    if *installed {
        return Ok(());
    }
    // SAFETY: a `sigaction` of zeros is valid (the default action), and both pointers are to live values.
    let before = unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) != 0 {
            return Err(io::Error::last_os_error());
        }
        before
    };
    // Known before the first signal can come.
    let before = BEFORE.get_or_init(|| before);
    // SAFETY: the handler has the signature that SA_SIGINFO asks for; the mask is initialised before it is used.
    unsafe {
        let mut action = *before;
        action.sa_sigaction = on_sigbus as extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    *installed = true;
    Ok(())
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid siginfo; a code above 0 says that it is its own word, and then there
    // is an address in it.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code > 0
        && let Some((offset, file, note)) = find(address)
    {
        end(offset, file, note);
    }
    pass_on(signal, code, info, context);
}

/// To whoever was there before.
fn pass_on(signal: libc::c_int, code: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(before) = BEFORE.get() else { return };
    match before.sa_sigaction {
        libc::SIG_IGN if code <= 0 => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: the default action is set; the faulting instruction runs again, or the signal is raised again,
            // and ends the process as it would have without us.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
                if code <= 0 {
                    libc::raise(signal);
                }
            }
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: it was installed with SA_SIGINFO, so it is a function of these three.
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: it was installed without SA_SIGINFO, so it is a function of the signal.
            let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// Memory for the one thread that ends the process: a signal's stack is small.
struct Scratch {
    path: [u8; 4096],
    note_path: [u8; 4096],
    record: [u8; FAULT_NOTE_BYTES],
}

struct OnlyOne(UnsafeCell<Scratch>);

// SAFETY: only `end` uses it, after it has won `ENDING`, and never gives that back.
unsafe impl Sync for OnlyOne {}

static SCRATCH: OnlyOne =
    OnlyOne(UnsafeCell::new(Scratch { path: [0; 4096], note_path: [0; 4096], record: [0; FAULT_NOTE_BYTES] }));
static ENDING: AtomicBool = AtomicBool::new(false);

/// Notes the fault, tells it, and ends the process.
fn end(offset: u64, file: i32, note: i32) -> ! {
    if ENDING.swap(true, Ordering::AcqRel) {
        loop {
            // SAFETY: it only waits; another thread is about to end the process.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: winning `ENDING` makes this thread the only one that ever uses it.
    let Scratch { path, note_path, record } = unsafe { &mut *SCRATCH.0.get() };
    // By descriptor: the name may have changed since the file was opened.
    let path = path_of(file, path);
    // The note is in the directory that it tells of. A file without a name is nobody's data any more.
    let dir =
        path_of(note, note_path).and_then(|note| note.iter().rposition(|&byte| byte == b'/').map(|at| &note[..=at]));
    if let (Some(path), Some(dir)) = (path, dir)
        && let Some(relative) = path.strip_prefix(dir)
        && encode(record, relative, offset)
    {
        // SAFETY: the descriptor is open, the bytes are live. What is not written is still told below.
        unsafe { libc::pwrite(note, record.as_ptr().cast(), record.len(), 0) };
    }
    let mut digits = [0; 20];
    for part in [
        b"armdb: ",
        path.unwrap_or(b"a mapped file"),
        b" could not be read at offset ",
        decimal(offset, &mut digits),
        b": the disk failed there, or something has shortened the file. The process aborts; the next start checks it.\n",
    ] {
        // SAFETY: the bytes are live; nothing can be done if stderr takes none.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: it may be called anywhere.
    unsafe { libc::abort() }
}

/// The present path of an open file, as the kernel tells it.
fn path_of(fd: i32, buf: &mut [u8; 4096]) -> Option<&[u8]> {
    const PREFIX: &[u8] = b"/proc/self/fd/";
    let mut digits = [0; 20];
    let number = decimal(u64::try_from(fd).ok()?, &mut digits);
    let mut link = [0; PREFIX.len() + 21];
    link[..PREFIX.len()].copy_from_slice(PREFIX);
    link[PREFIX.len()..PREFIX.len() + number.len()].copy_from_slice(number);
    // SAFETY: the link ends with a zero; at most the buffer's length is written.
    let len = unsafe { libc::readlink(link.as_ptr().cast(), buf.as_mut_ptr().cast(), buf.len()) };
    buf.get(..usize::try_from(len).ok()?)
}

fn decimal(mut number: u64, buf: &mut [u8; 20]) -> &[u8] {
    let mut at = buf.len();
    loop {
        at -= 1;
        buf[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buf[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_the_mapping_that_holds_it_while_it_is_tracked() {
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        let bytes = vec![0u8; 3 * CHUNK * 16];
        let at = |i: usize| bytes[i * 16..].as_ptr();
        let tracked: Vec<_> = (0..3 * CHUNK).map(|i| Tracked::new(at(i), 16, &file, Path::new("nowhere"))).collect();
        for i in [0, 1, CHUNK, 3 * CHUNK - 1] {
            assert_eq!(find(at(i) as usize + 5), Some((5, file.as_raw_fd(), -1)));
            assert_eq!(find(at(i) as usize + 15).map(|found| found.0), Some(15));
        }
        drop(tracked);
        assert_eq!(find(at(1) as usize), None, "nobody maps it any more");
        let again = Tracked::new(at(7), 16, &file, Path::new("nowhere"));
        assert_eq!(find(at(7) as usize), Some((0, file.as_raw_fd(), -1)));
        drop(again);
    }

    #[test]
    fn numbers_are_written_without_memory() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
