//! Which slot, and so which shard, a key belongs to: the rules of Redis Cluster, also for binary keys.

/// Slots of a cluster.
pub const SLOTS: u16 = 16384;

/// The slot of a key: `crc16` of its hash tag (what stands between the first `{` and the next `}`, if that is
/// not empty), else of the whole key.
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hashed_part(key)) & (SLOTS - 1)
}

/// The shard of a key in a partition of `shards` shards.
pub fn shard_of(key: &[u8], shards: u16) -> u16 {
    if shards <= 1 { 0 } else { slot_of(key) % shards }
}

fn hashed_part(key: &[u8]) -> &[u8] {
    if let Some(open) = key.iter().position(|&b| b == b'{') {
        let rest = &key[open + 1..];
        if let Some(len) = rest.iter().position(|&b| b == b'}')
            && len > 0
        {
            return &rest[..len];
        }
    }
    key
}

/// CRC-16/XMODEM, as Redis Cluster uses it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &b| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ b)])
}

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12182);
        assert_eq!(slot_of(b"{user1000}.following"), slot_of(b"{user1000}.followers"));
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") & 16383);
        assert_eq!(slot_of(b"foo{{bar}}zap"), crc16(b"{bar") & 16383);
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
    }

    #[test]
    fn a_key_without_a_closing_brace_is_hashed_whole() {
        assert_eq!(slot_of(b"foo{bar"), crc16(b"foo{bar") & 16383);
        assert!(shard_of(b"foo{bar", 8) < 8);
        assert_eq!(shard_of(b"x", 1), 0);
    }
}
