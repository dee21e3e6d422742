//! A full check of a shard: every record of every file is read and its checksum compared.

use super::recovery::{Stop, scan};
use super::segment::Segment;
use super::shard::Shard;
use crate::position::Gsn;

/// A place that does not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// What a full check of a shard found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// The shard.
    pub shard: u16,
    /// Files read.
    pub files: u64,
    /// Records read.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Keys with a value.
    pub live_keys: u64,
    /// The log's end as read.
    pub last_gsn: Gsn,
    /// What does not verify; empty: sound.
    pub damage: Vec<Damage>,
}

impl VerifyReport {
    /// Whether nothing was found wrong.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}

impl Shard {
    /// Reads every record of every file and checks it, and that the log's segments join.
    pub fn verify(&self) -> VerifyReport {
        let mut report = VerifyReport { shard: self.id, live_keys: self.keys(), ..VerifyReport::default() };
        let segments = self.log_segments();
        let mut tail = None;
        for segment in segments.iter().filter(|segment| segment.is_open()) {
            let file = Segment::file_name(segment.id());
            let bytes = segment.log_bytes();
            let scan = scan(bytes, &segment.header, None);
            report.files += 1;
            report.records += scan.entries.len() as u64;
            report.bytes += bytes.len() as u64;
            let mut damage = |what: String| report.damage.push(Damage { file: file.clone(), offset: scan.end, what });
            if tail.is_some_and(|tail| tail != segment.header.before()) {
                damage("it does not continue the segment before it".into());
            }
            if let Stop::Broken(why) = &scan.stop {
                damage(why.clone());
            }
            if let Some(why) = &scan.contradiction {
                damage(why.clone());
            }
            tail = Some(scan.tail);
            report.last_gsn = report.last_gsn.max(scan.tail.last.gsn);
        }
        let view = self.view.load();
        for segment in view.segments.iter().flatten().filter(|segment| segment.is_cold()) {
            let Some(end) = segment.end() else { continue };
            let scan = scan(segment.bytes(), &segment.header, Some(end.len));
            report.files += 1;
            report.records += scan.entries.len() as u64;
            report.bytes += end.len;
            if let Some(what) = scan.differs_from(&end) {
                report.damage.push(Damage { file: Segment::file_name(segment.id()), offset: scan.end, what });
            }
        }
        report
    }
}
