//! A full copy into a shard that is blank, that has data of its own, or that is quarantined: until the switch the old
//! data is there, after it the new, and what a quarantine found unsound is set aside and never lost on the way. A copy
//! beside data that is kept leaves them as sound as they were at every moment.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use super::super::history::tiny;
use super::*;
use crate::disk::Disk;
use crate::position::LogTail;

const DIR: &str = "/taker";
const SHARD: &str = "/taker/shard-000";

/// Everything in a shard.
type Contents = Vec<(bytes::Bytes, Value)>;

/// How far the copy got, as its caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    None,
    Begun,
    Installed,
    Ready,
}

/// What is the same all the time.
struct Stage {
    /// The state before.
    before: ShardState,
    /// It is kept until the switch.
    beside: bool,
    /// What the shard held before, if it is sound.
    old: (LogTail, Contents),
    /// Files that are to be set aside.
    unsound: BTreeMap<String, Vec<u8>>,
    donor: Arc<Engine>,
    pin: SnapshotPin,
    new: Contents,
}

#[derive(Clone)]
struct Copy {
    stage: Arc<Stage>,
    step: Step,
}

fn options() -> EngineOptions {
    EngineOptions { boot_id: Some([1; 16]), ..tiny() }
}

fn open(disk: &CrashDisk, dir: &str) -> Arc<Engine> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = Path::new(dir);
    if !Engine::is_formatted(&disk, dir).expect("readable") {
        Engine::format(&disk, dir, &Format { sid: Sid(dir.as_os_str().len() as u128), shards: 1 }).expect("formatted");
    }
    Engine::open(disk, dir, options(), InstanceId(1)).expect("it opens")
}

fn contents(shard: &Shard) -> Contents {
    shard.scan(TreeId::DEFAULT, &ScanRange::all(), 10_000, usize::MAX, 0).expect("scanned").entries
}

/// Two epochs of keys, some deleted, a second tree, and files that compaction has written.
fn donor(seed: u64) -> Arc<Engine> {
    let engine = open(&CrashDisk::new(), "/donor");
    let shard = &engine.shards()[0];
    shard.set_state(ShardState::Ready).expect("ready");
    shard.open_epoch(1, 100).expect("opened");
    append(shard, 1, &WriteBatch::new().op(WriteOp::CreateTree { name: "side".into(), kind: TreeKind::Hash }));
    for i in 0..60u64 {
        if i == 30 {
            shard.open_epoch(2, 200).expect("opened");
        }
        let epoch = 1 + i / 30;
        put(shard, epoch, format!("key{}", i % 23).as_bytes(), &[(i + seed) as u8; 500]);
        if i % 7 == 0 {
            append(shard, epoch, &WriteBatch::new().delete(format!("key{}", i % 5).into_bytes()));
        }
        if i % 8 == 0 {
            commit_all(&engine);
        }
    }
    commit_all(&engine);
    compact_all(&engine);
    engine
}

pub(super) fn blank(seed: u64) -> Vec<Boundary> {
    let disk = CrashDisk::new();
    open(&disk, DIR);
    record(seed, disk, false)
}

/// A taker with some data of its own, the last of it not committed.
fn with_data(seed: u64) -> CrashDisk {
    let disk = CrashDisk::new();
    let engine = open(&disk, DIR);
    let shard = &engine.shards()[0];
    shard.set_state(ShardState::Ready).expect("ready");
    shard.open_epoch(1, 100).expect("opened");
    for i in 0..40 {
        put(shard, 1, format!("mine{i}").as_bytes(), &[(9 + seed) as u8; 400]);
        if i % 9 == 0 {
            commit_all(&engine);
        }
    }
    engine.close().expect("closed");
    disk
}

pub(super) fn replaced(seed: u64) -> Vec<Boundary> {
    record(seed, with_data(seed), false)
}

pub(super) fn beside(seed: u64) -> Vec<Boundary> {
    record(seed, with_data(seed), true)
}

