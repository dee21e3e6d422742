//! A crash after every disk operation of a random history.
//!
//! The crash disk keeps or drops every un-synced page, length and name as a generator says, in any order. What
//! it leaves is opened: what was acknowledged is there, batches are whole, the state is that of the log as it
//! was at some batch's end, nothing deleted returns, and the shard is sound and goes on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::history::{Model, Power, Run, compare_contents, compare_log, tiny};
use super::*;
use crate::disk::{CrashDisk, Disk, Keep, Unsynced};

/// What a crash does.
#[derive(Debug, Clone, Copy)]
enum Crash {
    /// Nothing un-synced survives.
    DropAll,
    /// Everything does, as if only the process had died and the machine then lost power.
    KeepAll,
    /// Some does, by this seed.
    Some(u64),
    /// Only the process dies.
    Kill,
}

impl Crash {
    fn happen(self, disk: &CrashDisk) -> Arc<dyn Disk> {
        Arc::new(match self {
            Self::DropAll => disk.crash(&mut |_| Keep::Drop),
            Self::KeepAll => disk.crash(&mut |_| Keep::Keep),
            Self::Some(seed) => {
                let mut random = Random::new(seed);
                disk.crash(&mut |_| match random.below(5) {
                    0 | 1 => Keep::Drop,
                    2 | 3 => Keep::Keep,
                    _ => Keep::Torn(random.next() as u8),
                })
            }
            Self::Kill => disk.kill(),
        })
    }
}

/// Which boot it is that follows on a crash.
pub(super) fn boot_after(model: &Model, lossy: bool) -> u8 {
    if lossy { model.boot.wrapping_add(100) } else { model.boot }
}

/// Opens what a crash has left and compares it with what may be there; also whether it was amnesic. `lossy`: the
/// machine died. `owed`: if not everything up to here is there it must say so.
pub(super) fn look(
    disk: &Arc<dyn Disk>,
    model: &Model,
    options: &EngineOptions,
    lossy: bool,
    owed: u64,
) -> (Arc<Engine>, bool) {
    let boot_id = Some([boot_after(model, lossy); 16]);
    let options = EngineOptions { boot_id, ..options.clone() };
    let engine = Engine::open(disk.clone(), Path::new("/data"), options.clone(), InstanceId(2)).expect("it opens");
    let shard = engine.shards()[0].clone();
    let relaxed = options.durability == Durability::Os;
    let gsn = shard.tail().last.gsn;
    let amnesic = match shard.state() {
        ShardState::Ready => {
            assert!(
                gsn >= owed || model.truncating == Some(gsn),
                "it ends at {gsn}, {owed} was acknowledged: not a word"
            );
            false
        }
        ShardState::Blank if model.log.len() < 2 => false,
        ShardState::Amnesic if relaxed => {
            shard.set_state(ShardState::Ready).expect("set");
            true
        }
        other => panic!("the shard is {other}"),
    };
    let tail = shard.tail();
    let lowest = if relaxed && lossy { model.synced } else { model.acked };
    assert!(
        (lowest..=model.tail()).contains(&gsn) || model.truncating == Some(gsn),
        "the log ends at {gsn}, {lowest} was acknowledged, the tail was {}",
        model.tail()
    );
    assert_eq!(model.tail_at(gsn), Some(tail), "it ends at a batch's end, with the history that was there");
    assert_eq!(shard.epoch_table().starts(), model.epochs(gsn), "its epochs are those of the history");
    let applied = shard.applied();
    assert!(applied <= model.commit, "applied {applied}, the commit was {}", model.commit);
    assert!(shard.log_floor() <= applied + 1 && shard.tombstone_floor() <= applied);
    if shard.state() == ShardState::Blank {
        return (engine, amnesic);
    }
    compare_contents(&shard, model, applied);
    let report = shard.verify();
    assert!(report.is_sound(), "{report:?}");
    compare_log(&shard, model);
    shard.advance_commit(gsn);
    assert_eq!(shard.applied(), gsn);
    compare_contents(&shard, model, gsn);
    (engine, amnesic)
}

/// What was opened goes on: a write, housekeeping, and once more from the start.
pub(super) fn go_on(disk: &Arc<dyn Disk>, engine: Arc<Engine>, model: &Model, options: &EngineOptions, lossy: bool) {
    let boot_id = Some([boot_after(model, lossy); 16]);
    let options = EngineOptions { boot_id, ..options.clone() };
    let shard = engine.shards()[0].clone();
    if shard.state() == ShardState::Blank {
        return;
    }
    let tail = shard.tail();
    let gsn = tail.last.gsn;
    shard.open_epoch(tail.last.epoch + 1, model.time_ms).expect("opened");
    put(&shard, tail.last.epoch + 1, b"after", b"the crash");
    commit_all(&engine);
    if gsn.is_multiple_of(4) {
        compact_all(&engine);
    }
    let contents = |shard: &Shard| {
        let page = shard.scan(TreeId::DEFAULT, &ScanRange::all(), 10_000, usize::MAX, model.time_ms);
        page.expect("scanned").entries
    };
    let before = contents(&shard);
    assert_eq!(before.len(), model.contents(gsn).len() + 1);
    drop((engine, shard));
    let engine = Engine::open(disk.clone(), Path::new("/data"), options, InstanceId(3)).expect("it opens again");
    let shard = &engine.shards()[0];
    assert_eq!(shard.state(), ShardState::Ready);
    shard.advance_commit(shard.tail().last.gsn);
    assert_eq!(contents(shard), before, "what was written after the crash is there as well");
}

