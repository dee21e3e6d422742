//! The note that a process leaves when a mapped file could not be read: which file, and where.
//!
//! One fixed record at the start of a file that exists beforehand, so that writing it needs no room, no name
//! and no memory: [`encode`] runs in a signal handler. Zeros mean that nothing is noted. It is a hint of what
//! to look at, never a verdict: whoever finds it reads the file itself.

/// Bytes of the record, and of the file that holds it.
pub(crate) const FAULT_NOTE_BYTES: usize = 512;
/// The record of nothing.
pub(crate) const NO_FAULT: [u8; FAULT_NOTE_BYTES] = [0; FAULT_NOTE_BYTES];

const MAGIC: &[u8; 8] = b"ARMDBFLT";
const FORMAT: u32 = 1;
/// Where the file's name begins.
const NAME_AT: usize = 24;
/// Where the checksum is.
const CRC_AT: usize = FAULT_NOTE_BYTES - 4;

/// See the module's comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FaultNote {
    /// The file, relative to the directory that the note is in.
    pub(crate) file: String,
    /// The byte that could not be read.
    pub(crate) offset: u64,
}

/// Fills in the record; whether the name has room in it. Allocates nothing.
pub(super) fn encode(record: &mut [u8; FAULT_NOTE_BYTES], file: &[u8], offset: u64) -> bool {
    if file.is_empty() || file.len() > CRC_AT - NAME_AT {
        return false;
    }
    record.fill(0);
    record[..8].copy_from_slice(MAGIC);
    record[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    record[12..16].copy_from_slice(&(file.len() as u32).to_le_bytes());
    record[16..NAME_AT].copy_from_slice(&offset.to_le_bytes());
    record[NAME_AT..NAME_AT + file.len()].copy_from_slice(file);
    let crc = crc32fast::hash(&record[..CRC_AT]);
    record[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    true
}

impl FaultNote {
    /// What a file of notes says; `None` if it says nothing.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>, String> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let word =
            |at: usize| bytes.get(at..at + 4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        if bytes.len() < FAULT_NOTE_BYTES
            || bytes.get(..8) != Some(MAGIC)
            || word(CRC_AT) != bytes.get(..CRC_AT).map(crc32fast::hash)
        {
            return Err("it is no whole note of a fault".into());
        }
        if word(8) != Some(FORMAT) {
            return Err(format!("it has format {:?}, this version reads {FORMAT}", word(8)));
        }
        let len = word(12).unwrap_or(0) as usize;
        let file = bytes[NAME_AT..CRC_AT].get(..len).and_then(|name| std::str::from_utf8(name).ok());
        let Some(file) = file else { return Err("its file's name cannot be read".into()) };
        let mut offset = [0; 8];
        offset.copy_from_slice(&bytes[16..NAME_AT]);
        Ok(Some(Self { file: file.to_owned(), offset: u64::from_le_bytes(offset) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_has_these_bytes() {
        let mut record = [7; FAULT_NOTE_BYTES];
        assert!(encode(&mut record, b"shard-000/0000000007.seg", 0x12345));
        let mut golden = b"ARMDBFLT\x01\0\0\0\x18\0\0\0\x45\x23\x01\0\0\0\0\0shard-000/0000000007.seg".to_vec();
        golden.resize(508, 0);
        let crc = crc32fast::hash(&golden);
        golden.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(record.as_slice(), golden);
        let note = FaultNote { file: "shard-000/0000000007.seg".into(), offset: 0x12345 };
        assert_eq!(FaultNote::decode(&golden), Ok(Some(note)));
        assert_eq!(FaultNote::decode(&NO_FAULT), Ok(None));
        assert_eq!(FaultNote::decode(&[]), Ok(None));
    }

    #[test]
    fn a_note_that_is_not_whole_is_no_note_and_a_name_without_room_is_not_cut() {
        let mut record = NO_FAULT;
        assert!(encode(&mut record, &[b'x'; 484], 1));
        assert!(!encode(&mut record.clone(), &[b'x'; 485], 1));
        assert!(!encode(&mut record.clone(), b"", 1));
        for at in 0..FAULT_NOTE_BYTES {
            let mut bad = record;
            bad[at] ^= 4;
            assert!(FaultNote::decode(&bad).is_err(), "byte {at}");
            assert!(at == 0 || FaultNote::decode(&record[..at]).is_err(), "cut at {at}");
        }
    }
}
