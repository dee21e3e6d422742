//! Reads a shard's log: from the in-memory tail, or from its files for followers that fell out of it.
//!
//! Only what is written is read, whole batches, one epoch a chunk, without node-local notes. A reader holds
//! the segment it stands in; a truncation of the log below its position ends it with an error, because what
//! it has read is then another history.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::chunk::{LogChunk, TailRead};
use super::error::{BelowFloor, EngineError};
use super::format::notes::Barrier;
use super::format::record::{Kind, Parsed, Record, chain};
use super::format::segment_header::SEGMENT_HEADER_BYTES;
use super::segment::Segment;
use super::shard::Shard;
use crate::position::{Gsn, LogTail};

/// Walks the log in gsn order. The segment it stands in stays readable while it lives.
#[derive(Debug)]
pub struct ShardLogReader {
    shard: Arc<Shard>,
    /// What was read so far.
    at: LogTail,
    place: Option<(Arc<Segment>, u64)>,
}

impl ShardLogReader {
    /// The end of what was read.
    pub fn position(&self) -> LogTail {
        self.at
    }

    /// The next chunk of about `max_bytes` (one larger batch travels alone); `None` at the end of what is
    /// written: ask again later, or go on with `tail_read`.
    pub fn next_chunk(&mut self, max_bytes: usize) -> Result<Option<LogChunk>, EngineError> {
        let written = self.shard.log.lock().written.last.gsn;
        self.chunk_below(max_bytes, written)
    }

    /// As [`Self::next_chunk`], up to `limit`.
    pub(crate) fn chunk_below(&mut self, max_bytes: usize, limit: Gsn) -> Result<Option<LogChunk>, EngineError> {
        if self.at.last.gsn >= limit {
            return Ok(None);
        }
        loop {
            let (segment, mut offset) = match self.place.take() {
                Some(place) => place,
                None => match self.shard.place_after(self.at)? {
                    Some(place) => place,
                    None => return Ok(None),
                },
            };
            let bytes = segment.log_bytes();
            let prev = self.at;
            let mut out = BytesMut::new();
            let (mut tail, mut whole, mut whole_len) = (prev, prev, 0);
            let mut whole_offset = offset;
            let mut sealed = false;
            while tail.last.gsn < limit {
                let record = match Record::parse(bytes.get(offset as usize..).unwrap_or_default()) {
                    Parsed::Record(record) => record,
                    Parsed::Nothing => break,
                    Parsed::Invalid(why) => return Err(self.shard.rotten(&segment, offset, why)),
                };
                offset += record.len() as u64;
                match record.kind() {
                    Kind::Mark => {
                        if out.len() == whole_len {
                            whole_offset = offset;
                        }
                        continue;
                    }
                    Kind::Seal => {
                        sealed = true;
                        break;
                    }
                    Kind::Barrier if tail.last.gsn > prev.last.gsn => break,
                    Kind::Barrier => {
                        tail.last.epoch = Barrier::decode(&record).map_or(tail.last.epoch, |barrier| barrier.epoch);
                    }
                    _ => {}
                }
                if record.gsn() != tail.last.gsn + 1 {
                    return Err(self.changed());
                }
                if whole_len > 0 && out.len() == whole_len && out.len() + record.len() > max_bytes {
                    break;
                }
                tail.last.gsn += 1;
                tail.chain = chain(tail.chain, record.crc());
                out.extend_from_slice(record.bytes());
                if !record.more() {
                    (whole, whole_len, whole_offset) = (tail, out.len(), offset);
                    if whole_len >= max_bytes {
                        break;
                    }
                }
                // A batch that began within the bound is followed to its end, or given up for the last whole one.
                if whole_len > 0 && out.len() > max_bytes {
                    break;
                }
            }
            if whole_len == 0 {
                // Nothing more here: the next segment, if this one has ended.
                if sealed || segment.end().is_some_and(|end| end.last == prev) {
                    match self.shard.place_after(self.at)? {
                        Some((next, offset)) if next.id() != segment.id() => {
                            self.place = Some((next, offset));
                            continue;
                        }
                        _ => return Ok(None),
                    }
                }
                self.place = Some((segment, whole_offset));
                return Ok(None);
            }
            out.truncate(whole_len);
            let chunk = LogChunk {
                shard: self.shard.id,
                epoch: whole.last.epoch,
                prev,
                first_gsn: prev.last.gsn + 1,
                last: whole,
                bytes: out.freeze(),
            };
            self.place = Some((segment, whole_offset));
            self.at = whole;
            return Ok(Some(chunk));
        }
    }

