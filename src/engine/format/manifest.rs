//! A manifest: which files a shard consists of, and what was true of its log when it was written.
//!
//! Written whole to `MANIFEST-<seq>`, synced, and only then named by a slot of `shard.meta`: a *switch*. File
//! ids are never used again. Bytes beyond a recorded length are never looked at, so that truncation touches
//! no file.

use std::collections::BTreeSet;

use super::codec::{Malformed, Reader, Writer};
use super::notes::{kind_from_byte, kind_to_byte};
use super::{FORMAT_LEVEL, FORMAT_MAX, FORMAT_MIN};
use crate::engine::tree::{TreeId, TreeInfo};
use crate::position::{EpochTable, Gsn, LogPosition, LogTail};

const MAGIC: &[u8; 8] = b"ARMDBMAN";
/// Ids of files are counted up one by one: nobody has used so many.
pub(crate) const FILE_ID_MAX: u32 = 1 << 31;

/// One file of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileEntry {
    pub(crate) id: u32,
    /// Whether it is an output of compaction.
    pub(crate) compacted: bool,
    /// For the log: the log's end before its first entry. For an output of compaction: the smallest gsn less
    /// one.
    pub(crate) before: LogTail,
    /// Where it ends, once that is known and durable.
    pub(crate) end: Option<FileEnd>,
    /// Whether it was made ahead of its use, as the log's next segment: `before` says nothing yet, and the file is
    /// zeros until it is used; then its header says where it begins.
    pub(crate) prepared: bool,
}

impl FileEntry {
    /// A segment of the log that is appended to.
    pub(crate) fn active(id: u32, before: LogTail) -> Self {
        Self { id, compacted: false, before, end: None, prepared: false }
    }

    /// A file for the log's next segment.
    pub(crate) fn prepared(id: u32) -> Self {
        Self { prepared: true, ..Self::active(id, LogTail::default()) }
    }
}

/// Where a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileEnd {
    /// Bytes that count.
    pub(crate) len: u64,
    /// The last entry in them (of a compacted file: the largest gsn; no chain).
    pub(crate) last: LogTail,
}

/// All of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Manifest {
    pub(crate) seq: u64,
    pub(crate) shard: u16,
    pub(crate) next_file_id: u32,
    /// First gsn that the contiguous log still holds.
    pub(crate) log_floor: Gsn,
    /// Tombstones up to this gsn may have been dropped.
    pub(crate) tombstone_floor: Gsn,
    /// Lower bound of the commit.
    pub(crate) commit: Gsn,
    pub(crate) committed_time_ms: u64,
    /// What was durable: an entry up to here that does not verify is corruption, not a torn tail.
    pub(crate) mark: LogTail,
    pub(crate) epochs: EpochTable,
    /// Log files, then outputs of compaction.
    pub(crate) files: Vec<FileEntry>,
    /// Files that a full sync brought: their headers and notes name the id they had where they were written.
    pub(crate) adopted: BTreeSet<u32>,
    /// Files that are no longer part of the shard and may still be there.
    pub(crate) drops: Vec<u32>,
    /// Trees whose creation is committed (shard 0 only).
    pub(crate) trees: Vec<TreeInfo>,
}

impl Manifest {
    /// The file's name.
    pub(crate) fn name(seq: u64) -> String {
        format!("MANIFEST-{seq:010}")
    }

    /// Adds a file of the log: they come before the outputs of compaction.
    pub(crate) fn add_log_file(&mut self, file: FileEntry) {
        let at = self.files.iter().take_while(|file| !file.compacted).count();
        self.files.insert(at, file);
    }

    /// The files that were made ahead.
    pub(crate) fn prepared(&self) -> Vec<u32> {
        self.files.iter().filter(|file| file.prepared).map(|file| file.id).collect()
    }

    /// Lists some files no more.
    pub(crate) fn drop_files(&mut self, ids: &[u32]) {
        self.files.retain(|file| !ids.contains(&file.id));
        self.drops.extend(ids);
    }

