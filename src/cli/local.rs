//! `armdb local`: runs a manifest's cluster on this machine; what it does is in [`crate::local`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::{Failure, Global};
use crate::api::{self, ArmdbCluster};
use crate::local::{self, Ended, LocalError, Options, Places, Plan};

/// Run the cluster of a manifest as processes on this machine
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The manifest: the very file that kubectl would apply
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,

    /// Log lines instead of a live table, even on a terminal
    #[arg(long)]
    plain: bool,

    /// How long COMMAND waits for the cluster to serve
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait_seconds: u32,

    /// Where members run that shall not run on loopback: YAML, `MEMBER: {address: IP, launcher: [PROGRAM, ARG...]}`;
    /// the launcher gets the member's command line as its last arguments and must exec it
    #[arg(long, value_name = "FILE", env = "ARMDB_LOCAL_PLACES", hide_env = true)]
    places: Option<PathBuf>,

    /// Run COMMAND against the cluster (it finds ARMDB_ENDPOINTS and ARMDB_DIR set), stop the cluster when it
    /// ends, and end with its status
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs until Ctrl-C, SIGTERM or the command's end.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let cluster = manifest(&args.file)?;
    let name = cluster.metadata.name.clone().unwrap_or_default();
    // The default stands for a directory a cluster below it; one that was given is the cluster's own.
    let dir = if global.dir == Path::new(".armdb") { global.dir.join(&name) } else { global.dir.clone() };
    let options = Options {
        plan: Plan { name, spec: cluster.spec },
        places: args.places.as_deref().map(read_places).transpose()?.unwrap_or_default(),
        dir,
        program: std::env::current_exe().context("finding this program, to start members with")?,
        plain: args.plain,
        command: args.command,
        wait: Duration::from_secs(u64::from(args.wait_seconds)),
    };
    // One thread, the main one: see the module comment of `local`.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the async runtime")?;
    let ended = runtime.block_on(local::run(options));
    runtime.shutdown_background();
    match ended.map_err(explain)? {
        Ended::Stopped => Ok(ExitCode::SUCCESS),
        Ended::Command(code) => Ok(ExitCode::from(code)),
        Ended::Failed(code, why) => {
            crate::cli::failure::report(&anyhow::anyhow!(why));
            Ok(ExitCode::from(code))
        }
    }
}

/// Reads the manifest; what only Kubernetes can give is refused rather than left out.
fn manifest(file: &Path) -> anyhow::Result<ArmdbCluster> {
    let cluster = api::manifest::load_file(file)
        .map_err(|error| Failure::usage(error.to_string()).remedy("mend the manifest; armdb crd prints its schema"))?;
    let refused = api::validate::refused_locally(&cluster);
    if refused.is_empty() {
        return Ok(cluster);
    }
    let list: Vec<_> = refused.iter().map(ToString::to_string).collect();
    Err(Failure::usage(format!("{}: {}", file.display(), list.join("; "))).into())
}

fn read_places(file: &Path) -> anyhow::Result<Places> {
    Places::read(file).map_err(|error| {
        Failure::usage(format!("{}: {error:#}", file.display())).remedy("mend the file of places").into()
    })
}

fn explain(error: LocalError) -> anyhow::Error {
    let remedy = error.remedy();
    anyhow::Error::new(error).context(Failure::new("the local cluster is not started").remedy(remedy))
}
