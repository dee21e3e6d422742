//! What a member must never forget, from its formatting on: who it is, which cluster it belongs to, what it promised
//! and led, its last configuration, how far the bootstrap got, and what each shard is worth. Two shards, so that one
//! can be damaged or written without the other.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use super::super::history::tiny;
use super::*;
use crate::disk::Disk;
use crate::ident::ClusterId;

const DIR: &str = "/member";

/// What is remembered, in the order in which it was told: each from the first that was acknowledged to the last that
/// was asked for may be found.
#[derive(Clone)]
struct Told<T> {
    all: Vec<T>,
    /// Index of the newest one that is durable.
    durable: usize,
}

impl<T: PartialEq + std::fmt::Debug> Told<T> {
    fn new(first: T) -> Self {
        Self { all: vec![first], durable: 0 }
    }

    fn ask(&mut self, value: T) {
        self.all.push(value);
    }

    fn done(&mut self) {
        self.durable = self.all.len() - 1;
    }

    /// Which one it is.
    fn find(&self, value: &T) -> usize {
        let found = self.all[self.durable..].iter().rposition(|told| told == value);
        let Some(found) = found else {
            panic!("{value:?} is neither {:?} nor told later", self.all[self.durable]);
        };
        self.durable + found
    }

    /// That one was found: it is what there is.
    fn settle(&mut self, value: &T) {
        let found = self.find(value);
        self.all.truncate(found + 1);
        self.durable = found;
    }
}

/// The part of the metadata that others decide.
type Promises = (Option<ClusterId>, u64, u64, u64, InitState, Option<LastConfig>);

fn promises(meta: &NodeMeta) -> Promises {
    (meta.cluster_id, meta.promised, meta.led, meta.lineage, meta.init, meta.last_config.clone())
}

#[derive(Clone)]
struct Member {
    formatted: bool,
    promises: Told<Promises>,
    states: [Told<ShardState>; 2],
    /// Entries appended, and those acknowledged, of each shard.
    appended: [u64; 2],
    acked: [u64; 2],
    /// Opened at least so often.
    opened: u64,
}

fn open(disk: &CrashDisk) -> Option<Arc<Engine>> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    if !Engine::is_formatted(&disk, Path::new(DIR)).expect("readable") {
        return None;
    }
    let options = EngineOptions { boot_id: Some([1; 16]), ..tiny() };
    Some(Engine::open(disk, Path::new(DIR), options, InstanceId(1)).expect("it opens"))
}

fn format(disk: &CrashDisk) {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Engine::format(&disk, Path::new(DIR), &Format { sid: Sid(77), shards: 2 }).expect("formatted");
}

/// The key of an entry; each is one, but for the first of an epoch.
fn key(shard: u16, gsn: u64) -> Vec<u8> {
    format!("shard{shard}-{gsn:04}").into_bytes()
}

/// The member as it is told things, one by one.
struct Teller {
    engine: Arc<Engine>,
    member: Arc<Mutex<Member>>,
}

impl Teller {
    fn member(&self) -> std::sync::MutexGuard<'_, Member> {
        self.member.lock().expect("not poisoned")
    }

    fn update(&self, change: impl Fn(&mut NodeMeta)) {
        let mut meta = self.engine.meta();
        change(&mut meta);
        self.member().promises.ask(promises(&meta));
        self.engine.update_meta(change).expect("durable");
        self.member().promises.done();
    }

    fn state(&self, shard: usize, state: ShardState) {
        self.member().states[shard].ask(state.clone());
        self.engine.shards()[shard].set_state(state).expect("durable");
        self.member().states[shard].done();
    }

    fn append(&self, epoch: u64, entries: u64) {
        for shard in self.engine.shards() {
            let s = usize::from(shard.id());
            self.member().appended[s] += 1;
            shard.open_epoch(epoch, epoch * 10).expect("opened");
            for _ in 0..entries {
                self.member().appended[s] += 1;
                let gsn = shard.tail().last.gsn + 1;
                put(shard, epoch, &key(shard.id(), gsn), &[gsn as u8; 300]);
            }
        }
    }

    fn sync(&self) {
        self.engine.sync_all().expect("synced");
        let mut member = self.member();
        member.acked = member.appended;
    }
}

