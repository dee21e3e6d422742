//! One set of keys with everything that was done to them, in the form that witness and search work on.
//!
//! A [`Step`] has guards, effects and a time in which it took place. A step is *optional* if nobody knows whether it
//! took place at all: a write of unknown outcome, or the end of a value's life. A value whose version was never told
//! takes the version that a guard names for it, if no other write is known to have that version: so a write of unknown
//! outcome may be what a client saw.

use xxhash_rust::xxh3::xxh3_128;

use super::hashing::{HashMap, HashSet};
use super::history::{History, Key, Time, Value, Version};

/// The end of what never ends.
pub(super) const NEVER: Time = Time::MAX;

/// A step's place in [`Problem::steps`].
pub(super) type StepId = u32;

/// A key's place in [`Problem::keys`].
pub(super) type Slot = u32;

/// What must be so when a step takes place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    Absent,
    Present,
    /// With `loose`: no write is known to have this version, so one whose version is unknown may.
    Version {
        version: Version,
        loose: bool,
    },
    NotVersion(Version),
    Is {
        value: Value,
        version: Option<Version>,
        loose: bool,
    },
    /// The key holds what this step put.
    HeldBy(StepId),
}

/// What a step does to one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Put {
        value: Value,
        version: Option<Version>,
        /// The step itself, if what it puts expires.
        mortal: Option<StepId>,
    },
    Delete {
        version: Option<Version>,
    },
    Add(u64),
    /// Deletes what this step put, if it is still there.
    Expire(StepId),
}

#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) call: Time,
    /// [`NEVER`] for an optional step.
    pub(super) end: Time,
    pub(super) optional: bool,
    pub(super) guards: Vec<(Slot, Guard)>,
    pub(super) effects: Vec<(Slot, Effect)>,
    /// Where its versions say it lies among the others.
    pub(super) position: Option<Version>,
    /// The operation it stands for, by its index; an expiry stands for the one that put the value.
    pub(super) origin: usize,
    /// For the expiry of a value: the step that put it.
    pub(super) expires: Option<StepId>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Problem {
    pub(super) keys: Vec<Key>,
    pub(super) steps: Vec<Step>,
}

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    value: Value,
    version: Option<Version>,
    mortal: Option<StepId>,
}

/// What every key holds, with a fingerprint that changes with it.
pub(super) struct State {
    contents: Vec<Option<Content>>,
    pub(super) fingerprint: u128,
    /// What was changed, for [`Self::back_to`].
    past: Vec<(Slot, Option<Content>)>,
}

impl State {
    pub(super) fn new(keys: usize) -> Self {
        Self { contents: vec![None; keys], fingerprint: 0, past: Vec::new() }
    }

    /// A moment that one can go back to.
    pub(super) fn mark(&self) -> usize {
        self.past.len()
    }

    pub(super) fn back_to(&mut self, mark: usize) {
        while self.past.len() > mark {
            let (key, content) = self.past.pop().expect("it is longer");
            self.replace(key, content);
        }
    }

    fn set(&mut self, key: Slot, content: Option<Content>) {
        let old = self.replace(key, content);
        self.past.push((key, old));
    }

    fn replace(&mut self, key: Slot, content: Option<Content>) -> Option<Content> {
        let old = std::mem::replace(&mut self.contents[key as usize], content);
        self.fingerprint ^= print_of(key, old) ^ print_of(key, content);
        old
    }

    /// Does the step if its guards hold; false = nothing is changed.
    pub(super) fn apply(&mut self, step: &Step) -> bool {
        let mark = self.mark();
        if step.guards.iter().all(|(key, guard)| self.holds(*key, *guard)) {
            for (key, effect) in &step.effects {
                self.take_effect(*key, *effect);
            }
            return true;
        }
        self.back_to(mark);
        false
    }

    fn holds(&mut self, key: Slot, guard: Guard) -> bool {
        let content = self.contents[key as usize];
        let mut is = |version: Version, loose: bool| match content {
            Some(Content { version: Some(had), .. }) => had == version,
            Some(unversioned) if loose => {
                self.set(key, Some(Content { version: Some(version), ..unversioned }));
                true
            }
            _ => false,
        };
        match guard {
            Guard::Absent => content.is_none(),
            Guard::Present => content.is_some(),
            Guard::Version { version, loose } => is(version, loose),
            Guard::NotVersion(version) => content.is_none_or(|content| content.version != Some(version)),
            Guard::Is { value, version, loose } => {
                content.is_some_and(|content| content.value == value)
                    && version.is_none_or(|version| is(version, loose))
            }
            Guard::HeldBy(step) => content.is_some_and(|content| content.mortal == Some(step)),
        }
    }

