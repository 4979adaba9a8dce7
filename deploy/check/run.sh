#!/usr/bin/env bash
# Checks the manifests and tests the check itself. Python packages from PyPI go into the build folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/missing.sh
source scripts/missing.sh
if ! command -v kubectl >/dev/null && ! command -v kustomize >/dev/null; then
    missing kubectl "checking the manifests (kustomize does as well)"
    exit
fi
packages=$(realpath -m "${CARGO_TARGET_DIR:-target}")/deploy-check
if ! cmp -s deploy/check/requirements.txt "$packages/requirements.txt"; then
    echo "deploy: installing what checks the manifests"
    rm -rf "$packages"
    python3 -m pip install --quiet --disable-pip-version-check --target "$packages" -r deploy/check/requirements.txt
    cp deploy/check/requirements.txt "$packages/requirements.txt"
fi
export PYTHONPATH=$packages PYTHONDONTWRITEBYTECODE=1
python3 deploy/check/check.py "$@"
cd deploy/check
exec python3 test_check.py --quiet
