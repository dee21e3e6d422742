//! The operator's HTTP port: `/livez`, `/readyz`, `/metrics`.
//!
//! Ready means that everything was listed once: definitions that are not installed yet are waited for and named here,
//! never a reason to end. Alive means that the process answers; a replica that stands by is as ready as one that acts.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;

use super::cache::Cache;
use crate::node::http::exposition;

struct Served {
    cache: Arc<Cache>,
    registry: Registry,
}

/// The routes of the port.
pub(super) fn routes(cache: Arc<Cache>, registry: Registry) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(Served { cache, registry }))
}

async fn ready(State(served): State<Arc<Served>>) -> Response {
    let missing = served.cache.missing();
    if missing.is_empty() {
        return (StatusCode::OK, "everything was listed\n").into_response();
    }
    let text = format!(
        "not listed yet: {}; are the definitions installed, and may this ServiceAccount list them?\n",
        missing.join(", ")
    );
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics(State(served): State<Arc<Served>>) -> Response {
    exposition(&served.registry)
}
