//! Every outcome of a power loss, as far as they can be counted.
//!
//! A workload runs once on the crash disk. After each of its disk operations the disk may lose power, and then any one
//! or two of the things that are not synced may be kept or lost apart from the others (`choices`). What is left is
//! opened by the engine and looked at; equal outcomes are looked at once. The process may also end alone; and what opens
//! the directory may itself be cut short, anywhere.
//!
//! The tests here look at a part that takes seconds. `ARMDB_CRASH=all` looks at all of it (`tests/run crash`), and
//! `ARMDB_CRASH=WORKLOAD:SEED:BOUNDARY:CHOICE...` at the one outcome that a failure names.
//! (ALICE, OSDI 2014, and CrashMonkey, OSDI 2018, do the same to file systems' users.)

mod choices;
mod copies;
mod faults;
mod histories;
mod identity;
mod recording;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use self::recording::{Boundary, End, Expected, Found, Recording};
use super::*;
use crate::disk::CrashDisk;

/// A workload, recorded with a seed.
type Workload = (&'static str, fn(u64) -> Vec<Boundary>);

const WORKLOADS: [Workload; 7] = [
    ("history", histories::disk),
    ("relaxed", histories::os),
    ("copy", copies::blank),
    ("replace", copies::replaced),
    ("beside", copies::beside),
    ("rebuild", copies::rebuilt),
    ("identity", identity::record),
];

/// How much is looked at.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Outcomes of one moment that flip two things; beyond this, an even choice of them.
    pairs: usize,
    /// One moment of so many.
    moments: usize,
    /// Of one outcome in so many the recovery is cut short as well.
    recoveries: u64,
    /// One outcome in so many is gone on with.
    further: u64,
}

const QUICK: Effort = Effort { pairs: 8, moments: 9, recoveries: 40, further: 20 };
const ALL: Effort = Effort { pairs: 1200, moments: 1, recoveries: 150, further: 16 };

/// Where an outcome is: workload and seed, the moment and the choice, and the same of each recovery that was cut short.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Coordinates {
    workload: String,
    seed: u64,
    /// Boundary and choice; no choice: the process ended alone.
    path: Vec<(usize, Option<usize>)>,
}

impl std::fmt::Display for Coordinates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.workload, self.seed)?;
        for (boundary, choice) in &self.path {
            match choice {
                Some(choice) => write!(f, ":{boundary}:{choice}")?,
                None => write!(f, ":{boundary}:kill")?,
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Coordinates {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':');
        let (workload, seed) = (parts.next().unwrap_or_default().to_owned(), parts.next().unwrap_or_default().parse()?);
        let mut path = Vec::new();
        while let (Some(boundary), Some(choice)) = (parts.next(), parts.next()) {
            let choice = if choice == "kill" { None } else { Some(choice.parse()?) };
            path.push((boundary.parse()?, choice));
        }
        Ok(Self { workload, seed, path })
    }
}

/// What a power loss left, with what was expected of it.
#[derive(PartialEq, Eq, Hash)]
struct Opened {
    image: u128,
    expected: u64,
    /// After how many ends: recoveries from the first one are cut short and others are not, so that two of different
    /// depth are two. Else what is looked at would depend on which thread came first.
    depth: usize,
}

/// What was counted.
#[derive(Default)]
struct Tally {
    /// Fingerprints of the images.
    images: Mutex<HashSet<u128>>,
    /// What was opened.
    looked_at: Mutex<HashSet<Opened>>,
    boundaries: AtomicU64,
    sampled: AtomicU64,
    opened: AtomicU64,
    further: AtomicU64,
    recoveries: AtomicU64,
    killed: AtomicU64,
    amnesic: AtomicU64,
    quarantined: AtomicU64,
}

impl Tally {
    fn add(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it was not yet.
    fn is_new(&self, image: u128, expected: &dyn Expected, at: &Coordinates) -> bool {
        let opened = Opened { image, expected: expected.fingerprint(), depth: at.path.len() };
        self.looked_at.lock().expect("not poisoned").insert(opened)
    }

    fn distinct(&self) -> usize {
        self.images.lock().expect("not poisoned").len()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "crash states: {} distinct, {} opened ({} amnesic, {} quarantined and rightly so), {} gone on with; {} boundaries, \
             {} of them with a choice of their pairs only; {} recoveries cut short, {} processes killed",
            self.distinct(),
            n(&self.opened),
            n(&self.amnesic),
            n(&self.quarantined),
            n(&self.further),
            n(&self.boundaries),
            n(&self.sampled),
            n(&self.recoveries),
            n(&self.killed),
        )
    }
}

