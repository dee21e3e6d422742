//! Scans: keys in order, page by page, each page a read of its own.
//!
//! A page is consistent in itself; between two pages the data may change. A page that is lost is asked for again from
//! its cursor, so a scan survives a failover without missing or repeating a key.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;

use super::error::ReadError;
use super::operations::mismatched;
use super::options::ReadOptions;
use super::session::Session;
use super::value::{Entry, Token};
use crate::net::proto::{self, op_result, stream_op};

const PAGE_ENTRIES: u32 = 1000;

/// Which keys.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    prefix: Bytes,
    start: Bytes,
    end: Bytes,
    reverse: bool,
    keys_only: bool,
    limit: Option<u64>,
    page: Option<u32>,
    read: ReadOptions,
}

impl Scan {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// Keys that begin so.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    /// Keys from `start` up to, not including, `end`; empty = without a bound.
    pub fn range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into(), ..Self::default() }
    }

    /// From the last key to the first.
    #[must_use]
    pub fn reverse(mut self, reverse: bool) -> Self {
        self.reverse = reverse;
        self
    }

    /// Without values.
    #[must_use]
    pub fn keys_only(mut self, keys_only: bool) -> Self {
        self.keys_only = keys_only;
        self
    }

    /// No more than this many.
    #[must_use]
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Entries a page (the server may send fewer).
    #[must_use]
    pub fn page_entries(mut self, entries: u32) -> Self {
        self.page = Some(entries.max(1));
        self
    }

    /// How its pages are read.
    #[must_use]
    pub fn read(mut self, options: ReadOptions) -> Self {
        self.read = options;
        self
    }
}

/// One page of a scan.
#[derive(Debug, Clone)]
pub struct ScanPage {
    /// In the order of the scan.
    pub entries: Vec<Entry>,
    /// There is more.
    pub more: bool,
}

/// A scan in progress.
#[derive(Debug)]
pub struct ScanStream {
    session: Arc<Session>,
    tree: String,
    scan: Scan,
    /// The last key of the page before.
    after: Bytes,
    /// Entries still wanted.
    left: u64,
    done: bool,
    token: Option<Token>,
    buffer: VecDeque<Entry>,
}

impl ScanStream {
    pub(super) fn new(session: Arc<Session>, tree: String, scan: Scan) -> Self {
        let left = scan.limit.unwrap_or(u64::MAX);
        Self { session, tree, scan, after: Bytes::new(), left, done: left == 0, token: None, buffer: VecDeque::new() }
    }

    /// The next page; None at the end. Not to be mixed with [`Self::next`].
    pub async fn next_page(&mut self) -> Result<Option<ScanPage>, ReadError> {
        if self.done {
            return Ok(None);
        }
        let page = u64::from(self.scan.page.unwrap_or(PAGE_ENTRIES)).min(self.left);
        let request = proto::ScanRequest {
            route: None,
            tree: self.tree.clone(),
            prefix: self.scan.prefix.clone(),
            start: self.scan.start.clone(),
            end: self.scan.end.clone(),
            after: self.after.clone(),
            reverse: self.scan.reverse,
            limit: page as u32,
            read: self.scan.read.to_proto(),
            keys_only: self.scan.keys_only,
        };
        let response = match self.session.read(stream_op::Op::Scan(request), &self.scan.read).await? {
            op_result::Result::Scan(response) => response,
            _ => return Err(mismatched()),
        };
        if self.token.is_none() {
            self.token = response.token.as_ref().map(Token::from_proto);
        }
        let entries: Vec<Entry> = response.entries.into_iter().map(Entry::from_proto).collect();
        self.left = self.left.saturating_sub(entries.len() as u64);
        match entries.last() {
            Some(last) => self.after = last.key.clone(),
            // Nothing, yet "more": going on from the same cursor would never end.
            None => self.done = true,
        }
        self.done |= !response.more || self.left == 0;
        Ok(Some(ScanPage { entries, more: !self.done }))
    }

    /// The next entry; None at the end.
    pub async fn next(&mut self) -> Result<Option<Entry>, ReadError> {
        while self.buffer.is_empty() {
            match self.next_page().await? {
                Some(page) => self.buffer.extend(page.entries),
                None => return Ok(None),
            }
        }
        Ok(self.buffer.pop_front())
    }

    /// Where a watch must begin to miss nothing after this scan; known after the first page.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// As a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Entry, ReadError>> {
        futures::stream::try_unfold(self, |mut scan| async move { Ok(scan.next().await?.map(|entry| (entry, scan))) })
    }
}
