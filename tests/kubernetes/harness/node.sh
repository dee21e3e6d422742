#!/usr/bin/env bash
# Process 1 of node N: containerd, kubelet and kube-proxy. Ends with the kubelet; everything on the node ends with it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/kubernetes/harness/lib.sh
. "$here/lib.sh"
node=$1
disk=$ROOT/nodes/$node
socket=/run/containerd/containerd.sock
cd "$disk"
export PATH="$ROOT/bin:$PATH"

go_first
hostname "node$node"
sysctl -qw net.ipv4.ip_forward=1
# Directories that are wired into kubelet, containerd and CNI: each node has its own, gone with its power ...
for dir in /run /var/lib/kubelet /var/lib/cni /var/log/containers; do mkdir -p $dir; mount -t tmpfs tmpfs $dir; done
# ... but for what containers print, which people read.
mkdir -p log/pods /var/log/pods
mount --bind log/pods /var/log/pods
mkdir -p /run/containerd containerd cni

# Layers lie upon each other by overlayfs, where the file system below allows it: one in a container often does not.
snapshotter=overlayfs
mkdir -p probe/{lower,upper,work,merged}
if mount -t overlay overlay -o "lowerdir=$disk/probe/lower,upperdir=$disk/probe/upper,workdir=$disk/probe/work" probe/merged 2>/dev/null; then
    umount probe/merged
else
    snapshotter=native
fi

cat >containerd.toml <<TOML
version = 2
root = "$disk/containerd"
state = "/run/containerd"
[grpc]
  address = "$socket"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.test/pause:1"
  # A machine without CAP_SYS_RESOURCE refuses a negative score, and with it every container.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$(cni_plugins)"
    conf_dir = "$disk/cni"
TOML
cat >cni/10-pods.conflist <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "pods", "isGateway": true, "ipMasq": false,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.$node.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
cat >kubelet.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $ROOT/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $ROOT/pki/node$node.crt
tlsPrivateKeyFile: $ROOT/pki/node$node.key
containerRuntimeEndpoint: unix://$socket
clusterDNS: [10.200.0.1]
clusterDomain: cluster.local
resolvConf: ""
cgroupDriver: cgroupfs
# Of its own: a kubelet removes the cgroups of pods that it does not know, and its neighbours' are on this machine.
cgroupRoot: /$(cgroup)/node$node
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
# Told missing soon after it is: by default that takes 40 s.
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 10
# The machine's disk is everybody's: how full it is, is nobody's fault here.
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
YAML
for hierarchy in $(cgroup_hierarchies); do mkdir -p "$hierarchy/$(cgroup)/node$node"; done

containerd --config containerd.toml >>log/containerd.log 2>&1 &
until ctr --address $socket version >/dev/null 2>&1; do sleep 0.1; done
for archive in "$ROOT"/images/*.tar; do ctr --address $socket --namespace k8s.io images import "$archive"; done

# A pod that is deleted takes its logs along, and those are the ones that people ask for: a second name keeps them.
mkdir -p log/containers
while sleep 1; do cp -rln log/pods/. log/containers/ 2>/dev/null || true; done &

kube-proxy --kubeconfig "$ROOT/proxy.kubeconfig" --hostname-override "node$node" --proxy-mode iptables \
    --cluster-cidr 10.244.0.0/16 --conntrack-max-per-core 0 >>log/kube-proxy.log 2>&1 &
# Three zones, however many nodes.
kubelet --config kubelet.yaml --kubeconfig "$ROOT/node$node.kubeconfig" --hostname-override "node$node" \
    --node-ip "10.200.0.$((10 + node))" --root-dir "$disk/kubelet" --cert-dir "$disk/kubelet-certificates" \
    --node-labels "topology.kubernetes.io/zone=zone-$(((node - 1) % 3 + 1))" >>log/kubelet.log 2>&1
