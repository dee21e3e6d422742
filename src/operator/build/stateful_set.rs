//! The members of a partition as a StatefulSet that never acts by itself.
//!
//! `OnDelete`: the operator chooses who restarts and when. `Parallel`: members need each other to become ready.
//! Claims are always retained: Kubernetes' own retention deletes the volumes of a majority within seconds of a
//! foreign `kubectl scale`; what `spec.storage.retention` asks for, the operator does itself, after the register says
//! that a volume counts no more. The claim templates cannot be changed: the live ones are kept.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::Value;

use super::{Desired, Identity, PartitionFacts, partition_meta};
use crate::api::names::{self, annotation};
use crate::operator::kinds::Kind;
use crate::operator::names::{partition_labels, partition_selector};
use crate::operator::validate::ValidatedCluster;

/// Name of the volume that holds the data: claims are called `data-<pod>`.
pub(super) const DATA: &str = "data";

pub(super) fn build(
    cluster: &ValidatedCluster,
    identity: &Identity,
    partition: i32,
    facts: &PartitionFacts,
) -> Desired {
    let mut metadata = partition_meta(cluster, identity, partition, names::stateful_set(&cluster.name, partition));
    let notes: BTreeMap<String, String> =
        [(annotation::REJECTED_SPEC_HASH, &facts.rejected), (annotation::RETRIED_ROLLOUT, &facts.retried)]
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)))
            .collect();
    metadata.annotations = Some(notes).filter(|notes| !notes.is_empty());
    let typed = StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(facts.replicas),
            service_name: Some(names::service_nodes(&cluster.name)),
            selector: LabelSelector {
                match_labels: Some(partition_selector(&cluster.name, partition)),
                ..LabelSelector::default()
            },
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None }),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Retain".into()),
                when_scaled: Some("Retain".into()),
            }),
            revision_history_limit: Some(2),
            volume_claim_templates: Some(vec![claim(cluster, identity, partition)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    };
    let mut desired = Desired::new(Kind::StatefulSet, &typed);
    let spec = &mut desired.object.data["spec"];
    spec["template"].clone_from(&facts.template);
    if let Some(live) = &facts.claim_templates {
        spec["volumeClaimTemplates"].clone_from(live);
    }
    // The typed form writes an empty status; it is not ours.
    if let Value::Object(data) = &mut desired.object.data {
        data.remove("status");
    }
    desired
}

fn claim(cluster: &ValidatedCluster, identity: &Identity, partition: i32) -> PersistentVolumeClaim {
    let storage = &cluster.spec.storage;
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA.into()),
            labels: Some(partition_labels(&cluster.name, identity.id, partition)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(storage.size.clone()))])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: storage.storage_class_name.clone(),
            volume_mode: Some("Filesystem".into()),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}
