//! Reads the world: everything that looking after one cluster depends on, in one place, before anything is decided.
//!
//! From the cache, but for the Secrets with the cluster's identity, which are not watched and read now and then.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::Value;

use super::cache::Key;
use super::client::KubeError;
use super::context::Context;
use super::facts::{ClaimFacts, PodFacts};
use super::kinds::Kind;
use super::names;
use super::validate::Existing;
use crate::api::names as api_names;
use crate::api::names::annotation;
use crate::api::{ArmdbClusterStatus, ArmdbPartitionSpec};
use crate::drive::status::PartitionPicture;
use crate::topology::register::Register;

/// A pod template that every member ran with.
#[derive(Debug, Clone, PartialEq)]
pub struct Good {
    /// The object that keeps it.
    pub revision: Arc<DynamicObject>,
    /// Its number: the highest is the newest.
    pub number: i64,
    /// The spec hash in it.
    pub hash: String,
    /// The template.
    pub template: Value,
}

/// What there is of a partition.
#[derive(Debug, Clone, Default)]
pub struct PartitionWorld {
    /// Its members' owner.
    pub stateful_set: Option<Arc<DynamicObject>>,
    /// What its drivers read.
    pub spec: Option<ArmdbPartitionSpec>,
    /// Its register, as its object was last heard to hold it.
    pub register: Option<Register>,
    /// Templates that were good, the newest first.
    pub good: Vec<Good>,
    /// What its driver sees.
    pub picture: Option<PartitionPicture>,
    /// Its pods.
    pub pods: Vec<PodFacts>,
    /// Its claims, by ordinal.
    pub claims: Vec<(i32, ClaimFacts)>,
}

/// What there is of a cluster.
#[derive(Debug)]
pub struct World {
    /// Where it is.
    pub key: Key,
    /// As it was read.
    pub cluster: Arc<DynamicObject>,
    /// What was told of it last.
    pub status: Option<ArmdbClusterStatus>,
    /// Its partitions, by number: those that exist.
    pub partitions: BTreeMap<i32, PartitionWorld>,
    /// The Secret with its identity, if it was read now.
    pub authority: Option<DynamicObject>,
    /// The Secret of its members, if it was read now.
    pub member_tls: Option<DynamicObject>,
}

impl World {
    /// What cannot be changed any more.
    pub fn existing(&self) -> Existing {
        let specs = || self.partitions.values().filter_map(|partition| partition.spec.as_ref());
        let class = |set: &Arc<DynamicObject>| {
            let template = &set.data["spec"]["volumeClaimTemplates"][0];
            template["spec"]["storageClassName"].as_str().map(str::to_owned)
        };
        Existing {
            partitions: specs().map(|spec| spec.partitions).next(),
            shards: specs().map(|spec| spec.shards).next(),
            storage_class: self.partitions.values().find_map(|p| p.stateful_set.as_ref().and_then(class)),
        }
    }

    /// Every claim that carries a cluster's id: name and id.
    pub fn claim_ids(&self) -> impl Iterator<Item = (&str, &str)> {
        let claims = self.partitions.values().flat_map(|partition| &partition.claims);
        claims.filter_map(|(_, claim)| Some((claim.name.as_str(), claim.cluster_id.as_deref()?)))
    }

    /// What there is of a partition, perhaps nothing.
    pub fn partition(&self, number: i32) -> PartitionWorld {
        self.partitions.get(&number).cloned().unwrap_or_default()
    }
}

