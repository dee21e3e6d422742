//! The order that the versions claim, tried first.
//!
//! The writes whose version is known stand in the order of their versions; everything else (reads, failed conditions)
//! *floats*: it goes to the first gap between two writes that its clock allows and where what it saw is so. Gaps are
//! given in the order of calls, and nobody gets one before that of somebody who had ended before he began: as all bounds
//! only ever push backwards, the first possible gap is the best (a least fixed point), and O(n log n) finds it.
//!
//! What has no version of its own is put in where somebody needs it: the end of a value's life, or a delete or put of
//! unknown outcome that nobody saw. One of them is enough between two writes of a key.
//!
//! This is a proposal: [`Problem::replays`] judges it. If it is wrong, the history may be right all the same, and the
//! search decides.

use super::hashing::HashMap;
use super::history::{Time, Value, Version};
use super::problem::{Effect, Guard, NEVER, Problem, Slot, Step, StepId};

/// Whether the order of the versions explains the problem.
pub(super) fn explains(problem: &Problem) -> bool {
    let unversioned = |step: &Step| !step.optional && !step.effects.is_empty() && step.position.is_none();
    if problem.steps.iter().any(|step| unversioned(step) && step.expires.is_none()) {
        return false;
    }
    propose(problem).is_some_and(|order| problem.replays(&order))
}

/// What a key holds from one of its writes to the next.
struct Region {
    /// The gap after the write; 0 = before any write.
    from: usize,
    /// None = absent.
    content: Option<(Value, Option<Version>)>,
    /// The step that wrote it.
    writer: Option<StepId>,
    /// The next region in which the key is absent.
    next_absent: usize,
}

#[derive(Default)]
struct Regions {
    list: Vec<Region>,
    by_version: HashMap<Version, usize>,
    by_value: HashMap<Value, Vec<usize>>,
}

impl Regions {
    fn at(&self, gap: usize) -> usize {
        self.list.partition_point(|region| region.from <= gap) - 1
    }

    /// The first gap from `gap` on where the guard holds.
    fn next(&self, guard: Guard, gap: usize) -> Option<usize> {
        let here = self.at(gap);
        let region = match guard {
            Guard::Absent => self.list[here].next_absent,
            Guard::Present => (here..self.list.len()).find(|it| self.list[*it].content.is_some())?,
            Guard::NotVersion(version) => {
                let is = |it: &usize| self.list[*it].content.is_some_and(|(_, had)| had == Some(version));
                (here..self.list.len()).find(|it| !is(it))?
            }
            Guard::Version { version, .. } => *self.by_version.get(&version)?,
            Guard::Is { value, version: Some(version), .. } if self.by_version.contains_key(&version) => {
                let region = self.by_version[&version];
                (self.list[region].content?.0 == value).then_some(region)?
            }
            Guard::Is { value, .. } => *self.by_value.get(&value)?.iter().find(|it| **it >= here)?,
            Guard::HeldBy(_) => return None,
        };
        if region < here || region >= self.list.len() {
            return None;
        }
        Some(self.list[region].from.max(gap))
    }
}

/// Something without a version that ends a region's content.
struct Demand {
    key: Slot,
    region: usize,
    /// Whether the key must be absent afterwards, or only something else.
    absent: bool,
    /// Those who need it, with the gap they stand in and the last moment they can be at.
    by: Vec<(StepId, Time)>,
    /// The latest gap it may lie in.
    gap: usize,
}

