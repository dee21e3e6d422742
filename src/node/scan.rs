//! One page of a scan: the shards' pages merged by key, in either direction.
//!
//! Each key is linearizable, the whole is no snapshot. Invariant: a key that is there throughout comes
//! exactly once, because the cursor is the last key and a page ends where the first shard's knowledge ends.

use std::ops::Bound;

use bytes::Bytes;

use super::core::Core;
use super::errors::Refused;
use super::reads::value_message;
use crate::engine::{ScanPage, ScanRange, TreeId, Value};
use crate::net::proto;
use crate::position::Gsn;

/// Entries of a page when the request does not say.
const DEFAULT_LIMIT: usize = 1000;

/// Most entries of a page.
const MAX_LIMIT: usize = 10_000;

/// A page ends when it holds this much; one larger entry comes alone.
const PAGE_BYTES: usize = 1 << 20;

/// A checked scan.
#[derive(Debug)]
pub(crate) struct ScanPlan {
    tree: TreeId,
    range: ScanRange,
    limit: usize,
    keys_only: bool,
    first_page: bool,
}

impl ScanPlan {
    pub(crate) fn new(core: &Core, request: proto::ScanRequest) -> Result<Self, Refused> {
        let tree = core.ordered_tree(&request.tree)?;
        let mut range = ScanRange::prefix(&request.prefix);
        if !request.start.is_empty() {
            range.start = later(range.start, Bound::Included(request.start.to_vec()));
        }
        if !request.end.is_empty() {
            range.end = earlier(range.end, Bound::Excluded(request.end.to_vec()));
        }
        let first_page = request.after.is_empty();
        if !first_page {
            let cursor = Bound::Excluded(request.after.to_vec());
            if request.reverse {
                range.end = earlier(range.end, cursor);
            } else {
                range.start = later(range.start, cursor);
            }
        }
        range.reverse = request.reverse;
        let limit = match request.limit as usize {
            0 => DEFAULT_LIMIT,
            limit => limit.min(MAX_LIMIT),
        };
        Ok(Self { tree, range, limit, keys_only: request.keys_only, first_page })
    }

    fn is_empty_range(&self) -> bool {
        match (&self.range.start, &self.range.end) {
            (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end)) => start >= end,
            (Bound::Excluded(start), Bound::Included(end)) => start >= end,
            (Bound::Included(start), Bound::Included(end)) => start > end,
            _ => false,
        }
    }
}

/// The bound that admits fewer keys from below.
fn later(a: Bound<Vec<u8>>, b: Bound<Vec<u8>>) -> Bound<Vec<u8>> {
    narrower(a, b, std::cmp::Ordering::Greater)
}

/// The bound that admits fewer keys from above.
fn earlier(a: Bound<Vec<u8>>, b: Bound<Vec<u8>>) -> Bound<Vec<u8>> {
    narrower(a, b, std::cmp::Ordering::Less)
}

/// The one whose key stands to the other's as `wanted`; at one key, the one that excludes it.
fn narrower(a: Bound<Vec<u8>>, b: Bound<Vec<u8>>, wanted: std::cmp::Ordering) -> Bound<Vec<u8>> {
    let order = match (&a, &b) {
        (Bound::Unbounded, _) => return b,
        (_, Bound::Unbounded) => return a,
        (Bound::Included(x) | Bound::Excluded(x), Bound::Included(y) | Bound::Excluded(y)) => x.cmp(y),
    };
    let a_wins = order == wanted || (order.is_eq() && matches!(a, Bound::Excluded(_)));
    if a_wins { a } else { b }
}

/// Reads one page of the committed state.
pub(crate) fn page(core: &Core, lineage: u64, plan: &ScanPlan) -> Result<proto::ScanResponse, Refused> {
    // Before looking: what is committed later may or may not be in the page, and a watch from here tells it.
    let token = plan.first_page.then(|| {
        let applied: Vec<Gsn> = core.shards().iter().map(|shard| shard.applied()).collect();
        core.token(&applied)
    });
    if plan.is_empty_range() {
        return Ok(proto::ScanResponse { entries: Vec::new(), more: false, token });
    }
    let mut pages = Vec::with_capacity(core.shards().len());
    for shard in core.shards() {
        let page = shard.scan(plan.tree, &plan.range, plan.limit, PAGE_BYTES, shard.committed_time_ms())?;
        pages.push((shard.id(), page));
    }
    let (merged, more) = merge(pages, plan.limit, plan.range.reverse);
    let entries = merged
        .into_iter()
        .map(|(shard, key, mut value)| {
            if plan.keys_only {
                value.bytes = Bytes::new();
            }
            proto::Entry { key, value: Some(value_message(core, lineage, shard, value)) }
        })
        .collect();
    Ok(proto::ScanResponse { entries, more, token })
}

