#!/usr/bin/env bash
# A real Kubernetes of several nodes on this machine, in namespaces of its own: the tests' machine room.
#
#   harness.sh missing             says what this machine lacks; nothing = it will do
#   harness.sh prepare             installs Debian packages that are missing, builds the binaries (once, into a cache)
#   harness.sh images              builds the project's images; needs cargo
#   harness.sh up                  starts the cluster and waits until every node is Ready
#   harness.sh down                ends every process of it and removes its directory
#   harness.sh hold                up; says "up" on standard output; down when standard input ends
#   harness.sh import              gives the running nodes the images that were built since they booted
#   harness.sh run CMD...          CMD inside: the cluster's network, names, processes; kubectl and helm on the PATH
#   harness.sh enter               a shell inside
#   harness.sh node-run N CMD...   CMD on node N
#   harness.sh node-down N         unplugs node N: everything on it runs on and reaches nobody
#   harness.sh node-up N           plugs it in again
#   harness.sh power-cut N         ends every process of node N at once; its disk stays
#   harness.sh power-on N          boots it again
#   harness.sh stop COMPONENT      kills etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy or dns
#   harness.sh start COMPONENT     starts it again, unless it runs
#   harness.sh mend                undoes all of these: components run, nodes have power, are plugged in and take pods
#   harness.sh signal SIGNAL NAMESPACE POD [CONTAINER]   to a container's first process, from outside, as kill -9 would
#   harness.sh collect DIR         logs, objects and events into DIR
#
# ARMDB_KUBERNETES  the cluster's directory (default /tmp/armdb-kubernetes); each directory is a cluster of its own
# ARMDB_KUBERNETES_FAILURES  where a failed start leaves its logs
# NODES             how many nodes (3); VOLUMES: how many local volumes each of them has (8)
#
# Inside: the bridge br0 (10.200.0.1, where the API server and the DNS listen) and, on a cable of its own, each node
# (10.200.0.(10+N)) with network, mounts, host name and process ids of its own. Process 1 inside is init.sh: when it
# ends, everything ends. Nothing reaches the world outside, and nothing outside is changed but cgroups, which `down`
# removes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/harness" && pwd)
export ROOT=${ARMDB_KUBERNETES:-/tmp/armdb-kubernetes}
# What a cluster was made with, it keeps.
# shellcheck disable=SC1091
[ ! -e "$ROOT/settings" ] || . "$ROOT/settings"
export NODES=${NODES:-3} VOLUMES=${VOLUMES:-8}
# shellcheck source=tests/kubernetes/harness/lib.sh
. "$here/lib.sh"

# What this machine lacks and nobody here can mend.
missing() {
    [ "$(uname -s)" = Linux ] || echo "Linux: the nodes are namespaces of its kernel"
    [ "$(id -u)" = 0 ] || echo "root: namespaces, bridges and cgroups are made"
    [ -e /sys/fs/cgroup ] || echo "cgroups, mounted on /sys/fs/cgroup"
    command -v go >/dev/null || [ -x "$(binaries)/kube" ] || echo "Go 1.26 or newer: Kubernetes is built from its source"
    command -v gcc >/dev/null || [ -x "$(binaries)/pause" ] || echo "gcc: the pause program is built"
    command -v apt-get >/dev/null || lacking_packages | sed 's/$/: install it; there is no apt-get to do so/'
    unshare -m -n -p -f true 2>/dev/null || echo "the right to make namespaces (CAP_SYS_ADMIN)"
}

# Packages by what they are needed for: a machine that has the command from elsewhere keeps it.
lacking_packages() {
    local pair
    for pair in containerd:containerd ctr:containerd runc:runc iptables:iptables conntrack:conntrack ethtool:ethtool \
        socat:socat buildah:buildah ip:iproute2 nsenter:util-linux openssl:openssl pgrep:procps sysctl:procps; do
        command -v "${pair%:*}" >/dev/null || echo "${pair#*:}"
    done | sort -u
    cni_plugins >/dev/null || echo containernetworking-plugins
}

