# The one entrance. `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# Where rustup and Go put their programs, which only login shells are told.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/go/bin

# As rustc calls this machine's processor, and as images do.
machine := $(shell uname -m)
architecture := $(patsubst aarch64,arm64,$(patsubst x86_64,amd64,$(machine)))
musl := $(machine)-unknown-linux-musl
dist := dist/$(architecture)

# What the chart and config/default run; `make image IMAGE=...` gives the image another name.
IMAGE ?= $(shell e2e/images.sh operator)
# 25 MB, which pulling it on a node should never exceed.
image_limit := 25000000

.PHONY: help demo check docs test soak bench-capture bench-delivery bench-scale cluster cluster-down dist image images crds chart fmt musl needs

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: needs ## the quickstart on an embedded PostgreSQL, with what happens when things fail; needs no root
	cargo build --workspace --bins
	target/debug/demo

check: needs ## format, lints, unit tests, and database tests on one PostgreSQL
	@e2e/test.sh check

test: needs ## everything, also on a real cluster: its own as root, or the one that KUBECONFIG names
	@e2e/test.sh all

# Every round prints its seed; JUDGE_SEED=... cargo test --test it judge:: runs the same transactions again.
SOAK ?= 10m
soak: needs ## the log against PostgreSQL's logical decoding, then delivery through faults, each for SOAK=10m
	SOAK=$(SOAK) cargo test --test it judge::soak -- --ignored --exact --nocapture
	@e2e/need.sh faketime
	FAULTS=$(SOAK) cargo test --test it faults:: -- --nocapture

bench-capture: needs ## what capture costs, beside other triggers, on a PostgreSQL 15 of its own; about 15 minutes
	@e2e/need.sh $(addprefix /usr/lib/postgresql/15/,bin/postgres bin/pgbench lib/pgq_triggers.so)
	cargo bench --bench capture

# The worker that is measured is the one that is shipped.
bench-delivery: dist ## how fast and how soon events are delivered, beside job queues, with a PostgreSQL 15 of its own; about 20 minutes
	@e2e/need.sh /usr/lib/postgresql/15/bin/postgres npm
	benches/peers/install.sh
	BENCH_PROGRAM=$(CURDIR)/$(dist)/eventtrigger cargo bench --bench delivery

bench-scale: ## 1,000 EventTriggers over 20 EventLogs on a cluster of its own: how soon, how big, how quiet; needs root; about 6 minutes
	e2e/cluster/cluster install
	CLUSTER_NAME=scale e2e/cluster/cluster up
	trap 'CLUSTER_NAME=scale e2e/cluster/cluster down' EXIT; export CLUSTER_NAME=scale; e2e/operator.sh && \
	  e2e/cluster/cluster run env E2E_AUDIT_LOG="$$(e2e/cluster/cluster audit-log)" \
	  cargo test --workspace --offline --test cluster -- scale:: --ignored --nocapture

cluster: ## a one-node cluster with the operator in it; needs root; `make cluster-down` removes it
	e2e/cluster/cluster install
	e2e/cluster/cluster run true 2>/dev/null || e2e/cluster/cluster up
	e2e/operator.sh
	@echo 'e2e/cluster/cluster run CMD... runs a command in it, such as: e2e/cluster/cluster run kubectl get pods -A'

cluster-down: ## removes what `make cluster` has made
	e2e/cluster/cluster down

# Both in one go: cargo would compile what they share twice, with different features. Without tables for unwinding, two of 25 MB: a
# panic aborts, and in a stripped binary a backtrace would name nothing.
dist: musl ## static release binaries, in dist/<architecture>/
	RUSTFLAGS='-C force-unwind-tables=no' cargo build --release --target $(musl) --workspace --bin eventtrigger --bin receiver
	install -D -t $(dist) target/$(musl)/release/eventtrigger target/$(musl)/release/receiver
	@size=$$(stat -c %s $(dist)/eventtrigger); echo "$(dist)/eventtrigger: $$((size / 1000)) kB"; \
	  (( size < $(image_limit) )) || { echo "more than $(image_limit) bytes, which is all that the image holds" >&2; exit 1; }

image: dist ## the operator's image, by docker, podman or buildah, whichever is there
	e2e/images.sh build . $(IMAGE)

images: image ## also those that the e2e tests use, for a cluster of yours
	e2e/images.sh build . $$(e2e/images.sh receiver) -f e2e/cluster/receiver/Dockerfile
	e2e/images.sh build e2e/cluster/postgres $$(e2e/images.sh postgres)

crds: ## crds/ and those of the chart, from the Rust types, and the documentation of every field
	text=$$(cargo run --quiet -- crds) && printf '%s\n' "$$text" > crds/crds.yaml
	awk -f charts/crds.awk crds/crds.yaml > charts/eventtrigger/templates/crds.yaml
	UPDATE=1 cargo test --quiet --test docs every_field

chart: crds ## the chart's CRDs, and its README from its values
	"$$(e2e/tools/tool helm-docs)" --chart-search-root charts --template-files README.md.gotmpl --sort-values-order file --log-level warning

fmt: ## formats the sources
	cargo fmt --all

# The target of rustc, and a C compiler for it: two of the crates hold C.
musl: needs
	@e2e/need.sh rustup musl-gcc
	@rustup target list --installed | grep -qx $(musl) || rustup target add $(musl)

needs:
	@e2e/need.sh cargo cc

docs: needs ## the documentation as a book, in target/book
	@command -v mdbook >/dev/null || cargo install --locked mdbook
	mdbook build docs
