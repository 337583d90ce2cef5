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

# What config/default runs; `make image IMAGE=...` gives the image another name.
IMAGE ?= $(shell e2e/images.sh operator)
# 25 MB, which pulling it on a node should never exceed.
image_limit := 25000000

.PHONY: help demo check test soak bench-capture bench-delivery cluster cluster-down dist image images crds fmt musl needs

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
	FAULTS=$(SOAK) cargo test --test it faults:: -- --nocapture

bench-capture: needs ## what capture costs, beside other triggers, on a PostgreSQL 15 of its own; about 15 minutes
	@e2e/need.sh $(addprefix /usr/lib/postgresql/15/,bin/postgres bin/pgbench lib/pgq_triggers.so)
	cargo bench --bench capture

bench-delivery: needs ## how fast and how soon events are delivered, beside job queues, with a PostgreSQL 15 of its own; about 20 minutes
	@e2e/need.sh /usr/lib/postgresql/15/bin/postgres npm
	benches/peers/install.sh
	cargo bench --bench delivery

cluster: ## a one-node cluster with the operator in it; needs root; `make cluster-down` removes it
	e2e/cluster/cluster install
	e2e/cluster/cluster run true 2>/dev/null || e2e/cluster/cluster up
	e2e/operator.sh
	@echo 'e2e/cluster/cluster run CMD... runs a command in it, such as: e2e/cluster/cluster run kubectl get pods -A'

cluster-down: ## removes what `make cluster` has made
	e2e/cluster/cluster down

# Both in one go: cargo would compile what they share twice, with different features.
dist: musl ## static release binaries, in dist/<architecture>/
	cargo build --release --target $(musl) --workspace --bin eventtrigger --bin receiver
	install -D -t $(dist) target/$(musl)/release/eventtrigger target/$(musl)/release/receiver
	@size=$$(stat -c %s $(dist)/eventtrigger); echo "$(dist)/eventtrigger: $$((size / 1000)) kB"; \
	  (( size < $(image_limit) )) || { echo "more than $(image_limit) bytes, which is all that the image holds" >&2; exit 1; }

image: dist ## the operator's image, by docker, podman or buildah, whichever is there
	e2e/images.sh build . $(IMAGE)

images: image ## also those that the e2e tests use, for a cluster of yours
	e2e/images.sh build . $$(e2e/images.sh receiver) -f e2e/cluster/receiver/Dockerfile
	e2e/images.sh build e2e/cluster/postgres $$(e2e/images.sh postgres)

crds: ## crds/ from the Rust types
	text=$$(cargo run --quiet -- crds) && printf '%s\n' "$$text" > crds/crds.yaml

fmt: ## formats the sources
	cargo fmt --all

# The target of rustc, and a C compiler for it: two of the crates hold C.
musl: needs
	@e2e/need.sh rustup musl-gcc
	@rustup target list --installed | grep -qx $(musl) || rustup target add $(musl)

needs:
	@e2e/need.sh cargo cc
