//! Turns requests into answers. The content of answers comes from [`super::cache`] and [`super::page`]; which
//! playlist version a request waits for is decided in [`super::reload`], playlists are compressed in [`super::gzip`],
//! and sockets with their limits belong in [`super::serve`].

use super::cache::{
    CachedObject, MEDIA_PLAYLIST, MULTIVARIANT, ObjectCache, StreamInfo, StreamPath, THUMBNAIL,
};
use super::reload::{self, Reload, RequestedVersion};
use super::{gzip, page};
use crate::listener::EntryHandle;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Extension, Router};
use serde::Serialize;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use store::content_type;
use tokio::sync::watch;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{Any, CorsLayer};

/// For answers that must not be cached: here an error can become a success within a second.
const NO_STORE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// A request is held for at most this many target durations and then answered with 503 (rfc8216bis 6.2.5.2). After a
/// 503, hls.js 1.7.4 polls without directives until the playlist is updated.
const HOLD_TARGET_DURATIONS: u32 = 3;

/// How long a browser may cache a preflight's answer; Chromium caps this at two hours.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(7200);

/// Headers in which players report on playback (CTA-5004, Common Media Client Data). The origin ignores them; a browser
/// sends the request only if a preflight allows them. Custom headers of a service are usually `authorization`.
const CMCD: [HeaderName; 4] = [
    HeaderName::from_static("cmcd-object"),
    HeaderName::from_static("cmcd-request"),
    HeaderName::from_static("cmcd-session"),
    HeaderName::from_static("cmcd-status"),
];

/// The public routes:
///
/// | path | answer |
/// |---|---|
/// | `/` and `/assets/…` | the player page, embedded |
/// | `/streams.json` | streams that are live |
/// | `/{app}/{name}/…` | an object of the object cache: GET, HEAD, one byte range, `If-None-Match` |
/// | `…/index.m3u8?_HLS_msn=N&_HLS_part=P` | a media playlist, held until it lists part P of segment N |
/// | `…/{session}-{seq}.{part}.m4s` | a part; if a playlist hints at the part, held until the part is complete |
pub(crate) fn router(cache: Arc<ObjectCache>) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD, Method::OPTIONS])
        .allow_headers(
            [header::RANGE, header::IF_NONE_MATCH, header::AUTHORIZATION]
                .into_iter()
                .chain(CMCD)
                .collect::<Vec<_>>(),
        )
        // `Age` is what hls.js uses behind a CDN to find the live edge; from `Date` it may estimate the server's
        // clock.
        .expose_headers([
            header::CONTENT_LENGTH,
            header::CONTENT_RANGE,
            header::AGE,
            header::DATE,
            header::ETAG,
        ])
        .max_age(PREFLIGHT_MAX_AGE);
    let compression = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(is_text);
    Router::new()
        .route("/", get(page::index))
        .route("/assets/{file}", get(page::asset))
        .route("/streams.json", get(streams))
        .with_state(Arc::clone(&cache))
        .layer(compression)
        // Not a route with captures: those decode percent-encoding, which no object name needs. Added after the
        // compression layer, so that the layer does not apply: it would compress a playlist again for each viewer.
        .fallback_service(get(object).with_state(cache))
        .layer(cors)
}

/// Compress the text files of the player page; pictures are already compressed.
fn is_text(
    status: StatusCode,
    _: axum::http::Version,
    headers: &HeaderMap,
    _: &axum::http::Extensions,
) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    status == StatusCode::OK && (kind.starts_with("text/") || kind == "application/json")
}

// === streams.json ===

#[derive(Serialize)]
struct Listing {
    streams: Vec<ListedStream>,
}

#[derive(Serialize)]
struct ListedStream {
    app: String,
    name: String,
    /// The URL path of the multivariant playlist.
    playlist: String,
    /// The URL path of the thumbnail, if there is one.
    thumbnail: Option<String>,
    /// The stream's start in milliseconds since 1970.
    since_unix_ms: i64,
    latency_secs: f64,
    hold_back_secs: f64,
    rungs: Vec<String>,
}

