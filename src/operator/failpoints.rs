//! The operator's door to failpoints, for tests with a real Kubernetes: in builds with debug assertions only.
//!
//! ```text
//! PUT    /failpoints/NAMESPACE/PARTITION/PLACE/DEED   arms one in this replica: before-decide/exit
//! GET    /failpoints/NAMESPACE/PARTITION              idle, armed, or held
//! DELETE /failpoints/NAMESPACE/PARTITION              lets go whoever is held, and forgets what is armed
//! ```

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};

use super::cache::Key;
use super::drivers::Drivers;
use crate::drive::failpoint;

type Answer = (StatusCode, String);

/// The routes.
pub(super) fn routes(drivers: Arc<Drivers>) -> Router {
    Router::new()
        .route("/failpoints/{namespace}/{partition}", get(state).delete(release))
        .route("/failpoints/{namespace}/{partition}/{place}/{deed}", put(arm))
        .with_state(drivers)
}

async fn arm(
    State(drivers): State<Arc<Drivers>>,
    Path((namespace, partition, place, deed)): Path<(String, String, String, String)>,
) -> Answer {
    let (place, deed) = match (place.parse(), deed.parse()) {
        (Ok(place), Ok(deed)) => (place, deed),
        (Err(why), _) | (_, Err(why)) => return (StatusCode::BAD_REQUEST, why),
    };
    with(&drivers, namespace, partition, |points| points.arm(place, deed))
}

async fn release(State(drivers): State<Arc<Drivers>>, Path((namespace, partition)): Path<(String, String)>) -> Answer {
    with(&drivers, namespace, partition, failpoint::Failpoints::release)
}

async fn state(State(drivers): State<Arc<Drivers>>, Path((namespace, partition)): Path<(String, String)>) -> Answer {
    with(&drivers, namespace, partition, |_| {})
}

/// The state after `deed`.
fn with(drivers: &Drivers, namespace: String, partition: String, deed: impl FnOnce(&failpoint::Failpoints)) -> Answer {
    let Some(driver) = drivers.driver(&Key::new(namespace, partition)) else {
        return (StatusCode::NOT_FOUND, "that partition is not driven here".to_owned());
    };
    deed(driver.failpoints());
    let state = match driver.failpoints().state() {
        failpoint::State::Idle => "idle",
        failpoint::State::Armed(..) => "armed",
        failpoint::State::Held(_) => "held",
    };
    (StatusCode::OK, state.to_owned())
}
