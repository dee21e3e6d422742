//! Writes the cluster's status, when there is something to tell.
//!
//! News at once; figures every fifteen seconds at most; nothing at all while nothing changes. Fields of the status that
//! this version does not know are kept: a newer operator may have written them.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::client::KubeError;
use super::context::Context;
use super::dereference::World;
use super::kinds::Kind;
use super::memory::Memory;
use super::names;
use super::reconcile::Outcome;
use super::status::{Observed, PartitionSeen, Shape, is_news, status};
use crate::api::status::RequestStatus;
use crate::api::{ArmdbClusterStatus, ArmdbPartitionSpec, FailoverPolicy, cluster_crd, quantity};

/// Figures are told this often at most.
const FIGURES: Duration = Duration::from_secs(15);

/// Fields of a status that this version knows.
static KNOWN: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let crd = serde_json::to_value(cluster_crd()).unwrap_or_default();
    let status = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"];
    status["properties"].as_object().into_iter().flat_map(Map::keys).cloned().collect()
});

/// Writes the status if that is due. When it is due otherwise.
pub(super) async fn tell(
    context: &Context,
    world: &World,
    outcome: &Outcome,
    memory: &mut Memory,
) -> Result<Option<Duration>, KubeError> {
    let now = Instant::now();
    let status = observed(world, outcome);
    context.metrics.conditions(&world.key, &status);
    if world.status.as_ref() == Some(&status) {
        return Ok(None);
    }
    let age = memory.status_age(now).unwrap_or(FIGURES);
    if !is_news(world.status.as_ref(), &status) && age < FIGURES {
        return Ok(Some(FIGURES - age));
    }
    let Some(current) = context.cache.get(Kind::Cluster, &world.key) else { return Ok(None) };
    if current.metadata.uid != world.cluster.metadata.uid {
        // Who was looked at is gone meanwhile, and a namesake there: it is not ready because that one was.
        return Ok(None);
    }
    let mut object = (*current).clone();
    let fresh = serde_json::to_value(&status).unwrap_or_default();
    if let Value::Object(data) = &mut object.data {
        let kept = data.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
        let kept = kept.into_iter().filter(|(field, _)| !KNOWN.contains(field));
        let fresh = fresh.as_object().cloned().unwrap_or_default();
        data.insert("status".into(), Value::Object(kept.chain(fresh).collect()));
    }
    let stored = context.kube.replace_status(Kind::Cluster, &object).await?;
    context.metrics.wrote(Kind::Cluster.name(), "status");
    context.cache.put(Kind::Cluster, stored);
    memory.status_written(now);
    Ok(None)
}

fn observed(world: &World, outcome: &Outcome) -> ArmdbClusterStatus {
    let shape = shape(world, outcome);
    let partitions: Vec<PartitionSeen> = world
        .partitions
        .iter()
        .filter(|(number, partition)| **number < shape.partitions && partition.spec.is_some())
        .map(|(number, partition)| {
            let plan = outcome.plans.get(number);
            PartitionSeen {
                id: *number,
                picture: partition.picture.clone(),
                pods: partition.pods.clone(),
                pods_wanted: plan.map(|plan| plan.facts.replicas),
                rollout: plan.map(|plan| plan.progress.clone()),
                rejected: plan.and_then(|plan| plan.facts.rejected.clone()),
                drift: plan.is_some_and(|plan| plan.drift),
                storage: plan.map(|plan| plan.storage.clone()).unwrap_or_default(),
            }
        })
        .collect();
    let before = world.status.as_ref();
    let id = outcome.identity.as_ref().map(|identity| identity.id.to_string());
    let mut told = status(&Observed {
        shape,
        cluster_id: id.or_else(|| before.and_then(|before| before.cluster_id.clone())),
        selector: selector(&world.key.name),
        partitions: &partitions,
        refused: outcome.refused.clone(),
        warnings: &outcome.warnings,
        obstacle: outcome.obstacle.clone(),
        before,
        now: Timestamp::now(),
    });
    told.last_request = match &outcome.answered {
        Some(done) => {
            Some(RequestStatus { id: done.id.clone(), request: done.value.clone(), outcome: done.outcome.clone() })
        }
        None => before.and_then(|before| before.last_request.clone()),
    };
    told
}

fn selector(cluster: &str) -> String {
    let pairs = names::cluster_selector(cluster);
    pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// What the spec says; of one that is not understood, what its partitions are run by.
fn shape(world: &World, outcome: &Outcome) -> Shape {
    let generation = world.cluster.metadata.generation.unwrap_or(0);
    match &outcome.cluster {
        Some(cluster) => {
            let spec = &cluster.spec;
            let reads = &spec.replication.follower_reads;
            Shape {
                generation,
                replicas: spec.replicas,
                partitions: spec.partitions,
                paused: spec.paused,
                failover: spec.failover.policy,
                max_lag_bytes: quantity::bytes(&reads.max_lag).unwrap_or(u64::MAX),
                max_lag_millis: u64::try_from(reads.max_lag_millis).unwrap_or(u64::MAX),
            }
        }
        None => {
            let spec = world.partitions.values().find_map(|partition| partition.spec.as_ref());
            let known = |of: fn(&ArmdbPartitionSpec) -> i32| spec.map_or(0, of);
            Shape {
                generation,
                replicas: known(|spec| spec.replicas),
                partitions: known(|spec| spec.partitions),
                paused: spec.is_some_and(|spec| spec.paused),
                failover: spec.map_or(FailoverPolicy::Automatic, |spec| spec.failover_policy),
                max_lag_bytes: u64::MAX,
                max_lag_millis: u64::MAX,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_status_is_a_known_one() {
        let full = ArmdbClusterStatus {
            observed_generation: Some(1),
            last_request: Some(RequestStatus::default()),
            ..ArmdbClusterStatus::default()
        };
        let value = serde_json::to_value(full).expect("JSON");
        for field in value.as_object().expect("an object").keys() {
            assert!(KNOWN.contains(field), "{field}");
        }
        assert!(KNOWN.contains("conditions") && KNOWN.contains("partitions"));
    }
}
