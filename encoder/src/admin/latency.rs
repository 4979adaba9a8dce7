//! The latency that a stream has from its next publish on. Which latency wins is decided in
//! [`crate::stream::latency`].

use super::{Asked, NO_STORE, Refused, path, wrong};
use crate::origin::StreamPath;
use crate::stream::latency::{Chosen, Origin};
use crate::stream::registry::Registry;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use hls::timing::Latency;
use probes::admin::ErrorBody;
use std::net::SocketAddr;
use std::sync::Arc;
use tracing::info;
use utoipa::ToSchema;

/// A latency for the next publish.
#[derive(serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LatencyRequest {
    /// Seconds, 2 to 15.
    latency: f64,
}

/// The latencies of one stream.
#[derive(serde::Serialize, ToSchema)]
pub(super) struct LatencyStatus {
    /// Application.
    app: String,
    /// Name of the stream.
    name: String,
    /// The running stream's latency; `null` if it does not run.
    in_force: Option<ChosenLatency>,
    /// The latency of the next publish, unless its publisher requests another.
    next: ChosenLatency,
    /// When `next` takes effect, in words.
    takes_effect: &'static str,
}

/// A latency, and where it comes from.
#[derive(serde::Serialize, ToSchema)]
struct ChosenLatency {
    /// Seconds.
    latency: f64,
    /// Where it comes from.
    from: Origin,
}

impl From<Chosen> for ChosenLatency {
    fn from(Chosen { latency, from }: Chosen) -> Self {
        Self { latency: latency.as_secs_f64(), from }
    }
}

/// The latency in force, and the latency for the next publish.
#[utoipa::path(get, operation_id = "show_latency", path = "/streams/{app}/{name}/latency", tag = "streams",
    params(("app" = String, Path, description = "Application"), ("name" = String, Path, description = "Stream")),
    responses(
        (status = 200, description = "The latencies", body = LatencyStatus),
        (status = 400, description = "The names are not valid", body = ErrorBody),
    ))]
pub(super) async fn show(State(registry): State<Arc<Registry>>, asked: Asked) -> Result<Response, Refused> {
    Ok(state(&registry, &path(asked)?))
}

/// Sets the latency from the next publish on, until this process ends.
// Parses the body regardless of its Content-Type: `curl -X PUT -d` labels it as a form.
#[utoipa::path(put, operation_id = "set_latency", path = "/streams/{app}/{name}/latency", tag = "streams",
    security((), ("token" = [])),
    params(("app" = String, Path, description = "Application"), ("name" = String, Path, description = "Stream")),
    request_body(content = LatencyRequest, example = json!({ "latency": 6 })),
    responses(
        (status = 200, description = "The latencies", body = LatencyStatus),
        (status = 400, description = "The names or the body are not valid", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "Not from this machine, or from a foreign page", body = ErrorBody),
        (status = 409, description = "Too many streams have a latency set", body = ErrorBody),
    ))]
pub(super) async fn set(
    State(registry): State<Arc<Registry>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    asked: Asked,
    body: Bytes,
) -> Result<Response, Refused> {
    let stream = path(asked)?;
    let LatencyRequest { latency } =
        serde_json::from_slice(&body).map_err(|_| wrong("the body is an object like {\"latency\": 6}"))?;
    change(&registry, &stream, Some(Latency::from_secs_f64(latency).map_err(wrong)?), peer)
}

/// The configured latency applies again.
#[utoipa::path(delete, operation_id = "unset_latency", path = "/streams/{app}/{name}/latency", tag = "streams",
    security((), ("token" = [])),
    params(("app" = String, Path, description = "Application"), ("name" = String, Path, description = "Stream")),
    responses(
        (status = 200, description = "The latencies", body = LatencyStatus),
        (status = 400, description = "The names are not valid", body = ErrorBody),
        (status = 401, description = "The token is missing or wrong", body = ErrorBody),
        (status = 403, description = "Not from this machine, or from a foreign page", body = ErrorBody),
    ))]
pub(super) async fn unset(
    State(registry): State<Arc<Registry>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    asked: Asked,
) -> Result<Response, Refused> {
    change(&registry, &path(asked)?, None, peer)
}

fn change(
    registry: &Registry,
    stream: &StreamPath,
    latency: Option<Latency>,
    peer: SocketAddr,
) -> Result<Response, Refused> {
    registry.set_latency(stream, latency).map_err(|full| Refused(StatusCode::CONFLICT, full.to_string()))?;
    let next = registry.latency(stream).1;
    let (latency_seconds, latency_from) = (next.latency.as_secs_f64(), next.from.as_str());
    info!(%stream, %peer, latency_seconds, latency_from, "operator changed the latency of the next publish");
    Ok(state(registry, stream))
}

fn state(registry: &Registry, stream: &StreamPath) -> Response {
    let (in_force, next) = registry.latency(stream);
    let takes_effect = match in_force {
        Some(_) => "at the next publish once this stream has ended: it keeps its target durations until then",
        None => "at the next publish",
    };
    let body = LatencyStatus {
        app: stream.app.to_string(),
        name: stream.name.to_string(),
        in_force: in_force.map(ChosenLatency::from),
        next: next.into(),
        takes_effect,
    };
    ([NO_STORE], Json(body)).into_response()
}
