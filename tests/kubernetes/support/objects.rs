//! The objects of a cluster, without what differs from run to run.

use serde_json::{Value, json};

use super::{get, kubectl};

const KINDS: &str = "armdbpartitions,statefulsets,controllerrevisions,services,configmaps,secrets,serviceaccounts,\
    poddisruptionbudgets,persistentvolumeclaims,pods";

/// Every object that carries the cluster's label, as YAML documents, in the order of kinds and names.
pub async fn of(namespace: &str, cluster: &str) -> String {
    let partition = get(namespace, "armdbpartition", &format!("{cluster}-0")).await.expect("it is there");
    let id = partition["spec"]["clusterID"].as_str().expect("an id");
    let selector = format!("armdb.io/cluster={cluster}");
    let listed = kubectl(["-n", namespace, "get", KINDS, "-l", &selector, "-o", "json"]).await;
    let list: Value = serde_json::from_str(&listed.expect("they are listed")).expect("JSON");
    let mut objects: Vec<Value> = list["items"].as_array().expect("a list").iter().cloned().map(lasting).collect();
    let place = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    objects.sort_by_key(place);
    // No member is like the others but for its name: one stands for all.
    let one_of_each = |object: &Value| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        !matches!(object["kind"].as_str(), Some("Pod" | "PersistentVolumeClaim")) || name.ends_with("-0")
    };
    objects.retain(one_of_each);
    let text: String = objects
        .iter()
        .map(|object| format!("---\n{}", serde_yaml::to_string(object).expect("an object is YAML")))
        .collect();
    text.replace(namespace, "NAMESPACE").replace(id, "CLUSTER-ID")
}

/// What is the same each time.
fn lasting(mut object: Value) -> Value {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "generateName", "managedFields"] {
        remove(&mut object["metadata"], field);
    }
    remove(&mut object, "status");
    for owner in object["metadata"]["ownerReferences"].as_array_mut().into_iter().flatten() {
        remove(owner, "uid");
    }
    match kind.as_str() {
        // Random, or secret, or both: the names of what is in there.
        "Secret" => {
            for (_, value) in object["data"].as_object_mut().into_iter().flatten() {
                *value = json!("...");
            }
        }
        "ControllerRevision" => {
            // The template, which the StatefulSet shows.
            remove(&mut object, "data");
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let stem = name.rsplit_once('-').map_or(name, |(stem, _)| stem).to_owned();
            object["metadata"]["name"] = json!(format!("{stem}-..."));
        }
        "Service" => {
            for field in ["clusterIP", "clusterIPs"] {
                if object["spec"]["clusterIP"] != "None" {
                    remove(&mut object["spec"], field);
                }
            }
        }
        "PersistentVolumeClaim" => {
            remove(&mut object["spec"], "volumeName");
            let annotations = object["metadata"]["annotations"].as_object_mut();
            annotations.into_iter().for_each(|all| all.retain(|name, _| !name.contains("kubernetes.io/")));
        }
        "Pod" => {
            remove(&mut object["spec"], "nodeName");
            // Whoever leads is labelled so, and followers that keep up.
            for label in ["armdb.io/role", "armdb.io/serves-reads", "controller-revision-hash"] {
                remove(&mut object["metadata"]["labels"], label);
            }
            remove(&mut object["metadata"]["annotations"], "armdb.io/role-epoch");
        }
        _ => {}
    }
    mask(&mut object);
    object
}

fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

/// Hashes, wherever they are.
fn mask(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name.ends_with("-hash") || name.ends_with("/hash") { *value = json!("...") } else { mask(value) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}
