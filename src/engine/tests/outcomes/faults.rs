//! An error of the disk at every single sync, write, change of a name and read of a workload: nothing is acknowledged
//! that is not there afterwards, whatever ends next, and what has failed stays failed.
//!
//! A sync that fails loses its pages although they are still seen, and the next one succeeds ("fsyncgate"); a write
//! that finds no room writes half.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::history::tiny;
use super::*;
use crate::disk::{Disk, Fault, FaultOn, Keep};

const DIR: &str = "/data";

/// An entry: `None` begins an epoch; else a key and what it was set to, or that it was deleted.
type Entry = Option<(u8, Option<u8>)>;

struct Trial {
    disk: CrashDisk,
    durability: Durability,
    engine: Option<Arc<Engine>>,
    random: Random,
    epoch: u64,
    log: Vec<Entry>,
    /// Gsns at which batches end.
    ends: Vec<u64>,
    /// Acknowledged: the highest durable mark seen, but for what was truncated.
    acked: u64,
    commit: u64,
    errors: u64,
}

fn value(n: u8) -> Vec<u8> {
    vec![n; 150 + usize::from(n)]
}

impl Trial {
    /// Formats and opens, with nothing failing yet.
    fn new(seed: u64, durability: Durability) -> Self {
        let disk = CrashDisk::new();
        let mut trial = Self {
            disk,
            durability,
            engine: None,
            random: Random::new(seed),
            epoch: 0,
            log: Vec::new(),
            ends: Vec::new(),
            acked: 0,
            commit: 0,
            errors: 0,
        };
        let disk: Arc<dyn Disk> = Arc::new(trial.disk.clone());
        trial.engine = Some(open_with(&disk, Path::new(DIR), trial.options(1)));
        trial
    }

    fn options(&self, boot: u8) -> EngineOptions {
        EngineOptions { boot_id: Some([boot; 16]), durability: self.durability, ..tiny() }
    }

    fn shard(&self) -> Arc<Shard> {
        self.engine.as_ref().expect("open").shards()[0].clone()
    }

    /// Counts an error; whether it went well.
    fn went_well<T, E: std::fmt::Debug>(&mut self, result: Result<T, E>) -> bool {
        self.errors += u64::from(result.is_err());
        result.is_ok()
    }

    fn step(&mut self) {
        let engine = self.engine.clone().expect("open");
        let shard = self.shard();
        match self.random.below(20) {
            _ if self.epoch == 0 || self.random.below(25) == 0 => {
                self.epoch += 1;
                let opened = shard.open_epoch(self.epoch, 1);
                if self.went_well(opened) {
                    self.log.push(None);
                    self.ends.push(self.log.len() as u64);
                } else {
                    // Nobody leads an epoch that did not begin.
                    shard.close_epoch();
                }
            }
            0..10 => {
                let mut batch = WriteBatch::new();
                let mut entries: Vec<Entry> = Vec::new();
                for _ in 0..1 + self.random.below(3) {
                    let (key, new) = (self.random.below(30) as u8, self.random.next() as u8);
                    let new = (new % 4 != 0).then_some(new);
                    batch = match new {
                        Some(n) => batch.put(vec![key; 9], value(n)),
                        None => batch.delete(vec![key; 9]),
                    };
                    entries.push(Some((key, new)));
                }
                let before = shard.tail().last.gsn;
                let appended = shard.append(self.epoch, &batch);
                if self.went_well(appended) {
                    self.log.extend(entries);
                    self.ends.push(self.log.len() as u64);
                } else if engine.failure().is_none() {
                    assert_eq!(shard.tail().last.gsn, before, "what was refused is not in the log");
                }
            }
            10..13 => {
                let synced = engine.sync_all();
                if self.went_well(synced) {
                    assert_eq!(shard.durable_gsn(), self.log.len() as u64);
                }
            }
            13..15 => {
                let durable = self.acked;
                let ends: Vec<u64> =
                    self.ends.iter().copied().filter(|gsn| (self.commit..=durable).contains(gsn)).collect();
                if let Some(gsn) = ends.last() {
                    self.commit = *gsn;
                    shard.advance_commit(*gsn);
                }
            }
            15..18 => {
                for _ in 0..6 {
                    let step = engine.compact_step();
                    if !matches!(step, Ok(true)) {
                        self.went_well(step);
                        break;
                    }
                }
            }
            18 => {
                let ends: Vec<u64> = self.ends.iter().copied().filter(|gsn| *gsn >= self.commit).collect();
                let to = ends.get(self.random.below(ends.len().max(1) as u64) as usize).copied();
                let Some(to) = to else { return };
                let truncated = shard.truncate_to(to);
                if self.went_well(truncated) {
                    self.log.truncate(to as usize);
                    self.ends.retain(|gsn| *gsn <= to);
                    self.acked = self.acked.min(to);
                } else if engine.failure().is_some() {
                    // Nobody knows: what was to be kept is there, what was to be dropped may be.
                    self.acked = self.acked.min(to);
                }
                self.epoch = shard.tail().last.epoch.max(self.epoch) + 1;
                let opened = shard.open_epoch(self.epoch, 1);
                if self.went_well(opened) {
                    self.log.push(None);
                    self.ends.push(self.log.len() as u64);
                }
            }
            _ => {
                let idle = engine.idle_now();
                self.went_well(idle);
            }
        }
        if engine.failure().is_none() {
            self.acked = self.acked.max(shard.durable_gsn());
        }
    }

