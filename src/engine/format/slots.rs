//! A file of two slots, written in turn: the newest sound one counts, so that a torn write loses nothing.
//!
//! A slot is 4096 bytes: `magic 8 | seq u64 | len u32 | crc u32 | payload`; the crc covers the payload, then
//! the 20 bytes before it.

use crate::position::COUNT_MAX;

/// Bytes of one slot.
pub(crate) const SLOT_BYTES: usize = 4096;
/// Bytes a payload may have.
pub(crate) const PAYLOAD_MAX: usize = SLOT_BYTES - 24;

/// The newest sound slot, and whether both are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) seq: u64,
    /// 0 or 1.
    pub(crate) slot: usize,
    pub(crate) payload: Vec<u8>,
    /// The payload of the other slot, if it is sound.
    pub(crate) older: Option<Vec<u8>>,
}

/// One slot's bytes.
///
/// # Panics
/// If the payload is longer than [`PAYLOAD_MAX`]: what is stored here is bounded by construction.
pub(crate) fn encode(magic: &[u8; 8], seq: u64, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() <= PAYLOAD_MAX, "a slot's payload of {} bytes", payload.len());
    let mut out = Vec::with_capacity(SLOT_BYTES);
    out.extend_from_slice(magic);
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    let crc = crc(&out, payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
    out.resize(SLOT_BYTES, 0);
    out
}

fn crc(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(payload);
    hasher.update(head);
    hasher.finalize()
}

fn decode(magic: &[u8; 8], slot: &[u8]) -> Option<(u64, Vec<u8>)> {
    let head = slot.get(..20)?;
    if &head[..8] != magic {
        return None;
    }
    let seq = u64::from_le_bytes(head[8..16].try_into().ok()?);
    let len = u32::from_le_bytes(head[16..20].try_into().ok()?) as usize;
    let stored = u32::from_le_bytes(slot.get(20..24)?.try_into().ok()?);
    let payload = slot.get(24..24usize.checked_add(len)?)?;
    (crc(head, payload) == stored && seq <= COUNT_MAX).then(|| (seq, payload.to_vec()))
}

/// The newest sound slot of a file's bytes; `None` if neither is.
pub(crate) fn newest(magic: &[u8; 8], file: &[u8]) -> Option<Newest> {
    let slot = |i: usize| file.get(i * SLOT_BYTES..(i + 1) * SLOT_BYTES).and_then(|bytes| decode(magic, bytes));
    let (slot, (seq, payload), older) = match (slot(0), slot(1)) {
        (Some(a), Some(b)) if a.0 >= b.0 => (0, a, Some(b.1)),
        (Some(a), Some(b)) => (1, b, Some(a.1)),
        (Some(a), None) => (0, a, None),
        (None, Some(b)) => (1, b, None),
        (None, None) => return None,
    };
    Some(Newest { seq, slot, payload, older })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_these_bytes_and_the_newest_sound_one_counts() {
        let magic = b"ARMDBNOD";
        let old = encode(magic, 1, b"old");
        let new = encode(magic, 2, b"new");
        assert_eq!(&new[..20], b"ARMDBNOD\x02\0\0\0\0\0\0\0\x03\0\0\0");
        assert_eq!(&new[24..27], b"new");
        assert_eq!(new.len(), SLOT_BYTES);
        let file = [new.clone(), old.clone()].concat();
        let found = newest(magic, &file).expect("both sound");
        assert_eq!((found.seq, found.slot, found.payload.as_slice()), (2, 0, &b"new"[..]));
        assert_eq!(found.older.as_deref(), Some(&b"old"[..]));
        let mut torn = file;
        torn[25] ^= 1;
        let found = newest(magic, &torn).expect("one sound");
        assert_eq!((found.seq, found.slot, found.older), (1, 1, None));
        torn[SLOT_BYTES + 9] ^= 1;
        assert_eq!(newest(magic, &torn), None);
        assert_eq!(newest(magic, &encode(magic, u64::MAX, b"last")), None, "nothing could follow it");
    }
}
