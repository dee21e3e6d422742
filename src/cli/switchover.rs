//! `armdb switchover`: moves the lead to another member, as planned: no write is lost, no request fails.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tonic::transport::Channel;

use super::{Failure, Format, Global, block_on, endpoints, output};
use crate::local::control;
use crate::net::proto::SwitchoverRequest;
use crate::net::proto::local_client::LocalClient;

/// Longer than the supervisor itself waits, so that its explanation arrives.
pub(super) const CONTROL_TIMEOUT: Duration = Duration::from_secs(40);

/// Move the lead of the local cluster to another member
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The member that shall lead, or any
    #[arg(value_name = "MEMBER", default_value = "any")]
    target: String,
}

/// Asks the supervisor and waits until the new leader serves.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let done = block_on(async {
        let mut control = supervisor(global).await?;
        let request = SwitchoverRequest { target: args.target.clone() };
        answered(&format!("moving the lead to {}", args.target), control.switchover(request)).await
    })?;
    match global.output {
        Format::Text => {
            output::line(&format!("{} leads epoch {} ({} ms)", done.leader, done.epoch, done.duration_ms))?;
        }
        Format::Json => output::json(&serde_json::json!({
            "leader": done.leader, "epoch": done.epoch, "durationMillis": done.duration_ms,
        }))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Connects to the `armdb local` that runs the cluster.
pub(super) async fn supervisor(global: &Global) -> anyhow::Result<LocalClient<Channel>> {
    let (dir, _) = endpoints::local(global)?.ok_or_else(|| {
        Failure::usage("the members named by --endpoints are not of the local cluster in --dir")
            .remedy("this command speaks to armdb local: give its --dir")
    })?;
    connect(&dir).await
}

/// Connects to the supervisor of the cluster in `dir`.
pub(super) async fn connect(dir: &Path) -> anyhow::Result<LocalClient<Channel>> {
    control::connect(dir).await.map_err(|error| Failure::unreachable(error.to_string()).into())
}

/// Waits for a control call.
pub(super) async fn answered<T>(
    what: &str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(CONTROL_TIMEOUT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) if status.code() == tonic::Code::NotFound => {
            Err(Failure::usage(format!("{what}: {}", status.message())).into())
        }
        Ok(Err(status)) => {
            Err(Failure::new(format!("{what}: {}", status.message())).remedy("armdb status shows the members").into())
        }
        Err(_) => Err(Failure::unreachable(format!("{what}: armdb local does not answer")).into()),
    }
}
