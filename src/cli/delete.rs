//! `armdb delete`: one key.

use std::ffi::OsString;
use std::process::ExitCode;

use super::endpoints::{DataArgs, bytes_of, shown, write_failed};
use super::{Failure, Global, block_on};
use crate::client::{Batch, Version, WriteOutcome};

/// Delete a key; deleting what is not there is no failure, unless --if-present
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key
    key: OsString,

    /// Only if there is such a key; exit code 1 if there is not
    #[arg(long, conflicts_with = "if_version")]
    if_present: bool,

    /// Only if the key still has this version, as get -o json prints it
    #[arg(long, value_name = "VERSION")]
    if_version: Option<Version>,

    #[command(flatten)]
    data: DataArgs,
}

/// Deletes; silent when it worked, unless JSON is asked for.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let key = bytes_of(args.key);
    let mut batch = Batch::new();
    if args.if_present {
        batch = batch.when_present(key.clone());
    }
    if let Some(version) = &args.if_version {
        batch = batch.when_version(key.clone(), version);
    }
    let batch = batch.delete(key.clone());
    let outcome = block_on(async {
        let client = args.data.connect(global).await?;
        let what = format!("deleting {}", shown(&key));
        client.write(batch).await.map_err(|error| write_failed(&what, &error))
    })?;
    match outcome {
        WriteOutcome::Applied(written) => {
            super::put::written_json(&key, &written, global)?;
            Ok(ExitCode::SUCCESS)
        }
        WriteOutcome::ConditionFailed { .. } => {
            let why = if args.if_present { "there is no such key" } else { "it has another version, or is gone" };
            Err(Failure::new(format!("{} is not deleted: {why}", shown(&key))).into())
        }
    }
}
