//! Hints: what a file that no longer changes says about keys, so that opening need not read its values.
//!
//! A hint belongs to one file of one length and chain, hashed with one seed, and is taken for true only if all
//! of that and its own CRC agree; whatever else is found is as good as none, and the hint is rebuilt from the
//! file. So hints are written without any sync. Beside the entries stands the filter of all keys in the file,
//! tombstones included, which decides when a tombstone may go. Hashes are those of the index and part of the
//! format. Entries are kept and walked as bytes: a file may have a million of them.
//!
//! Layout, little-endian: magic `u64`, format `u32`, chain `u32`, file id `u64`, file length `u64`, hash seed
//! `u64`, min gsn `u64`, max gsn `u64`, committed time `u64`, number of entries `u64`, bytes of the filter
//! `u64`; per entry hash `u64`, gsn `u64`, expires `u64` (0: never), offset / 8 `u32`, length / 8 `u32`, tree
//! `u16`, key length `u16`, kind `u8`, three zeros, then the key; the filter; CRC-32 of everything before it
//! `u32`.

use std::io::{self, IoSlice};
use std::path::Path;

use super::filter::KeyFilter;
use super::format::codec::{Malformed, Reader};
use super::format::record::Kind;
use crate::disk::Disk;
use crate::position::Gsn;

const MAGIC: u64 = u64::from_le_bytes(*b"armdbHNT");
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 80;
/// Of an entry with a key of 28 bytes.
const SHORT_ENTRY_BYTES: usize = 72;

/// One record of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HintEntry<'a> {
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
    /// What it is: put, delete or catalog.
    pub(crate) kind: Kind,
    /// The key.
    pub(crate) key: &'a [u8],
}

/// What a hint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HintSubject {
    /// The file.
    pub(crate) file_id: u64,
    /// Its bytes that count.
    pub(crate) len_bytes: u64,
    /// The chain at its end.
    pub(crate) chain: u32,
    /// What the hashes were made with.
    pub(crate) hash_seed: u64,
}

/// What the entries of a file come to, in bytes of their records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HintFigures {
    /// Puts, deletes and catalog records.
    pub(crate) entry_bytes: u64,
    /// Of these, deletes.
    pub(crate) tombstone_bytes: u64,
    /// Of these, puts that expire.
    pub(crate) expiring_bytes: u64,
    /// When the first of them does.
    pub(crate) first_expiry_ms: u64,
}

impl Default for HintFigures {
    fn default() -> Self {
        Self { entry_bytes: 0, tombstone_bytes: 0, expiring_bytes: 0, first_expiry_ms: u64::MAX }
    }
}

impl HintFigures {
    fn count(&mut self, entry: &HintEntry<'_>) {
        self.entry_bytes += entry.len_bytes;
        if entry.kind == Kind::Delete {
            self.tombstone_bytes += entry.len_bytes;
        } else if entry.expires_ms > 0 {
            self.expiring_bytes += entry.len_bytes;
            self.first_expiry_ms = self.first_expiry_ms.min(entry.expires_ms);
        }
    }
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
    /// The largest leader time that the file's barriers and marks tell.
    pub(crate) committed_time_ms: u64,
    /// All keys of the entries.
    pub(crate) filter: KeyFilter,
    /// What the entries come to.
    pub(crate) figures: HintFigures,
    count: u64,
    /// The entries as stored.
    entries: Vec<u8>,
}

/// A hint in the making: one entry after the other, in the file's order.
#[derive(Debug, Default)]
pub(crate) struct HintBuilder {
    entries: Vec<u8>,
    hashes: Vec<u64>,
    figures: HintFigures,
}

impl HintBuilder {
    /// With room for so many entries of short keys.
    pub(crate) fn with_capacity(entries: usize) -> Self {
        let (bytes, figures) = (entries * SHORT_ENTRY_BYTES, HintFigures::default());
        Self { entries: Vec::with_capacity(bytes), hashes: Vec::with_capacity(entries), figures }
    }

