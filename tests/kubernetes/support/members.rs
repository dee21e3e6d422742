//! Bare members: the project's image in a StatefulSet of the test's own, as far as a member goes without an operator.

use serde_json::{Value, json};

use super::kubectl;

/// The image under test.
pub const IMAGE: &str = "registry.test/armdb:1";
/// Where probes and metrics are served.
pub const HTTP: u16 = 7402;

/// `kv-0-0`, `kv-0-1`, … of `image`, each on a node of its own with a local volume of its own, and the services
/// `kv-nodes` (headless) and `kv`.
pub fn members(image: &str, replicas: usize) -> Vec<Value> {
    let labels = json!({"app": "kv"});
    let container = json!({
        "name": "armdb", "image": image,
        "args": [
            "node", "--cluster", "kv", "--name", "$(NAME)", "--data", "/data/armdb", "--secret-file",
            "/etc/armdb/secret", "--client", "0.0.0.0:7400", "--peer", "0.0.0.0:7401", "--http", "0.0.0.0:7402",
        ],
        "env": [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "client", "containerPort": 7400}, {"name": "http", "containerPort": HTTP}],
        "livenessProbe": {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 2},
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "secret", "mountPath": "/etc/armdb", "readOnly": true},
        ],
    });
    let pod = json!({
        "automountServiceAccountToken": false, "enableServiceLinks": false, "terminationGracePeriodSeconds": 5,
        "securityContext": {
            "runAsNonRoot": true, "fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}},
        ]}},
        "containers": [container],
        "volumes": [{"name": "secret", "secret": {"secretName": "kv-secret"}}],
    });
    let claim = json!({
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "nvme-local",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    let service = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["selector"] = labels.clone();
        spec["publishNotReadyAddresses"] = json!(true);
        spec["ports"] = json!([{"name": "client", "port": 7400}, {"name": "http", "port": HTTP}]);
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
    };
    vec![
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kv-secret"},
            "stringData": {"secret": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
        }),
        service("kv-nodes", json!({"clusterIP": "None"})),
        service("kv", json!({})),
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "kv-0"},
            "spec": {
                "serviceName": "kv-nodes", "replicas": replicas, "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
                "volumeClaimTemplates": [claim],
            },
        }),
    ]
}

/// Waits until every pod of them runs.
pub async fn running(namespace: &str) {
    let waited = kubectl(["-n", namespace, "rollout", "status", "statefulset/kv-0", "--timeout=300s"]).await;
    waited.unwrap_or_else(|complaint| panic!("the members do not run: {complaint}"));
}
