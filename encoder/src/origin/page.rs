//! The player page and its assets, embedded by `build.rs` from `web/dist`. The page's code is in `web/`.

use super::http::{none_match, not_found};
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// One embedded file.
struct Asset {
    /// The file name within `web/dist`.
    name: &'static str,
    /// The value of Content-Type.
    kind: &'static str,
    /// The ETag, derived from the content, with quotes; weak because the file may be sent compressed.
    etag: &'static str,
    body: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// Allows scripts, styles and pictures from this origin only; nothing inline, no plug-ins, no forms. `blob:` is the
/// MediaSource that hls.js plays through.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

pub(super) async fn index(request: HeaderMap) -> Response {
    match find("index.html") {
        Some(asset) => answer(asset, &request, "no-cache"),
        None => not_found(),
    }
}

/// Asset names contain a hash of the content, so copies never become stale.
pub(super) async fn asset(Path(file): Path<String>, request: HeaderMap) -> Response {
    match find(&file) {
        Some(asset) => answer(asset, &request, "public, max-age=31536000, immutable"),
        None => not_found(),
    }
}

fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

fn answer(asset: &Asset, request: &HeaderMap, caching: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 6] = [
        (header::ETAG, HeaderValue::from_static(asset.etag)),
        (header::CACHE_CONTROL, HeaderValue::from_static(caching)),
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    if none_match(request, asset.etag) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, Body::from(Bytes::from_static(asset.body))).into_response()
}
