# armdb in one file: nothing but the static binary, no shell, no user database, under 25 MB.
#
#   docker build -t armdb:0.1.0 .                                       from source, on any machine with Docker
#   buildah build --build-context build=DIR -t armdb:0.1.0 .            around DIR/armdb, a binary that is built already
#
# The binary must be static: cargo build --release --no-default-features
# --target x86_64-unknown-linux-gnu with
# RUSTFLAGS="-C target-feature=+crt-static".

FROM docker.io/library/rust:1-bookworm AS build
WORKDIR /src
COPY . .
# The target is named so that the flags do not reach build scripts and procedural macros, which cannot be static.
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --no-default-features --bin armdb --target "$target" \
 && cp "target/$target/release/armdb" /armdb

FROM scratch
COPY --from=build /armdb /armdb
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
ENTRYPOINT ["/armdb"]
