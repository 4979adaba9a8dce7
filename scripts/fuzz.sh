#!/usr/bin/env bash
# Checks that the fuzz targets build, or runs each target for FUZZ_SECONDS. Needs nightly Rust and cargo-fuzz; without
# them, the targets run on FUZZ_INPUTS random mutations of their seeds each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/missing.sh
source scripts/missing.sh
has_nightly() { cargo +nightly --version >/dev/null 2>&1; }
if [ "${1-build}" != run ] && ! has_nightly; then
    missing nightly "building the fuzz targets (Rust's nightly toolchain)"
    exit
fi
if ! has_nightly || { [ "${1-build}" = run ] && ! cargo fuzz --version >/dev/null 2>&1; }; then
    echo "fuzz: nightly Rust or cargo-fuzz is missing: nothing guides the inputs (the unit tests replay the corpus)"
    exec cargo run --quiet --release --locked --package encoder --example mutate -- all "${FUZZ_INPUTS:-1000000}" "${FUZZ_SEED:-1}"
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
