# One command runs what CI runs: make test. `make help` names the rest.

# Stable Rust, without cargo-fuzz: these make rustc call libFuzzer's hooks. They need --target, for without it
# they would reach build scripts and procedural macros, which have no libFuzzer to link with.
fuzz_rustflags := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
host = $(shell rustc -vV | sed -n 's/^host: //p')
fuzz_targets = $(shell sed -n '/^\[\[bin\]\]/,/^name/ s/^name = "\(.*\)"/\1/p' tests/fuzz/Cargo.toml)
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 3600
SOAK_KILLS ?= 500
SOAK_ROWS ?= 20000000

.PHONY: help test setup lint fmt fuzz fuzz-build soak deny bench clean
.NOTPARALLEL:

help:
	@echo 'make test    install what the tests need, lint, build the fuzz targets, run every test'
	@echo 'make lint    formatting, clippy and documentation, warnings being errors'
	@echo 'make fmt     format all code'
	@echo 'make fuzz    run every fuzz target for FUZZ_SECONDS (60) each'
	@echo 'make soak    100 upgrades in a storm of signals; random faults for SOAK_SECONDS (3600), all finished'
	@echo '             downloads counted once; a private site killed SOAK_KILLS (500) times on each store;'
	@echo '             100,000 simulated clusters with random faults;'
	@echo '             SOAK_ROWS (20000000) rows of history read and purged, for which TMPDIR needs 8 GB'
	@echo 'make deny    check licences, bans and sources of all dependencies'
	@echo 'make bench   measure, and write docs/PERFORMANCE.md: half an hour; BENCH="--quick udp" for less,'
	@echo '             BENCH=peers for other trackers, BENCH=huge for a hundred million peers'
	@echo 'make clean   remove what was built and installed here'

test: setup lint fuzz-build
	tests/run

setup:
	tests/setup

lint:
	cargo fmt --check
	cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --workspace

fmt:
	cargo fmt
	cargo fmt --manifest-path tests/fuzz/Cargo.toml

# The dev profile for its assertions and overflow checks, optimised for the number of runs.
fuzz-build:
	CARGO_PROFILE_DEV_OPT_LEVEL=1 RUSTFLAGS='$(fuzz_rustflags)' \
		cargo build --manifest-path tests/fuzz/Cargo.toml --target-dir tests/fuzz/target --target $(host)

fuzz: fuzz-build
	@set -e; for target in $(fuzz_targets); do \
		echo "== $$target, $(FUZZ_SECONDS) s"; \
		mkdir -p "tests/fuzz/corpus/$$target" "tests/fuzz/artifacts/$$target"; \
		"tests/fuzz/target/$(host)/debug/$$target" "tests/fuzz/corpus/$$target" -print_final_stats=1 \
			-max_total_time=$(FUZZ_SECONDS) -artifact_prefix="tests/fuzz/artifacts/$$target/"; \
	done

# Of the database, the tracker and its configuration; with real ones, on free loopback ports.
soak: setup
	HAYATE_STORM_UPGRADES=100 cargo test --test suite -- operations::storm::upgrades_succeed \
		operations::private::upgrades::upgrades_in_a_storm --nocapture
	HAYATE_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --test suite -- --exact operations::soak::soak --nocapture
	HAYATE_KILLS=$(SOAK_KILLS) cargo test --test suite -- operations::private::kills --nocapture
	HAYATE_CLUSTER_SEEDS=100000 cargo test -p hayate-state --test suite -- cluster::simulation --nocapture
	HAYATE_HISTORY_ROWS=$(SOAK_ROWS) cargo test -p hayate-state --test stores -- large --nocapture

# Without its advisories: their database is in no package registry. The fuzz targets are not
# distributed, so their licences do not matter.
deny:
	command -v cargo-deny >/dev/null || cargo install cargo-deny --locked
	cargo deny check licenses bans sources
	cargo deny --manifest-path tests/fuzz/Cargo.toml check bans sources

# On a quiet machine, with the tracker on core 0 and the load on core 1. BENCH takes the words of tests/bench.
bench:
	python3 tests/bench $(BENCH)

clean:
	cargo clean
	rm -rf tests/fuzz/target .test-tools
