//! The objects of the examples, golden: `UPDATE=1` rewrites them.

use std::path::Path;

use serde_json::json;

use super::*;
use crate::operator::validate::{Existing, validate};

fn example(file: &str) -> ValidatedCluster {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file);
    let text = std::fs::read_to_string(path).expect("the example is there");
    let mut object: DynamicObject = serde_yaml::from_str(&text).expect("a manifest");
    object.metadata.namespace.get_or_insert("default".into());
    object.metadata.uid = Some("5f0c8f8e-0000-4000-8000-000000000001".into());
    object.metadata.generation = Some(1);
    validate(&object, &Existing::default()).expect("the example is valid")
}

fn identity() -> Identity {
    Identity::of_a_test(ClusterId(0x00c0_ffee))
}

fn facts(cluster: &ValidatedCluster) -> BTreeMap<i32, PartitionFacts> {
    (0..cluster.spec.partitions)
        .map(|partition| {
            let facts = PartitionFacts {
                replicas: cluster.spec.replicas,
                template: pod::template(cluster, &identity(), partition),
                claim_templates: None,
                rejected: None,
                retried: None,
                evict_unhealthy: false,
            };
            (partition, facts)
        })
        .collect()
}

fn built(cluster: &ValidatedCluster) -> Vec<Desired> {
    build(cluster, &identity(), &facts(cluster))
}

fn golden(name: &str, objects: &[Desired]) {
    let text: String = objects
        .iter()
        .map(|desired| format!("---\n{}", serde_yaml::to_string(&desired.object).expect("an object is YAML")))
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/operator/build/golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        have == text,
        "{} is not what is built: run the tests with UPDATE=1 and read the difference",
        path.display()
    );
}

#[test]
fn the_objects_of_the_quickstart_are_as_they_were() {
    golden("quickstart.yaml", &built(&example("quickstart.yaml")));
}

#[test]
fn the_objects_of_the_full_example_are_as_they_were() {
    golden("cluster.yaml", &built(&example("cluster.yaml")));
}

#[test]
fn equal_wishes_build_equal_objects() {
    assert_eq!(built(&example("cluster.yaml")), built(&example("cluster.yaml")));
}

#[test]
fn every_object_goes_with_its_cluster_and_is_found_by_its_labels() {
    let mut cluster = example("quickstart.yaml");
    cluster.spec.partitions = 2;
    for desired in built(&cluster) {
        let meta = &desired.object.metadata;
        let owners = meta.owner_references.as_ref().expect("owners");
        assert_eq!((owners.len(), owners[0].controller), (1, Some(true)), "{}", desired.name());
        let labels = meta.labels.as_ref().expect("labels");
        assert_eq!(labels["armdb.io/cluster"], "kv");
        assert_eq!(labels["app.kubernetes.io/managed-by"], "armdb-operator");
        let resource = desired.kind.resource();
        let types = desired.object.types.as_ref().expect("types");
        assert_eq!((&types.api_version, &types.kind), (&resource.api_version, &resource.kind));
    }
}

#[test]
fn what_pods_need_comes_before_them() {
    let kinds: Vec<Kind> = built(&example("quickstart.yaml")).iter().map(|desired| desired.kind).collect();
    let last = kinds.len() - 1;
    assert_eq!(kinds[last], Kind::StatefulSet);
    assert_eq!(kinds[last - 1], Kind::Partition, "the register is there before whoever could need it");
    assert_eq!(kinds[0], Kind::ServiceAccount);
}

#[test]
fn identity_can_be_read_back_from_its_secret() {
    let objects = built(&example("quickstart.yaml"));
    let secrets: Vec<_> = objects.iter().filter(|desired| desired.kind == Kind::Secret).collect();
    assert_eq!(authority_of(&secrets[0].object, "kv"), Some((identity().id, identity().authority)));
    assert_eq!(secrets[0].mode, Mode::CreateOnly);
    assert_eq!(secrets[0].object.data["immutable"], true);
    assert_eq!(certificate_of(&secrets[1].object), Some(identity().certificate));
    assert!(!secrets[1].object.data["data"].to_string().contains("ca.key"), "members have no use for it");
    assert!(!format!("{:?}", identity()).contains("PRIVATE"), "keys are never printed");
}