    fn take_effect(&mut self, key: Slot, effect: Effect) {
        let content = self.contents[key as usize];
        match effect {
            Effect::Put { value, version, mortal } => self.set(key, Some(Content { value, version, mortal })),
            Effect::Delete { .. } => self.set(key, None),
            Effect::Add(amount) => {
                let sum = content.map_or(0, |content| content.value.0).wrapping_add(amount);
                self.set(key, Some(Content { value: Value(sum), version: None, mortal: None }));
            }
            Effect::Expire(step) => {
                if content.is_some_and(|content| content.mortal == Some(step)) {
                    self.set(key, None);
                }
            }
        }
    }
}

/// 128 bits: among the 10^7 states that a search may see, two of the same print are out of the question.
fn print_of(key: Slot, content: Option<Content>) -> u128 {
    let Some(Content { value, version, mortal }) = content else { return 0 };
    let (lineage, position) = version.map_or((u64::MAX, Default::default()), |it| (it.lineage, it.position));
    let words = [u64::from(key), value.0, lineage, position.epoch, position.gsn, mortal.map_or(u64::MAX, u64::from)];
    print_of_words(words)
}

pub(super) fn print_of_words<const N: usize>(words: [u64; N]) -> u128 {
    let mut bytes = Vec::with_capacity(8 * N);
    words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    xxh3_128(&bytes)
}

impl Problem {
    /// Whether `order` is an explanation: it holds every step that certainly took place, none twice, contradicts no
    /// clock, and every guard holds in its place.
    pub(super) fn replays(&self, order: &[StepId]) -> bool {
        let mut state = State::new(self.keys.len());
        let mut placed = vec![false; self.steps.len()];
        let mut latest_call = 0;
        for id in order {
            let step = &self.steps[*id as usize];
            latest_call = latest_call.max(step.call);
            if std::mem::replace(&mut placed[*id as usize], true) || latest_call > step.end || !state.apply(step) {
                return false;
            }
        }
        self.steps.iter().zip(placed).all(|(step, placed)| placed || step.optional)
    }

    /// Gives writes of unknown version the version under which a client saw their value, marks the guards that may
    /// still be met by an unknown one, and leaves out optional steps that could explain nothing.
    pub(super) fn prepare(&mut self) {
        self.infer_versions();
        self.mark_loose();
        self.drop_useless();
        for step in &mut self.steps {
            let version = |(_, effect): &(Slot, Effect)| match effect {
                Effect::Put { version, .. } | Effect::Delete { version } => *version,
                _ => None,
            };
            step.position = step.effects.iter().filter_map(version).max();
        }
    }

    fn told(&self) -> HashSet<(Slot, Version)> {
        let mut told = HashSet::default();
        for (key, effect) in self.steps.iter().flat_map(|step| &step.effects) {
            if let Effect::Put { version: Some(version), .. } | Effect::Delete { version: Some(version) } = effect {
                told.insert((*key, *version));
            }
        }
        told
    }

    fn infer_versions(&mut self) {
        let anonymous = |effect: &Effect| match effect {
            Effect::Put { value, version: None, .. } => Some(*value),
            _ => None,
        };
        let mut writers: HashMap<(Slot, Value), u32> = HashMap::default();
        for (key, effect) in self.steps.iter().flat_map(|step| &step.effects) {
            if let Some(value) = anonymous(effect) {
                *writers.entry((*key, value)).or_default() += 1;
            }
        }
        if writers.is_empty() {
            return;
        }
        let told = self.told();
        let mut seen: HashMap<(Slot, Value), Option<Version>> = HashMap::default();
        for (key, guard) in self.steps.iter().flat_map(|step| &step.guards) {
            let Guard::Is { value, version: Some(version), .. } = guard else { continue };
            if !told.contains(&(*key, *version)) {
                // Two versions of one value: nobody can say whose they are.
                let known = seen.entry((*key, *value)).or_insert(Some(*version));
                *known = known.filter(|known| known == version);
            }
        }
        for (key, effect) in self.steps.iter_mut().flat_map(|step| &mut step.effects) {
            let Effect::Put { value, version: version @ None, .. } = effect else { continue };
            if writers.get(&(*key, *value)) == Some(&1) {
                *version = seen.get(&(*key, *value)).copied().flatten();
            }
        }
    }