async fn streams(State(cache): State<Arc<ObjectCache>>) -> Response {
    let list = |(path, info): (StreamPath, StreamInfo)| ListedStream {
        playlist: format!("/{path}/{MULTIVARIANT}"),
        thumbnail: cache.get(&path, THUMBNAIL).map(|_| format!("/{path}/{THUMBNAIL}")),
        app: path.app.to_string(),
        name: path.name.to_string(),
        since_unix_ms: info.started.unix_micros() / 1000,
        latency_secs: info.latency_secs,
        hold_back_secs: info.hold_back_secs,
        rungs: info.rungs,
    };
    let listing = Listing { streams: cache.live().into_iter().map(list).collect() };
    ([NO_STORE], Json(listing)).into_response()
}

// === objects ===

async fn object(
    State(cache): State<Arc<ObjectCache>>,
    connection: Option<Extension<EntryHandle>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Some((stream, path)) = split(uri.path()) else { return not_found() };
    // `None`: too many requests are held. Without a connection, as in tests of the router alone, nothing is counted.
    let hold = || connection.as_ref().map_or(Some(None), |connection| connection.hold().map(Some));
    let Some(stored) = cache.get(&stream, path) else {
        let Some(wait) = hinted(&cache, &stream, path) else { return not_found() };
        let Some(_held) = hold() else { return too_many_held() };
        return match wait.until_complete(&cache, &stream, path).await {
            Some(part) => answer(&part, &headers),
            None => not_found(),
        };
    };
    let Some(reloadable) = &stored.reload else { return answer(&stored, &headers) };
    match reload::decide(uri.query(), reloadable) {
        Ok(Reload::Now) => answer(&stored, &headers),
        Ok(Reload::Until(wanted)) => {
            let Some(versions) = cache.follow(&stream, path) else { return not_found() };
            let longest = HOLD_TARGET_DURATIONS * reloadable.target_duration;
            let Some(_held) = hold() else { return too_many_held() };
            // Free everything that is not needed while the request is held: thousands may be held at the same time.
            drop((stored, cache));
            match tokio::time::timeout(longest, listed(versions, wanted)).await {
                Ok(Some(stored)) => answer(&stored, &headers),
                Ok(None) => not_found(),
                Err(_) => (StatusCode::SERVICE_UNAVAILABLE, [NO_STORE], "nothing new came in time\n")
                    .into_response(),
            }
        }
        Err(refused) => (StatusCode::BAD_REQUEST, [NO_STORE], format!("{refused}\n")).into_response(),
    }
}

/// A part that its media playlist hints at.
struct HintedPart {
    versions: watch::Receiver<Arc<CachedObject>>,
    longest: Duration,
}

/// Looks a hinted part up. `None` if the playlist does not hint at the part.
fn hinted(cache: &ObjectCache, stream: &StreamPath, path: &str) -> Option<HintedPart> {
    let (rung, file) = path.split_once('/')?;
    let versions = cache.follow(stream, &format!("{rung}/{MEDIA_PLAYLIST}"))?;
    let stored = Arc::clone(&versions.borrow());
    let longest = HOLD_TARGET_DURATIONS * stored.reload.as_ref()?.target_duration;
    // Between the lookup of the part and this one the part may have been added, and the hint moved on.
    let may_come = is_hinted(&stored, file) || cache.get(stream, path).is_some();
    may_come.then_some(HintedPart { versions, longest })
}

fn is_hinted(stored: &CachedObject, file: &str) -> bool {
    stored.reload.as_ref().is_some_and(|reload| reload.hint.as_deref() == Some(file))
}

impl HintedPart {
    /// Waits until the part is complete (rfc8216bis 4.4.5.3). No byte is sent earlier, so that the client measures the
    /// bandwidth of its network and not the speed of the encoder. `None` if the segment ended before the part was made,
    /// or if the part is not complete within three target durations.
    async fn until_complete(
        mut self,
        cache: &ObjectCache,
        stream: &StreamPath,
        path: &str,
    ) -> Option<Arc<CachedObject>> {
        let (_, file) = path.split_once('/')?;
        // A playlist is replaced only after the part that it newly lists was added. So once the hint has changed, the
        // part either exists or will never exist.
        let moved_on = self.versions.wait_for(|stored| !is_hinted(stored, file));
        let _ = tokio::time::timeout(self.longest, moved_on).await.ok()?.ok()?;
        cache.get(stream, path)
    }
}

/// The answer to a request that cannot be held because too many are. hls.js 1.7.4 polls after it.
fn too_many_held() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [NO_STORE], "too many requests are held: poll\n").into_response()
}