    fn changed(&self) -> EngineError {
        EngineError::Corrupt {
            shard: self.shard.id,
            what: format!("the log no longer continues {:?}: it was truncated; start over", self.at),
        }
    }
}

impl Shard {
    /// Reads the log from the files, from `from` (exclusive) on.
    pub fn log_reader(self: &Arc<Self>, from: Gsn) -> Result<ShardLogReader, EngineError> {
        let log_floor = self.log_floor();
        if from.saturating_add(1) < log_floor {
            return Err(BelowFloor { log_floor }.into());
        }
        match self.tail_before(from)? {
            Some(at) => Ok(ShardLogReader { shard: self.clone(), at, place: None }),
            // It was raised meanwhile, or the log does not reach that far.
            None => Err(BelowFloor { log_floor: self.log_floor() }.into()),
        }
    }

    /// The chain at `gsn`; `None` outside the log. May scan a segment.
    pub fn chain_at(&self, gsn: Gsn) -> Result<Option<u32>, EngineError> {
        Ok(self.tail_before(gsn)?.map(|tail| tail.chain))
    }

    /// The log's end as it was after `gsn`.
    pub(crate) fn tail_before(&self, gsn: Gsn) -> Result<Option<LogTail>, EngineError> {
        {
            let log = self.log.lock();
            if gsn > log.tail.last.gsn {
                return Ok(None);
            }
            if gsn == log.tail.last.gsn {
                return Ok(Some(log.tail));
            }
            if let Some((tail, _)) = log.tail_at(gsn) {
                return Ok(Some(tail));
            }
        }
        Ok(self.walk_to(gsn)?.map(|(tail, ..)| tail))
    }

    /// The segment and offset where the entry after `at` stands or will stand.
    fn place_after(&self, at: LogTail) -> Result<Option<(Arc<Segment>, u64)>, EngineError> {
        let segments = self.log_segments();
        if let Some(next) = segments.iter().find(|segment| segment.header.before() == at && segment.is_open()) {
            return Ok(Some((next.clone(), SEGMENT_HEADER_BYTES)));
        }
        match self.walk_to(at.last.gsn)? {
            Some((tail, segment, offset)) if tail == at => Ok(Some((segment, offset))),
            Some((tail, ..)) => Err(EngineError::Corrupt {
                shard: self.id,
                what: format!("the log says {tail:?} where {at:?} was read: it was truncated; start over"),
            }),
            None => {
                let log_floor = self.log_floor();
                // The floor has passed the reader since it began.
                if at.last.gsn + 1 < log_floor { Err(BelowFloor { log_floor }.into()) } else { Ok(None) }
            }
        }
    }

    /// Walks the segment that holds `gsn` from its start. A record that rotted on the way is an error: the chain behind it
    /// would be another than everybody else's, and whoever is told of it would call its own log wrong.
    pub(crate) fn walk_to(&self, gsn: Gsn) -> Result<Option<(LogTail, Arc<Segment>, u64)>, EngineError> {
        let segments = self.log_segments();
        let Some(at) = segments.partition_point(|segment| segment.base_gsn() <= gsn + 1).checked_sub(1) else {
            return Ok(None);
        };
        // The newest segment may begin after `gsn` and be empty: the walk of the one before ends there too.
        let segment = segments[..=at].iter().rev().find(|segment| segment.base_gsn() <= gsn).unwrap_or(&segments[at]);
        let bytes = segment.log_bytes();
        let mut tail = segment.header.before();
        let mut offset = SEGMENT_HEADER_BYTES as usize;
        if tail.last.gsn == gsn {
            return Ok(Some((tail, segment.clone(), offset as u64)));
        }
        loop {
            let record = match Record::parse(bytes.get(offset..).unwrap_or_default()) {
                Parsed::Record(record) => record,
                Parsed::Nothing => break,
                Parsed::Invalid(why) => return Err(self.rotten(segment, offset as u64, why)),
            };
            offset += record.len();
            match record.kind() {
                Kind::Mark => continue,
                Kind::Seal => break,
                Kind::Barrier => {
                    tail.last.epoch = Barrier::decode(&record).map_or(tail.last.epoch, |barrier| barrier.epoch);
                }
                _ => {}
            }
            tail.last.gsn += 1;
            tail.chain = chain(tail.chain, record.crc());
            if tail.last.gsn == gsn {
                return Ok(Some((tail, segment.clone(), offset as u64)));
            }
        }
        Ok(None)
    }

