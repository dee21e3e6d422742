//! What MARK, SEAL, BARRIER and CATALOG records carry. The first two are notes a member makes for itself
//! (gsn 0, never replicated); the others are entries like any other.

use super::codec::{Malformed, Reader};
use super::record::{Draft, HEADER_BYTES, Kind, Record};
use crate::engine::tree::{TreeId, TreeInfo, TreeKind};
use crate::position::{Epoch, Gsn, LogPosition, LogTail};

/// Bytes of a MARK record.
pub(crate) const MARK_BYTES: usize = HEADER_BYTES + 56;
/// Bytes of a SEAL record; every segment keeps room for one.
pub(crate) const SEAL_BYTES: usize = HEADER_BYTES + 40;

fn note<'a>(kind: Kind, key: &'a [u8], value: &'a [u8]) -> Draft<'a> {
    Draft { kind, more: false, tree: 0, value_type: 0, expires_ms: None, key, value }
}

/// Heads every group-commit batch: says what the last sync that had *completed* made durable. Valid only in
/// the file and at the offset it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) file_id: u32,
    pub(crate) offset: u64,
    pub(crate) durable: LogTail,
    /// Lower bound of the commit.
    pub(crate) commit: Gsn,
    pub(crate) committed_time_ms: u64,
}

impl Mark {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut value = [0; 56];
        value[..4].copy_from_slice(&self.file_id.to_le_bytes());
        value[4..8].copy_from_slice(&self.durable.chain.to_le_bytes());
        value[8..16].copy_from_slice(&self.offset.to_le_bytes());
        value[16..24].copy_from_slice(&self.durable.last.gsn.to_le_bytes());
        value[24..32].copy_from_slice(&self.durable.last.epoch.to_le_bytes());
        value[32..40].copy_from_slice(&self.commit.to_le_bytes());
        value[40..48].copy_from_slice(&self.committed_time_ms.to_le_bytes());
        note(Kind::Mark, &[], &value).encode_stamped(0, out);
    }

    pub(crate) fn decode(record: &Record<'_>) -> Result<Self, Malformed> {
        let mut r = Reader(record.value());
        let (file_id, chain, offset) = (r.u32()?, r.u32()?, r.u64()?);
        let (gsn, epoch) = (r.count()?, r.count()?);
        let (commit, committed_time_ms) = (r.count()?, r.u64()?);
        Ok(Self {
            file_id,
            offset,
            durable: LogTail { last: LogPosition { epoch, gsn }, chain },
            commit,
            committed_time_ms,
        })
    }
}

/// Ends a segment: nothing follows it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) file_id: u32,
    /// Where it stands itself.
    pub(crate) offset: u64,
    /// The last entry of the segment.
    pub(crate) last: LogTail,
}

impl Seal {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut value = [0; 40];
        value[..4].copy_from_slice(&self.file_id.to_le_bytes());
        value[4..8].copy_from_slice(&self.last.chain.to_le_bytes());
        value[8..16].copy_from_slice(&self.offset.to_le_bytes());
        value[16..24].copy_from_slice(&self.last.last.gsn.to_le_bytes());
        value[24..32].copy_from_slice(&self.last.last.epoch.to_le_bytes());
        note(Kind::Seal, &[], &value).encode_stamped(0, out);
    }

    pub(crate) fn decode(record: &Record<'_>) -> Result<Self, Malformed> {
        let mut r = Reader(record.value());
        let (file_id, chain, offset) = (r.u32()?, r.u32()?, r.u64()?);
        let (gsn, epoch) = (r.count()?, r.count()?);
        Ok(Self { file_id, offset, last: LogTail { last: LogPosition { epoch, gsn }, chain } })
    }
}

/// The first entry of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Barrier {
    pub(crate) epoch: Epoch,
    /// The leader's time: expiry never goes back below it.
    pub(crate) time_ms: u64,
}

impl Barrier {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> u32 {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&self.epoch.to_le_bytes());
        value[8..].copy_from_slice(&self.time_ms.to_le_bytes());
        note(Kind::Barrier, &[], &value).encode(out)
    }

    pub(crate) fn decode(record: &Record<'_>) -> Result<Self, Malformed> {
        let mut r = Reader(record.value());
        Ok(Self { epoch: r.count()?, time_ms: r.u64()? })
    }
}

