#!/usr/bin/env bash
# Builds the fuzz targets, or runs each of them for FUZZ_SECONDS. Needs nightly Rust and cargo-fuzz.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -d tests/fuzz ]; then
    echo "fuzz: there are no fuzz targets"
    exit
fi
if ! cargo +nightly --version >/dev/null 2>&1 || ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: nightly Rust or cargo-fuzz is missing, targets are not built (their corpus is replayed by the unit tests)"
    exit
fi
cd tests/fuzz
cargo +nightly fuzz build
[ "${1-build}" = run ] || exit 0
for target in $(cargo +nightly fuzz list); do
    cargo +nightly fuzz run "$target" -- -max_total_time="${FUZZ_SECONDS:-60}" -rss_limit_mb=1024
done
