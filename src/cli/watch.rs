//! `armdb watch`: committed changes as they happen, without a gap across failovers.

use std::ffi::OsString;
use std::process::ExitCode;

use super::endpoints::{DataArgs, bytes_of, read_failed};
use super::{Format, Global, block_on, output};
use crate::client::{Token, WatchOptions};

/// Print committed changes as they happen
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only keys that begin so
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<OsString>,

    /// Changes after this token (resume of watch -o json, token of put -o json); without it: from now on
    #[arg(long, value_name = "TOKEN")]
    after: Option<Token>,

    /// End after this many changes
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,

    #[command(flatten)]
    data: DataArgs,
}

/// Prints until it is stopped. Says on stderr when it has begun: changes made after that are seen.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    block_on(async {
        let client = args.data.connect(global).await?;
        let prefix = bytes_of(args.prefix.unwrap_or_default());
        let mut watch = client.watch(WatchOptions { prefix, after: args.after });
        watch.start().await.map_err(|error| read_failed("watching", &error))?;
        let from = watch.position().map(ToString::to_string).unwrap_or_default();
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("watching from {from}\n").as_bytes());
        let mut left = args.limit.unwrap_or(u64::MAX);
        while left > 0 {
            let changes = watch.next().await.map_err(|error| read_failed("watching", &error))?;
            let mut text = Vec::new();
            let count = changes.changes.len();
            for (index, change) in changes.changes.into_iter().enumerate() {
                if left == 0 {
                    break;
                }
                left -= 1;
                match global.output {
                    Format::Text => {
                        text.extend_from_slice(if change.value.is_some() { b"put\t" } else { b"delete\t" });
                        text.extend_from_slice(&change.key);
                        if let Some(value) = &change.value {
                            text.push(b'\t');
                            text.extend_from_slice(&value.bytes);
                        }
                        text.push(b'\n');
                    }
                    Format::Json => {
                        let mut object = match &change.value {
                            Some(value) => super::scan::entry_json(&change.key, value, true),
                            None => {
                                let mut object = serde_json::Map::new();
                                output::insert_bytes(&mut object, "key", &change.key);
                                object
                            }
                        };
                        object.insert("type".into(), if change.value.is_some() { "put" } else { "delete" }.into());
                        object.insert("version".into(), change.version.to_string().into());
                        // Only after a whole batch is there a place to resume from.
                        if index + 1 == count {
                            object.insert("resume".into(), changes.resume.to_string().into());
                        }
                        serde_json::to_writer(&mut text, &object)?;
                        text.push(b'\n');
                    }
                }
            }
            output::write(&text)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
