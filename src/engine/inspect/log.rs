//! Does the log join, and where does it end? The judgement of recovery, but it goes on where that stops, to
//! tell all that is wrong.

use super::report::Severity;
use crate::engine::format::manifest::{FileEnd, Manifest};
use crate::engine::format::segment_header::SegmentHeader;
use crate::engine::recovery::{Scan, Stop};
use crate::position::LogTail;

/// A segment of the contiguous log.
pub(super) struct LogFile {
    pub(super) name: String,
    pub(super) header: SegmentHeader,
    /// Where it ends, as the manifest says.
    pub(super) end: Option<FileEnd>,
    pub(super) scan: Scan,
}

/// What is found: how bad, in which file, at which offset, what.
type Found = (Severity, String, Option<u64>, String);

/// What a log is.
pub(super) struct Judged {
    /// Where a recovery would find its end.
    pub(super) end: LogTail,
    /// By file: whether it continues the one before it.
    pub(super) joins: Vec<(String, bool)>,
    pub(super) findings: Vec<Found>,
}

impl LogFile {
    /// Why it is not all of what the manifest says of it.
    pub(super) fn differs_from_its_entry(&self) -> Option<String> {
        self.scan.differs_from(&self.end?)
    }
}

/// Follows the log through its segments.
pub(super) fn judge(log: &[LogFile], manifest: &Manifest) -> Judged {
    let mut judged = Judged { end: manifest.mark, joins: Vec::new(), findings: Vec::new() };
    let mut tail = log.first().map_or(manifest.mark, |first| first.header.before());
    let mut commit = manifest.commit;
    let mut cut = None;
    for (i, file) in log.iter().enumerate() {
        let (name, scan) = (&file.name, &file.scan);
        let mut unsound = |what: String| {
            judged.findings.push((Severity::Unsound, name.clone(), Some(scan.end), what));
        };
        if let Some(what) = &scan.contradiction {
            unsound(what.clone());
        }
        let joins = file.header.before() == tail;
        // What follows a cut goes with it.
        if !joins && cut.is_none() {
            unsound(format!("it begins after {:?}, the log before it ends at {tail:?}", file.header.before()));
        }
        tail = scan.tail;
        commit = commit.max(scan.commit);
        if let Some(what) = file.differs_from_its_entry() {
            unsound(what);
        }
        let next = log.get(i + 1);
        let whole = match (&scan.stop, file.end) {
            (_, Some(_)) | (Stop::Sealed, None) => true,
            (Stop::Zeros, None) => !scan.unfinished && next.is_none_or(|next| next.header.before() == tail),
            (Stop::Length | Stop::Broken(_), None) => false,
        };
        if !whole && cut.is_none() {
            cut = Some(tail);
            let lost = tail.last.gsn + 1;
            let vouched = log[i..].iter().map(|file| file.scan.vouched).max().unwrap_or(0);
            let vouched = vouched.max(manifest.mark.last.gsn);
            let why = match &scan.stop {
                Stop::Broken(why) => why.clone(),
                _ if scan.unfinished => "a batch that does not end".into(),
                _ => "the log ends here, and the next segment does not continue it".into(),
            };
            let (severity, what) = if vouched >= lost {
                let what = format!("{why}: gsn {lost} is damaged or gone, and gsn {vouched} was durable");
                (Severity::Unsound, what)
            } else {
                let what = format!("a torn tail ({why}): nothing after gsn {} was durable, it is cut off", lost - 1);
                (Severity::Torn, what)
            };
            judged.findings.push((severity, name.clone(), Some(scan.end), what));
        }
        judged.joins.push((name.clone(), joins));
    }
    judged.end = cut.unwrap_or(tail);
    let end = judged.end.last.gsn;
    let known = judged.findings.iter().any(|(severity, ..)| *severity == Severity::Unsound);
    let manifest_name = Manifest::name(manifest.seq);
    if end < manifest.mark.last.gsn && !known {
        let what = format!("the log ends at gsn {end}, and gsn {} was durable", manifest.mark.last.gsn);
        judged.findings.push((Severity::Unsound, manifest_name, None, what));
    } else if end < commit && !known {
        let what = format!("the log ends at gsn {end}, below its commit {commit}");
        judged.findings.push((Severity::Unsound, manifest_name, None, what));
    }
    judged
}
