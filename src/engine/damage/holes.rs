//! What of a damaged file is missing, and how it is filled. Pure: bytes, the file's hint and its recorded end in; what
//! to ask for, or the mended bytes out.
//!
//! The hint says where every put, delete and catalog record stands, what its key is, and how long it is. What stands
//! between them in a log segment are barriers, whose number the gsns tell, and notes this member made for itself. So a
//! file is mended in place, record by record at the offset it had: whatever points into it stays true. What was mended
//! is believed only if the file's chain then is the recorded one, over every record.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::engine::format::manifest::FileEnd;
use crate::engine::format::notes::{Barrier, MARK_BYTES, Mark, SEAL_BYTES, Seal};
use crate::engine::format::record::{Draft, Kind, Parsed, Record, chain};
use crate::engine::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::engine::hint::{Hint, HintEntry};
use crate::engine::recovery::scan;
use crate::position::{Gsn, LogTail};

/// A place in a file where what was written cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hole {
    /// A record that the hint knows.
    Record { offset: u64, len: u64, gsn: Gsn, hash: u64, tree: u16, kind: Kind, expires_ms: u64, key: Vec<u8> },
    /// Between two such: the barriers after `after` and before `before`, and notes.
    Between { offset: u64, len: u64, after: Gsn, before: Gsn },
}

impl Hole {
    /// The entries that are missing here.
    pub(crate) fn gsns(&self) -> std::ops::Range<Gsn> {
        match self {
            Self::Record { gsn, .. } => *gsn..gsn + 1,
            Self::Between { after, before, .. } => after + 1..*before,
        }
    }
}

/// What is damaged in a file that ends at `end`; empty: nothing. An error: it cannot be told.
pub(crate) fn holes(bytes: &[u8], header: &SegmentHeader, end: &FileEnd, hint: &Hint) -> Result<Vec<Hole>, String> {
    let bytes = bytes.get(..end.len as usize).ok_or("the file is shorter than it was")?;
    let whole = scan(bytes, header, Some(end.len));
    if whole.differs_from(end).is_none() {
        return Ok(Vec::new());
    }
    let mut holes = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    let mut gsn = header.before().last.gsn;
    for entry in hint.entries() {
        between(bytes, header, &mut at, &mut gsn, entry.offset_bytes, entry.gsn, &mut holes)?;
        if !stands(bytes, &entry) {
            holes.push(Hole::Record {
                offset: entry.offset_bytes,
                len: entry.len_bytes,
                gsn: entry.gsn,
                hash: entry.hash,
                tree: entry.tree,
                kind: entry.kind,
                expires_ms: entry.expires_ms,
                key: entry.key.to_vec(),
            });
        }
        (at, gsn) = (entry.offset_bytes + entry.len_bytes, entry.gsn);
    }
    between(bytes, header, &mut at, &mut gsn, end.len, end.last.last.gsn + 1, &mut holes)?;
    if holes.is_empty() {
        return Err("every record verifies, and the file is another than it was".into());
    }
    Ok(holes)
}

/// Whether the record that a hint tells of stands where it should.
fn stands(bytes: &[u8], entry: &HintEntry<'_>) -> bool {
    match Record::parse(&bytes[entry.offset_bytes as usize..]) {
        Parsed::Record(record) => {
            record.gsn() == entry.gsn
                && record.len() as u64 == entry.len_bytes
                && record.tree() == entry.tree
                && record.key() == entry.key
        }
        Parsed::Nothing | Parsed::Invalid(_) => false,
    }
}

/// Goes from `at`, after entry `gsn`, to `to`, where entry `next` is due.
fn between(
    bytes: &[u8],
    header: &SegmentHeader,
    at: &mut u64,
    gsn: &mut Gsn,
    to: u64,
    next: Gsn,
    holes: &mut Vec<Hole>,
) -> Result<(), String> {
    while *at < to {
        if header.compacted {
            return Err("its hint leaves out a part of it".into());
        }
        let note = match Record::parse(&bytes[*at as usize..to as usize]) {
            Parsed::Record(record) => match record.kind() {
                Kind::Mark | Kind::Seal => Some(record),
                Kind::Barrier if record.gsn() == *gsn + 1 && record.gsn() < next => {
                    *gsn += 1;
                    Some(record)
                }
                _ => None,
            },
            Parsed::Nothing | Parsed::Invalid(_) => None,
        };
        match note {
            Some(note) => *at += note.len() as u64,
            None => {
                holes.push(Hole::Between { offset: *at, len: to - *at, after: *gsn, before: next });
                (*at, *gsn) = (to, next - 1);
            }
        }
    }
    if *at != to || !header.compacted && *gsn + 1 != next {
        return Err("its hint does not agree with what stands between its records".into());
    }
    Ok(())
}