/// Runs `check`; a panic is told with what reproduces it.
fn told<T>(at: &Coordinates, what: impl FnOnce() -> String, check: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(AssertUnwindSafe(check)) {
        Ok(result) => result,
        Err(panic) => {
            eprintln!("{at}: {}\nARMDB_CRASH={at} cargo test --locked --lib -- engine::tests::outcomes::all", what());
            std::panic::resume_unwind(panic)
        }
    }
}

/// Everything that may be left of a disk at one moment.
fn look_at(tally: &Tally, effort: Effort, at: &Coordinates, index: usize, boundary: &Boundary) {
    tally.add(&tally.boundaries);
    let (moment, expected) = (&boundary.moment, &boundary.expected);
    let flips = choices::flips(moment.unsynced());
    let (simple, all) = (choices::count_simple(&flips), choices::count(&flips));
    let step = (all - simple).div_ceil(effort.pairs).max(1);
    if step > 1 {
        tally.add(&tally.sampled);
    }
    // Not the same ones at every boundary.
    let pairs = (simple..all).skip(index % step).step_by(step);
    for number in (0..simple).chain(pairs) {
        let choice = choices::nth(&flips, number);
        let image = moment.crash(&mut |what, _| choice.of(what));
        let fingerprint = image.fingerprint();
        tally.images.lock().expect("not poisoned").insert(fingerprint);
        let at = at.then(index, Some(number));
        if !tally.is_new(fingerprint, &**expected, &at) {
            continue;
        }
        let tell = || choice.tell(moment.unsynced());
        let draw = fingerprint as u64 >> 3;
        look_at_one(tally, &at, tell, &image.disk(), boundary, End::Power, draw.is_multiple_of(effort.further));
        if at.path.len() < 2 && (fingerprint as u64).is_multiple_of(effort.recoveries) {
            cut_recovery_short(tally, effort, &at, image.disk(), boundary, End::Power);
        }
    }
    // What a process that was killed leaves is one thing only; what of it is not synced is not in its print, so that no
    // two are the same.
    let at_kill = at.then(index, None);
    if at.path.is_empty() {
        let everything = moment.crash(&mut |_, _| crate::disk::Keep::Keep).fingerprint();
        tally.add(&tally.killed);
        let tell = || "the process was killed".to_owned();
        look_at_one(tally, &at_kill, tell, &moment.kill(), boundary, End::Process, false);
        if (everything as u64).is_multiple_of(effort.recoveries / 8 + 1) {
            cut_recovery_short(tally, effort, &at_kill, moment.kill(), boundary, End::Process);
        }
    }
}

fn look_at_one(
    tally: &Tally,
    at: &Coordinates,
    tell: impl FnOnce() -> String,
    disk: &CrashDisk,
    boundary: &Boundary,
    end: End,
    further: bool,
) {
    let found = told(at, tell, || boundary.expected.check(disk, end, further));
    tally.add(&tally.opened);
    if further {
        tally.add(&tally.further);
    }
    match found {
        Found::Sound => {}
        Found::Amnesic => tally.add(&tally.amnesic),
        Found::Quarantined => tally.add(&tally.quarantined),
    }
}

/// What a power loss at any moment of the recovery from another end leaves.
fn cut_recovery_short(tally: &Tally, effort: Effort, at: &Coordinates, disk: CrashDisk, boundary: &Boundary, end: End) {
    tally.add(&tally.recoveries);
    for (index, moment) in recovery_of(&disk, boundary, end).iter().enumerate() {
        // Pairs make the coordinates of a recovery many: what flips one thing will do.
        look_at(tally, Effort { pairs: 4, ..effort }, at, index, moment);
    }
}

