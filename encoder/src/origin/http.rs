//! Turns requests into answers. The content of answers comes from [`super::source`] and [`super::page`]; which
//! playlist version a request waits for is decided in [`super::reload`], how long a shared cache keeps an answer in
//! [`super::caching`], playlists are compressed in [`super::gzip`], and sockets with their limits belong in [`super::serve`].

use super::cache::CachedObject;
use super::caching::{Asked, BRIEFLY, NO_STORE, cache_control};
use super::reload::{self, Reload, RequestedVersion};
use super::source::{Found, HOLD_TARGET_DURATIONS, ListedStream, ObjectSource, StoredObject};
use super::{StreamPath, gzip, page, told};
use crate::edge::EdgeAccess;
use crate::listener::{EntryHandle, HeldRequest};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use listen::fairness::Source;
use serde::Serialize;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;
use store::{Caching, StoreError, content_type};
use tokio::sync::watch;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{Any, CorsLayer};

/// Bytes that are read from the store at once, for one client.
const STORED_PIECE: u64 = 1 << 20;
/// Time-out of such a read.
const STORED_PIECE_WITHIN: Duration = Duration::from_secs(10);

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

/// The address of the client that a request is for, where that is not the connection's: set by a layer before the
/// router.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ViewerAddress(pub(crate) IpAddr);

/// What a router answers from, and whom.
struct Origin<S> {
    source: Arc<S>,
    edges: Arc<EdgeAccess>,
}

// Derived, it would ask for a source that can be cloned.
impl<S> Clone for Origin<S> {
    fn clone(&self) -> Self {
        Self { source: Arc::clone(&self.source), edges: Arc::clone(&self.edges) }
    }
}

/// The public routes:
///
/// | path | answer |
/// |---|---|
/// | `/` and `/assets/…` | the player page, embedded |
/// | `/streams.json` | streams that are live |
/// | `/{app}/{name}/…` | an object of the source: GET, HEAD, one byte range, `If-None-Match` |
/// | `…/index.m3u8?_HLS_msn=N&_HLS_part=P` | a media playlist, held until it lists part P of segment N |
/// | `…/{session}-{seq}.{part}.m4s` | a part; if a playlist hints at the part, held until the part is complete |
///
/// `edges` says who may ask: everybody, or edges alone.
pub(crate) fn router<S: ObjectSource>(source: Arc<S>, edges: Arc<EdgeAccess>) -> Router {
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
        // The answer is the same for every origin. A `Vary` would make shared caches keep one copy for each.
        .vary([])
        .max_age(PREFLIGHT_MAX_AGE);
    let compression = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(is_text);
    let origin = Origin { source, edges: Arc::clone(&edges) };
    Router::new()
        .route("/", get(page::index))
        .route("/assets/{file}", get(page::asset))
        .route("/streams.json", get(streams::<S>))
        .with_state(origin.clone())
        .layer(compression)
        // Not a route with captures: those decode percent-encoding, which no object name needs. Added after the
        // compression layer, so that the layer does not apply: it would compress a playlist again for each viewer.
        .fallback_service(get(object::<S>).with_state(origin))
        .layer(cors)
        .layer(middleware::from_fn_with_state(edges, only_those_who_may))
}

/// Answers strangers with 403 where edges alone may ask.
async fn only_those_who_may(State(edges): State<Arc<EdgeAccess>>, request: Request, next: Next) -> Response {
    if edges.allows(request.headers()) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, [NO_STORE], "this encoder answers edges alone\n").into_response()
    }
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

async fn streams<S: ObjectSource>(State(origin): State<Origin<S>>) -> Response {
    ([BRIEFLY], Json(Listing { streams: origin.source.listing() })).into_response()
}

// === objects ===

async fn object<S: ObjectSource>(
    State(origin): State<Origin<S>>,
    connection: Option<Extension<EntryHandle>>,
    viewer: Option<Extension<ViewerAddress>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let Some((stream, path)) = split(uri.path()) else { return not_found() };
    let is_edge = origin.edges.is_edge(&headers);
    // `None`: too many requests are held. Without a connection, as in tests of the router alone, nothing is counted.
    let hold = || connection.as_ref().map_or(Some(None), |connection| connection.hold().map(Some));
    let client = viewer.map(|Extension(ViewerAddress(address))| address);
    let client = client.or_else(|| connection.as_ref().map(|connection| connection.address()));
    let client = client.map(Source::from);
    let (found, held): (Found, Option<Option<HeldRequest>>) =
        match origin.source.find(&stream, path, uri.query(), client) {
            Found::Later(found) => {
                let Some(held) = hold() else { return too_many_held() };
                // Free what is not needed while the request is held: thousands may be held at the same time.
                drop((origin, stream));
                (found.await, Some(held))
            }
            found => {
                if is_edge && matches!(found, Found::Playlist(_)) {
                    origin.edges.reports.record(&stream, &headers);
                }
                (found, None)
            }
        };
    match found {
        Found::Object(stored) => answer(&stored, &headers, Asked::Plainly, is_edge),
        Found::Playlist(versions) => {
            let hold = || held.map_or_else(hold, Some);
            playlist(versions, uri.query(), &headers, is_edge, hold).await
        }
        Found::Stored(stored) => from_store(stored, &headers),
        Found::Missing => not_found(),
        Found::NotNow | Found::Later(_) => (StatusCode::NOT_FOUND, [NO_STORE], "not found\n").into_response(),
        Found::Overloaded => (
            StatusCode::SERVICE_UNAVAILABLE,
            [NO_STORE, (header::RETRY_AFTER, HeaderValue::from_static("1"))],
            "asked too much: try again\n",
        )
            .into_response(),
    }
}

