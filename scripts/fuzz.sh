#!/usr/bin/env bash
# Checks that the fuzz targets build, or runs each target for FUZZ_SECONDS. Needs nightly Rust and cargo-fuzz.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ ! -d tests/fuzz ]; then
    echo "fuzz: there are no fuzz targets"
    exit
fi
if ! cargo +nightly --version >/dev/null 2>&1 || { [ "${1-build}" = run ] && ! cargo fuzz --version >/dev/null 2>&1; }; then
    echo "fuzz: nightly Rust or cargo-fuzz is missing, the targets are left out (their corpus is replayed by the unit tests)"
    exit
fi
cd tests/fuzz
if [ "${1-build}" != run ]; then
    # Type-checks without linking: one minute instead of five.
    exec cargo +nightly check --locked --quiet
fi
cargo +nightly fuzz build
for target in $(cargo +nightly fuzz list); do
    cargo +nightly fuzz run "$target" -- -max_total_time="${FUZZ_SECONDS:-60}" -rss_limit_mb=1024
done
