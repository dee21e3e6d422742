//! The members' pod template.
//!
//! Satisfies the *restricted* Pod Security Standard. Arguments and environment carry identity only, which cannot
//! change; everything else is in the configuration file. A partial template of the user's is merged over it; what a
//! member cannot do without (its name, image, arguments, ports, probes, volumes, identity) is put back afterwards.
//!
//! Probes: alive and started while it recovers, however long that takes; ready when it is whole and has caught up
//! once. Not-ready and unreachable nodes are tolerated without limit: a member on a local volume can run nowhere
//! else, and failover does not wait for Kubernetes.

use k8s_openapi::api::core::v1::Toleration;
use serde_json::{Value, json};

use super::hash::spec_hash;
use super::merge::merge;
use super::stateful_set::DATA;
use super::{Identity, config};
use crate::api::names::{self, annotation, port};
use crate::api::spec::ImagePullPolicy;
use crate::api::{ArmdbClusterSpec, SpreadPolicy};
use crate::operator::names::{partition_labels, partition_selector};
use crate::operator::validate::{ValidatedCluster, grace_seconds};

/// Name of the container that is the member.
pub const CONTAINER: &str = "armdb";
/// The user that members run as; the image has no other.
const USER: i64 = 65532;
/// A leader hands over, finishes what is in flight and closes its data well within this.
const GRACE_SECONDS: i64 = 60;
/// The least that a user may ask for instead.
const LEAST_GRACE_SECONDS: i64 = 30;
/// Where the volume is mounted; the data is in a directory of it, because volumes come with `lost+found`.
const VOLUME: &str = "/var/lib/armdb";
const CONFIG: &str = "/etc/armdb";
const TLS: &str = "/etc/armdb-tls";

/// The template for the members of `partition`, as the spec asks for it.
pub fn template(cluster: &ValidatedCluster, identity: &Identity, partition: i32) -> Value {
    let spec = &cluster.spec;
    let own = own(cluster, identity, partition);
    let mut template = own.clone();
    if let Some(partial) = &spec.pod_template {
        merge(&mut template, &Value::Object(partial.clone()));
        put_back(&mut template, &own);
        let grace = grace_seconds(spec).unwrap_or(GRACE_SECONDS).max(LEAST_GRACE_SECONDS);
        template["spec"]["terminationGracePeriodSeconds"] = grace.into();
    }
    template
}

fn own(cluster: &ValidatedCluster, identity: &Identity, partition: i32) -> Value {
    let (name, spec) = (cluster.name.as_str(), &cluster.spec);
    let probe = |path: &str, period: i32, failures: i32| {
        json!({
            "httpGet": {"path": path, "port": port::HTTP, "scheme": "HTTP"},
            "periodSeconds": period, "failureThreshold": failures, "successThreshold": 1, "timeoutSeconds": 5,
        })
    };
    let container_port = |name: &str, number: i32| json!({"name": name, "containerPort": number, "protocol": "TCP"});
    let mut container = json!({
        "name": CONTAINER,
        "image": spec.image,
        "imagePullPolicy": match spec.image_pull_policy {
            ImagePullPolicy::Always => "Always",
            ImagePullPolicy::IfNotPresent => "IfNotPresent",
            ImagePullPolicy::Never => "Never",
        },
        "args": [
            "node",
            "--cluster", name,
            "--partition", partition.to_string(),
            "--name", "$(POD_NAME)",
            "--shards", spec.storage.shards.to_string(),
            "--data", format!("{VOLUME}/{DATA}"),
            "--client", format!("*:{}", port::CLIENT_NUMBER),
            "--peer", format!("*:{}", port::PEER_NUMBER),
            "--http", format!("*:{}", port::HTTP_NUMBER),
            "--advertise-host", "$(POD_IP)",
            "--config", format!("{CONFIG}/{}", config::FILE),
            "--tls-dir", TLS,
            "--tls-name", names::peer_name(name, &cluster.namespace),
        ],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
        ],
        "ports": [
            container_port(port::CLIENT, port::CLIENT_NUMBER),
            container_port(port::PEER, port::PEER_NUMBER),
            container_port(port::HTTP, port::HTTP_NUMBER),
        ],
        "startupProbe": probe("/livez", 1, 60),
        "livenessProbe": probe("/livez", 10, 3),
        "readinessProbe": probe("/readyz", 2, 3),
        "volumeMounts": [
            {"name": DATA, "mountPath": VOLUME},
            {"name": "config", "mountPath": CONFIG, "readOnly": true},
            {"name": "tls", "mountPath": TLS, "readOnly": true},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
        },
        "terminationMessagePath": "/dev/termination-log",
        // A member says why it does not start in its last lines.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    let resources = serde_json::to_value(&spec.resources).expect("resources are JSON");
    if resources.as_object().is_some_and(|resources| !resources.is_empty()) {
        container["resources"] = resources;
    }
    let mut pod = json!({
        "containers": [container],
        "serviceAccountName": names::service_account(name),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            // Changing the owner of every file takes minutes on a full volume; once is enough.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": tolerations(spec),
        "volumes": [
            {"name": "config", "configMap": {"name": names::config_map(name, partition), "defaultMode": 0o444}},
            {"name": "tls", "secret": {"secretName": names::member_tls(name), "defaultMode": 0o440}},
        ],
    });
    place(&mut pod, cluster, partition);
    if let Some(class) = &spec.priority_class_name {
        pod["priorityClassName"] = class.as_str().into();
    }
    if !spec.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = serde_json::to_value(&spec.image_pull_secrets).expect("names are JSON");
    }
    json!({
        "metadata": {
            "labels": partition_labels(name, identity.id, partition),
            "annotations": {annotation::SPEC_HASH: spec_hash(spec)},
        },
        "spec": pod,
    })
}

