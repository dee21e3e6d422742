//! The engine of one member: its directory, its shards, its sync scheduler.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::commit;
use super::compaction::{self, Pace, Step};
use super::error::EngineError;
use super::fault::{self, FAULT_NOTE};
use super::files::{Files, SHARD_META};
use super::format::node_meta::{NODE_META_MAGIC, NodeRecord, Purpose, SHARDS_MAX};
use super::format::shard_meta::{SHARD_META_MAGIC, ShardMeta};
use super::format::slots::{self, SLOT_BYTES};
use super::format::{FORMAT_LEVEL, FORMAT_MAX, FORMAT_MIN};
use super::index::MAX_SEGMENT_BYTES;
use super::listener::EngineListener;
use super::meta::{Format, InitState, NodeMeta};
use super::options::EngineOptions;
use super::recovery;
use super::segment::io_error;
use super::shard::Shard;
use super::shard_state::ShardState;
use super::shared::{Shared, is_full};
use super::spare;
use super::sync;
use super::tree::TreeInfo;
use crate::disk::{DirEntry, DirLock, Disk, FaultNote, FaultWatch};
use crate::ident::InstanceId;

/// Name of the member's metadata.
pub(crate) const NODE_META: &str = "node.meta";
/// Its name while a directory is being formatted.
pub(crate) const NODE_META_UNFINISHED: &str = "node.meta.tmp";
/// What the name of a shard's directory begins with.
const SHARD_DIR: &str = "shard-";

/// Room on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceReport {
    /// All of it.
    pub total_bytes: u64,
    /// What may still be taken.
    pub available_bytes: u64,
    /// What is kept for deletes.
    pub reserve_bytes: u64,
    /// Whether puts are refused.
    pub puts_refused: bool,
}

/// One member's data directory, open.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    shards: Arc<[Arc<Shard>]>,
    node: Mutex<Node>,
    /// As the metadata has it.
    lineage: AtomicU64,
    threads: Mutex<Vec<JoinHandle<()>>>,
    instance: InstanceId,
    /// Until it is dropped, a page that cannot be read is noted in the directory.
    _faults: Box<dyn FaultWatch>,
    /// Given back when the engine is closed or dropped.
    lock: Mutex<Option<Box<dyn DirLock>>>,
}

/// `node.meta` as it is on disk.
#[derive(Debug)]
struct Node {
    seq: u64,
    slot: usize,
    record: NodeRecord,
    /// Whether the last run ended cleanly, for `meta`.
    was_clean: bool,
}

impl Node {
    fn write(&mut self, disk: &Arc<dyn Disk>, dir: &Path, record: NodeRecord) -> Result<(), EngineError> {
        let path = dir.join(NODE_META);
        let (seq, slot) = (self.seq + 1, 1 - self.slot);
        let bytes = slots::encode(NODE_META_MAGIC, seq, &record.encode());
        let file = disk.open(&path).map_err(io_error("open", &path))?;
        file.write_at(&[IoSlice::new(&bytes)], (slot * SLOT_BYTES) as u64).map_err(io_error("write", &path))?;
        file.sync_data().map_err(io_error("sync", &path))?;
        (self.seq, self.slot, self.record) = (seq, slot, record);
        Ok(())
    }
}

/// The directory of a shard.
pub(crate) fn shard_dir(dir: &Path, shard: u16) -> PathBuf {
    dir.join(format!("{SHARD_DIR}{shard:03}"))
}

impl Engine {
    /// Formats an empty or absent directory: every shard blank, `node.meta` last.
    pub fn format(disk: &Arc<dyn Disk>, dir: &Path, format: &Format) -> Result<(), EngineError> {
        Self::format_for(disk, dir, format, Purpose::Member)
    }

