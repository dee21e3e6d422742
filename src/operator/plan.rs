//! From the world and a validated cluster to what shall be: templates, members, what to do next.
//!
//! No I/O. Remembers (in [`Memory`]) only for how long things have been as they are.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::build::{Identity, PartitionFacts, hash, pod};
use super::dereference::{PartitionWorld, World};
use super::memory::Memory;
use super::rollout::{Choice, Member, Progress, Situation, Step, Templates, Wait, choose, is_good, next};
use super::scale;
use super::validate::ValidatedCluster;
use crate::api::names as api_names;
use crate::api::names::annotation;
use crate::api::quantity;
use crate::topology::view::{MemberRole, PartitionView};

/// Members that are not ready may be evicted once the others have been enough for this long.
const SAFE_FOR: Duration = Duration::from_secs(10);

/// What shall be of a partition.
#[derive(Debug, Clone)]
pub struct PartitionPlan {
    /// For the objects.
    pub facts: PartitionFacts,
    /// How far its rollout is.
    pub progress: Progress,
    /// The template in force, to be kept if everybody runs it.
    pub keep: Option<Value>,
    /// A template was taken back now: why.
    pub taken_back: Option<String>,
    /// The template in force is not the one that pods were made from, though their wishes are the same.
    pub drift: bool,
    /// What is wrong with its volumes.
    pub storage: Vec<(&'static str, String)>,
}

/// Decides for every partition that the spec asks for.
pub fn plan(
    world: &World,
    cluster: &ValidatedCluster,
    identity: &Identity,
    memory: &mut Memory,
    now: Instant,
) -> BTreeMap<i32, PartitionPlan> {
    (0..cluster.spec.partitions)
        .map(|number| {
            let partition = world.partition(number);
            (number, plan_partition(&partition, number, cluster, identity, memory, now))
        })
        .collect()
}

fn plan_partition(
    world: &PartitionWorld,
    number: i32,
    cluster: &ValidatedCluster,
    identity: &Identity,
    memory: &mut Memory,
    now: Instant,
) -> PartitionPlan {
    let spec = &cluster.spec;
    let wanted_template = pod::template(cluster, identity, number);
    let wanted = hash::spec_hash(spec);
    let view = world.picture.as_ref().map(|picture| &picture.view);
    let live = world.stateful_set.as_deref();
    let note = |key: &str| live?.metadata.annotations.as_ref()?.get(key).map(String::as_str);
    let good = world.good.first();
    let templates = Templates {
        wanted: &wanted,
        good: good.map(|good| good.hash.as_str()),
        rejected: note(annotation::REJECTED_SPEC_HASH),
        retry: cluster.annotations.get(annotation::RETRY_ROLLOUT).map(String::as_str),
        retried: note(annotation::RETRIED_ROLLOUT),
    };
    let mut choice = choose(templates);
    let names: Vec<String> =
        (0..spec.replicas).map(|ordinal| api_names::member(&cluster.name, number, ordinal)).collect();
    let members = members(world, view, &names, memory, now);
    let quorum_safe = view.is_some_and(|view| view.quorum_safe && view.change.is_none());
    let situation = Situation {
        hash: &choice.hash,
        is_wanted: !choice.last_good,
        good: templates.good,
        members,
        quorum_safe,
        update: &spec.update,
    };
    let mut progress = next(&situation);
    let is_good = is_good(&situation, &progress.step);
    let mut taken_back = None;
    if let Step::TakeBack { why } = progress.step.clone() {
        choice = choose(Templates { rejected: Some(&wanted), retried: choice.retried.as_deref(), ..templates });
        progress.step = Step::Wait(wait("TakingBack", why.clone()));
        taken_back = Some(why);
    }
    if spec.paused && progress.step != Step::Done {
        progress.step = Step::Wait(wait("Paused", "the cluster is paused".to_owned()));
    }
    let resting = progress.step == Step::Done;
    let safe_for = memory.safe_for(number, view.is_some_and(|view| view.quorum_safe), now);
    let template = match good.filter(|_| choice.last_good) {
        Some(good) => good.template.clone(),
        None => wanted_template,
    };
    let keep = (is_good && templates.good != Some(wanted.as_str())).then(|| template.clone());
    PartitionPlan {
        drift: resting && drifts(world, &choice),
        storage: storage(world, spec.storage.size.as_str()),
        facts: PartitionFacts {
            replicas: scale::pods(
                spec.replicas,
                live.and_then(replicas),
                scale::Known { view, register: world.register.as_ref() },
            ),
            template,
            claim_templates: live.map(|set| set.data["spec"]["volumeClaimTemplates"].clone()),
            rejected: choice.rejected,
            retried: choice.retried,
            evict_unhealthy: resting && safe_for.is_some_and(|since| since >= SAFE_FOR),
        },
        progress,
        keep,
        taken_back,
    }
}

fn wait(reason: &'static str, text: String) -> Wait {
    Wait { reason, text, again: None, stuck: false }
}

/// What the StatefulSet is set to.
fn replicas(set: &kube::core::DynamicObject) -> Option<i32> {
    set.data["spec"]["replicas"].as_i64().and_then(|replicas| i32::try_from(replicas).ok())
}

fn members<'a>(
    world: &'a PartitionWorld,
    view: Option<&PartitionView>,
    names: &'a [String],
    memory: &mut Memory,
    now: Instant,
) -> Vec<Member<'a>> {
    names
        .iter()
        .zip(0..)
        .map(|(name, ordinal)| {
            let pod = world.pods.iter().find(|pod| pod.name == *name);
            let seen = view.and_then(|view| view.members.iter().find(|member| member.name == *name));
            let uid = pod.map(|pod| pod.uid.as_str()).unwrap_or_default();
            let (in_sync_for, still_for) = seen.map_or((None, Duration::ZERO), |member| memory.track(member, uid, now));
            Member {
                name,
                ordinal,
                pod,
                leads: seen.is_some_and(|member| member.role == MemberRole::Leader),
                in_sync_for,
                still_for,
            }
        })
        .collect()
}

