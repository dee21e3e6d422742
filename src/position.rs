//! Where in a shard's log: gsns, epochs, and the table that says which epoch a gsn belongs to.
//!
//! Positions are compared as (epoch, gsn), lexicographically (rule R7): a gsn alone means nothing across
//! a truncation, because truncated gsns are used again.

use serde::{Deserialize, Serialize};

/// Sequence number of an entry in its shard: contiguous, from 1. `0` means "nothing yet".
pub type Gsn = u64;

/// Term of leadership of a partition, from 1. `0` means "before any leader".
pub type Epoch = u64;

/// What no number reaches that is counted up one by one: gsns, epochs, lineages, openings. A larger one that is read or
/// received was never counted, and is refused, so that counting on cannot overflow. It is also the largest that
/// JSON, in which the register is kept, tells exactly (RFC 8259, section 6).
pub const COUNT_MAX: u64 = (1 << 53) - 1;

/// An entry's place in a shard's log. Ordered by epoch first, then gsn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LogPosition {
    /// The epoch whose leader appended the entry.
    pub epoch: Epoch,
    /// The entry's sequence number.
    pub gsn: Gsn,
}

impl LogPosition {
    /// Before the first entry.
    pub const ZERO: Self = Self { epoch: 0, gsn: 0 };

    /// A position.
    pub const fn new(epoch: Epoch, gsn: Gsn) -> Self {
        Self { epoch, gsn }
    }
}

/// The end of a shard's log: the last entry and the running chain over every entry up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogTail {
    /// Position of the last entry.
    pub last: LogPosition,
    /// `chain(g) = crc32(chain(g-1) || crc(g))`: equal positions with unequal chains prove divergence.
    pub chain: u32,
}

/// Which gsns each epoch opened at: `(epoch, gsn of its BARRIER)`, ascending in both.
///
/// Kept whole, never trimmed, because versions carry epochs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EpochTable(Vec<LogPosition>);

impl EpochTable {
    /// No epoch yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Starts of epochs.
    ///
    /// # Errors
    /// If they do not ascend in epoch and in gsn: two of them that do not.
    pub fn from_starts(starts: Vec<LogPosition>) -> Result<Self, String> {
        match starts.windows(2).find(|w| w[0].epoch >= w[1].epoch || w[0].gsn >= w[1].gsn) {
            Some(w) => Err(format!("{:?} is followed by {:?}: the starts of epochs ascend", w[0], w[1])),
            None => Ok(Self(starts)),
        }
    }

    /// The starts, ascending.
    pub fn starts(&self) -> &[LogPosition] {
        &self.0
    }

    /// The epoch that `gsn` was appended in; 0 before the first epoch.
    pub fn epoch_at(&self, gsn: Gsn) -> Epoch {
        match self.0.partition_point(|start| start.gsn <= gsn) {
            0 => 0,
            n => self.0[n - 1].epoch,
        }
    }

    /// Records that `epoch` opens at `gsn`.
    ///
    /// # Panics
    /// If it would not ascend.
    pub fn open(&mut self, epoch: Epoch, gsn: Gsn) {
        if let Some(last) = self.0.last() {
            assert!(last.epoch < epoch && last.gsn < gsn, "epoch {epoch} at {gsn} follows {last:?}");
        }
        self.0.push(LogPosition { epoch, gsn });
    }

    /// Forgets epochs that open above `gsn` (after a truncation to `gsn`).
    pub fn truncate(&mut self, gsn: Gsn) {
        self.0.retain(|start| start.gsn <= gsn);
    }

    /// The last position that two logs share: `self` ends at `end`, the other log is `other`, ending at
    /// `other_end`. Two logs that agree on the epoch of a gsn agree on everything up to it (Log Matching),
    /// so the answer is the end of the newest epoch both know, cut at the shorter of the two
    /// (KIP-101, KIP-279).
    pub fn last_common(&self, end: Gsn, other: &Self, other_end: Gsn) -> LogPosition {
        let end_of = |table: &Self, index: usize, end: Gsn| table.0.get(index + 1).map_or(end, |next| next.gsn - 1);
        for (i, start) in self.0.iter().enumerate().rev() {
            if let Ok(j) = other.0.binary_search_by_key(&start.epoch, |s| s.epoch) {
                if other.0[j].gsn != start.gsn {
                    // One leader per epoch: its BARRIER has one gsn. Anything else is divergence, which the
                    // chain check reports; agree on nothing from here on.
                    continue;
                }
                let gsn = end_of(self, i, end).min(end_of(other, j, other_end));
                return LogPosition { epoch: start.epoch, gsn };
            }
        }
        LogPosition::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(starts: &[(Epoch, Gsn)]) -> EpochTable {
        EpochTable::from_starts(starts.iter().map(|&(e, g)| LogPosition::new(e, g)).collect()).expect("ascending")
    }

    #[test]
    fn a_gsn_belongs_to_the_latest_epoch_that_opened_at_or_before_it() {
        let t = table(&[(1, 1), (3, 10), (4, 12)]);
        assert_eq!([0, 1, 9, 10, 11, 12, 99].map(|g| t.epoch_at(g)), [0, 1, 1, 3, 3, 4, 4]);
    }

    #[test]
    fn the_last_common_position_is_the_end_of_the_newest_shared_epoch() {
        let a = table(&[(1, 1), (2, 10)]);
        let b = table(&[(1, 1), (3, 8)]);
        assert_eq!(a.last_common(15, &b, 20), LogPosition::new(1, 7));
        assert_eq!(b.last_common(20, &a, 15), LogPosition::new(1, 7));
        assert_eq!(a.last_common(15, &a, 12), LogPosition::new(2, 12));
        assert_eq!(a.last_common(15, &EpochTable::new(), 0), LogPosition::ZERO);
    }
}
