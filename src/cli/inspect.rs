//! `armdb inspect`: what is in a data directory, and is it sound? Read-only.
//!
//! Exit codes: 0 sound (a torn tail is: the next open cuts it), 1 not, 2 there is nothing to inspect.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::{Failure, Format, Global, output};
use crate::disk::{Disk, RealDisk};
use crate::engine::inspect::{
    DirectoryReport, FileKind, FileReport, Finding, Inspection, NodeReport, Severity, ShardInspection, inspect,
};
use crate::position::LogTail;

/// Tell what is in a data directory and whether it is sound, without touching it
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A member's data directory, an embedded database, or a directory that holds some (a local cluster's)
    #[arg(value_name = "DIR")]
    path: PathBuf,
}

/// Prints what was found; the exit code is the verdict.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let inspection = inspect(&disk, &args.path).map_err(|error| Failure::usage(error.to_string()))?;
    if inspection.directories.is_empty() {
        let failure = Failure::usage(format!("{} holds no data directory", args.path.display()));
        return Err(failure.remedy("name the directory that holds node.meta, or one above it").into());
    }
    match global.output {
        Format::Json => output::json(&inspection)?,
        Format::Text => output::write(text(&inspection).as_bytes())?,
    }
    Ok(if inspection.sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(inspection: &Inspection) -> String {
    let mut out = String::new();
    for directory in &inspection.directories {
        directory_text(&mut out, directory);
        out.push('\n');
    }
    let unsound: Vec<_> = inspection.directories.iter().filter(|d| !d.sound).collect();
    let what = |n: usize| if n == 1 { "directory" } else { "directories" };
    let all = inspection.directories.len();
    if unsound.is_empty() {
        line(&mut out, &format!("sound: {all} {}", what(all)));
    } else {
        let paths: Vec<_> = unsound.iter().map(|d| d.path.display().to_string()).collect();
        line(&mut out, &format!("NOT SOUND: {} of {all} {}: {}", paths.len(), what(all), paths.join(", ")));
    }
    out
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

fn directory_text(out: &mut String, directory: &DirectoryReport) {
    let purpose = directory.node.as_ref().map_or("unknown", |node| node.purpose);
    let in_use = if directory.in_use { ", in use: the log's end may be moving" } else { "" };
    line(out, &format!("{} ({purpose}{in_use})", directory.path.display()));
    if let Some(node) = &directory.node {
        node_text(out, node);
    }
    findings_text(out, "  ", &directory.findings);
    for shard in &directory.shards {
        shard_text(out, shard);
    }
    line(out, if directory.sound { "  verdict: sound" } else { "  verdict: NOT SOUND" });
}

fn node_text(out: &mut String, node: &NodeReport) {
    let cluster = node.cluster_id.map_or_else(|| "none yet".to_owned(), |id| id.to_string());
    line(out, &format!("  sid {}  cluster {cluster}  lineage {}", node.sid, node.lineage));
    let end = if node.clean { "the last run ended cleanly" } else { "the last run did not end cleanly (or goes on)" };
    let times = if node.open_count == 1 { "once".to_owned() } else { format!("{} times", node.open_count) };
    line(out, &format!("  opened {times}, {end}; durability {}", node.durability));
    line(out, &format!("  promised epoch {}, led epoch {}, init {}", node.promised, node.led, node.init));
    if let Some(config) = &node.last_config {
        let voters: Vec<_> = config.voters.iter().map(ToString::to_string).collect();
        let quorum = format!("write quorum {}, min voters {}", config.write_quorum, config.min_voters);
        line(out, &format!("  last configuration: epoch {}, {quorum}, voters {}", config.epoch, voters.join(" ")));
    }
    let (min, max) = node.format_range;
    line(out, &format!("  format {} (its version read {min} to {max}), {} shards", node.format_level, node.shards));
}

fn tail_text(tail: &LogTail) -> String {
    format!("gsn {} epoch {} chain {:08x}", tail.last.gsn, tail.last.epoch, tail.chain)
}

fn shard_text(out: &mut String, shard: &ShardInspection) {
    let state = shard.state.as_deref().unwrap_or("of unknown state");
    line(out, &format!("  shard {}: {state}", shard.shard));
    if let Some(manifest) = &shard.manifest {
        let floors = format!("log floor {}, tombstone floor {}", manifest.log_floor, manifest.tombstone_floor);
        let name = &manifest.name;
        line(out, &format!("    {name}: commit >= {}, {floors}, next file {}", manifest.commit, manifest.next_file_id));
        line(out, &format!("    durable when it was written: {}", tail_text(&manifest.mark)));
        if !manifest.trees.is_empty() {
            let trees: Vec<_> = manifest.trees.iter().map(|t| format!("{} ({:?})", t.name, t.kind)).collect();
            line(out, &format!("    trees: {}", trees.join(", ").to_lowercase()));
        }
    }
    if let Some(end) = &shard.log_end {
        line(out, &format!("    log ends at {}", tail_text(end)));
    }
    if !shard.files.is_empty() {
        let heading = ["FILE", "KIND", "BYTES", "USED", "GSNS", "RECORDS", "PUTS", "DELETES", "MARKS", "END", "JOINS"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(shard.files.iter().map(row));
        for row in output::columns(&rows).lines() {
            line(out, &format!("    {row}"));
        }
    }
    for staged in &shard.staging {
        line(out, &format!("    {}: {} files, {} bytes of a full sync", staged.name, staged.files, staged.bytes));
    }
    findings_text(out, "    ", &shard.findings);
}

fn row(file: &FileReport) -> Vec<String> {
    let kind = match file.kind {
        FileKind::Log => "log",
        FileKind::Cold => "cold",
        FileKind::Compacted => "compacted",
        FileKind::Unlisted => "unlisted",
    };
    let adopted = if file.adopted { "*" } else { "" };
    vec![
        file.name.clone(),
        format!("{kind}{adopted}"),
        file.file_bytes.to_string(),
        file.used_bytes.to_string(),
        file.gsns.map_or_else(|| "-".to_owned(), |(first, last)| format!("{first}..{last}")),
        file.records.to_string(),
        file.puts.to_string(),
        file.deletes.to_string(),
        file.marks.to_string(),
        if file.sealed { "sealed" } else { "open" }.to_owned(),
        file.joins.map_or("-", |joins| if joins { "yes" } else { "NO" }).to_owned(),
    ]
}

fn findings_text(out: &mut String, indent: &str, findings: &[Finding]) {
    for finding in findings {
        let severity = match finding.severity {
            Severity::Note => "note",
            Severity::Torn => "torn",
            Severity::Unsound => "UNSOUND",
        };
        let at = finding.offset.map_or_else(String::new, |offset| format!(" at {offset}"));
        line(out, &format!("{indent}{severity}: {}{at}: {}", finding.file, finding.what));
    }
}