/// Merges the shards' pages: entries in order, and whether the range holds more.
///
/// It ends at the limit, at [`PAGE_BYTES`], or where a shard's page is used up although the shard has more:
/// what that shard would say next is not known, and may come before what the others have.
fn merge(pages: Vec<(u16, ScanPage)>, limit: usize, reverse: bool) -> (Vec<(u16, Bytes, Value)>, bool) {
    let mut sources: Vec<_> =
        pages.into_iter().map(|(shard, page)| (shard, page.entries.into_iter().peekable(), page.more)).collect();
    let mut merged = Vec::new();
    let mut bytes = 0;
    loop {
        if sources.iter_mut().any(|(_, entries, more)| *more && entries.peek().is_none()) {
            return (merged, true);
        }
        let mut best: Option<(usize, Bytes)> = None;
        for (i, (_, entries, _)) in sources.iter_mut().enumerate() {
            let Some((key, _)) = entries.peek() else { continue };
            let better = best.as_ref().is_none_or(|(_, other)| if reverse { key > other } else { key < other });
            if better {
                best = Some((i, key.clone()));
            }
        }
        let Some((i, _)) = best else { return (merged, false) };
        if merged.len() >= limit || (bytes >= PAGE_BYTES && !merged.is_empty()) {
            return (merged, true);
        }
        let (shard, entries, _) = &mut sources[i];
        let (key, value) = entries.next().expect("it was peeked at");
        bytes += key.len() + value.bytes.len();
        merged.push((*shard, key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::LogPosition;

    fn page_of(keys: &[&str], more: bool) -> ScanPage {
        let value = Value { bytes: Bytes::new(), version: LogPosition::ZERO, expires_ms: None, value_type: 0 };
        let entries = keys.iter().map(|key| (Bytes::copy_from_slice(key.as_bytes()), value.clone())).collect();
        ScanPage { entries, more }
    }

    fn keys(merged: &[(u16, Bytes, Value)]) -> Vec<&str> {
        merged.iter().map(|(_, key, _)| std::str::from_utf8(key).expect("text")).collect()
    }

    #[test]
    fn shards_are_merged_in_key_order_both_ways() {
        let (merged, more) = merge(vec![(0, page_of(&["a", "d"], false)), (1, page_of(&["b", "c"], false))], 10, false);
        assert_eq!((keys(&merged), more), (vec!["a", "b", "c", "d"], false));
        let (merged, more) = merge(vec![(0, page_of(&["d", "a"], false)), (1, page_of(&["c", "b"], false))], 10, true);
        assert_eq!((keys(&merged), more), (vec!["d", "c", "b", "a"], false));
    }

    #[test]
    fn a_page_ends_where_a_shard_that_has_more_was_used_up() {
        // The first shard may go on with "b1": nothing after "b" may be told yet.
        let (merged, more) = merge(vec![(0, page_of(&["a", "b"], true)), (1, page_of(&["c", "z"], false))], 10, false);
        assert_eq!((keys(&merged), more), (vec!["a", "b"], true));
    }

    #[test]
    fn a_page_that_ends_at_the_limit_says_whether_there_is_more() {
        let pages = || vec![(0, page_of(&["a"], false)), (1, page_of(&["b"], false))];
        assert!(merge(pages(), 1, false).1);
        assert!(!merge(pages(), 2, false).1);
    }

    #[test]
    fn of_two_bounds_the_narrower_holds() {
        let at = |key: &str| key.as_bytes().to_vec();
        assert_eq!(later(Bound::Included(at("a")), Bound::Excluded(at("a"))), Bound::Excluded(at("a")));
        assert_eq!(later(Bound::Excluded(at("b")), Bound::Included(at("a"))), Bound::Excluded(at("b")));
        assert_eq!(earlier(Bound::Unbounded, Bound::Excluded(at("a"))), Bound::Excluded(at("a")));
        assert_eq!(earlier(Bound::Included(at("b")), Bound::Excluded(at("c"))), Bound::Included(at("b")));
    }
}
