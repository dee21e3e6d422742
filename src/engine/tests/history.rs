//! Random histories against a plain model: what was appended, entry by entry, from which every state follows.
//!
//! A [`Run`] drives one shard through everything that can happen to it and keeps the model beside it. Here the
//! two are compared as it goes; `crash` compares them after a crash at every disk operation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::*;
use crate::disk::{CrashDisk, Disk, Keep};
use crate::engine::format::record::Record;
use crate::position::LogTail;

/// Committed time begins here, so that expiry at small offsets is in the future.
const START_MS: u64 = 1_000_000;
/// Keys that a history uses.
const KEYS: u64 = 60;

/// One entry of the log.
#[derive(Clone)]
pub(super) struct Entry {
    /// `None`: an epoch's barrier.
    key: Option<Vec<u8>>,
    /// `None`: a delete. With when it expires.
    value: Option<(Arc<[u8]>, Option<u64>)>,
    epoch: u64,
    /// The log's end with it, if its batch ends here.
    tail: Option<LogTail>,
}

/// What is known of a shard.
#[derive(Clone, Default)]
pub(super) struct Model {
    /// The log: entry `i` has gsn `i + 1`.
    pub(super) log: Vec<Entry>,
    /// Everything up to here was acknowledged as durable, which under `Os` means written.
    pub(super) acked: u64,
    /// Everything up to here was synced.
    pub(super) synced: u64,
    /// The highest commit that the shard was told.
    pub(super) commit: u64,
    /// The largest committed time that the shard was told.
    pub(super) time_ms: u64,
    /// A truncation to here is under way.
    pub(super) truncating: Option<u64>,
    /// The machine's boot: it changes when power was lost.
    pub(super) boot: u8,
}

impl Model {
    pub(super) fn tail(&self) -> u64 {
        self.log.len() as u64
    }

    /// The log's end at a gsn; `None` inside a batch or beyond the log.
    pub(super) fn tail_at(&self, gsn: u64) -> Option<LogTail> {
        match gsn {
            0 => Some(LogTail::default()),
            gsn => self.log.get(gsn as usize - 1)?.tail,
        }
    }

    /// The contents with everything up to `gsn`, as seen at the model's time.
    pub(super) fn contents(&self, gsn: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut all = BTreeMap::new();
        for entry in &self.log[..gsn as usize] {
            if let Some(key) = &entry.key {
                all.insert(key.clone(), &entry.value);
            }
        }
        let mut live = BTreeMap::new();
        for (key, value) in all {
            if let Some((bytes, expires_ms)) = value
                && expires_ms.is_none_or(|at| at > self.time_ms)
            {
                live.insert(key, bytes.to_vec());
            }
        }
        live
    }

    /// The version of a key with everything up to `gsn`.
    fn version(&self, key: &[u8], gsn: u64) -> Option<Version> {
        let at = self.log[..gsn as usize].iter().rposition(|entry| entry.key.as_deref() == Some(key))?;
        Some(Version::new(self.log[at].epoch, at as u64 + 1))
    }

    /// The epochs of the log up to `gsn`.
    pub(super) fn epochs(&self, gsn: u64) -> Vec<Version> {
        let entries = self.log[..gsn as usize].iter().zip(1..);
        entries.filter(|(entry, _)| entry.key.is_none()).map(|(entry, gsn)| Version::new(entry.epoch, gsn)).collect()
    }

    fn batch_ends(&self, from: u64, to: u64) -> Vec<u64> {
        (from..=to).filter(|gsn| self.tail_at(*gsn).is_some()).collect()
    }
}

/// How often what happened.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Happened {
    pub(super) rotated: u64,
    pub(super) truncated: u64,
    pub(super) expired: u64,
    pub(super) reopened: u64,
    pub(super) killed: u64,
    pub(super) power_lost: u64,
    pub(super) hints: u64,
    pub(super) compactions: u64,
    pub(super) tombstones_dropped: u64,
    pub(super) expired_dropped: u64,
    pub(super) floors_raised: u64,
}

impl Happened {
    fn add(&mut self, report: &HousekeepingReport) {
        self.hints += report.hints;
        self.compactions += report.compactions;
        self.tombstones_dropped += report.tombstones_dropped;
        self.expired_dropped += report.expired_dropped;
        self.floors_raised += report.floors_raised;
    }

