//! `armdb recover`, `armdb set-aside`: what is left to do when most volumes are lost.
//!
//! Neither is ever done by itself, and neither runs twice: each names what it gives up.

use std::process::ExitCode;

use super::switchover::{answered, supervisor};
use super::{Failure, Format, Global, block_on, output};
use crate::ident::{ClusterId, Sid};
use crate::net::proto::{RecoverClusterRequest, SetAsideMemberRequest};

/// Make one member's data the truth when a majority of the volumes is lost; what else was acknowledged is lost
///
/// Use it only when the others are lost for ever: whatever was acknowledged and is not on this member is gone, and
/// members that come back later are refused until their data is set aside (armdb set-aside). A leader that still
/// runs somewhere out of reach is not stopped by this: make sure that there is none. Refused while enough members
/// answer to go on without losing anything.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The member whose data becomes the truth
    #[arg(long, value_name = "MEMBER")]
    from: String,
    /// The id of the cluster, as armdb status tells it: so that it is the cluster you mean
    #[arg(long, value_name = "CLUSTER_ID")]
    cluster_id: ClusterId,
    /// You know that acknowledged writes may be lost, and accept it
    #[arg(long)]
    accept_data_loss: bool,
}

/// Asks the supervisor and waits until the survivor leads.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    if !args.accept_data_loss {
        return Err(not_accepted(&args.from));
    }
    let done = block_on(async {
        let mut control = supervisor(global).await?;
        let request = RecoverClusterRequest {
            cluster_id: args.cluster_id.to_string(),
            from: args.from.clone(),
            accept_data_loss: true,
        };
        answered(&format!("recovering from {}", args.from), control.recover(request)).await
    })?;
    tell(global, &done.message)
}

/// Rename a member's data aside after an unsafe recovery, so that it joins anew with an empty directory
#[derive(Debug, clap::Args)]
pub struct SetAsideArgs {
    /// The member
    #[arg(value_name = "MEMBER")]
    member: String,
    /// The storage it holds, as armdb status tells it: so that it is the data you mean
    #[arg(long, value_name = "STORAGE_ID")]
    sid: Sid,
}

/// Asks the supervisor and waits until the member holds new storage.
pub fn set_aside(args: SetAsideArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let done = block_on(async {
        let mut control = supervisor(global).await?;
        let request = SetAsideMemberRequest { member: args.member.clone(), sid: args.sid.to_string() };
        answered(&format!("setting the data of {} aside", args.member), control.set_aside(request)).await
    })?;
    tell(global, &done.message)
}

/// The consequence was not accepted.
pub(super) fn not_accepted(from: &str) -> anyhow::Error {
    Failure::usage(format!(
        "whatever was acknowledged and {from} does not hold would be lost for ever; nothing was done"
    ))
    .remedy("if the other volumes cannot be brought back, say so with --accept-data-loss")
    .into()
}

fn tell(global: &Global, message: &str) -> anyhow::Result<ExitCode> {
    match global.output {
        Format::Text => output::line(message)?,
        Format::Json => output::json(&serde_json::json!({"message": message}))?,
    }
    Ok(ExitCode::SUCCESS)
}
