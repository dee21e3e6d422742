//! A Bloom filter of the keys in one file: says "not here" for sure, "here" with one error in a hundred.
//!
//! Compaction asks it whether an older file may still hold a version of a key that a tombstone hides; a
//! wrong "maybe" keeps a tombstone longer, a wrong "no" would resurrect a deleted key, so filters are only
//! built from all hashes of a file. The hash is the caller's and is persisted with the filter (in hints):
//! its definition must not change within a format. Layout: number of bits `u64`, then the bits in
//! little-endian 64-bit words.

/// Bits a key: with [`PROBES`] probes about 0.9 % wrong answers.
const BITS_PER_KEY: u64 = 10;
const PROBES: u64 = 7;

/// What a set of key hashes may contain.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeyFilter {
    words: Vec<u64>,
}

/// Bytes that are no filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key filter is malformed: it says {bits} bits in {len} bytes; rebuild its hint file from the segment")]
pub(crate) struct MalformedFilter {
    bits: u64,
    len: usize,
}

impl std::fmt::Debug for KeyFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyFilter").field("bits", &self.bits()).finish()
    }
}

impl KeyFilter {
    /// The filter of these hashes.
    pub(crate) fn build(hashes: &[u64]) -> Self {
        let mut filter = Self { words: vec![0; (hashes.len() as u64 * BITS_PER_KEY).div_ceil(64) as usize] };
        let bits = filter.bits();
        for hash in hashes {
            for bit in probes(*hash, bits) {
                filter.words[(bit / 64) as usize] |= 1 << (bit % 64);
            }
        }
        filter
    }

    /// `false` only if the hash is not one of those built from.
    pub(crate) fn may_contain(&self, hash: u64) -> bool {
        let bits = self.bits();
        bits > 0 && probes(hash, bits).all(|bit| self.words[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
    }

    /// As stored.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let words = std::iter::once(self.bits()).chain(self.words.iter().copied());
        words.flat_map(u64::to_le_bytes).collect()
    }

    /// The inverse of [`Self::to_bytes`]; all of `bytes` is the filter.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedFilter> {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let bits = words.next().unwrap_or(u64::MAX);
        let words: Vec<u64> = words.collect();
        if !rest.is_empty() || words.len() as u64 * 64 != bits {
            return Err(MalformedFilter { bits, len: bytes.len() });
        }
        Ok(Self { words })
    }

    fn bits(&self) -> u64 {
        self.words.len() as u64 * 64
    }
}

/// Double hashing; the high half of a product instead of a remainder.
fn probes(hash: u64, bits: u64) -> impl Iterator<Item = u64> {
    let step = hash.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..PROBES).map(move |i| {
        let probe = hash.wrapping_add(step.wrapping_mul(i));
        ((u128::from(probe) * u128::from(bits)) >> 64) as u64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&key.to_le_bytes())
    }

    #[test]
    fn what_is_in_is_never_denied_and_little_else_is_affirmed() {
        let hashes: Vec<u64> = (0..50_000).map(hash).collect();
        let filter = KeyFilter::from_bytes(&KeyFilter::build(&hashes).to_bytes()).unwrap();
        assert!(hashes.iter().all(|h| filter.may_contain(*h)));
        let wrong = (50_000..150_000).filter(|key| filter.may_contain(hash(*key))).count();
        assert!(wrong < 1500, "{wrong} of 100 000 affirmed wrongly");
        assert!(filter.to_bytes().len() <= 8 + 50_000 * 10 / 8 + 8);
    }

    #[test]
    fn an_empty_filter_contains_nothing() {
        let filter = KeyFilter::from_bytes(&KeyFilter::build(&[]).to_bytes()).unwrap();
        assert!(!filter.may_contain(0) && !filter.may_contain(u64::MAX));
    }

    #[test]
    fn its_bytes_are_what_they_were() {
        let bytes = KeyFilter::build(&[1, 0x0123_4567_89ab_cdef, u64::MAX]).to_bytes();
        assert_eq!(bytes, GOLDEN);
        for malformed in [&bytes[..0], &bytes[..8], &bytes[..bytes.len() - 1], &[bytes.clone(), vec![0; 8]].concat()] {
            assert!(KeyFilter::from_bytes(malformed).is_err());
        }
    }

    const GOLDEN: [u8; 16] = [64, 0, 0, 0, 0, 0, 0, 0, 1, 6, 36, 129, 34, 128, 1, 196];
}
