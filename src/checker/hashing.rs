//! Maps and sets that hash in the same way in every process: the same history is searched in the same order, by whoever
//! is asked, and a fuzzer goes the same way twice.

use std::hash::{BuildHasherDefault, DefaultHasher};

pub(super) type HashMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<DefaultHasher>>;
pub(super) type HashSet<K> = std::collections::HashSet<K, BuildHasherDefault<DefaultHasher>>;