/// Answers with the version of a media playlist that the request is for, as soon as there is one.
async fn playlist(
    versions: watch::Receiver<Arc<CachedObject>>,
    query: Option<&str>,
    headers: &HeaderMap,
    is_edge: bool,
    hold: impl FnOnce() -> Option<Option<HeldRequest>>,
) -> Response {
    let stored = Arc::clone(&versions.borrow());
    let Some(reloadable) = &stored.reload else { return answer(&stored, headers, Asked::Plainly, is_edge) };
    let asked = if reload::has_directives(query) { Asked::ForVersion } else { Asked::Plainly };
    match reload::decide(query, reloadable) {
        Ok(Reload::Now) => answer(&stored, headers, asked, is_edge),
        Ok(Reload::Until(wanted)) => {
            let longest = HOLD_TARGET_DURATIONS * reloadable.target_duration;
            let Some(_held) = hold() else { return too_many_held() };
            drop(stored);
            match tokio::time::timeout(longest, listed(versions, wanted)).await {
                Ok(Some(stored)) => answer(&stored, headers, asked, is_edge),
                Ok(None) => not_found(),
                // After a 503, hls.js 1.7.4 polls without directives until the playlist is updated.
                Err(_) => (StatusCode::SERVICE_UNAVAILABLE, [NO_STORE], "nothing new came in time\n")
                    .into_response(),
            }
        }
        Err(refused) => (StatusCode::BAD_REQUEST, [BRIEFLY], format!("{refused}\n")).into_response(),
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
    (StatusCode::NOT_FOUND, [BRIEFLY], "not found\n").into_response()
}

/// Splits a URL path into the stream and the path within the stream. The raw path is compared with the names of the
/// objects as added, so percent-encoded paths and paths with `..` match nothing.
pub(crate) fn split(path: &str) -> Option<(StreamPath, &str)> {
    let mut parts = path.strip_prefix('/')?.splitn(3, '/');
    let stream = StreamPath::new(parts.next()?, parts.next()?).ok()?;
    Some((stream, parts.next()?))
}

fn answer(stored: &CachedObject, request: &HeaderMap, asked: Asked, is_edge: bool) -> Response {
    let object = &stored.object;
    let etag = HeaderValue::from_str(&stored.etag).expect("an etag is hexadecimal digits in quotes");
    let mut common = HeaderMap::from_iter([
        (header::ETAG, etag),
        (header::CACHE_CONTROL, cache_control(stored, asked)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ]);
    if let Some(told) = stored.reload.as_ref().filter(|_| is_edge).and_then(told::write) {
        common.insert(told::RELOAD, told);
    }
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
    ranged(common, &requested, length, |range| match range {
        // The range lies within the body's length, so it fits a usize.
        Some(range) => Body::from(object.body.slice(*range.start() as usize..=*range.end() as usize)),
        None => Body::from(object.body.clone()),
    })
}

/// Answers with an object's body, or the requested range of it.
fn ranged(
    common: HeaderMap,
    requested: &Requested,
    length: u64,
    body: impl FnOnce(Option<&RangeInclusive<u64>>) -> Body,
) -> Response {
    let about_body = [(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"))];
    match requested {
        Requested::Whole => (common, about_body, body(None)).into_response(),
        Requested::Part(range) => {
            let content_range = format!("bytes {}-{}/{length}", range.start(), range.end());
            let content_range = [(header::CONTENT_RANGE, content_range)];
            (StatusCode::PARTIAL_CONTENT, common, about_body, content_range, body(Some(range)))
                .into_response()
        }
        Requested::Unsatisfiable => {
            let content_range = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
            (StatusCode::RANGE_NOT_SATISFIABLE, [NO_STORE], content_range).into_response()
        }
    }
}

/// Answers with an object that is read from the store while it is sent. Such an object is never written again, and its
/// name says which one it is, so its length identifies its content.
fn from_store(stored: StoredObject, request: &HeaderMap) -> Response {
    let StoredObject { length, content_type, .. } = stored;
    let etag = format!("\"{length:x}\"");
    let common = [
        (header::ETAG, HeaderValue::try_from(&etag).expect("an etag is hexadecimal digits in quotes")),
        (header::CACHE_CONTROL, HeaderValue::from_static(Caching::Immutable.cache_control())),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
    ];
    let common = HeaderMap::from_iter(common);
    if none_match(request, &etag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let requested = requested_range(request, &etag, length);
    let range = match &requested {
        Requested::Part(range) => *range.start()..*range.end() + 1,
        Requested::Whole | Requested::Unsatisfiable => 0..length,
    };
    let body_length = [(header::CONTENT_LENGTH, range.end - range.start)];
    let answer = ranged(common, &requested, length, |_| Body::from_stream(pieces(stored, range)));
    if answer.status().is_success() { (body_length, answer).into_response() } else { answer }
}

/// A range of a stored object, read in pieces as the client takes them. Ends with an error if the store does not answer:
/// the client sees that its answer is cut off, and asks for the rest.
fn pieces(stored: StoredObject, range: Range<u64>) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
    stream::try_unfold((stored, range), |(stored, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let piece = range.start..range.end.min(range.start + STORED_PIECE);
        let read = store::within(STORED_PIECE_WITHIN, stored.store.read_range(&stored.name, piece));
        let bytes = read.await?.filter(|bytes| !bytes.is_empty()).ok_or(StoreError::Missing)?;
        let rest = range.start + bytes.len() as u64..range.end;
        Ok(Some((bytes, (stored, rest))))
    })
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
