//! Many seeds on all processors: figures, and the first that fail.

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::coverage::{ENOUGH, EVENTS, missing};
use super::member::Counts;
use super::plan::{Cut, Plan};
use super::run::{Outcome, run};

/// One in so many seeds is run twice, and must be the same history both times.
const TWICE: u64 = 200;

/// What a search found.
#[derive(Debug, Default)]
pub(crate) struct Search {
    pub(crate) seeds: u64,
    pub(crate) took: Duration,
    pub(crate) steps: u64,
    pub(crate) acknowledged: u64,
    pub(crate) faults: Counts,
    pub(crate) counts: Counts,
    /// Seeds that failed, and how; by seed.
    pub(crate) failed: Vec<(u64, String)>,
}

impl Search {
    /// Events that should have happened in so many seeds and did not; none are asked for of a short run.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        if self.seeds >= ENOUGH { missing(&self.counts) } else { Vec::new() }
    }

    /// One line.
    pub(crate) fn figures(&self) -> String {
        let happened = EVENTS.len() - missing(&self.counts).len();
        let rarest = EVENTS.iter().map(|event| (self.counts.get(event).copied().unwrap_or(0), event)).min();
        let (rare, event) = rarest.unwrap_or((0, &""));
        format!(
            "{} seeds in {:.1} s: {} steps, {} writes acknowledged, {} faults of {} kinds; {happened} of {} rare events, \
             the rarest {rare} times ({event}); {} failed",
            self.seeds,
            self.took.as_secs_f64(),
            self.steps,
            self.acknowledged,
            self.faults.values().sum::<u64>(),
            self.faults.len(),
            EVENTS.len(),
            self.failed.len()
        )
    }

    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.acknowledged += outcome.acknowledged;
        for (what, number) in outcome.counts {
            *self.counts.entry(what).or_default() += number;
        }
        for (what, number) in outcome.faults {
            *self.faults.entry(what).or_default() += number;
        }
        self.failed.extend(outcome.violation.map(|violation| (seed, violation)));
    }
}

/// Runs `count` seeds from `first` on so many threads; stops once `failures` of them have failed.
pub(crate) fn search(first: u64, count: u64, cut: &Cut, failures: usize, threads: usize) -> Search {
    name_seeds_of_panics();
    let (next, start) = (AtomicU64::new(first), Instant::now());
    let found: Mutex<Search> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || found.lock().failed.len() >= failures {
                        return;
                    }
                    let outcome = examine(seed, cut);
                    found.lock().add(seed, outcome);
                }
            });
        }
    });
    let mut found = found.into_inner();
    found.failed.sort();
    found.took = start.elapsed();
    found
}

/// One seed, now and then twice.
fn examine(seed: u64, cut: &Cut) -> Outcome {
    RUNNING.set(seed);
    let mut outcome = run(Plan::of_seed(seed).cut(cut), false);
    if seed.is_multiple_of(TWICE) && outcome.violation.is_none() {
        let again = run(Plan::of_seed(seed).cut(cut), false);
        if (again.trace, again.steps) != (outcome.trace, outcome.steps) {
            outcome.violation = Some("the same seed twice is not the same history".into());
        }
    }
    outcome
}

thread_local! {
    /// The seed that this thread runs.
    static RUNNING: Cell<u64> = const { Cell::new(0) };
}

/// A panic in the product's code tells the seed that it came from.
fn name_seeds_of_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            let seed = RUNNING.get();
            if seed != 0 {
                eprintln!("in seed {seed}: armdb sim --seed {seed} --trace");
            }
        }));
    });
}
