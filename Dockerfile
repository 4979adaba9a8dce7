# syntax=docker/dockerfile:1
# All stages use Debian 12, so the encoder runs with the FFmpeg libraries that it was built against.

FROM node:20-bookworm-slim AS web
WORKDIR /src/web
COPY web/package.json web/package-lock.json web/.npmrc* ./
RUN npm ci --no-audit --no-fund
COPY web/ ./
RUN npm run build

FROM rust:1.95-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends binutils ca-certificates clang libclang-dev pkg-config \
    libavcodec-dev libavformat-dev libavutil-dev libswscale-dev libswresample-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
COPY --from=web /src/web/dist web/dist
ARG REVISION=unknown
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    ENCODER_REVISION=$REVISION cargo build --release --locked --package encoder --no-default-features \
 && cp target/release/encoder /encoder
# The image contains the program without line tables, its shared libraries and their loader, root certificates, and the
# user `encoder`. There is no shell and no package manager, so an intruder finds no tools.
RUN mkdir -p /image/usr/local/bin /image/etc/ssl/certs /image/tmp /image/media \
 && objcopy --strip-debug /encoder /image/usr/local/bin/encoder \
 && ldd /encoder | grep -o '/[^ ]*' | sort -u | xargs cp --parents --dereference --target-directory=/image \
 && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && echo 'encoder:x:10001:10001::/:/nologin' >/image/etc/passwd \
 && echo 'encoder:x:10001:' >/image/etc/group

FROM scratch
COPY --from=build /image /
COPY --from=build --chown=10001:10001 /image/media /media
USER 10001:10001
# Probes come from outside the container: publish port 9090 to operators only. The RTMP port stays closed to other
# machines until a setting says who may publish (ENCODER_PUBLISH_KEYS, _JWKS, _HOOK or _ANYONE).
ENV ENCODER_OUTPUT=/media ENCODER_LOG_FORMAT=json ENCODER_ADMIN_LISTEN=0.0.0.0:9090
VOLUME /media
EXPOSE 1935 8080 9090
# On SIGTERM the encoder takes no new streams, finishes the running streams, seals them and exits. It is PID 1, so it
# installs a handler for every signal that it obeys; its only children are workers, which it waits for.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/encoder"]
CMD ["serve"]
