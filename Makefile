# Two of these do all set-up by themselves on a new machine with Rust: `make demo` and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-restore test test-heavy test-real proofs dist check fmt lint doc coverage bench compare fuzz typos clean

# One target folder, outside the clone, for everything below and for CI.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cryostore/target

help: ## what there is (this list)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## look for what a build needs; as root on Debian, install what is missing
	@scripts/setup.sh build && echo "nothing is missing"

demo: ## build, take checkpoints of a small workload, store them, get one back, compare
	@scripts/demo.sh

demo-restore: ## a pod is frozen on one node and goes on on another, with real containerd and CRIU; root, on Debian
	@scripts/demo-restore.sh

test: ## all tests; ARGS="--test NAME" or ARGS="-- NAME" for some
	@scripts/test.sh $(ARGS)

test-heavy: ## all tests, with more servers: SeaweedFS, s3s-fs, garage (compiled once, some 20 minutes), then the proofs, shortened
	@CRYOSTORE_SERVERS=heavy scripts/test.sh $(ARGS)
	@tests/heavy/run.sh 60

test-real: ## the tests that freeze and restore real containers alone; ARGS="restore jupyter growth" for some; root, on Debian
	@tests/real/run.sh $(ARGS)

proofs: ## processes that are killed, stores that are shared, a network that is cut: two hours; ARGS=60 for seconds of each
	@scripts/setup.sh build
	@cargo build --release --workspace
	@tests/heavy/run.sh $(ARGS)

dist: ## what people install, in dist/: tar.gz, .deb, OCI image; ARGS=DIR for another place
	@scripts/dist.sh $(ARGS)

check: ## everything that CI does
	@.ci/run

fmt: ## format the code
	@cargo fmt --all

lint: ## format check and clippy, as CI has them
	@scripts/setup.sh check
	@cargo fmt --all --check
	@cargo clippy --release --workspace --all-targets -- -D warnings

doc: ## the documentation of all crates, private items too
	@scripts/setup.sh build
	@RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --document-private-items

coverage: ## line coverage of format-spec and engine, as text and HTML
	@scripts/coverage.sh $(ARGS)

bench: ## the benchmarks, some 3 minutes; ARGS="NAME" for those with NAME in their names
	@scripts/setup.sh build
	@cargo bench --workspace --benches $(ARGS)

compare: ## cryostore and the other tools on PATH on the same archives; ARGS="DIR" with *.tar, RUNS=3; writes docs/comparison.md
	@scripts/setup.sh build
	@benches/compare.sh $(ARGS)

fuzz: ## each fuzz target for TIME seconds (600); ARGS="TARGET" for one; needs nightly
	@TIME="$(or $(TIME),600)" scripts/fuzz.sh $(ARGS)

typos: ## spelling, if `typos` is on PATH (crate typos-cli)
	@typos

clean: ## remove the target folder, RocksDB with it
	@cargo clean
