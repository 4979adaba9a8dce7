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
 && apt-get install -y --no-install-recommends clang libclang-dev pkg-config \
    libavcodec-dev libavformat-dev libavutil-dev libswscale-dev libswresample-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
COPY --from=web /src/web/dist web/dist
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --package encoder && cp target/release/encoder /encoder

FROM debian:bookworm-slim
# Runtime libraries only; x264 comes with libavcodec59.
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
    libavcodec59 libavformat59 libavutil57 libswscale6 libswresample4 ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin encoder \
 && install -d -o encoder -g encoder /media
COPY --from=build /encoder /usr/local/bin/encoder
USER 10001:10001
ENV ENCODER_OUTPUT=/media ENCODER_LOG_FORMAT=json
VOLUME /media
EXPOSE 1935 8080 9090
# SIGTERM: take no new streams, finish those that run, seal, leave.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/encoder"]
CMD ["serve"]