/// The creation of a tree: its name as key, its id in the header, its kind as value.
pub(crate) fn encode_catalog(tree: &TreeInfo, more: bool, out: &mut Vec<u8>) -> u32 {
    let value = [kind_to_byte(tree.kind)];
    let draft = Draft { tree: tree.id.0, more, ..note(Kind::Catalog, tree.name.as_bytes(), &value) };
    draft.encode(out)
}

/// The tree that a CATALOG record creates; `None` if it makes no sense.
pub(crate) fn decode_catalog(record: &Record<'_>) -> Option<TreeInfo> {
    let kind = kind_from_byte(*record.value().first()?)?;
    let name = std::str::from_utf8(record.key()).ok()?.to_owned();
    Some(TreeInfo { id: TreeId(record.tree()), name, kind })
}

/// A tree's kind as a byte.
pub(crate) fn kind_to_byte(kind: TreeKind) -> u8 {
    match kind {
        TreeKind::Ordered => 0,
        TreeKind::Hash => 1,
    }
}

/// The inverse of [`kind_to_byte`].
pub(crate) fn kind_from_byte(byte: u8) -> Option<TreeKind> {
    match byte {
        0 => Some(TreeKind::Ordered),
        1 => Some(TreeKind::Hash),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::format::record::{Parsed, stamp};

    fn record(bytes: &[u8]) -> Record<'_> {
        match Record::parse(bytes) {
            Parsed::Record(r) => r,
            _ => panic!("a sound record"),
        }
    }

    fn tail() -> LogTail {
        LogTail { last: LogPosition::new(4, 0x0a0b), chain: 0x0102_0304 }
    }

    #[test]
    fn a_mark_has_these_bytes() {
        let mark = Mark { file_id: 9, offset: 0x40, durable: tail(), commit: 0x0a0a, committed_time_ms: 0x77 };
        let mut out = Vec::new();
        mark.encode(&mut out);
        assert_eq!(out.len(), MARK_BYTES);
        let mut value = [0u8; 56];
        value[0] = 9;
        value[4..8].copy_from_slice(&[4, 3, 2, 1]);
        value[8] = 0x40;
        value[16..18].copy_from_slice(&[0x0b, 0x0a]);
        value[24] = 4;
        value[32..34].copy_from_slice(&[0x0a, 0x0a]);
        value[40] = 0x77;
        assert_eq!(out[24..], value);
        assert_eq!((out[12], out[20]), (56, 5));
        assert_eq!(Mark::decode(&record(&out)), Ok(mark));
    }

    #[test]
    fn a_seal_has_these_bytes() {
        let seal = Seal { file_id: 9, offset: 0x1000, last: tail() };
        let mut out = Vec::new();
        seal.encode(&mut out);
        assert_eq!(out.len(), SEAL_BYTES);
        let mut value = [0u8; 40];
        value[0] = 9;
        value[4..8].copy_from_slice(&[4, 3, 2, 1]);
        value[9] = 0x10;
        value[16..18].copy_from_slice(&[0x0b, 0x0a]);
        value[24] = 4;
        assert_eq!(out[24..], value);
        assert_eq!(Seal::decode(&record(&out)), Ok(seal));
    }

    #[test]
    fn a_barrier_and_a_catalog_record_have_these_bytes() {
        let barrier = Barrier { epoch: 5, time_ms: 6 };
        let mut out = Vec::new();
        let body = barrier.encode(&mut out);
        stamp(&mut out, 1, body);
        assert_eq!(out[24..], [5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(out[20], 3);
        assert_eq!(Barrier::decode(&record(&out)), Ok(barrier));

        let tree = TreeInfo { id: TreeId(2), name: "users".into(), kind: TreeKind::Hash };
        let mut out = Vec::new();
        let body = encode_catalog(&tree, false, &mut out);
        stamp(&mut out, 2, body);
        assert_eq!(&out[24..], b"users\x01\0\0");
        assert_eq!((out[18], out[20]), (2, 4));
        assert_eq!(decode_catalog(&record(&out)), Some(tree));
    }
}