    pub(super) fn all(&self) -> bool {
        let Self { rotated, truncated, expired, reopened, killed, hints, .. } = *self;
        let Self { compactions, tombstones_dropped, expired_dropped, floors_raised, .. } = *self;
        [rotated, truncated, expired, reopened, killed, hints].iter().all(|n| *n > 0)
            && [compactions, tombstones_dropped, expired_dropped, floors_raised].iter().all(|n| *n > 0)
    }
}

/// A crash disk whose machine may lose power.
pub(super) struct Power {
    pub(super) disk: CrashDisk,
    /// Called with every disk that takes the place of one that lost power.
    pub(super) watch: Box<dyn Fn(&CrashDisk)>,
}

/// See the module's comment.
pub(super) struct Run {
    disk: Arc<dyn Disk>,
    pub(super) power: Option<Power>,
    options: EngineOptions,
    engine: Option<Arc<Engine>>,
    epoch: u64,
    random: Random,
    pub(super) model: Arc<Mutex<Model>>,
    pub(super) happened: Happened,
}

pub(super) fn key(n: u64) -> Vec<u8> {
    format!("key-{n:02}").into_bytes()
}

/// Small segments: few entries fill one.
pub(super) fn tiny() -> EngineOptions {
    EngineOptions { segment_bytes: 16 << 10, zero_ahead_bytes: 4 << 10, max_value_bytes: 2 << 10, ..eager() }
}

impl Run {
    pub(super) fn new(disk: Arc<dyn Disk>, options: EngineOptions, seed: u64) -> Self {
        let model = Model { time_ms: START_MS, ..Model::default() };
        let mut run = Self {
            disk,
            power: None,
            options,
            engine: None,
            epoch: 0,
            random: Random::new(seed),
            model: Arc::new(Mutex::new(model)),
            happened: Happened::default(),
        };
        run.open();
        run
    }

