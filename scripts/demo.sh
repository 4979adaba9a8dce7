#!/usr/bin/env bash
# Starts the encoder, publishes the test pattern to it, and prints where to watch. Ctrl-C ends both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${RTMP_PORT:=1935}" "${HTTP_PORT:=8080}" "${ADMIN_PORT:=9090}" "${MEDIA:=./target/media}"
encoder=${CARGO_TARGET_DIR:-target}/release/encoder

"$encoder" serve --output "$MEDIA" --rtmp-listen "127.0.0.1:$RTMP_PORT" --http-listen "0.0.0.0:$HTTP_PORT" \
    --admin-listen "127.0.0.1:$ADMIN_PORT" &
server=$!
publisher=
# Ends the publisher first, so that the encoder can finish the stream; signals each by its process ID.
finish() {
    trap - EXIT INT TERM
    [ -z "$publisher" ] || kill -TERM "$publisher" 2>/dev/null || true
    [ -z "$publisher" ] || wait "$publisher" 2>/dev/null || true
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
}
trap finish EXIT
trap 'exit 0' INT TERM

# wait_for URL WHAT: waits until the URL answers 200; fails when the encoder has exited or after 30 s.
wait_for() {
    for _ in $(seq 150); do
        kill -0 "$server" 2>/dev/null || { echo "demo: the encoder ended before $2" >&2; exit 1; }
        if answers "$1"; then return; fi
        sleep 0.2
    done
    echo "demo: no $2 after 30 s" >&2
    exit 1
}

# answers URL: succeeds if the URL answers 200. Uses bash's sockets, because a minimal Debian has no curl.
answers() {
    local rest=${1#http://} host path
    host=${rest%%/*} path=/${rest#*/}
    { exec 3<>"/dev/tcp/${host%:*}/${host#*:}"; } 2>/dev/null || return 1
    printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$path" "$host" >&3
    local status
    read -r _ status _ <&3 || status=
    exec 3<&- 3>&-
    [ "$status" = 200 ]
}

wait_for "http://127.0.0.1:$ADMIN_PORT/readyz" "readiness"
"$encoder" publish --test-pattern "rtmp://127.0.0.1:$RTMP_PORT/live/demo" &
publisher=$!
wait_for "http://127.0.0.1:$HTTP_PORT/live/demo/index.m3u8" "playlist"

cat <<TEXT

  Watch:    http://127.0.0.1:$HTTP_PORT/?stream=live/demo
  Publish:  rtmp://127.0.0.1:$RTMP_PORT/live/NAME   (the demo occupies the one place; --capacity gives more)
  Files:    $MEDIA
  Ctrl-C ends the demo.

TEXT
wait -n "$server" "$publisher"
