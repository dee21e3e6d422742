//! Reading one segment from its first record: what it holds, and why the reading stopped.
//!
//! Pure: bytes in, findings out. It believes nothing that does not verify, and keeps looking behind the first
//! place that does not, for notes that vouch for what should have been there. An output of compaction has no
//! notes and gaps between its gsns; its chain runs over its own records.

use crate::engine::format::manifest::FileEnd;
use crate::engine::format::notes::{Barrier, Mark, Seal};
use crate::engine::format::record::{HEADER_BYTES, Kind, Parsed, Record, chain};
use crate::engine::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::position::{Gsn, LogPosition, LogTail};

/// One entry found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) kind: Kind,
    pub(crate) batch_end: bool,
    pub(crate) tail: LogTail,
}

/// Why the reading stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// At a SEAL.
    Sealed,
    /// At the recorded length.
    Length,
    /// At zeros, and nothing but zeros follows.
    Zeros,
    /// At something that is no record, or at zeros with something behind them.
    Broken(String),
}

/// What one segment holds.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) entries: Vec<Found>,
    pub(crate) epochs: Vec<LogPosition>,
    /// The log's end after the last whole batch.
    pub(crate) tail: LogTail,
    /// Where appending could go on: behind the last whole batch and the notes that follow it.
    pub(crate) end: u64,
    /// Whether entries of an unfinished batch follow.
    pub(crate) unfinished: bool,
    pub(crate) stop: Stop,
    /// Largest gsn that sound notes, anywhere in the file, say was durable; from SEALs only behind the stop.
    pub(crate) vouched: Gsn,
    pub(crate) commit: Gsn,
    pub(crate) committed_time_ms: u64,
    /// A sound note contradicts the entries: never a torn tail.
    pub(crate) contradiction: Option<String>,
}

/// Reads a segment's bytes; `len` is the recorded length, if there is one.
pub(crate) fn scan(bytes: &[u8], header: &SegmentHeader, len: Option<u64>) -> Scan {
    let limit = len.map_or(bytes.len(), |len| bytes.len().min(len as usize));
    let bytes = &bytes[..limit];
    if header.compacted {
        return scan_compacted(bytes, header, len);
    }
    let before = header.before();
    let mut found = Scan::nothing(before);
    let mut tail = before;
    let mut at = SEGMENT_HEADER_BYTES as usize;
    let stop = loop {
        if at >= limit {
            break if len.is_some_and(|len| at as u64 == len) { Stop::Length } else { Stop::Zeros };
        }
        let record = match Record::parse(&bytes[at..]) {
            Parsed::Record(record) => record,
            Parsed::Nothing => break behind(bytes, at, "zeros where a record is due"),
            Parsed::Invalid(why) => break Stop::Broken(why.into()),
        };
        let next = at + record.len();
        match record.kind() {
            Kind::Mark => match Mark::decode(&record) {
                Ok(mark) if mark.file_id == header.file_id && mark.offset == at as u64 && !found.unfinished => {
                    found.check(&mark.durable, &before, "a mark");
                    found.vouched = found.vouched.max(mark.durable.last.gsn);
                    found.commit = found.commit.max(mark.commit);
                    found.committed_time_ms = found.committed_time_ms.max(mark.committed_time_ms);
                    found.end = next as u64;
                }
                _ => break Stop::Broken("a mark that belongs elsewhere".into()),
            },
            Kind::Seal => match Seal::decode(&record) {
                Ok(seal) if seal.file_id == header.file_id && seal.offset == at as u64 && !found.unfinished => {
                    if seal.last != tail {
                        found.contradiction =
                            Some(format!("the seal ends at {:?}, the entries before it at {tail:?}", seal.last));
                    }
                    found.end = next as u64;
                    break Stop::Sealed;
                }
                _ => break Stop::Broken("a seal that belongs elsewhere".into()),
            },
            kind => {
                let due = tail.last.gsn.saturating_add(1);
                if record.gsn() != due || due == tail.last.gsn {
                    break Stop::Broken(format!("gsn {} where {due} is due", record.gsn()));
                }
                if kind == Kind::Barrier {
                    match Barrier::decode(&record) {
                        Ok(barrier) if barrier.epoch > tail.last.epoch && !record.more() && !found.unfinished => {
                            tail.last.epoch = barrier.epoch;
                            found.epochs.push(LogPosition::new(barrier.epoch, record.gsn()));
                        }
                        _ => break Stop::Broken("a barrier that opens no epoch".into()),
                    }
                }
                tail.last.gsn += 1;
                tail.chain = chain(tail.chain, record.crc());
                let batch_end = !record.more();
                found.entries.push(Found { offset: at as u64, len: record.len() as u32, kind, batch_end, tail });
                found.unfinished = !batch_end;
                if batch_end {
                    found.tail = tail;
                    found.end = next as u64;
                }
            }
        }
        at = next;
    };
    if matches!(stop, Stop::Broken(_)) {
        found.vouched = found.vouched.max(marks_behind(bytes, at + 8, header.file_id));
    }
    let whole = found.entries.iter().rposition(|entry| entry.batch_end).map_or(0, |last| last + 1);
    found.entries.truncate(whole);
    found.stop = stop;
    found
}