/// One crash, of a kind that depends on seed and operation, and what is left of it.
fn crash_now(disk: &CrashDisk, model: &Model, options: &EngineOptions, seed: u64, operation: u64) {
    let durability = options.durability;
    let mut random = Random::new(seed ^ operation << 20 ^ u64::from(model.boot) << 50);
    let crash = match (random.below(6), durability) {
        (0, _) => Crash::DropAll,
        (1, _) => Crash::KeepAll,
        (2 | 3, Durability::Os) => Crash::Kill,
        _ => Crash::Some(random.next()),
    };
    let after = crash.happen(disk);
    let lossy = !matches!(crash, Crash::Kill);
    let check = || {
        let (engine, _) = look(&after, model, options, lossy, model.acked);
        go_on(&after, engine, model, options, lossy);
    };
    let outcome = if durability == Durability::Os {
        // On a thread of its own: this one may be in the middle of an append.
        std::thread::scope(|scope| scope.spawn(check).join())
    } else {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(check))
    };
    assert!(
        outcome.is_ok(),
        "seed {seed}, {durability:?}, after operation {operation} of boot {}, {crash:?}: \
         ARMDB_SEEDS={seed} cargo test --lib engine::tests::crash",
        model.boot
    );
}

/// A history with a crash after every operation; how many there were.
fn crash_everywhere(seed: u64, steps: u64, durability: Durability) -> u64 {
    let disk = CrashDisk::new();
    let options = EngineOptions { durability, ..tiny() };
    let mut run = Run::new(Arc::new(disk.clone()), options.clone(), seed);
    let checked = Arc::new(AtomicU64::new(0));
    let (model, count) = (run.model.clone(), checked.clone());
    // Also while what another crash has left is opened again.
    let watch = Box::new(move |disk: &CrashDisk| {
        let (model, count, options) = (model.clone(), count.clone(), options.clone());
        disk.observe(move |disk, operation| {
            let model = model.lock().expect("not poisoned").clone();
            crash_now(disk, &model, &options, seed, operation);
            count.fetch_add(1, Ordering::Relaxed);
        });
    });
    watch(&disk);
    run.power = Some(Power { disk, watch });
    for _ in 0..steps {
        run.step();
    }
    run.power.take().expect("given").disk.unobserve();
    let happened = run.finish();
    assert!(happened.compactions > 0 && happened.truncated > 0 && happened.hints > 0, "seed {seed}: {happened:?}");
    assert!(happened.power_lost > 0, "seed {seed}: {happened:?}");
    checked.load(Ordering::Relaxed)
}

#[test]
fn after_a_crash_at_any_operation_everything_acknowledged_is_there_and_nothing_deleted_is() {
    for seed in seeds(4) {
        let checked = crash_everywhere(seed, 600, Durability::Disk);
        assert!(checked > 500, "{checked} crashes");
    }
}

#[test]
fn with_relaxed_durability_a_dead_process_loses_nothing_and_a_dead_machine_only_the_end() {
    for seed in seeds(3) {
        let checked = crash_everywhere(seed, 600, Durability::Os);
        assert!(checked > 500, "{checked} crashes");
    }
}

/// The disk after every operation of `work`, as a process leaves it that is killed then.
fn killed_during(disk: &CrashDisk, work: impl FnOnce()) -> Vec<CrashDisk> {
    let killed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = killed.clone();
    disk.observe(move |disk, _| seen.lock().expect("not poisoned").push(disk.kill()));
    work();
    disk.unobserve();
    std::mem::take(&mut *killed.lock().expect("not poisoned"))
}

#[test]
fn no_file_is_removed_upon_a_switch_that_may_still_be_lost() {
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let engine = open_with(&shared, Path::new("/data"), tiny());
    let shard = &engine.shards()[0];
    shard.open_epoch(1, 1).expect("opened");
    for i in 0..60u64 {
        put(shard, 1, &i.to_le_bytes(), &[1; 1000]);
        engine.sync_all().expect("synced");
    }
    assert!(shard.log_segments().len() > 3, "a truncation drops files");
    let killed = killed_during(&disk, || {
        shard.truncate_to(5).expect("truncated");
    });
    assert!(killed.len() > 5);
    for (i, disk) in killed.into_iter().enumerate() {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let tail = open_with(&shared, Path::new("/data"), tiny()).shards()[0].tail();
        // Removed names reach the medium, and nothing else that was not synced.
        let names_only =
            &mut |what: &Unsynced| if matches!(what, Unsynced::Name { .. }) { Keep::Keep } else { Keep::Drop };
        let shared: Arc<dyn Disk> = Arc::new(disk.crash(names_only));
        let engine = open_with(&shared, Path::new("/data"), tiny());
        let shard = &engine.shards()[0];
        assert_eq!((shard.state(), shard.tail()), (ShardState::Ready, tail), "killed after operation {i}");
    }
}

#[test]
fn a_directory_whose_formatting_was_killed_keeps_what_is_written_to_it_later() {
    let disk = CrashDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = Path::new("/data");
    let killed = killed_during(&disk, || {
        Engine::format(&shared, dir, &Format { sid: Sid(7), shards: 1 }).expect("formatted");
    });
    for (i, disk) in killed.into_iter().enumerate() {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let engine = open_with(&shared, dir, tiny());
        engine.shards()[0].open_epoch(1, 1).expect("opened");
        put(&engine.shards()[0], 1, b"key", b"value");
        engine.sync_all().expect("synced");
        let shared: Arc<dyn Disk> = Arc::new(disk.crash(&mut |_| Keep::Drop));
        assert!(Engine::is_formatted(&shared, dir).expect("readable"), "killed after operation {i}: it is gone");
        let engine = open_with(&shared, dir, tiny());
        let shard = &engine.shards()[0];
        shard.advance_commit(shard.tail().last.gsn);
        assert_eq!(get(shard, b"key").as_deref(), Some(&b"value"[..]), "killed after operation {i}");
    }
}
