//! What clusters cost that nobody uses.

use std::time::Duration;

use serde_json::json;

use crate::support::audit;
use crate::support::case_alone;
use crate::support::operator::{Cluster, NAMESPACE, operator};

/// Long enough that whatever is written every so often is seen.
const QUIET: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn five_clusters_become_ready_at_once_and_cause_no_write_request_while_idle() {
    case_alone("idle", async |namespace| {
        operator().await;
        let mut clusters = Vec::new();
        for name in ["a", "b", "c", "d", "e"] {
            clusters.push(Cluster::apply(namespace, name, json!({})).await);
        }
        for cluster in &clusters {
            cluster.ready().await;
        }
        // A status may be told once more when the last number has settled.
        tokio::time::sleep(QUIET / 4).await;
        let mark = audit::mark();
        tokio::time::sleep(QUIET).await;
        let mut writes = audit::writes_since(mark, NAMESPACE);
        // Namespaces of earlier cases may still be going.
        writes.retain(|write| [namespace, NAMESPACE].iter().any(|here| write.contains(&format!(" {here}/"))));
        assert!(writes.is_empty(), "{} writes in {} s: {writes:#?}", writes.len(), QUIET.as_secs());
    })
    .await;
}
