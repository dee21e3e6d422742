//! What comes back: values, versions and tokens.
//!
//! A [`Version`] names one write of one key; a [`Token`] says how far a session has seen. Both are opaque: their text
//! form is only for carrying them through a shell or a file.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::net::proto;
use crate::position::LogPosition;

/// Text that is no version or token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version: five numbers joined by '-' are wanted, as armdb prints them")]
pub struct ParsePositionError(String);

/// One write of one key. Versions of different keys mean nothing to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    partition: u32,
    shard: u32,
    lineage: u64,
    epoch: u64,
    gsn: u64,
}

impl Version {
    /// Lineage, epoch and gsn, which order the versions of one shard. For tools that judge what they were told; an
    /// application has no use for it.
    pub fn position(&self) -> (u64, LogPosition) {
        (self.lineage, LogPosition::new(self.epoch, self.gsn))
    }

    pub(super) fn from_proto(p: &proto::Position) -> Self {
        Self { partition: p.partition, shard: p.shard, lineage: p.lineage, epoch: p.epoch, gsn: p.gsn }
    }

    pub(super) fn to_proto(self) -> proto::Position {
        let Self { partition, shard, lineage, epoch, gsn } = self;
        proto::Position { partition, shard, lineage, epoch, gsn }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}-{}", self.partition, self.shard, self.lineage, self.epoch, self.gsn)
    }
}

impl FromStr for Version {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let wrong = || ParsePositionError(text.to_owned());
        let parts: Vec<u64> =
            text.split('-').map(|part| part.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
        let [partition, shard, lineage, epoch, gsn] = parts[..] else { return Err(wrong()) };
        let small = |number: u64| u32::try_from(number).map_err(|_| wrong());
        Ok(Self { partition: small(partition)?, shard: small(shard)?, lineage, epoch, gsn })
    }
}

/// How far a session has seen: a position in every shard that matters to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Token {
    positions: Vec<Version>,
}

impl Token {
    /// Takes in everything `other` has seen.
    pub fn merge(&mut self, other: &Token) {
        for theirs in &other.positions {
            match self.positions.iter_mut().find(|p| (p.partition, p.shard) == (theirs.partition, theirs.shard)) {
                Some(ours) => {
                    if (ours.lineage, ours.epoch, ours.gsn) < (theirs.lineage, theirs.epoch, theirs.gsn) {
                        *ours = *theirs;
                    }
                }
                None => self.positions.push(*theirs),
            }
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    pub(super) fn from_proto(token: &proto::Token) -> Self {
        Self { positions: token.positions.iter().map(Version::from_proto).collect() }
    }

    pub(super) fn from_version(version: Version) -> Self {
        Self { positions: vec![version] }
    }

    pub(super) fn to_proto(&self) -> proto::Token {
        proto::Token { positions: self.positions.iter().map(|p| p.to_proto()).collect() }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, position) in self.positions.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{position}")?;
        }
        Ok(())
    }
}

impl FromStr for Token {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self { positions: text.split(',').map(str::parse).collect::<Result<_, _>>()? })
    }
}

/// A value as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its bytes.
    pub bytes: Bytes,
    /// The write that put it there.
    pub version: Version,
    /// When it expires, in milliseconds since 1970 by the shard's clock.
    pub expires_ms: Option<u64>,
    /// The application's tag.
    pub value_type: u8,
}

impl Value {
    pub(super) fn from_proto(value: proto::Value) -> Self {
        Self {
            bytes: value.value,
            version: Version::from_proto(&value.version.unwrap_or_default()),
            expires_ms: value.expires_ms,
            value_type: value.value_type as u8,
        }
    }
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value; without bytes when only keys were asked for.
    pub value: Value,
}

impl Entry {
    pub(super) fn from_proto(entry: proto::Entry) -> Self {
        Self { key: entry.key, value: Value::from_proto(entry.value.unwrap_or_default()) }
    }
}

/// An acknowledged write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Hand it to a read ([`ReadLevel::AtLeast`](super::ReadLevel::AtLeast)) that must see this write.
    pub token: Token,
    /// The version of each operation, in order.
    pub versions: Vec<Version>,
}

/// What became of a conditional batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Written, whole.
    Applied(Written),
    /// A condition did not hold; nothing was written.
    ConditionFailed {
        /// The first condition that did not hold, in the order they were added.
        index: usize,
    },
}

impl WriteOutcome {
    /// Whether it was written.
    pub fn applied(&self) -> bool {
        matches!(self, Self::Applied(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_tokens_survive_their_text() {
        let token: Token = "0-1-2-3-4,0-2-2-3-99".parse().expect("a token");
        assert_eq!(token.to_string(), "0-1-2-3-4,0-2-2-3-99");
        for bad in ["1-2-3-4", "1-2-3-4-x", "4294967296-0-0-0-0", "1-2-3-4-5-6"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn merging_keeps_the_later_position_of_each_shard() {
        let mut token: Token = "0-0-0-3-10,0-1-0-3-5".parse().expect("a token");
        token.merge(&"0-0-0-2-99,0-1-0-4-1,0-2-0-1-1".parse().expect("a token"));
        assert_eq!(token.to_string(), "0-0-0-3-10,0-1-0-4-1,0-2-0-1-1");
    }
}
