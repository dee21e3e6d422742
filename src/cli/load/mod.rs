//! `armdb load`: puts the lines of a file of JSON objects, fast and resumably.
//!
//! ```text
//! reader thread: lines -> records -> (bounded) -> pipeline: a window of puts in flight -> cluster
//!                                                  | the longest run of acknowledged lines from the start
//!                                                  v
//!                                             FILE.armdb-load (checkpoint)
//! ```
//! One line is one key. The key is the text of the field `key` (`--key FIELD` names another). The value is the text
//! of the field `value` if there is one and no `--key` was given (`--value FIELD` names one), else the whole line as
//! it is. What `armdb scan -o json` prints can be loaded back: `keyBase64` and `valueBase64` are understood.
//!
//! A put whose outcome is unknown is sent again: putting the same value under the same key twice leaves what
//! putting it once does, as long as nothing else writes those keys meanwhile. A key that occurs twice in the file
//! waits for its first put to be settled, so the later line wins.
//! A line that cannot be loaded stops the load by its number; every line before it is committed, and the next run
//! goes on from there. Does not do: deleting keys that are not in the file.

mod checkpoint;
mod pipeline;
mod progress;
mod record;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::endpoints::{DataArgs, seconds};
use super::failure::EXIT_INTERRUPTED;
use super::{Failure, Format, Global, block_on, output};
use checkpoint::Checkpoint;
use pipeline::{LoadError, Loader, Report};
use progress::Progress;
use record::Fields;

/// Load a file of JSON lines; resumable
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file: one JSON object a line
    #[arg(value_name = "FILE.jsonl")]
    file: PathBuf,

    /// Show the rate and the time left: a bar on a terminal, lines elsewhere
    #[arg(long)]
    progress: bool,

    /// The field whose text is the key; the value is then the whole line, unless --value
    #[arg(long, value_name = "FIELD")]
    key: Option<String>,

    /// The field whose text is the value
    #[arg(long, value_name = "FIELD")]
    value: Option<String>,

    /// Puts in flight at once
    #[arg(long, value_name = "COUNT", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4096))]
    window: u32,

    /// Begin with the first line, whatever an earlier run has loaded
    #[arg(long)]
    restart: bool,

    /// Give up when the cluster has acknowledged nothing for this long
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    give_up: f64,

    #[command(flatten)]
    data: DataArgs,
}

/// Loads, and tells what was done.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let fields = Fields::new(args.key.as_deref(), args.value.as_deref());
    let outcome = block_on(async {
        let client = args.data.connect(global).await?;
        let loader = Loader {
            client,
            file: args.file.clone(),
            fields,
            tree: args.data.tree.clone(),
            window: args.window as usize,
            restart: args.restart,
            give_up: Duration::from_secs_f64(args.give_up),
        };
        let stop = async {
            // Without a handler Ctrl-C ends the process as it always does: nothing is lost but the last second's
            // checkpoint.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        Ok(loader.run(Progress::new(args.progress), stop).await)
    })?;
    let (report, error) = match outcome {
        Ok(report) => (report, None),
        Err(failed) => (failed.report, Some(failed.error)),
    };
    match error {
        None => {
            tell(&report, global)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(error) => {
            let checkpoint = Checkpoint::path(&args.file);
            let resume = format!(
                "{} lines are committed; the same command goes on from there ({})",
                report.last_line,
                checkpoint.display()
            );
            let text = format!("loading {}: {error}", args.file.display());
            Err(match &error {
                LoadError::Interrupted => {
                    super::failure::report(&Failure::new(text).remedy(resume).into());
                    return Ok(ExitCode::from(EXIT_INTERRUPTED));
                }
                LoadError::Line { .. } => Failure::usage(text).remedy(format!("mend that line: {resume}")),
                LoadError::Stalled { .. } => Failure::unreachable(text).remedy(format!("armdb status; {resume}")),
                LoadError::Refused { .. } => Failure::new(text).remedy(resume),
                LoadError::File { .. } => Failure::usage(text),
                LoadError::Changed { .. } => Failure::usage(text)
                    .remedy("--restart loads it from the first line; lines that were loaded are put again"),
            }
            .into())
        }
    }
}

fn tell(report: &Report, global: &Global) -> anyhow::Result<()> {
    let seconds = report.elapsed.as_secs_f64();
    let rate = report.entries as f64 / seconds.max(1e-9);
    match global.output {
        Format::Text => {
            let mut text = format!(
                "loaded {} entries ({}) in {seconds:.1} s: {rate:.0} entries/s",
                report.entries,
                crate::api::quantity::format(report.bytes),
            );
            if report.resumed_after > 0 {
                text.push_str(&format!("; {} lines were loaded before", report.resumed_after));
            }
            if report.resent > 0 {
                text.push_str(&format!("; {} puts were sent again", report.resent));
            }
            output::line(&text)
        }
        Format::Json => output::json(&serde_json::json!({
            "entries": report.entries,
            "bytes": report.bytes,
            "lastLine": report.last_line,
            "seconds": seconds,
            "entriesPerSecond": rate,
            "resumedAfterLine": report.resumed_after,
            "resent": report.resent,
        })),
    }
}
