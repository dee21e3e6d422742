//! Where logs go: stderr, filtered by `ARMDB_LOG` (`info`, `armdb::node=debug,warn`, …), as text or, with
//! `ARMDB_LOG_FORMAT=json`, one JSON object a line. Colours only on a terminal.

use std::io::{self, IsTerminal as _};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use super::Failure;

/// Sets up logging for the process; `default_filter` applies where `ARMDB_LOG` is not set.
pub fn init(default_filter: &str) -> anyhow::Result<()> {
    init_as(default_filter, false)
}

/// As [`init`], as JSON unless `ARMDB_LOG_FORMAT` says otherwise, if `json`.
pub fn init_as(default_filter: &str, json: bool) -> anyhow::Result<()> {
    let wanted = std::env::var("ARMDB_LOG").ok().filter(|text| !text.is_empty());
    let filter = EnvFilter::try_new(wanted.as_deref().unwrap_or(default_filter)).with_context(|| {
        Failure::usage(format!("ARMDB_LOG={:?}", wanted.as_deref().unwrap_or_default()))
            .remedy("give a level (error, warn, info, debug, trace) or target=level pairs separated by commas")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match std::env::var("ARMDB_LOG_FORMAT").as_deref() {
        Err(_) | Ok("") if json => builder.json().init(),
        Err(_) | Ok("" | "text") => builder.with_ansi(io::stderr().is_terminal()).init(),
        Ok("json") => builder.json().init(),
        Ok(other) => {
            return Err(Failure::usage(format!("ARMDB_LOG_FORMAT={other:?}")).remedy("use text or json").into());
        }
    }
    Ok(())
}