    pub(crate) fn format_for(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        format: &Format,
        purpose: Purpose,
    ) -> Result<(), EngineError> {
        if format.shards == 0 || format.shards > SHARDS_MAX {
            let reason = format!("{} is not between 1 and {SHARDS_MAX}", format.shards);
            return Err(EngineError::Options { name: "shards", reason });
        }
        disk.create_dir_all(dir).map_err(io_error("create", dir))?;
        let _one_at_a_time = lock(disk, dir)?;
        if Self::is_formatted(disk, dir)? {
            return Err(EngineError::NotEmpty(dir.to_owned()));
        }
        for entry in disk.list(dir).map_err(io_error("list", dir))? {
            // What a format left behind that did not finish.
            let path = dir.join(&entry.name);
            let removed = if entry.is_dir { disk.remove_dir_all(&path) } else { disk.remove_file(&path) };
            removed.map_err(io_error("remove", &path))?;
        }
        if let Some(parent) = dir.parent() {
            // A relative path of one name has the empty path as its parent.
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            disk.sync_dir(parent).map_err(io_error("sync", parent))?;
        }
        for shard in 0..format.shards {
            let path = shard_dir(dir, shard);
            disk.create_dir_all(&path).map_err(io_error("create", &path))?;
            Files::format(disk, &path)?;
        }
        disk.sync_dir(dir).map_err(io_error("sync", dir))?;
        let record = NodeRecord {
            meta: NodeMeta {
                cluster_id: None,
                sid: format.sid,
                lineage: 0,
                shards: format.shards,
                open_count: 0,
                boot_id: [0; 16],
                clean: true,
                promised: 0,
                led: 0,
                init: InitState::None,
                last_config: None,
                format_level: FORMAT_LEVEL,
                format_min: FORMAT_MIN,
                format_max: FORMAT_MAX,
            },
            purpose,
            hash_seed: (format.sid.0 as u64) ^ (format.sid.0 >> 64) as u64,
            relaxed: false,
        };
        // Under its name it is whole: until then there is nothing here.
        let path = dir.join(NODE_META_UNFINISHED);
        let payload = record.encode();
        let file = disk.create(&path).map_err(io_error("create", &path))?;
        let both = [slots::encode(NODE_META_MAGIC, 1, &payload), slots::encode(NODE_META_MAGIC, 0, &payload)];
        file.write_at(&[IoSlice::new(&both[0]), IoSlice::new(&both[1])], 0).map_err(io_error("write", &path))?;
        file.sync_data().map_err(io_error("sync", &path))?;
        disk.rename(&path, &dir.join(NODE_META)).map_err(io_error("rename", &path))?;
        disk.sync_dir(dir).map_err(io_error("sync", dir))
    }

