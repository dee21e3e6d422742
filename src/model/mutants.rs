//! Each rule broken once: a model that does not notice proves nothing.
//!
//! The table is [`TABLE`]; each of its rows is a test of its own, named after its rule. A mutant is looked for by
//! random walks from a fixed seed in the smallest world in which its rule matters; where a walk would seldom come there,
//! it begins with a past. The simulation has mutants of its own, over the same rules (`simulation::Mutant`).

use std::time::{Duration, Instant};

use stateright::{Checker, Chooser, HasDiscoveries, Model};

use super::lease::{Event, LeaseMutant, Leases};
use super::setup::{Durability, Mutant, Setup};
use super::state::Config;
use super::steps::Action;
use crate::topology::random::Random;

/// A mutant that lives for so many states is not caught.
const PATIENCE: usize = 4_000_000;

/// Chooses evenly among what changes anything.
#[derive(Clone)]
pub(super) struct Walker<M>(pub(super) M);

impl<M> Chooser<M> for Walker<M>
where
    M: Model + Clone + Send + 'static,
    M::Action: Clone,
{
    type State = Random;

    fn new_state(&self, seed: u64) -> Random {
        Random::new(seed)
    }

    fn choose_initial_state(&self, random: &mut Random, initial: &[M::State]) -> usize {
        random.below(initial.len() as u64) as usize
    }

    fn choose_action(&self, random: &mut Random, state: &M::State, actions: &[M::Action]) -> usize {
        let mut left: Vec<usize> = (0..actions.len()).collect();
        while left.len() > 1 {
            let at = left.swap_remove(random.below(left.len() as u64) as usize);
            if self.0.next_state(state, actions[at].clone()).is_some() {
                return at;
            }
        }
        left[0]
    }
}

