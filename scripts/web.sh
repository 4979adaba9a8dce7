#!/usr/bin/env bash
# Bundles the player page if its sources are newer than web/dist.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -f web/package.json ] || { echo "web: there is no player page yet"; exit 0; }
scripts/npm-ci.sh web "hls.js and the bundler of the player page"
if [ -d web/dist ] && [ -z "$(find web -path web/node_modules -prune -o -path web/dist -prune -o -type f -newer web/dist -print -quit)" ]; then
    exit
fi
npm --prefix web run --silent build
touch web/dist