/// Why a file was not mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unmended {
    /// This entry was not had from anybody.
    Missing(Gsn),
    /// What was had does not fit.
    Unfit(String),
}

/// The file's bytes with every hole filled, and where it ends: in a log segment as before. `dead`: no key's newest
/// record is there, so that in an output of compaction anything of that key and length will do.
pub(crate) fn fill(
    bytes: &[u8],
    header: &SegmentHeader,
    end: &FileEnd,
    holes: &[Hole],
    had: &BTreeMap<Gsn, Bytes>,
    dead: impl Fn(&Hole) -> bool,
) -> Result<(Vec<u8>, FileEnd), Unmended> {
    let mut out = bytes[..end.len as usize].to_vec();
    out[..SEGMENT_HEADER_BYTES as usize].copy_from_slice(&header.encode());
    let mut tail = header.before();
    let mut at = SEGMENT_HEADER_BYTES as usize;
    let mut substituted = false;
    for hole in holes {
        match hole {
            Hole::Record { offset, len, gsn, .. } => {
                walk(&out, header, &mut at, *offset as usize, &mut tail);
                let given = had.get(gsn).filter(|record| is_the_one(record, hole));
                let record = match given {
                    Some(record) => record.to_vec(),
                    None => {
                        let made = substitute(hole, header.compacted && dead(hole)).ok_or(Unmended::Missing(*gsn))?;
                        substituted |= header.compacted;
                        made
                    }
                };
                if record.len() as u64 != *len {
                    return Err(Unmended::Unfit(format!("entry {gsn} is of another length")));
                }
                out[at..at + record.len()].copy_from_slice(&record);
            }
            Hole::Between { offset, len, .. } => {
                walk(&out, header, &mut at, *offset as usize, &mut tail);
                let mut filled = Vec::new();
                let mut reached = tail;
                for gsn in hole.gsns() {
                    let record = had.get(&gsn).ok_or(Unmended::Missing(gsn))?;
                    match Record::parse(record) {
                        Parsed::Record(r) if r.gsn() == gsn && r.kind() == Kind::Barrier => step(&mut reached, &r),
                        _ => return Err(Unmended::Unfit(format!("entry {gsn} is no barrier"))),
                    }
                    filled.extend_from_slice(record);
                }
                notes(&mut filled, header, *offset, *len, reached).ok_or_else(|| {
                    Unmended::Unfit(format!("what stood in {len} bytes at {offset} cannot be made again"))
                })?;
                out[at..at + filled.len()].copy_from_slice(&filled);
            }
        }
    }
    let scanned = scan(&out, header, Some(end.len));
    let mended = match substituted {
        // Another content of a dead record makes another chain; each record was looked at.
        true => FileEnd { len: end.len, last: LogTail { chain: scanned.tail.chain, ..end.last } },
        false => *end,
    };
    match scanned.differs_from(&mended) {
        None => Ok((out, mended)),
        Some(why) => Err(Unmended::Unfit(why)),
    }
}

/// Whether a record is the one that stood in a hole, as far as the hint knows it.
fn is_the_one(record: &[u8], hole: &Hole) -> bool {
    let Hole::Record { len, gsn, tree, kind, key, .. } = hole else { return false };
    matches!(Record::parse(record), Parsed::Record(r)
        if r.gsn() == *gsn && r.len() as u64 == *len && r.len() == record.len() && r.tree() == *tree
            && r.kind() == *kind && r.key() == &key[..])
}

