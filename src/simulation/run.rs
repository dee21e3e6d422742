//! One seed: a time in which things go wrong, then one in which everything must become well.

use std::time::Duration;

use super::member::Counts;
use super::plan::Plan;
use super::world::World;

/// From the end of all faults until everything must be well.
const CONVERGENCE: Duration = Duration::from_secs(60);
/// Clients go on for so long after the last fault.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// What became of a run.
pub(crate) struct Outcome {
    /// The first rule found broken.
    pub(crate) violation: Option<String>,
    /// A number that differs as soon as two histories do.
    pub(crate) trace: u64,
    pub(crate) steps: u64,
    pub(crate) acknowledged: u64,
    pub(crate) counts: Counts,
    pub(crate) faults: Counts,
    /// Everything that happened, if it was to be told.
    pub(crate) told: Vec<String>,
    /// Simulated time at its end.
    pub(crate) ended: Duration,
    /// Numbers of the faults that happened.
    pub(crate) numbers: Vec<u32>,
}

/// Runs a plan.
pub(crate) fn run(plan: Plan, tell: bool) -> Outcome {
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
            let judged = world.oracle.judge();
            world.count(judged);
        } else if world.oracle.violation().is_none() {
            violation = Some(unwell(&world));
        }
    }
    violation = world.oracle.violation().map(str::to_owned).or(violation);
    if let (Some(violation), Some(told)) = (&violation, &mut world.told) {
        told.push(format!("{:>9.3} ms  BROKEN: {violation}", world.now.as_secs_f64() * 1000.0));
    }
    let untold = world.oracle.untold() as u64;
    for (what, number) in world.oracle.gone_back().clone() {
        *world.counts.entry(what).or_default() += number;
    }
    let nevers = world.oracle.nevers() as u64;
    *world.counts.entry("writes done and never told").or_default() += untold;
    *world.counts.entry("writes told to be not done").or_default() += nevers;
    *world.counts.entry("epochs").or_default() += world.store.present().map_or(0, |r| r.epoch);
    Outcome {
        violation,
        trace: world.trace,
        steps: world.steps,
        acknowledged: world.oracle.acknowledged() as u64,
        told: world.told.take().unwrap_or_default(),
        ended: world.now,
        numbers: std::mem::take(&mut world.fault_numbers),
        counts: std::mem::take(&mut world.counts),
        faults: std::mem::take(&mut world.faults),
    }
}

/// What is not as it should be.
fn unwell(world: &World) -> String {
    let views: Vec<_> = world.drivers.iter().filter_map(|d| d.view(world.now)).collect();
    let said: Vec<_> = views.iter().flat_map(|v| &v.conditions).map(|c| c.text.clone()).collect();
    let places: Vec<_> = world
        .places
        .iter()
        .map(|place| {
            let shards = place.process.as_ref().map(|p| p.engine.shards()).unwrap_or_default();
            let ends: Vec<_> =
                shards.iter().map(|s| (s.state().to_string(), s.tail().last, s.applied(), s.log_floor())).collect();
            let role = place.process.as_ref().map(|p| (p.core.role(), p.joined(), p.serving()));
            format!("{} {role:?} {ends:?}", place.sid)
        })
        .collect();
    let states: Vec<_> = views.iter().map(|v| (v.state, v.change.clone())).collect();
    format!("not everything is well {} s after the last fault: {said:?} {states:?} {places:#?}", CONVERGENCE.as_secs())
}