/// Pods that were made from an earlier template of the same wishes.
fn drifts(world: &PartitionWorld, choice: &Choice) -> bool {
    let Some(set) = &world.stateful_set else { return false };
    let newest = set.data["status"]["updateRevision"].as_str();
    !choice.last_good && newest.is_some() && world.pods.iter().any(|pod| pod.revision.as_deref() != newest)
}

/// What a human should know of the volumes.
fn storage(world: &PartitionWorld, size: &str) -> Vec<(&'static str, String)> {
    let mut told = Vec::new();
    for (ordinal, claim) in &world.claims {
        let Some(pod) = world.pods.iter().find(|pod| claim.name == api_names::volume_claim(&pod.name)) else {
            continue;
        };
        let unplaced = pod.trouble.as_ref().filter(|trouble| trouble.reason == "Unschedulable" && claim.bound);
        if let Some(trouble) = unplaced {
            told.push((
                "VolumeUnreachable",
                format!(
                    "{} cannot run where its volume is ({}). If that node will never come back and the other members \
                     hold the data: kubectl delete pvc {} --wait=false && kubectl delete pod {}",
                    pod.name, trouble.text, claim.name, pod.name
                ),
            ));
        }
        let asked = quantity::bytes(size).ok();
        let have = claim.size.as_deref().and_then(|size| quantity::bytes(size).ok());
        if asked.is_some() && have.is_some() && asked != have && *ordinal >= 0 {
            told.push((
                "ResizeUnsupported",
                format!(
                    "the volume of {} has {}, the spec asks for {size}: this version does not resize volumes; everything \
                     else of the spec is in force",
                    pod.name,
                    claim.size.as_deref().unwrap_or_default()
                ),
            ));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use kube::core::DynamicObject;
    use serde_json::json;

    use super::super::dereference::Good;
    use super::super::facts::{ClaimFacts, PodFacts, Trouble};
    use super::super::tests::view;
    use super::super::validate::{Existing, validate};
    use super::*;
    use crate::drive::status::PartitionPicture;
    use crate::ident::ClusterId;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).expect("an object")
    }

    fn cluster(image: &str) -> ValidatedCluster {
        let object = object(json!({
            "apiVersion": "armdb.io/v1alpha1", "kind": "ArmdbCluster",
            "metadata": {"name": "kv", "namespace": "prod", "uid": "u", "generation": 1},
            "spec": {"image": image, "storage": {"size": "1Gi"}, "update": {"minReadySeconds": 0}},
        }));
        validate(&object, &Existing::default()).expect("valid")
    }

    fn identity() -> Identity {
        Identity::of_a_test(ClusterId(7))
    }

    /// A healthy partition whose pods run `image`.
    fn running(image: &str) -> PartitionWorld {
        let hash = hash::spec_hash(&cluster(image).spec);
        PartitionWorld {
            stateful_set: Some(Arc::new(object(json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "kv-0"},
                "spec": {"replicas": 3, "volumeClaimTemplates": [{"metadata": {"name": "data"}}]},
            })))),
            picture: Some(PartitionPicture { id: 0, view: view(&[1, 2, 3], 3), clock_zero: Timestamp::UNIX_EPOCH }),
            pods: (0..3)
                .map(|ordinal| PodFacts {
                    name: format!("kv-0-{ordinal}"),
                    uid: format!("p{ordinal}"),
                    spec_hash: Some(hash.clone()),
                    ..PodFacts::default()
                })
                .collect(),
            ..PartitionWorld::default()
        }
    }

    fn good(image: &str) -> Good {
        let cluster = cluster(image);
        Good {
            revision: Arc::new(object(json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {}}))),
            number: 1,
            hash: hash::spec_hash(&cluster.spec),
            template: pod::template(&cluster, &identity(), 0),
        }
    }

    fn planned(world: &PartitionWorld, cluster: &ValidatedCluster, memory: &mut Memory, now: Instant) -> PartitionPlan {
        plan_partition(world, 0, cluster, &identity(), memory, now)
    }

    #[test]
    fn a_template_that_everybody_runs_is_kept_once() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let mut world = running("a:1");
        let first = planned(&world, &cluster("a:1"), &mut memory, now);
        assert_eq!(first.progress.step, Step::Done);
        assert!(first.keep.is_some());
        world.good.push(good("a:1"));
        assert!(planned(&world, &cluster("a:1"), &mut memory, now).keep.is_none());
    }

    #[test]
    fn the_first_template_is_kept_as_soon_as_everybody_is_in_sync_and_a_later_one_when_it_has_lasted() {
        let now = Instant::now();
        let lasting = |image: &str| {
            let mut cluster = cluster(image);
            cluster.spec.update.min_ready_seconds = 10;
            cluster
        };
        let mut world = running("a:1");
        let mut memory = Memory::default();
        let first = planned(&world, &lasting("a:1"), &mut memory, now);
        assert!(matches!(first.progress.step, Step::Wait(wait) if wait.reason == "MinReady"));
        assert!(first.keep.is_some(), "who reads that all are in sync may change the spec at once");
        world.good.push(good("a:0"));
        assert!(planned(&world, &lasting("a:1"), &mut memory, now).keep.is_none());
        assert!(planned(&world, &lasting("a:1"), &mut memory, now + Duration::from_secs(10)).keep.is_some());
        world.good.clear();
        let picture = world.picture.as_mut().expect("a picture");
        picture.view.members[2].state = crate::topology::view::MemberState::CatchingUp;
        assert!(planned(&world, &lasting("a:1"), &mut memory, now + Duration::from_secs(11)).keep.is_none());
    }

    #[test]
    fn a_canary_that_fails_brings_the_last_good_template_back_in_the_same_breath() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let bad = cluster("a:bad");
        let mut world = running("a:1");
        world.good.push(good("a:1"));
        world.pods[2].spec_hash = Some(hash::spec_hash(&bad.spec));
        world.pods[2].trouble = Some(Trouble { reason: "ImagePullBackOff".into(), text: "no such image".into() });
        let picture = world.picture.as_mut().expect("a picture");
        picture.view.members[2].state = crate::topology::view::MemberState::Unreachable;
        picture.view.quorum_safe = false;
        let waiting = planned(&world, &bad, &mut memory, now);
        assert_eq!((waiting.facts.rejected, waiting.taken_back), (None, None));
        assert!(waiting.facts.template.to_string().contains("a:bad"));
        let failed = planned(&world, &bad, &mut memory, now + Duration::from_secs(600));
        assert!(failed.taken_back.expect("taken back").contains("kv-0-2"));
        assert_eq!(failed.facts.rejected, Some(hash::spec_hash(&bad.spec)));
        assert_eq!(failed.facts.template, world.good[0].template, "exactly the one that was good");
        assert!(!failed.facts.evict_unhealthy);
    }

    #[test]
    fn unready_members_may_be_evicted_only_when_all_has_been_well_for_a_while() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let world = running("a:1");
        assert!(!planned(&world, &cluster("a:1"), &mut memory, now).facts.evict_unhealthy);
        assert!(planned(&world, &cluster("a:1"), &mut memory, now + SAFE_FOR).facts.evict_unhealthy);
        let rolling = planned(&world, &cluster("a:2"), &mut memory, now + SAFE_FOR);
        assert!(!rolling.facts.evict_unhealthy, "it is put back before a planned restart");
    }

    #[test]
    fn a_paused_cluster_plans_no_restart() {
        let mut paused = cluster("a:2");
        paused.spec.paused = true;
        match planned(&running("a:1"), &paused, &mut Memory::default(), Instant::now()).progress.step {
            Step::Wait(wait) => assert_eq!(wait.reason, "Paused"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_volume_out_of_reach_is_told_with_the_commands_that_give_it_up() {
        let mut world = running("a:1");
        world.claims.push((
            2,
            ClaimFacts { name: "data-kv-0-2".into(), bound: true, size: Some("2Gi".into()), ..ClaimFacts::default() },
        ));
        world.pods[2].trouble =
            Some(Trouble { reason: "Unschedulable".into(), text: "1 node had a volume node affinity conflict".into() });
        let told = planned(&world, &cluster("a:1"), &mut Memory::default(), Instant::now()).storage;
        assert_eq!(
            told.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(),
            ["VolumeUnreachable", "ResizeUnsupported"]
        );
        assert!(told[0].1.contains("kubectl delete pvc data-kv-0-2"), "{}", told[0].1);
    }
}
