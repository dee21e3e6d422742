//! Hints: what a file that no longer changes says about keys, so that opening need not read its values.
//!
//! A hint belongs to one file of one length and chain, and is taken for true only if all three and its own
//! CRC agree; whatever else is found is as good as none, and the hint is rebuilt from the file. So hints are
//! written without any sync. Beside the entries stands the filter of all keys in the file, tombstones
//! included, which decides when a tombstone may go. Hashes are those of the index and part of the format.
//!
//! Layout, little-endian: magic `u64`, format `u32`, chain `u32`, file id `u64`, file length `u64`, min gsn
//! `u64`, max gsn `u64`, number of entries `u64`, bytes of the filter `u64`; per entry hash `u64`, gsn `u64`,
//! expires `u64` (0: never), offset / 8 `u32`, length / 8 `u32`, tree `u16`, key length `u16`, kind `u8`,
//! three zeros, then the key; the filter; CRC-32 of everything before it `u32`.

use std::io::{self, IoSlice};
use std::path::Path;

use super::filter::KeyFilter;
use crate::disk::Disk;
use crate::position::Gsn;

const MAGIC: u64 = u64::from_le_bytes(*b"armdbHNT");
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 40;

/// One record of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HintEntry {
    /// The index's hash of tree and key.
    pub(crate) hash: u64,
    /// Sequence number.
    pub(crate) gsn: Gsn,
    /// When it expires, in unix milliseconds; 0 for never.
    pub(crate) expires_ms: u64,
    /// Where it starts in the file.
    pub(crate) offset_bytes: u64,
    /// Its length, header and padding included.
    pub(crate) len_bytes: u64,
    /// The tree.
    pub(crate) tree: u16,
    /// The record's kind byte.
    pub(crate) kind: u8,
    /// The key.
    pub(crate) key: Box<[u8]>,
}

/// What a hint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HintSubject {
    /// The file.
    pub(crate) file_id: u64,
    /// Its bytes that count.
    pub(crate) len_bytes: u64,
    /// The chain at its end (of a compaction output: the CRC over its records' CRCs).
    pub(crate) chain: u32,
}

/// A file's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hint {
    /// What it is about.
    pub(crate) subject: HintSubject,
    /// Lowest gsn in the file, of any kind of record; 0 if there is none.
    pub(crate) min_gsn: Gsn,
    /// Highest gsn in the file.
    pub(crate) max_gsn: Gsn,
    /// Its puts, deletes and catalog records, in the file's order.
    pub(crate) entries: Vec<HintEntry>,
    /// All keys of the entries.
    pub(crate) filter: KeyFilter,
}

impl Hint {
    /// The hint of a file with these entries.
    pub(crate) fn new(subject: HintSubject, min_gsn: Gsn, max_gsn: Gsn, entries: Vec<HintEntry>) -> Self {
        let hashes: Vec<u64> = entries.iter().map(|entry| entry.hash).collect();
        Self { subject, min_gsn, max_gsn, filter: KeyFilter::build(&hashes), entries }
    }

    /// As stored.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let filter = self.filter.to_bytes();
        let keys: usize = self.entries.iter().map(|entry| entry.key.len()).sum();
        let mut out = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES + keys + filter.len() + 4);
        out.extend(MAGIC.to_le_bytes());
        out.extend(FORMAT.to_le_bytes());
        out.extend(self.subject.chain.to_le_bytes());
        let numbers = [self.subject.file_id, self.subject.len_bytes, self.min_gsn, self.max_gsn];
        numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        out.extend((self.entries.len() as u64).to_le_bytes());
        out.extend((filter.len() as u64).to_le_bytes());
        for entry in &self.entries {
            out.extend(entry.hash.to_le_bytes());
            out.extend(entry.gsn.to_le_bytes());
            out.extend(entry.expires_ms.to_le_bytes());
            out.extend(((entry.offset_bytes / 8) as u32).to_le_bytes());
            out.extend(((entry.len_bytes / 8) as u32).to_le_bytes());
            out.extend(entry.tree.to_le_bytes());
            out.extend((entry.key.len() as u16).to_le_bytes());
            out.extend([entry.kind, 0, 0, 0]);
            out.extend_from_slice(&entry.key);
        }
        out.extend(filter);
        let crc = crc32fast::hash(&out);
        out.extend(crc.to_le_bytes());
        out
    }

    /// The hint in `bytes` if it is whole and about `subject`.
    pub(crate) fn from_bytes(bytes: &[u8], subject: HintSubject) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut rest = Reader(body);
        if rest.u64()? != MAGIC || rest.u32()? != FORMAT {
            return None;
        }
        let chain = rest.u32()?;
        let found = HintSubject { file_id: rest.u64()?, len_bytes: rest.u64()?, chain };
        if found != subject {
            return None;
        }
        let (min_gsn, max_gsn, count, filter_len) = (rest.u64()?, rest.u64()?, rest.u64()?, rest.u64()?);
        if count > (body.len() / ENTRY_BYTES) as u64 {
            return None;
        }
        let mut entries = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (hash, gsn, expires_ms) = (rest.u64()?, rest.u64()?, rest.u64()?);
            let (offset_bytes, len_bytes) = (u64::from(rest.u32()?) * 8, u64::from(rest.u32()?) * 8);
            let (tree, key_len) = (rest.u16()?, rest.u16()?);
            let [kind, ..] = rest.take::<4>()?;
            let key = rest.bytes(usize::from(key_len))?.into();
            if offset_bytes == 0 || offset_bytes + len_bytes > subject.len_bytes {
                return None;
            }
            entries.push(HintEntry { hash, gsn, expires_ms, offset_bytes, len_bytes, tree, kind, key });
        }
        let filter = KeyFilter::from_bytes(rest.bytes(usize::try_from(filter_len).ok()?)?).ok()?;
        rest.0.is_empty().then_some(Self { subject, min_gsn, max_gsn, entries, filter })
    }

    /// Reads a hint; `None` if there is none that can be believed.
    pub(crate) fn load(disk: &dyn Disk, path: &Path, subject: HintSubject) -> Option<Self> {
        let file = disk.open_read(path).ok()?;
        let mut bytes = vec![0; usize::try_from(file.len().ok()?).ok()?];
        let read = file.read_at(&mut bytes, 0).ok()?;
        Self::from_bytes(&bytes[..read], subject)
    }

    /// Writes the hint under a temporary name and renames it. Not synced: see the module's comment.
    pub(crate) fn store(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("hint.tmp");
        match disk.remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        disk.create(&temporary)?.write_at(&[IoSlice::new(&self.to_bytes())], 0)?;
        disk.rename(&temporary, path)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::CrashDisk;

    fn hint() -> Hint {
        let entry = |hash, gsn, key: &[u8]| HintEntry {
            hash,
            gsn,
            expires_ms: gsn * 10,
            offset_bytes: 64 + gsn * 8,
            len_bytes: 8,
            tree: 3,
            kind: 1,
            key: key.into(),
        };
        let subject = HintSubject { file_id: 7, len_bytes: 4096, chain: 0xdead_beef };
        Hint::new(subject, 4, 9, vec![entry(11, 5, b"key"), entry(12, 9, b"")])
    }

    #[test]
    fn a_hint_survives_its_bytes_and_no_other_bytes_are_believed() {
        let hint = hint();
        let bytes = hint.to_bytes();
        assert_eq!(Hint::from_bytes(&bytes, hint.subject), Some(hint.clone()));
        for i in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[i] ^= 0x10;
            assert_eq!(Hint::from_bytes(&rotten, hint.subject), None, "byte {i}");
            assert_eq!(Hint::from_bytes(&bytes[..i], hint.subject), None, "cut at {i}");
        }
    }

    #[test]
    fn a_hint_about_another_file_length_or_chain_is_none() {
        let hint = hint();
        let (bytes, subject) = (hint.to_bytes(), hint.subject);
        for other in [
            HintSubject { file_id: 8, ..subject },
            HintSubject { len_bytes: 4104, ..subject },
            HintSubject { chain: 1, ..subject },
        ] {
            assert_eq!(Hint::from_bytes(&bytes, other), None);
        }
    }

    #[test]
    fn its_bytes_are_what_they_were() {
        let bytes = hint().to_bytes();
        assert_eq!(&bytes[..24], b"armdbHNT\x01\0\0\0\xef\xbe\xad\xde\x07\0\0\0\0\0\0\0");
        // Its last four bytes are the CRC of all before them.
        assert_eq!(bytes[bytes.len() - 4..], GOLDEN_CRC.to_le_bytes());
    }

    const GOLDEN_CRC: u32 = 0x9e2a_0055;

    #[test]
    fn storing_replaces_and_a_leftover_temporary_is_no_obstacle() {
        let disk: Arc<dyn Disk> = Arc::new(CrashDisk::new());
        let path = Path::new("/7.hint");
        assert_eq!(Hint::load(&*disk, path, hint().subject), None);
        disk.create(Path::new("/7.hint.tmp")).unwrap();
        hint().store(&*disk, path).unwrap();
        hint().store(&*disk, path).unwrap();
        assert_eq!(Hint::load(&*disk, path, hint().subject), Some(hint()));
    }
}
