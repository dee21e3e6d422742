#!/usr/bin/env bash
# The cluster's certificates and kubeconfigs, one of each per component: RBAC and the Node authorizer see who is who.
set -euo pipefail
cd "$ROOT/pki"

quiet() { "$@" 2>>"$ROOT/log/certificates.log"; }
quiet openssl genrsa -out service-account.key 2048
# Elliptic keys: a dozen certificates in a moment instead of seconds.
quiet openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=armdb-tests \
    -keyout ca.key -out ca.crt

certificate() { # NAME SUBJECT ALTERNATIVE-NAMES
    quiet openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr"
    quiet openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
        -extfile <(echo "subjectAltName=$3") -out "$1.crt"
}

kubeconfig() { # NAME
    cat >"$ROOT/$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: tests, cluster: {server: "https://10.200.0.1:6443", certificate-authority: $ROOT/pki/ca.crt}}]
users: [{name: $1, user: {client-certificate: $ROOT/pki/$1.crt, client-key: $ROOT/pki/$1.key}}]
contexts: [{name: tests, context: {cluster: tests, user: $1}}]
current-context: tests
YAML
}

client() { certificate "$1" "$2" "DNS:$1"; kubeconfig "$1"; }

certificate apiserver /CN=kube-apiserver \
    DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:10.96.0.1,IP:10.200.0.1
client admin /O=system:masters/CN=admin
client controller-manager /CN=system:kube-controller-manager
client scheduler /CN=system:kube-scheduler
client proxy /CN=system:kube-proxy
client dns /O=system:masters/CN=dns
for node in $(seq "$NODES"); do
    certificate "node$node" "/O=system:nodes/CN=system:node:node$node" "DNS:node$node,IP:10.200.0.$((10 + node))"
    kubeconfig "node$node"
done