/// Where members run.
fn place(pod: &mut Value, cluster: &ValidatedCluster, partition: i32) {
    let placement = &cluster.spec.placement;
    let selector = json!({"matchLabels": partition_selector(&cluster.name, partition)});
    if !placement.node_selector.is_empty() {
        pod["nodeSelector"] = json!(placement.node_selector);
    }
    let apart = json!({"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"});
    match placement.anti_affinity {
        SpreadPolicy::Required => {
            pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([apart]);
        }
        SpreadPolicy::Preferred => {
            pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] =
                json!([{"weight": 100, "podAffinityTerm": apart}]);
        }
        SpreadPolicy::Disabled => {}
    }
    let unsatisfiable = match placement.zone_spread {
        SpreadPolicy::Required => "DoNotSchedule",
        SpreadPolicy::Preferred => "ScheduleAnyway",
        SpreadPolicy::Disabled => return,
    };
    pod["topologySpreadConstraints"] = json!([{
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": unsatisfiable,
        "labelSelector": selector,
    }]);
}

fn tolerations(spec: &ArmdbClusterSpec) -> Vec<Toleration> {
    ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
        .into_iter()
        .map(|key| Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            ..Toleration::default()
        })
        .chain(spec.placement.tolerations.iter().cloned())
        .collect()
}

/// What the user's template may not change.
fn put_back(template: &mut Value, own: &Value) {
    merge(&mut template["metadata"]["labels"], &own["metadata"]["labels"]);
    merge(&mut template["metadata"]["annotations"], &own["metadata"]["annotations"]);
    let (pod, own) = (&mut template["spec"], &own["spec"]);
    for field in ["serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "restartPolicy"] {
        pod[field].clone_from(&own[field]);
    }
    if let Value::Object(pod) = pod {
        for field in ["hostname", "subdomain", "serviceAccount", "nodeName", "hostNetwork", "activeDeadlineSeconds"] {
            pod.remove(field);
        }
    }
    restore_list(&mut pod["volumes"], &own["volumes"], "name");
    let own = &own["containers"][0];
    let containers = pod["containers"].as_array_mut().into_iter().flatten();
    for container in containers.filter(|container| container["name"] == CONTAINER) {
        for field in [
            "image",
            "imagePullPolicy",
            "args",
            "startupProbe",
            "livenessProbe",
            "readinessProbe",
            "terminationMessagePolicy",
        ] {
            container[field].clone_from(&own[field]);
        }
        if let Value::Object(container) = container {
            for field in ["command", "lifecycle", "workingDir"] {
                container.remove(field);
            }
        }
        for (field, key) in [("env", "name"), ("ports", "name"), ("volumeMounts", "mountPath")] {
            restore_list(&mut container[field], &own[field], key);
        }
    }
}

/// Every item of `own` in `list` exactly as it is there, by `key`; further items stay.
fn restore_list(list: &mut Value, own: &Value, key: &str) {
    let own = own.as_array().cloned().unwrap_or_default();
    let mut restored = own.clone();
    let further = list.as_array().into_iter().flatten();
    restored.extend(further.filter(|item| own.iter().all(|mine| mine[key] != item[key])).cloned());
    *list = Value::Array(restored);
}
