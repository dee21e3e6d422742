//! `armdb get`: one value, byte for byte.
//!
//! Exit code 1 and an empty stdout mean: there is no such key. Every other failure has another code.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use super::endpoints::{DataArgs, ReadArgs, bytes_of, read_failed, shown};
use super::failure::EXIT_FAILURE;
use super::{Format, Global, block_on, output};

/// Print the value of a key; exit code 1 if there is no such key
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The key
    key: OsString,
    #[command(flatten)]
    read: ReadArgs,
    #[command(flatten)]
    data: DataArgs,
}

/// Prints the value's bytes and nothing else (on a terminal: and a line end).
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let key = bytes_of(args.key);
    let found = block_on(async {
        let client = args.data.connect(global).await?;
        let options = args.read.options(&client, global).await?;
        client
            .get_with(key.clone(), &options)
            .await
            .map_err(|error| read_failed(&format!("reading {}", shown(&key)), &error))
    })?;
    let Some(value) = found else {
        // No remedy, no chain: this is an answer.
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("armdb: there is no key {}\n", shown(&key)).as_bytes(),
        );
        return Ok(ExitCode::from(EXIT_FAILURE));
    };
    match global.output {
        Format::Text => {
            let mut bytes = value.bytes.to_vec();
            if std::io::stdout().is_terminal() && !bytes.ends_with(b"\n") {
                bytes.push(b'\n');
            }
            output::write(&bytes)?;
        }
        Format::Json => output::json(&super::scan::entry_json(&key, &value, true))?,
    }
    Ok(ExitCode::SUCCESS)
}