    /// What has failed acknowledges nothing any more.
    fn stays_failed(&self) {
        let (engine, shard) = (self.engine.as_ref().expect("open"), self.shard());
        let durable = shard.durable_gsn();
        for _ in 0..2 {
            shard.append(self.epoch, &WriteBatch::new().put("after", "it")).expect_err("it has failed");
            engine.sync_all().expect_err("it has failed");
            let _ = engine.idle_now();
            engine.compact_step().expect_err("it has failed");
            engine.update_meta(|meta| meta.promised += 1).expect_err("it has failed");
        }
        assert_eq!(shard.durable_gsn(), durable, "the mark does not move any more");
    }

    fn contents(&self, gsn: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut all = BTreeMap::new();
        for (key, new) in self.log[..gsn as usize].iter().flatten() {
            match new {
                Some(n) => all.insert(vec![*key; 9], value(*n)),
                None => all.remove(&vec![*key; 9]),
            };
        }
        all
    }

    /// What is left opens, and everything that was acknowledged is in it. `lossy`: the machine died.
    fn left(&self, disk: CrashDisk, lossy: bool) {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let options = self.options(if lossy { 9 } else { 1 });
        let engine = Engine::open(disk, Path::new(DIR), options, InstanceId(5)).expect("it opens");
        let shard = &engine.shards()[0];
        let tail = shard.tail().last.gsn;
        match shard.state() {
            ShardState::Ready => assert!(tail >= self.acked, "ends at {tail}, {} was acknowledged", self.acked),
            // Also if only the process died: what was acknowledged from the page cache a failed sync has dropped there.
            ShardState::Amnesic if self.durability == Durability::Os && (lossy || self.errors > 0) => {
                shard.set_state(ShardState::Ready).expect("set");
            }
            other => panic!("it is {other}"),
        }
        assert!(tail <= self.log.len() as u64, "ends at {tail}, {} were appended", self.log.len());
        assert!(tail == 0 || self.ends.contains(&tail), "{tail} is no batch's end");
        shard.advance_commit(tail);
        let page = shard.scan(TreeId::DEFAULT, &ScanRange::all(), 1000, usize::MAX, 0).expect("scanned");
        let found: BTreeMap<_, _> = page.entries.iter().map(|(k, v)| (k.to_vec(), v.bytes.to_vec())).collect();
        assert!(found == self.contents(tail), "the contents are those of the log up to {tail}");
        assert!(shard.verify().is_sound(), "{:?}", shard.verify());
    }

    /// Whatever ends now.
    fn all_ends(&self) {
        let moment = self.disk.moment();
        self.left(moment.kill(), false);
        self.left(moment.crash(&mut |_, _| Keep::Keep).disk(), true);
        self.left(moment.crash(&mut |_, _| Keep::Drop).disk(), true);
        let mut random = Random::new(self.log.len() as u64);
        for _ in 0..4 {
            let some = &mut |_, _: &_| match random.below(5) {
                0 | 1 => Keep::Drop,
                2 | 3 => Keep::Keep,
                _ => Keep::Torn(random.next() as u8),
            };
            self.left(moment.crash(some).disk(), true);
        }
    }
}

const STEPS: u64 = 130;