fn recovery_of(disk: &CrashDisk, boundary: &Boundary, end: End) -> Vec<Boundary> {
    let moments = Arc::new(Mutex::new(Vec::new()));
    let seen = moments.clone();
    disk.observe(move |disk, _| seen.lock().expect("not poisoned").push(disk.moment()));
    let (meanwhile, afterwards) = boundary.expected.recover(disk, end);
    disk.unobserve();
    let moments = std::mem::take(&mut *moments.lock().expect("not poisoned"));
    let mut boundaries: Vec<Boundary> =
        moments.into_iter().map(|moment| Boundary { moment, expected: meanwhile.clone() }).collect();
    boundaries.push(Boundary { moment: disk.moment(), expected: afterwards });
    boundaries
}

impl Coordinates {
    fn then(&self, boundary: usize, choice: Option<usize>) -> Self {
        let mut longer = self.clone();
        longer.path.push((boundary, choice));
        longer
    }
}

/// Looks at a workload with a seed, on every processor.
fn look(tally: &Tally, effort: Effort, (name, record): Workload, seed: u64) {
    let before = (tally.distinct(), std::time::Instant::now());
    let boundaries = record(seed);
    let at = Coordinates { workload: name.into(), seed, path: Vec::new() };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(boundary) = boundaries.get(index) else { break };
                    if (index as u64 + seed).is_multiple_of(effort.moments as u64) {
                        look_at(tally, effort, &at, index, boundary);
                    }
                }
            });
        }
    });
    let new = tally.distinct() - before.0;
    println!("{name}, seed {seed}: {} boundaries, {new} new states, {:?}", boundaries.len(), before.1.elapsed());
}

/// The one outcome that a failure named.
fn look_again(at: &Coordinates) {
    let workload = WORKLOADS.iter().find(|(name, _)| *name == at.workload).expect("a workload of that name");
    let mut boundaries = workload.1(at.seed);
    for (depth, (index, choice)) in at.path.iter().enumerate() {
        let boundary = boundaries.swap_remove(*index);
        let disk = || match choice {
            None => (boundary.moment.kill(), End::Process),
            Some(number) => {
                let choice = choices::nth(&choices::flips(boundary.moment.unsynced()), *number);
                println!("{}", choice.tell(boundary.moment.unsynced()));
                (boundary.moment.crash(&mut |what, _| choice.of(what)).disk(), End::Power)
            }
        };
        if depth + 1 == at.path.len() {
            for further in [false, true] {
                let (disk, end) = disk();
                println!("{:?}", boundary.expected.check(&disk, end, further));
            }
        } else {
            let (disk, end) = disk();
            boundaries = recovery_of(&disk, &boundary, end);
        }
    }
}

fn quick(names: &[&str], at_least: usize) {
    let tally = Tally::default();
    for workload in WORKLOADS.iter().filter(|(name, _)| names.contains(name)) {
        look(&tally, QUICK, *workload, 1);
    }
    println!("{tally}");
    assert!(tally.distinct() > at_least, "{tally}");
}

#[test]
fn a_power_loss_at_any_operation_loses_nothing_that_was_acknowledged_and_brings_nothing_back() {
    quick(&["history", "relaxed"], 1500);
}

#[test]
fn a_power_loss_at_any_operation_of_a_full_copy_leaves_the_old_data_or_the_new() {
    quick(&["copy", "replace", "rebuild"], 300);
}

#[test]
fn a_power_loss_at_any_operation_leaves_the_identity_and_every_promise() {
    quick(&["identity"], 120);
}

/// Everything, or what `ARMDB_CRASH` names; without it, nothing: the tests above are the quick part.
#[test]
fn all() {
    let asked = std::env::var("ARMDB_CRASH").unwrap_or_default();
    match asked.as_str() {
        "" => {}
        "all" => {
            let tally = Tally::default();
            for workload in WORKLOADS {
                for seed in seeds(if matches!(workload.0, "history" | "relaxed") { 3 } else { 1 }) {
                    look(&tally, ALL, workload, seed);
                }
            }
            println!("{tally}");
            assert!(tally.distinct() >= 100_000, "{tally}");
        }
        one => look_again(&one.parse().expect("all, or WORKLOAD:SEED:BOUNDARY:CHOICE...")),
    }
}

#[test]
fn coordinates_are_read_as_they_are_told() {
    for text in ["history:3:17:4", "rebuild:1:0:kill:9:2"] {
        assert_eq!(text.parse::<Coordinates>().expect("read").to_string(), text);
    }
}
