//! `armdb scan`: keys in order, with their values.
//!
//! Text is `key TAB value`, bytes as they are; whoever needs to tell a line end in a value from the end of a line
//! takes `-o json`, which `armdb load` reads back.

use std::ffi::OsString;
use std::process::ExitCode;

use serde_json::{Map, Value as Json};

use super::endpoints::{DataArgs, ReadArgs, bytes_of, read_failed};
use super::{Format, Global, block_on, output};
use crate::client::{Scan, Value};

/// Print keys in order, with their values
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only keys that begin so
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["start", "end"])]
    prefix: Option<OsString>,

    /// From this key on
    #[arg(long, value_name = "KEY")]
    start: Option<OsString>,

    /// Up to, not including, this key
    #[arg(long, value_name = "KEY")]
    end: Option<OsString>,

    /// No more than this many
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,

    /// From the last key to the first
    #[arg(long)]
    reverse: bool,

    /// Without values
    #[arg(long)]
    keys_only: bool,

    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    data: DataArgs,
}

/// Prints page by page, as they come.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    block_on(async {
        let client = args.data.connect(global).await?;
        let read = args.read.options(&client, global).await?;
        let bytes = |argument: Option<OsString>| bytes_of(argument.unwrap_or_default());
        let mut scan = match args.prefix {
            Some(prefix) => Scan::prefix(bytes_of(prefix)),
            None => Scan::range(bytes(args.start), bytes(args.end)),
        };
        scan = scan.reverse(args.reverse).keys_only(args.keys_only).read(read);
        if let Some(limit) = args.limit {
            scan = scan.limit(limit);
        }
        let mut scan = client.scan(scan);
        while let Some(page) = scan.next_page().await.map_err(|error| read_failed("scanning", &error))? {
            let mut text = Vec::new();
            for entry in &page.entries {
                match global.output {
                    Format::Text => {
                        text.extend_from_slice(&entry.key);
                        if !args.keys_only {
                            text.push(b'\t');
                            text.extend_from_slice(&entry.value.bytes);
                        }
                        text.push(b'\n');
                    }
                    Format::Json => {
                        serde_json::to_writer(&mut text, &entry_json(&entry.key, &entry.value, !args.keys_only))?;
                        text.push(b'\n');
                    }
                }
            }
            output::write(&text)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// An entry as JSON, as `get`, `scan` and `watch` print it.
pub(super) fn entry_json(key: &[u8], value: &Value, with_value: bool) -> Map<String, Json> {
    let mut object = Map::new();
    output::insert_bytes(&mut object, "key", key);
    if with_value {
        output::insert_bytes(&mut object, "value", &value.bytes);
    }
    object.insert("version".into(), value.version.to_string().into());
    if let Some(expires_ms) = value.expires_ms {
        object.insert("expiresMillis".into(), expires_ms.into());
    }
    if value.value_type != 0 {
        object.insert("valueType".into(), value.value_type.into());
    }
    object
}