/// Reads an output of compaction: every byte up to its length is a record that was durable.
fn scan_compacted(bytes: &[u8], header: &SegmentHeader, len: Option<u64>) -> Scan {
    let mut found = Scan::nothing(header.before());
    let mut at = SEGMENT_HEADER_BYTES as usize;
    found.stop = loop {
        if at >= bytes.len() {
            break if len.is_none_or(|len| at as u64 == len) { Stop::Length } else { Stop::Zeros };
        }
        let record = match Record::parse(&bytes[at..]) {
            Parsed::Record(record) => record,
            Parsed::Nothing => break Stop::Broken("zeros where a record is due".into()),
            Parsed::Invalid(why) => break Stop::Broken(why.into()),
        };
        let (kind, gsn) = (record.kind(), record.gsn());
        if !matches!(kind, Kind::Put | Kind::Delete | Kind::Catalog) || gsn <= found.tail.last.gsn {
            break Stop::Broken(format!("a {kind:?} of gsn {gsn} after gsn {}", found.tail.last.gsn));
        }
        found.tail.last.gsn = gsn;
        found.tail.chain = chain(found.tail.chain, record.crc());
        let tail = found.tail;
        found.entries.push(Found { offset: at as u64, len: record.len() as u32, kind, batch_end: true, tail });
        at += record.len();
        found.end = at as u64;
    };
    found
}

/// Visits every record of a segment that has ended, notes included, with its offset. An error says that it is not what
/// ends so: every checksum is checked, and the chain over all entries.
pub(crate) fn walk(
    bytes: &[u8],
    header: &SegmentHeader,
    end: &FileEnd,
    mut visit: impl FnMut(u64, &Record<'_>),
) -> Result<(), String> {
    let bytes = bytes.get(..end.len as usize).ok_or("it is shorter than the manifest says")?;
    let before = header.before();
    let (mut gsn, mut running) = (before.last.gsn, before.chain);
    let mut at = SEGMENT_HEADER_BYTES as usize;
    while at < bytes.len() {
        let record = match Record::parse(&bytes[at..]) {
            Parsed::Record(record) => record,
            Parsed::Nothing => return Err(format!("nothing at {at} where gsn {} or the end is due", gsn + 1)),
            Parsed::Invalid(why) => return Err(format!("{why} at {at} where gsn {} or the end is due", gsn + 1)),
        };
        if record.kind().is_entry() {
            if record.gsn() <= gsn || (record.gsn() > gsn + 1 && !header.compacted) {
                return Err(format!("gsn {} at {at} where {} is due", record.gsn(), gsn + 1));
            }
            gsn = record.gsn();
            running = chain(running, record.crc());
        }
        visit(at as u64, &record);
        at += record.len();
    }
    if (gsn, running) != (end.last.last.gsn, end.last.chain) {
        return Err(format!("it ends with gsn {gsn} and chain {running:08x}, {:?} is due", end.last));
    }
    Ok(())
}

fn behind(bytes: &[u8], at: usize, why: &str) -> Stop {
    if bytes[at..].iter().all(|&b| b == 0) { Stop::Zeros } else { Stop::Broken(why.into()) }
}

impl Scan {
    fn nothing(before: LogTail) -> Self {
        Self {
            entries: Vec::new(),
            epochs: Vec::new(),
            tail: before,
            end: SEGMENT_HEADER_BYTES,
            unfinished: false,
            stop: Stop::Length,
            vouched: 0,
            commit: 0,
            committed_time_ms: 0,
            contradiction: None,
        }
    }

    /// A file that is known to be whole and committed: its hint says so.
    pub(crate) fn of_committed(end: &FileEnd, committed_time_ms: u64, epochs: Vec<LogPosition>) -> Self {
        let gsn = end.last.last.gsn;
        Self { epochs, end: end.len, vouched: gsn, commit: gsn, committed_time_ms, ..Self::nothing(end.last) }
    }

    /// Why this is not all of a file that the manifest says ends at `end`; `None` if it is.
    pub(crate) fn differs_from(&self, end: &FileEnd) -> Option<String> {
        if let Some(what) = &self.contradiction {
            return Some(what.clone());
        }
        let whole = matches!(self.stop, Stop::Length | Stop::Sealed) && !self.unfinished;
        if whole && self.tail == end.last && self.end <= end.len {
            return None;
        }
        let (at, want) = (&self.tail, &end.last);
        Some(format!("it does not hold what the manifest says of it: {:?} after {at:?}, {want:?} is due", self.stop))
    }

    /// A note says that the log ended at `stated` once: do the entries agree?
    fn check(&mut self, stated: &LogTail, before: &LogTail, who: &str) {
        let own = match stated.last.gsn.checked_sub(before.last.gsn) {
            None => return,
            Some(0) => *before,
            Some(n) => match self.entries.get(n as usize - 1) {
                Some(entry) => entry.tail,
                None => {
                    self.contradiction = Some(format!("{who} vouches for {stated:?}, beyond the entries before it"));
                    return;
                }
            },
        };
        if own != *stated {
            self.contradiction = Some(format!("{who} says {stated:?}, the entries say {own:?}"));
        }
    }
}

/// Largest gsn that sound marks anywhere in a segment's file, which may have no header, say was durable.
pub(crate) fn vouched_in(bytes: &[u8], file_id: u32) -> Gsn {
    marks_behind(bytes, SEGMENT_HEADER_BYTES as usize, file_id)
}

/// Looks for sound marks from `from` on, by steps of 8 bytes. A SEAL vouches only for what its place in the log
/// implies; it may have survived a crash that what stands before it did not. It counts where the next segment was
/// opened upon it.
fn marks_behind(bytes: &[u8], from: usize, file_id: u32) -> Gsn {
    let mut vouched = 0;
    for at in (from..bytes.len().saturating_sub(HEADER_BYTES)).step_by(8) {
        if bytes[at + 20] != Kind::Mark as u8 {
            continue;
        }
        if let Parsed::Record(record) = Record::parse(&bytes[at..])
            && let Ok(mark) = Mark::decode(&record)
            && (mark.file_id, mark.offset) == (file_id, at as u64)
        {
            vouched = vouched.max(mark.durable.last.gsn);
        }
    }
    vouched
}
