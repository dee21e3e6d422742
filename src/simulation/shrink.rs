//! Makes a failing seed small: fewer faults, members and minutes, as long as it still fails somehow.
//!
//! Greedy: what can be left out is left out for good. Each fault is drawn from a generator of its own, so that the rest
//! stays what it was, although what it meets may differ.

use std::time::{Duration, Instant};

use super::plan::{Cut, Plan};
use super::run::{Outcome, run};

/// A failing run that is as small as it was made.
pub(crate) struct Shrunk {
    pub(crate) cut: Cut,
    pub(crate) violation: String,
    /// Runs that it took.
    pub(crate) runs: u64,
    /// Faults that are left.
    pub(crate) faults: usize,
}

struct Shrinking {
    seed: u64,
    cut: Cut,
    best: Outcome,
    runs: u64,
    until: Instant,
}

/// Shrinks `seed` for at most `patience`; none: it does not fail.
pub(crate) fn shrink(seed: u64, cut: &Cut, patience: Duration) -> Option<Shrunk> {
    let best = run(Plan::of_seed(seed).cut(cut), false);
    best.violation.as_ref()?;
    let until = Instant::now() + patience;
    let mut shrinking = Shrinking { seed, cut: cut.clone(), best, runs: 1, until };
    shrinking.shorten();
    shrinking.leave_kinds_out();
    shrinking.simplify();
    shrinking.leave_numbers_out();
    shrinking.shorten();
    let Shrinking { cut, best, runs, .. } = shrinking;
    Some(Shrunk { cut, violation: best.violation.unwrap_or_default(), runs, faults: best.numbers.len() })
}

impl Shrinking {
    /// Whether it still fails with this left out too; if so, it stays so.
    fn try_cut(&mut self, change: impl FnOnce(&mut Cut)) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        let mut cut = self.cut.clone();
        change(&mut cut);
        if cut == self.cut {
            return false;
        }
        self.runs += 1;
        let outcome = run(Plan::of_seed(self.seed).cut(&cut), false);
        let fails = outcome.violation.is_some();
        if fails {
            self.cut = cut;
            self.best = outcome;
        }
        fails
    }

    /// Nothing needs to go wrong after it has failed.
    fn shorten(&mut self) {
        let plan = Plan::of_seed(self.seed).cut(&self.cut);
        let whole = plan.rough_ms();
        let ended = self.best.ended.as_millis() as u64;
        if ended < whole {
            self.try_cut(|cut| cut.rough_ms = Some(ended + 1));
        }
        for part in [2, 3, 4] {
            let now = Plan::of_seed(self.seed).cut(&self.cut).rough_ms();
            self.try_cut(|cut| cut.rough_ms = Some(now - now / part));
        }
    }

    fn leave_kinds_out(&mut self) {
        let kinds: Vec<String> = self.best.faults.keys().map(|&kind| kind.to_owned()).collect();
        for kind in kinds {
            self.try_cut(|cut| {
                cut.without.insert(kind);
            });
        }
    }

    fn simplify(&mut self) {
        self.try_cut(|cut| cut.kind_network = true);
        let plan = Plan::of_seed(self.seed).cut(&self.cut);
        let (members, controllers, shards) = plan.sizes();
        for fewer in (1..members).rev() {
            if !self.try_cut(|cut| cut.members = Some(fewer)) {
                break;
            }
        }
        for fewer in (1..controllers).rev() {
            if !self.try_cut(|cut| cut.controllers = Some(fewer)) {
                break;
            }
        }
        if shards > 1 {
            self.try_cut(|cut| cut.shards = Some(1));
        }
    }

    /// Halves, quarters, ... single ones.
    fn leave_numbers_out(&mut self) {
        let mut size = self.best.numbers.len().div_ceil(2);
        while size > 0 && Instant::now() < self.until {
            let mut at = 0;
            while at < self.best.numbers.len() {
                let part: Vec<u32> = self.best.numbers[at..].iter().take(size).copied().collect();
                if !self.try_cut(|cut| cut.skip.extend(part)) {
                    at += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }
}