    fn model(&self) -> std::sync::MutexGuard<'_, Model> {
        self.model.lock().expect("not poisoned")
    }

    fn shard(&self) -> Arc<Shard> {
        self.engine.as_ref().expect("open").shards()[0].clone()
    }

    fn open(&mut self) {
        let options = EngineOptions { boot_id: Some([self.model().boot; 16]), ..self.options.clone() };
        let engine = open_with(&self.disk, Path::new("/data"), options);
        let shard = engine.shards()[0].clone();
        if shard.state() == ShardState::Amnesic && self.happened.power_lost > 0 {
            shard.set_state(ShardState::Ready).expect("set");
        }
        assert_eq!(shard.state(), ShardState::Ready);
        let tail = shard.tail();
        let mut model = self.model();
        assert_eq!(model.tail_at(tail.last.gsn), Some(tail), "the log is that of the model, up to a batch's end");
        assert!(tail.last.gsn >= model.acked, "what was acknowledged is there");
        model.log.truncate(tail.last.gsn as usize);
        (model.acked, model.synced) = (tail.last.gsn, tail.last.gsn);
        model.commit = model.commit.min(tail.last.gsn);
        drop(model);
        self.engine = Some(engine);
        self.open_epoch();
    }

    fn open_epoch(&mut self) {
        // An epoch has one leader, also when its entries were truncated away.
        self.epoch = self.epoch.max(self.shard().tail().last.epoch) + 1;
        let entry = Entry { key: None, value: None, epoch: self.epoch, tail: None };
        self.model().log.push(entry);
        let time_ms = self.model().time_ms;
        let tail = self.shard().open_epoch(self.epoch, time_ms).expect("opened");
        self.model().log.last_mut().expect("just pushed").tail = Some(tail);
    }

    fn append(&mut self) {
        let mut batch = WriteBatch::new();
        let mut entries = Vec::new();
        let time_ms = self.model().time_ms;
        for _ in 0..1 + self.random.below(4) {
            let k = key(self.random.below(KEYS));
            let kind = self.random.below(20);
            let (op, value) = if kind < 6 {
                (WriteOp::Delete { tree: TreeId::DEFAULT, key: k.clone().into() }, None)
            } else {
                let len = 1 + self.random.below(if kind < 8 { 1000 } else { 200 });
                let value: Arc<[u8]> = vec![self.random.next() as u8; len as usize].into();
                let expires_ms = (kind > 15).then(|| time_ms + 1 + self.random.below(300));
                let bytes = bytes::Bytes::copy_from_slice(&value);
                let key = k.clone().into();
                (
                    WriteOp::Put { tree: TreeId::DEFAULT, key, value: bytes, expires_ms, value_type: 0 },
                    Some((value, expires_ms)),
                )
            };
            batch = batch.op(op);
            entries.push(Entry { key: Some(k), value, epoch: self.epoch, tail: None });
        }
        self.model().log.extend(entries);
        let files = self.shard().log_segments().len();
        let appended = self.shard().append(self.epoch, &batch);
        assert!(matches!(appended, Ok(Appended::Written { .. })), "{appended:?}");
        let shard = self.shard();
        let tail = shard.tail();
        let mut model = self.model();
        assert_eq!(tail.last.gsn, model.tail());
        model.log.last_mut().expect("just pushed").tail = Some(tail);
        if self.options.durability == Durability::Os {
            model.acked = tail.last.gsn;
        }
        drop(model);
        self.happened.rotated += (shard.log_segments().len() > files) as u64;
    }

    fn sync(&mut self) {
        self.engine.as_ref().expect("open").sync_all().expect("synced");
        let mut model = self.model();
        (model.acked, model.synced) = (model.tail(), model.tail());
    }

    /// Commits some of what is durable and lets time pass.
    fn commit(&mut self) {
        let ends = {
            let model = self.model();
            model.batch_ends(model.commit, model.acked)
        };
        let gsn = ends[self.random.below(ends.len() as u64) as usize];
        let passed = self.random.below(60);
        let time_ms = {
            let mut model = self.model();
            model.time_ms += passed;
            model.commit = gsn;
            model.time_ms
        };
        let shard = self.shard();
        shard.note_committed_time(time_ms, 0);
        shard.advance_commit(gsn);
    }

    fn truncate(&mut self) {
        let ends = {
            let model = self.model();
            model.batch_ends(model.commit, model.tail())
        };
        let gsn = ends[self.random.below(ends.len() as u64) as usize];
        self.model().truncating = Some(gsn);
        let dropped = self.model().tail() > gsn;
        let to = self.shard().truncate_to(gsn).expect("truncated");
        {
            let mut model = self.model();
            model.truncating = None;
            model.log.truncate(gsn as usize);
            (model.acked, model.synced) = (gsn, gsn);
            assert_eq!(model.tail_at(gsn), Some(to));
        }
        self.happened.truncated += dropped as u64;
        self.open_epoch();
    }

    fn housekeep(&mut self) {
        for _ in 0..self.random.below(12) {
            if !self.engine.as_ref().expect("open").compact_step().expect("works") {
                break;
            }
        }
    }

    /// Ends the process, cleanly or not, and starts it again.
    pub(super) fn reopen(&mut self, clean: bool) {
        let engine = self.engine.take().expect("open");
        self.happened.add(&engine.shards()[0].housekeeping_report());
        if clean {
            engine.close().expect("closed");
            let mut model = self.model();
            (model.acked, model.synced) = (model.tail(), model.tail());
            drop(model);
            self.happened.reopened += 1;
        } else {
            self.happened.killed += 1;
        }
        drop(engine);
        self.open();
    }

    /// The machine loses power, and what was not synced may be lost with it.
    fn lose_power(&mut self) {
        let engine = self.engine.take().expect("open");
        self.happened.add(&engine.shards()[0].housekeeping_report());
        self.happened.power_lost += 1;
        drop(engine);
        let seed = self.random.next();
        let Some(power) = &mut self.power else { unreachable!("only asked for where there is power to lose") };
        power.disk.unobserve();
        let mut random = Random::new(seed);
        let after = power.disk.crash(&mut |_| match random.below(4) {
            0 => Keep::Drop,
            1 => Keep::Torn(random.next() as u8),
            _ => Keep::Keep,
        });
        {
            let mut model = self.model.lock().expect("not poisoned");
            model.acked = model.synced;
            model.boot = model.boot % 100 + 1;
        }
        (power.watch)(&after);
        power.disk = after.clone();
        self.disk = Arc::new(after);
        self.open();
    }

    /// One random thing.
    pub(super) fn step(&mut self) {
        match self.random.below(100) {
            0..=54 => self.append(),
            55..=69 => self.sync(),
            70..=84 => self.commit(),
            85..=93 => self.housekeep(),
            94..=95 => self.truncate(),
            96 => {
                self.engine.as_ref().expect("open").idle_now().expect("marked");
            }
            97 => self.reopen(true),
            98 if self.power.is_some() => self.lose_power(),
            98 => self.reopen(false),
            _ => {
                self.sync();
                let tail = self.model().tail();
                self.model().commit = tail;
                self.shard().advance_commit(tail);
            }
        }
    }

    /// What is read is what the model says.
    pub(super) fn compare(&mut self) {
        let shard = self.shard();
        let model = self.model().clone();
        let applied = shard.applied();
        assert!(applied <= model.commit);
        let expired = model.log[..applied as usize].iter().any(|entry| {
            entry.value.as_ref().is_some_and(|(_, expires_ms)| expires_ms.is_some_and(|at| at <= model.time_ms))
        });
        compare_contents(&shard, &model, applied);
        self.happened.expired += u64::from(expired);
    }

    pub(super) fn finish(mut self) -> Happened {
        self.reopen(true);
        self.compare();
        self.happened
    }
}