    /// What a reader of the log is told of a record that does not verify; the file is looked at.
    fn rotten(&self, segment: &Segment, offset: u64, why: &str) -> EngineError {
        self.suspect(segment.slot);
        let what = format!("{} at {offset}: {why}", Segment::file_name(segment.id()));
        EngineError::Corrupt { shard: self.id, what }
    }

    /// What follows `from` (exclusive), from memory: about `max_bytes`, one larger batch travels alone.
    pub fn tail_read(&self, from: Gsn, max_bytes: usize) -> TailRead {
        let chunks: Vec<_> = {
            let mut log = self.log.lock();
            if from >= log.tail.last.gsn {
                return TailRead::AtEnd;
            }
            log.freeze();
            let first = log.ring.partition_point(|chunk| chunk.last.last.gsn <= from);
            match log.ring.get(first) {
                Some(chunk) if chunk.prev.last.gsn <= from => {}
                _ => return TailRead::Overrun,
            }
            let mut bytes = 0;
            let epoch = log.ring[first].last.last.epoch;
            log.ring
                .range(first..)
                .take_while(|chunk| {
                    let go = bytes < max_bytes && chunk.last.last.epoch == epoch;
                    bytes += chunk.bytes.len();
                    go
                })
                .cloned()
                .collect()
        };
        // Outside the lock: find the entry after `from`, then whole batches up to the bound.
        let mut prev = chunks[0].prev;
        let mut skip = 0;
        let first = &chunks[0].bytes;
        while prev.last.gsn < from
            && let Some(record) = Record::peek(&first[skip..])
        {
            step(&mut prev, &record);
            skip += record.len();
        }
        let mut out: Vec<Bytes> = Vec::new();
        let (mut len, mut last) = (0, prev);
        for (i, chunk) in chunks.iter().enumerate() {
            let bytes = if i == 0 { chunk.bytes.slice(skip..) } else { chunk.bytes.clone() };
            if len + bytes.len() <= max_bytes {
                len += bytes.len();
                last = chunk.last;
                out.push(bytes);
                continue;
            }
            let (mut at, mut tail, mut whole) = (0, last, 0);
            let mut end = last;
            while let Some(record) = Record::peek(&bytes[at..]) {
                step(&mut tail, &record);
                at += record.len();
                if !record.more() {
                    if len + at > max_bytes && len + whole > 0 {
                        break;
                    }
                    (whole, end) = (at, tail);
                    if len + whole >= max_bytes {
                        break;
                    }
                }
            }
            if whole > 0 {
                out.push(bytes.slice(..whole));
                last = end;
            }
            break;
        }
        let bytes = match out.as_slice() {
            [one] => one.clone(),
            many => Bytes::from(many.concat()),
        };
        TailRead::Chunk(LogChunk {
            shard: self.id,
            epoch: last.last.epoch,
            prev,
            first_gsn: prev.last.gsn + 1,
            last,
            bytes,
        })
    }
}

fn step(tail: &mut LogTail, record: &Record<'_>) {
    if record.kind() == Kind::Barrier {
        tail.last.epoch = Barrier::decode(record).map_or(tail.last.epoch, |barrier| barrier.epoch);
    }
    tail.last.gsn += 1;
    tail.chain = chain(tail.chain, record.crc());
}
