//! The streams that run, their publishers, and what an operator does about them: end a stream, ban its name for a
//! while, lift a ban. What a ban means to publishers is in [`crate::stream::bans`].

use super::{Asked, Control, NO_STORE, Refused, path, wrong};
use crate::origin::StreamPath;
use crate::status::{BanStatus, StreamDetails};
use crate::stream::bans::{self, Ban};
use crate::stream::driver::now;
use crate::stream::registry::{DEFAULT_REASON, Registry};
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use media::WallTime;
use probes::admin::ErrorBody;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{info, warn};
use utoipa::ToSchema;

/// Longest reason, in characters.
const MAX_REASON: usize = 200;
/// Longest ban in seconds: 30 days.
const MAX_BAN_SECONDS: u64 = 30 * 24 * 3600;
/// Bans that wait to be written to the store. A request that finds the queue full is refused.
const WAITING_BANS: usize = 64;
/// Time-out of one ban's writes, retries included.
const STORE_WITHIN: Duration = Duration::from_secs(15);

/// All streams and all bans of this process.
#[derive(serde::Serialize, ToSchema)]
pub(super) struct StreamList {
    /// The streams, in no particular order.
    streams: Vec<StreamDetails>,
    /// The bans that this process keeps, by name. Bans of other encoders are in the store only.
    bans: Vec<BanStatus>,
}

/// How a stream is ended.
#[derive(Default, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndRequest {
    /// What the publisher is told: at most 200 printable characters.
    #[schema(max_length = 200, example = "the match is over")]
    reason: Option<String>,
    /// Seconds for which the name is banned, 30 days at most.
    #[schema(minimum = 1, maximum = 2_592_000, example = 600)]
    ban_seconds: Option<u64>,
}

/// What became of a stream that was to be ended.
#[derive(serde::Serialize, ToSchema)]
pub(super) struct EndedStream {
    /// Application.
    app: String,
    /// Name of the stream.
    name: String,
    /// Whether a stream of that name ran here.
    ended: bool,
    /// What its publisher is told.
    reason: String,
    /// When the name may be published again, in UTC (RFC 3339); `null` without a ban.
    banned_until: Option<String>,
}

/// What became of a ban that was to be lifted.
#[derive(serde::Serialize, ToSchema)]
pub(super) struct LiftedBan {
    /// Application.
    app: String,
    /// Name of the stream.
    name: String,
    /// Whether this process kept a ban. A ban in the store is lifted in any case.
    lifted: bool,
}

/// All streams of this process, with their publishers, and its bans.
#[utoipa::path(get, operation_id = "list_streams", path = "/streams", tag = "streams", responses(
    (status = 200, description = "Streams and bans", body = StreamList),
))]
pub(super) async fn list(State(registry): State<Arc<Registry>>) -> Response {
    let body = StreamList { streams: registry.streams(), bans: registry.bans() };
    ([NO_STORE], Json(body)).into_response()
}

/// One stream, with its publisher.
#[utoipa::path(get, operation_id = "show_stream", path = "/streams/{app}/{name}", tag = "streams",
    params(("app" = String, Path, description = "Application"), ("name" = String, Path, description = "Stream")),
    responses(
        (status = 200, description = "The stream", body = StreamDetails),
        (status = 400, description = "The names are not valid", body = ErrorBody),
        (status = 404, description = "No such stream runs here", body = ErrorBody),
    ))]
pub(super) async fn show(State(registry): State<Arc<Registry>>, asked: Asked) -> Result<Response, Refused> {
    let stream = path(asked)?;
    let details = registry.stream(&stream).ok_or_else(|| not_here(&stream))?;
    Ok(([NO_STORE], Json(details)).into_response())
}

/// Ends a stream at once: its publisher reads the reason, playlists and archive are sealed. With `ban_seconds` nobody
/// may publish the name for so long, neither here nor at another encoder of the same store; then the stream need not
/// run. The body may be empty.
// Parses the body regardless of its Content-Type: `curl -X DELETE -d` labels it as a form.
#[utoipa::path(delete, operation_id = "end_stream", path = "/streams/{app}/{name}", tag = "streams",
    security((), ("token" = [])),
    params(("app" = String, Path, description = "Application"), ("name" = String, Path, description = "Stream")),
    request_body(content = Option<EndRequest>),
    responses(
        (status = 200, description = "The stream is ended", body = EndedStream),
        (status = 202, description = "The same, and the ban is being written to the store", body = EndedStream),
        (status = 400, description = "The names or the body are not valid", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "Not from this machine, or from a foreign page", body = ErrorBody),
        (status = 404, description = "No such stream runs here, and no ban is asked for", body = ErrorBody),
        (status = 409, description = "Too many streams are banned", body = ErrorBody),
        (status = 503, description = "Too many bans wait for the store; a retry helps", body = ErrorBody),
    ))]