/// A delete is all that its key and gsn say; a dead put may hold anything.
fn substitute(hole: &Hole, dead: bool) -> Option<Vec<u8>> {
    let Hole::Record { len, gsn, tree, kind, expires_ms, key, .. } = hole else { return None };
    let expires_ms = Some(*expires_ms).filter(|ms| *ms > 0);
    let bare = Draft { kind: *kind, more: false, tree: *tree, value_type: 0, expires_ms, key, value: &[] };
    let room = (*len as usize).checked_sub(bare.len())?;
    let value = match kind {
        Kind::Delete if room == 0 => Vec::new(),
        // What is left of the padding stays padding.
        Kind::Put if dead => vec![0; room],
        _ => return None,
    };
    let mut out = Vec::new();
    Draft { value: &value, ..bare }.encode_stamped(*gsn, &mut out);
    Some(out)
}

/// Fills what is left of `len` bytes at `offset`, behind what `filled` holds already, with notes.
fn notes(filled: &mut Vec<u8>, header: &SegmentHeader, offset: u64, len: u64, tail: LogTail) -> Option<()> {
    let left = (len as usize).checked_sub(filled.len())?;
    let sealed = match left % MARK_BYTES {
        0 => false,
        rest if rest == SEAL_BYTES => true,
        _ => return None,
    };
    for _ in 0..left / MARK_BYTES {
        let at = offset + filled.len() as u64;
        Mark { file_id: header.file_id, offset: at, durable: tail, commit: 0, committed_time_ms: 0 }.encode(filled);
    }
    if sealed {
        let at = offset + filled.len() as u64;
        Seal { file_id: header.file_id, offset: at, last: tail }.encode(filled);
    }
    Some(())
}

/// Goes over sound records from `at` to `to`.
fn walk(bytes: &[u8], header: &SegmentHeader, at: &mut usize, to: usize, tail: &mut LogTail) {
    while *at < to {
        let Some(record) = Record::peek(&bytes[*at..]) else { break };
        if record.kind().is_entry() {
            if header.compacted {
                tail.last.gsn = record.gsn() - 1;
            }
            step(tail, &record);
        }
        *at += record.len();
    }
    *at = to;
}

fn step(tail: &mut LogTail, record: &Record<'_>) {
    if record.kind() == Kind::Barrier {
        tail.last.epoch = Barrier::decode(record).map_or(tail.last.epoch, |barrier| barrier.epoch);
    }
    tail.last.gsn += 1;
    tail.chain = chain(tail.chain, record.crc());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hole(kind: Kind, len: u64) -> Hole {
        let key = b"some key".to_vec();
        Hole::Record { offset: 64, len, gsn: 9, hash: 1, tree: 2, kind, expires_ms: 0, key }
    }

    #[test]
    fn a_delete_is_made_again_from_its_key_and_a_dead_put_as_long_as_it_was() {
        let delete = substitute(&hole(Kind::Delete, 32), false).expect("all of it is known");
        let Parsed::Record(record) = Record::parse(&delete) else { panic!("sound") };
        assert_eq!((record.gsn(), record.kind(), record.key(), record.tree()), (9, Kind::Delete, &b"some key"[..], 2));
        let put = substitute(&hole(Kind::Put, 96), true).expect("anything will do");
        let Parsed::Record(record) = Record::parse(&put) else { panic!("sound") };
        assert_eq!((record.len(), record.gsn(), record.key()), (96, 9, &b"some key"[..]));
        assert_eq!(substitute(&hole(Kind::Put, 96), false), None, "a value is not made up");
        assert_eq!(substitute(&hole(Kind::Delete, 40), true), None, "it was no bare delete");
    }

    #[test]
    fn what_is_left_between_records_is_filled_with_notes_or_not_at_all() {
        let header =
            SegmentHeader { shard: 0, compacted: false, cluster_id: 0, file_id: 3, base_gsn: 1, epoch: 0, chain: 0 };
        for (len, fits) in [(0, true), (80, true), (160, true), (64, true), (144, true), (72, false), (88, false)] {
            let mut filled = Vec::new();
            let made = notes(&mut filled, &header, 64, len, LogTail::default());
            assert_eq!((made.is_some(), filled.len() as u64 == len), (fits, fits), "{len}");
        }
    }
}