    /// Whether there is anything in the directory; false only if it is empty or absent. A lock file alone is
    /// nothing, nor is what a format that did not finish left behind: shards without any data.
    pub fn is_formatted(disk: &Arc<dyn Disk>, dir: &Path) -> Result<bool, EngineError> {
        if !disk.exists(dir).map_err(io_error("look for", dir))? {
            return Ok(false);
        }
        for entry in disk.list(dir).map_err(io_error("list", dir))? {
            if entry.name != NODE_META_UNFINISHED && !is_unfinished_shard(disk, &dir.join(&entry.name), &entry)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Locks the directory and recovers its shards.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: EngineOptions,
        instance: InstanceId,
    ) -> Result<Arc<Self>, EngineError> {
        Self::open_for(disk, dir, options, instance, Purpose::Member)
    }

    pub(crate) fn open_for(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: EngineOptions,
        instance: InstanceId,
        purpose: Purpose,
    ) -> Result<Arc<Self>, EngineError> {
        check_options(&options)?;
        if !Self::is_formatted(&disk, dir)? {
            return Err(EngineError::NotFormatted(dir.to_owned()));
        }
        let lock = lock(&disk, dir)?;
        // Whoever formatted it may have been killed before its last name was durable.
        disk.sync_dir(dir).map_err(io_error("sync", dir))?;
        let mut node = read_node(&disk, dir)?;
        match (purpose, node.record.purpose) {
            (Purpose::Embedded, Purpose::Member) => return Err(EngineError::MemberDirectory(dir.to_owned())),
            (Purpose::Member, Purpose::Embedded) => {
                let reason = "the directory belongs to an embedded database, not to a member".into();
                return Err(EngineError::Meta { path: dir.join(NODE_META), reason });
            }
            _ => {}
        }
        let noted = fault::noted(&disk, dir)?;
        let note = dir.join(FAULT_NOTE);
        let faults = disk.note_faults(dir, &note).map_err(io_error("keep notes of unreadable pages in", &note))?;
        let boot_id = options.boot_id.unwrap_or_else(boot_id);
        // The last run acknowledged from the page cache, and the machine died with it: anything may be missing.
        let relaxed = node.record.relaxed && !node.record.meta.clean;
        let amnesic = relaxed && node.record.meta.boot_id != boot_id;
        let mut record = node.record.clone();
        record.meta.open_count += 1;
        record.meta.boot_id = boot_id;
        record.meta.clean = false;
        record.relaxed = options.durability == super::options::Durability::Os;
        let shards = record.meta.shards;
        let shared = Arc::new(Shared::new(
            disk.clone(),
            dir.to_owned(),
            options,
            record.hash_seed,
            record.meta.cluster_id.map_or(0, |id| id.0),
            purpose == Purpose::Embedded,
        ));
        let was_clean = node.record.meta.clean;
        let (opened, lost) = recover(&shared, shards, noted.as_ref())?;
        if noted.is_some() {
            fault::clear(&disk, dir)?;
        }
        // Amnesia is persisted before the count is raised: a crash in between must not forget it.
        for (shard, lost) in opened.iter().zip(lost) {
            // So may what a failed sync has dropped from the page cache that it was acknowledged from.
            let amnesic = amnesic || relaxed && lost;
            if amnesic && purpose == Purpose::Member && shard.state().is_usable() {
                shard.set_state(ShardState::Amnesic)?;
            }
        }
        node.write(&disk, dir, record)?;
        node.was_clean = was_clean;
        let engine = Arc::new(Self {
            shared: shared.clone(),
            shards: opened.into(),
            lineage: AtomicU64::new(node.record.meta.lineage),
            node: Mutex::new(node),
            threads: Mutex::new(Vec::new()),
            instance,
            _faults: faults,
            lock: Mutex::new(Some(lock)),
        });
        shared.refresh_space()?;
        if !shared.manual() {
            engine.start()?;
        }
        Ok(engine)
    }

    fn start(&self) -> Result<(), EngineError> {
        let mut threads = self.threads.lock();
        let mut spawn = |name: &str, work: fn(&Shared, &[Arc<Shard>])| {
            let (shared, shards) = (self.shared.clone(), self.shards.clone());
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || work(&shared, &shards));
            threads.push(thread.map_err(io_error("start a thread for", &self.shared.dir))?);
            Ok::<_, EngineError>(())
        };
        spawn("armdb-sync", sync::run)?;
        spawn("armdb-tidy", compaction::run)?;
        spawn("armdb-order", commit::run_ordering)?;
        if self.shared.relaxed() {
            spawn("armdb-ahead", sync::run_ahead)?;
            spawn("armdb-spare", spare::run)?;
        }
        Ok(())
    }

    /// Which run this is.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The member's metadata. `clean` says how the last run ended.
    pub fn meta(&self) -> NodeMeta {
        let node = self.node.lock();
        NodeMeta { clean: node.was_clean, ..node.record.meta.clone() }
    }

    /// The lineage of [`Self::meta`]; takes no lock.
    pub fn lineage(&self) -> u64 {
        self.lineage.load(Ordering::Acquire)
    }

    /// Changes the metadata; durable when it returns. Identity, shard count, open count, boot id and `clean`
    /// are the engine's own and stay as they are.
    pub fn update_meta(&self, change: impl FnOnce(&mut NodeMeta)) -> Result<NodeMeta, EngineError> {
        self.shared.poison.check()?;
        let mut node = self.node.lock();
        let mut record = node.record.clone();
        change(&mut record.meta);
        let old = &node.record.meta;
        record.meta.sid = old.sid;
        record.meta.shards = old.shards;
        record.meta.open_count = old.open_count;
        record.meta.boot_id = old.boot_id;
        record.meta.clean = old.clean;
        self.shared.failing(node.write(&self.shared.disk, &self.shared.dir, record))?;
        let cluster_id = node.record.meta.cluster_id.map_or(0, |id| id.0);
        *self.shared.cluster_id.write() = cluster_id;
        self.lineage.store(node.record.meta.lineage, Ordering::Release);
        for shard in self.shards.iter() {
            shard.log.lock().cluster_id = cluster_id;
        }
        Ok(NodeMeta { clean: node.was_clean, ..node.record.meta.clone() })
    }

