//! One shard: its metadata, what its directory holds beside what the manifest lists, and its files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::log::{self, LogFile};
use super::read_some;
use super::report::{FileKind, FileReport, Finding, ManifestReport, Severity, ShardInspection, StagingReport};
use crate::disk::{DirEntry, Disk};
use crate::engine::files::SHARD_META;
use crate::engine::format::manifest::{FileEntry, Manifest};
use crate::engine::format::record::{Kind, Record};
use crate::engine::format::segment_header::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::engine::format::shard_meta::{SHARD_META_MAGIC, ShardMeta};
use crate::engine::format::slots::{self, SLOT_BYTES};
use crate::engine::full_sync::{is_aside, is_staging};
use crate::engine::index::MAX_SEGMENT_BYTES;
use crate::engine::recovery::{Found, Scan, Stop, scan, vouched_in};
use crate::engine::segment::Segment;
use crate::engine::shard_state::ShardState;
use crate::ident::ClusterId;

/// Longer manifests are none: 64 thousand files would fit.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

struct Inspector<'a> {
    disk: &'a Arc<dyn Disk>,
    dir: &'a Path,
    shard: u16,
    cluster_id: Option<ClusterId>,
    report: ShardInspection,
}

/// Reads everything in a shard's directory.
pub(super) fn inspect(disk: &Arc<dyn Disk>, dir: &Path, shard: u16, cluster_id: Option<ClusterId>) -> ShardInspection {
    let report = ShardInspection {
        shard,
        state: None,
        manifest: None,
        log_end: None,
        files: Vec::new(),
        staging: Vec::new(),
        findings: Vec::new(),
    };
    let mut inspector = Inspector { disk, dir, shard, cluster_id, report };
    inspector.run();
    inspector.report.files.sort_by(|a, b| a.name.cmp(&b.name));
    inspector.report
}

/// `shard.meta` and what it names.
struct Meta {
    state: ShardState,
    manifest: Manifest,
    /// Whether both slots can be read.
    both: bool,
    /// Numbers of the manifests they name.
    keep: [u64; 2],
}

