//! What is read off observed objects: pods and volume claims, without their type.
//!
//! A field that is missing or of another shape reads as absent: an odd object makes poorer facts, never an error.

use jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::Value;

use super::build::pod::CONTAINER;
use crate::api::names::{annotation, label};
use crate::ident::ClusterId;

/// A member's pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodFacts {
    /// Its name: the member's.
    pub name: String,
    /// This pod; another one may have had its name before.
    pub uid: String,
    /// Of the object as it was read.
    pub resource_version: String,
    /// Where it is reached.
    pub ip: Option<String>,
    /// Where it runs.
    pub node: Option<String>,
    /// It is being deleted, or will be ([`Self::is_left_behind`]).
    pub terminating: bool,
    /// UID of the StatefulSet that it goes with.
    pub controller: Option<String>,
    /// Kubernetes calls it ready.
    pub ready: bool,
    /// The spec hash it was made with.
    pub spec_hash: Option<String>,
    /// The member's image.
    pub image: String,
    /// Revision of the StatefulSet it was made from.
    pub revision: Option<String>,
    /// Its role label.
    pub role: Option<String>,
    /// The epoch that label was written in.
    pub role_epoch: Option<u64>,
    /// Whether it is labelled as one that answers reads.
    pub serves_reads: bool,
    /// Why it does not run, if it does not.
    pub trouble: Option<Trouble>,
    /// How often its container was started again.
    pub restarts: i64,
}

/// Why a pod does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// One word, Kubernetes' own.
    pub reason: String,
    /// In words.
    pub text: String,
}

/// What a container waits for that does not come by itself.
const DEAD: [&str; 8] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

impl PodFacts {
    /// Reads a pod.
    pub fn of(pod: &DynamicObject) -> Self {
        let meta = &pod.metadata;
        let text =
            |map: &Option<std::collections::BTreeMap<String, String>>, key: &str| map.as_ref()?.get(key).cloned();
        let status = &pod.data["status"];
        let container = named(&pod.data["spec"]["containers"]);
        let state = named(&status["containerStatuses"]);
        Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            ip: string(&status["podIP"]),
            node: string(&pod.data["spec"]["nodeName"]),
            terminating: meta.deletion_timestamp.is_some(),
            controller: controller_uid(pod).map(str::to_owned),
            ready: condition(status, "Ready").is_some_and(|ready| ready["status"] == "True"),
            spec_hash: text(&meta.annotations, annotation::SPEC_HASH),
            image: container.and_then(|container| string(&container["image"])).unwrap_or_default(),
            revision: text(&meta.labels, "controller-revision-hash"),
            role: text(&meta.labels, label::ROLE),
            role_epoch: text(&meta.annotations, annotation::ROLE_EPOCH).and_then(|epoch| epoch.parse().ok()),
            serves_reads: text(&meta.labels, label::SERVES_READS).is_some_and(|serves| serves == "true"),
            trouble: trouble(status, state),
            restarts: state.and_then(|state| state["restartCount"].as_i64()).unwrap_or(0),
        }
    }

    /// Whether it goes with another StatefulSet than `set` (the UID of the one that there is): that of a namesake that was
    /// deleted, say. It may run on for a while, and is not what will run. One that nobody controls is adopted.
    pub fn is_left_behind(&self, set: Option<&str>) -> bool {
        self.controller.is_some() && self.controller.as_deref() != set
    }
}

fn trouble(status: &Value, container: Option<&Value>) -> Option<Trouble> {
    if let Some(scheduled) = condition(status, "PodScheduled")
        && scheduled["status"] == "False"
    {
        return Some(Trouble {
            reason: string(&scheduled["reason"]).unwrap_or_else(|| "Unschedulable".into()),
            text: string(&scheduled["message"]).unwrap_or_else(|| "no node takes it".into()),
        });
    }
    if status["phase"] == "Failed" {
        return Some(Trouble {
            reason: string(&status["reason"]).unwrap_or_else(|| "Failed".into()),
            text: string(&status["message"]).unwrap_or_else(|| "the pod has ended".into()),
        });
    }
    let container = container?;
    let waiting = &container["state"]["waiting"];
    let reason = string(&waiting["reason"]).filter(|reason| DEAD.contains(&reason.as_str()))?;
    // What it said last tells more than that it is being restarted.
    let last = &container["lastState"]["terminated"];
    let text = string(&last["message"])
        .map(|message| message.trim().lines().last().unwrap_or_default().to_owned())
        .filter(|line| !line.is_empty())
        .or_else(|| last["exitCode"].as_i64().map(|code| format!("it ended with code {code}")))
        .or_else(|| string(&waiting["message"]))
        .unwrap_or_default();
    Some(Trouble { reason, text })
}

