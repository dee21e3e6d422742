//! What is done beside making objects: restarts, hand-overs, volumes that are given up, labels of readers, requests.
//!
//! Each is decided elsewhere and carried out here with the uid or resource version that it was decided from.

use std::time::Duration;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::build::{Identity, hash};
use super::cache::Key;
use super::client::{ErrorKind, KubeError};
use super::context::Context;
use super::dereference::{World, register_in, revision_labels};
use super::events::{Happening, Regarding};
use super::facts::ClaimFacts;
use super::kinds::Kind;
use super::memory::Memory;
use super::names as operator_names;
use super::reconcile::Outcome;
use super::roles::{ReadBound, read_patches};
use super::rollout::Step;
use super::validate::ValidatedCluster;
use super::{requests, scale};
use crate::api::names::{self, label};
use crate::api::{RetentionPolicy, quantity};
use crate::topology::controller::ControlRequest;

/// A leader that did not hand over in this time is asked again.
const HAND_OVER: Duration = Duration::from_secs(30);
/// Good templates that are kept: the one in force and the one before.
const GOOD_TEMPLATES: usize = 2;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answered {
    /// The annotation that asked.
    pub annotation: &'static str,
    /// Its value.
    pub value: String,
    /// The id in it.
    pub id: String,
    /// In words.
    pub outcome: String,
}

/// Everything that is due now.
pub(super) async fn act(
    context: &Context,
    world: &World,
    cluster: &ValidatedCluster,
    identity: &Identity,
    memory: &mut Memory,
    outcome: &mut Outcome,
) -> Result<(), KubeError> {
    let regarding = Regarding::object(Kind::Cluster, &world.cluster);
    let tell = |warning, reason: &str, note: String| {
        let regarding = regarding.clone();
        context.events.tell(Happening { regarding, warning, reason: reason.to_owned(), note });
    };
    for (number, plan) in &outcome.plans {
        if let Some(why) = &plan.taken_back {
            tell(true, "RolloutTakenBack", format!("partition {number}: {why}; the last good pod template is back"));
        }
        match &plan.progress.step {
            Step::Restart { member, uid, why } if is_observed(context, cluster, *number) => {
                tracing::info!(cluster = %world.key, member, "restarted: {why}");
                context.kube.delete(Kind::Pod, &cluster.namespace, member, uid).await?;
                context.metrics.wrote(Kind::Pod.name(), "delete");
                tell(false, "MemberRestarted", format!("{member}: {why}"));
            }
            Step::HandOver { from } if is_observed(context, cluster, *number) => {
                hand_over(context, world, cluster, *number, from, memory).await;
            }
            Step::Done | Step::Wait(_) | Step::Restart { .. } | Step::HandOver { .. } | Step::TakeBack { .. } => {}
        }
        if let Some(template) = &plan.keep {
            keep(context, world, cluster, identity, *number, template).await?;
        }
    }
    label_readers(context, world, cluster).await?;
    retain(context, world, cluster, identity).await?;
    outcome.answered = heed_requests(context, world, cluster, memory).await;
    Ok(())
}

/// Whether the StatefulSet controller has seen the template that a new pod shall be made from.
fn is_observed(context: &Context, cluster: &ValidatedCluster, partition: i32) -> bool {
    let key = Key::new(&cluster.namespace, names::stateful_set(&cluster.name, partition));
    context.cache.get(Kind::StatefulSet, &key).is_some_and(|set| {
        let observed = set.data["status"]["observedGeneration"].as_i64();
        observed.is_some() && observed >= set.metadata.generation
    })
}

async fn hand_over(
    context: &Context,
    world: &World,
    cluster: &ValidatedCluster,
    partition: i32,
    from: &str,
    memory: &mut Memory,
) {
    let pods = world.partition(partition).pods;
    let Some(pod) = pods.iter().find(|pod| pod.name == from) else { return };
    let id = memory.handover(partition, &pod.uid, HAND_OVER, Instant::now());
    let key = Key::new(&cluster.namespace, names::register(&cluster.name, partition));
    context.drivers.request(&key, ControlRequest::Switchover { target: None, id }).await;
}

