#!/usr/bin/env bash
# collect.sh DIR: everything that tells what happened in the cluster, into DIR. Takes what it gets: it is called when
# something is broken.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/kubernetes/harness/lib.sh
. "$here/lib.sh"
mkdir -p "$1"
out=$(cd "$1" && pwd)

ask() { run timeout 20 kubectl --request-timeout 15s "$@"; }
into() { local file=$1; shift; "$@" >"$out/$file" 2>&1; }

# A case may have failed while it kept the API server away, which alone knows the objects.
if [ -e "$ROOT/run/up" ]; then
    run "$here/component.sh" start kube-apiserver
    for _ in $(seq 60); do
        ! run timeout 20 kubectl --request-timeout 15s get --raw /readyz >/dev/null 2>&1 || break
        sleep 0.5
    done
fi

# Who does not answer at all is not asked thirty times.
run timeout 20 kubectl --request-timeout 15s get --raw /readyz >"$out/readyz.txt" 2>&1 || ask() { :; }

into events.txt ask get events -A --sort-by=.lastTimestamp -o wide
into overview.txt ask get -A -o wide nodes,pods,statefulsets,deployments,services,endpointslices,pvc,pv,pdb,leases
into describe-pods.txt ask describe pods -A
mkdir -p "$out/objects"
for kind in nodes pods statefulsets deployments controllerrevisions services endpointslices configmaps pvc pv pdb \
    leases events serviceaccounts roles rolebindings clusterroles clusterrolebindings \
    validatingadmissionpolicies validatingadmissionpolicybindings armdbclusters armdbpartitions; do
    into "objects/$kind.yaml" ask get "$kind" -A -o yaml --show-managed-fields
done
into metrics-apiserver.txt ask get --raw /metrics

cp -rT "$ROOT/log" "$out/control-plane"
for node in "$ROOT"/nodes/*; do
    # What containers printed, of pods that are gone too: nodeN/containers/NAMESPACE_POD_UID/CONTAINER/N.log
    cp -rln "$node/log/pods/." "$node/log/containers/" 2>/dev/null
    cp -rT "$node/log" "$out/node${node##*/}"
    rm -rf "$out/node${node##*/}/pods"
done
true
