#!/usr/bin/env bash
# images.sh DIR: builds the project's images into DIR, as archives that the nodes import at boot.
#
#   registry.test/armdb:1        the project's own Dockerfile around a static binary
#   registry.test/armdb:2        the same program in another image: what an upgrade goes to
#   registry.test/armdb:broken   a release whose program ends at once
#
# PROFILE is cargo's profile: dev, which shares all but the last step with the tests' own build, or release, which is what
# is shipped and must be small. One program serves as all of them: only a broken one is another.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/kubernetes/harness/lib.sh
. "$here/lib.sh"
project=$(cd "$here/../../.." && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)

cd "$project"
profile=${PROFILE:-dev}
say "building armdb ($profile, static)"
# Only the program's own crate is told: whether the C library is linked in is decided there, and everything else is built
# once for this and for the tests.
cargo rustc --locked --quiet --profile "$profile" --bin armdb -- -C target-feature=+crt-static
built=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")/armdb

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
# Taken at once: whoever builds next puts a program there that is not static. Without what only a debugger reads, which
# is most of it, and would be unpacked on every node.
program=$context/program
objcopy --strip-debug "$built" "$program"
image() { # TAG PROGRAM ARGUMENT...
    local tag=$1
    cp "$2" "$context/armdb"
    shift 2
    "$here/buildah.sh" "registry.test/armdb:$tag" "$out/armdb-$tag.tar" --build-context build="$context" "$@" "$project"
}
image 1 "$program"
image 2 "$program" --label org.opencontainers.image.version=2
image broken "$(binaries)/broken"