pub(super) fn rebuilt(seed: u64) -> Vec<Boundary> {
    let disk = with_data(seed);
    disk.rot(&Path::new(SHARD).join("0000000001.seg"), 1000 + seed * 64, &[0xff; 8]).expect("rotten");
    record(seed, disk, false)
}

/// What there is with a name, wherever a quarantine has it.
fn found(disk: &CrashDisk, name: &str) -> Vec<Vec<u8>> {
    let shard = Path::new(SHARD);
    let places = [shard.to_owned(), shard.join("quarantined.part"), shard.join("quarantined")];
    places.iter().filter_map(|dir| read(disk, &dir.join(name))).collect()
}

fn read(disk: &CrashDisk, path: &Path) -> Option<Vec<u8>> {
    let file = disk.open_read(path).ok()?;
    let mut bytes = vec![0; file.len().expect("measured") as usize];
    file.read_at(&mut bytes, 0).expect("read");
    Some(bytes)
}

fn record(seed: u64, disk: CrashDisk, beside: bool) -> Vec<Boundary> {
    let donor = donor(seed);
    let pin = donor.shards()[0].pin_snapshot().expect("pinned");
    let taker = open(&disk, DIR);
    let shard = &taker.shards()[0];
    let before = shard.state();
    let mut unsound = BTreeMap::new();
    let old = match &before {
        ShardState::Quarantined { .. } => {
            for entry in disk.list(Path::new(SHARD)).expect("listed").iter().filter(|e| e.name.ends_with(".seg")) {
                let bytes = read(&disk, &Path::new(SHARD).join(&entry.name)).expect("there");
                unsound.insert(entry.name.clone(), bytes);
            }
            (LogTail::default(), Vec::new())
        }
        ShardState::Blank => (LogTail::default(), Vec::new()),
        _ => {
            shard.advance_commit(shard.tail().last.gsn);
            (shard.tail(), contents(shard))
        }
    };
    let new = contents(&donor.shards()[0]);
    let stage = Arc::new(Stage { before, beside, old, unsound, donor, pin, new });
    let step = Arc::new(Mutex::new(Step::None));
    let recording = Recording::default();
    let (seen, known) = (step.clone(), stage.clone());
    recording.watch(&disk, move || Arc::new(Copy { stage: known.clone(), step: *seen.lock().expect("not poisoned") }));
    let reached = |next: Step| *step.lock().expect("not poisoned") = next;
    rebuild(&stage, &taker, reached);
    disk.unobserve();
    recording.add(&disk, Arc::new(Copy { stage, step: Step::Ready }));
    recording.take()
}

/// The copy, from wherever it is.
fn rebuild(stage: &Stage, taker: &Engine, reached: impl Fn(Step)) {
    let shard = &taker.shards()[0];
    let manifest = stage.pin.manifest();
    let mut attempts = 0;
    let begin = if stage.beside { Shard::begin_staged_copy } else { Shard::begin_full_sync };
    let mut sync = begin(shard, manifest, manifest.g0.last.gsn).expect("begun");
    reached(Step::Begun);
    'again: loop {
        attempts += 1;
        assert!(attempts < 8, "it comes to an end");
        for file in &manifest.files {
            while sync.have(&file.name) < file.len {
                let have = sync.have(&file.name);
                let bytes = stage.pin.read(&file.name, have, 5000).expect("read");
                // What a crash has spoilt of it is found out, thrown away and asked for again.
                if sync.write(&file.name, have, &bytes).is_err() {
                    continue 'again;
                }
            }
        }
        break;
    }
    assert_eq!(sync.finish().expect("in place"), manifest.g0);
    reached(Step::Installed);
    if !stage.beside {
        shard.set_state(ShardState::Ready).expect("ready");
    }
    reached(Step::Ready);
}

