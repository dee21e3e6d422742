//! The payload of `shard.meta`: the shard's state and which manifest is in force.

use super::codec::{Reader, Writer};
use crate::engine::shard_state::ShardState;

/// Magic of `shard.meta`.
pub(crate) const SHARD_META_MAGIC: &[u8; 8] = b"ARMDBSHM";

/// What `shard.meta` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardMeta {
    pub(crate) state: ShardState,
    /// Number of the manifest in force; 0: none, the shard has no files.
    pub(crate) manifest: u64,
    pub(crate) manifest_len: u32,
    pub(crate) manifest_crc: u32,
}

impl ShardMeta {
    /// As formatted.
    pub(crate) fn blank() -> Self {
        Self { state: ShardState::Blank, manifest: 0, manifest_len: 0, manifest_crc: 0 }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let alarm = matches!(self.state, ShardState::Quarantined { alarm: true, .. });
        let (state, reason) = match &self.state {
            ShardState::Blank => (1, ""),
            ShardState::Syncing => (2, ""),
            ShardState::Ready => (3, ""),
            ShardState::Amnesic => (4, ""),
            ShardState::Quarantined { reason, .. } => (5, reason.as_str()),
            ShardState::Damaged { .. } => (6, ""),
        };
        let mut w = Writer::default();
        w.u8(state)
            .u8(u8::from(alarm))
            .u16(0)
            .u32(self.manifest_len)
            .u64(self.manifest)
            .u32(self.manifest_crc)
            .text(reason);
        if let ShardState::Damaged { files } = &self.state {
            w.u16(files.len() as u16);
            for id in files {
                w.u32(*id);
            }
        }
        w.0
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, String> {
        let mut r = Reader(payload);
        let mut read = || {
            let (state, alarm, _) = (r.u8()?, r.u8()?, r.u16()?);
            let (manifest_len, manifest, manifest_crc) = (r.u32()?, r.count()?, r.u32()?);
            let reason = r.text()?;
            let damaged = if state == 6 { r.u16()? } else { 0 };
            let files = (0..damaged).map(|_| r.u32()).collect::<Result<Vec<_>, _>>()?;
            Ok((state, alarm != 0, manifest_len, manifest, manifest_crc, reason, files))
        };
        let (state, alarm, manifest_len, manifest, manifest_crc, reason, files) =
            read().map_err(|e: super::codec::Malformed| e.to_string())?;
        let state = match state {
            1 => ShardState::Blank,
            2 => ShardState::Syncing,
            3 => ShardState::Ready,
            4 => ShardState::Amnesic,
            5 => ShardState::Quarantined { reason, alarm },
            6 => ShardState::Damaged { files },
            other => return Err(format!("the shard's state is the unknown {other}")),
        };
        let meta = Self { state, manifest, manifest_len, manifest_crc };
        // A field that should be zero and is not, or something behind the end: nothing is skipped.
        if meta.encode() != payload {
            return Err("it says more than this version knows".into());
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shards_meta_has_these_bytes() {
        let meta = ShardMeta {
            state: ShardState::Quarantined { reason: "rot".into(), alarm: false },
            manifest: 5,
            manifest_len: 0x0102,
            manifest_crc: 0x0a0b_0c0d,
        };
        let golden = b"\x05\0\0\0\x02\x01\0\0\x05\0\0\0\0\0\0\0\x0d\x0c\x0b\x0a\x03\0rot";
        assert_eq!(meta.encode(), golden);
        assert_eq!(ShardMeta::decode(golden), Ok(meta.clone()));
        let alarm = ShardMeta { state: ShardState::Quarantined { reason: "rot".into(), alarm: true }, ..meta.clone() };
        assert_eq!((alarm.encode()[1], ShardMeta::decode(&alarm.encode())), (1, Ok(alarm)));
        for state in [ShardState::Blank, ShardState::Syncing, ShardState::Ready, ShardState::Amnesic] {
            let meta = ShardMeta { state, ..ShardMeta::blank() };
            assert_eq!(ShardMeta::decode(&meta.encode()), Ok(meta));
        }
        let damaged = ShardMeta { state: ShardState::Damaged { files: vec![3, 0x0102] }, ..meta };
        let golden_damaged =
            b"\x06\0\0\0\x02\x01\0\0\x05\0\0\0\0\0\0\0\x0d\x0c\x0b\x0a\0\0\x02\0\x03\0\0\0\x02\x01\0\0";
        assert_eq!(damaged.encode(), golden_damaged);
        assert_eq!(ShardMeta::decode(golden_damaged), Ok(damaged));
        assert!(ShardMeta::decode(&golden[..6]).is_err());
    }
}
