//! Thousands of histories by chance, each one a seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Mutant;
use super::world::{Plan, World};

/// From the end of all faults until everything must be well.
const CONVERGENCE: Duration = Duration::from_secs(60);

/// Clients go on for so long after the last fault.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// What became of a run.
struct Outcome {
    violation: Option<String>,
    trace: u64,
    counts: BTreeMap<&'static str, u64>,
    told: Vec<String>,
}

fn run(plan: Plan, tell: bool) -> Outcome {
    let rough = plan.rough;
    let mut world = World::new(plan);
    world.told = tell.then(Vec::new);
    let mut violation = None;
    if world.run(rough) {
        world.heal();
        world.run(AFTERWARDS);
        world.clients = false;
        if world.oracle.violation().is_some() {
            // Told below.
        } else if world.until(CONVERGENCE, World::converged) {
            world.check_everything();
        } else {
            let views: Vec<_> = world.drivers.iter().filter_map(|d| d.view(world.now)).collect();
            let said: Vec<_> = views.iter().flat_map(|v| &v.conditions).map(|c| c.text.clone()).collect();
            let states: Vec<_> = views.iter().map(|v| (v.state, v.change.clone(), v.members.clone())).collect();
            violation = Some(format!(
                "not everything is well {} s after the last fault: {said:?} {states:#?}",
                CONVERGENCE.as_secs()
            ));
        }
    }
    violation = world.oracle.violation().map(str::to_owned).or(violation);
    let acknowledged = world.oracle.acknowledged() as u64;
    let nevers = world.oracle.nevers() as u64;
    world.counts.insert("writes acknowledged", acknowledged);
    world.counts.insert("writes told to be not done", nevers);
    world.counts.insert("steps", world.steps);
    world.counts.insert("epochs", world.store.present().map_or(0, |r| r.epoch));
    let told = world.told.take().unwrap_or_default();
    Outcome { violation, trace: world.trace, counts: world.counts, told }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs `count` seeds from `first` on all processors; the first that fails, if one does.
fn search(first: u64, count: u64, mutant: Option<Mutant>) -> (Option<(u64, String)>, BTreeMap<&'static str, u64>) {
    let next = AtomicU64::new(first);
    let failed: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let totals: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failed.lock().is_some() {
                        return;
                    }
                    let outcome = run(Plan { mutant, ..Plan::of_seed(seed) }, false);
                    let mut totals = totals.lock();
                    for (what, number) in outcome.counts {
                        *totals.entry(what).or_default() += number;
                    }
                    if let Some(violation) = outcome.violation {
                        let mut failed = failed.lock();
                        if failed.as_ref().is_none_or(|(known, _)| seed < *known) {
                            *failed = Some((seed, violation));
                        }
                    }
                }
            });
        }
    });
    (failed.into_inner(), totals.into_inner())
}

#[test]
fn no_seed_loses_resurrects_or_contradicts_anything_and_all_heal() {
    let count = from_environment("ARMDB_SIMULATION_SEEDS").unwrap_or(2000);
    let first = from_environment("ARMDB_SIMULATION_FIRST").unwrap_or(1);
    let (failed, totals) = search(first, count, None);
    println!("{totals:#?}");
    if let Some((seed, violation)) = failed {
        panic!(
            "seed {seed}: {violation}\nthe same again, with everything that happens:\n    \
             ARMDB_SIMULATION_SEED={seed} cargo test --lib simulation::seeds::one_seed -- --nocapture"
        );
    }
    // A simulation in which nothing happens proves nothing.
    for what in ["kills", "pauses", "isolations", "cuts", "volumes replaced", "registers lost", "reads"] {
        assert!(count < 200 || totals.get(what).is_some_and(|n| *n > 0), "{what} never happened");
    }
}

#[test]
fn one_seed() {
    let seed = from_environment("ARMDB_SIMULATION_SEED").unwrap_or(1);
    let outcome = run(Plan::of_seed(seed), true);
    if from_environment("ARMDB_SIMULATION_SEED").is_some() {
        println!("{:#?}", Plan::of_seed(seed));
        for line in &outcome.told {
            println!("{line}");
        }
    }
    assert_eq!(outcome.violation, None);
}

#[test]
fn one_seed_is_one_history() {
    for seed in [1, 2, 3] {
        let (once, again) = (run(Plan::of_seed(seed), true), run(Plan::of_seed(seed), true));
        assert_eq!((once.trace, once.told), (again.trace, again.told), "seed {seed}");
    }
}

/// A mutant that lives would mean that the simulation does not look where it says it looks.
fn is_caught(mutant: Mutant) {
    let (failed, totals) = search(1, 2000, Some(mutant));
    let (seed, violation) = failed.unwrap_or_else(|| panic!("{mutant:?} was not noticed: {totals:#?}"));
    println!("{mutant:?} was noticed by seed {seed}: {violation}");
}

#[test]
fn joining_logs_by_length_alone_is_noticed() {
    is_caught(Mutant::NoDivergenceCheck);
}