pub(super) async fn end(
    State(control): State<Control>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    asked: Asked,
    body: Bytes,
) -> Result<Response, Refused> {
    let stream = path(asked)?;
    let request = EndRequest::parse(&body)?;
    let reason = request.reason.unwrap_or_else(|| DEFAULT_REASON.to_owned());
    let until = request.ban_seconds.map(|seconds| ban_end(now().wall, seconds));
    if let Some(until) = until {
        let place = place(&control)?;
        let ban = Ban { until, reason: reason.clone() };
        let kept = control.registry.ban(&stream, ban);
        kept.map_err(|full| Refused(StatusCode::CONFLICT, full.to_string()))?;
        place.send(stream.clone());
    }
    let ended = control.registry.end_stream(&stream, bans::refusal(&reason, until));
    if !ended && until.is_none() {
        return Err(not_here(&stream));
    }
    info!(%stream, %peer, ended, reason, ban_seconds = request.ban_seconds, "operator ended or banned a stream");
    let status = if until.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
    let (app, name) = (stream.app.to_string(), stream.name.to_string());
    let body = EndedStream { app, name, ended, reason, banned_until: until.map(bans::rfc3339) };
    Ok((status, [NO_STORE], Json(body)).into_response())
}

/// Lifts a ban, here and in the store. Another encoder that was asked for the ban itself keeps it: ask that encoder.
#[utoipa::path(delete, path = "/streams/{app}/{name}/ban", tag = "streams", security((), ("token" = [])),
    params(("app" = String, Path, description = "Application"), ("name" = String, Path, description = "Stream")),
    responses(
        (status = 202, description = "Lifted here, and being lifted in the store", body = LiftedBan),
        (status = 400, description = "The names are not valid", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "Not from this machine, or from a foreign page", body = ErrorBody),
        (status = 503, description = "Too many bans wait for the store; a retry helps", body = ErrorBody),
    ))]
pub(super) async fn lift_ban(
    State(control): State<Control>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    asked: Asked,
) -> Result<Response, Refused> {
    let stream = path(asked)?;
    let place = place(&control)?;
    let lifted = control.registry.lift_ban(&stream);
    place.send(stream.clone());
    info!(%stream, %peer, lifted, "operator lifted a ban");
    let body = LiftedBan { app: stream.app.to_string(), name: stream.name.to_string(), lifted };
    Ok((StatusCode::ACCEPTED, [NO_STORE], Json(body)).into_response())
}

/// Starts the task that brings bans in step with the store: one after the other, so that the last change of a ban is
/// also the last one that is written. The task ends with the routes.
pub(super) fn store_bans(registry: &Arc<Registry>) -> mpsc::Sender<StreamPath> {
    let (bans, mut changed) = mpsc::channel::<StreamPath>(WAITING_BANS);
    let registry = Arc::downgrade(registry);
    tokio::spawn(async move {
        while let Some(stream) = changed.recv().await {
            let Some(registry) = registry.upgrade() else { return };
            let error = match tokio::time::timeout(STORE_WITHIN, registry.store_ban(&stream)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", STORE_WITHIN.as_secs()),
            };
            warn!(
                %stream,
                error,
                "a ban, or its end, is not in the store: only this encoder knows; repeat the request once the store \
                 answers"
            );
        }
    });
    bans
}

/// Takes a place in the queue to the store, before anything is changed.
fn place(control: &Control) -> Result<mpsc::Permit<'_, StreamPath>, Refused> {
    control.bans.try_reserve().map_err(|_| {
        let problem = "too many bans wait for the store: try again in some seconds";
        Refused(StatusCode::SERVICE_UNAVAILABLE, problem.to_owned())
    })
}

fn not_here(stream: &StreamPath) -> Refused {
    Refused(StatusCode::NOT_FOUND, format!("no stream {stream} runs here"))
}

/// The end of a ban, in whole seconds: publishers and operators read it without fractions.
fn ban_end(now: WallTime, seconds: u64) -> WallTime {
    let began = now.unix_micros().div_euclid(1_000_000) + 1;
    WallTime::from_unix_micros((began + seconds.min(MAX_BAN_SECONDS) as i64) * 1_000_000)
}

impl EndRequest {
    fn parse(body: &[u8]) -> Result<Self, Refused> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let request: Self = serde_json::from_slice(body).map_err(|_| {
            wrong("the body is empty, or an object like {\"reason\": \"the match is over\", \"ban_seconds\": 600}")
        })?;
        if let Some(reason) = &request.reason
            && !(1..=MAX_REASON).contains(&reason.chars().count())
        {
            return Err(wrong(format!("the reason has 1 to {MAX_REASON} characters")));
        }
        if request.reason.as_ref().is_some_and(|reason| reason.chars().any(char::is_control)) {
            return Err(wrong("the reason is one line of printable characters"));
        }
        if request.ban_seconds.is_some_and(|seconds| !(1..=MAX_BAN_SECONDS).contains(&seconds)) {
            return Err(wrong(format!("ban_seconds is a whole number from 1 to {MAX_BAN_SECONDS}")));
        }
        Ok(request)
    }
}
