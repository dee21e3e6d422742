//! Keeps the role labels of a partition's pods as the register says, and tells the controller when a picture changed.
//!
//! Whoever won a change of leadership writes at once, everybody else repairs after 500 ms times its rank; each label is
//! written with the resource version of the pod that it was decided from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cache::{Cache, Key};
use super::client::{ErrorKind, Kube};
use super::facts::PodFacts;
use super::kinds::Kind;
use super::names;
use super::roles::{RolePatch, role_patches};
use crate::api::names::{annotation, label};
use crate::drive::Driver;
use crate::topology::view::{MemberRole, MemberState, PartitionState, PartitionView};

/// Between two looks: health reports come ten times a second and member, labels need not be looked at for each.
const LOOK: Duration = Duration::from_millis(50);
/// For each rank, so much later.
const PER_RANK: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Labeller {
    pub kube: Kube,
    pub cache: Arc<Cache>,
    pub driver: Driver,
    pub rank: Arc<AtomicU32>,
    pub namespace: String,
    pub cluster: String,
    pub partition: i32,
    pub changed: mpsc::UnboundedSender<Key>,
}

/// What of a picture is worth telling.
#[derive(Debug, PartialEq)]
struct Gist {
    state: PartitionState,
    epoch: u64,
    leader: Option<String>,
    quorum_safe: bool,
    change: Option<&'static str>,
    members: Vec<(MemberRole, MemberState, bool)>,
    conditions: Vec<&'static str>,
    request: Option<String>,
}

impl Gist {
    fn of(view: &PartitionView) -> Self {
        Self {
            state: view.state,
            epoch: view.epoch,
            leader: view.leader.clone(),
            quorum_safe: view.quorum_safe,
            change: view.change.as_ref().map(|change| change.reason),
            members: view.members.iter().map(|m| (m.role, m.state, m.lag_known)).collect(),
            conditions: view.conditions.iter().map(|condition| condition.kind).collect(),
            request: view.last_request.as_ref().map(|request| request.id.clone()),
        }
    }
}

/// The pods of a partition.
pub(super) fn pods_of(cache: &Cache, namespace: &str, cluster: &str, partition: i32) -> Vec<PodFacts> {
    let pods = cache.of_cluster(Kind::Pod, &Key::new(namespace, cluster));
    let pods = pods.iter().map(|pod| PodFacts::of(pod));
    pods.filter(|pod| names::ordinal(cluster, partition, &pod.name).is_some()).collect()
}

impl Labeller {
    /// Until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        let mut steps = self.driver.steps();
        let mut told = None;
        let mut seen = None;
        let mut wrong_since: Option<Instant> = None;
        // Pods as they were when they were written last: until the watch says so, they look unwritten.
        let mut written: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let view = self.driver.view();
            let gist = Gist::of(&view);
            let moved = told.as_ref() != Some(&gist);
            if moved {
                told = Some(gist);
                // Closed only while the operator stops.
                let _ = self.changed.send(Key::new(&self.namespace, &self.cluster));
            }
            let revision = Some(self.cache.revision());
            if !moved && seen == revision && wrong_since.is_none() {
                tokio::time::sleep(LOOK).await;
                if steps.changed().await.is_err() {
                    return;
                }
                continue;
            }
            seen = revision;
            let pods = pods_of(&self.cache, &self.namespace, &self.cluster, self.partition);
            let mut patches = role_patches(&view, &pods);
            patches.retain(|patch| written.get(&patch.pod) != Some(&patch.resource_version));
            if patches.is_empty() {
                wrong_since = None;
            } else {
                let since = *wrong_since.get_or_insert_with(Instant::now);
                let won = view.transitions.last().is_some_and(|last| last.epoch == view.epoch);
                let rank = if won { 0 } else { self.rank.load(Ordering::Relaxed) };
                if Instant::now() >= since + PER_RANK * rank {
                    for patch in &patches {
                        written.insert(patch.pod.clone(), patch.resource_version.clone());
                        if !self.write(patch).await {
                            written.remove(&patch.pod);
                        }
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
            if wrong_since.is_none() && steps.changed().await.is_err() {
                return;
            }
        }
    }

    /// False: to be tried again.
    async fn write(&self, patch: &RolePatch) -> bool {
        let role = patch.role.map_or(Value::Null, Value::from);
        let body = json!({"metadata": {
            "resourceVersion": patch.resource_version,
            "labels": {label::ROLE: role},
            "annotations": {annotation::ROLE_EPOCH: patch.epoch.to_string()},
        }});
        match self.kube.merge(Kind::Pod, &self.namespace, &patch.pod, &body).await {
            Ok(pod) => {
                tracing::info!(pod = patch.pod, role = patch.role, epoch = patch.epoch, "role label written");
                self.cache.put(Kind::Pod, pod);
                true
            }
            // Somebody wrote it, or it is gone: the watch says what is now.
            Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::NotFound) => true,
            Err(error) => {
                tracing::warn!(%error, "a role label was not written; it is tried again");
                tokio::time::sleep(PER_RANK).await;
                false
            }
        }
    }
}
