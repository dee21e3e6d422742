//! `armdb put`: one value, from the command line, a file or stdin; perhaps under a condition.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;

use super::endpoints::{DataArgs, bytes_of, seconds, shown, write_failed};
use super::{Failure, Format, Global, block_on, output};
use crate::client::{Ack, Batch, PutOptions, Version, WriteOptions, WriteOutcome, Written};

/// Put a value; exit code 1 if a condition does not hold, 4 if the outcome is unknown
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key
    key: OsString,

    /// The value; - reads it from stdin
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    value: Option<OsString>,

    /// Take the value from this file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Expire after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    ttl: Option<f64>,

    /// Only if there is no such key
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,

    /// Only if the key still has this version, as get -o json prints it
    #[arg(long, value_name = "VERSION")]
    if_version: Option<Version>,

    /// Who must hold it before it counts as written
    #[arg(long, value_enum, default_value_t = AckArg::Default)]
    ack: AckArg,

    #[command(flatten)]
    data: DataArgs,
}

/// Acknowledgement levels on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AckArg {
    /// What the cluster's spec says
    Default,
    /// The leader alone
    Leader,
    /// A quorum
    Quorum,
    /// Every voter
    All,
}

/// Writes; silent when it worked, unless JSON is asked for.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let key = bytes_of(args.key);
    let value = value(args.value, args.file)?;
    let write = WriteOptions {
        ack: match args.ack {
            AckArg::Default => Ack::ClusterDefault,
            AckArg::Leader => Ack::Leader,
            AckArg::Quorum => Ack::Quorum,
            AckArg::All => Ack::All,
        },
        timeout: None,
    };
    let options = PutOptions { ttl: args.ttl.map(Duration::from_secs_f64), write, ..PutOptions::default() };
    let mut batch = Batch::new();
    if args.if_absent {
        batch = batch.when_absent(key.clone());
    }
    if let Some(version) = &args.if_version {
        batch = batch.when_version(key.clone(), version);
    }
    let batch = batch.put_with(key.clone(), value, &options);
    let outcome = block_on(async {
        let client = args.data.connect(global).await?;
        let what = format!("putting {}", shown(&key));
        client.write_with(batch, &write).await.map_err(|error| write_failed(&what, &error))
    })?;
    match outcome {
        WriteOutcome::Applied(written) => {
            written_json(&key, &written, global)?;
            Ok(ExitCode::SUCCESS)
        }
        WriteOutcome::ConditionFailed { .. } => {
            let why = if args.if_absent { "the key exists" } else { "the key has another version, or is gone" };
            Err(Failure::new(format!("{} is not written: {why}", shown(&key)))
                .remedy("armdb get -o json shows its value and version")
                .into())
        }
    }
}

/// With `-o json`: what was written.
pub(super) fn written_json(key: &[u8], written: &Written, global: &Global) -> anyhow::Result<()> {
    if global.output == Format::Json {
        let mut object = serde_json::Map::new();
        output::insert_bytes(&mut object, "key", key);
        if let Some(version) = written.versions.first() {
            object.insert("version".into(), version.to_string().into());
        }
        object.insert("token".into(), written.token.to_string().into());
        output::json(&object)?;
    }
    Ok(())
}

fn value(argument: Option<OsString>, file: Option<PathBuf>) -> anyhow::Result<Bytes> {
    match (argument, file) {
        (_, Some(file)) => {
            let bytes = std::fs::read(&file)
                .with_context(|| Failure::usage(format!("reading the value from {}", file.display())))?;
            Ok(bytes.into())
        }
        (Some(argument), None) if argument == "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("reading the value from stdin")?;
            Ok(bytes.into())
        }
        (argument, None) => Ok(bytes_of(argument.unwrap_or_default())),
    }
}
