//! What looking after clusters is done with.

use std::sync::Arc;

use super::cache::Cache;
use super::client::Kube;
use super::drivers::Drivers;
use super::events::Events;
use super::metrics::Metrics;

/// Shared by all clusters.
#[derive(Debug)]
pub struct Context {
    /// The way to the API server.
    pub kube: Kube,
    /// What it has.
    pub cache: Arc<Cache>,
    /// The drivers of this replica.
    pub drivers: Arc<Drivers>,
    /// Where happenings are told.
    pub events: Events,
    /// Counted here.
    pub metrics: Arc<Metrics>,
}
