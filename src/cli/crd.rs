//! `armdb crd`: prints the CustomResourceDefinitions, ready for `kubectl apply -f -`.

use std::process::ExitCode;

use super::{Global, output};

/// Print the Kubernetes CustomResourceDefinitions as YAML
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints both definitions as one multi-document YAML.
pub fn run(Args {}: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    output::write(crate::api::crds_yaml().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