    /// The shards, by number.
    pub fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    /// The largest time that any shard was told, or that a BARRIER of its log says; unix milliseconds.
    pub fn log_time_ms(&self) -> u64 {
        self.shards.iter().map(|shard| shard.log_time_ms()).max().unwrap_or(0)
    }

    /// Every shard that is `from` becomes `to`, durably; how many were.
    pub fn turn(&self, from: &ShardState, to: &ShardState) -> Result<usize, EngineError> {
        let mut turned = 0;
        // Looked at first: a change of state waits for housekeeping, and ends what it is at.
        for shard in self.shards().iter().filter(|shard| shard.state() == *from) {
            if shard.change_state(|now| (now == from).then(|| to.clone()))? {
                tracing::info!(shard = shard.id(), %from, %to, "another state");
                turned += 1;
            }
        }
        Ok(turned)
    }

    /// The trees.
    pub fn trees(&self) -> Vec<TreeInfo> {
        self.shared.trees.load().as_ref().clone()
    }

    /// The tree of a name.
    pub fn tree(&self, name: &str) -> Option<TreeInfo> {
        self.shared.trees.load().iter().find(|tree| tree.name == name).cloned()
    }

    /// Returns once everything appended so far is synced to the disk, with `Os` too.
    pub fn sync_all(&self) -> Result<(), EngineError> {
        let targets: Vec<_> = self.shards.iter().map(|shard| shard.tail().last.gsn).collect();
        loop {
            sync::round(&self.shared, &self.shards)?;
            let reached = |(shard, target): (&Arc<Shard>, &u64)| {
                // A truncation meanwhile leaves less to sync.
                let tail = shard.tail_gsn.load(Ordering::Acquire);
                shard.synced_gsn.load(Ordering::Acquire) >= (*target).min(tail)
            };
            if self.shards.iter().zip(&targets).all(reached) {
                return Ok(());
            }
            // A promise, or a clean end, needs the whole log.
            if self.shared.no_room.load(Ordering::Acquire) && !self.shared.spend_reserve() {
                return Err(EngineError::DiskFull("what was appended could not be written".into()));
            }
        }
    }