/// Waits for the first version of a playlist that satisfies the request, or for its final version; `None` if the
/// playlist is removed first.
async fn listed(
    mut versions: watch::Receiver<Arc<CachedObject>>,
    wanted: RequestedVersion,
) -> Option<Arc<CachedObject>> {
    let is_answered = |stored: &Arc<CachedObject>| {
        stored.reload.as_ref().is_none_or(|reloadable| reload::is_answered(wanted, reloadable.edge))
    };
    versions.wait_for(is_answered).await.ok().map(|stored| Arc::clone(&stored))
}

pub(super) fn not_found() -> Response {
    (StatusCode::NOT_FOUND, [NO_STORE], "not found\n").into_response()
}

/// Splits a URL path into the stream and the path within the stream. The raw path is compared with the names of the
/// objects as added, so percent-encoded paths and paths with `..` match nothing.
fn split(path: &str) -> Option<(StreamPath, &str)> {
    let mut parts = path.strip_prefix('/')?.splitn(3, '/');
    let stream = StreamPath::new(parts.next()?, parts.next()?).ok()?;
    Some((stream, parts.next()?))
}

fn answer(stored: &CachedObject, request: &HeaderMap) -> Response {
    let object = &stored.object;
    let etag = HeaderValue::from_str(&stored.etag).expect("an etag is hexadecimal digits in quotes");
    let mut common = HeaderMap::from_iter([
        (header::ETAG, etag),
        (header::CACHE_CONTROL, HeaderValue::from_static(object.caching.cache_control())),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ]);
    let compressible = object.content_type == content_type::PLAYLIST;
    if compressible {
        common.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    if none_match(request, &stored.etag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    common.insert(header::CONTENT_TYPE, HeaderValue::from_static(object.content_type));
    let length = object.body.len() as u64;
    let requested = requested_range(request, &stored.etag, length);
    // Ranges refer to the uncompressed body: a range of the compressed body would have other lengths than requested.
    if compressible && requested == Requested::Whole && gzip::is_accepted(request) {
        let encoding = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
        return (common, encoding, Body::from(gzip::of(stored))).into_response();
    }
    let about_body = [(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"))];
    match requested {
        Requested::Whole => (common, about_body, Body::from(object.body.clone())).into_response(),
        Requested::Part(range) => {
            let content_range = format!("bytes {}-{}/{length}", range.start(), range.end());
            // The range lies within the body's length, so it fits a usize.
            let body = object.body.slice(*range.start() as usize..=*range.end() as usize);
            let content_range = [(header::CONTENT_RANGE, content_range)];
            (StatusCode::PARTIAL_CONTENT, common, about_body, content_range, Body::from(body)).into_response()
        }
        Requested::Unsatisfiable => {
            let content_range = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
            (StatusCode::RANGE_NOT_SATISFIABLE, [NO_STORE], content_range).into_response()
        }
    }
}

/// Whether `If-None-Match` lists the object's ETag (RFC 9110 13.1.2: weak comparison, a list or `*`).
pub(super) fn none_match(request: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let ours = opaque(etag);
    request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || opaque(tag) == ours)
}

#[derive(Debug, PartialEq, Eq)]
enum Requested {
    Whole,
    Part(RangeInclusive<u64>),
    Unsatisfiable,
}

/// The requested byte range. RFC 9110 14.2: an invalid range is ignored; several ranges may be ignored, and are. An
/// `If-Range` that does not match strongly means the whole body.
fn requested_range(request: &HeaderMap, etag: &str, length: u64) -> Requested {
    let Some(Ok(range)) = request.get(header::RANGE).map(HeaderValue::to_str) else {
        return Requested::Whole;
    };
    if let Some(condition) = request.get(header::IF_RANGE)
        && (etag.starts_with("W/") || condition.as_bytes() != etag.as_bytes())
    {
        return Requested::Whole;
    }
    let Ok(parsed) = http_range_header::parse_range_header(range) else {
        return Requested::Whole;
    };
    match parsed.validate(length) {
        Ok(ranges) => match ranges.as_slice() {
            [range] => Requested::Part(range.clone()),
            _ => Requested::Whole,
        },
        Err(_) => Requested::Unsatisfiable,
    }
}

#[cfg(test)]
mod reload_tests;
#[cfg(test)]
mod tests;