impl Copy {
    fn is_new(&self, shard: &Arc<Shard>) {
        let donor = &self.stage.donor.shards()[0];
        assert_eq!((shard.tail(), shard.epoch_table()), (donor.tail(), donor.epoch_table()));
        assert_eq!((shard.log_floor(), shard.tombstone_floor()), (donor.log_floor(), donor.tombstone_floor()));
        assert!(shard.verify().is_sound(), "{:?}", shard.verify());
        assert_eq!(contents(shard), self.stage.new);
        let log = |shard: &Arc<Shard>| {
            let mut reader = shard.log_reader(shard.log_floor() - 1).expect("from the floor on");
            let mut bytes = Vec::new();
            while let Some(chunk) = reader.next_chunk(4000).expect("read") {
                bytes.extend_from_slice(&chunk.bytes);
            }
            bytes
        };
        assert!(log(shard) == log(donor), "the logs are the same, byte by byte");
    }

    fn is_old(&self, shard: &Arc<Shard>) {
        let (tail, contents_before) = &self.stage.old;
        assert_eq!(shard.tail(), *tail);
        if shard.state() == ShardState::Ready {
            shard.advance_commit(tail.last.gsn);
            assert_eq!(contents(shard), *contents_before);
            assert!(shard.verify().is_sound(), "{:?}", shard.verify());
        }
    }
}

impl Expected for Copy {
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let new = self.stage.pin.manifest().g0;
        (self.step, std::mem::discriminant(&self.stage.before), new.last.gsn, new.chain).hash(&mut hasher);
        hasher.finish()
    }

    fn check(&self, disk: &CrashDisk, _: End, further: bool) -> Found {
        let stage = &self.stage;
        for (name, bytes) in &stage.unsound {
            assert!(found(disk, name).contains(bytes), "{name} is lost on its way aside");
        }
        let taker = open(disk, DIR);
        let shard = &taker.shards()[0];
        let state = shard.state();
        let was = std::mem::discriminant(&state) == std::mem::discriminant(&stage.before);
        let new = shard.tail() == stage.pin.manifest().g0;
        let told = match self.step {
            _ if stage.beside => state == ShardState::Ready && (new || self.step <= Step::Begun),
            Step::None => !new && (was || state == ShardState::Syncing),
            Step::Begun => state == ShardState::Syncing,
            Step::Installed => new && matches!(state, ShardState::Syncing | ShardState::Ready),
            Step::Ready => new && state == ShardState::Ready,
        };
        assert!(told, "{:?}: it is {state} and ends at {:?}", self.step, shard.tail());
        if new {
            if state == ShardState::Syncing {
                shard.set_state(ShardState::Ready).expect("ready");
            }
            self.is_new(shard);
            for (name, bytes) in &stage.unsound {
                let aside = read(disk, &Path::new(SHARD).join("quarantined").join(name));
                assert!(aside.as_ref() == Some(bytes), "{name} is set aside");
            }
        } else {
            self.is_old(shard);
            if further {
                rebuild(stage, &taker, |_| {});
                self.is_new(shard);
                drop(taker);
                let taker = open(disk, DIR);
                assert_eq!(taker.shards()[0].state(), ShardState::Ready);
                self.is_new(&taker.shards()[0]);
            }
        }
        if matches!(state, ShardState::Quarantined { .. }) { Found::Quarantined } else { Found::Sound }
    }

    fn recover(&self, disk: &CrashDisk, _: End) -> (Arc<dyn Expected>, Arc<dyn Expected>) {
        let taker = open(disk, DIR);
        let shard = &taker.shards()[0];
        let mut step = self.step;
        if shard.state() == ShardState::Syncing {
            step = step.max(Step::Begun);
        }
        if shard.tail() == self.stage.pin.manifest().g0 {
            step = step.max(if shard.state() == ShardState::Ready { Step::Ready } else { Step::Installed });
        }
        (Arc::new(self.clone()), Arc::new(Self { stage: self.stage.clone(), step }))
    }
}
