#!/usr/bin/env bash
# volumes.sh create|recycle|watch: the local volumes of the nodes; runs inside the cluster.
#
# Does what the static provisioner of local volumes does: a directory on a node is offered as a PersistentVolume; once
# its claim is deleted it is emptied and offered anew. As there, an unreachable node's volumes wait for the node.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/kubernetes/harness/lib.sh
. "$here/lib.sh"
cd "$ROOT"

offer() { # NODE VOLUME
    mkdir -p "nodes/$1/volumes/$2"
    # The group of a pod gets its right by fsGroup; nobody else has one.
    chmod 0750 "nodes/$1/volumes/$2"
    cat <<YAML
---
apiVersion: v1
kind: PersistentVolume
metadata:
  name: node$1-$2
  # An external provisioner's: Kubernetes leaves the reclaiming to it.
  annotations: {pv.kubernetes.io/provisioned-by: armdb-tests}
spec:
  storageClassName: nvme-local
  capacity: {storage: 100Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Delete
  local: {path: $ROOT/nodes/$1/volumes/$2}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node$1]}]
YAML
}

recycle() { # of the volumes named on standard input, with their phase
    local name phase
    while read -r name phase; do
        [ "$phase" = Released ] || continue
        # The watch and a node that is plugged in again may find the same volume: one at a time empties it.
        flock recycling "$here/volumes.sh" recycle-one "$name"
    done
}

recycle_one() { # NAME
    local node=${1#node} volume=${1#*-}
    node=${node%%-*}
    [ ! -e "nodes/$node/unplugged" ] || return 0
    # What was told is of once: a volume that is offered again, or taken, is nobody's to empty.
    [ "$(kubectl get pv "$1" --ignore-not-found -o jsonpath='{.status.phase}')" = Released ] || return 0
    find "nodes/$node/volumes/$volume" -mindepth 1 -delete
    kubectl delete pv "$1" >/dev/null
    offer "$node" "$volume" | kubectl create -f - >/dev/null
    say "recycled $1"
}

phases() { kubectl get pv --no-headers -o custom-columns=NAME:.metadata.name,PHASE:.status.phase "$@"; }

case "${1:-}" in
    create)
        for node in $(seq "$NODES"); do
            for volume in $(seq "$VOLUMES"); do offer "$node" "$volume"; done
        done | kubectl create -f - ;;
    recycle) phases | recycle ;;
    recycle-one) recycle_one "$2" ;;
    watch)
        # A watch ends when the API server does, and now and then by itself.
        while :; do phases --watch | recycle || true; sleep 1; done ;;
    *) die "volumes.sh create|recycle|watch" ;;
esac