    /// The number in a manifest's file name.
    pub(crate) fn seq_of(name: &str) -> Option<u64> {
        name.strip_prefix("MANIFEST-")?.parse().ok()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.bytes(MAGIC).u32(FORMAT_LEVEL).u16(self.shard).u16(0).u64(self.seq);
        w.u32(self.next_file_id).u32(self.mark.chain).u64(self.log_floor).u64(self.tombstone_floor);
        w.u64(self.commit).u64(self.committed_time_ms).u64(self.mark.last.gsn).u64(self.mark.last.epoch);
        w.u32(self.epochs.starts().len() as u32).u32(self.files.len() as u32);
        w.u32(self.drops.len() as u32).u32(self.trees.len() as u32);
        for start in self.epochs.starts() {
            w.u64(start.epoch).u64(start.gsn);
        }
        for file in &self.files {
            let end = file.end.unwrap_or(FileEnd { len: 0, last: LogTail::default() });
            w.u32(file.id).u8(u8::from(file.compacted)).u8(u8::from(file.end.is_some()) | u8::from(file.prepared) << 1);
            w.u16(u16::from(self.adopted.contains(&file.id)));
            w.u64(file.before.last.gsn).u64(file.before.last.epoch).u32(file.before.chain).u32(end.last.chain);
            w.u64(end.len).u64(end.last.last.gsn).u64(end.last.last.epoch);
        }
        for id in &self.drops {
            w.u32(*id);
        }
        for tree in &self.trees {
            w.u16(tree.id.0).u8(kind_to_byte(tree.kind)).u8(0).text(&tree.name);
        }
        let crc = crc32fast::hash(&w.0);
        w.u32(crc);
        w.0
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (body, crc) = bytes.split_at_checked(bytes.len().wrapping_sub(4)).ok_or("the manifest is too short")?;
        if crc32fast::hash(body).to_le_bytes() != *crc {
            return Err("the manifest does not match its checksum".into());
        }
        let body = body.strip_prefix(MAGIC).ok_or("this is no manifest")?;
        let manifest = Self::read(&mut Reader(body)).map_err(|e| e.to_string())??;
        // A field that should be zero and is not, or something behind the end: nothing is skipped.
        if manifest.encode() != bytes {
            return Err("the manifest says more than this version knows".into());
        }
        Ok(manifest)
    }

    fn read(r: &mut Reader<'_>) -> Result<Result<Self, String>, Malformed> {
        let format = r.u32()?;
        if !(FORMAT_MIN..=FORMAT_MAX).contains(&format) {
            let message = format!("the manifest has format {format}, this version reads {FORMAT_MIN} to {FORMAT_MAX}");
            return Ok(Err(message));
        }
        let (shard, _, seq) = (r.u16()?, r.u16()?, r.count()?);
        let (next_file_id, mark_chain, log_floor, tombstone_floor) = (r.u32()?, r.u32()?, r.count()?, r.count()?);
        let (commit, committed_time_ms, gsn, epoch) = (r.count()?, r.u64()?, r.count()?, r.count()?);
        if next_file_id > FILE_ID_MAX {
            return Ok(Err(format!("the manifest's next file is {next_file_id}, and none is above {FILE_ID_MAX}")));
        }
        let mark = LogTail { last: LogPosition { epoch, gsn }, chain: mark_chain };
        let (starts_len, files, drops, trees) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let mut starts = Vec::new();
        for _ in 0..starts_len {
            starts.push(LogPosition { epoch: r.count()?, gsn: r.count()? });
        }
        let epochs = match EpochTable::from_starts(starts) {
            Ok(epochs) => epochs,
            Err(why) => return Ok(Err(format!("the manifest's epochs: {why}"))),
        };
        let (mut entries, mut adopted) = (Vec::new(), BTreeSet::new());
        for _ in 0..files {
            let (entry, is_adopted) = FileEntry::read(r)?;
            if is_adopted {
                adopted.insert(entry.id);
            }
            if entry.id >= next_file_id {
                return Ok(Err(format!("the manifest lists the file {}, the next one is {next_file_id}", entry.id)));
            }
            entries.push(entry);
        }
        let drops = (0..drops).map(|_| r.u32()).collect::<Result<_, _>>()?;
        let mut infos = Vec::new();
        for _ in 0..trees {
            let (id, kind, _, name) = (TreeId(r.u16()?), r.u8()?, r.u8()?, r.text()?);
            let Some(kind) = kind_from_byte(kind) else {
                return Ok(Err(format!("tree {name:?} is of the unknown kind {kind}")));
            };
            infos.push(TreeInfo { id, name, kind });
        }
        Ok(Ok(Self {
            seq,
            shard,
            next_file_id,
            log_floor,
            tombstone_floor,
            commit,
            committed_time_ms,
            mark,
            epochs,
            files: entries,
            adopted,
            drops,
            trees: infos,
        }))
    }
}

