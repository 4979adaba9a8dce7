#!/usr/bin/env bash
# Builds the container image and runs it, without a Docker daemon: buildah with chroot isolation.
#
# By default no image registry is needed: the script builds stand-ins for the base images that the Dockerfile names, as
# Debian 12 by debootstrap, with this machine's Rust and Node.js in the two images that need them. IMAGE_BASES=pull uses
# the real base images. Run as root; needs buildah and debootstrap. Crates come from this machine's cargo folder, which
# is mounted read-only, so nothing is downloaded twice.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ "$(id -u)" = 0 ] || { echo "image-test: as root, please" >&2; exit 1; }
for command in buildah debootstrap unshare; do
    command -v $command >/dev/null || { echo "image-test: $command is missing (apt-get install buildah debootstrap)" >&2; exit 1; }
done
cargo_home=${CARGO_HOME:-$HOME/.cargo}
work=${IMAGE_WORK:-$(pwd)/.cache/image}
mkdir -p "$work"
export BUILDAH_ISOLATION=chroot TMPDIR=$work/tmp
mkdir -p "$TMPDIR"
buildah=(buildah --root "$work/storage" --runroot "$work/run")
image=encoder:image-test

# --- bases ----------------------------------------------------------------------------------------------------------

have() { "${buildah[@]}" inspect --type image "$1" >/dev/null 2>&1; }

# stand_in NAME FILL: makes an image NAME of Debian and the files that the function FILL adds.
stand_in() {
    local name=$1 fill=$2 container root
    have "$name" && return
    echo "image-test: a stand-in for $name"
    container=$("${buildah[@]}" from scratch)
    root=$("${buildah[@]}" mount "$container")
    cp -a "$work/debian/." "$root/"
    # This machine's trusted certificates, for downloads during the image build.
    cp /etc/ssl/certs/ca-certificates.crt "$root/usr/local/share/machine.crt"
    $fill "$root"
    "${buildah[@]}" unmount "$container" >/dev/null
    # Use the crates that this machine has already.
    "${buildah[@]}" config --env CARGO_HOME=/cargo-home --env CARGO_NET_OFFLINE=true \
        --env NODE_EXTRA_CA_CERTS=/usr/local/share/machine.crt \
        --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    "${buildah[@]}" commit --quiet --rm "$container" "$name" >/dev/null
}

with_node() {
    mkdir -p "$1/usr/local/bin" "$1/usr/local/lib/node_modules"
    cp -L "$(command -v node)" "$1/usr/local/bin/node"
    cp -a "$(npm root --global)/npm" "$1/usr/local/lib/node_modules/"
    ln -s ../lib/node_modules/npm/bin/npm-cli.js "$1/usr/local/bin/npm"
}

with_rust() {
    local sysroot
    sysroot=$(rustc --print sysroot)
    mkdir -p "$1/usr/local"
    # Copy the toolchain without its documentation.
    tar -C "$sysroot" --exclude=share/doc -cf - bin lib libexec 2>/dev/null | tar -C "$1/usr/local" -xf - || true
    chroot "$1" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive chroot "$1" apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null 2>&1
}

nothing() { :; }

if [ "${IMAGE_BASES:-stand-in}" = stand-in ]; then
    if [ ! -e "$work/debian/etc/debian_version" ]; then
        echo "image-test: Debian by debootstrap"
        rm -rf "$work/debian"
        debootstrap --variant=minbase --include=ca-certificates bookworm "$work/debian" >"$work/debootstrap.log" 2>&1 ||
            { tail "$work/debootstrap.log" >&2; exit 1; }
        cp /etc/resolv.conf "$work/debian/etc/resolv.conf"
    fi
    while read -r name; do
        case $name in
            node:*) stand_in "$name" with_node ;;
            rust:*) stand_in "$name" with_rust ;;
            debian:*) stand_in "$name" nothing ;;
            *) echo "image-test: no stand-in for $name" >&2; exit 1 ;;
        esac
    done < <(awk 'toupper($1) == "FROM" && $2 != "scratch" { print $2 }' Dockerfile | sort -u)
fi

# --- build ----------------------------------------------------------------------------------------------------------

pull=--pull-never
[ "${IMAGE_BASES:-stand-in}" = stand-in ] || pull=--pull
echo "image-test: building"
"${buildah[@]}" build $pull --layers --tag "$image" --build-arg "REVISION=$(git rev-parse --short HEAD)" \
    --volume "$cargo_home:/cargo-home:ro" --network host . >"$work/build.log" 2>&1 ||
    { tail -40 "$work/build.log" >&2; exit 1; }
container=$("${buildah[@]}" from --pull-never "$image")
root=$("${buildah[@]}" mount "$container")

# --- run ------------------------------------------------------------------------------------------------------------

run=$(mktemp -d)
encoder=
publisher=
finish() {
    trap - EXIT INT TERM
    [ -z "$publisher" ] || kill -TERM "$publisher" 2>/dev/null || true
    [ -z "$encoder" ] || kill -KILL "$encoder" 2>/dev/null || true
    wait 2>/dev/null || true
    "${buildah[@]}" rm "$container" >/dev/null 2>&1 || true
    rm -rf "$run"
}
trap finish EXIT
trap 'exit 1' INT TERM