    fn mark_loose(&mut self) {
        let told = self.told();
        for (key, guard) in self.steps.iter_mut().flat_map(|step| &mut step.guards) {
            if let Guard::Version { version, loose } | Guard::Is { version: Some(version), loose, .. } = guard {
                *loose = !told.contains(&(*key, *version));
            }
        }
    }

    /// An optional step may be left out of any explanation if nothing that it would bring about meets any guard: what
    /// followed it then follows what preceded it, and nobody looked in between. Whoever adds to a key looks at it.
    fn drop_useless(&mut self) {
        #[derive(Default, Clone)]
        struct Wanted {
            absent: bool,
            other: bool,
            loose: bool,
            added_to: bool,
            values: HashSet<Value>,
        }
        let mut wanted = vec![Wanted::default(); self.keys.len()];
        for (key, guard) in self.steps.iter().flat_map(|step| &step.guards) {
            let wanted = &mut wanted[*key as usize];
            match guard {
                Guard::Absent => wanted.absent = true,
                Guard::Present | Guard::NotVersion(_) => wanted.other = true,
                Guard::Version { loose, .. } => wanted.loose |= loose,
                Guard::Is { value, .. } => drop(wanted.values.insert(*value)),
                Guard::HeldBy(_) => {}
            }
        }
        for (key, effect) in self.steps.iter().flat_map(|step| &step.effects) {
            wanted[*key as usize].added_to |= matches!(effect, Effect::Add(_));
        }
        let useless = |(key, effect): &(Slot, Effect)| {
            let wanted = &wanted[*key as usize];
            let unseen = match effect {
                Effect::Put { value, mortal, .. } => {
                    let dead = mortal.is_some() && wanted.absent;
                    !wanted.other && !wanted.loose && !dead && !wanted.values.contains(value)
                }
                Effect::Delete { .. } | Effect::Expire(_) => !wanted.absent && !wanted.other,
                Effect::Add(_) => false,
            };
            unseen && !wanted.added_to
        };
        self.retain(|step| !step.optional || !step.effects.iter().all(useless));
    }

    /// Keeps some steps, and renumbers those that name each other.
    pub(super) fn retain(&mut self, keep: impl Fn(&Step) -> bool) {
        let mut numbers = vec![None; self.steps.len()];
        let mut count = 0;
        for (index, step) in self.steps.iter().enumerate() {
            // Expiries come after what expires: its fate is known.
            if keep(step) && step.expires.is_none_or(|put| numbers[put as usize].is_some()) {
                numbers[index] = Some(count);
                count += 1;
            }
        }
        if count as usize == self.steps.len() {
            return;
        }
        let mut index = 0;
        self.steps.retain(|_| {
            index += 1;
            numbers[index - 1].is_some()
        });
        let moved = |id: &mut StepId| *id = numbers[*id as usize].expect("what a step names is kept");
        for step in &mut self.steps {
            step.expires.as_mut().map(moved);
            for (_, guard) in &mut step.guards {
                if let Guard::HeldBy(id) = guard {
                    moved(id);
                }
            }
            for (_, effect) in &mut step.effects {
                match effect {
                    Effect::Expire(id) => moved(id),
                    Effect::Put { mortal: Some(id), .. } => {
                        // Without its expiry it simply lives on.
                        moved(id);
                    }
                    _ => {}
                }
            }
        }
    }

    /// The keys, in words.
    pub(super) fn names(&self, history: &History) -> String {
        const SHOWN: usize = 8;
        let names: Vec<_> = self.keys.iter().take(SHOWN).map(|key| history.name(*key)).collect();
        let more = self.keys.len().saturating_sub(SHOWN);
        format!("{}{}", names.join(", "), if more > 0 { format!(" and {more} more") } else { String::new() })
    }
}
