#!/usr/bin/env bash
# Says before the tests, not after half an hour, which tools are missing that `make setup-test` does not install.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/missing.sh
source scripts/missing.sh
command -v kubectl >/dev/null || command -v kustomize >/dev/null || missing kubectl "checking the manifests"
cargo +nightly --version >/dev/null 2>&1 || missing nightly "building the fuzz targets (Rust's nightly toolchain)"
