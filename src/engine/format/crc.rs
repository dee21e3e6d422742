//! CRC-32 (IEEE) of a record's few bytes.
//!
//! `crc32fast` folds with carry-less multiplication from 128 bytes on and goes through tables below, which is what
//! most records and all headers are: some 500 instructions a record, more than a processor looks ahead, so that one
//! read's cache misses could not overlap with the next one's. Here short inputs fold too: V. Gopal et al., "Fast CRC
//! Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009), with one accumulator. Longer ones,
//! the very short, and other processors are left to the library; the values are the same.

/// Of some bytes.
#[inline]
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    crc32_extend(0, bytes)
}

/// Of what `crc` is of, followed by some bytes.
#[inline]
pub(crate) fn crc32_extend(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if (8..128).contains(&bytes.len()) && folding::is_available() {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { folding::extend(crc, bytes) };
    }
    library(crc, bytes)
}

/// Of a body whose length is a multiple of eight, followed by the twenty bytes of `head`, `middle` and `last`.
#[inline]
pub(crate) fn crc32_with_header(body: &[u8], head: u64, middle: u64, last: u32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if (24..256).contains(&body.len()) && folding::is_available() {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { folding::with_header(body, head, middle, last) };
    }
    let mut header = [0; 20];
    header[..8].copy_from_slice(&head.to_le_bytes());
    header[8..16].copy_from_slice(&middle.to_le_bytes());
    header[16..].copy_from_slice(&last.to_le_bytes());
    crc32_extend(crc32(body), &header)
}

#[cold]
#[inline(never)]
fn library(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(target_arch = "x86_64")]
mod folding {
    use std::arch::x86_64::*;

    /// x^(128+32) and x^(128-32) mod P, bit-reflected: a block's distance to the next one.
    const FOLD: (i64, i64) = (0x1_7519_97d0, 0x0_ccaa_009e);
    /// x^64 mod P.
    const FOLD_64: i64 = 0x1_63cd_6124;
    /// P and floor(x^64 / P): Barrett's reduction.
    const BARRETT: (i64, i64) = (0x1_db71_0641, 0x1_f701_1641);

    pub(super) fn is_available() -> bool {
        is_x86_feature_detected!("pclmulqdq")
    }

    fn first_eight(bytes: &[u8]) -> u64 {
        u64::from_le_bytes(*bytes.first_chunk().expect("eight bytes at least"))
    }

    /// The first `odd` bytes, fewer than sixteen, at the end of a block, behind zeros, which leave an empty state as it
    /// is; with the state, and what of it concerns the bytes after them. `bytes` are eight at least.
    fn lead(state: u32, bytes: &[u8], odd: usize) -> (u128, u128) {
        let state = u128::from(state);
        if odd == 0 {
            return (0, state);
        }
        let low = match bytes.first_chunk::<16>() {
            Some(sixteen) => u128::from_le_bytes(*sixteen),
            // Eight to fifteen bytes: two overlapping halves.
            None => {
                let last = first_eight(&bytes[bytes.len() - 8..]);
                u128::from(first_eight(bytes)) | u128::from(last) << (8 * (bytes.len() - 8))
            }
        };
        ((low ^ state) << (8 * (16 - odd)), state >> (8 * odd))
    }

    /// `bytes` are eight at least.
    #[target_feature(enable = "pclmulqdq")]
    pub(super) fn extend(crc: u32, bytes: &[u8]) -> u32 {
        let odd = bytes.len() % 16;
        let (first, second) = lead(!crc, bytes, odd);
        let mut folded = fold(vector(first), vector(second));
        for (i, block) in bytes[odd..].as_chunks::<16>().0.iter().enumerate() {
            folded = if i == 0 { _mm_xor_si128(folded, load(block)) } else { fold(folded, load(block)) };
        }
        if bytes.len() == odd { reduce(vector(first)) } else { reduce(folded) }
    }

    /// `body` has 24 bytes at least, and a multiple of eight.
    #[target_feature(enable = "pclmulqdq")]
    pub(super) fn with_header(body: &[u8], head: u64, middle: u64, last: u32) -> u32 {
        let state = _mm_cvtsi32_si128(!0);
        let (start, _) = body.split_first_chunk::<16>().expect("sixteen bytes at least");
        // With the header's twenty bytes behind it a body has four odd bytes or twelve, and its last block lacks four.
        let (lead, odd) = if body.len().is_multiple_of(16) {
            (_mm_slli_si128::<12>(_mm_xor_si128(load(start), state)), 4)
        } else {
            (_mm_slli_si128::<4>(_mm_xor_si128(load(start), state)), 12)
        };
        let (blocks, _) = body[odd..].as_chunks::<16>();
        let mut folded = lead;
        for block in blocks {
            folded = fold(folded, load(block));
        }
        let end = body.last_chunk::<16>().expect("sixteen bytes at least");
        let end = _mm_srli_si128::<4>(load(end));
        let joint = _mm_or_si128(end, _mm_slli_si128::<12>(_mm_cvtsi32_si128(head as i32)));
        folded = fold(folded, joint);
        let end = _mm_set_epi64x((middle >> 32 | u64::from(last) << 32) as i64, (head >> 32 | middle << 32) as i64);
        reduce(fold(folded, end))
    }

