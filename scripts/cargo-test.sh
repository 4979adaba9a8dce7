#!/usr/bin/env bash
# Runs tests with cargo-nextest where it is installed, else with cargo test. Usage: cargo-test.sh CARGO-OPTIONS...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --locked --no-tests=pass --status-level=slow --final-status-level=slow "$@"
fi
exec cargo test --locked --all-targets --no-fail-fast "$@"