rtmp=21935 http=28080 admin=29090
mkdir "$run/media"
chown 10001:10001 "$run/media"
# Run the image as a kubelet would: own PID namespace with the encoder as process 1, read-only root, one writable
# folder, no new privileges. User, environment, entry point and command are read from the image.
inspect() { "${buildah[@]}" inspect --type image --format "{{$1}}" "$image"; }
user=$(inspect .OCIv1.Config.User)
[ "$user" = 10001:10001 ] || { echo "image-test: its user is '$user'" >&2; exit 1; }
signal=$(inspect .OCIv1.Config.StopSignal)
[ "$signal" = SIGTERM ] || { echo "image-test: its stop signal is '$signal'" >&2; exit 1; }
entry=$(inspect 'index .OCIv1.Config.Entrypoint 0')
command=$(inspect 'index .OCIv1.Config.Cmd 0')
mapfile -t environment < <(inspect 'range .OCIv1.Config.Env}}{{println .}}{{end' | grep =)
cat >"$run/start" <<'START'
set -e
root=$1 media=$2 user=$3
shift 3
mount --bind "$root" "$root"
mount --bind "$media" "$root/media"
mkdir -p "$root/proc" "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o size=16m,mode=755 tmpfs "$root/dev"
for device in null urandom; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
mount -o remount,ro,bind "$root"
# A process that changes its user loses its capabilities; chroot changes the user only after the system call that needs
# a capability.
exec setpriv --no-new-privs --inh-caps=-all "$(command -v chroot)" --userspec="$user" --groups= "$root" "$@"
START
# `env -i` runs outside the image, because the image contains only the program.
env -i "PATH=$PATH" "${environment[@]}" ENCODER_DRAIN_TIMEOUT=60 ENCODER_RECONNECT_WINDOW=0 \
    ENCODER_RTMP_LISTEN=127.0.0.1:$rtmp ENCODER_HTTP_LISTEN=127.0.0.1:$http ENCODER_ADMIN_LISTEN=127.0.0.1:$admin \
    ENCODER_LADDER=360p@800k ENCODER_PRESET=ultrafast \
    unshare --fork --kill-child --pid --mount --propagation private \
    bash "$run/start" "$root" "$run/media" "$user" "$entry" "$command" >"$run/log" 2>&1 &
encoder=$!

# answers PATH PORT: succeeds if an HTTP request gets status 200. Works without curl.
answers() {
    local status=
    { exec 3<>"/dev/tcp/127.0.0.1/$2"; } 2>/dev/null || return 1
    printf 'GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n' "$1" >&3
    read -r _ status _ <&3 || true
    exec 3<&- 3>&-
    [ "$status" = 200 ]
}
wait_for() {
    local _
    for _ in $(seq 300); do
        if "${@:2}"; then return; fi
        kill -0 "$encoder" 2>/dev/null || break
        sleep 0.1
    done
    echo "image-test: no $1" >&2
    tail -20 "$run/log" >&2
    exit 1
}

wait_for readiness answers /readyz $admin
inside=$(pgrep --parent "$encoder" || true)
[ -n "$inside" ] || { echo "image-test: the encoder is not there" >&2; exit 1; }
awk '/^Uid:/ && $2 == 10001 { uid = 1 } /^NSpid:/ && $NF == 1 { first = 1 } /^CapEff:/ && $2 ~ /^0+$/ { caps = 1 } /^NoNewPrivs:/ && $2 == 1 { privs = 1 }
    END { exit !(uid && first && caps && privs) }' "/proc/$inside/status" ||
    { echo "image-test: not process 1, not the user 10001, or with rights:" >&2; cat "/proc/$inside/status" >&2; exit 1; }
grep -q ' / / ro,\| / ro,' "/proc/$inside/mountinfo" || { echo "image-test: its root can be written" >&2; exit 1; }

ffmpeg -nostdin -loglevel error -re -f lavfi -i testsrc2=size=640x360:rate=30 -f lavfi -i sine -c:v libx264 -preset ultrafast -g 30 \
    -c:a aac -f flv "rtmp://127.0.0.1:$rtmp/live/image" >"$run/ffmpeg" 2>&1 &
publisher=$!
wait_for "playlist" answers /live/image/index.m3u8 $http
# After SIGTERM the encoder lets the stream finish.
kill -TERM "$inside"
not_ready() { ! answers /readyz $admin; }
wait_for "drain" not_ready
answers /live/image/index.m3u8 $http || { echo "image-test: the stream was cut" >&2; exit 1; }
kill -INT "$publisher"
wait "$publisher" 2>/dev/null || true
publisher=
code=0
wait "$encoder" || code=$?
encoder=
[ "$code" = 0 ] || { echo "image-test: exit code $code" >&2; tail -20 "$run/log" >&2; exit 1; }
grep -q EXT-X-ENDLIST "$run"/media/live/image/360p/index.m3u8 || { echo "image-test: the stream was not sealed" >&2; exit 1; }
grep -v '^{' "$run/log" && { echo "image-test: log lines that are not JSON" >&2; exit 1; }

bytes=$(du --summarize --bytes --one-file-system "$root" | cut -f1)
echo "image-test: passed; the image holds $((bytes / 1048576)) MiB in $(find "$root" -xdev -type f | wc -l) files, the program $(($(stat -c %s "$root$entry") / 1048576)) MiB"
