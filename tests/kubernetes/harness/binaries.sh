#!/usr/bin/env bash
# Builds what the cluster runs: Kubernetes with etcd and kubectl (one binary), helm, CoreDNS, and the pause image.
#
# Once, into a cache folder named by a hash of these sources: about 13 minutes with nothing cached on two cores. At the
# lowest priority, because whoever waits for it builds something else meanwhile. Two callers build once.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/kubernetes/harness/lib.sh
. "$here/lib.sh"
KUBERNETES=1.34.4

out=$(binaries)
mkdir -p "$(dirname "$out")"
exec {lock}>"$out.lock"
flock $lock
if [ -e "$out/kube" ]; then touch "$out"; exit 0; fi
say "building Kubernetes $KUBERNETES into $out (minutes)"
started=$SECONDS
# Only a whole folder gets the name.
new=$out.new
rm -rf "$new"
mkdir "$new"

quietly=(nice -n 19)
! command -v ionice >/dev/null || quietly+=(ionice -c 3)
build() { # MODULE OUTPUT LDFLAGS PACKAGE
    say "building $2"
    (cd "$here/binaries/$1" && GOWORK=off \
        "${quietly[@]}" go build -mod=readonly -buildvcs=false -trimpath -ldflags "-s -w $3" -o "$new/$2" "$4")
}
IFS=. read -r major minor _ <<<"$KUBERNETES"
# As the projects' own makefiles do it. Without a version clients refuse the server; without one of Kubernetes, helm
# takes the cluster that it renders for to be of 2020.
of() { echo "-X $1.gitVersion=v$KUBERNETES -X $1.gitMajor=$major -X $1.gitMinor=$minor"; }
build kube kube "$(of k8s.io/component-base/version) $(of k8s.io/client-go/pkg/version)" .
helm=helm.sh/helm/v3
of() { echo "-X $1.k8sVersionMajor=$major -X $1.k8sVersionMinor=$minor"; }
build kube helm "-X $helm/internal/version.version=$(cd "$here/binaries/kube" && go list -m -f '{{.Version}}' $helm) \
    $(of $helm/pkg/chartutil) $(of $helm/pkg/lint/rules)" $helm/cmd/helm
build dns dns "" .
for name in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
    ln -s kube "$new/$name"
done

for program in pause broken; do gcc -static -O2 -Wall -o "$new/$program" "$here/binaries/$program.c"; done
"$here/buildah.sh" registry.test/pause:1 "$new/pause.tar" --file - "$new" <<'DOCKERFILE'
FROM scratch
COPY pause /pause
USER 65535:65535
ENTRYPOINT ["/pause"]
DOCKERFILE

mv "$new" "$out"
# 300 MB each: what no checkout has used for a month goes.
find "$(dirname "$out")" -maxdepth 1 -name 'kubernetes-*' -mtime +30 -exec rm -rf {} +
say "built in $((SECONDS - started)) s"