/// Gets, multi-gets and scans agree with the model at `gsn`.
pub(super) fn compare_contents(shard: &Shard, model: &Model, gsn: u64) {
    let want = model.contents(gsn);
    let now_ms = model.time_ms;
    let page = shard.scan(TreeId::DEFAULT, &ScanRange::all(), 10_000, usize::MAX, now_ms).expect("scanned");
    let found: BTreeMap<_, _> = page.entries.iter().map(|(k, v)| (k.to_vec(), v.bytes.to_vec())).collect();
    assert_eq!(found.len(), page.entries.len(), "no key twice");
    if found != want {
        let differs = |k: &&Vec<u8>| found.get(*k) != want.get(*k);
        let keys: Vec<String> = found.keys().chain(want.keys()).filter(differs).map(|k| text(k)).collect();
        panic!("at gsn {gsn}, time {now_ms}: a scan is wrong about {keys:?}");
    }
    let keys: Vec<Vec<u8>> = (0..KEYS).map(key).collect();
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let values = shard.multi_get(TreeId::DEFAULT, &keys, now_ms).expect("read");
    for (key, value) in keys.iter().zip(values) {
        if let Some(value) = &value {
            assert_eq!(Some(value.version), model.version(key, gsn), "at gsn {gsn}: {}", text(key));
        }
        let value = value.map(|value| value.bytes.to_vec());
        assert_eq!(value.as_ref(), want.get(*key), "at gsn {gsn}: {}", text(key));
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// The log from its floor to its end is the model's.
pub(super) fn compare_log(shard: &Arc<Shard>, model: &Model) {
    let floor = shard.log_floor();
    let mut reader = shard.log_reader(floor - 1).expect("from the floor on");
    let mut gsn = floor - 1;
    while let Some(chunk) = reader.next_chunk(4000).expect("read") {
        let mut at = 0;
        while let Some(record) = Record::peek(&chunk.bytes[at..]) {
            at += record.len();
            gsn += 1;
            let entry = &model.log[gsn as usize - 1];
            assert_eq!(record.gsn(), gsn);
            assert_eq!(entry.key.as_deref().unwrap_or_default(), record.key(), "gsn {gsn}");
            let value = entry.value.as_ref().map_or(&[][..], |(value, _)| value);
            assert!(entry.key.is_none() || value == record.value(), "gsn {gsn}");
        }
        assert_eq!(Some(chunk.last), model.tail_at(gsn));
    }
    assert_eq!(gsn, shard.tail().last.gsn, "the log is read to its end");
}

#[test]
fn random_histories_agree_with_a_plain_model() {
    for seed in seeds(8) {
        for durability in [Durability::Disk, Durability::Os] {
            let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
            let mut run = Run::new(disk, EngineOptions { durability, ..tiny() }, seed);
            for step in 0..3000 {
                run.step();
                if step % 40 == 0 {
                    run.compare();
                }
                if step % 400 == 0 {
                    let (shard, model) = (run.shard(), run.model().clone());
                    assert!(shard.verify().is_sound(), "seed {seed}: {:?}", shard.verify());
                    run.engine.as_ref().expect("open").sync_all().expect("synced");
                    compare_log(&shard, &model);
                }
            }
            let happened = run.finish();
            assert!(happened.all(), "seed {seed}, {durability:?}: something never happened: {happened:?}");
        }
    }
}
