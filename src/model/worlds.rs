//! The configurations: the small ones are exhausted, the large ones walked through at random.
//!
//! `ARMDB_MODEL=large` exhausts the larger ones too, and walks a hundred times as far: hours, and some of them more
//! memory than most machines have. `ARMDB_MODEL_SEED` walks elsewhere. Figures are in `docs/reliability.md`.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Path};

use super::lease::{Event, Leases};
use super::mutants::{LEASES, Walker};
use super::setup::{Durability, Setup};
use super::state::Config;

fn large() -> bool {
    std::env::var("ARMDB_MODEL").is_ok_and(|what| what == "large")
}

type Discoveries<M> = HashMap<&'static str, Path<<M as Model>::State, <M as Model>::Action>>;

fn tell<M: Model>(violations: Discoveries<M>)
where
    M::State: Debug,
    M::Action: Debug,
{
    let broken = violations.len();
    for (property, path) in violations {
        println!("broken: {property}");
        for (state, action) in path.into_vec() {
            match action {
                Some(action) => println!("    {action:?}"),
                None => println!("{state:#?}"),
            }
        }
    }
    assert_eq!(broken, 0, "properties are broken");
}

/// Every state of a world.
pub(super) fn exhaust<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Clone + PartialEq + Send + Sync + Debug + 'static,
    M::Action: Clone + PartialEq + Debug,
{
    let began = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::Any).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, depth {depth}, {:.1} s", began.elapsed().as_secs_f64());
    tell::<M>(checker.discoveries());
    assert!(checker.is_done(), "not all of it was seen");
}