#[test]
fn live_claim_templates_are_kept_and_a_taken_back_hash_is_noted() {
    let cluster = example("quickstart.yaml");
    let live = json!([{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]);
    let mut facts = facts(&cluster);
    let first = facts.get_mut(&0).expect("a partition");
    first.claim_templates = Some(live.clone());
    first.rejected = Some("v1:bad".into());
    let all = build(&cluster, &identity(), &facts);
    let set = &all.last().expect("objects").object;
    assert_eq!(set.data["spec"]["volumeClaimTemplates"], live);
    assert_eq!(set.metadata.annotations.as_ref().expect("annotations")["armdb.io/rejected-spec-hash"], "v1:bad");
}

/// The *restricted* Pod Security Standard, as far as a template can break it.
fn assert_restricted(template: &Value) {
    let pod = &template["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["automountServiceAccountToken"], false);
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(pod[host].is_null(), "{host}");
    }
    for volume in pod["volumes"].as_array().expect("volumes") {
        assert!(volume["hostPath"].is_null());
    }
    let context = &pod["containers"][0]["securityContext"];
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(context["readOnlyRootFilesystem"], true);
}

#[test]
fn a_users_template_adds_what_it_likes_and_cannot_take_away_what_a_member_needs() {
    let mut cluster = example("quickstart.yaml");
    let partial = json!({
        "metadata": {"labels": {"team": "blue", "armdb.io/cluster": "other"}, "annotations": {"armdb.io/spec-hash": "x"}},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "serviceAccountName": "mighty",
            "subdomain": "elsewhere",
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "containers": [
                {"name": "armdb", "command": ["sh"], "args": ["-c", "true"], "image": "evil",
                 "env": [{"name": "ARMDB_LOG", "value": "debug"}, {"name": "POD_NAME", "value": "fixed"}],
                 "livenessProbe": {"exec": {"command": ["false"]}},
                 "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]},
                {"name": "agent", "image": "agent:1"},
            ],
            "volumes": [{"name": "scratch", "emptyDir": {}}, {"name": "config", "emptyDir": {}}],
        },
    });
    cluster.spec.pod_template = partial.as_object().cloned();
    let own = pod::template(&example("quickstart.yaml"), &identity(), 0);
    let template = pod::template(&cluster, &identity(), 0);
    assert_restricted(&template);
    let labels = &template["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels["armdb.io/cluster"]), (&json!("blue"), &json!("kv")));
    assert_ne!(template["metadata"]["annotations"]["armdb.io/spec-hash"], "x");
    let pod = &template["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], 30);
    assert_eq!(pod["serviceAccountName"], "kv-member");
    assert!(pod["subdomain"].is_null());
    assert_eq!(pod["tolerations"].as_array().expect("tolerations").len(), 3);
    let containers = pod["containers"].as_array().expect("containers");
    assert_eq!(containers[1]["name"], "agent");
    let member = &containers[0];
    let own_member = &own["spec"]["containers"][0];
    for field in ["image", "args", "livenessProbe", "ports"] {
        assert_eq!(member[field], own_member[field], "{field}");
    }
    assert!(member["command"].is_null());
    let env = member["env"].as_array().expect("env");
    assert!(env.iter().any(|item| item["name"] == "ARMDB_LOG"));
    assert_eq!(env.iter().filter(|item| item["name"] == "POD_NAME").count(), 1);
    assert_eq!(env.iter().find(|item| item["name"] == "POD_NAME"), own_member["env"].as_array().expect("env").first());
    let mounts = member["volumeMounts"].as_array().expect("mounts");
    assert!(mounts.iter().any(|mount| mount["mountPath"] == "/scratch") && mounts.len() == 4);
    let volumes = pod["volumes"].as_array().expect("volumes");
    assert!(volumes.iter().any(|volume| volume["name"] == "config" && volume["configMap"].is_object()));
}

#[test]
fn templates_satisfy_the_restricted_standard_and_tolerate_lost_nodes_without_limit() {
    for file in ["quickstart.yaml", "cluster.yaml"] {
        let template = pod::template(&example(file), &identity(), 0);
        assert_restricted(&template);
        let tolerations = template["spec"]["tolerations"].as_array().expect("tolerations");
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let found = tolerations.iter().find(|toleration| toleration["key"] == key).expect(key);
            assert!(found["tolerationSeconds"].is_null());
        }
        assert!(template["spec"]["containers"][0]["lifecycle"].is_null());
        assert!(template["spec"]["terminationGracePeriodSeconds"].as_i64().expect("grace") >= 30);
    }
}

#[test]
fn a_version_is_in_the_image_of_the_template_and_nowhere_else() {
    let template = pod::template(&example("quickstart.yaml"), &identity(), 0);
    let mut without = template.clone();
    without["spec"]["containers"][0]["image"] = "".into();
    assert!(template.to_string().contains("0.1.0") && !without.to_string().contains("0.1.0"));
    assert!(!without.to_string().contains("helm.sh"));
}