    /// Manual background: one round of the sync scheduler, and under `Os` the next segments' files where they are due.
    /// Whether there was anything to sync.
    pub fn sync_now(&self) -> Result<bool, EngineError> {
        self.shared.dirty.store(false, Ordering::Release);
        let worked = sync::round(&self.shared, &self.shards)?.worked;
        for shard in self.shards.iter() {
            match shard.prepare_spares() {
                Err(error) if !is_full(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(worked)
    }

    /// Manual background: what the scheduler does once a shard falls idle. Whether there was anything to do.
    pub fn idle_now(&self) -> Result<bool, EngineError> {
        let marked = self.shards.iter().filter(|shard| shard.close_batch()).count();
        Ok(marked > 0 && sync::round(&self.shared, &self.shards)?.worked)
    }

    /// Manual background: one step of housekeeping, which makes one hint, raises one log floor or rewrites some
    /// files, without regard to the rate. Whether there was anything to do. An error costs the step, not the
    /// engine, unless [`Self::failure`] says so; log ages by what [`Self::set_now`] was told.
    pub fn compact_step(&self) -> Result<bool, EngineError> {
        self.shared.poison.check()?;
        let now = self.shared.now();
        for shard in self.shards.iter() {
            if shard.housekeep(now, &mut Pace::new(now))? == Step::Done {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Manual background: how much time has passed since some fixed moment. Retries of housekeeping, the age of log and
    /// [`Self::hold_log_floor`] count by it; it is zero until it is told.
    pub fn set_now(&self, now: Duration) {
        self.shared.set_now(now);
    }

    /// Who is told what happens.
    pub fn set_listener(&self, listener: Arc<dyn EngineListener>) {
        self.shared.set_listener(listener);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends cleanly: everything is synced, the tail recorded in the manifests, and `clean` is the very last
    /// write. Nothing may be appended any more.
    pub fn close(&self) -> Result<(), EngineError> {
        if self.lock.lock().is_none() {
            return Ok(());
        }
        self.stop_threads();
        for shard in self.shards.iter() {
            shard.close_epoch();
        }
        let result = self.close_files();
        self.shared.poison.set("the engine is closed".into());
        // Whoever waits for news of the log: there will be none.
        self.shared.progress.wake_all();
        *self.lock.lock() = None;
        result
    }

    fn close_files(&self) -> Result<(), EngineError> {
        self.sync_all()?;
        self.idle_now()?;
        for shard in self.shards.iter() {
            let mut files = shard.files.lock();
            let mark = shard.log.lock().synced;
            if files.is_void() || files.manifest().files.is_empty() {
                continue;
            }
            let segments = shard.log_segments();
            let mut unused = Vec::new();
            files.switch(&self.shared, &shard.dir, |manifest| {
                shard.refresh(manifest, &segments, mark);
                unused = manifest.prepared();
                manifest.drop_files(&unused);
            })?;
            shard.log.lock().spares.clear();
            Files::unlink(&self.shared, &shard.dir, unused);
        }
        let mut node = self.node.lock();
        let mut record = node.record.clone();
        record.meta.clean = true;
        node.write(&self.shared.disk, &self.shared.dir, record)
    }

    fn stop_threads(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.work.wake_all();
        self.shared.background.wake_all();
        self.shared.ordering.wake_all();
        self.shared.spares.wake_all();
        for thread in self.threads.lock().drain(..) {
            if thread.thread().id() != std::thread::current().id() {
                // A panic in there has been told; closing goes on.
                let _ = thread.join();
            }
        }
    }

    /// Why the engine has stopped, if it has.
    pub fn failure(&self) -> Option<String> {
        self.shared.poison.reason()
    }

    /// Room on the disk; looked at afresh, and puts refused or admitted accordingly.
    pub fn space(&self) -> Result<SpaceReport, EngineError> {
        self.shared.refresh_space()?;
        if self.shared.manual() {
            self.shared.keep_reserve();
        }
        Ok(self.known_space())
    }

    /// Room on the disk as it was when it was last looked at, which the engine's own threads do every quarter of a
    /// second: no I/O.
    pub fn known_space(&self) -> SpaceReport {
        let space = *self.shared.space.lock();
        SpaceReport {
            total_bytes: space.total_bytes,
            available_bytes: space.available_bytes,
            reserve_bytes: self.shared.reserve_bytes(space.total_bytes),
            puts_refused: self.puts_refused(),
        }
    }

    /// Whether puts are refused because the disk is full.
    pub fn puts_refused(&self) -> bool {
        self.shared.puts_refused.load(Ordering::Acquire)
    }

    /// Waits until `shard` has synced `gsn` (or the engine failed); what a caller does who has nothing else to
    /// do meanwhile.
    pub fn wait_synced(&self, shard: &Shard, gsn: u64) -> Result<(), EngineError> {
        if self.shared.manual() {
            while shard.synced_gsn.load(Ordering::Acquire) < gsn {
                self.sync_all()?;
            }
            return Ok(());
        }
        let reached = || shard.synced_gsn.load(Ordering::Acquire) >= gsn;
        self.shared.progress.wait(None, || reached() || self.shared.poison.is_set());
        if reached() { Ok(()) } else { self.shared.poison.check() }
    }
}

impl Drop for Engine {
    /// Not a clean end: that is what `close` is for. Only the threads are ended.
    fn drop(&mut self) {
        self.stop_threads();
    }
}

fn check_options(options: &EngineOptions) -> Result<(), EngineError> {
    let wrong = |name, reason: String| Err(EngineError::Options { name, reason });
    if options.segment_bytes > MAX_SEGMENT_BYTES || options.segment_bytes < 16 << 10 {
        return wrong("segment_bytes", format!("{} is not between 16 KiB and 64 MiB", options.segment_bytes));
    }
    if !options.segment_bytes.is_multiple_of(4096) {
        return wrong("segment_bytes", format!("{} is not a multiple of 4096", options.segment_bytes));
    }
    Ok(())
}

fn lock(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Box<dyn DirLock>, EngineError> {
    disk.lock_dir(dir).map_err(|source| match source.kind() {
        std::io::ErrorKind::WouldBlock => EngineError::Locked(dir.to_owned()),
        _ => EngineError::Io { operation: "lock", path: dir.to_owned(), source },
    })
}

/// Whether this is a shard that was being formatted: nothing in it, or a `shard.meta` that says blank or nothing
/// at all yet. `node.meta` is written last, so beside it there is none of these.
fn is_unfinished_shard(disk: &Arc<dyn Disk>, path: &Path, entry: &DirEntry) -> Result<bool, EngineError> {
    if !entry.is_dir || !entry.name.starts_with(SHARD_DIR) {
        return Ok(false);
    }
    let names = disk.list(path).map_err(io_error("list", path))?;
    match names.as_slice() {
        [] => Ok(true),
        [only] if only.name == SHARD_META && !only.is_dir => {
            let path = path.join(SHARD_META);
            let file = disk.open_read(&path).map_err(io_error("open", &path))?;
            let mut bytes = vec![0; 2 * SLOT_BYTES];
            let len = file.read_at(&mut bytes, 0).map_err(io_error("read", &path))?;
            let newest = slots::newest(SHARD_META_MAGIC, &bytes[..len]);
            Ok(newest.is_none_or(|newest| ShardMeta::decode(&newest.payload) == Ok(ShardMeta::blank())))
        }
        _ => Ok(false),
    }
}

/// The machine's boot, as Linux tells it; zeros where it does not.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}

fn read_node(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Node, EngineError> {
    let path = dir.join(NODE_META);
    let meta = |reason: String| EngineError::Meta { path: path.clone(), reason };
    if !disk.exists(&path).map_err(io_error("look for", &path))? {
        return Err(meta("it is missing although the directory is not empty".into()));
    }
    let file = disk.open_read(&path).map_err(io_error("open", &path))?;
    let mut bytes = vec![0; 2 * SLOT_BYTES];
    let len = file.read_at(&mut bytes, 0).map_err(io_error("read", &path))?;
    let newest = slots::newest(NODE_META_MAGIC, &bytes[..len]).ok_or_else(|| meta("neither slot is sound".into()))?;
    let (level, ..) = NodeRecord::formats(&newest.payload).map_err(|e| meta(e.to_string()))?;
    if !(FORMAT_MIN..=FORMAT_MAX).contains(&level) {
        return Err(EngineError::NewerFormat { path, found: level, min: FORMAT_MIN, max: FORMAT_MAX });
    }
    let record = NodeRecord::decode(&newest.payload).map_err(meta)?;
    let was_clean = record.meta.clean;
    Ok(Node { seq: newest.seq, slot: newest.slot, record, was_clean })
}

/// Reads every shard, then builds every index: trees are known from all logs before any key is sorted.
/// Also, for each, whether the page cache showed what the disk does not hold.
fn recover(
    shared: &Arc<Shared>,
    count: u16,
    noted: Option<&FaultNote>,
) -> Result<(Vec<Arc<Shard>>, Vec<bool>), EngineError> {
    let read = |shard| recovery::read(shared, shard, shard_dir(&shared.dir, shard), noted);
    let reads: Vec<_> = in_parallel(shared, (0..count).collect(), read)?;
    for tree in reads.iter().flat_map(|read| &read.trees) {
        shared.add_tree(tree);
    }
    // A tail for followers, and what `Disk` writes from, is kept in memory; an embedded `Os` needs neither.
    let buffered = shared.keeps_tail() || !shared.relaxed();
    let lost = reads.iter().map(|read| read.lost).collect();
    Ok((in_parallel(shared, reads, |read| read.build(shared, buffered))?, lost))
}

fn in_parallel<A: Send, B: Send>(
    shared: &Shared,
    items: Vec<A>,
    work: impl Fn(A) -> Result<B, EngineError> + Sync,
) -> Result<Vec<B>, EngineError> {
    if shared.manual() || items.len() < 2 {
        return items.into_iter().map(work).collect();
    }
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}
