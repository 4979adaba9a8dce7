# syntax=docker/dockerfile:1
# Debian 12 throughout: the FFmpeg libraries that the encoder is built against are those it runs with.

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
    ENCODER_REVISION=$REVISION cargo build --release --locked --package encoder \
 && cp target/release/encoder /encoder
# What is in the image: the program without line tables, the libraries that it is linked with and their loader, root
# certificates, its user. No shell, no package manager: nothing for somebody who should not be there.
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
ENV ENCODER_OUTPUT=/media ENCODER_LOG_FORMAT=json
VOLUME /media
EXPOSE 1935 8080 9090
# SIGTERM: take no new streams, finish those that run, seal, leave. The encoder is PID 1: it has handlers for what it
# obeys, and its only children are workers, which it waits for.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/encoder"]
CMD ["serve"]
