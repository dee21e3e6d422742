//! The payload of `node.meta`: the member's public metadata, and what only the engine needs to know.

use super::codec::{Malformed, Reader, Writer};
use crate::engine::meta::{InitState, LastConfig, NodeMeta};
use crate::ident::{ClusterId, Sid};

/// Magic of `node.meta`.
pub(crate) const NODE_META_MAGIC: &[u8; 8] = b"ARMDBNOD";
/// Shards a directory may have; it has one at least.
pub(crate) const SHARDS_MAX: u16 = 64;
/// Voters a configuration may have: keeps the payload within its slot.
const VOTERS_MAX: usize = 128;

/// Who may open a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A member of a cluster.
    Member,
    /// The embedded library.
    Embedded,
}

/// All of `node.meta`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRecord {
    pub(crate) meta: NodeMeta,
    pub(crate) purpose: Purpose,
    /// Seed of every key hash in this directory.
    pub(crate) hash_seed: u64,
    /// Whether the last run let writes be acknowledged from the page cache.
    pub(crate) relaxed: bool,
}

impl NodeRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let m = &self.meta;
        let mut w = Writer::default();
        w.u32(m.format_level).u32(m.format_min).u32(m.format_max);
        w.u8(match self.purpose {
            Purpose::Member => 0,
            Purpose::Embedded => 1,
        });
        w.u8(u8::from(m.clean)).u8(u8::from(self.relaxed));
        w.u8(match m.init {
            InitState::None => 0,
            InitState::Started => 1,
            InitState::Done => 2,
        });
        w.bytes(&m.sid.to_bytes()).u8(u8::from(m.cluster_id.is_some())).u8(0).u16(m.shards).u32(0);
        w.bytes(&m.cluster_id.unwrap_or_default().to_bytes());
        w.u64(m.lineage).u64(m.open_count).bytes(&m.boot_id).u64(m.promised).u64(m.led).u64(self.hash_seed);
        match &m.last_config {
            None => {
                w.u32(0);
            }
            Some(config) => {
                w.u32(1).u64(config.epoch).u32(config.write_quorum).u32(config.min_voters);
                w.u32(config.voters.len().min(VOTERS_MAX) as u32);
                for voter in config.voters.iter().take(VOTERS_MAX) {
                    w.bytes(&voter.to_bytes());
                }
            }
        }
        w.0
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, String> {
        let record = Self::read(&mut Reader(payload)).map_err(|e| e.to_string())??;
        // A field that should be zero and is not, or something behind the end: nothing is skipped.
        if record.encode() != payload {
            return Err("it says more than this version knows".into());
        }
        Ok(record)
    }

    /// The format levels a payload names, readable whatever the rest has become: level, oldest, newest.
    pub(crate) fn formats(payload: &[u8]) -> Result<(u32, u32, u32), Malformed> {
        let mut r = Reader(payload);
        Ok((r.u32()?, r.u32()?, r.u32()?))
    }

    fn read(r: &mut Reader<'_>) -> Result<Result<Self, String>, Malformed> {
        let (format_level, format_min, format_max) = (r.u32()?, r.u32()?, r.u32()?);
        let purpose = match r.u8()? {
            0 => Purpose::Member,
            1 => Purpose::Embedded,
            other => return Ok(Err(format!("the unknown purpose {other}"))),
        };
        let (clean, relaxed) = (r.u8()? != 0, r.u8()? != 0);
        let init = match r.u8()? {
            0 => InitState::None,
            1 => InitState::Started,
            2 => InitState::Done,
            other => return Ok(Err(format!("the unknown init state {other}"))),
        };
        let sid = Sid::from_bytes(r.array()?);
        let (has_cluster, _, shards, _) = (r.u8()? != 0, r.u8()?, r.u16()?, r.u32()?);
        // With none, everything would be gone and nothing missing.
        if shards == 0 || shards > SHARDS_MAX {
            return Ok(Err(format!("{shards} shards, which is not between 1 and {SHARDS_MAX}")));
        }
        let cluster_id = ClusterId::from_bytes(r.array()?);
        let (lineage, open_count, boot_id) = (r.count()?, r.count()?, r.array()?);
        let (promised, led, hash_seed) = (r.count()?, r.count()?, r.u64()?);
        let last_config = if r.u32()? == 0 {
            None
        } else {
            let (epoch, write_quorum, min_voters, count) = (r.count()?, r.u32()?, r.u32()?, r.u32()?);
            let voters = (0..count).map(|_| r.array().map(Sid::from_bytes)).collect::<Result<_, _>>()?;
            Some(LastConfig { epoch, voters, write_quorum, min_voters })
        };
        let meta = NodeMeta {
            cluster_id: has_cluster.then_some(cluster_id),
            sid,
            lineage,
            shards,
            open_count,
            boot_id,
            clean,
            promised,
            led,
            init,
            last_config,
            format_level,
            format_min,
            format_max,
        };
        Ok(Ok(Self { meta, purpose, hash_seed, relaxed }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::COUNT_MAX;

    fn record() -> NodeRecord {
        NodeRecord {
            meta: NodeMeta {
                cluster_id: Some(ClusterId(0x22)),
                sid: Sid(0x11),
                lineage: 1,
                shards: 2,
                open_count: 3,
                boot_id: [4; 16],
                clean: true,
                promised: 5,
                led: 6,
                init: InitState::Done,
                last_config: Some(LastConfig { epoch: 8, voters: vec![Sid(0x11)], write_quorum: 1, min_voters: 1 }),
                format_level: 1,
                format_min: 1,
                format_max: 1,
            },
            purpose: Purpose::Member,
            hash_seed: 7,
            relaxed: false,
        }
    }

    #[test]
    fn a_nodes_meta_has_these_bytes() {
        let record = record();
        let mut golden = Vec::new();
        golden.extend_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 2]);
        golden.extend_from_slice(&0x11u128.to_le_bytes());
        golden.extend_from_slice(&[1, 0, 2, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&0x22u128.to_le_bytes());
        for word in [1u64, 3] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        golden.extend_from_slice(&[4; 16]);
        for word in [5u64, 6, 7] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        golden.extend_from_slice(&[1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        golden.extend_from_slice(&0x11u128.to_le_bytes());
        assert_eq!(record.encode(), golden);
        assert_eq!(NodeRecord::decode(&golden), Ok(record));
        assert!(NodeRecord::decode(&golden[..golden.len() - 1]).is_err());
    }

    #[test]
    fn a_directory_of_no_shards_or_of_too_many_is_refused() {
        for (shards, taken) in [(0, false), (1, true), (SHARDS_MAX, true), (SHARDS_MAX + 1, false)] {
            let mut record = record();
            record.meta.shards = shards;
            assert_eq!(NodeRecord::decode(&record.encode()).is_ok(), taken, "{shards}");
        }
    }

    #[test]
    fn what_nobody_can_have_counted_to_is_refused() {
        let counts: [fn(&mut NodeMeta) -> &mut u64; 4] =
            [|meta| &mut meta.open_count, |meta| &mut meta.lineage, |meta| &mut meta.promised, |meta| &mut meta.led];
        for count in counts {
            let mut record = record();
            *count(&mut record.meta) = COUNT_MAX;
            assert_eq!(NodeRecord::decode(&record.encode()), Ok(record.clone()));
            *count(&mut record.meta) = u64::MAX;
            let refused = NodeRecord::decode(&record.encode());
            assert_eq!(refused, Err("nothing counts up to 18446744073709551615".into()));
        }
    }
}
