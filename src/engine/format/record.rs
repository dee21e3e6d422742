//! One record: the unit of the log, of segments and of what travels between members.
//!
//! ```text
//!  0  gsn u64 | 8  crc u32 | 12 value_len u32 | 16 key_len u16 | 18 tree u16
//! 20  kind u8 | 21 flags u8 | 22 ext_len u8 (x 8 bytes) | 23 value_type u8
//! 24  extensions, key, value, zero padding to a multiple of 8
//! ```
//!
//! `crc` is CRC-32C (Castagnoli) over everything after the header and *then* the header without the crc field, so
//! that only 20 bytes are hashed under the shard's lock, where the gsn becomes known. It is not chained: one
//! record read anywhere verifies alone, and compaction copies it unchanged.

use super::crc::{crc32c, crc32c_extend, crc32c_with_header};
use crate::position::{COUNT_MAX, Gsn};

/// Bytes of a record's header.
pub(crate) const HEADER_BYTES: usize = 24;
/// Flag: the batch goes on in the next record.
pub(crate) const MORE: u8 = 1;
/// Flag: the extensions begin with `expires_ms u64`.
pub(crate) const EXPIRES: u8 = 2;
/// Flag: the extensions go on with `client u64, seq u64` (reserved for idempotent retries).
pub(crate) const CLIENT: u8 = 4;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Sets a key.
    Put = 1,
    /// Removes a key.
    Delete = 2,
    /// Opens an epoch.
    Barrier = 3,
    /// Creates a tree.
    Catalog = 4,
    /// Node-local: vouches for what was durable when it was written.
    Mark = 5,
    /// Node-local: the segment ends here.
    Seal = 6,
}

impl Kind {
    /// The kind of a byte.
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Put,
            2 => Self::Delete,
            3 => Self::Barrier,
            4 => Self::Catalog,
            5 => Self::Mark,
            6 => Self::Seal,
            _ => return None,
        })
    }

    /// Whether it has a gsn and is replicated.
    pub(crate) fn is_entry(self) -> bool {
        !matches!(self, Self::Mark | Self::Seal)
    }
}

/// What a record is made from; gsn and crc come later, by [`stamp`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: Kind,
    pub(crate) more: bool,
    pub(crate) tree: u16,
    pub(crate) value_type: u8,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl Draft<'_> {
    /// Bytes of the finished record.
    pub(crate) fn len(&self) -> usize {
        let ext = if self.expires_ms.is_some() { 8 } else { 0 };
        (HEADER_BYTES + ext + self.key.len() + self.value.len()).next_multiple_of(8)
    }

    /// Appends the record without gsn and crc and returns the CRC of its body.
    ///
    /// The caller has checked that key and value fit their length fields.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> u32 {
        let start = out.len();
        out.resize(start + self.len(), 0);
        self.fill(&mut out[start..]);
        crc32c(&out[start + HEADER_BYTES..])
    }

    /// The CRC of its body, computed where its parts lie.
    pub(crate) fn body_crc(&self) -> u32 {
        let crc = self.expires_ms.map_or(0, |expires_ms| crc32c(&expires_ms.to_le_bytes()));
        let crc = crc32c_extend(crc32c_extend(crc, self.key), self.value);
        crc32c_extend(crc, &[0; 8][..self.padding()])
    }

    /// Writes the finished record to where it belongs, which is as long as it; answers its crc.
    pub(crate) fn write(&self, to: &mut [u8], gsn: Gsn, body_crc: u32) -> u32 {
        self.fill(to);
        stamp(to, gsn, body_crc)
    }

    fn padding(&self) -> usize {
        self.len() - HEADER_BYTES - self.key.len() - self.value.len() - if self.expires_ms.is_some() { 8 } else { 0 }
    }

    /// Everything but gsn and crc.
    fn fill(&self, to: &mut [u8]) {
        let (header, body) = to.split_at_mut(HEADER_BYTES);
        header[..12].fill(0);
        header[12..16].copy_from_slice(&(self.value.len() as u32).to_le_bytes());
        header[16..18].copy_from_slice(&(self.key.len() as u16).to_le_bytes());
        header[18..20].copy_from_slice(&self.tree.to_le_bytes());
        header[20] = self.kind as u8;
        header[21] = if self.more { MORE } else { 0 } | if self.expires_ms.is_some() { EXPIRES } else { 0 };
        header[22] = u8::from(self.expires_ms.is_some());
        header[23] = self.value_type;
        let body = match self.expires_ms {
            Some(expires_ms) => {
                let (ext, rest) = body.split_at_mut(8);
                ext.copy_from_slice(&expires_ms.to_le_bytes());
                rest
            }
            None => body,
        };
        let (key, rest) = body.split_at_mut(self.key.len());
        key.copy_from_slice(self.key);
        let (value, padding) = rest.split_at_mut(self.value.len());
        value.copy_from_slice(self.value);
        padding.fill(0);
    }

    /// Appends the finished record.
    pub(crate) fn encode_stamped(&self, gsn: Gsn, out: &mut Vec<u8>) -> u32 {
        let start = out.len();
        let body_crc = self.encode(out);
        stamp(&mut out[start..], gsn, body_crc)
    }
}