fn named(list: &Value) -> Option<&Value> {
    list.as_array()?.iter().find(|item| item["name"] == CONTAINER)
}

fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn string(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A member's volume claim.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClaimFacts {
    /// Its name.
    pub name: String,
    /// This claim.
    pub uid: String,
    /// Of the object as it was read.
    pub resource_version: String,
    /// Whose data it holds, by its label.
    pub cluster_id: Option<String>,
    /// It is being deleted.
    pub terminating: bool,
    /// The size that was asked for.
    pub size: Option<String>,
    /// Its class.
    pub class: Option<String>,
    /// It has a volume.
    pub bound: bool,
    /// UIDs of who it goes with.
    pub owners: Vec<String>,
}

impl ClaimFacts {
    /// Reads a claim.
    pub fn of(claim: &DynamicObject) -> Self {
        let meta = &claim.metadata;
        let spec = &claim.data["spec"];
        Self {
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            cluster_id: meta.labels.as_ref().and_then(|labels| labels.get(label::CLUSTER_ID)).cloned(),
            terminating: meta.deletion_timestamp.is_some(),
            size: string(&spec["resources"]["requests"]["storage"]),
            class: string(&spec["storageClassName"]),
            bound: claim.data["status"]["phase"] == "Bound",
            owners: meta.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect(),
        }
    }

    /// Whether it holds data of this cluster.
    pub fn is_of(&self, id: ClusterId) -> bool {
        self.cluster_id.as_deref().and_then(|text| text.parse().ok()) == Some(id)
    }
}

/// Whether the object is on its way out.
pub fn is_terminating(object: &DynamicObject) -> bool {
    object.metadata.deletion_timestamp.is_some()
}

/// UID of who controls it.
pub fn controller_uid(object: &DynamicObject) -> Option<&str> {
    let owners = object.metadata.owner_references.iter().flatten();
    owners.filter(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str()).next()
}

/// When it was made.
pub fn created(object: &DynamicObject) -> Option<Timestamp> {
    object.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_of_an_earlier_statefulset_is_left_behind_and_one_of_none_is_adopted() {
        let of =
            |controller: Option<&str>| PodFacts { controller: controller.map(str::to_owned), ..Default::default() };
        assert!(of(Some("old")).is_left_behind(Some("new")) && of(Some("old")).is_left_behind(None));
        assert!(!of(Some("new")).is_left_behind(Some("new")));
        assert!(!of(None).is_left_behind(Some("new")) && !of(None).is_left_behind(None));
    }

    fn pod(status: Value) -> PodFacts {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "kv-0-1", "uid": "p-1", "resourceVersion": "7",
                "labels": {"armdb.io/role": "leader"},
                "annotations": {"armdb.io/spec-hash": "v1:a", "armdb.io/role-epoch": "12"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "armdb", "image": "a:1"}]},
            "status": status,
        });
        PodFacts::of(&serde_json::from_value(object).expect("a pod"))
    }

    #[test]
    fn a_running_pod_has_its_facts_and_no_trouble() {
        let pod = pod(json!({"podIP": "10.1.2.3", "conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!((pod.ip.as_deref(), pod.node.as_deref(), pod.ready), (Some("10.1.2.3"), Some("n1"), true));
        assert_eq!(
            (pod.role.as_deref(), pod.role_epoch, pod.spec_hash.as_deref()),
            (Some("leader"), Some(12), Some("v1:a"))
        );
        assert_eq!(pod.trouble, None);
    }

    #[test]
    fn why_a_pod_does_not_run_is_told_in_its_own_last_words() {
        let crashed = pod(json!({"containerStatuses": [{"name": "armdb", "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
            "lastState": {"terminated": {"exitCode": 1, "message": "opening\narmdb: the disk is gone\n"}}}]}));
        let trouble = crashed.trouble.expect("trouble");
        assert_eq!((trouble.reason.as_str(), trouble.text.as_str()), ("CrashLoopBackOff", "armdb: the disk is gone"));
        let unplaced = pod(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/3 nodes are available"}]}));
        assert_eq!(unplaced.trouble.expect("trouble").text, "0/3 nodes are available");
        let starting = pod(
            json!({"containerStatuses": [{"name": "armdb", "state": {"waiting": {"reason": "ContainerCreating"}}}]}),
        );
        assert_eq!(starting.trouble, None);
    }
}
