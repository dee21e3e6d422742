//! A scan over all shards, merged by key, page by page.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::Inner;
use crate::engine::error::EngineError;
use crate::engine::tree::TreeId;
use crate::engine::value::{ScanRange, Value};

/// Entries read from a shard at once.
const PAGE_ENTRIES: usize = 256;
/// Bytes read from a shard at once, about.
const PAGE_BYTES: usize = 1 << 20;

/// The entries of a range. Each entry is what its key held when its page was read; the whole is no snapshot:
/// what is written during the scan may or may not be seen, what was there throughout comes exactly once.
#[derive(Debug)]
pub struct DbScan {
    inner: Arc<Inner>,
    tree: TreeId,
    reverse: bool,
    /// By shard.
    cursors: Vec<Cursor>,
}

#[derive(Debug)]
struct Cursor {
    /// What was not read yet; `None`: nothing.
    rest: Option<ScanRange>,
    page: VecDeque<(Bytes, Value)>,
}

impl DbScan {
    pub(super) fn new(inner: Arc<Inner>, tree: TreeId, range: ScanRange) -> Self {
        let cursor = || Cursor { rest: Some(range.clone()), page: VecDeque::new() };
        let cursors = inner.engine.shards().iter().map(|_| cursor()).collect();
        Self { inner, tree, reverse: range.reverse, cursors }
    }

    /// Reads the next page of every shard whose last one is used up.
    fn fill(&mut self) -> Result<(), EngineError> {
        for (shard, cursor) in self.inner.engine.shards().iter().zip(&mut self.cursors) {
            if !cursor.page.is_empty() {
                continue;
            }
            let Some(mut range) = cursor.rest.take() else { continue };
            let now_ms = self.inner.now_ms(shard);
            let page = shard.scan(self.tree, &range, PAGE_ENTRIES, PAGE_BYTES, now_ms)?;
            if let Some((last, _)) = page.entries.last().filter(|_| page.more) {
                let bound = Bound::Excluded(last.to_vec());
                if self.reverse {
                    range.end = bound;
                } else {
                    range.start = bound;
                }
                cursor.rest = Some(range);
            }
            cursor.page = page.entries.into();
        }
        Ok(())
    }
}

impl Iterator for DbScan {
    type Item = Result<(Bytes, Value), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.fill() {
            self.cursors.clear();
            return Some(Err(error));
        }
        let first = |cursor: &&mut Cursor| !cursor.page.is_empty();
        let key = |cursor: &&mut Cursor| cursor.page[0].0.clone();
        let filled = self.cursors.iter_mut().filter(first);
        let next = if self.reverse { filled.max_by_key(key) } else { filled.min_by_key(key) };
        next?.page.pop_front().map(Ok)
    }
}
