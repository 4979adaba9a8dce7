#!/usr/bin/env bash
# Builds the encoder as users run it (release) and the benchmark programs, then runs these. Usage: bench.sh PROGRAM...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo build --release --locked --quiet --package encoder
# Building the tests too makes cargo compile the shared dependencies only once.
cargo build --workspace --bins --tests --locked --quiet
for program in "$@"; do
    "${CARGO_TARGET_DIR:-$PWD/target}/debug/$program"
done
