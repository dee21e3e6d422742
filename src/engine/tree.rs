//! Trees: named keyspaces of a shard. Created by replicated CATALOG records, so that every member agrees.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a tree, as records carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TreeId(pub u16);

impl TreeId {
    /// The tree that always exists.
    pub const DEFAULT: Self = Self(0);
}

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a tree can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum TreeKind {
    /// Point reads and scans.
    #[default]
    Ordered,
    /// Point reads only: less memory a key.
    Hash,
}

/// One tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeInfo {
    /// Its number.
    pub id: TreeId,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: TreeKind,
}