/// One fault, or more of them from there on, after `skip` operations of its kind. Whether it came, and whether the engine
/// has failed of it.
fn with_fault(seed: u64, durability: Durability, on: FaultOn, errno: i32, skip: u64, times: u64) -> (bool, bool) {
    let mut trial = Trial::new(seed, durability);
    trial.disk.inject(Fault { on, path_contains: String::new(), skip, times, errno });
    for _ in 0..STEPS {
        trial.step();
        if trial.engine.as_ref().expect("open").failure().is_some() {
            break;
        }
    }
    // A fault of more than one time has come when it has been told of.
    let came = if times == 1 { !trial.disk.has_faults() } else { trial.errors > 0 };
    let failed = trial.engine.as_ref().expect("open").failure().is_some();
    if failed {
        assert!(came);
        trial.stays_failed();
    }
    trial.all_ends();
    trial.disk.heal();
    if failed {
        trial.stays_failed();
    } else {
        // It goes on as if nothing had been.
        let engine = trial.engine.clone().expect("open");
        engine.space().expect("there is room again");
        engine.sync_all().expect("synced");
        trial.acked = trial.log.len() as u64;
        assert_eq!(trial.shard().durable_gsn(), trial.acked, "what was taken is written now");
    }
    trial.all_ends();
    (came, failed)
}

/// Every one of them in turn; how many there were, and how many ended the engine.
fn one_after_the_other(seed: u64, durability: Durability, on: FaultOn, errno: i32, times: u64) -> (u64, u64) {
    let (mut skip, mut fatal) = (0, 0);
    loop {
        let run = || with_fault(seed, durability, on, errno, skip, times);
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(run));
        let Ok((came, failed)) = outcome else {
            panic!("seed {seed}, {durability:?}: {times} times error {errno} on {on:?} after {skip} of them");
        };
        if !came {
            return (skip, fatal);
        }
        fatal += u64::from(failed);
        skip += 1;
    }
}

#[test]
fn a_sync_that_fails_is_never_followed_by_an_acknowledgement() {
    for durability in [Durability::Disk, Durability::Os] {
        let (syncs, fatal) = one_after_the_other(1, durability, FaultOn::Sync, libc::EIO, 1);
        println!("{durability:?}: {syncs} syncs failed, {fatal} ended the engine");
        assert!(syncs > 40 && fatal * 2 > syncs, "{durability:?}: {fatal} of {syncs}");
    }
}

#[test]
fn a_write_that_finds_no_room_acknowledges_nothing_and_what_was_taken_is_written_later() {
    for durability in [Durability::Disk, Durability::Os] {
        for times in [1, u64::MAX] {
            let (writes, fatal) = one_after_the_other(2, durability, FaultOn::Write, libc::ENOSPC, times);
            println!("{durability:?}, {times} times: {writes} writes found no room, {fatal} ended the engine");
            assert!(writes > 30 && fatal < writes, "{durability:?}: {fatal} of {writes}");
        }
    }
}

#[test]
fn a_write_or_a_name_that_fails_is_never_followed_by_an_acknowledgement_of_what_is_not_there() {
    for durability in [Durability::Disk, Durability::Os] {
        for on in [FaultOn::Write, FaultOn::Name] {
            let (failures, fatal) = one_after_the_other(3, durability, on, libc::EIO, 1);
            println!("{durability:?}: {failures} of {on:?} failed, {fatal} ended the engine");
            assert!(failures > 20, "{durability:?}: {failures}");
        }
    }
}

#[test]
fn a_read_that_fails_while_a_directory_is_opened_costs_the_attempt_and_nothing_else() {
    let mut trial = Trial::new(4, Durability::Disk);
    for _ in 0..STEPS {
        trial.step();
    }
    let left = trial.disk.moment().crash(&mut |_, _| Keep::Keep);
    let mut skip = 0;
    loop {
        let disk = left.disk();
        disk.inject(Fault { on: FaultOn::Read, path_contains: String::new(), skip, times: 1, errno: libc::EIO });
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let opened = Engine::open(shared, Path::new(DIR), trial.options(1), InstanceId(5));
        if disk.has_faults() {
            break;
        }
        if let Ok(engine) = &opened {
            assert_eq!(engine.shards()[0].state(), ShardState::Ready, "a hint may be done without");
        }
        drop(opened);
        disk.heal();
        trial.left(disk, false);
        skip += 1;
    }
    assert!(skip > 5, "{skip} reads failed");
}
