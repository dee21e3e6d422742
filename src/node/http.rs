//! The HTTP port: `/metrics`, `/livez`, `/readyz`. Up before the data is open, because recovery may take long
//! and a probe must be able to see that this process lives.

use std::sync::{Arc, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;

use super::health::{self, Verdict};
use super::replica::Replica;

/// How far the process is.
#[derive(Clone, Default)]
enum Phase {
    /// Opening its data.
    #[default]
    Starting,
    /// Open.
    Running(Arc<dyn Replica>),
    /// On its way out.
    Stopping,
}

/// Where the process stands; the HTTP port asks, `run` tells.
#[derive(Default)]
pub(crate) struct Lifecycle(RwLock<Phase>);

impl Lifecycle {
    fn set(&self, phase: Phase) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = phase;
    }

    fn phase(&self) -> Phase {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(crate) fn running(&self, replica: Arc<dyn Replica>) {
        self.set(Phase::Running(replica));
    }

    pub(crate) fn stopping(&self) {
        self.set(Phase::Stopping);
    }

    pub(crate) fn replica(&self) -> Option<Arc<dyn Replica>> {
        match self.phase() {
            Phase::Running(replica) => Some(replica),
            Phase::Starting | Phase::Stopping => None,
        }
    }

    pub(crate) fn live(&self) -> Verdict {
        match self.phase() {
            Phase::Starting => Verdict::yes("opening its data"),
            Phase::Running(replica) => health::live(&*replica),
            Phase::Stopping => Verdict::yes("stopping"),
        }
    }

    pub(crate) fn ready(&self) -> Verdict {
        match self.phase() {
            Phase::Starting => Verdict::no("it is opening its data"),
            Phase::Running(replica) => health::ready(&*replica),
            Phase::Stopping => Verdict::no("it is stopping"),
        }
    }
}

struct Served {
    lifecycle: Arc<Lifecycle>,
    registry: Registry,
}

/// The routes of the port.
pub(crate) fn routes(lifecycle: Arc<Lifecycle>, registry: Registry) -> Router {
    let served = Arc::new(Served { lifecycle, registry });
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|State(served): State<Arc<Served>>| async move { answer(served.lifecycle.live()) }))
        .route("/readyz", get(|State(served): State<Arc<Served>>| async move { answer(served.lifecycle.ready()) }))
        .with_state(served)
}

fn answer(verdict: Verdict) -> Response {
    let status = if verdict.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, format!("{}\n", verdict.reason)).into_response()
}

async fn metrics(State(served): State<Arc<Served>>) -> Response {
    exposition(&served.registry)
}

/// The answer to a scrape.
pub(crate) fn exposition(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("encoding the metrics: {error}\n")).into_response(),
    }
}
