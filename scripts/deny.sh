#!/usr/bin/env bash
# Runs cargo-deny without network access: licences, bans and sources (advisories need a database from the network).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v cargo-deny >/dev/null; then
    echo "deny: cargo-deny is not installed; licences, bans and sources were not checked"
    exit
fi
cargo deny --offline --log-level error check bans licenses sources
