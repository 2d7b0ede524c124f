FROM rust:1.95-slim-trixie AS manifest
WORKDIR /manifest
COPY Cargo.toml Cargo.lock ./
# Neither tests nor benchmarks are here, and Cargo wants every target that the manifest names to exist.
RUN sed -i '/^\[\[\(test\|bench\)\]\]$/,/^$/d' Cargo.toml

FROM rust:1.95-slim-trixie AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# jemalloc's build.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# A small image: relocations as the dynamic linker can take them in short.
ENV RUSTFLAGS="-C link-arg=-Wl,-z,pack-relative-relocs"

# The dependencies are a layer of their own, which only these files decide. The lints want a line about each crate.
COPY .cargo/config.toml .cargo/
COPY --from=manifest /manifest ./
RUN mkdir src \
    && echo '//! A place for the library.' > src/lib.rs \
    && printf '//! A place for the program.\nfn main() {}\n' > src/main.rs \
    && cargo build --locked --release --bin switchyard \
    && rm -rf src target/release/switchyard target/release/deps/*switchyard* target/release/.fingerprint/switchyard-*

COPY src src
RUN cargo build --locked --release --bin switchyard

# The program and the libraries that it names, which are the C library's. Times would make each build another image.
RUN mkdir -p /image \
    && strip -o /image/switchyard target/release/switchyard \
    && ldd target/release/switchyard | grep -o '/[^ ]*' | xargs -I{} cp --dereference --parents {} /image/ \
    && find /image -exec touch --date=@0 {} +

# No shell, no package manager, nothing to write to.
FROM scratch
COPY --from=build /image /
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
EXPOSE 8080 8443 9090
ENTRYPOINT ["/switchyard"]
# Last, since they differ where the layers do not.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="switchyard" \
      org.opencontainers.image.description="Kubernetes ingress controller and proxy for WebSocket traffic" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"