packages() {
    local lacking
    mapfile -t lacking < <(lacking_packages)
    [ ${#lacking[@]} -gt 0 ] || return 0
    say "installing ${lacking[*]}"
    # A service that the package would start is none of our business: the nodes start their own.
    apt-get update -q >&2
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${lacking[@]}" >&2
}

not_up() {
    local folder=${ARMDB_KUBERNETES_FAILURES:-$(mktemp -d)}/up
    "$here/collect.sh" "$folder"
    die "Kubernetes did not start: $1; logs are in $folder"
}

up() {
    [ ! -e "$ROOT/run/init" ] || die "$ROOT is a cluster already: harness.sh down, or set ARMDB_KUBERNETES to another directory"
    local bin started=$SECONDS
    bin=$(binaries)
    [ -x "$bin/kube" ] || die "the binaries are not built: harness.sh prepare"
    mkdir -p "$ROOT"/{bin,pki,log,run,nodes,images}
    echo "NODES=$NODES VOLUMES=$VOLUMES" >"$ROOT/settings"
    ln -sf "$bin"/* "$ROOT/bin/"
    cp "$bin/pause.tar" "$ROOT/images/"
    "$here/certificates.sh"
    # Held, it ends with whoever holds it, even if that is killed: nobody would be left to end it.
    local tied=()
    [ "${1:-}" != held ] || tied=(setpriv --pdeathsig KILL)
    # A session of its own, so that Ctrl-C at the caller ends the cluster by `down` and not in the middle of it.
    setsid "${tied[@]}" unshare --net --mount --pid --fork --kill-child --mount-proc \
        "$here/init.sh" "$ROOT" >"$ROOT/log/init.log" 2>&1 </dev/null &
    local unshare=$!
    until [ -e "$ROOT/run/up" ]; do
        # `unshare` may not have forked yet; it is gone only if it failed.
        kill -0 $unshare 2>/dev/null || not_up "it ended"
        pgrep -P $unshare >"$ROOT/run/init" || true
        [ $((SECONDS - started)) -lt 600 ] || not_up "not every node is Ready after 600 s"
        sleep 0.1
    done
    say "Kubernetes with $NODES nodes is up after $((SECONDS - started)) s"
}

down() {
    local init
    init=$(init_pid) && kill -9 "$init"
    [ -d "$ROOT" ] || return 0
    # Every process of the cluster is in a cgroup's list no longer when its cgroup can be removed; that takes a moment.
    local _
    for _ in $(seq 100); do remove_cgroups && break; sleep 0.1; done
    rm -rf "$ROOT"
}

hold() {
    trap 'trap "" INT TERM HUP; down' EXIT
    trap 'exit 130' INT TERM HUP
    up held
    echo up
    cat >/dev/null
}

enter() {
    say "inside: kubectl and helm work; node-down, power-cut and the like from outside; exit leaves it running"
    cat >"$ROOT/run/bashrc" <<'BASH'
[ ! -f ~/.bashrc ] || . ~/.bashrc
PS1="[kubernetes] $PS1"
BASH
    run bash --rcfile "$ROOT/run/bashrc" -i
}

import() {
    local node archive
    for node in $(seq "$NODES"); do
        for archive in "$ROOT"/images/*.tar; do on_node "$node" ctr --namespace k8s.io images import "$archive"; done
    done >/dev/null
}

images() { mkdir -p "$ROOT/images"; "$here/images.sh" "$ROOT/images"; }

node_down() { run ip link set "cable$1" down; touch "$ROOT/nodes/$1/unplugged"; }
node_up() { rm -f "$ROOT/nodes/$1/unplugged"; run ip link set "cable$1" up; run "$here/volumes.sh" recycle; }
power_cut() { touch "$ROOT/nodes/$1/unplugged"; run "$here/boot.sh" off "$1"; }
power_on() { run "$here/boot.sh" on "$1"; rm -f "$ROOT/nodes/$1/unplugged"; run "$here/volumes.sh" recycle; }

ready() { run kubectl get --raw /readyz >/dev/null 2>&1; }
nodes_ready() { [ "$(run kubectl get nodes --no-headers 2>/dev/null | grep -cw Ready)" = "$NODES" ]; }
within() { # SECONDS CONDITION
    local until=$((SECONDS + $1))
    until "$2"; do
        [ $SECONDS -lt $until ] || die "not $2 after $1 s"
        sleep 0.2
    done
}

mend() {
    local name node
    for name in etcd kube-apiserver kube-controller-manager kube-scheduler dns kube-proxy; do
        run "$here/component.sh" start "$name"
    done
    within 300 ready
    for node in $(seq "$NODES"); do
        if [ ! -e "$ROOT/nodes/$node/init" ]; then power_on "$node"; fi
        if [ -e "$ROOT/nodes/$node/unplugged" ]; then node_up "$node"; fi
        run kubectl uncordon "node$node" >/dev/null
    done
    within 300 nodes_ready
}

signal() { # SIGNAL NAMESPACE POD [CONTAINER]
    local where node id
    where=$(run kubectl -n "$2" get pod "$3" -o \
        jsonpath="{.spec.nodeName} {range .status.containerStatuses[*]}{.name}={.containerID} {end}")
    node=${where%% *} id=$(grep -oP "(^| )${4:-[^ =]+}=containerd://\K[0-9a-f]+" <<<"$where" | head -1)
    [ -n "$id" ] || die "pod $2/$3 has no running container ${4:-}"
    on_node "${node#node}" ctr --namespace k8s.io tasks kill --signal "$1" "$id"
}

command=${1:-}
[ $# = 0 ] || shift
case "$command" in
    missing | up | down | hold | enter | images | import | signal | mend) "$command" "$@" ;;
    prepare) packages; "$here/binaries.sh" ;;
    run) run "$@" ;;
    node-run) on_node "$@" ;;
    node-down | node-up | power-cut | power-on) "${command/-/_}" "$@" ;;
    stop) run "$here/component.sh" stop "$@" ;;
    start) run "$here/component.sh" start "$@" ;;
    collect) "$here/collect.sh" "$@" ;;
    *)
        sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac
