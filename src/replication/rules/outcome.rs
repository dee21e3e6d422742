//! R16: what may be said of an entry that was appended here.
//!
//! "Definitely not" is a promise about the future: with four or more voters a truncated entry may come back,
//! because another holder may become the donor of a later epoch. Only a committed entry in its place ends it.

use crate::position::{EpochTable, Gsn, LogPosition};

/// What became of an appended entry, as far as this member can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is committed, and every later leader has it.
    Committed,
    /// Another entry is committed in its place.
    DefinitelyNot,
    /// Neither is known here yet: wait, and at the deadline say "indeterminate".
    Unknown,
}

/// What became of the entry at `position`, given this member's `commit` and epoch table of the same moment.
pub fn outcome(position: LogPosition, commit: Gsn, epochs: &EpochTable) -> Outcome {
    if commit < position.gsn {
        Outcome::Unknown
    } else if epochs.epoch_at(position.gsn) == position.epoch {
        Outcome::Committed
    } else {
        Outcome::DefinitelyNot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_alone_proves_nothing() {
        let mut epochs = EpochTable::from_starts(vec![LogPosition::new(1, 1)]).expect("ascending");
        let entry = LogPosition::new(1, 5);
        assert_eq!(outcome(entry, 4, &epochs), Outcome::Unknown);
        // Truncated to 4, then epoch 2 opens at 5: still unknown until that BARRIER is committed.
        epochs.open(2, 5);
        assert_eq!(outcome(entry, 4, &epochs), Outcome::Unknown);
        assert_eq!(outcome(entry, 5, &epochs), Outcome::DefinitelyNot);
        assert_eq!(outcome(LogPosition::new(1, 4), 5, &epochs), Outcome::Committed);
    }
}
