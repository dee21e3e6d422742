//! Every order, until one explains: Wing and Gong's search with Lowe's memory.
//!
//! Calls and ends lie in one list by time. From the front, a step that may come next (its call lies before the first end
//! in the list) and whose guards hold is taken out of the list, and the search goes on from the front; at an end whose
//! step is still in the list, the last step taken is put back and the next one tried. A situation, which is the set of
//! steps taken with what the keys then hold, is never tried twice: of each a fingerprint of 128 bits is kept (the XOR of
//! one number a step and one a content), so it costs the same whatever the length of the history.
//! An optional step has no end in the list: it may be taken at any time, or be left.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use super::problem::{Problem, State, StepId, print_of_words};

/// What the search found.
#[derive(Debug)]
pub(super) enum Found {
    /// An explanation.
    Order(Vec<StepId>),
    /// There is none.
    Nothing,
    /// The limit was reached.
    GaveUp,
}

/// The list of calls and ends; entry 0 is the front of it, the last the back.
struct Entries {
    steps: Vec<(bool, StepId)>,
    next: Vec<u32>,
    previous: Vec<u32>,
    /// Of each step.
    calls: Vec<u32>,
    ends: Vec<Option<u32>>,
}

impl Entries {
    fn new(problem: &Problem) -> Self {
        let mut times = Vec::with_capacity(2 * problem.steps.len());
        for (id, step) in problem.steps.iter().enumerate() {
            times.push((step.call, false, id as StepId));
            if !step.optional {
                times.push((step.end, true, id as StepId));
            }
        }
        // At the same time a call comes before an end: the two overlap.
        times.sort_unstable();
        let mut entries = Self {
            steps: vec![(false, 0)],
            next: (1..=times.len() as u32 + 2).collect(),
            previous: (0..=times.len() as u32 + 1).map(|index| index.saturating_sub(1)).collect(),
            calls: vec![0; problem.steps.len()],
            ends: vec![None; problem.steps.len()],
        };
        for (_, is_end, id) in times {
            let at = entries.steps.len() as u32;
            entries.steps.push((is_end, id));
            if is_end {
                entries.ends[id as usize] = Some(at);
            } else {
                entries.calls[id as usize] = at;
            }
        }
        entries
    }

    fn take(&mut self, id: StepId) {
        for entry in [Some(self.calls[id as usize]), self.ends[id as usize]].into_iter().flatten() {
            let (previous, next) = (self.previous[entry as usize], self.next[entry as usize]);
            self.next[previous as usize] = next;
            self.previous[next as usize] = previous;
        }
    }

    /// Undoes the last [`Self::take`] that was not undone.
    fn put_back(&mut self, id: StepId) {
        for entry in [self.ends[id as usize], Some(self.calls[id as usize])].into_iter().flatten() {
            let (previous, next) = (self.previous[entry as usize], self.next[entry as usize]);
            self.next[previous as usize] = entry;
            self.previous[next as usize] = entry;
        }
    }
}

/// Looks for an explanation among at most `limit` situations.
pub(super) fn explain(problem: &Problem, limit: usize) -> Found {
    let mut entries = Entries::new(problem);
    let mut state = State::new(problem.keys.len());
    let mut seen: HashSet<u128, BuildHasherDefault<AlreadyHashed>> = HashSet::default();
    let prints: Vec<u128> = (0..problem.steps.len() as u64).map(|id| print_of_words([u64::MAX, id])).collect();
    let mut taken: Vec<(StepId, usize)> = Vec::new();
    let mut print = 0;
    let mut missing = problem.steps.iter().filter(|step| !step.optional).count();
    let mut entry = entries.next[0];
    while missing > 0 {
        // Something is missing, so its end is in the list, and the search stops there at the latest.
        let (is_end, id) = entries.steps[entry as usize];
        if is_end {
            let Some((last, mark)) = taken.pop() else { return Found::Nothing };
            state.back_to(mark);
            print ^= prints[last as usize];
            entries.put_back(last);
            missing += usize::from(!problem.steps[last as usize].optional);
            entry = entries.next[entries.calls[last as usize] as usize];
            continue;
        }
        let step = &problem.steps[id as usize];
        let mark = state.mark();
        if state.apply(step) {
            if seen.insert(print ^ prints[id as usize] ^ state.fingerprint) {
                if seen.len() > limit {
                    return Found::GaveUp;
                }
                print ^= prints[id as usize];
                entries.take(id);
                taken.push((id, mark));
                missing -= usize::from(!step.optional);
                entry = entries.next[0];
                continue;
            }
            state.back_to(mark);
        }
        entry = entries.next[entry as usize];
    }
    Found::Order(taken.into_iter().map(|(id, _)| id).collect())
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut word = [0; 8];
        let len = bytes.len().min(8);
        word[..len].copy_from_slice(&bytes[..len]);
        self.0 ^= u64::from_le_bytes(word);
    }
}