/// Walks until a property fails; which one, after how many steps of a walk, and in how many states of all walks.
fn walk_until_broken<M>(model: M) -> Option<(&'static str, usize, usize)>
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: std::hash::Hash + Clone + PartialEq + Send + Sync + 'static,
    M::Action: Clone + PartialEq,
{
    let checker = model
        .clone()
        .checker()
        .target_state_count(PATIENCE)
        .finish_when(HasDiscoveries::Any)
        .spawn_simulation(1, Walker(model))
        .join();
    let (property, path) = checker.discoveries().into_iter().next()?;
    Some((property, path.into_actions().len(), checker.state_count()))
}

/// What a row of the table breaks.
enum World {
    Log(Mutant, Setup),
    Lease(LeaseMutant, Leases),
}

fn catch(rule: &str, world: World, property: &str) {
    let began = Instant::now();
    let (mutant, found) = match world {
        World::Log(mutant, setup) => {
            (format!("{mutant:?}"), walk_until_broken(Setup { mutant: Some(mutant), ..setup }))
        }
        World::Lease(mutant, leases) => {
            (format!("{mutant:?}"), walk_until_broken(Leases { mutant: Some(mutant), ..leases }))
        }
    };
    let Some((broken, steps, states)) = found else { panic!("{rule}: {mutant} was not noticed in {PATIENCE} states") };
    let seconds = began.elapsed().as_secs_f64();
    println!("{rule}: {mutant} is noticed after {states} states, {seconds:.1} s, by {steps} steps: not \"{broken}\"");
    assert!(
        property.split(" or ").any(|property| property == broken),
        "{rule}: another property than expected, {broken}"
    );
}

/// The smallest world of leases.
pub(super) const LEASES: Leases = Leases {
    step: Duration::from_millis(100),
    steps: 9,
    spread_ppm: 1000,
    epochs: 2,
    writes: 1,
    beats: 1,
    restarts: 0,
    past: &[],
    mutant: None,
};

/// Member 1 leads epoch 2, and a write of it was acknowledged; member 0 does not know and reads.
const OVERTAKEN: &[Event] = &[
    Event::Alloc,
    Event::Fence(1),
    Event::Fence(2),
    Event::Promote(1),
    Event::Write { leader: 1, with: 2 },
    Event::Read(0),
];

const WRITE: Action = Action::Write { member: 0, shard: 0, entries: 1 };
const ALLOC: Action = Action::Alloc { plan: 0, stale: false };
const COMPACT: Action = Action::Compact { member: 0, shard: 0 };

fn past(actions: &[Action]) -> Vec<Action> {
    actions.to_vec()
}

fn fence(attempt: usize, member: usize) -> Action {
    Action::Fence { attempt, member, lost: false }
}

fn choose(attempt: usize, want: usize) -> Action {
    Action::Choose { attempt, want }
}

fn decide(attempt: usize) -> Action {
    Action::Decide { attempt }
}

fn promote(attempt: usize) -> Action {
    Action::Promote { attempt }
}

/// Of epoch 1.
fn deliver(member: usize) -> Action {
    Action::Deliver { epoch: 1, member, shard: 0 }
}

fn acknowledged(member: usize) -> Action {
    Action::Acknowledged { epoch: 1, member, shard: 0 }
}

fn sync(member: usize) -> Action {
    Action::Sync { member, fails: false }
}

/// Disks that have to be synced, and one that crashes.
fn crashing() -> Setup {
    Setup { durability: Durability::Fsync, crashes: 1, ..Setup::of(3, 2, 1) }
}

macro_rules! table {
    ($($test:ident: $rule:literal, $kind:ident($mutant:expr, $world:expr) => $property:literal;)*) => {
        /// Rule, mutant, and the test in which it is caught.
        const TABLE: &[(&str, &str, &str)] = &[$(($rule, stringify!($mutant), stringify!($test))),*];
        $(#[test]
        fn $test() {
            catch($rule, World::$kind($mutant, $world), $property);
        })*
    };
}

table! {
    r1_an_epoch_is_taken_by_a_swap: "R1", Log(
        Mutant::EpochTakenTwice,
        Setup::of(3, 3, 0)
    ) => "an epoch has one leader";
    r1_decide_is_a_swap: "R1", Log(
        Mutant::DecideWithoutSwap,
        Setup { configs: vec![Config::majority(3), Config::of(&[2], 1)], ..Setup::of(3, 4, 1) }
    ) => "who is promoted has all that was committed";
    r2_a_promise_is_durable_before_it_is_answered: "R2", Log(
        Mutant::PromiseNotPersisted,
        Setup { crashes: 1, ..Setup::of(3, 2, 1) }
    ) => "who is promoted has all that was committed";
    r3_only_the_leader_of_the_promised_epoch_is_obeyed: "R3", Log(
        Mutant::AnyLeaderIsObeyed,
        Setup::of(3, 2, 1)
    ) => "who is promoted has all that was committed";
    r3_only_a_verified_prefix_is_acknowledged: "R3", Log(
        Mutant::JoinsByLength,
        Setup::of(3, 3, 2)
    ) => "who is promoted has all that was committed";
    r4_older_entries_commit_only_under_an_own_one: "R4", Log(
        Mutant::CommitsOlderEpochs,
        Setup {
            past: past(&[WRITE, ALLOC, fence(0, 1), fence(0, 2), choose(0, 1), decide(0), promote(0)]),
            ..Setup::of(3, 4, 1)
        }
    ) => "who is promoted has all that was committed";
    r4_the_leader_counts_its_own_durable_mark: "R4", Log(
        Mutant::LeaderCountsUnsynced,
        Setup { past: past(&[WRITE, deliver(1)]), ..crashing() }
    ) => "who is promoted has all that was committed";
    r5_a_read_quorum_has_r_members: "R5", Log(
        Mutant::FenceByOneLess,
        Setup::of(3, 2, 1)
    ) => "nothing is committed that a later leader lacks";
    r5_a_restarted_leader_is_no_read_quorum: "R5", Log(
        Mutant::RestartedLeaderIsAQuorum,
        Setup { leader_only: true, past: past(&[WRITE, deliver(1), deliver(2), sync(1), sync(2)]), ..crashing() }
    ) => "who is promoted has all that was committed";
    r6_the_promise_is_checked_for_every_batch: "R6", Log(
        Mutant::AssembleWithoutPromise,
        Setup::of(3, 4, 2)
    ) => "nobody finds its own rules broken";
    r7_positions_are_compared_by_epoch_first: "R7", Log(
        Mutant::LongestLogWins,
        Setup::of(3, 3, 3)
    ) => "who is promoted has all that was committed";
    r8_amnesic_storage_does_not_count: "R8", Log(
        Mutant::AmnesicCounts,
        Setup { durability: Durability::Os, crashes: 1, ..Setup::of(3, 2, 1) }
    ) => "who is promoted has all that was committed";
    r8_an_empty_volume_does_not_count: "R8", Log(
        Mutant::WipedVolumeCounts,
        Setup { wipes: true, crashes: 1, ..Setup::of(3, 2, 1) }
    ) => "who is promoted has all that was committed";
    r9_a_leader_learns_its_quorum_from_promote_alone: "R9", Log(
        Mutant::LeaderReadsRegister,
        Setup {
            configs: vec![Config::majority(3), Config::of(&[0, 1, 3], 2)],
            past: past(&[WRITE, deliver(3), acknowledged(3)]),
            ..Setup::of(4, 2, 1)
        }
    ) => "nothing is committed that a later leader lacks";
    r9_w_of_the_next_voters_have_everything_before_decide: "R9", Log(
        Mutant::OnlyCandidateAssembled,
        Setup {
            configs: vec![Config::of(&[0, 1], 2), Config::of(&[1, 2, 3], 2)],
            past: past(&[WRITE, deliver(1), acknowledged(1)]),
            ..Setup::of(4, 3, 1)
        }
    ) => "who is promoted has all that was committed";
    r10_a_restarted_leader_does_not_lead: "R10", Log(
        Mutant::RestartedLeaderLeads,
        Setup { durability: Durability::Fsync, crashes: 1, ..Setup::of(3, 2, 2) }
    ) => "nobody finds its own rules broken";
    r11_no_copy_is_taken_from_a_leader_that_is_over: "R11", Log(
        Mutant::CopyFromAnOlderLeader,
        Setup { compactions: 1, ..Setup::of(3, 3, 2) }
    ) => "committed prefixes agree";
    r12_a_failed_sync_is_not_passed_over: "R12", Log(
        Mutant::FailedSyncIgnored,
        crashing()
    ) => "who is promoted has all that was committed";
    r13_a_read_wants_a_lease: "R13", Lease(
        LeaseMutant::ReadWithoutLease,
        LEASES
    ) => "no linearizable read is stale";
    r13_the_lease_is_checked_after_reading: "R13", Lease(
        LeaseMutant::CheckBeforeReading,
        LEASES
    ) => "no linearizable read is stale";
    r13_the_lease_is_one_of_the_same_term: "R13", Lease(
        LeaseMutant::ReadForgetsItsEpoch,
        Leases { epochs: 3, past: OVERTAKEN, ..LEASES }
    ) => "no linearizable read is stale";
    r14_a_floor_is_persisted_before_anything_is_dropped: "R14", Log(
        Mutant::FloorNotPersisted,
        Setup {
            compactions: 1,
            crashes: 1,
            past: past(&[WRITE, deliver(1), acknowledged(1), COMPACT]),
            ..Setup::of(3, 3, 1)
        }
    ) => "nobody finds its own rules broken";
    r15_only_what_is_committed_is_visible: "R15", Log(
        Mutant::UncommittedIsVisible,
        Setup::of(3, 2, 1)
    ) => "reads show what is committed";
    r16_truncation_alone_proves_nothing_with_four: "R16", Log(
        Mutant::TruncationIsAnAnswer,
        Setup::of(4, 4, 1)
    ) => "what was called gone is never committed";
    r16_truncation_alone_proves_nothing_with_five: "R16", Log(
        Mutant::TruncationIsAnAnswer,
        Setup::of(5, 4, 1)
    ) => "what was called gone is never committed";
    a_torn_batch_is_cut_away: "batches", Log(
        Mutant::TornBatchKept,
        Setup { batches: true, durability: Durability::Fsync, crashes: 1, ..Setup::of(3, 2, 2) }
    ) => "batches are committed whole";
    a_new_leader_waits_for_older_leases: "leases", Lease(
        LeaseMutant::NoLeaseWait,
        LEASES
    ) => "no linearizable read is stale";
    a_lease_counts_from_the_sending: "leases", Lease(
        LeaseMutant::LeaseFromArrival,
        LEASES
    ) => "no linearizable read is stale";
    a_restarted_member_assumes_that_it_had_granted: "leases", Lease(
        LeaseMutant::GrantForgotten,
        Leases { restarts: 1, ..LEASES }
    ) => "no linearizable read is stale";
}

#[test]
fn every_rule_has_a_mutant_that_is_caught() {
    for (rule, mutant, test) in TABLE {
        println!("{rule:8} {mutant:40} {test}");
    }
    for rule in (1..=16).map(|n| format!("R{n}")) {
        assert!(TABLE.iter().any(|(of, ..)| *of == rule), "{rule} has no mutant");
    }
}

#[test]
fn r1_decide_without_a_swap_is_harmless_to_logs_while_voters_stay_as_they_are() {
    let setup = Setup { mutant: Some(Mutant::DecideWithoutSwap), ..Setup::of(2, 3, 1) };
    super::worlds::exhaust("DECIDE without a swap, fixed voters", setup);
}

#[test]
fn r1_decide_without_a_swap_makes_an_old_leader_a_read_quorum() {
    let setup = Setup { leader_only: true, ..Setup::of(3, 4, 1) };
    let world = World::Log(Mutant::DecideWithoutSwap, setup);
    catch("R1", world, "who is promoted has all that was committed");
}
