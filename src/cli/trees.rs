//! `armdb trees`: lists the trees, or makes one.

use std::process::ExitCode;
use std::time::Duration;

use super::endpoints::{connect, read_failed, write_failed};
use super::{Format, Global, block_on, output};

/// List the trees, or make one
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Make this tree (nothing happens if it exists)
    #[arg(long, value_name = "NAME")]
    create: Option<String>,

    /// Without order: it cannot be scanned, and takes less memory
    #[arg(long, requires = "create")]
    hash: bool,
}

/// Prints the trees after what was asked for is done.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let trees = block_on(async {
        let client = connect(global, Duration::from_secs(10)).await?;
        if let Some(name) = &args.create {
            client
                .create_tree(name, args.hash)
                .await
                .map_err(|error| write_failed(&format!("making tree {name}"), &error))?;
        }
        client.list_trees().await.map_err(|error| read_failed("listing the trees", &error))
    })?;
    for tree in trees {
        let order = if tree.hash { "hash" } else { "ordered" };
        match global.output {
            Format::Text => output::line(&format!("{}\t{order}", tree.name))?,
            Format::Json => output::json(&serde_json::json!({"name": tree.name, "kind": order}))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
