#!/usr/bin/env bash
# Builds the encoder as users run it, and what measures it; then measures. Usage: bench.sh PROGRAM...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo build --release --locked --quiet --package encoder
# With the tests: their dependencies are compiled once.
cargo build --workspace --bins --tests --locked --quiet
for program in "$@"; do
    "${CARGO_TARGET_DIR:-$PWD/target}/debug/$program"
done
