//! Random histories of one shard: appends, segments that end, truncations, hints, compaction, idle marks, clean ends,
//! kills, power losses and what opens the directory after each; with either durability.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use super::super::crash::{boot_after, go_on, look};
use super::super::history::{Model, Power, Run, tiny};
use super::*;
use crate::disk::Disk;

const STEPS: u64 = 260;

#[derive(Clone)]
struct Log {
    model: Model,
    options: EngineOptions,
    /// Was acknowledged once: if a power loss took it, the shard has to say so.
    owed: u64,
}

pub(super) fn disk(seed: u64) -> Vec<Boundary> {
    record(seed, Durability::Disk)
}

pub(super) fn os(seed: u64) -> Vec<Boundary> {
    record(seed, Durability::Os)
}

fn record(seed: u64, durability: Durability) -> Vec<Boundary> {
    let disk = CrashDisk::new();
    let options = EngineOptions { durability, ..tiny() };
    let mut run = Run::new(Arc::new(disk.clone()), options.clone(), seed);
    let recording = Recording::default();
    let (model, recorded) = (run.model.clone(), recording.clone());
    // Also while what another crash has left is opened again.
    let watch = Box::new(move |disk: &CrashDisk| {
        let (model, options) = (model.clone(), options.clone());
        recorded.watch(disk, move || {
            let model = model.lock().expect("not poisoned").clone();
            Arc::new(Log { owed: model.acked, model, options: options.clone() })
        });
    });
    watch(&disk);
    run.power = Some(Power { disk, watch });
    for _ in 0..STEPS {
        run.step();
    }
    run.power.take().expect("given").disk.unobserve();
    let happened = run.finish();
    assert!(happened.hints > 0 && happened.truncated > 0, "seed {seed}: {happened:?}");
    recording.take()
}

impl Expected for Log {
    fn fingerprint(&self) -> u64 {
        let model = &self.model;
        let mut hasher = DefaultHasher::new();
        let end = (0..=model.tail()).rev().find_map(|gsn| model.tail_at(gsn)).unwrap_or_default();
        (end.last.gsn, end.last.epoch, end.chain, model.tail(), self.owed).hash(&mut hasher);
        (model.acked, model.synced, model.commit, model.time_ms, model.truncating, model.boot).hash(&mut hasher);
        (self.options.durability == Durability::Os).hash(&mut hasher);
        hasher.finish()
    }

    fn check(&self, disk: &CrashDisk, end: End, further: bool) -> Found {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let lossy = end == End::Power;
        let (engine, amnesic) = look(&disk, &self.model, &self.options, lossy, self.owed);
        if further {
            go_on(&disk, engine, &self.model, &self.options, lossy);
        }
        if amnesic { Found::Amnesic } else { Found::Sound }
    }

    fn recover(&self, disk: &CrashDisk, end: End) -> (Arc<dyn Expected>, Arc<dyn Expected>) {
        let lossy = end == End::Power;
        let mut meanwhile = self.clone();
        meanwhile.model.boot = boot_after(&self.model, lossy);
        if lossy && self.options.durability == Durability::Os {
            meanwhile.owed = self.owed.max(self.model.acked);
            meanwhile.model.acked = self.model.synced;
        }
        let options = EngineOptions { boot_id: Some([meanwhile.model.boot; 16]), ..self.options.clone() };
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let engine = Engine::open(disk, Path::new("/data"), options, InstanceId(4)).expect("it opens");
        let tail = engine.shards()[0].tail().last.gsn;
        // What it found is what there is: nothing that it has cut off may come back, and nothing may go.
        let mut afterwards = meanwhile.clone();
        if self.model.truncating == Some(tail) {
            afterwards.owed = tail;
        }
        let model = &mut afterwards.model;
        model.log.truncate(tail as usize);
        (model.acked, model.synced, model.truncating) = (tail, tail, None);
        model.commit = model.commit.min(tail);
        (Arc::new(meanwhile), Arc::new(afterwards))
    }
}