    #[target_feature(enable = "pclmulqdq")]
    fn fold(folded: __m128i, block: __m128i) -> __m128i {
        let keys = _mm_set_epi64x(FOLD.1, FOLD.0);
        let low = _mm_clmulepi64_si128::<0x00>(folded, keys);
        let high = _mm_clmulepi64_si128::<0x11>(folded, keys);
        _mm_xor_si128(block, _mm_xor_si128(low, high))
    }

    #[target_feature(enable = "pclmulqdq")]
    fn reduce(folded: __m128i) -> u32 {
        !(_mm_cvtsi128_si32(to_32(folded)) as u32)
    }

    /// 128 bits to 64, then to 32, in the lowest word.
    #[target_feature(enable = "pclmulqdq")]
    fn to_32(folded: __m128i) -> __m128i {
        let keys = _mm_set_epi64x(FOLD.1, FOLD.0);
        let low32 = _mm_set_epi32(0, 0, 0, !0);
        let x = _mm_xor_si128(_mm_clmulepi64_si128::<0x10>(folded, keys), _mm_srli_si128::<8>(folded));
        let x = _mm_xor_si128(
            _mm_clmulepi64_si128::<0x00>(_mm_and_si128(x, low32), _mm_set_epi64x(0, FOLD_64)),
            _mm_srli_si128::<4>(x),
        );
        barrett(x, _mm_and_si128(x, low32))
    }

    /// What 64 bits, whose lower half is `low`, leave: in the lowest word, zeros above it.
    #[target_feature(enable = "pclmulqdq")]
    fn barrett(x: __m128i, low: __m128i) -> __m128i {
        let low32 = _mm_set_epi32(0, 0, 0, !0);
        let keys = _mm_set_epi64x(BARRETT.1, BARRETT.0);
        let quotient = _mm_and_si128(_mm_clmulepi64_si128::<0x10>(low, keys), low32);
        let product = _mm_clmulepi64_si128::<0x00>(quotient, keys);
        _mm_and_si128(_mm_srli_si128::<4>(_mm_xor_si128(x, product)), low32)
    }

    #[target_feature(enable = "sse2")]
    fn vector(bits: u128) -> __m128i {
        _mm_set_epi64x((bits >> 64) as i64, bits as i64)
    }

    #[target_feature(enable = "sse2")]
    fn load(block: &[u8; 16]) -> __m128i {
        // SAFETY: sixteen bytes are there, and this load wants no alignment.
        unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_library_says_for_every_length_and_start() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926, "the check value of CRC-32/ISO-HDLC");
        let bytes: Vec<u8> = (0..400u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in 0..300 {
            for (start, crc) in [(0, 0), (1, 1), (7, 0xffff_ffff), (31, 0x8000_0001), (64, 0x1234_5678)] {
                let part = &bytes[start..start + len];
                let mut library = crc32fast::Hasher::new_with_initial(crc);
                library.update(part);
                assert_eq!(crc32_extend(crc, part), library.finalize(), "{len} bytes after {crc:#x}");
            }
        }
    }

    #[test]
    fn a_body_and_a_header_at_once_are_the_two_one_after_the_other() {
        let bytes: Vec<u8> = (0..600u32).map(|i| (i.wrapping_mul(2_246_822_519) >> 11) as u8).collect();
        for len in (0..560).step_by(8) {
            let (head, middle, last) =
                (0x0102_0304_0506_0708u64.wrapping_mul(len as u64), !(len as u64) << 3, 0x9abc_def0 ^ len as u32);
            let mut whole = bytes[..len].to_vec();
            whole.extend_from_slice(&head.to_le_bytes());
            whole.extend_from_slice(&middle.to_le_bytes());
            whole.extend_from_slice(&last.to_le_bytes());
            assert_eq!(crc32_with_header(&bytes[..len], head, middle, last), crc32fast::hash(&whole), "{len} bytes");
        }
    }
}
