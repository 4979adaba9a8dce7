# Every command installs what it needs, prints each installed package with the reason, and skips installed packages.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Ports and output folder of `make demo`.
RTMP_PORT ?= 1935
HTTP_PORT ?= 8080
ADMIN_PORT ?= 9090
MEDIA ?= ./target/media

.PHONY: help setup setup-test setup-bench web build demo test lint unit e2e deploy-check image-test deny bench bench-latency bench-load bench-lobby bench-edge simulate fuzz clean

help: ## list the commands
	@echo 'encoder: RTMP in, adaptive-bitrate HLS out'
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install the Debian packages for building and running
	@scripts/setup.sh build

setup-test: ## install these and the packages for tests and benchmarks
	@scripts/setup.sh test

setup-bench: ## install these and the servers that benchmarks compare with
	@scripts/setup.sh bench

web: setup ## bundle the player page (web/dist)
	@scripts/web.sh

build: web ## build the encoder, optimised
	@cargo build --release --locked --package encoder

demo: build ## watch a live stream of the test pattern in the browser
	@RTMP_PORT=$(RTMP_PORT) HTTP_PORT=$(HTTP_PORT) ADMIN_PORT=$(ADMIN_PORT) MEDIA=$(MEDIA) scripts/demo.sh

test: setup-test tools web lint unit e2e deploy-check deny fuzz-build ## run all checks and tests, as CI does

.PHONY: tools
tools:
	@scripts/tools.sh

lint: ## check formatting, log lines, clippy and documentation; any warning fails
	@cargo fmt --all --check
	@scripts/log-fields.sh
	@cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
	@cargo clippy --package encoder --locked --quiet -- -D warnings # as released: the compiler names what only tests use
	@RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet

unit: ## run the tests that need no real time
	@scripts/cargo-test.sh unit

e2e: ## run the end-to-end tests: real publishers, real browser, real time
	@scripts/cargo-test.sh e2e

deploy-check: ## check the Kubernetes manifests: schemas, and the settings that keep streams alive
	@deploy/check/run.sh

image-test: ## build and run the container image without a Docker daemon
	@scripts/image-test.sh

deny: ## check licences, bans and sources of the dependencies
	@scripts/deny.sh

bench: setup-bench web ## compare with ffmpeg and nginx-rtmp: CPU, memory, quality, delay; with a bucket: delay, cost, outage
	@scripts/bench.sh bench bench_probes bench_store

bench-latency: setup-test web ## measure glass-to-glass latency off the picture in a browser (26 minutes)
	@scripts/bench.sh bench_latency

bench-load: setup-test web ## measure 2,000 viewers reloading playlists: CPU, memory, delay
	@scripts/bench.sh bench_load

bench-lobby: setup-test ## measure what it costs a lobby to know 1,000 and 5,000 encoders (8 minutes)
	@scripts/bench.sh bench_lobby

bench-edge: setup-bench web ## measure 10,000 viewers at an edge, at Varnish and at nginx: CPU, memory, delay (15 minutes)
	@scripts/bench.sh bench_edge

simulate: ## print the tables of docs/scale.md: free encoders, edges, costs; INTO=docs/scale.md writes them there
	@cargo run --package capacity --locked --quiet --bin simulate $(if $(INTO),-- tables --into $(INTO))

fuzz: ## run each fuzz target for FUZZ_SECONDS (default 60) and keep the inputs that reach something new
	@scripts/fuzz.sh run

fuzz-coverage: ## say which lines of their modules the fuzz targets' inputs reach (tests/fuzz/README.md)
	@scripts/fuzz.sh coverage

.PHONY: fuzz-build fuzz-coverage
fuzz-build:
	@scripts/fuzz.sh build

clean: ## delete build results, test media and npm packages
	@rm -rf target tests/fuzz/target web/dist web/node_modules tests/js/node_modules .cache