fn propose(problem: &Problem) -> Option<Vec<StepId>> {
    let steps = &problem.steps;
    let step = |id: StepId| &steps[id as usize];
    let ids = || 0..steps.len() as StepId;
    let mut writes: Vec<StepId> = ids().filter(|id| step(*id).position.is_some()).collect();
    writes.sort_by_key(|id| step(*id).position);

    // Gap g lies after g writes. What lies in it must begin before every later write has ended and end after every
    // earlier one has begun.
    let mut begun = vec![0; writes.len() + 1];
    let mut ended = vec![NEVER; writes.len() + 1];
    for (index, write) in writes.iter().enumerate() {
        begun[index + 1] = begun[index].max(step(*write).call);
    }
    for (index, write) in writes.iter().enumerate().rev() {
        ended[index] = ended[index + 1].min(step(*write).end);
    }
    let earliest = |call: Time| ended.partition_point(|end| *end < call);
    let mut regions = regions(problem, &writes);
    let mut placed: Vec<(usize, Time, StepId)> = Vec::with_capacity(steps.len());
    let mut demands: HashMap<(Slot, usize), Demand> = HashMap::default();
    let mut demand = |regions: &[Regions], key: Slot, gap: usize, absent: bool, by: (StepId, Time)| {
        let region = regions[key as usize].at(gap);
        let new = Demand { key, region, absent: false, by: Vec::new(), gap };
        let demand = demands.entry((key, region)).or_insert(new);
        demand.absent |= absent;
        demand.by.push(by);
        demand.gap = demand.gap.min(gap);
    };

    for (index, write) in writes.iter().enumerate() {
        // Its guards hold in the gap before it, or something must have happened there.
        for (key, guard) in &step(*write).guards {
            let held = regions[*key as usize].next(*guard, index) == Some(index);
            if !held && matches!(guard, Guard::Absent | Guard::NotVersion(_) | Guard::Present) {
                demand(&regions, *key, index, *guard == Guard::Absent, (*write, step(*write).end));
            }
        }
        placed.push((index + 1, 0, *write));
    }

    let mut floats: Vec<StepId> = ids().filter(|id| is_float(step(*id))).collect();
    floats.sort_by_key(|id| step(*id).call);
    let mut by_end: Vec<(Time, usize)> = floats.iter().enumerate().map(|(at, id)| (step(*id).end, at)).collect();
    by_end.sort_unstable();
    let mut gaps = vec![0; floats.len()];
    let (mut over, mut behind) = (0, 0);
    for (at, id) in floats.iter().enumerate() {
        let float = step(*id);
        while over < by_end.len() && by_end[over].0 < float.call {
            behind = behind.max(gaps[by_end[over].1]);
            over += 1;
        }
        let first = earliest(float.call).max(behind);
        let mut gap = Some(first);
        // Each guard pushes on to where it holds; until none does any more.
        while let Some(now) = gap {
            let pushed = |gap: Option<usize>, (key, guard): &(Slot, Guard)| regions[*key as usize].next(*guard, gap?);
            gap = float.guards.iter().fold(gap, pushed);
            if gap == Some(now) {
                break;
            }
        }
        if let Some(put) = float.expires {
            // A life that certainly ends: after the value was overwritten that means nothing.
            let key = float.effects[0].0;
            let regions = &regions[key as usize].list;
            let own = regions.iter().position(|region| region.writer == Some(put))?;
            gap = regions.get(own + 1).map(|next| next.from.max(first));
        }
        gap = gap.filter(|gap| begun[*gap] <= float.end);
        let gap = match (gap, float.expires) {
            (Some(gap), _) => gap,
            (None, Some(put)) => {
                let key = float.effects[0].0;
                let own = regions[key as usize].list.iter().find(|region| region.writer == Some(put))?;
                demand(&regions, key, own.from.max(first), true, (*id, float.end));
                gaps[at] = first;
                continue;
            }
            (None, None) => {
                for (key, guard) in &float.guards {
                    if regions[*key as usize].next(*guard, first) != Some(first) {
                        demand(&regions, *key, first, *guard == Guard::Absent, (*id, float.end));
                    }
                }
                first
            }
        };
        gaps[at] = gap;
        placed.push((gap, float.call.max(begun[gap]), *id));
    }
    meet(problem, &mut regions, demands, &mut placed, &earliest)?;
    // A write opens its gap; among the rest, by the clock.
    placed.sort_by_key(|(gap, time, id)| (*gap, step(*id).position.is_none(), *time));
    Some(placed.into_iter().map(|(_, _, id)| id).collect())
}

fn is_float(step: &Step) -> bool {
    step.position.is_none() && !step.optional
}

