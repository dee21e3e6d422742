//! The 64 bytes that a segment begins with.
//!
//! ```text
//!  0 magic "ARMDBSEG" | 8 format u32 | 12 shard u16 | 14 kind u16 (0 log, 1 compacted) | 16 cluster id
//! 32 file id u32 | 36 chain u32 (before the first entry) | 40 base gsn u64 | 48 epoch u64 (before the first
//! entry) | 56 reserved u32 | 60 crc u32 over the 60 bytes before it
//! ```

use super::codec::Reader;
use super::{FORMAT_LEVEL, FORMAT_MAX, FORMAT_MIN};
use crate::position::{Gsn, LogPosition, LogTail};

/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 64;
const MAGIC: &[u8; 8] = b"ARMDBSEG";

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) shard: u16,
    /// Whether it is an output of compaction: gsns then ascend with gaps and there is no chain.
    pub(crate) compacted: bool,
    pub(crate) cluster_id: u128,
    pub(crate) file_id: u32,
    /// Gsn of its first entry.
    pub(crate) base_gsn: Gsn,
    /// Epoch and chain of the log before its first entry.
    pub(crate) epoch: u64,
    pub(crate) chain: u32,
}

impl SegmentHeader {
    /// The log's end before the first entry.
    pub(crate) fn before(&self) -> LogTail {
        LogTail { last: LogPosition { epoch: self.epoch, gsn: self.base_gsn.saturating_sub(1) }, chain: self.chain }
    }

    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut out = [0; SEGMENT_HEADER_BYTES as usize];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT_LEVEL.to_le_bytes());
        out[12..14].copy_from_slice(&self.shard.to_le_bytes());
        out[14..16].copy_from_slice(&u16::from(self.compacted).to_le_bytes());
        out[16..32].copy_from_slice(&self.cluster_id.to_le_bytes());
        out[32..36].copy_from_slice(&self.file_id.to_le_bytes());
        out[36..40].copy_from_slice(&self.chain.to_le_bytes());
        out[40..48].copy_from_slice(&self.base_gsn.to_le_bytes());
        out[48..56].copy_from_slice(&self.epoch.to_le_bytes());
        let crc = crc32fast::hash(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes =
            bytes.get(..SEGMENT_HEADER_BYTES as usize).ok_or("the file is malformeder than a segment's header")?;
        if &bytes[..8] != MAGIC {
            return Err("this is no segment".into());
        }
        let mut r = Reader(&bytes[8..]);
        let malformed = |e: super::codec::Malformed| e.to_string();
        let format = r.u32().map_err(malformed)?;
        if crc32fast::hash(&bytes[..60]).to_le_bytes() != bytes[60..] {
            return Err("the segment's header does not match its checksum".into());
        }
        if !(FORMAT_MIN..=FORMAT_MAX).contains(&format) {
            return Err(format!("the segment has format {format}, this version reads {FORMAT_MIN} to {FORMAT_MAX}"));
        }
        let (shard, kind) = (r.u16().map_err(malformed)?, r.u16().map_err(malformed)?);
        if kind > 1 {
            return Err(format!("the segment is of the unknown kind {kind}"));
        }
        let cluster_id = u128::from_le_bytes(r.array().map_err(malformed)?);
        let (file_id, chain) = (r.u32().map_err(malformed)?, r.u32().map_err(malformed)?);
        let (base_gsn, epoch) = (r.count().map_err(malformed)?, r.count().map_err(malformed)?);
        Ok(Self { shard, compacted: kind == 1, cluster_id, file_id, base_gsn, epoch, chain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_header_has_these_bytes() {
        let header = SegmentHeader {
            shard: 2,
            compacted: false,
            cluster_id: 0x11,
            file_id: 3,
            base_gsn: 0x0201,
            epoch: 7,
            chain: 0x0a0b_0c0d,
        };
        let mut golden = [0u8; 64];
        golden[..8].copy_from_slice(b"ARMDBSEG");
        golden[8] = 1;
        golden[12] = 2;
        golden[16] = 0x11;
        golden[32] = 3;
        golden[36..40].copy_from_slice(&[0x0d, 0x0c, 0x0b, 0x0a]);
        golden[40..42].copy_from_slice(&[1, 2]);
        golden[48] = 7;
        let crc = crc32fast::hash(&golden[..60]);
        golden[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(header.encode(), golden);
        assert_eq!(SegmentHeader::decode(&golden), Ok(header));
        golden[40] ^= 1;
        assert!(SegmentHeader::decode(&golden).is_err());
    }
}
