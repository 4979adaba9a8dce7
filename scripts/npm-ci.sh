#!/usr/bin/env bash
# Installs the packages of FOLDER's lock file, unless installed already. Usage: npm-ci.sh FOLDER WHY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../${1:?folder}"
stamp=node_modules/.installed
want=$(cat package.json package-lock.json | sha256sum)
if [ "$(cat $stamp 2>/dev/null)" = "$want" ]; then exit; fi
echo "setup: npm packages in $1: ${2-}"
npm ci --no-audit --no-fund --silent
echo "$want" >$stamp
