//! Reading a file that is to be rewritten: record by record, everything verified.
//!
//! Also what is not copied is checked, and at the end the chain against the manifest: a rotten length could
//! otherwise lead past records that are live.

use std::sync::Arc;

use crate::engine::error::EngineError;
use crate::engine::format::manifest::FileEnd;
use crate::engine::format::record::{Kind, Parsed, Record, chain};
use crate::engine::format::segment_header::SEGMENT_HEADER_BYTES;
use crate::engine::index::Location;
use crate::engine::segment::Segment;
use crate::position::{Gsn, LogTail};

/// See the module's comment.
pub(super) struct Input {
    segment: Arc<Segment>,
    end: FileEnd,
    /// Where the next record is read.
    at: u64,
    tail: LogTail,
    /// The record to take next.
    head: Option<(Gsn, u64)>,
}

impl Input {
    /// At its first put, delete or catalog record.
    pub(super) fn open(segment: Arc<Segment>, end: FileEnd) -> Result<Self, EngineError> {
        let tail = segment.header.before();
        let mut input = Self { segment, end, at: SEGMENT_HEADER_BYTES, tail, head: None };
        input.advance()?;
        Ok(input)
    }

    /// Gsn of the record that [`Self::take`] gives; `None` at the end.
    pub(super) fn next_gsn(&self) -> Option<Gsn> {
        self.head.map(|(gsn, _)| gsn)
    }

    /// Calls `visit` with the next record, which answers how much it wrote, and goes on to the one after it. The
    /// bytes written and read.
    pub(super) fn take(
        &mut self,
        visit: impl FnOnce(&Record<'_>, Location) -> Result<u64, EngineError>,
    ) -> Result<u64, EngineError> {
        let from = self.at;
        let segment = self.segment.clone();
        let mut bytes = 0;
        if let Some((_, offset)) = self.head
            && let Some(record) = segment.peek(offset)
        {
            bytes += visit(&record, Location::at(segment.slot, offset))?;
        }
        self.advance()?;
        Ok(bytes + self.at - from)
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        self.head = None;
        let segment = self.segment.clone();
        let bytes = segment.log_bytes();
        while self.head.is_none() && self.at < self.end.len {
            let offset = self.at;
            let record = match Record::parse(bytes.get(offset as usize..).unwrap_or_default()) {
                Parsed::Record(record) => record,
                Parsed::Nothing => return Err(self.damaged("nothing")),
                Parsed::Invalid(why) => return Err(self.damaged(why)),
            };
            self.at += record.len() as u64;
            let kind = record.kind();
            if !kind.is_entry() {
                continue;
            }
            let due = self.tail.last.gsn + 1;
            if record.gsn() < due || (record.gsn() > due && !segment.header.compacted) {
                return Err(self.damaged("a record of another place"));
            }
            self.tail.last.gsn = record.gsn();
            self.tail.chain = chain(self.tail.chain, record.crc());
            if kind != Kind::Barrier {
                self.head = Some((record.gsn(), offset));
            }
        }
        let (at, end) = (&self.tail, &self.end.last);
        if self.head.is_none() && (at.last.gsn, at.chain) != (end.last.gsn, end.chain) {
            return Err(self.damaged("an end that the manifest does not know"));
        }
        Ok(())
    }

    fn damaged(&self, what: &str) -> EngineError {
        let name = Segment::file_name(self.segment.id());
        let what = format!("{name}: {what} at {} where gsn {} or the end is due", self.at, self.tail.last.gsn + 1);
        EngineError::Corrupt { shard: self.segment.header.shard, what }
    }
}
