//! The commands of the `armdb` binary, one file a command.
//!
//! Owns: the command line (flags, environment, exit codes), how errors are printed, where logs go.
//! A command is `src/cli/<name>.rs` with `pub struct Args` (clap) and
//! `pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode>`; one that needs a runtime
//! makes it with [`block_on`]. It is listed in [`Command`] and in [`Command::run`].
//!
//! Exit codes: 0 it worked, 1 it did not (for `get`: there is no such key), 2 the command line or an input file is
//! wrong, 3 the cluster could not be reached or could not do it in time (certainly not done), 4 the outcome of a
//! write is unknown.
//! Data goes to stdout (through [`output`]), everything else to stderr.
//! Does not do: anything that a library user could want; that belongs to the floors below.

pub mod adopt;
pub mod bench;
pub mod crd;
pub mod delete;
pub mod endpoints;
pub mod failure;
pub mod get;
pub mod inspect;
pub mod kubectl;
pub mod load;
pub mod local;
pub mod logging;
pub mod node;
pub mod operator;
pub mod output;
pub mod put;
pub mod recover;
pub mod scan;
#[cfg(feature = "simulation")]
pub mod sim;
pub mod status;
pub mod switchover;
pub mod trees;
pub mod watch;

use std::ffi::OsString;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

pub use failure::Failure;
pub use output::Format;

/// A replicated key-value store on local disks: one binary, on Kubernetes or on a laptop.
#[derive(Debug, Parser)]
#[command(name = "armdb", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes, before or after its name.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Members to ask, comma-separated host:port; any one of them finds the leader.
    /// Without it: the running local cluster in --dir
    #[arg(long, env = "ARMDB_ENDPOINTS", value_delimiter = ',', value_name = "HOST:PORT", global = true)]
    pub endpoints: Vec<String>,

    /// How data is printed
    #[arg(short, long, value_enum, default_value_t = Format::Text, global = true)]
    pub output: Format,

    /// Directory of the local cluster
    #[arg(long, env = "ARMDB_DIR", default_value = ".armdb", value_name = "DIR", global = true)]
    pub dir: PathBuf,
}

/// One variant a command; its documentation is in its `Args`.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[allow(missing_docs)]
    Bench(bench::Args),
    #[allow(missing_docs)]
    Crd(crd::Args),
    #[allow(missing_docs)]
    Inspect(inspect::Args),
    #[allow(missing_docs)]
    Local(local::Args),
    #[allow(missing_docs)]
    Node(node::Args),
    #[allow(missing_docs)]
    Operator(operator::Args),
    #[allow(missing_docs)]
    Kubectl(kubectl::Args),
    #[allow(missing_docs)]
    Get(get::Args),
    #[allow(missing_docs)]
    Put(put::Args),
    #[allow(missing_docs)]
    Delete(delete::Args),
    #[allow(missing_docs)]
    Scan(scan::Args),
    #[allow(missing_docs)]
    Watch(watch::Args),
    #[allow(missing_docs)]
    Load(load::Args),
    #[allow(missing_docs)]
    Trees(trees::Args),
    #[allow(missing_docs)]
    Status(status::Args),
    #[allow(missing_docs)]
    Switchover(switchover::Args),
    #[allow(missing_docs)]
    Adopt(adopt::Args),
    #[cfg(feature = "simulation")]
    #[allow(missing_docs)]
    Sim(sim::Args),
    #[allow(missing_docs)]
    Recover(recover::Args),
    #[allow(missing_docs)]
    SetAside(recover::SetAsideArgs),
}

impl Command {
    /// Runs the command.
    fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Bench(args) => bench::run(args, global),
            Self::Crd(args) => crd::run(args, global),
            Self::Inspect(args) => inspect::run(args, global),
            Self::Local(args) => local::run(args, global),
            Self::Node(args) => node::run(args, global),
            Self::Operator(args) => operator::run(args, global),
            Self::Kubectl(args) => kubectl::run(args, global),
            Self::Get(args) => get::run(args, global),
            Self::Put(args) => put::run(args, global),
            Self::Delete(args) => delete::run(args, global),
            Self::Scan(args) => scan::run(args, global),
            Self::Watch(args) => watch::run(args, global),
            Self::Load(args) => load::run(args, global),
            Self::Trees(args) => trees::run(args, global),
            Self::Status(args) => status::run(args, global),
            Self::Switchover(args) => switchover::run(args, global),
            Self::Adopt(args) => adopt::run(args, global),
            #[cfg(feature = "simulation")]
            Self::Sim(args) => sim::run(args, global),
            Self::Recover(args) => recover::run(args, global),
            Self::SetAside(args) => recover::set_aside(args, global),
        }
    }

    /// What is logged to stderr unless `ARMDB_LOG` says otherwise: servers talk, commands keep still.
    /// `None`: the command sets its logs up itself, once it has read its configuration.
    fn default_log_filter(&self) -> Option<&'static str> {
        match self {
            Self::Node(_) => None,
            Self::Operator(_) => None,
            _ => Some("warn"),
        }
    }
}

/// Entry point of the binary: parse, log, run, explain.
pub fn main() -> ExitCode {
    // clap prints its own refusals (unknown flag, missing value) and exits with 2.
    let cli = Cli::parse_from(as_plugin(std::env::args_os().collect()));
    if let Some(filter) = cli.command.default_log_filter()
        && let Err(error) = logging::init(filter)
    {
        return failure::report(&error);
    }
    match cli.command.run(&cli.global) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}

/// As `kubectl-armdb`, what follows are the arguments of `armdb kubectl`.
fn as_plugin(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "kubectl-armdb") {
        args.insert(1, "kubectl".into());
    }
    args
}

/// Runs `future` on a fresh multi-threaded runtime: what an asynchronous command's `run` does with its body.
///
/// The runtime is dropped without waiting for blocking tasks, so that a stuck file system cannot hold the exit.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the async runtime")?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}

/// Resolves at the first SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_after_the_command() {
        let cli = Cli::try_parse_from(["armdb", "crd", "-o", "json", "--endpoints", "a:1,b:2"]).expect("parses");
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(cli.global.endpoints, ["a:1", "b:2"]);
    }

    #[test]
    fn as_a_plugin_of_kubectl_it_is_the_command_kubectl() {
        let args = |args: &[&str]| args.iter().map(OsString::from).collect::<Vec<_>>();
        let plugin = as_plugin(args(&["/usr/bin/kubectl-armdb", "promote", "kv", "kv-0-2", "-n", "prod"]));
        let cli = Cli::try_parse_from(plugin).expect("parses");
        assert!(matches!(cli.command, Command::Kubectl(_)));
        assert_eq!(as_plugin(args(&["armdb", "crd"])), args(&["armdb", "crd"]));
    }

    #[test]
    fn an_unknown_flag_is_refused_by_name() {
        let error = Cli::try_parse_from(["armdb", "crd", "--frobnicate"]).expect_err("refused");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--frobnicate"), "{error}");
    }
}