fn regions(problem: &Problem, writes: &[StepId]) -> Vec<Regions> {
    let mut regions: Vec<Regions> = problem.keys.iter().map(|_| Regions::default()).collect();
    for of_key in &mut regions {
        of_key.list.push(Region { from: 0, content: None, writer: None, next_absent: usize::MAX });
    }
    for (index, id) in writes.iter().enumerate() {
        for (key, effect) in &problem.steps[*id as usize].effects {
            let content = match effect {
                Effect::Put { value, version, .. } => Some((*value, *version)),
                _ => None,
            };
            let of_key = &mut regions[*key as usize];
            // Of two effects on one key in one step the later one counts.
            of_key.list.pop_if(|last| last.from == index + 1);
            of_key.list.push(Region { from: index + 1, content, writer: Some(*id), next_absent: usize::MAX });
        }
    }
    for of_key in &mut regions {
        let mut next_absent = usize::MAX;
        for (index, region) in of_key.list.iter_mut().enumerate().rev() {
            if region.content.is_none() {
                next_absent = index;
            }
            region.next_absent = next_absent;
        }
        for (index, region) in of_key.list.iter().enumerate() {
            if let Some((value, version)) = region.content {
                of_key.by_value.entry(value).or_default().push(index);
                version.map(|version| of_key.by_version.insert(version, index));
            }
        }
    }
    regions
}

/// Finds for each demand something that happened without a version.
fn meet(
    problem: &Problem,
    regions: &mut [Regions],
    demands: HashMap<(Slot, usize), Demand>,
    placed: &mut Vec<(usize, Time, StepId)>,
    earliest: &impl Fn(Time) -> usize,
) -> Option<()> {
    if demands.is_empty() {
        return Some(());
    }
    // What may have happened on each key, by its call: (step, leaves the key absent).
    let mut silent: HashMap<Slot, Vec<(StepId, bool)>> = HashMap::default();
    let mut expiries: HashMap<(Slot, StepId), StepId> = HashMap::default();
    for (id, step) in problem.steps.iter().enumerate() {
        let id = id as StepId;
        match (step.effects.as_slice(), step.expires) {
            ([(key, _)], Some(put)) => drop(expiries.insert((*key, put), id)),
            ([(key, effect)], None) if step.optional && step.position.is_none() && step.guards.is_empty() => {
                silent.entry(*key).or_default().push((id, matches!(effect, Effect::Delete { .. })));
            }
            _ => {}
        }
    }
    for list in silent.values_mut() {
        list.sort_by_key(|(id, _)| problem.steps[*id as usize].call);
    }
    // Whoever saw the content must have been there before it went.
    let mut last_seen: HashMap<(Slot, usize), Time> = HashMap::default();
    for (gap, _, id) in placed.iter() {
        let step = &problem.steps[*id as usize];
        for (key, guard) in step.guards.iter().filter(|_| is_float(step)) {
            if matches!(guard, Guard::Is { .. } | Guard::Version { .. } | Guard::Present) {
                let seen = last_seen.entry((*key, regions[*key as usize].at(*gap))).or_default();
                *seen = (*seen).max(step.call);
            }
        }
    }

    let mut demands: Vec<Demand> = demands.into_values().collect();
    demands.sort_by_key(|demand| (demand.key, demand.region));
    let mut moved: HashMap<StepId, Time> = HashMap::default();
    for demand in demands {
        let region = &regions[demand.key as usize].list[demand.region];
        let deadline = demand.by.iter().map(|(_, end)| *end).min()?;
        let own = region.writer.and_then(|put| expiries.get(&(demand.key, put)).copied());
        let own = own.filter(|own| problem.steps[*own as usize].call <= deadline);
        let candidate = own.or_else(|| {
            let list = silent.get_mut(&demand.key)?;
            // The latest that is early enough: earlier ones can serve those who come earlier.
            let fits = |(id, absent): &(StepId, bool)| {
                problem.steps[*id as usize].call <= deadline && (*absent || !demand.absent)
            };
            let found = list.iter().rposition(fits)?;
            Some(list.remove(found).0)
        })?;
        let seen = last_seen.get(&(demand.key, demand.region)).copied().unwrap_or(0);
        let time = problem.steps[candidate as usize].call.max(seen);
        let gap = earliest(time).max(region.from).min(demand.gap);
        placed.retain(|(_, _, id)| *id != candidate);
        placed.push((gap, time, candidate));
        for (id, _) in demand.by {
            let latest = moved.entry(id).or_default();
            *latest = (*latest).max(time);
        }
    }
    for (_, time, id) in placed.iter_mut() {
        if let Some(not_before) = moved.get(id) {
            *time = (*time).max(*not_before + 1);
        }
    }
    Some(())
}
