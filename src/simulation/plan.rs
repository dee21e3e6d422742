//! What a run is made of: everything that a seed decides before anything happens, and what is left out of it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use super::Mutant;
use crate::engine::{Background, CompactionOptions, Durability, EngineOptions, Retention};
use crate::topology::random::Random;
use crate::topology::spec::AckRule;

/// What a run is made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(super) seed: u64,
    pub(super) members: usize,
    pub(super) controllers: usize,
    pub(super) shards: usize,
    pub(super) ack: AckRule,
    /// How engines are opened.
    pub(super) engine: EngineOptions,
    /// How long things go wrong.
    pub(super) rough: Duration,
    pub(super) loss_permille: u64,
    pub(super) duplicate_permille: u64,
    pub(super) late_permille: u64,
    /// Of messages that are late, this many by seconds.
    pub(super) very_late_permille: u64,
    /// The longest time between two faults.
    pub(super) calm_ms: u64,
    /// How often something happens just after the register was written.
    pub(super) ambush_permille: u64,
    /// Whether things go wrong by themselves.
    pub(super) faults: bool,
    /// Volumes are replaced, rot, or are copied; the register is lost; the voters' number changes.
    pub(super) upheavals: bool,
    pub(super) mutant: Option<Mutant>,
    /// Kinds of faults that do not happen.
    pub(super) without: BTreeSet<String>,
    /// Numbers of faults that do not happen.
    pub(super) skip: BTreeSet<u32>,
}

impl Plan {
    /// What a seed stands for.
    pub(crate) fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed_5eed_5eed_5eed);
        let members = [1, 2, 3, 3, 3, 4, 5, 5][random.below(8) as usize];
        let mut plan = Self {
            seed,
            members,
            controllers: 1 + random.below(3) as usize,
            shards: 1 + random.below(2) as usize,
            ack: if random.chance(250) { AckRule::All } else { AckRule::Quorum },
            engine: tiny(),
            rough: Duration::from_millis(4000 + random.below(8000)),
            loss_permille: [0, 0, 5, 30][random.below(4) as usize],
            duplicate_permille: [0, 10, 50][random.below(3) as usize],
            late_permille: [0, 10, 50, 150][random.below(4) as usize],
            very_late_permille: [0, 100, 300][random.below(3) as usize],
            calm_ms: [100, 300, 700][random.below(3) as usize],
            ambush_permille: [0, 100, 400][random.below(3) as usize],
            faults: true,
            upheavals: random.chance(400),
            mutant: None,
            without: BTreeSet::new(),
            skip: BTreeSet::new(),
        };
        if random.chance(200) {
            plan.engine.durability = Durability::Os;
        }
        plan.engine.memory_budget_bytes = [24 << 10, 64 << 10, 1 << 20][random.below(3) as usize];
        plan.engine.retention = Retention {
            min_bytes: [16 << 10, 48 << 10, 1 << 30][random.below(3) as usize],
            min_age: Duration::from_secs([2, 3600][random.below(2) as usize]),
            max_bytes: [Some(64 << 10), None][random.below(2) as usize],
        };
        plan.engine.compaction = CompactionOptions {
            min_garbage_ratio: [0.05, 0.3][random.below(2) as usize],
            tombstone_ratio: [0.05, 0.25][random.below(2) as usize],
            ..CompactionOptions::default()
        };
        plan
    }

    /// Nothing goes wrong by itself.
    #[cfg(test)]
    pub(super) fn calm(members: usize) -> Self {
        Self {
            members,
            controllers: 1,
            shards: 1,
            ack: AckRule::Quorum,
            engine: EngineOptions { retention: Retention::default(), ..tiny() },
            loss_permille: 0,
            duplicate_permille: 0,
            late_permille: 0,
            ambush_permille: 0,
            faults: false,
            upheavals: false,
            ..Self::of_seed(1)
        }
    }

    /// Durability Os.
    pub(super) fn relaxed(&self) -> bool {
        self.engine.durability == Durability::Os
    }

    /// How long things go wrong, in milliseconds.
    pub(super) fn rough_ms(&self) -> u64 {
        self.rough.as_millis() as u64
    }

    /// Members, controllers, shards.
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.members, self.controllers, self.shards)
    }

    /// The same with less in it.
    pub(crate) fn cut(mut self, cut: &Cut) -> Self {
        self.members = cut.members.unwrap_or(self.members);
        self.controllers = cut.controllers.unwrap_or(self.controllers);
        self.shards = cut.shards.unwrap_or(self.shards);
        self.rough = cut.rough_ms.map_or(self.rough, Duration::from_millis);
        if cut.kind_network {
            (self.loss_permille, self.duplicate_permille, self.late_permille) = (0, 0, 0);
        }
        self.without.extend(cut.without.iter().cloned());
        self.skip.extend(cut.skip.iter().copied());
        self.mutant = cut.mutant.or(self.mutant);
        self
    }
}

/// Segments that a few dozen entries fill.
fn tiny() -> EngineOptions {
    EngineOptions {
        segment_bytes: 16 << 10,
        zero_ahead_bytes: 4 << 10,
        memory_budget_bytes: 1 << 20,
        max_value_bytes: 2 << 10,
        background: Background::Manual,
        ..EngineOptions::default()
    }
}

/// What is left out of a seed's plan: how a failing one is made small, and shown again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) members: Option<usize>,
    pub(crate) controllers: Option<usize>,
    pub(crate) shards: Option<usize>,
    pub(crate) rough_ms: Option<u64>,
    /// Messages are neither lost nor late nor doubled by chance.
    pub(crate) kind_network: bool,
    /// Kinds of faults.
    pub(crate) without: BTreeSet<String>,
    /// Numbers of faults.
    pub(crate) skip: BTreeSet<u32>,
    pub(crate) mutant: Option<Mutant>,
}

impl fmt::Display for Cut {
    /// As options of `armdb sim`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |f: &mut fmt::Formatter<'_>, name: &str, number: Option<u64>| match number {
            Some(number) => write!(f, " --{name} {number}"),
            None => Ok(()),
        };
        number(f, "members", self.members.map(|n| n as u64))?;
        number(f, "controllers", self.controllers.map(|n| n as u64))?;
        number(f, "shards", self.shards.map(|n| n as u64))?;
        number(f, "rough-ms", self.rough_ms)?;
        if self.kind_network {
            f.write_str(" --kind-network")?;
        }
        let list = |f: &mut fmt::Formatter<'_>, name: &str, items: Vec<String>| match items.is_empty() {
            true => Ok(()),
            false => write!(f, " --{name} {}", items.join(",")),
        };
        list(f, "without", self.without.iter().cloned().collect())?;
        list(f, "skip", ranges(&self.skip))?;
        match self.mutant {
            Some(mutant) => write!(f, " --mutant {}", mutant.name()),
            None => Ok(()),
        }
    }
}

/// Numbers as ranges: `1-4,7`.
fn ranges(numbers: &BTreeSet<u32>) -> Vec<String> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(first, last): (u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_written_as_options() {
        let cut = Cut {
            members: Some(3),
            rough_ms: Some(900),
            kind_network: true,
            without: ["kill".to_owned(), "pause".to_owned()].into(),
            skip: [1, 2, 3, 7].into(),
            mutant: Some(Mutant::NoLeaseWait),
            ..Cut::default()
        };
        assert_eq!(
            cut.to_string(),
            " --members 3 --rough-ms 900 --kind-network --without kill,pause --skip 1-3,7 --mutant no-lease-wait"
        );
    }
}
