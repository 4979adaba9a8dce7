#!/bin/sh
# Cargo's RUSTC_WORKSPACE_WRAPPER: compiles with counters of what is reached (scripts/fuzz.sh coverage).
rustc=$1
shift
exec "$rustc" -C instrument-coverage "$@"
