#!/usr/bin/env bash
# Runs tests, with cargo-nextest if installed, else with cargo test. Usage: cargo-test.sh unit|e2e [OPTIONS]
#
# Cargo always gets the whole workspace: the selected packages determine the features of dependencies, and with a single
# selection dependencies are compiled once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
kind=${1:?unit or e2e}
shift
# The binary that the tests start, compiled here so that no test spends time on it. Built together with the tests,
# because the tests' own dependencies change features of other dependencies.
cargo build --workspace --bin encoder --tests --locked --quiet
ENCODER_BIN=${CARGO_TARGET_DIR:-$PWD/target}/debug/encoder
export ENCODER_BIN
# Made before the tests, because a test that encodes its media takes the processors from those beside it.
[ "$kind" = unit ] || fixtures/make.sh
if cargo nextest --version >/dev/null 2>&1; then
    case $kind in
    unit) profile=default filter='not package(tests)' ;;
    e2e) profile=e2e filter='package(tests)' ;;
    esac
    cargo nextest run --workspace --locked --profile "$profile" --no-tests=pass --status-level=slow \
        --final-status-level=slow --filterset "$filter" "$@"
else
    case $kind in
    unit) selected=(--exclude tests) ;;
    e2e)
        selected=()
        for crate in admission audience capacity encoder hls listen media probes publisher rtmp store transcode; do
            selected+=(--exclude "$crate")
        done
        ;;
    esac
    cargo test --workspace "${selected[@]}" --locked --all-targets --no-fail-fast "$@"
fi
if [ "$kind" = unit ]; then
    cargo test --workspace --doc --locked --quiet
fi