/// Random walks through so many states.
fn walk<M>(name: &str, model: M, states: usize)
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Hash + Clone + PartialEq + Send + Sync + Debug + 'static,
    M::Action: Clone + PartialEq + Debug,
{
    let began = Instant::now();
    let walker = Walker(model.clone());
    let states = if large() { states * 100 } else { states };
    let seed = std::env::var("ARMDB_MODEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let checker = model
        .checker()
        .target_state_count(states)
        .finish_when(HasDiscoveries::Any)
        .spawn_simulation(seed, walker)
        .join();
    let (states, depth) = (checker.state_count(), checker.max_depth());
    println!("{name}: {states} states of walks, depth {depth}, {:.1} s", began.elapsed().as_secs_f64());
    tell::<M>(checker.discoveries());
}

macro_rules! worlds {
    ($($test:ident: $small:expr, $large:expr;)*) => {
        $(#[test]
        fn $test() {
            let name = stringify!($test).replace('_', " ");
            exhaust(&name, $small);
            if large() {
                exhaust(&name, $large);
            }
        })*
    };
}

/// {0, 1, 2} gives way to {0, 1, 3}.
fn replaced() -> Vec<Config> {
    vec![Config::majority(3), Config::of(&[0, 1, 3], 2)]
}

/// All must acknowledge, then a majority.
fn relaxed() -> Vec<Config> {
    vec![Config::of(&[0, 1, 2], 3), Config::majority(3)]
}

/// Coarse steps, in which everything can be seen.
const COARSE: Leases = Leases { step: Duration::from_millis(300), steps: 2, ..LEASES };

fn os(epochs: u8, writes: u8) -> Setup {
    Setup { durability: Durability::Os, crashes: 1, ..Setup::of(3, epochs, writes) }
}

fn fsync(epochs: u8, writes: u8) -> Setup {
    Setup { durability: Durability::Fsync, crashes: 1, ..Setup::of(3, epochs, writes) }
}

fn reconfigured(configs: Vec<Config>, members: usize, epochs: u8) -> Setup {
    Setup { configs, ..Setup::of(members, epochs, 1) }
}

// The first is exhausted always, the second if that is asked for.
worlds! {
    two_voters:
        Setup { lossy: true, notices: true, ..Setup::of(2, 3, 2) },
        Setup { lossy: true, notices: true, ..Setup::of(2, 4, 2) };
    three_voters:
        Setup::of(3, 3, 1),
        Setup::of(3, 3, 2);
    three_voters_and_the_live_leader:
        Setup { leader_only: true, ..Setup::of(3, 3, 0) },
        Setup { leader_only: true, ..Setup::of(3, 3, 1) };
    two_shards:
        Setup { shards: 2, ..Setup::of(2, 3, 1) },
        Setup { shards: 2, ..Setup::of(3, 2, 2) };
    atomic_batches:
        Setup { batches: true, durability: Durability::Fsync, crashes: 1, ..Setup::of(2, 2, 2) },
        Setup { batches: true, ..fsync(2, 2) };
    a_crash_before_a_sync:
        Setup { leader_only: true, ..fsync(2, 1) },
        Setup { leader_only: true, ..fsync(3, 1) };
    amnesia:
        Setup { leader_only: true, ..os(2, 1) },
        Setup { leader_only: true, ..os(3, 1) };
    a_voter_is_replaced:
        reconfigured(replaced(), 4, 2),
        reconfigured(replaced(), 4, 3);
    all_must_acknowledge_and_then_a_majority:
        reconfigured(relaxed(), 3, 2),
        reconfigured(relaxed(), 3, 3);
    a_log_is_compacted:
        Setup { compactions: 1, crashes: 1, ..Setup::of(3, 2, 1) },
        Setup { compactions: 1, crashes: 1, ..Setup::of(3, 3, 1) };
    a_volume_is_replaced:
        Setup { wipes: true, crashes: 1, ..Setup::of(3, 2, 1) },
        Setup { wipes: true, crashes: 1, ..Setup::of(3, 3, 1) };
    four_voters:
        Setup::of(4, 2, 1),
        Setup { notices: true, ..Setup::of(4, 3, 1) };
    clocks_within_the_bound:
        COARSE,
        Leases { steps: 4, ..COARSE };
}

#[test]
fn clocks_beyond_the_bound_are_noticed() {
    let beyond = Leases { spread_ppm: 200_000, ..COARSE };
    let checker = beyond.checker().finish_when(HasDiscoveries::Any).spawn_bfs().join();
    let (_, path) = checker.discoveries().into_iter().next().expect("a stale read");
    println!("noticed after {} states: {:?}", checker.unique_state_count(), path.into_actions());
}

/// The most unkind history: the grant is told at once, and nothing is late but the answer to a read.
const AT_ONCE: &[Event] = &[
    Event::Beat(0),
    Event::Arrives { beat: 0, member: 2 },
    Event::Acknowledged { beat: 0, member: 2 },
    Event::Alloc,
    Event::Fence(1),
    Event::Fence(2),
    Event::Promote(1),
];

#[test]
fn the_margin_of_a_lease_allows_for_clocks_that_differ_by_three_percent_and_not_by_four() {
    let fine = |spread_ppm| Leases { step: Duration::from_millis(2), steps: 400, spread_ppm, past: AT_ONCE, ..LEASES };
    exhaust("clocks that differ by three percent", fine(30_000));
    let checker = fine(40_000).checker().finish_when(HasDiscoveries::Any).spawn_bfs().join();
    assert_eq!(checker.discoveries().len(), 1);
}

macro_rules! walks {
    ($($test:ident: $states:literal, $world:expr;)*) => {
        $(#[test]
        fn $test() {
            walk(&stringify!($test).replace('_', " "), $world, $states);
        })*
    };
}

/// Everything that the model knows, in one world.
fn everything(n: usize, durability: Durability) -> Setup {
    Setup {
        shards: 2,
        batches: true,
        durability,
        crashes: 3,
        compactions: 1,
        wipes: true,
        leader_only: true,
        lossy: true,
        notices: true,
        ..Setup::of(n, 5, 5)
    }
}

walks! {
    three_voters_walked: 60_000, everything(3, Durability::Fsync);
    three_amnesic_voters_walked: 60_000, Setup { wipes: false, ..everything(3, Durability::Os) };
    four_voters_walked: 60_000, everything(4, Durability::Instant);
    five_voters_walked: 100_000, everything(5, Durability::Instant);
    changes_of_voters_walked: 60_000, Setup {
        configs: vec![Config::majority(3), Config::of(&[0, 1, 3], 2), Config::of(&[1, 3], 2), Config::majority(5)],
        ..everything(5, Durability::Fsync)
    };
    leases_walked: 1_000_000, Leases {
        step: Duration::from_millis(23),
        steps: 80,
        epochs: 4,
        writes: 3,
        beats: 6,
        restarts: 2,
        ..LEASES
    };
}
