FROM rust:1.95-slim-trixie AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# aws-lc is C and assembly.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y cmake gcc g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build

# The dependencies are a layer of their own, which only the two files decide. Cargo wants every target that the
# manifest names to exist.
COPY Cargo.toml Cargo.lock ./
RUN sed -n 's/^path = "\(.*\.rs\)"$/\1/p' Cargo.toml | while read -r target; do \
        mkdir -p "$(dirname "$target")" && echo 'fn main() {}' > "$target"; \
    done \
    && touch src/lib.rs \
    && cargo build --locked --release --bin switchyard \
    && rm -rf src target/release/switchyard target/release/deps/*switchyard* target/release/.fingerprint/switchyard-*

COPY src src
RUN cargo build --locked --release --bin switchyard

# The program and the libraries that it names, which are the C library's.
RUN mkdir -p /image \
    && cp target/release/switchyard /image/ \
    && ldd target/release/switchyard | grep -o '/[^ ]*' | xargs -I{} cp --dereference --parents {} /image/

# No shell, no package manager, nothing to write to.
FROM scratch
LABEL org.opencontainers.image.title="switchyard" \
      org.opencontainers.image.description="Kubernetes ingress controller and proxy for WebSocket traffic" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image /
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
EXPOSE 8080 8443 9090
ENTRYPOINT ["/switchyard"]
