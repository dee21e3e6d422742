//! `kubectl armdb`: this binary under the name `kubectl-armdb`, for people with a kubeconfig.
//!
//! Reads the status that the operator wrote and asks by annotation: the right to read and patch an `ArmdbCluster` is all
//! that is needed, and what is asked for is done by the operator or not at all.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Config;
use kube::config::KubeConfigOptions;
use kube::core::DynamicObject;
use serde_json::json;

use super::{Failure, Format, Global, block_on, output, status};
use crate::api::names::annotation;
use crate::api::{ArmdbClusterStatus, PartitionState};
use crate::ident::AttemptId;
use crate::operator::client::{ErrorKind, Kube, KubeError};
use crate::operator::kinds::Kind;

/// An API server that takes longer does not answer.
const REQUEST: Duration = Duration::from_secs(10);
/// Between two looks at whether a request was carried out.
const LOOK: Duration = Duration::from_millis(500);

/// Clusters on Kubernetes: also as kubectl armdb, when this binary is on the path as kubectl-armdb
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Namespace of the cluster. Without it: that of the context
    #[arg(short, long, value_name = "NAMESPACE", global = true)]
    namespace: Option<String>,

    /// Context of the kubeconfig. Without it: the current one
    #[arg(long, value_name = "NAME", global = true)]
    context: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print who leads, how far everybody is, and what is amiss
    Status {
        /// Name of the ArmdbCluster
        cluster: String,
    },
    /// Move the lead to another member, as planned: no write is lost, no request fails
    Promote {
        /// Name of the ArmdbCluster
        cluster: String,
        /// The member that shall lead, or any
        #[arg(default_value = "any")]
        member: String,
        /// How long to wait for it
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait_seconds: u32,
    },
}

struct Cluster {
    kube: Kube,
    namespace: String,
    name: String,
}

/// Runs one of its commands.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    block_on(async {
        let options = KubeConfigOptions { context: args.context, ..KubeConfigOptions::default() };
        let config = Config::from_kubeconfig(&options).await.map_err(|error| {
            Failure::usage(format!("the kubeconfig cannot be used: {error}"))
                .remedy("set KUBECONFIG, or give --context; kubectl config get-contexts lists them")
        })?;
        let namespace = args.namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Kube::connect(&config).context(Failure::usage("the way to the API server cannot be used"))?;
        let kube = Kube::new(client, REQUEST, Arc::default());
        match args.command {
            Command::Status { cluster } => Cluster { kube, namespace, name: cluster }.status(global).await,
            Command::Promote { cluster, member, wait_seconds } => {
                let wait = Duration::from_secs(u64::from(wait_seconds));
                Cluster { kube, namespace, name: cluster }.promote(&member, wait, global).await
            }
        }
    })
}

fn explain(error: KubeError) -> anyhow::Error {
    match error.kind {
        ErrorKind::Unreachable => Failure::unreachable(error.to_string()).into(),
        ErrorKind::Forbidden => Failure::new(error.to_string())
            .remedy("the cluster role edit holds the rights for ArmdbClusters, view those to look")
            .into(),
        _ => Failure::new(error.to_string()).into(),
    }
}

impl Cluster {
    async fn read(&self) -> anyhow::Result<DynamicObject> {
        let object = self.kube.get(Kind::Cluster, &self.namespace, &self.name).await.map_err(explain)?;
        object.ok_or_else(|| {
            Failure::usage(format!("there is no ArmdbCluster {}/{}", self.namespace, self.name))
                .remedy("kubectl get armdb --all-namespaces lists them")
                .into()
        })
    }

    async fn status(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let status = status_of(&self.read().await?)?;
        match global.output {
            Format::Json => output::json(&status)?,
            Format::Text => {
                let mut text = status::text(&self.name, &status, &BTreeMap::new());
                text.push_str(&status::amiss(&status));
                output::write(text.as_bytes())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn promote(&self, member: &str, wait: Duration, global: &Global) -> anyhow::Result<ExitCode> {
        let before = self.read().await?;
        let id = &AttemptId::random().to_string()[..12];
        let request = format!("{member}@{id}");
        let body = json!({"metadata": {
            "resourceVersion": before.metadata.resource_version,
            "annotations": {annotation::SWITCHOVER: request},
        }});
        self.kube.merge(Kind::Cluster, &self.namespace, &self.name, &body).await.map_err(explain)?;
        let answered = tokio::time::timeout(wait, self.answer(id)).await;
        let Ok(status) = answered else {
            let text = format!("the operator did not say within {} s what became of {request}", wait.as_secs());
            let remedy = "it may still be done; kubectl describe armdb shows events, and whether an operator runs";
            return Err(Failure::unreachable(text).remedy(remedy).into());
        };
        let status = status?;
        let outcome = status.last_request.as_ref().map(|request| request.outcome.clone()).unwrap_or_default();
        let leads = |partition: &&crate::api::PartitionStatus| {
            partition.state == PartitionState::Available
                && (member == "any" || partition.leader.as_deref() == Some(member))
        };
        let led = status.partitions.iter().find(leads).filter(|_| !outcome.starts_with("not done"));
        match global.output {
            Format::Json => output::json(&status.last_request)?,
            Format::Text => output::line(&outcome)?,
        }
        Ok(if led.is_some() { ExitCode::SUCCESS } else { ExitCode::from(super::failure::EXIT_FAILURE) })
    }

    /// The status that says what became of the request.
    async fn answer(&self, id: &str) -> anyhow::Result<ArmdbClusterStatus> {
        loop {
            let status = status_of(&self.read().await?)?;
            if status.last_request.as_ref().is_some_and(|request| request.id == id) {
                return Ok(status);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn status_of(cluster: &DynamicObject) -> anyhow::Result<ArmdbClusterStatus> {
    let value = cluster.data.get("status").cloned().unwrap_or_else(|| json!({}));
    serde_json::from_value(value)
        .context(Failure::new("the status is not understood").remedy("use the binary of the operator's version"))
}
