//! `armdb adopt`: accepts that a register was lost together with some of the volumes.

use std::process::ExitCode;

use super::switchover::{answered, supervisor};
use super::{Format, Global, block_on, output};
use crate::ident::ClusterId;
use crate::net::proto::AdoptRequest;

/// Rebuild a lost register from the members that are left, giving up the volumes that are not
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The id of the cluster whose data it is, as armdb inspect and the supervisor's log tell it
    #[arg(value_name = "CLUSTER_ID")]
    cluster_id: ClusterId,
}

/// Asks the supervisor and waits until the cluster serves again.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let done = block_on(async {
        let mut control = supervisor(global).await?;
        let request = AdoptRequest { cluster_id: args.cluster_id.to_string() };
        answered(&format!("adopting cluster {}", args.cluster_id), control.adopt(request)).await
    })?;
    match global.output {
        Format::Text => output::line(&done.message)?,
        Format::Json => output::json(&serde_json::json!({"message": done.message}))?,
    }
    Ok(ExitCode::SUCCESS)
}
