#!/usr/bin/env bash
# boot.sh on|off N: the power of node N; runs inside the cluster.
#
# A node's network and its cable are made at each boot, so that no rule, bridge or address of the time before is left.
# Its disk (nodes/N) stays. What the page cache held survives a power cut here: what a lost cache does to the data is
# tested on a simulated disk.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/kubernetes/harness/lib.sh
. "$here/lib.sh"
node=${2:?a node}
if ! [[ "$node" =~ ^[1-9]$ ]] || [ "$node" -gt "$NODES" ]; then die "no node $node: they are 1 to $NODES"; fi
net=node$node cable=cable$node address=10.200.0.$((10 + node))

on() {
    [ ! -e "$ROOT/nodes/$node/init" ] || die "node $node has power"
    mkdir -p "$ROOT/nodes/$node/log"
    ip netns add "$net"
    ip link add "$cable" type veth peer name eth0 netns "$net"
    ip link set "$cable" master br0 up
    ip -n "$net" link set lo up
    ip -n "$net" address add "$address/24" dev eth0
    ip -n "$net" link set eth0 up
    ip -n "$net" route add default via 10.200.0.1
    ip route replace "10.244.$node.0/24" via "$address"
    # Not `ip netns exec`, which mounts a new /sys: one without cgroups.
    setsid nsenter --net="/run/netns/$net" unshare --mount --uts --pid --fork --kill-child --mount-proc \
        "$here/node.sh" "$node" >>"$ROOT/nodes/$node/log/node.log" 2>&1 </dev/null &
    local unshare=$! init
    until init=$(pgrep -P $unshare); do
        kill -0 $unshare || die "node $node did not start: see $ROOT/nodes/$node/log/node.log"
        sleep 0.02
    done
    echo "$init" >"$ROOT/nodes/$node/init"
}

off() {
    kill -9 "$(cat "$ROOT/nodes/$node/init")" || die "node $node has no power"
    rm "$ROOT/nodes/$node/init"
    ip link del "$cable"
    ip netns del "$net"
}

case "${1:-}" in on | off) "$1" ;; *) die "boot.sh on|off N" ;; esac