/// Reads everything; None: there is no such cluster any more.
pub async fn dereference(context: &Context, key: &Key, with_secrets: bool) -> Result<Option<World>, KubeError> {
    let cache = &context.cache;
    let Some(cluster) = cache.get(Kind::Cluster, key) else { return Ok(None) };
    let status = cluster.data.get("status").filter(|status| !status.is_null()).cloned();
    let mut world = World {
        key: key.clone(),
        status: status.and_then(|status| serde_json::from_value(status).ok()),
        cluster,
        partitions: BTreeMap::new(),
        authority: None,
        member_tls: None,
    };
    let uid = world.cluster.metadata.uid.clone().unwrap_or_default();
    let now = Timestamp::now();
    let name = key.name.as_str();
    for object in cache.select(Kind::Partition, &key.namespace, |object| {
        super::cache::cluster_of(Kind::Partition, object).as_ref() == Some(key)
    }) {
        // The remains of a deleted namesake say nothing about this one.
        if super::facts::controller_uid(&object).is_some_and(|owner| owner != uid) {
            continue;
        }
        let Ok(spec) = serde_json::from_value::<ArmdbPartitionSpec>(object.data["spec"].clone()) else { continue };
        let partition = world.partitions.entry(spec.partition).or_default();
        partition.register = register_in(&object);
        partition.picture = context.drivers.picture(&Key::of(&object), now);
        partition.spec = Some(spec);
    }
    for pod in cache.of_cluster(Kind::Pod, key) {
        let pod = PodFacts::of(&pod);
        if let Some((_, partition, _)) = parse(name, &pod.name) {
            world.partitions.entry(partition).or_default().pods.push(pod);
        }
    }
    for claim in cache.of_cluster(Kind::VolumeClaim, key) {
        let claim = ClaimFacts::of(&claim);
        let member = claim.name.strip_prefix("data-").map(str::to_owned);
        if let Some((_, partition, ordinal)) = member.as_deref().and_then(|member| parse(name, member)) {
            world.partitions.entry(partition).or_default().claims.push((ordinal, claim));
        }
    }
    for object in cache.of_cluster(Kind::Revision, key) {
        if super::facts::controller_uid(&object) != Some(&uid) {
            continue;
        }
        if let Some((partition, good)) = good_template(name, &object) {
            world.partitions.entry(partition).or_default().good.push(good);
        }
    }
    for (number, partition) in &mut world.partitions {
        let set = Key::new(&key.namespace, api_names::stateful_set(name, *number));
        partition.stateful_set = cache
            .get(Kind::StatefulSet, &set)
            .filter(|set| super::facts::controller_uid(set) == Some(&uid) && !super::facts::is_terminating(set));
        let live = partition.stateful_set.as_ref().and_then(|set| set.metadata.uid.as_deref());
        for pod in &mut partition.pods {
            pod.terminating |= pod.is_left_behind(live);
        }
        partition.good.sort_by_key(|good| std::cmp::Reverse(good.number));
    }
    if with_secrets {
        let kube = &context.kube;
        world.authority = kube.get(Kind::Secret, &key.namespace, &api_names::certificate_authority(name)).await?;
        world.member_tls = kube.get(Kind::Secret, &key.namespace, &api_names::member_tls(name)).await?;
    }
    Ok(Some(world))
}

fn parse<'a>(cluster: &str, member: &'a str) -> Option<(&'a str, i32, i32)> {
    api_names::parse_member(member).filter(|(name, ..)| *name == cluster)
}

/// The register in a partition's object, if it holds a sound one.
pub(super) fn register_in(object: &DynamicObject) -> Option<Register> {
    Register::from_value(object.data.get("status")?.get("register")?.clone()).ok()
}

/// A template that a ControllerRevision of ours keeps, and of which partition.
fn good_template(cluster: &str, object: &Arc<DynamicObject>) -> Option<(i32, Good)> {
    let name = object.metadata.name.as_deref()?;
    let (set, _) = name.rsplit_once("-good-")?;
    let partition = set.strip_prefix(cluster)?.strip_prefix('-')?.parse().ok()?;
    let template = object.data["data"]["template"].clone();
    let hash = template["metadata"]["annotations"][annotation::SPEC_HASH].as_str()?.to_owned();
    let number = object.data["revision"].as_i64()?;
    Some((partition, Good { revision: Arc::clone(object), number, hash, template }))
}

/// Labels of the revision of a good template: not those that the StatefulSet selects by, or it would adopt it.
pub(super) fn revision_labels(cluster: &str, id: crate::ident::ClusterId) -> BTreeMap<String, String> {
    names::cluster_labels(cluster, id)
}