/// Keeps a template that every member runs, and lets the oldest go.
async fn keep(
    context: &Context,
    world: &World,
    cluster: &ValidatedCluster,
    identity: &Identity,
    partition: i32,
    template: &Value,
) -> Result<(), KubeError> {
    let known = world.partition(partition).good;
    let name = names::good_template(&cluster.name, partition, &hash::short(template));
    let number = known.first().map_or(1, |newest| newest.number + 1);
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(cluster.namespace.clone()),
            labels: Some(revision_labels(&cluster.name, identity.id)),
            owner_references: Some(vec![operator_names::controller_reference(cluster)]),
            ..ObjectMeta::default()
        },
        revision: number,
        data: serde_json::from_value(json!({"template": template})).ok(),
    };
    // The same template may have been good before: what is kept cannot be changed, so it is made anew.
    if let Some(earlier) = known.iter().find(|good| good.revision.metadata.name.as_deref() == Some(&name)) {
        let uid = earlier.revision.metadata.uid.clone().unwrap_or_default();
        context.kube.delete(Kind::Revision, &cluster.namespace, &name, &uid).await?;
    }
    let made = context.kube.create(Kind::Revision, &Kind::Revision.object(&revision)).await?;
    context.cache.put(Kind::Revision, made);
    context.metrics.wrote(Kind::Revision.name(), "create");
    for old in known.iter().skip(GOOD_TEMPLATES - 1) {
        let meta = &old.revision.metadata;
        if let (Some(old), Some(uid)) = (&meta.name, &meta.uid)
            && *old != name
        {
            context.kube.delete(Kind::Revision, &cluster.namespace, old, uid).await?;
        }
    }
    Ok(())
}

/// Followers within the bound answer reads.
async fn label_readers(context: &Context, world: &World, cluster: &ValidatedCluster) -> Result<(), KubeError> {
    let asked = &cluster.spec.replication.follower_reads;
    let bound = ReadBound {
        bytes: quantity::bytes(&asked.max_lag).unwrap_or(0),
        millis: u64::try_from(asked.max_lag_millis).unwrap_or(0),
    };
    for partition in world.partitions.values() {
        let Some(picture) = &partition.picture else { continue };
        for patch in read_patches(&picture.view, &partition.pods, bound) {
            let value = if patch.serves { Value::from("true") } else { Value::Null };
            let body = json!({"metadata": {
                "resourceVersion": patch.resource_version,
                "labels": {label::SERVES_READS: value},
            }});
            match context.kube.merge(Kind::Pod, &cluster.namespace, &patch.pod, &body).await {
                Ok(pod) => context.cache.put(Kind::Pod, pod),
                // It changes in this moment; that it did is looked at next.
                Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::NotFound) => {}
                Err(error) => return Err(error),
            }
            context.metrics.wrote(Kind::Pod.name(), "patch");
        }
    }
    Ok(())
}

/// What `spec.storage.retention` asks for.
async fn retain(
    context: &Context,
    world: &World,
    cluster: &ValidatedCluster,
    identity: &Identity,
) -> Result<(), KubeError> {
    let asked = &cluster.spec.storage.retention;
    for (number, partition) in &world.partitions {
        if asked.when_scaled == RetentionPolicy::Delete {
            let pods: Vec<_> = partition
                .pods
                .iter()
                .filter_map(|pod| Some((operator_names::ordinal(&cluster.name, *number, &pod.name)?, pod)))
                .collect();
            let known = scale::Known {
                view: partition.picture.as_ref().map(|picture| &picture.view),
                register: partition.register.as_ref(),
            };
            let claims = partition.claims.iter().map(|(ordinal, claim)| (*ordinal, claim));
            for (ordinal, claim) in scale::surplus_claims(claims, cluster.spec.replicas, &pods, known, identity.id) {
                // What is known may be a moment old; what is deleted is deleted for good.
                let register = names::register(&cluster.name, *number);
                let object = context.kube.get(Kind::Partition, &cluster.namespace, &register).await?;
                let now = object.as_ref().and_then(register_in);
                if !now.is_some_and(|register| scale::counts_no_more(&register, ordinal)) {
                    continue;
                }
                tracing::info!(cluster = %world.key, claim = claim.name, "deleted: its member was scaled away");
                context.kube.delete(Kind::VolumeClaim, &cluster.namespace, &claim.name, &claim.uid).await?;
                context.metrics.wrote(Kind::VolumeClaim.name(), "delete");
            }
        }
        for (_, claim) in partition.claims.iter().filter(|(_, claim)| claim.is_of(identity.id) && !claim.terminating) {
            own(context, cluster, claim, asked.when_deleted == RetentionPolicy::Delete).await?;
        }
    }
    Ok(())
}

/// A claim that goes with the cluster is owned by it, one that stays is not.
async fn own(
    context: &Context,
    cluster: &ValidatedCluster,
    claim: &ClaimFacts,
    goes_with_it: bool,
) -> Result<(), KubeError> {
    let owned = claim.owners.contains(&cluster.uid);
    if owned == goes_with_it {
        return Ok(());
    }
    let key = Key::new(&cluster.namespace, &claim.name);
    let Some(object) = context.cache.get(Kind::VolumeClaim, &key) else { return Ok(()) };
    let mut owners = object.metadata.owner_references.clone().unwrap_or_default();
    owners.retain(|owner| owner.uid != cluster.uid);
    if goes_with_it {
        owners.push(operator_names::owner_reference(cluster));
    }
    let body = json!({"metadata": {"resourceVersion": claim.resource_version, "ownerReferences": owners}});
    let patched = context.kube.merge(Kind::VolumeClaim, &cluster.namespace, &claim.name, &body).await?;
    context.cache.put(Kind::VolumeClaim, patched);
    context.metrics.wrote(Kind::VolumeClaim.name(), "patch");
    Ok(())
}

/// Hands a request to the partition's driver once; what became of it, once the register says.
async fn heed_requests(
    context: &Context,
    world: &World,
    cluster: &ValidatedCluster,
    memory: &mut Memory,
) -> Option<Answered> {
    for annotation in requests::ALL {
        let Some(value) = cluster.annotations.get(annotation) else { continue };
        let answered = |id, outcome| Some(Answered { annotation, value: value.clone(), id, outcome });
        let asked = match requests::parse(annotation, value, &cluster.name, cluster.spec.partitions) {
            Ok(asked) => asked,
            Err(why) => {
                let id = value.rsplit_once('@').map(|(_, id)| id.to_owned()).unwrap_or_default();
                return answered(id, format!("{}{why}", requests::NOT_DONE));
            }
        };
        let done = world.partition(asked.partition).picture.and_then(|picture| picture.view.last_request);
        if let Some(done) = done.filter(|done| done.id == asked.id) {
            return answered(done.id, done.outcome);
        }
        if memory.asked.get(annotation) != Some(value) {
            let key = Key::new(&cluster.namespace, names::register(&cluster.name, asked.partition));
            context.drivers.request(&key, asked.request).await;
            memory.asked.insert(annotation, value.clone());
        }
    }
    None
}

/// Its outcome was told: the annotation goes, if it is still the same.
pub(super) async fn finish_request(context: &Context, world: &World, answered: &Answered) -> Result<(), KubeError> {
    let Some(cluster) = context.cache.get(Kind::Cluster, &world.key) else { return Ok(()) };
    let standing = cluster.metadata.annotations.as_ref().and_then(|all| all.get(answered.annotation));
    if standing != Some(&answered.value) {
        return Ok(());
    }
    let body = json!({"metadata": {
        "resourceVersion": cluster.metadata.resource_version,
        "annotations": {answered.annotation: null},
    }});
    let patched = context.kube.merge(Kind::Cluster, &world.key.namespace, &world.key.name, &body).await?;
    context.cache.put(Kind::Cluster, patched);
    context.metrics.wrote(Kind::Cluster.name(), "patch");
    Ok(())
}
