//! What reads return.

use std::ops::Bound;

use bytes::Bytes;

use super::batch::Version;

/// A committed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The bytes.
    pub bytes: Bytes,
    /// The record that wrote them.
    pub version: Version,
    /// When they expire: unix milliseconds of committed time.
    pub expires_ms: Option<u64>,
    /// What they are, for the layers above (0: bytes).
    pub value_type: u8,
}

/// A range of keys and the direction to read it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRange {
    /// Lower bound.
    pub start: Bound<Vec<u8>>,
    /// Upper bound.
    pub end: Bound<Vec<u8>>,
    /// From the upper bound downwards.
    pub reverse: bool,
}

impl ScanRange {
    /// Every key.
    pub fn all() -> Self {
        Self { start: Bound::Unbounded, end: Bound::Unbounded, reverse: false }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Self { start: Bound::Included(prefix.to_vec()), end: Bound::Excluded(end), reverse: false };
            }
        }
        Self { start: Bound::Included(prefix.to_vec()), end: Bound::Unbounded, reverse: false }
    }

    /// The same range, the other way.
    pub fn reversed(mut self) -> Self {
        self.reverse = !self.reverse;
        self
    }
}

/// One page of a scan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScanPage {
    /// Keys and values in the asked order.
    pub entries: Vec<(Bytes, Value)>,
    /// Whether the range holds more: go on after the last key.
    pub more: bool,
}
