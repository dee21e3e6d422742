//! What `/metrics` of the operator shows.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::cache::Key;
use super::client::ErrorKind;
use crate::api::ArmdbClusterStatus;

type Labels = Vec<(&'static str, String)>;

/// Counters and gauges of this replica.
#[derive(Debug)]
pub struct Metrics {
    reconcile_seconds: Histogram,
    reconcile_failures: Family<Labels, Counter>,
    api_errors: Family<Labels, Counter>,
    writes: Family<Labels, Counter>,
    notices: Family<Labels, Counter>,
    conditions: Family<Labels, Gauge>,
    acting: Gauge<i64, AtomicI64>,
    drivers: Gauge<i64, AtomicI64>,
    /// Clusters whose conditions are shown.
    shown: Mutex<Vec<Key>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconcile_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            reconcile_failures: Family::default(),
            api_errors: Family::default(),
            writes: Family::default(),
            notices: Family::default(),
            conditions: Family::default(),
            acting: Gauge::default(),
            drivers: Gauge::default(),
            shown: Mutex::default(),
        }
    }
}

impl Metrics {
    /// As a scraper finds them.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("armdb_operator");
        registry.register("reconcile_seconds", "How long looking after a cluster took", self.reconcile_seconds.clone());
        registry.register(
            "reconcile_failures",
            "Looks after a cluster that failed and are repeated, by what was met",
            self.reconcile_failures.clone(),
        );
        registry.register("api_errors", "Requests to the API server that failed", self.api_errors.clone());
        registry.register("writes", "Objects created, replaced, patched and deleted", self.writes.clone());
        registry.register("notices", "What controllers told, by reason", self.notices.clone());
        registry.register("cluster_condition", "1 where a condition has this status", self.conditions.clone());
        registry.register("acting", "1 while this replica holds the lease", self.acting.clone());
        registry.register("drivers", "Partitions whose failover this replica drives", self.drivers.clone());
        registry
    }

    pub(super) fn reconciled(&self, took: Duration) {
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn reconcile_failed(&self, why: &'static str) {
        self.reconcile_failures.get_or_create(&vec![("why", why.to_owned())]).inc();
    }

    pub(super) fn api_error(&self, kind: ErrorKind) {
        self.api_errors.get_or_create(&vec![("kind", kind.word().to_owned())]).inc();
    }

    pub(super) fn wrote(&self, kind: &'static str, verb: &'static str) {
        self.writes.get_or_create(&vec![("kind", kind.to_owned()), ("verb", verb.to_owned())]).inc();
    }

    pub(super) fn noticed(&self, reason: &'static str) {
        self.notices.get_or_create(&vec![("reason", reason.to_owned())]).inc();
    }

    pub(super) fn acting(&self, acting: bool) {
        self.acting.set(i64::from(acting));
        if !acting {
            // Whoever acts tells the conditions: two that told them would differ.
            self.conditions.clear();
            self.shown.lock().clear();
        }
    }

    pub(super) fn drivers(&self, count: usize) {
        self.drivers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Shows the conditions of a cluster.
    pub(super) fn conditions(&self, cluster: &Key, status: &ArmdbClusterStatus) {
        let mut shown = self.shown.lock();
        if !shown.contains(cluster) {
            shown.push(cluster.clone());
        }
        for condition in &status.conditions {
            for word in ["True", "False", "Unknown"] {
                let labels = condition_labels(cluster, &condition.type_, word);
                self.conditions.get_or_create(&labels).set(i64::from(condition.status == word));
            }
        }
    }

    /// A cluster that is gone is shown no more.
    pub(super) fn forget(&self, cluster: &Key) {
        let mut shown = self.shown.lock();
        if !shown.contains(cluster) {
            return;
        }
        shown.retain(|known| known != cluster);
        for kind in crate::api::status::condition::ALL {
            for word in ["True", "False", "Unknown"] {
                self.conditions.remove(&condition_labels(cluster, kind, word));
            }
        }
    }
}

fn condition_labels(cluster: &Key, kind: &str, status: &str) -> Labels {
    vec![
        ("namespace", cluster.namespace.clone()),
        ("cluster", cluster.name.clone()),
        ("type", kind.to_owned()),
        ("status", status.to_owned()),
    ]
}