impl FileEntry {
    /// The entry, and whether a full sync brought the file.
    fn read(r: &mut Reader<'_>) -> Result<(Self, bool), Malformed> {
        let (id, compacted, state, adopted) = (r.u32()?, r.u8()? != 0, r.u8()?, r.u16()? != 0);
        let (ended, prepared) = (state & 1 != 0, state & 2 != 0);
        let (gsn, epoch, chain, last_chain) = (r.count()?, r.count()?, r.u32()?, r.u32()?);
        let (len, last_gsn, last_epoch) = (r.u64()?, r.count()?, r.count()?);
        let last = LogTail { last: LogPosition { epoch: last_epoch, gsn: last_gsn }, chain: last_chain };
        let before = LogTail { last: LogPosition { epoch, gsn }, chain };
        let end = ended.then_some(FileEnd { len, last });
        Ok((Self { id, compacted, before, end, prepared }, adopted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tree::TreeKind;
    use crate::position::COUNT_MAX;

    fn manifest() -> Manifest {
        let tail = |epoch, gsn, chain| LogTail { last: LogPosition { epoch, gsn }, chain };
        Manifest {
            seq: 3,
            shard: 1,
            next_file_id: 9,
            log_floor: 5,
            tombstone_floor: 4,
            commit: 20,
            committed_time_ms: 99,
            mark: tail(2, 21, 0xabcd),
            epochs: EpochTable::from_starts(vec![LogPosition::new(1, 1), LogPosition::new(2, 11)]).expect("ascending"),
            files: vec![
                FileEntry {
                    id: 7,
                    compacted: false,
                    before: tail(1, 4, 1),
                    end: Some(FileEnd { len: 640, last: tail(2, 21, 2) }),
                    prepared: false,
                },
                FileEntry { prepared: true, ..FileEntry::active(8, tail(2, 21, 2)) },
            ],
            adopted: BTreeSet::from([7]),
            drops: vec![6],
            trees: vec![TreeInfo { id: TreeId(1), name: "t".into(), kind: TreeKind::Hash }],
        }
    }

    #[test]
    fn a_manifest_has_these_bytes() {
        let mut golden = Vec::new();
        golden.extend_from_slice(b"ARMDBMAN\x01\0\0\0\x01\0\0\0");
        golden.extend_from_slice(&3u64.to_le_bytes());
        golden.extend_from_slice(&[9, 0, 0, 0, 0xcd, 0xab, 0, 0]);
        for word in [5u64, 4, 20, 99, 21, 2] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        for count in [2u32, 2, 1, 1] {
            golden.extend_from_slice(&count.to_le_bytes());
        }
        for word in [1u64, 1, 2, 11] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        golden.extend_from_slice(&[7, 0, 0, 0, 0, 1, 1, 0]);
        golden.extend_from_slice(&4u64.to_le_bytes());
        golden.extend_from_slice(&1u64.to_le_bytes());
        golden.extend_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
        for word in [640u64, 21, 2] {
            golden.extend_from_slice(&word.to_le_bytes());
        }
        golden.extend_from_slice(&[8, 0, 0, 0, 0, 2, 0, 0]);
        golden.extend_from_slice(&21u64.to_le_bytes());
        golden.extend_from_slice(&2u64.to_le_bytes());
        golden.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(&[0; 24]);
        golden.extend_from_slice(&[6, 0, 0, 0, 1, 0, 1, 0, 1, 0, b't']);
        let crc = crc32fast::hash(&golden);
        golden.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(manifest().encode(), golden);
        assert_eq!(Manifest::decode(&golden), Ok(manifest()));
    }

    #[test]
    fn ids_that_nobody_gave_out_and_counts_that_nobody_counted_to_are_refused() {
        let refused = |change: fn(&mut Manifest)| {
            let mut manifest = manifest();
            change(&mut manifest);
            Manifest::decode(&manifest.encode()).err()
        };
        assert_eq!(refused(|manifest| manifest.next_file_id = FILE_ID_MAX), None);
        assert!(refused(|manifest| manifest.next_file_id = FILE_ID_MAX + 1).is_some());
        assert!(refused(|manifest| manifest.files[0].id = manifest.next_file_id).is_some());
        assert_eq!(refused(|manifest| manifest.commit = COUNT_MAX), None);
        assert!(refused(|manifest| manifest.commit = COUNT_MAX + 1).is_some());
        assert!(refused(|manifest| manifest.seq = u64::MAX).is_some());
    }

    #[test]
    fn a_damaged_or_cut_manifest_is_refused() {
        let bytes = manifest().encode();
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            assert!(Manifest::decode(&bad).is_err(), "byte {i}");
            assert!(Manifest::decode(&bytes[..i]).is_err(), "cut at {i}");
        }
    }
}
