//! `armdb operator`: looks after the clusters of a Kubernetes; what it does is in [`crate::operator`].

use std::process::ExitCode;

use anyhow::Context as _;

use super::{Failure, Global, block_on, logging, stop_signal};
use crate::operator::{self, Options};

/// Run the Kubernetes operator
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of this replica: its pod's. Without it: the host's name
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,

    /// Namespace of the lease that says which replica acts. Without it: where the operator runs
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Name of that lease
    #[arg(long, default_value = "armdb-operator", value_name = "NAME")]
    lease: String,

    /// Look after the clusters of these namespaces only, comma-separated. Without it: of all
    #[arg(long, env = "ARMDB_WATCH_NAMESPACES", value_delimiter = ',', value_name = "NAMESPACE")]
    watch_namespace: Vec<String>,

    /// Where probes and metrics are served
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "HOST:PORT")]
    http: String,

    /// Log as JSON, one object a line
    #[arg(long)]
    log_json: bool,
}

/// Runs until SIGTERM or Ctrl-C.
pub fn run(args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    logging::init_as("info,kube_client=warn,kube_runtime=warn", args.log_json)?;
    let identity = match args.identity.filter(|name| !name.is_empty()) {
        Some(name) => name,
        None => host_name()?,
    };
    let options = Options {
        identity,
        namespace: args.namespace.filter(|namespace| !namespace.is_empty()),
        lease: args.lease,
        watch_namespaces: args.watch_namespace.into_iter().filter(|namespace| !namespace.is_empty()).collect(),
        http: args.http,
    };
    block_on(async {
        let stop = stop_signal()?;
        operator::run(options, stop).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context(Failure::usage("the name of this host is not known").remedy("give --identity"))?;
    Ok(name.trim().to_owned())
}
