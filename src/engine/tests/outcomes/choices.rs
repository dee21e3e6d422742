//! Which outcomes of one moment are looked at: everything un-synced kept and nothing of it; each of the two with
//! every single thing the other way round; each with every pair of things the other way round.
//!
//! A thing is a name, a length (whole or half), a page (as it is, or as it was between two writes), a sector of a page.

use crate::disk::{Keep, Unsynced};

/// Something un-synced, by its number in the moment, that goes the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flip {
    what: usize,
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// A file that grew half as much.
    Half,
    Earlier(usize),
    Sector(u8),
}

/// What a crash keeps.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    /// What becomes of everything that is not flipped.
    keep: bool,
    flips: Vec<Flip>,
}

/// The things that may go either way.
pub(super) fn flips(unsynced: &[Unsynced]) -> Vec<Flip> {
    let mut all = Vec::new();
    for (what, thing) in unsynced.iter().enumerate() {
        all.push(Flip { what, part: Part::Whole });
        match thing {
            Unsynced::Length { .. } => all.push(Flip { what, part: Part::Half }),
            Unsynced::Page { sectors, earlier, .. } => {
                all.extend((0..*earlier).map(|version| Flip { what, part: Part::Earlier(version) }));
                if sectors.count_ones() > 1 {
                    let sectors = (0..8).filter(|i| sectors & 1 << i != 0);
                    all.extend(sectors.map(|i| Flip { what, part: Part::Sector(i) }));
                }
            }
            Unsynced::Name { .. } => {}
        }
    }
    all
}

/// How many choices [`nth`] knows.
pub(super) fn count(flips: &[Flip]) -> usize {
    let n = flips.len();
    2 + 2 * n + n * n.saturating_sub(1)
}

/// How many of them flip at most one thing: they come first.
pub(super) fn count_simple(flips: &[Flip]) -> usize {
    2 + 2 * flips.len()
}

/// The choice of a number; the simple ones come first.
pub(super) fn nth(flips: &[Flip], number: usize) -> Choice {
    let n = flips.len();
    let keep = number.is_multiple_of(2);
    let number = number / 2;
    if number == 0 {
        return Choice { keep, flips: Vec::new() };
    }
    if number <= n {
        return Choice { keep, flips: vec![flips[number - 1]] };
    }
    // Row by row of the triangle: (0, 1), (0, 2), ... (1, 2), ...
    let (mut pair, mut first) = (number - n - 1, 0);
    while pair >= n - 1 - first {
        pair -= n - 1 - first;
        first += 1;
    }
    Choice { keep, flips: vec![flips[first], flips[first + 1 + pair]] }
}

impl Choice {
    /// What becomes of one thing.
    pub(super) fn of(&self, what: usize) -> Keep {
        let mut sectors = 0;
        let mut decided = None;
        for flip in self.flips.iter().filter(|flip| flip.what == what) {
            match flip.part {
                Part::Whole => return if self.keep { Keep::Drop } else { Keep::Keep },
                Part::Half => decided = Some(Keep::Torn(4)),
                Part::Earlier(version) => decided = Some(Keep::Earlier(version)),
                Part::Sector(sector) => sectors |= 1u8 << sector,
            }
        }
        match (decided, self.keep) {
            (Some(decided), _) => decided,
            (None, true) if sectors != 0 => Keep::Torn(!sectors),
            (None, false) if sectors != 0 => Keep::Torn(sectors),
            (None, true) => Keep::Keep,
            (None, false) => Keep::Drop,
        }
    }

    /// In words.
    pub(super) fn tell(&self, unsynced: &[Unsynced]) -> String {
        let flips: Vec<String> =
            self.flips.iter().map(|flip| format!("{:?} of {:?}", flip.part, unsynced[flip.what])).collect();
        let all = if self.keep { "everything is kept" } else { "nothing is kept" };
        if flips.is_empty() { all.into() } else { format!("{all}, but not so: {}", flips.join(" and ")) }
    }
}

#[test]
fn every_choice_has_a_number_and_no_two_are_the_same() {
    let page = |page, sectors, earlier| Unsynced::Page { path: "/a".into(), page, sectors, earlier };
    let unsynced = [
        Unsynced::Name { change: "create /a".into() },
        Unsynced::Length { path: "/a".into(), from: 0, to: 8192 },
        page(0, 0b101, 1),
        page(1, 0b1, 0),
    ];
    let flips = flips(&unsynced);
    assert_eq!(flips.len(), 1 + 2 + 4 + 1);
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..count(&flips) {
        let choice = nth(&flips, number);
        assert_eq!(choice.flips.len() < 2, number < count_simple(&flips));
        assert!(seen.insert(choice.tell(&unsynced)), "{choice:?} comes twice");
    }
    assert_eq!(seen.len(), 2 * (1 + 8 + 28));
    let only_one_sector = Choice { keep: false, flips: vec![Flip { what: 2, part: Part::Sector(2) }] };
    assert_eq!((only_one_sector.of(2), only_one_sector.of(3)), (Keep::Torn(0b100), Keep::Drop));
}
