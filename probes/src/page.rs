//! The operator's page: three embedded files (`web/operator/`) and their data: a status every second as server-sent
//! events, and the streams' pictures. The page loads nothing from elsewhere; what it changes it asks of the routes of
//! [`crate::AdminRoutes`].

use crate::admin::{AdminShared, NO_STORE, whole_status};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// Interval between two status events.
const EVERY: Duration = Duration::from_secs(1);

/// Content security policy. Names chosen by publishers appear on the page: the script inserts them as text, and the
/// policy lets only the embedded files run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = include_str!("../../web/operator/index.html");
const SCRIPT: &str = include_str!("../../web/operator/operator.js");
const STYLE: &str = include_str!("../../web/operator/operator.css");

pub(crate) fn router() -> Router<AdminShared> {
    Router::new()
        .route("/", get(|| async { file("text/html; charset=utf-8", HTML) }))
        .route("/operator.js", get(|| async { file("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/operator.css", get(|| async { file("text/css; charset=utf-8", STYLE) }))
        .route("/events", get(events))
        .route("/picture/{app}/{name}", get(picture))
}

fn file(kind: &'static str, body: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, [NO_STORE], body).into_response()
}

/// The status every second, as server-sent events.
#[utoipa::path(get, path = "/events", tag = "status", responses(
    (
        status = 200,
        description = "Each event is the document of `/status`",
        body = String,
        content_type = "text/event-stream"
    ),
    (status = 503, description = "Too many pages follow this process"),
))]
pub(crate) async fn events(State(shared): State<AdminShared>) -> Response {
    let Ok(place) = Arc::clone(&shared.watchers).try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages follow this process").into_response();
    };
    let mut ticks = tokio::time::interval_at(Instant::now(), EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The permit is held until the page is closed and the event stream ends.
    let events = stream::unfold((shared, ticks, place), |(shared, mut ticks, place)| async move {
        ticks.tick().await;
        let event = Event::default().data(whole_status(&shared).to_string());
        Some((Ok::<_, Infallible>(event), (shared, ticks, place)))
    });
    ([NO_STORE], Sse::new(events)).into_response()
}

/// A stream's newest thumbnail.
#[utoipa::path(get, path = "/picture/{app}/{name}", tag = "status",
    params(("app" = String, Path, description = "Application"), ("name" = String, Path, description = "Stream")),
    responses(
        (status = 200, description = "A JPEG", body = Vec<u8>, content_type = "image/jpeg"),
        (status = 404, description = "There is no such stream, or no picture yet"),
    ))]
pub(crate) async fn picture(
    State(shared): State<AdminShared>,
    Path((app, name)): Path<(String, String)>,
) -> Response {
    match shared.status.picture(&app, &name) {
        Some(jpeg) => {
            let nosniff = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");
            ([(header::CONTENT_TYPE, "image/jpeg"), nosniff, NO_STORE], jpeg).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
