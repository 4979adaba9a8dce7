#!/usr/bin/env bash
# Installs Python packages into FOLDER, unless installed already. Usage: pip-target.sh FOLDER REQUIREMENTS WHY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:?folder} wanted=${2:?requirements}
if cmp -s "$wanted" "$folder/requirements.txt"; then exit; fi
echo "setup: Python packages in $folder: ${3-}"
rm -rf "$folder"
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder" -r "$wanted"
cp "$wanted" "$folder/requirements.txt"
