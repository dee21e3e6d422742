# Words that the harness's scripts share. ROOT is the cluster's directory, $here that of the scripts.
# shellcheck shell=bash

say() { printf '== %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Where the binaries of these sources are, built or not.
# shellcheck disable=SC2154 # here is set by whoever reads this file
binaries() {
    local key
    key=$(cd "$here" && find binaries binaries.sh -type f -print0 | sort -z | xargs -0 sha256sum | cat - <(uname -m) | sha256sum)
    echo "${XDG_CACHE_HOME:-$HOME/.cache}/armdb/kubernetes-${key:0:16}"
}

cni_plugins() {
    local dir
    for dir in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
        if [ -x "$dir/bridge" ] && [ -x "$dir/host-local" ] && [ -x "$dir/loopback" ]; then echo "$dir"; return; fi
    done
    return 1
}

# This process and its children go first: leases and handshakes have deadlines in real time, and whoever builds beside
# must not starve Kubernetes itself. Where sessions share the processors (autogroup), the session goes first.
go_first() {
    renice -n -10 -p $$ >/dev/null 2>&1 || true
    { echo -10 >/proc/$$/autogroup; } 2>/dev/null || true
}

# Process 1 of the cluster as this side numbers it; fails if it does not run.
init_pid() {
    local pid
    pid=$(cat "$ROOT/run/init" 2>/dev/null) && [ -n "$pid" ] || return 1
    # A number may have been given to another process since: ours names its directory.
    tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF -- "$ROOT" || return 1
    echo "$pid"
}

# Runs a command inside the cluster, in the directory where the caller is. Who is inside already stays there.
run() {
    local init
    [ "${ARMDB_KUBERNETES_INSIDE:-}" != "$ROOT" ] || { "$@"; return; }
    init=$(init_pid) || die "no cluster runs in $ROOT: harness.sh up"
    nsenter --target "$init" --mount --net --pid -- env -C "$PWD" ARMDB_KUBERNETES="$ROOT" \
        ARMDB_KUBERNETES_INSIDE="$ROOT" KUBECONFIG="$ROOT/admin.kubeconfig" PATH="$ROOT/bin:$PATH" "$@"
}

# Runs a command on a node.
on_node() {
    local node=$1 pid
    shift
    run true # says so if there is no cluster at all
    pid=$(cat "$ROOT/nodes/$node/init" 2>/dev/null) || die "node $node has no power: harness.sh power-on $node"
    run nsenter --target "$pid" --mount --net --pid --uts -- "$@"
}

# The cgroup below which everything of this cluster is, in every hierarchy.
cgroup() { echo "armdb-kubernetes-$(sha256sum <<<"$ROOT" | cut -c1-12)"; }

# The cgroup hierarchies of this machine: one with version 2, one a controller with version 1.
cgroup_hierarchies() { findmnt --noheadings --list --output TARGET --types cgroup,cgroup2; }

# Fails while one of them still holds a process.
remove_cgroups() {
    local hierarchy
    for hierarchy in $(cgroup_hierarchies); do
        [ ! -d "$hierarchy/$(cgroup)" ] || find "$hierarchy/$(cgroup)" -depth -type d -exec rmdir {} + 2>/dev/null || return 1
    done
}