    /// Adds the next entry. Only puts, deletes and catalog records have one.
    pub(crate) fn push(&mut self, entry: &HintEntry<'_>) {
        let mut fixed = [0; 40];
        fixed[..8].copy_from_slice(&entry.hash.to_le_bytes());
        fixed[8..16].copy_from_slice(&entry.gsn.to_le_bytes());
        fixed[16..24].copy_from_slice(&entry.expires_ms.to_le_bytes());
        fixed[24..28].copy_from_slice(&((entry.offset_bytes / 8) as u32).to_le_bytes());
        fixed[28..32].copy_from_slice(&((entry.len_bytes / 8) as u32).to_le_bytes());
        fixed[32..34].copy_from_slice(&entry.tree.to_le_bytes());
        fixed[34..36].copy_from_slice(&(entry.key.len() as u16).to_le_bytes());
        fixed[36] = entry.kind as u8;
        self.entries.extend_from_slice(&fixed);
        self.entries.extend_from_slice(entry.key);
        self.hashes.push(entry.hash);
        self.figures.count(entry);
    }

    /// The hint of a file with these entries.
    pub(crate) fn finish(self, subject: HintSubject, min_gsn: Gsn, max_gsn: Gsn, committed_time_ms: u64) -> Hint {
        let filter = KeyFilter::build(&self.hashes);
        let count = self.hashes.len() as u64;
        let Self { entries, figures, .. } = self;
        Hint { subject, min_gsn, max_gsn, committed_time_ms, filter, figures, count, entries }
    }
}

impl Hint {
    /// Its puts, deletes and catalog records, in the file's order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = HintEntry<'_>> {
        let mut rest = Reader(&self.entries);
        std::iter::from_fn(move || entry(&mut rest).ok().flatten())
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// As stored.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.parts(|parts| parts.concat())
    }

    /// The parts of what is stored, one after the other.
    fn parts<R>(&self, with: impl FnOnce([&[u8]; 4]) -> R) -> R {
        let filter = self.filter.to_bytes();
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend(MAGIC.to_le_bytes());
        out.extend(FORMAT.to_le_bytes());
        out.extend(self.subject.chain.to_le_bytes());
        let numbers = [
            self.subject.file_id,
            self.subject.len_bytes,
            self.subject.hash_seed,
            self.min_gsn,
            self.max_gsn,
            self.committed_time_ms,
            self.count,
            filter.len() as u64,
        ];
        numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
        let mut crc = crc32fast::Hasher::new();
        [&out, &self.entries, &filter].iter().for_each(|part| crc.update(part));
        with([&out, &self.entries, &filter, &crc.finalize().to_le_bytes()])
    }

    /// The hint in `bytes` if it is whole and about `subject`.
    pub(crate) fn from_bytes(bytes: &[u8], subject: HintSubject) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        Self::read(body, subject).ok().flatten()
    }

    /// `None`: it is about something else, or contradicts itself.
    fn read(body: &[u8], subject: HintSubject) -> Result<Option<Self>, Malformed> {
        let mut rest = Reader(body);
        if rest.u64()? != MAGIC || rest.u32()? != FORMAT {
            return Ok(None);
        }
        let (chain, file_id) = (rest.u32()?, rest.u64()?);
        let (len_bytes, hash_seed) = (rest.u64()?, rest.u64()?);
        let found = HintSubject { file_id, len_bytes, chain, hash_seed };
        if found != subject {
            return Ok(None);
        }
        let (min_gsn, max_gsn) = (rest.count()?, rest.count()?);
        let (committed_time_ms, count) = (rest.u64()?, rest.u64()?);
        let filter_len = usize::try_from(rest.u64()?).unwrap_or(usize::MAX);
        let entries = rest.bytes(rest.0.len().checked_sub(filter_len).ok_or(Malformed::Short)?)?;
        let (mut walk, mut figures) = (Reader(entries), HintFigures::default());
        for _ in 0..count {
            let Some(entry) = entry(&mut walk)? else { return Ok(None) };
            if entry.offset_bytes == 0 || entry.offset_bytes + entry.len_bytes > subject.len_bytes {
                return Ok(None);
            }
            figures.count(&entry);
        }
        let Ok(filter) = KeyFilter::from_bytes(rest.0) else { return Ok(None) };
        Ok(walk.0.is_empty().then(|| Self {
            subject,
            min_gsn,
            max_gsn,
            committed_time_ms,
            filter,
            figures,
            count,
            entries: entries.to_vec(),
        }))
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
        let written = disk
            .create(&temporary)
            .and_then(|file| self.parts(|parts| file.write_at(&parts.map(IoSlice::new), 0)))
            .and_then(|()| disk.rename(&temporary, path));
        if written.is_err() {
            // Half a hint is no use, and the disk may be full.
            let _ = disk.remove_file(&temporary);
        }
        written
    }
}

fn entry<'a>(rest: &mut Reader<'a>) -> Result<Option<HintEntry<'a>>, Malformed> {
    let (hash, gsn, expires_ms) = (rest.u64()?, rest.count()?, rest.u64()?);
    let (offset_bytes, len_bytes) = (u64::from(rest.u32()?) * 8, u64::from(rest.u32()?) * 8);
    let (tree, key_len) = (rest.u16()?, rest.u16()?);
    let [kind, ..] = rest.array::<4>()?;
    let key = rest.bytes(usize::from(key_len))?;
    let kind = Kind::from_byte(kind).filter(|kind| matches!(kind, Kind::Put | Kind::Delete | Kind::Catalog));
    Ok(kind.map(|kind| HintEntry { hash, gsn, expires_ms, offset_bytes, len_bytes, tree, kind, key }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::CrashDisk;

    fn entry(hash: u64, gsn: Gsn, kind: Kind, key: &[u8]) -> HintEntry<'_> {
        let (offset_bytes, expires_ms) = (64 + gsn * 8, gsn * 10);
        HintEntry { hash, gsn, expires_ms, offset_bytes, len_bytes: 8, tree: 3, kind, key }
    }

    fn hint() -> Hint {
        let subject = HintSubject { file_id: 7, len_bytes: 4096, chain: 0xdead_beef, hash_seed: 0x5eed };
        let mut builder = HintBuilder::default();
        builder.push(&entry(11, 5, Kind::Put, b"key"));
        builder.push(&entry(12, 9, Kind::Delete, b""));
        builder.finish(subject, 4, 9, 77)
    }

    #[test]
    fn a_hint_survives_its_bytes_and_no_other_bytes_are_believed() {
        let hint = hint();
        let bytes = hint.to_bytes();
        assert_eq!(Hint::from_bytes(&bytes, hint.subject), Some(hint.clone()));
        let entries: Vec<_> = hint.entries().collect();
        assert_eq!(entries, [entry(11, 5, Kind::Put, b"key"), entry(12, 9, Kind::Delete, b"")]);
        assert_eq!(hint.count(), 2);
        for i in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[i] ^= 0x10;
            assert_eq!(Hint::from_bytes(&rotten, hint.subject), None, "byte {i}");
            assert_eq!(Hint::from_bytes(&bytes[..i], hint.subject), None, "cut at {i}");
        }
    }

    #[test]
    fn a_hint_about_another_file_length_chain_or_seed_is_none() {
        let hint = hint();
        let (bytes, subject) = (hint.to_bytes(), hint.subject);
        for other in [
            HintSubject { file_id: 8, ..subject },
            HintSubject { len_bytes: 4104, ..subject },
            HintSubject { chain: 1, ..subject },
            HintSubject { hash_seed: 1, ..subject },
        ] {
            assert_eq!(Hint::from_bytes(&bytes, other), None);
        }
    }

    #[test]
    fn its_bytes_are_what_they_were() {
        let mut golden = b"armdbHNT\x01\0\0\0\xef\xbe\xad\xde".to_vec();
        for word in [7u64, 4096, 0x5eed, 4, 9, 77, 2, 16] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        // Offset and length in units of eight bytes, tree, key length, kind, zeros, key.
        for word in [11u64, 5, 50] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        golden.extend_from_slice(b"\x0d\0\0\0\x01\0\0\0\x03\0\x03\0\x01\0\0\0key");
        for word in [12u64, 9, 90] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        golden.extend_from_slice(b"\x11\0\0\0\x01\0\0\0\x03\0\0\0\x02\0\0\0");
        // The filter: sixty-four bits, then the bits (its own test has golden bytes too).
        golden.extend_from_slice(&64u64.to_le_bytes());
        golden.extend_from_slice(&KeyFilter::build(&[11, 12]).to_bytes()[8..]);
        let crc = crc32fast::hash(&golden);
        golden.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(hint().to_bytes(), golden);
    }

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

    #[test]
    fn a_hint_that_cannot_be_stored_leaves_nothing_behind() {
        let disk = CrashDisk::new();
        disk.set_capacity(Some(50));
        let error = hint().store(&disk, Path::new("/7.hint")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.list(Path::new("/")).unwrap(), []);
    }
}
