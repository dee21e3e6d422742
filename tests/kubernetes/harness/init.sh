#!/usr/bin/env bash
# Process 1 of the cluster's own network, mounts and process ids: when it ends, everything ends.
#
# init.sh ROOT   (an argument, so that a process with this number can be told from a stranger's)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/kubernetes/harness/lib.sh
. "$here/lib.sh"
cd "$ROOT"
export PATH="$ROOT/bin:$PATH" KUBECONFIG="$ROOT/admin.kubeconfig"

mount -t tmpfs tmpfs /run # network namespaces have their names here, lock files of iptables too
resolver=$(readlink -m /etc/resolv.conf) # perhaps in /run
mkdir -p "$(dirname "$resolver")"
[ -e "$resolver" ] || : >"$resolver"
printf 'nameserver 10.200.0.1\nsearch svc.cluster.local cluster.local\noptions ndots:5\n' >resolv.conf
mount --bind resolv.conf "$resolver"

sysctl -qw net.ipv4.ip_forward=1
ip link set lo up
ip link add br0 type bridge
ip address add 10.200.0.1/24 dev br0
ip link set br0 up
ip route add 10.96.0.0/16 dev br0 # services: any route will do, their addresses are replaced before it is taken
for hierarchy in $(cgroup_hierarchies); do
    mkdir -p "$hierarchy/$(cgroup)"
    # All containers together weigh as much as one process outside, and would be starved by a build of twenty threads.
    for weight in cpu.shares=65536 cpu.weight=10000; do
        [ ! -e "$hierarchy/$(cgroup)/${weight%=*}" ] || echo "${weight#*=}" >"$hierarchy/$(cgroup)/${weight%=*}"
    done
done

"$here/component.sh" start etcd
"$here/component.sh" start kube-apiserver
# Nodes start their containerd while the API server starts.
for node in $(seq "$NODES"); do "$here/boot.sh" on "$node"; done
until kubectl get --raw /readyz >/dev/null 2>&1; do sleep 0.2; done
for name in kube-controller-manager kube-scheduler dns kube-proxy; do "$here/component.sh" start "$name"; done
kubectl apply -f "$here/storage.yaml"
"$here/volumes.sh" create
until [ "$(kubectl get nodes --no-headers | grep -cw Ready)" = "$NODES" ]; do sleep 0.2; done
kubectl wait --for=create serviceaccount/default --timeout=300s # without it a pod in this namespace is refused
touch run/up
# Also buries whatever processes lose their parents.
"$here/volumes.sh" watch