impl Inspector<'_> {
    fn tell(&mut self, severity: Severity, name: &str, offset: Option<u64>, what: impl Into<String>) {
        let file = format!("shard-{:03}/{name}", self.shard);
        self.report.findings.push(Finding::new(severity, &file, offset, what));
    }

    fn run(&mut self) {
        let entries = match self.disk.list(self.dir) {
            Ok(entries) => entries,
            Err(error) => return self.tell(Severity::Unsound, "", None, format!("it cannot be listed: {error}")),
        };
        let meta = self.meta();
        self.look_around(&entries, meta.as_ref());
        let manifest = meta.as_ref().map(|meta| meta.manifest.clone());
        let listed = manifest.as_ref().map(|m| m.files.clone()).unwrap_or_default();
        let mut log = Vec::new();
        for file in &listed {
            let name = Segment::file_name(file.id);
            if entries.iter().any(|entry| entry.name == name) {
                let adopted = manifest.as_ref().is_some_and(|m| m.adopted.contains(&file.id));
                let floor = manifest.as_ref().map_or(0, |m| m.log_floor);
                log.extend(self.listed(file, &name, adopted, floor));
            } else {
                self.tell(Severity::Unsound, &name, None, "the manifest lists it, and it is missing");
            }
        }
        let known: BTreeSet<u32> = listed.iter().map(|file| file.id).collect();
        for entry in &entries {
            if Segment::id_of(&entry.name).is_some_and(|id| !known.contains(&id)) && !entry.is_dir {
                self.unlisted(&entry.name);
            }
        }
        let Some(manifest) = manifest else { return };
        log.sort_by_key(|file| (file.header.base_gsn, file.name.clone()));
        let judged = log::judge(&log, &manifest);
        self.report.log_end = Some(judged.end);
        let joins: BTreeMap<&str, bool> = judged.joins.iter().map(|(name, joins)| (name.as_str(), *joins)).collect();
        for file in &mut self.report.files {
            file.joins = joins.get(file.name.as_str()).copied();
        }
        for (severity, file, offset, what) in judged.findings {
            self.tell(severity, &file, offset, what);
        }
    }

    fn meta(&mut self) -> Option<Meta> {
        let path = self.dir.join(SHARD_META);
        if !self.disk.exists(&path).unwrap_or(true) {
            self.tell(Severity::Unsound, SHARD_META, None, "it is missing");
            return None;
        }
        let bytes = match read_some(self.disk, &path, 2 * SLOT_BYTES as u64) {
            Ok((bytes, _)) => bytes,
            Err(what) => {
                self.tell(Severity::Unsound, SHARD_META, None, what);
                return None;
            }
        };
        let Some(newest) = slots::newest(SHARD_META_MAGIC, &bytes) else {
            self.tell(Severity::Unsound, SHARD_META, None, "neither of its slots can be read");
            return None;
        };
        let older = newest.older.as_deref().map(ShardMeta::decode);
        let (meta, older) = match (ShardMeta::decode(&newest.payload), older.transpose()) {
            (Ok(meta), Ok(older)) => (meta, older),
            (Err(what), _) | (_, Err(what)) => {
                self.tell(Severity::Unsound, SHARD_META, None, what);
                return None;
            }
        };
        if older.is_none() {
            let what = format!("slot {} cannot be read: a write that did not end, or rot", 1 - newest.slot);
            self.tell(Severity::Torn, SHARD_META, Some(((1 - newest.slot) * SLOT_BYTES) as u64), what);
        }
        self.report.state = Some(meta.state.to_string());
        match &meta.state {
            ShardState::Quarantined { reason, alarm } => {
                let by = if *alarm { " by an alarm" } else { "" };
                self.tell(Severity::Unsound, SHARD_META, None, format!("the shard was quarantined{by}: {reason}"));
            }
            ShardState::Syncing => {
                self.tell(Severity::Note, SHARD_META, None, "its data is being replaced and counts for nothing yet");
            }
            ShardState::Amnesic => {
                let what = "acknowledged writes may be missing (the machine crashed under durability Os)";
                self.tell(Severity::Note, SHARD_META, None, what);
            }
            state @ ShardState::Damaged { .. } => {
                let what = format!("the shard is {state}: a running member has what is lost from its leader");
                self.tell(Severity::Unsound, SHARD_META, None, what);
            }
            ShardState::Blank | ShardState::Ready => {}
        }
        let both = older.is_some();
        let keep = [meta.manifest, older.map_or(0, |older| older.manifest)];
        let manifest = self.manifest(&meta)?;
        Some(Meta { state: meta.state, manifest, both, keep })
    }

    fn manifest(&mut self, meta: &ShardMeta) -> Option<Manifest> {
        if meta.manifest == 0 {
            return Some(Manifest { shard: self.shard, next_file_id: 1, log_floor: 1, ..Manifest::default() });
        }
        let name = Manifest::name(meta.manifest);
        let path = self.dir.join(&name);
        let read = || {
            if !self.disk.exists(&path).unwrap_or(true) {
                return Err("shard.meta names it, and it is missing".to_owned());
            }
            let (bytes, _) = read_some(self.disk, &path, MANIFEST_BYTES_MAX)?;
            if bytes.len() != meta.manifest_len as usize || crc32fast::hash(&bytes) != meta.manifest_crc {
                return Err("it is not the one that shard.meta names: another length or checksum".into());
            }
            let manifest = Manifest::decode(&bytes)?;
            if manifest.shard != self.shard || manifest.seq != meta.manifest {
                return Err(format!("it says it is number {} of shard {}", manifest.seq, manifest.shard));
            }
            Ok(manifest)
        };
        match read() {
            Ok(manifest) => {
                self.report.manifest = Some(ManifestReport {
                    name,
                    next_file_id: manifest.next_file_id,
                    log_floor: manifest.log_floor,
                    tombstone_floor: manifest.tombstone_floor,
                    commit: manifest.commit,
                    committed_time_ms: manifest.committed_time_ms,
                    mark: manifest.mark,
                    epochs: manifest.epochs.clone(),
                    trees: manifest.trees.clone(),
                    drops: manifest.drops.clone(),
                });
                Some(manifest)
            }
            Err(what) => {
                self.tell(Severity::Unsound, &name, None, what);
                None
            }
        }
    }

    /// What is there beside what the manifest lists.
    fn look_around(&mut self, entries: &[DirEntry], meta: Option<&Meta>) {
        for entry in entries {
            let name = entry.name.as_str();
            if entry.is_dir {
                if is_staging(name) {
                    self.staged(name);
                    if meta.is_some_and(|meta| meta.state != ShardState::Syncing) {
                        self.tell(Severity::Note, name, None, "left over from a full sync: the next open removes it");
                    }
                } else if is_aside(name) {
                    let what = "the files of a quarantine, set aside: remove them when nobody needs them";
                    self.tell(Severity::Note, name, None, what);
                } else {
                    self.tell(Severity::Note, name, None, "no directory of ours");
                }
                continue;
            }
            let Some(meta) = meta else { continue };
            let listed = |id: u32| meta.manifest.files.iter().any(|file| file.id == id);
            if let Some(id) = Segment::id_of(name) {
                if listed(id) {
                    continue;
                }
                if !meta.both {
                    let (bytes, _) = read_some(self.disk, &self.dir.join(name), MAX_SEGMENT_BYTES).unwrap_or_default();
                    if bytes.iter().skip(SEGMENT_HEADER_BYTES as usize).any(|&b| b != 0) {
                        let what = "it is not listed and has records, and a slot of shard.meta is lost";
                        self.tell(Severity::Unsound, name, None, what);
                    }
                } else if id >= meta.manifest.next_file_id || meta.manifest.drops.contains(&id) {
                    self.tell(Severity::Note, name, None, "no longer or not yet part of it: the next open removes it");
                } else {
                    self.tell(Severity::Unsound, name, None, "it is not listed although its id was given out");
                }
            } else if let Some(seq) = Manifest::seq_of(name) {
                if meta.both && !meta.keep.contains(&seq) {
                    self.tell(Severity::Note, name, None, "an old manifest: the next open removes it");
                }
            } else if name.ends_with(".tmp") {
                self.tell(Severity::Note, name, None, "a job that did not end: the next open removes it");
            } else if let Some(id) = name.strip_suffix(".hint").and_then(|id| id.parse::<u32>().ok()) {
                if !listed(id) {
                    self.tell(Severity::Note, name, None, "a hint without its file: the next open removes it");
                }
            } else if name != SHARD_META {
                self.tell(Severity::Note, name, None, "no file of ours");
            }
        }
    }

    fn staged(&mut self, name: &str) {
        let entries = self.disk.list(&self.dir.join(name)).unwrap_or_default();
        let (files, bytes) = (entries.len() as u64, entries.iter().map(|entry| entry.len).sum());
        self.report.staging.push(StagingReport { name: name.to_owned(), files, bytes });
    }

    /// Reads a file that the manifest lists; what it is to the log.
    fn listed(&mut self, entry: &FileEntry, name: &str, adopted: bool, log_floor: u64) -> Option<LogFile> {
        if entry.prepared && self.is_unused(entry.id, name) {
            return None;
        }
        let (bytes, header, file_bytes) = self.open(name)?;
        let before = header.before();
        if header.file_id != entry.id && !adopted {
            let what = format!("it says it is file {}", header.file_id);
            self.tell(Severity::Unsound, name, Some(32), what);
        }
        if header.shard != self.shard || header.compacted != entry.compacted {
            let kind = if header.compacted { "an output of compaction" } else { "a segment" };
            self.tell(Severity::Unsound, name, Some(12), format!("it says it is {kind} of shard {}", header.shard));
            return None;
        }
        if let Some(cluster) = self.cluster_id
            && header.cluster_id != 0
            && header.cluster_id != cluster.0
        {
            let what = format!("it belongs to cluster {:032x}", header.cluster_id);
            self.tell(Severity::Unsound, name, Some(16), what);
        }
        if !header.compacted && !entry.prepared && before != entry.before {
            let what = format!("it begins after {before:?}, the manifest says {:?}", entry.before);
            self.tell(Severity::Unsound, name, Some(40), what);
        }
        if let Some(end) = entry.end
            && end.len > file_bytes
        {
            let what = format!("it has {file_bytes} bytes, the manifest says {}", end.len);
            self.tell(Severity::Unsound, name, Some(file_bytes), what);
        }
        let below = entry.end.is_some_and(|end| end.last.last.gsn < log_floor);
        let kind = match (header.compacted, below) {
            (true, _) => FileKind::Compacted,
            (false, true) => FileKind::Cold,
            (false, false) => FileKind::Log,
        };
        let scan = scan(&bytes, &header, entry.end.map(|end| end.len));
        self.report.files.push(of_scan(name, kind, &bytes, &scan, file_bytes, adopted));
        let file = LogFile { name: name.to_owned(), header, end: entry.end, scan };
        if kind == FileKind::Log {
            return Some(file);
        }
        if let Some(what) = file.differs_from_its_entry() {
            self.tell(Severity::Unsound, name, Some(file.scan.end), what);
        }
        None
    }

    /// Whether no segment has begun in a file that was made ahead; told.
    fn is_unused(&mut self, id: u32, name: &str) -> bool {
        let Ok((bytes, _)) = read_some(self.disk, &self.dir.join(name), MAX_SEGMENT_BYTES) else { return false };
        if SegmentHeader::decode(&bytes).is_ok() {
            return false;
        }
        if bytes.iter().all(|&b| b == 0) {
            self.tell(Severity::Note, name, None, "made for the log's next segment, which has not begun");
        } else {
            let vouched = vouched_in(&bytes, id);
            let what = format!("a segment began in it and its header is lost; marks in it vouch for gsn {vouched}");
            self.tell(Severity::Torn, name, Some(0), what);
        }
        true
    }

    /// Reads a file that the manifest does not list, for what it tells.
    fn unlisted(&mut self, name: &str) {
        let path = self.dir.join(name);
        let Ok((bytes, file_bytes)) = read_some(self.disk, &path, MAX_SEGMENT_BYTES) else { return };
        let Ok(header) = SegmentHeader::decode(&bytes) else { return };
        let scan = scan(&bytes, &header, None);
        self.report.files.push(of_scan(name, FileKind::Unlisted, &bytes, &scan, file_bytes, false));
    }

    fn open(&mut self, name: &str) -> Option<(Vec<u8>, SegmentHeader, u64)> {
        let read = read_some(self.disk, &self.dir.join(name), MAX_SEGMENT_BYTES);
        match read.and_then(|(bytes, len)| Ok((SegmentHeader::decode(&bytes)?, bytes, len))) {
            Ok((header, bytes, len)) => Some((bytes, header, len)),
            Err(what) => {
                self.tell(Severity::Unsound, name, Some(0), what);
                None
            }
        }
    }
}

/// What a scanned segment holds.
fn of_scan(name: &str, kind: FileKind, bytes: &[u8], scan: &Scan, file_bytes: u64, adopted: bool) -> FileReport {
    let count = |kind| scan.entries.iter().filter(|entry| entry.kind == kind).count() as u64;
    let mut marks = 0;
    let mut at = SEGMENT_HEADER_BYTES as usize;
    while at < scan.end as usize
        && let Some(record) = bytes.get(at..).and_then(Record::peek)
    {
        marks += u64::from(record.kind() == Kind::Mark);
        at += record.len();
    }
    let gsn = |found: Option<&Found>| found.map(|found| found.tail.last.gsn);
    FileReport {
        name: name.to_owned(),
        kind,
        file_bytes,
        used_bytes: scan.end,
        gsns: gsn(scan.entries.first()).zip(gsn(scan.entries.last())),
        epochs: scan.epochs.clone(),
        records: scan.entries.len() as u64,
        puts: count(Kind::Put),
        deletes: count(Kind::Delete),
        marks,
        sealed: scan.stop == Stop::Sealed,
        adopted,
        joins: None,
    }
}
