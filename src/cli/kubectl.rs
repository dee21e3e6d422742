//! `kubectl armdb`: this binary under the name `kubectl-armdb`, for people with a kubeconfig.
//!
//! Reads the status that the operator wrote and asks by annotation: the right to read and patch an `ArmdbCluster` is all
//! that is needed, and what is asked for is done by the operator or not at all.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kube::Config;
use kube::config::KubeConfigOptions;
use kube::core::DynamicObject;
use serde_json::json;

use super::{Failure, Format, Global, block_on, output, status};
use crate::api::names::annotation;
use crate::api::{ArmdbClusterStatus, PartitionState, PartitionStatus};
use crate::ident::{AttemptId, ClusterId, Sid};
use crate::operator::client::{ErrorKind, Kube, KubeError};
use crate::operator::kinds::Kind;
use crate::operator::requests;

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
    /// Make one member's data the truth when a majority of the volumes is lost; what else was acknowledged is lost
    ///
    /// Members that come back later are refused until their data is set aside. A leader that still runs somewhere
    /// out of reach is not stopped by this. Refused while enough members answer to go on without losing anything.
    Recover {
        /// Name of the ArmdbCluster
        cluster: String,
        /// The member whose data becomes the truth
        #[arg(long, value_name = "MEMBER")]
        from: String,
        /// The id of the cluster, as its status tells it: so that it is the cluster you mean
        #[arg(long, value_name = "CLUSTER_ID")]
        cluster_id: ClusterId,
        /// You know that acknowledged writes may be lost, and accept it
        #[arg(long)]
        accept_data_loss: bool,
    },
    /// Rename a member's data aside after an unsafe recovery, so that it joins anew with an empty directory
    SetAside {
        /// Name of the ArmdbCluster
        cluster: String,
        /// The member
        member: String,
        /// The storage it holds, as the status tells it: so that it is the data you mean
        #[arg(long, value_name = "STORAGE_ID")]
        sid: Sid,
    },
}

/// How long the operator may take for what is not a switchover.
const REQUESTED: Duration = Duration::from_secs(120);

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
            Command::Recover { from, accept_data_loss: false, .. } => Err(super::recover::not_accepted(&from)),
            Command::Recover { cluster, from, cluster_id, accept_data_loss: true } => {
                let cluster = Cluster { kube, namespace, name: cluster };
                cluster.ask_once(annotation::RECOVER, &format!("{from}@{cluster_id}"), global).await
            }
            Command::SetAside { cluster, member, sid } => {
                let cluster = Cluster { kube, namespace, name: cluster };
                cluster.ask_once(annotation::SET_ASIDE, &format!("{member}@{sid}"), global).await
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

    /// Asks by annotation; the status that says what became of it.
    async fn request(&self, annotation: &str, what: &str, wait: Duration) -> anyhow::Result<ArmdbClusterStatus> {
        let before = self.read().await?;
        let id = &AttemptId::random().to_string()[..12];
        let request = format!("{what}@{id}");
        let body = json!({"metadata": {
            "resourceVersion": before.metadata.resource_version,
            "annotations": {annotation: request},
        }});
        self.kube.merge(Kind::Cluster, &self.namespace, &self.name, &body).await.map_err(explain)?;
        tokio::time::timeout(wait, self.answer(id)).await.unwrap_or_else(|_| {
            let text = format!("the operator did not say within {} s what became of {request}", wait.as_secs());
            let remedy = "it may still be done; kubectl describe armdb shows events, and whether an operator runs";
            Err(Failure::unreachable(text).remedy(remedy).into())
        })
    }

    /// Asks by annotation for what is told by its outcome alone.
    async fn ask_once(&self, annotation: &str, what: &str, global: &Global) -> anyhow::Result<ExitCode> {
        let status = self.request(annotation, what, REQUESTED).await?;
        let outcome = status.last_request.as_ref().map(|request| request.outcome.clone()).unwrap_or_default();
        match global.output {
            Format::Json => output::json(&status.last_request)?,
            Format::Text => output::line(&outcome)?,
        }
        Ok(if requests::is_done(&outcome) { ExitCode::SUCCESS } else { ExitCode::from(super::failure::EXIT_FAILURE) })
    }

    async fn promote(&self, member: &str, wait: Duration, global: &Global) -> anyhow::Result<ExitCode> {
        let until = Instant::now() + wait;
        let mut status = self.request(annotation::SWITCHOVER, member, wait).await?;
        let request = status.last_request.clone();
        let outcome = request.as_ref().map(|request| request.outcome.clone()).unwrap_or_default();
        let mut moved = Moved::of(&outcome, &status, member);
        while moved == Moved::Decided && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            status = status_of(&self.read().await?)?;
            moved = Moved::of(&outcome, &status, member);
        }
        match global.output {
            Format::Json => output::json(&request)?,
            Format::Text => output::line(&outcome)?,
        }
        match moved {
            Moved::Serves => Ok(ExitCode::SUCCESS),
            Moved::Not => Ok(ExitCode::from(super::failure::EXIT_FAILURE)),
            Moved::Decided => {
                let text = format!("it does not serve {} s after it was asked for", wait.as_secs());
                Err(Failure::new(text).remedy("kubectl armdb status says what it waits for").into())
            }
        }
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

/// How far a switchover is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    /// It was not done, or somebody else leads.
    Not,
    /// That is told as soon as the register says it; the leader serves a moment later.
    Decided,
    /// Who was asked for serves.
    Serves,
}

