//! Where the newest committed record of a key is: a hash table for gets, an ordered set of keys for scans.
//!
//! Neither knows what a record is. The hash table keeps no key bytes: its caller verifies a candidate in the
//! record, which it must read anyway. Both hold committed state only; what is appended but not yet committed
//! waits in the shard's overlay. A [`Location`] is a *slot number* of the shard's table of open segments and
//! an offset; 17 bits of slot mean that slot numbers, unlike file ids, have to be used again.

mod buckets;
mod hash;
mod ordered;

pub(crate) use hash::HashIndex;
pub(crate) use ordered::OrderedIndex;

/// Segments a shard may have open at once.
pub(crate) const MAX_SEGMENTS: u32 = 1 << SEGMENT_BITS;
/// Bytes of a segment that a location can reach.
pub(crate) const MAX_SEGMENT_BYTES: u64 = 8 << OFFSET_BITS;

const SEGMENT_BITS: u32 = 17;
const OFFSET_BITS: u32 = 23;
const LOCATION_BITS: u32 = SEGMENT_BITS + OFFSET_BITS;

/// A record's place. Never all zeros, because a segment starts with its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Location {
    /// Slot in the shard's table of open segments, below [`MAX_SEGMENTS`].
    pub(crate) segment: u32,
    /// Offset in the segment in units of 8 bytes, above 0.
    pub(crate) offset: u32,
}

impl Location {
    /// The place of the record at `offset_bytes` of a segment.
    ///
    /// # Panics
    /// If the offset is 0, not a multiple of 8, or beyond what a location can reach.
    pub(crate) fn at(segment: u32, offset_bytes: u64) -> Self {
        assert!(
            offset_bytes.is_multiple_of(8) && offset_bytes < MAX_SEGMENT_BYTES,
            "no record starts at {offset_bytes}"
        );
        let location = Self { segment, offset: (offset_bytes / 8) as u32 };
        location.check();
        location
    }

    /// Offset in the segment.
    pub(crate) fn offset_bytes(self) -> u64 {
        u64::from(self.offset) * 8
    }

    fn check(self) {
        assert!(
            self.segment < MAX_SEGMENTS && self.offset > 0 && self.offset < 1 << OFFSET_BITS,
            "{self:?} is no place of a record"
        );
    }

    /// Forty bits.
    fn pack(self) -> u64 {
        self.check();
        u64::from(self.segment) << OFFSET_BITS | u64::from(self.offset)
    }

    fn unpack(bits: u64) -> Self {
        Self {
            segment: (bits >> OFFSET_BITS) as u32 & (MAX_SEGMENTS - 1),
            offset: bits as u32 & ((1 << OFFSET_BITS) - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_survives_its_forty_bits_at_both_ends() {
        for (segment, offset) in [(0, 8), (MAX_SEGMENTS - 1, MAX_SEGMENT_BYTES - 8), (5, 64)] {
            let location = Location::at(segment, offset);
            assert!(location.pack() >> LOCATION_BITS == 0 && location.pack() != 0);
            assert_eq!(Location::unpack(location.pack()), location);
            assert_eq!(location.offset_bytes(), offset);
        }
    }

    #[test]
    #[should_panic(expected = "no place of a record")]
    fn a_segments_header_is_no_record() {
        Location::at(0, 0);
    }
}
