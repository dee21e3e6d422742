//! `armdb operator`: the clusters that `ArmdbCluster` objects ask for, on Kubernetes.
//!
//! ```text
//!   API server --watch--> cache --> controller --> dereference > validate > plan > build > apply > act > tell
//!       ^                   |       (the replica that holds the lease)                                  |
//!       |                   '--> drivers: one a partition, in every replica <--health streams-- members |
//!       '---- register (compare and swap), role labels ----'                                            |
//!       '---------------------------------- objects, status -------------------------------------------'
//! ```
//! Owns everything between the custom resources and the members' processes; decisions about leadership and voters are
//! topology's, carried out by [`crate::drive`].
//!
//! Invariants: failover needs neither the lease nor a readable `ArmdbCluster`; whatever is written carries the version
//! it was decided from; an idle cluster causes no write; an object that makes no sense harms nobody but itself; what
//! the spec may not do to data, no code path here does: volumes are deleted by uid, and only after the register no
//! longer counts on them.

mod act;
mod apply;
pub mod build;
mod cache;
mod certificates;
pub(crate) mod client;
mod context;
mod controller;
mod dereference;
mod drivers;
mod events;
pub mod facts;
#[cfg(debug_assertions)]
mod failpoints;
mod http;
pub mod kinds;
mod labels;
mod lease;
mod members;
mod memory;
mod metrics;
pub mod names;
mod plan;
mod queue;
mod reconcile;
mod register;
pub mod requests;
pub mod roles;
pub mod rollout;
pub mod scale;
pub mod status;
mod tell;
#[cfg(test)]
mod tests;
pub mod validate;

use std::sync::Arc;
use std::time::Duration;

use kube::Config;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::cache::{Cache, Key, WATCHED};
use self::client::Kube;
use self::context::Context;
use self::drivers::Drivers;
use self::events::Events;
use self::metrics::Metrics;
use crate::net::listen;

/// An API server that takes longer is asked again.
const REQUEST: Duration = Duration::from_secs(10);
/// For what is under way when the operator is told to stop.
const STOP: Duration = Duration::from_secs(8);

/// How to run the operator.
#[derive(Debug, Clone)]
pub struct Options {
    /// This replica: the name of its pod.
    pub identity: String,
    /// The namespace of its lease; None: where it runs.
    pub namespace: Option<String>,
    /// Name of the lease.
    pub lease: String,
    /// Only these namespaces are looked after; empty: all.
    pub watch_namespaces: Vec<String>,
    /// Where probes and metrics are served, `host:port`.
    pub http: String,
}

/// Why the operator does not run.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// It is not known how to reach an API server.
    #[error("no way to a Kubernetes API server is known: {0}; run in a pod with a ServiceAccount, or set KUBECONFIG")]
    NoConfig(#[source] kube::config::InferConfigError),
    /// The way cannot be used.
    #[error("the way to the API server cannot be used: {0}")]
    Client(#[source] kube::Error),
    /// Its port cannot be listened on.
    #[error("cannot listen on {address}: {source}; give another one with --http")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// Runs until `stop` resolves.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), OperatorError> {
    let config = Config::infer().await.map_err(OperatorError::NoConfig)?;
    let listener = listen::bind(&options.http)
        .await
        .map_err(|source| OperatorError::Listen { address: options.http.clone(), source })?;
    let metrics = Arc::new(Metrics::default());
    let connect = || Kube::connect(&config).map_err(OperatorError::Client);
    // Registers, and the lease, have connections of their own: nothing else can be in their way.
    let urgent = Kube::new(connect()?, REQUEST, Arc::clone(&metrics));
    let kube = Kube::new(connect()?, REQUEST, Arc::clone(&metrics));
    let watches = connect()?;

    let (to_controller, for_controller) = mpsc::unbounded_channel();
    let (to_drivers, for_drivers) = mpsc::unbounded_channel();
    let cache = {
        let (to_controller, to_drivers) = (to_controller.clone(), to_drivers);
        Arc::new(Cache::new(move |kind, cluster: Key| {
            use kinds::Kind;
            if matches!(kind, Kind::Cluster | Kind::Partition | Kind::Pod) {
                // Closed only while the operator stops.
                let _ = to_drivers.send(cluster.clone());
            }
            let _ = to_controller.send(cluster);
        }))
    };
    let tasks = TaskTracker::new();
    let ending = CancellationToken::new();
    let scopes: Vec<Option<String>> = match &options.watch_namespaces[..] {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    };
    for kind in WATCHED {
        for scope in &scopes {
            cache.expect(kind, scope.as_deref());
            tasks.spawn(Arc::clone(&cache).keep(watches.clone(), kind, scope.clone(), ending.clone()));
        }
    }
    let (events, publishing) = Events::new(kube.clone(), options.identity.clone());
    tokio::spawn(publishing);
    let parts = drivers::Parts {
        identity: options.identity.clone(),
        kube: urgent.clone(),
        cache: Arc::clone(&cache),
        events: events.clone(),
        metrics: Arc::clone(&metrics),
        changed: to_controller,
    };
    let drivers = Drivers::new(parts, &tasks, &ending);
    let (holding, holds) = watch::channel(false);
    let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let lease = Key::new(namespace, &options.lease);
    tasks.spawn(lease::run(urgent, lease, options.identity.clone(), holding, ending.clone()));
    tasks.spawn(Arc::clone(&drivers).run(for_drivers, holds.clone()));
    let served = http::routes(Arc::clone(&cache), metrics.registry());
    #[cfg(debug_assertions)]
    let served = served.merge(failpoints::routes(Arc::clone(&drivers)));
    let serving = tokio::spawn(async move { axum::serve(listener, served).await });
    let context = Arc::new(Context { kube, cache, drivers, events, metrics });
    tasks.spawn(controller::run(context, for_controller, holds, ending.clone()));
    tasks.close();
    tracing::info!(identity = options.identity, http = options.http, "the operator runs");

    stop.await;
    tracing::info!("stopping");
    ending.cancel();
    if tokio::time::timeout(STOP, tasks.wait()).await.is_err() {
        tracing::warn!("what is still under way is left behind");
    }
    serving.abort();
    Ok(())
}