impl Moved {
    fn of(outcome: &str, status: &ArmdbClusterStatus, member: &str) -> Self {
        let serves = |partition: &PartitionStatus| partition.state == PartitionState::Available;
        let leads = |partition: &PartitionStatus| member == "any" || partition.leader.as_deref() == Some(member);
        if !requests::is_done(outcome) {
            Self::Not
        } else if status.partitions.iter().any(|partition| serves(partition) && leads(partition)) {
            Self::Serves
        } else if !status.partitions.is_empty() && status.partitions.iter().all(serves) {
            Self::Not
        } else {
            Self::Decided
        }
    }
}

fn status_of(cluster: &DynamicObject) -> anyhow::Result<ArmdbClusterStatus> {
    let value = cluster.data.get("status").cloned().unwrap_or_else(|| json!({}));
    serde_json::from_value(value)
        .context(Failure::new("the status is not understood").remedy("use the binary of the operator's version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switchover_is_done_once_who_was_asked_for_serves_and_not_before() {
        let status = |leader: &str, state| {
            let partition = PartitionStatus { leader: Some(leader.into()), state, ..PartitionStatus::default() };
            ArmdbClusterStatus { partitions: vec![partition], ..ArmdbClusterStatus::default() }
        };
        let (told, available) = ("kv-0-0 leads epoch 4", PartitionState::Available);
        assert_eq!(Moved::of(told, &status("kv-0-0", available), "kv-0-0"), Moved::Serves);
        for state in [PartitionState::Transitioning, PartitionState::NoQuorum, PartitionState::Unknown] {
            assert_eq!(Moved::of(told, &status("kv-0-0", state), "kv-0-0"), Moved::Decided, "{state:?}");
            assert_eq!(Moved::of(told, &status("kv-0-0", state), "any"), Moved::Decided, "{state:?}");
        }
        let instead = "the member that was asked for could not take over in time; kv-0-2 leads epoch 4";
        assert_eq!(Moved::of(instead, &status("kv-0-2", available), "kv-0-0"), Moved::Not);
        assert_eq!(Moved::of(instead, &status("kv-0-2", available), "any"), Moved::Serves);
        assert_eq!(Moved::of("not done: it lags", &status("kv-0-0", available), "kv-0-0"), Moved::Not);
    }
}