/// Gives an encoded record its gsn and so its crc, which is returned.
pub(crate) fn stamp(record: &mut [u8], gsn: Gsn, body_crc: u32) -> u32 {
    record[..8].copy_from_slice(&gsn.to_le_bytes());
    let crc = header_crc(record, body_crc);
    record[8..12].copy_from_slice(&crc.to_le_bytes());
    crc
}

fn header_crc(record: &[u8], body_crc: u32) -> u32 {
    let mut header = [0; 20];
    header[..8].copy_from_slice(&record[..8]);
    header[8..].copy_from_slice(&record[12..24]);
    crc32c_extend(body_crc, &header)
}

/// `chain(g)` from `chain(g - 1)` and `crc(g)`.
pub(crate) fn chain(previous: u32, crc: u32) -> u32 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&previous.to_le_bytes());
    bytes[4..].copy_from_slice(&crc.to_le_bytes());
    crc32c(&bytes)
}

/// A record whose lengths fit the bytes it stands in. Its crc may not have been checked.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    bytes: &'a [u8],
    kind: Kind,
}

/// What stands at a place.
pub(crate) enum Parsed<'a> {
    /// A sound record.
    Record(Record<'a>),
    /// Twenty-four zeros, or fewer bytes than a header: nothing was written here.
    Nothing,
    /// Something else; why.
    Invalid(&'static str),
}

impl<'a> Record<'a> {
    /// The record at the start of `bytes`, without checking its crc: `None` if its lengths do not fit.
    #[inline]
    pub(crate) fn peek(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_BYTES)?;
        let kind = Kind::from_byte(header[20])?;
        let value_len = u32::from_le_bytes([header[12], header[13], header[14], header[15]]) as usize;
        let key_len = usize::from(u16::from_le_bytes([header[16], header[17]]));
        let ext_len = usize::from(header[22]) * 8;
        // Far below an overflow: four bytes, two bytes and one make it up.
        let len = (HEADER_BYTES + ext_len + key_len + value_len + 7) & !7;
        Some(Self { bytes: bytes.get(..len)?, kind })
    }

    /// What stands at the start of `bytes`, crc and all.
    pub(crate) fn parse(bytes: &'a [u8]) -> Parsed<'a> {
        let Some(header) = bytes.get(..HEADER_BYTES) else { return Parsed::Nothing };
        if header.iter().all(|&b| b == 0) {
            return Parsed::Nothing;
        }
        let Some(record) = Self::peek(bytes) else {
            return Parsed::Invalid("no known record fits here");
        };
        if !record.is_sound() {
            return Parsed::Invalid("the checksum does not match");
        }
        if record.gsn() > COUNT_MAX {
            return Parsed::Invalid("its gsn is none that is counted up to");
        }
        let ext = 8 * usize::from(record.flags() & EXPIRES != 0) + 16 * usize::from(record.flags() & CLIENT != 0);
        if record.flags() & !(MORE | EXPIRES | CLIENT) != 0 || ext != record.ext_len() {
            return Parsed::Invalid("unknown flags or extensions");
        }
        let padding = HEADER_BYTES + ext + record.key_len() + record.value_len();
        if record.bytes[padding..].iter().any(|&b| b != 0) {
            return Parsed::Invalid("something behind the value");
        }
        Parsed::Record(record)
    }

    /// Whether the crc matches.
    #[inline]
    pub(crate) fn is_sound(&self) -> bool {
        let (header, body) = self.bytes.split_at(HEADER_BYTES);
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let last = u32::from_le_bytes([header[20], header[21], header[22], header[23]]);
        crc32c_with_header(body, u64_at(0), u64_at(12), last) == self.crc()
    }

    /// All of its bytes.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its length, padding included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn gsn(&self) -> Gsn {
        let mut gsn = [0; 8];
        gsn.copy_from_slice(&self.bytes[..8]);
        u64::from_le_bytes(gsn)
    }

    pub(crate) fn crc(&self) -> u32 {
        u32::from_le_bytes([self.bytes[8], self.bytes[9], self.bytes[10], self.bytes[11]])
    }

    fn value_len(&self) -> usize {
        u32::from_le_bytes([self.bytes[12], self.bytes[13], self.bytes[14], self.bytes[15]]) as usize
    }

    fn key_len(&self) -> usize {
        usize::from(u16::from_le_bytes([self.bytes[16], self.bytes[17]]))
    }

    pub(crate) fn tree(&self) -> u16 {
        u16::from_le_bytes([self.bytes[18], self.bytes[19]])
    }

    /// Whether it is an entry of this key.
    #[inline]
    pub(crate) fn is_of(&self, tree: u16, key: &[u8]) -> bool {
        self.kind.is_entry() && self.tree() == tree && self.key() == key
    }

    pub(crate) fn flags(&self) -> u8 {
        self.bytes[21]
    }

    /// Whether the batch goes on after it.
    pub(crate) fn more(&self) -> bool {
        self.flags() & MORE != 0
    }

    fn ext_len(&self) -> usize {
        usize::from(self.bytes[22]) * 8
    }

    pub(crate) fn value_type(&self) -> u8 {
        self.bytes[23]
    }

    pub(crate) fn expires_ms(&self) -> Option<u64> {
        if self.flags() & EXPIRES == 0 {
            return None;
        }
        let mut expires = [0; 8];
        expires.copy_from_slice(self.bytes.get(HEADER_BYTES..HEADER_BYTES + 8)?);
        Some(u64::from_le_bytes(expires))
    }

    pub(crate) fn key(&self) -> &'a [u8] {
        let start = HEADER_BYTES + self.ext_len();
        &self.bytes[start..start + self.key_len()]
    }

    pub(crate) fn value(&self) -> &'a [u8] {
        let start = HEADER_BYTES + self.ext_len() + self.key_len();
        &self.bytes[start..start + self.value_len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft<'static> {
        Draft {
            kind: Kind::Put,
            more: true,
            tree: 3,
            value_type: 7,
            expires_ms: Some(0x0102_0304_0506_0708),
            key: b"key",
            value: b"value",
        }
    }

    #[test]
    fn a_record_has_these_bytes() {
        let mut out = Vec::new();
        draft().encode_stamped(0x1122_3344_5566_7788, &mut out);
        let golden: [u8; 40] = [
            0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, // gsn
            out[8], out[9], out[10], out[11], // crc: below
            5, 0, 0, 0, 3, 0, 3, 0, 1, 3, 1, 7, // lengths, tree, kind, flags, ext_len, value_type
            8, 7, 6, 5, 4, 3, 2, 1, // expires_ms
            b'k', b'e', b'y', b'v', b'a', b'l', b'u', b'e',
        ];
        assert_eq!(out, golden);
        let mut covered = out[24..].to_vec();
        covered.extend_from_slice(&out[..8]);
        covered.extend_from_slice(&out[12..24]);
        assert_eq!(out[8..12], crc32c::crc32c(&covered).to_le_bytes());
        assert_eq!(out[8..12], 0x1448_d257_u32.to_le_bytes(), "computed by another implementation of CRC-32C");
    }

    #[test]
    fn a_record_survives_its_bytes_and_no_flipped_bit_does() {
        let mut out = Vec::new();
        draft().encode_stamped(9, &mut out);
        let Parsed::Record(r) = Record::parse(&out) else { panic!("sound") };
        assert_eq!((r.gsn(), r.tree(), r.value_type(), r.more(), r.kind()), (9, 3, 7, true, Kind::Put));
        assert_eq!((r.key(), r.value(), r.expires_ms()), (&b"key"[..], &b"value"[..], draft().expires_ms));
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(Record::parse(&bad), Parsed::Record(_)), "bit {bit}");
        }
        assert!(matches!(Record::parse(&out[..out.len() - 1]), Parsed::Invalid(_)));
        assert!(matches!(Record::parse(&[0; 64]), Parsed::Nothing));
    }

    #[test]
    fn a_batch_has_these_bytes() {
        let draft = |more, key, value| Draft { more, expires_ms: None, tree: 0, value_type: 0, key, value, ..draft() };
        let mut out = Vec::new();
        draft(true, b"a".as_slice(), b"12".as_slice()).encode_stamped(5, &mut out);
        let delete = Draft { kind: Kind::Delete, ..draft(false, b"b", b"") };
        delete.encode_stamped(6, &mut out);
        let golden: [u8; 64] = [
            5, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0x1a, 0xec, 0x94, 2, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, // put, MORE
            b'a', b'1', b'2', 0, 0, 0, 0, 0, //
            6, 0, 0, 0, 0, 0, 0, 0, 0x24, 0xbe, 0x95, 0xef, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, // delete, the end
            b'b', 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(out, golden);
    }

    #[test]
    fn a_record_with_every_extension_is_read_and_one_that_its_flags_do_not_account_for_is_not() {
        let mut golden = vec![9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, EXPIRES | CLIENT, 3, 0];
        for word in [77u64, 0x1111, 0x2222] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        golden.extend_from_slice(b"kv\0\0\0\0\0\0");
        let body = crc32c::crc32c(&golden[24..]);
        stamp(&mut golden, 9, body);
        let Parsed::Record(record) = Record::parse(&golden) else { panic!("sound") };
        assert_eq!((record.expires_ms(), record.key(), record.value()), (Some(77), &b"k"[..], &b"v"[..]));
        for flags in [0, EXPIRES, CLIENT, EXPIRES | CLIENT | 8] {
            golden[21] = flags;
            stamp(&mut golden, 9, body);
            assert!(matches!(Record::parse(&golden), Parsed::Invalid("unknown flags or extensions")), "{flags}");
        }
    }

    #[test]
    fn an_unknown_kind_is_refused_even_with_a_right_checksum() {
        let mut out = Vec::new();
        draft().encode(&mut out);
        out[20] = 9;
        let body = crc32c::crc32c(&out[24..]);
        stamp(&mut out, 1, body);
        assert!(matches!(Record::parse(&out), Parsed::Invalid(_)));
    }

    #[test]
    fn a_chain_depends_on_every_crc_and_their_order() {
        assert_eq!(chain(0, 1), crc32c::crc32c(&[0, 0, 0, 0, 1, 0, 0, 0]));
        assert_ne!(chain(chain(0, 1), 2), chain(chain(0, 2), 1));
    }
}
