//! CRC-32C (Castagnoli) of records and of their chain.
//!
//! Processors have an instruction for this polynomial, eight bytes a time, and that is why records have it: every read
//! checks one, and a read's two cache misses overlap with the next read's only while all that is done between them fits
//! the processor's window of some 500 instructions. CRC-32 (IEEE) of a short record alone takes most of that, with
//! tables as by folding (measured: 2.4 against 4 million reads a second). Long records, whose bytes count for
//! more than their number, and other processors are left to the library; the values are the same.

/// What the library does faster: it folds three streams.
const LONG_BYTES: usize = 512;

/// Of some bytes.
#[inline]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_extend(0, bytes)
}

/// Of what `crc` is of, followed by some bytes.
#[inline]
pub(crate) fn crc32c_extend(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() < LONG_BYTES && is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { instruction::extend(crc, bytes) };
    }
    crc32c::crc32c_append(crc, bytes)
}

/// Of a body, followed by the twenty bytes of `head`, `middle` and `last`.
#[inline]
pub(crate) fn crc32c_with_header(body: &[u8], head: u64, middle: u64, last: u32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if body.len() < LONG_BYTES && is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { instruction::with_header(body, head, middle, last) };
    }
    let mut header = [0; 20];
    header[..8].copy_from_slice(&head.to_le_bytes());
    header[8..16].copy_from_slice(&middle.to_le_bytes());
    header[16..].copy_from_slice(&last.to_le_bytes());
    crc32c_extend(crc32c(body), &header)
}

#[cfg(target_arch = "x86_64")]
mod instruction {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};

    #[target_feature(enable = "sse4.2")]
    pub(super) fn extend(crc: u32, bytes: &[u8]) -> u32 {
        !update(!crc, bytes)
    }

    #[target_feature(enable = "sse4.2")]
    pub(super) fn with_header(body: &[u8], head: u64, middle: u64, last: u32) -> u32 {
        let state = _mm_crc32_u64(u64::from(update(!0, body)), head);
        !_mm_crc32_u32(_mm_crc32_u64(state, middle) as u32, last)
    }

    #[target_feature(enable = "sse4.2")]
    #[inline]
    fn update(state: u32, bytes: &[u8]) -> u32 {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut wide = u64::from(state);
        for word in words {
            wide = _mm_crc32_u64(wide, u64::from_le_bytes(*word));
        }
        rest.iter().fold(wide as u32, |state, byte| _mm_crc32_u8(state, *byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Vec<u8> {
        (0..1200u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn it_is_what_the_library_says_for_every_length_and_start() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the check value of CRC-32/ISCSI");
        let bytes = bytes();
        for len in 0..600 {
            for (start, crc) in [(0, 0), (1, 1), (7, 0xffff_ffff), (31, 0x8000_0001), (64, 0x1234_5678)] {
                let part = &bytes[start..start + len];
                assert_eq!(crc32c_extend(crc, part), crc32c::crc32c_append(crc, part), "{len} bytes after {crc:#x}");
            }
        }
    }

    #[test]
    fn a_body_and_a_header_at_once_are_the_two_one_after_the_other() {
        let bytes = bytes();
        for len in (0..700).step_by(8) {
            let head = 0x0102_0304_0506_0708u64.wrapping_mul(len as u64);
            let (middle, last) = (!(len as u64) << 3, 0x9abc_def0 ^ len as u32);
            let mut whole = bytes[..len].to_vec();
            whole.extend_from_slice(&head.to_le_bytes());
            whole.extend_from_slice(&middle.to_le_bytes());
            whole.extend_from_slice(&last.to_le_bytes());
            assert_eq!(crc32c_with_header(&bytes[..len], head, middle, last), crc32c::crc32c(&whole), "{len} bytes");
        }
    }
}
