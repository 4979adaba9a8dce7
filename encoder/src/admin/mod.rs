//! What operators see and change while the process runs, on the admin port next to the routes of `probes`:
//!
//! | request | |
//! |---|---|
//! | `GET /streams`, `GET /streams/{app}/{name}` | [`streams`]: what runs, and who publishes it |
//! | `DELETE /streams/{app}/{name}`, `DELETE …/ban` | [`streams`]: ends a stream, bans its name for a while |
//! | `GET`, `PUT`, `DELETE /streams/{app}/{name}/latency` | [`latency`]: the latency of the next publish |
//!
//! Which requests reach these routes is decided in [`probes::Access`]. The handlers run on the admin thread and never
//! wait for the store. Refusals have the body `{"error": "…"}`.

mod latency;
mod streams;

use crate::origin::StreamPath;
use crate::status::EncoderStatus;
use crate::stream::registry::Registry;
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef, Path};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get};
use probes::AdminRoutes;
use probes::admin::ErrorBody;
use std::sync::Arc;
use tokio::sync::mpsc;
use utoipa::OpenApi;

/// Largest body in bytes: an object with a sentence and a number. The longest reason, escaped, fits.
const MAX_BODY_BYTES: usize = 4096;

const NO_STORE: (header::HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

/// What the handlers share.
#[derive(Clone)]
struct Control {
    registry: Arc<Registry>,
    /// Names of streams whose ban is to be brought in step with the store.
    bans: mpsc::Sender<StreamPath>,
}

impl FromRef<Control> for Arc<Registry> {
    fn from_ref(control: &Control) -> Self {
        control.registry.clone()
    }
}

#[derive(OpenApi)]
#[openapi(
    paths(
        streams::list,
        streams::show,
        streams::end,
        streams::lift_ban,
        latency::show,
        latency::set,
        latency::unset,
        status
    ),
    components(schemas(ErrorBody)),
    tags(
        (name = "streams", description = "What runs, and what operators change"),
        (name = "status", description = "The state of the process"),
        (name = "probes", description = "For balancers and platforms"),
    ),
    info(
        title = "encoder: admin port",
        description = "Anybody who reaches the port may read. Changes (PUT, DELETE) need the token of --admin-token as \
            `Authorization: Bearer TOKEN`, unless they come from the encoder's own machine."
    ),
    modifiers(&Token)
)]
struct Description;

/// Adds the token to the description.
struct Token;

impl utoipa::Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The status of the process. Served by `probes`, described here because `probes` does not know the document.
#[utoipa::path(get, path = "/status", tag = "status", responses(
    (status = 200, description = "The status, with the results of the probes as `probe`", body = EncoderStatus),
))]
#[allow(dead_code, reason = "utoipa describes functions")]
fn status() {}

/// The routes of this module. Call this in the runtime that is to write bans to the store.
pub(crate) fn routes(registry: Arc<Registry>) -> AdminRoutes {
    let bans = streams::store_bans(&registry);
    let router = Router::new()
        .route("/streams", get(streams::list))
        .route("/streams/{app}/{name}", get(streams::show).delete(streams::end))
        .route("/streams/{app}/{name}/ban", delete(streams::lift_ban))
        .route("/streams/{app}/{name}/latency", get(latency::show).put(latency::set).delete(latency::unset))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Control { registry, bans });
    AdminRoutes { router, describe: Description::openapi }
}

/// A stream's application and name in a request.
type Asked = Path<(String, String)>;

/// The client's mistake, or a full table; sent as `{"error": "…"}`.
#[derive(Debug)]
struct Refused(StatusCode, String);

fn path(Path((app, name)): Asked) -> Result<StreamPath, Refused> {
    StreamPath::new(&app, &name).map_err(wrong)
}

fn wrong(problem: impl ToString) -> Refused {
    Refused(StatusCode::BAD_REQUEST, problem.to_string())
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, error) = self;
        (status, [NO_STORE], Json(ErrorBody { error })).into_response()
    }
}

#[cfg(test)]
mod tests;
