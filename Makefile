# Every command sets up what it needs, says what it installs and why, and leaves alone what is there.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Where `make demo` publishes to and is watched.
RTMP_PORT ?= 1935
HTTP_PORT ?= 8080
ADMIN_PORT ?= 9090
MEDIA ?= ./media

.PHONY: help setup setup-test setup-bench web build demo test lint unit e2e deploy-check image-test deny bench bench-latency bench-load fuzz clean

help: ## this list
	@echo 'encoder: RTMP in, adaptive-bitrate HLS out'
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Debian packages that building and running need
	@scripts/setup.sh build

setup-test: ## the same, and what tests and benchmarks need
	@scripts/setup.sh test

setup-bench: ## the same, and what is measured beside the encoder
	@scripts/setup.sh bench

web: setup ## the player page, bundled (web/dist)
	@scripts/web.sh

build: web ## the encoder, optimised
	@cargo build --release --locked --package encoder

demo: build ## watch a live stream of the test pattern in the browser
	@RTMP_PORT=$(RTMP_PORT) HTTP_PORT=$(HTTP_PORT) ADMIN_PORT=$(ADMIN_PORT) MEDIA=$(MEDIA) scripts/demo.sh

test: setup-test web lint unit e2e deploy-check deny fuzz-build ## all tests; CI calls this

lint: ## formatting, clippy, documentation: no warning passes
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
	@RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet

unit: ## tests that run at CPU speed
	@scripts/cargo-test.sh unit

e2e: ## real publishers, real browser, real time
	@scripts/cargo-test.sh e2e

deploy-check: ## Kubernetes manifests against their schemas, and the guards that keep streams alive
	@deploy/check/run.sh

image-test: ## the container image, built and run without a Docker daemon
	@scripts/image-test.sh

deny: ## licences, bans and sources of the dependencies
	@scripts/deny.sh

bench: setup-bench web ## beside ffmpeg and nginx-rtmp: CPU, memory, quality, delay; a bucket: delay, cost, outage
	@scripts/bench.sh bench bench_probes bench_store

bench-latency: setup-test web ## glass to glass, read off the picture in a browser (26 minutes)
	@scripts/bench.sh bench_latency

bench-load: setup-test web ## 2,000 viewers reloading playlists: CPU, memory, delay
	@scripts/bench.sh bench_load

fuzz: ## fuzz targets for FUZZ_SECONDS (default 60) each
	@scripts/fuzz.sh run

.PHONY: fuzz-build
fuzz-build:
	@scripts/fuzz.sh build

clean: ## build results, test media, npm packages
	@rm -rf target tests/fuzz/target web/dist web/node_modules tests/js/node_modules .cache
