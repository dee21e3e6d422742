//! What is written: an atomic batch of operations on one shard, with the conditions it depends on.

use bytes::Bytes;

use super::tree::{TreeId, TreeKind};
use crate::position::{Gsn, LogPosition};

/// The version of a key: the position of the record that wrote it. Never a bare gsn, because gsns are used
/// again after a truncation.
pub type Version = LogPosition;

/// What a condition wants to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No value.
    Absent,
    /// A value, whichever.
    Present,
    /// The value of this version.
    Version(Version),
}

/// A key that must be as expected for the batch to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The tree.
    pub tree: TreeId,
    /// The key.
    pub key: Bytes,
    /// What must be found there.
    pub expect: Expect,
}

/// One operation of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOp {
    /// Sets a key.
    Put {
        /// The tree.
        tree: TreeId,
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// When it expires: unix milliseconds of committed time.
        expires_ms: Option<u64>,
        /// What the value is, for the layers above (0: bytes).
        value_type: u8,
    },
    /// Removes a key, whether or not it exists.
    Delete {
        /// The tree.
        tree: TreeId,
        /// The key.
        key: Bytes,
    },
    /// Creates a tree; a no-op if it exists with this kind.
    CreateTree {
        /// Its name.
        name: String,
        /// Its kind.
        kind: TreeKind,
    },
}

/// Operations that happen together or not at all, if every condition holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WriteBatch {
    /// What must hold, judged at the batch's place in the log.
    pub conditions: Vec<Condition>,
    /// What is done then, in order.
    pub ops: Vec<WriteOp>,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a put without expiry to the default tree.
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.ops.push(WriteOp::Put {
            tree: TreeId::DEFAULT,
            key: key.into(),
            value: value.into(),
            expires_ms: None,
            value_type: 0,
        });
        self
    }

    /// Adds a delete from the default tree.
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.ops.push(WriteOp::Delete { tree: TreeId::DEFAULT, key: key.into() });
        self
    }

    /// Adds a condition on the default tree.
    pub fn expect(mut self, key: impl Into<Bytes>, expect: Expect) -> Self {
        self.conditions.push(Condition { tree: TreeId::DEFAULT, key: key.into(), expect });
        self
    }

    /// Adds any operation.
    pub fn op(mut self, op: WriteOp) -> Self {
        self.ops.push(op);
        self
    }
}

/// What became of a batch that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is in the log (not yet durable, not yet committed).
    Written {
        /// Its last record.
        position: LogPosition,
        /// Gsn of its first record; operation `i` has `first_gsn + i`.
        first_gsn: Gsn,
    },
    /// A condition did not hold; nothing was written.
    ConditionFailed {
        /// Which one.
        index: usize,
        /// The answer may be given only once the commit has reached this gsn.
        judged_at: Gsn,
    },
}
