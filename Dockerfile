FROM rust:1.95-slim-trixie AS manifest
WORKDIR /manifest
COPY Cargo.toml Cargo.lock ./
# Tests and benchmarks are not copied, but Cargo requires every target in the manifest to exist.
RUN sed -i '/^\[\[\(test\|bench\)\]\]$/,/^$/d' Cargo.toml

FROM rust:1.95-slim-trixie AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# For building jemalloc.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# For a small image: compact relocations, which the dynamic linker supports.
ENV RUSTFLAGS="-C link-arg=-Wl,-z,pack-relative-relocs"

# The dependencies are a separate layer that depends only on these files. The lints require a doc comment in each crate.
COPY .cargo/config.toml .cargo/
COPY --from=manifest /manifest ./
RUN mkdir src \
    && echo '//! Placeholder for the library.' > src/lib.rs \
    && printf '//! Placeholder for the program.\nfn main() {}\n' > src/main.rs \
    && cargo build --locked --profile dist --bin switchyard \
    && rm -rf src target/dist/switchyard target/dist/deps/*switchyard* target/dist/.fingerprint/switchyard-*

COPY src src
RUN cargo build --locked --profile dist --bin switchyard

# The program and its shared libraries, which are the C library's. Timestamps are reset for reproducible images.
RUN mkdir -p /image \
    && strip -o /image/switchyard target/dist/switchyard \
    && ldd target/dist/switchyard | grep -o '/[^ ]*' | xargs -I{} cp --dereference --parents {} /image/ \
    && find /image -exec touch --date=@0 {} +

# No shell, no package manager, nothing writable.
FROM scratch
COPY --from=build /image /
# Numeric, so that Kubernetes can verify that it is not root.
USER 65532:65532
EXPOSE 8080 8443 9090
ENTRYPOINT ["/switchyard"]
# Last, because they change when the layers do not.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="switchyard" \
      org.opencontainers.image.description="Kubernetes ingress controller and proxy for WebSocket traffic" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"
