//! A data directory as a whole: who it is, and which shards it should have.

use std::path::Path;
use std::sync::Arc;

use super::report::{ConfigReport, DirectoryReport, Finding, NodeReport, Severity};
use super::{read_some, shard};
use crate::disk::{Disk, FAULT_NOTE_BYTES, FaultNote};
use crate::engine::fault::FAULT_NOTE;
use crate::engine::format::node_meta::{NODE_META_MAGIC, NodeRecord, Purpose};
use crate::engine::format::slots::{self, SLOT_BYTES};
use crate::engine::format::{FORMAT_MAX, FORMAT_MIN};
use crate::engine::member::{NODE_META, NODE_META_UNFINISHED, shard_dir};
use crate::engine::meta::InitState;
use crate::engine::reserve::RESERVE;

/// The number in a shard directory's name.
pub(super) fn shard_number(name: &str) -> Option<u16> {
    name.strip_prefix("shard-").filter(|digits| digits.len() == 3)?.parse().ok()
}

/// Reads everything in it.
pub(super) fn inspect(disk: &Arc<dyn Disk>, dir: &Path) -> DirectoryReport {
    let mut findings = Vec::new();
    let record = node(disk, dir, &mut findings);
    let in_use = disk.is_locked(dir).unwrap_or_else(|error| {
        findings.push(Finding::new(Severity::Note, "", None, format!("whether it is in use is not known: {error}")));
        false
    });
    let mut present = Vec::new();
    match disk.list(dir) {
        Ok(entries) => {
            for entry in entries {
                match shard_number(&entry.name).filter(|_| entry.is_dir) {
                    Some(number) => present.push(number),
                    None if entry.name == NODE_META || entry.name == RESERVE => {}
                    None if entry.name == FAULT_NOTE => fault_note(disk, dir, &mut findings),
                    None if entry.name == NODE_META_UNFINISHED => {
                        let what = "the directory was being formatted: it counts as empty";
                        findings.push(Finding::new(Severity::Torn, &entry.name, None, what));
                    }
                    None => findings.push(Finding::new(Severity::Note, &entry.name, None, "no file of ours")),
                }
            }
        }
        Err(error) => findings.push(Finding::new(Severity::Unsound, "", None, format!("it cannot be listed: {error}"))),
    }
    let wanted = record.as_ref().map_or(0, |record| record.meta.shards);
    for number in present.iter().filter(|number| **number >= wanted && record.is_some()) {
        let what = format!("it was formatted with {wanted} shards");
        findings.push(Finding::new(Severity::Unsound, &format!("shard-{number:03}"), None, what));
    }
    present.extend((0..wanted.min(64)).filter(|number| !present.contains(number)).collect::<Vec<_>>());
    present.sort_unstable();
    let cluster_id = record.as_ref().and_then(|record| record.meta.cluster_id);
    let shards: Vec<_> =
        present.into_iter().map(|number| shard::inspect(disk, &shard_dir(dir, number), number, cluster_id)).collect();
    let unsound = |findings: &[Finding]| findings.iter().any(|finding| finding.severity == Severity::Unsound);
    let sound = !unsound(&findings) && !shards.iter().any(|shard| unsound(&shard.findings));
    DirectoryReport { path: dir.to_owned(), sound, in_use, node: record.map(report), findings, shards }
}

/// What ended the last process, if a page that could not be read did.
fn fault_note(disk: &Arc<dyn Disk>, dir: &Path, findings: &mut Vec<Finding>) {
    let mut tell = |what: String| findings.push(Finding::new(Severity::Note, FAULT_NOTE, None, what));
    match read_some(disk, &dir.join(FAULT_NOTE), FAULT_NOTE_BYTES as u64).map(|(bytes, _)| FaultNote::decode(&bytes)) {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(note))) => tell(format!(
            "the last process was ended because {} could not be read at offset {}: the next open checks that file",
            note.file, note.offset
        )),
        Ok(Err(what)) | Err(what) => tell(what),
    }
}

fn node(disk: &Arc<dyn Disk>, dir: &Path, findings: &mut Vec<Finding>) -> Option<NodeRecord> {
    let mut tell = |severity, what: String| findings.push(Finding::new(severity, NODE_META, None, what));
    let path = dir.join(NODE_META);
    if !disk.exists(&path).unwrap_or(true) {
        tell(Severity::Unsound, "it is missing although there are shards".into());
        return None;
    }
    let (bytes, _) =
        read_some(disk, &path, 2 * SLOT_BYTES as u64).map_err(|what| tell(Severity::Unsound, what)).ok()?;
    let Some(newest) = slots::newest(NODE_META_MAGIC, &bytes) else {
        tell(Severity::Unsound, "neither of its slots can be read".into());
        return None;
    };
    if newest.older.is_none() {
        tell(Severity::Torn, format!("slot {} cannot be read: a write that did not end, or rot", 1 - newest.slot));
    }
    match NodeRecord::formats(&newest.payload) {
        Ok((level, ..)) if !(FORMAT_MIN..=FORMAT_MAX).contains(&level) => {
            let range = format!("this version reads {FORMAT_MIN} to {FORMAT_MAX}");
            tell(Severity::Unsound, format!("it has format {level}, {range}: use a newer one"));
            return None;
        }
        _ => {}
    }
    NodeRecord::decode(&newest.payload).map_err(|what| tell(Severity::Unsound, what)).ok()
}

fn report(record: NodeRecord) -> NodeReport {
    let meta = record.meta;
    NodeReport {
        purpose: match record.purpose {
            Purpose::Member => "member",
            Purpose::Embedded => "embedded",
        },
        sid: meta.sid,
        cluster_id: meta.cluster_id,
        lineage: meta.lineage,
        open_count: meta.open_count,
        clean: meta.clean,
        durability: if record.relaxed { "Os" } else { "Disk" },
        promised: meta.promised,
        led: meta.led,
        init: match meta.init {
            InitState::None => "none",
            InitState::Started => "started",
            InitState::Done => "done",
        },
        last_config: meta.last_config.map(|config| ConfigReport {
            epoch: config.epoch,
            voters: config.voters,
            write_quorum: config.write_quorum,
            min_voters: config.min_voters,
        }),
        shards: meta.shards,
        format_level: meta.format_level,
        format_range: (meta.format_min, meta.format_max),
    }
}
