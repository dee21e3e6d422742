#!/usr/bin/env bash
# component.sh start|stop NAME: a component of the control plane; runs inside the cluster.
#
# Starting what runs does nothing. What was stopped is gone when the command ends: nobody is answered any more, not even
# halfway.
#
# Flags that are not Kubernetes' defaults are here for three reasons: the tests must not wait (grace periods), the
# machine is small (no fsync, no leader election among one), or there is only one address to listen on.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/kubernetes/harness/lib.sh
. "$here/lib.sh"
cd "$ROOT"

# How a component finds the API server and whom it lets ask for its own metrics.
api() {
    echo --kubeconfig "$1.kubeconfig" --authentication-kubeconfig "$1.kubeconfig" \
        --authorization-kubeconfig "$1.kubeconfig" --bind-address 127.0.0.1 --cert-dir "run/$1" --leader-elect=false
}

# shellcheck disable=SC2046 # the flags are words
become() {
    go_first
    echo $$ >"run/$1.pid"
    case "$1" in
        etcd)
            # Without fsync: a power cut of the control plane is not what is tested, and the disk may be slow.
            exec etcd --data-dir etcd --listen-client-urls http://127.0.0.1:2379 --unsafe-no-fsync \
                --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 ;;
        kube-apiserver)
            exec kube-apiserver --etcd-servers http://127.0.0.1:2379 --bind-address 10.200.0.1 \
                --advertise-address 10.200.0.1 --cert-dir run/apiserver \
                --tls-cert-file pki/apiserver.crt --tls-private-key-file pki/apiserver.key --client-ca-file pki/ca.crt \
                --kubelet-certificate-authority pki/ca.crt --kubelet-preferred-address-types InternalIP \
                --kubelet-client-certificate pki/admin.crt --kubelet-client-key pki/admin.key \
                --service-account-key-file pki/service-account.key \
                --service-account-signing-key-file pki/service-account.key \
                --service-account-issuer https://kubernetes.default.svc --service-cluster-ip-range 10.96.0.0/16 \
                --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged=true \
                --audit-policy-file "$here/audit.yaml" --audit-log-path log/audit.log ;;
        kube-controller-manager)
            # A node that is silent for 10 s is NotReady; by default that takes 40 s.
            exec kube-controller-manager $(api controller-manager) --use-service-account-credentials \
                --service-account-private-key-file pki/service-account.key --root-ca-file pki/ca.crt \
                --node-monitor-grace-period 10s --node-monitor-period 1s ;;
        kube-scheduler)
            exec kube-scheduler $(api scheduler) ;;
        kube-proxy)
            # For the tests themselves, which stand where the control plane stands: services have their addresses here
            # too. It goes by a node's name because one that finds no node of its own name waits 30 s for it.
            exec kube-proxy --kubeconfig proxy.kubeconfig --hostname-override node1 --proxy-mode iptables \
                --cluster-cidr 10.244.0.0/16 --conntrack-max-per-core 0 ;;
        dns)
            exec dns -conf "$here/Corefile" ;;
    esac
}

name=${2:-}
names=" etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy dns "
[[ "$names" = *" $name "* ]] || die "no component '$name': they are$names"
pid=$(cat "run/$name.pid" 2>/dev/null) || pid=
# A number may have been given to another process since: ours has its name among its words.
runs() { [ -n "$pid" ] && tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF -- "$name"; }

start() {
    ! runs || return 0
    rm -f "run/$name.pid"
    # A session of its own: Ctrl-C at whoever asked is not meant for it.
    setsid "$here/component.sh" become "$name" >>"log/$name.log" 2>&1 </dev/null &
    until [ -s "run/$name.pid" ]; do sleep 0.02; done
}

stop() {
    runs || die "$name does not run"
    kill -9 "$pid"
    # Its sockets answer until its last thread is gone, and then it is buried.
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
    rm -f "run/$name.pid"
}

case "$1" in
    start | stop) "$1" ;;
    become) become "$name" ;;
    *) die "component.sh start|stop NAME" ;;
esac