pub(super) fn record(seed: u64) -> Vec<Boundary> {
    let disk = CrashDisk::new();
    let blank = Told::new(ShardState::Blank);
    let member = Member {
        formatted: false,
        promises: Told::new((None, 0, 0, 0, InitState::None, None)),
        states: [blank.clone(), blank],
        appended: [0; 2],
        acked: [0; 2],
        opened: 0,
    };
    let member = Arc::new(Mutex::new(member));
    let recording = Recording::default();
    let known = member.clone();
    recording.watch(&disk, move || Arc::new(known.lock().expect("not poisoned").clone()));
    format(&disk);
    member.lock().expect("not poisoned").formatted = true;
    let start = || {
        let engine = open(&disk).expect("formatted");
        member.lock().expect("not poisoned").opened += 1;
        Teller { engine, member: member.clone() }
    };
    let told = start();
    told.update(|meta| {
        meta.cluster_id = Some(ClusterId(0xabcd));
        meta.init = InitState::Started;
    });
    told.update(|meta| meta.init = InitState::Done);
    for shard in 0..2 {
        told.state(shard, ShardState::Ready);
    }
    told.update(|meta| meta.promised = 3);
    told.update(|meta| (meta.led, meta.promised) = (3, 3));
    told.append(3, 6);
    told.sync();
    // More voters than a sector holds.
    let config = |epoch, voters: u128| LastConfig {
        epoch,
        voters: (0..voters).map(|i| Sid(i << 64 | u128::from(seed))).collect(),
        write_quorum: 2,
        min_voters: 3,
    };
    told.update(|meta| meta.last_config = Some(config(3, 100)));
    told.append(4, 40);
    told.update(|meta| (meta.promised, meta.last_config) = (5, Some(config(4, 120))));
    told.sync();
    told.append(6, 3);
    told.engine.close().expect("closed");
    {
        let mut member = told.member();
        member.acked = member.appended;
    }
    drop(told);
    let told = start();
    told.update(|meta| (meta.promised, meta.last_config) = (9, Some(config(9, 90))));
    told.state(0, ShardState::Amnesic);
    told.state(0, ShardState::Ready);
    // A reason longer than a sector.
    let reason = "told to cut what is committed; ".repeat(16);
    told.state(1, ShardState::Quarantined { reason: reason[..490].into(), alarm: true });
    told.update(|meta| meta.lineage = 1);
    told.engine.close().expect("closed");
    drop(told);
    let told = start();
    told.update(|meta| meta.promised = 11);
    drop(told);
    disk.unobserve();
    let last = Arc::new(member.lock().expect("not poisoned").clone());
    recording.add(&disk, last);
    recording.take()
}

impl Member {
    fn look(&self, engine: &Engine) -> bool {
        let meta = engine.meta();
        assert_eq!((meta.sid, meta.shards), (Sid(77), 2));
        assert!(meta.open_count > self.opened, "opened {} times, {} are known", meta.open_count, self.opened);
        self.promises.find(&promises(&meta));
        let mut alarmed = false;
        for shard in engine.shards() {
            let s = usize::from(shard.id());
            self.states[s].find(&shard.state());
            if matches!(shard.state(), ShardState::Quarantined { .. }) {
                // It counts for nothing, and told so because it was told so.
                alarmed = true;
                continue;
            }
            let tail = shard.tail().last.gsn;
            assert!((self.acked[s]..=self.appended[s]).contains(&tail), "shard {s} ends at {tail}");
            if matches!(shard.state(), ShardState::Ready) {
                shard.advance_commit(tail);
                let starts: Vec<u64> = shard.epoch_table().starts().iter().map(|start| start.gsn).collect();
                for gsn in (1..=tail).filter(|gsn| !starts.contains(gsn)) {
                    assert_eq!(get(shard, &key(shard.id(), gsn)), Some(vec![gsn as u8; 300]), "shard {s}, gsn {gsn}");
                }
                assert_eq!(shard.keys() as usize, tail as usize - starts.len(), "and nothing else");
                assert!(shard.verify().is_sound());
            }
        }
        alarmed
    }
}

impl Expected for Member {
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.formatted, self.promises.durable, self.promises.all.len(), self.opened).hash(&mut hasher);
        for states in &self.states {
            (states.durable, states.all.len()).hash(&mut hasher);
        }
        (self.appended, self.acked).hash(&mut hasher);
        hasher.finish()
    }

    fn check(&self, disk: &CrashDisk, _: End, further: bool) -> Found {
        let Some(engine) = open(disk) else {
            assert!(!self.formatted, "the directory is gone");
            format(disk);
            self.look(&open(disk).expect("formatted now"));
            return Found::Sound;
        };
        let alarmed = self.look(&engine);
        if further {
            let meta = engine.update_meta(|meta| meta.promised += 100).expect("durable");
            engine.close().expect("closed");
            drop(engine);
            let engine = open(disk).expect("formatted");
            assert!(engine.meta().clean);
            assert_eq!(promises(&engine.meta()), promises(&meta));
        }
        if alarmed { Found::Quarantined } else { Found::Sound }
    }

    fn recover(&self, disk: &CrashDisk, _: End) -> (Arc<dyn Expected>, Arc<dyn Expected>) {
        let mut afterwards = self.clone();
        if let Some(engine) = open(disk) {
            afterwards.formatted = true;
            afterwards.opened += 1;
            afterwards.promises.settle(&promises(&engine.meta()));
            for shard in engine.shards() {
                let s = usize::from(shard.id());
                afterwards.states[s].settle(&shard.state());
                if !matches!(shard.state(), ShardState::Quarantined { .. }) {
                    let tail = shard.tail().last.gsn;
                    (afterwards.acked[s], afterwards.appended[s]) = (tail, tail);
                }
            }
        }
        (Arc::new(self.clone()), Arc::new(afterwards))
    }
}
