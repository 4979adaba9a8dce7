#!/usr/bin/env bash
# The fuzz targets of tests/fuzz, whose inputs are in fixtures/corpus:
#   build     checks that the targets build; needs nightly Rust
#   run       runs each target for FUZZ_SECONDS, guided by coverage, and keeps the inputs that reach something new;
#             without nightly Rust, runs FUZZ_INPUTS random mutations of each corpus instead
#   coverage  says which lines of its modules each target's corpus reaches (tests/fuzz/README.md); needs no nightly
# TARGETS names the targets to run; all of them without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/missing.sh
source scripts/missing.sh
root=$PWD
found=$root/fixtures/corpus/found
targets=${TARGETS:-$(cd "$found" && ls)}

has_nightly() { cargo +nightly --version >/dev/null 2>&1; }

build() {
    if has_nightly; then
        # Type-checks without linking: one minute instead of five.
        cd tests/fuzz && exec cargo +nightly check --locked --quiet
    fi
    missing nightly "building the fuzz targets (Rust's nightly toolchain)"
}

# libFuzzer by cargo-fuzz, which is installed below .cache. No sanitizer: the targets are Rust without `unsafe`.
run() {
    if ! has_nightly; then
        echo "fuzz: nightly Rust is missing: nothing guides the inputs"
        exec cargo run --quiet --release --locked --package encoder --example mutate -- \
            all "${FUZZ_INPUTS:-1000000}" "${FUZZ_SEED:-1}"
    fi
    cargo install --quiet --locked --root .cache/cargo-fuzz --version 0.13.2 cargo-fuzz
    export PATH=$root/.cache/cargo-fuzz/bin:$PATH
    cd tests/fuzz
    cargo +nightly fuzz build --sanitizer none --fuzz-dir .
    local target work
    for target in $targets; do
        work=$root/target/fuzz/$target
        rm -rf "$work" && mkdir -p "$work/all" "$work/kept"
        unpack "$target" "$work/all"
        cargo +nightly fuzz run --sanitizer none --fuzz-dir . "$target" "$work/all" "$root/fixtures/corpus/$target" -- \
            -max_total_time="${FUZZ_SECONDS:-60}" -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1
        keep "$target" "$work"
    done
}

unpack() {
    local line number=0
    while read -r line; do
        number=$((number + 1))
        base64 -d <<<"$line" >"$2/$number"
    done <"$found/$1"
}

# Of all found inputs, those that reach something which neither the seeds nor another kept input reaches; those of more
# than 1 KiB (1,368 characters) are left out, so that the corpus stays small.
keep() {
    cp -r "$root/fixtures/corpus/$1" "$2/seeds"
    cargo +nightly fuzz run --sanitizer none --fuzz-dir . "$1" "$2/kept" "$2/seeds" "$2/all" -- -merge=1 -max_len=4096
    local file
    for file in "$2"/kept/*; do
        [ ! -s "$file" ] || { base64 -w0 "$file" && echo; }
    done | awk 'length($0) <= 1368' | LC_ALL=C sort -u >"$found/$1"
    echo "fuzz: $1: $(wc -l <"$found/$1") found inputs kept, $(wc -c <"$found/$1") bytes"
}

# A build with counters in the workspace's own crates (rustc -C instrument-coverage), which replays each corpus by itself.
coverage() {
    local tools folder=$root/target/coverage program=$root/target/debug/examples/mutate
    rustup component add llvm-tools >/dev/null 2>&1 || missing llvm-tools "measuring what the corpora reach (rustup)"
    tools=$(dirname "$(find "$(rustc --print sysroot)" -name llvm-profdata)")
    mkdir -p "$folder"
    RUSTC_WORKSPACE_WRAPPER=$root/scripts/rustc_with_counters.sh LLVM_PROFILE_FILE=/dev/null \
        cargo build --quiet --locked --workspace --example mutate
    local target
    for target in $targets; do
        rm -f "$folder/$target".*
        LLVM_PROFILE_FILE=$folder/$target.profraw "$program" "$target" 0
        "$tools/llvm-profdata" merge --sparse "$folder/$target.profraw" -o "$folder/$target.profdata"
        "$tools/llvm-cov" export --format=lcov --instr-profile "$folder/$target.profdata" \
            "$program" >"$folder/$target.lcov"
    done
    python3 scripts/fuzz_coverage.py "$folder" $targets
}

case ${1-} in
build | run | coverage) "$1" ;;
*) sed -n '2,7s/^# //p' "$0" && exit 64 ;;
esac
