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
[ ! -e "$out/kube" ] || exit 0
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
version=k8s.io/component-base/version
IFS=. read -r major minor _ <<<"$KUBERNETES"
# Without a version clients refuse the server.
build kube kube "-X $version.gitVersion=v$KUBERNETES -X $version.gitMajor=$major -X $version.gitMinor=$minor" .
build kube helm "-X helm.sh/helm/v3/internal/version.version=$(cd "$here/binaries/kube" && go list -m -f '{{.Version}}' helm.sh/helm/v3)" \
    helm.sh/helm/v3/cmd/helm
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
say "built in $((SECONDS - started)) s"
