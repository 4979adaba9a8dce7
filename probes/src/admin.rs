//! The internal HTTP server: probes, metrics, status, operator page, and the description of all routes. The server runs
//! on its own thread and runtime, so that it answers while the rest of the process is overloaded. Decisions do not
//! belong here; sockets are in `serve`, who may ask what is in `access`.

use crate::access::{self, Access};
use crate::health::{Health, HealthVerdict};
use crate::serve::{ConnectionLimits, serve};
use crate::{metrics, page};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Json, Response};
use axum::{Router, extract, middleware, routing::get};
use futures_util::stream;
use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::error;
use utoipa::OpenApi;

/// Interval at which histograms are drained; otherwise they grow between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
/// Maximum number of operator pages that follow one process at the same time.
const MAX_WATCHERS: usize = 16;

/// Maximum number of clients that follow the readiness at the same time; others get the verdict of the moment.
const MAX_FOLLOWERS: usize = 32;
/// A follower of the readiness hears from this process at least once in this time.
pub const FOLLOWERS_HEAR_EVERY: Duration = Duration::from_secs(15);

/// Source of `/status`. Called on the admin thread: implementations may take a short lock and must not wait for media
/// or a store.
pub trait StatusSource: Send + Sync + 'static {
    /// All streams, rungs, lags and counters, as JSON.
    fn status(&self) -> Value;

    /// A stream's newest picture as JPEG, by application and stream name.
    fn picture(&self, app: &str, name: &str) -> Option<Vec<u8>> {
        let _ = (app, name);
        None
    }
}

impl<F: Fn() -> Value + Send + Sync + 'static> StatusSource for F {
    fn status(&self) -> Value {
        self()
    }
}

/// Why the admin server did not start. All are faults of the machine's set-up; a retry does not help.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another metrics recorder was installed in this process.
    #[error("cannot install the metrics recorder: {0}")]
    Recorder(#[from] BuildError),
    /// The thread, its runtime or the listener could not be set up.
    #[error("cannot start the admin server: {0}")]
    Io(#[from] io::Error),
}

/// Starts the server; see [`Admin::start`].
#[derive(Debug)]
pub struct Admin;

/// The running server. Dropping it stops the server without waiting.
#[derive(Debug)]
pub struct AdminHandle {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<io::Result<()>>,
    address: SocketAddr,
}

/// Routes besides this crate's own. Their handlers run on the admin thread and must not wait for media or a store.
/// Each request carries the client's address, as [`axum::extract::ConnectInfo`].
pub struct AdminRoutes {
    /// The handlers.
    pub router: Router,
    /// Describes the routes, with a title for the whole document. The description replaces that of a route of this crate
    /// with the same path. Called when the document is asked for: a running encoder seldom needs it.
    pub describe: fn() -> utoipa::openapi::OpenApi,
}

impl Default for AdminRoutes {
    fn default() -> Self {
        Self { router: Router::new(), describe: utoipa::openapi::OpenApi::default }
    }
}

/// This crate's routes for `/openapi.json`.
#[derive(OpenApi)]
#[openapi(
    paths(livez, readyz, startupz, render_metrics, status, page::events, page::picture, describe),
    components(schemas(ErrorBody)),
    info(title = "admin port", version = "1", description = "Probes, metrics and status of this process.")
)]
struct OwnDescription;

/// The document `/openapi.json`: what `more` says, and this crate's routes.
fn describe_all(more: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let mut own = OwnDescription::openapi();
    if more.info.title.is_empty() {
        own.merge(more);
        return own;
    }
    more.merge_from(own)
}

/// The body of a refusal.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// What is wrong and what helps.
    pub error: String,
}

#[derive(Clone)]
pub(crate) struct AdminShared {
    pub(crate) health: Arc<dyn Health>,
    pub(crate) status: Arc<dyn StatusSource>,
    metrics: PrometheusHandle,
    /// See [`AdminRoutes::describe`].
    describe: fn() -> utoipa::openapi::OpenApi,
    /// Limits the pages that follow the status at the same time; further pages are refused.
    pub(crate) watchers: Arc<Semaphore>,
    /// Limits the clients that follow the readiness.
    followers: Arc<Semaphore>,
}

// === impl Admin ===

impl Admin {
    /// Serves `listener` on a thread named `admin` until [`AdminHandle::stop`]; `access` decides which requests reach a
    /// route.
    pub fn start(
        listener: TcpListener,
        health: Arc<dyn Health>,
        status: Arc<dyn StatusSource>,
        more: AdminRoutes,
        access: Access,
    ) -> Result<AdminHandle, AdminError> {
        let metrics = metrics::install()?;
        // Values recorded before the recorder was installed are lost; set them again.
        health.publish_gauges();
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let shared = AdminShared {
            health,
            status,
            metrics: metrics.clone(),
            describe: more.describe,
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
            followers: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        };
        let guard = middleware::from_fn_with_state(Arc::new(access), access::guard);
        let router = router(shared).merge(more.router).layer(guard);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("admin".into()).spawn(move || {
            let result = runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                let upkeep = async {
                    let mut ticks = tokio::time::interval(UPKEEP);
                    loop {
                        ticks.tick().await;
                        metrics.run_upkeep();
                    }
                };
                // Stop without waiting for connections: an idle keep-alive connection could delay the process
                // indefinitely.
                tokio::select! {
                    never = serve(listener, router, ConnectionLimits::default()) => match never {},
                    () = upkeep => Ok(()),
                    // Completes when the stop signal is sent and when its sender is dropped.
                    _ = stopped => Ok(()),
                }
            });
            if let Err(error) = &result {
                error!(%error, "admin server ended");
            }
            result
        })?;
        Ok(AdminHandle { stop, thread, address })
    }
}

// === impl AdminHandle ===

impl AdminHandle {
    /// The server's local address.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops the server and waits for its thread. Call this last, because probes must stay available while the rest
    /// shuts down.
    pub fn stop(self) -> io::Result<()> {
        // An error means that the thread has already ended; the thread's result has the reason.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the admin thread panicked")))
    }
}

// === router ===

fn router(shared: AdminShared) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/metrics", get(render_metrics))
        .route("/status", get(status))
        .route("/openapi.json", get(describe))
        .merge(page::router())
        .with_state(shared)
}

pub(crate) const NO_STORE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

fn answer(verdict: HealthVerdict, shared: &AdminShared) -> Response {
    let code = if verdict.good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = shared.health.details();
    body.insert("ok".to_owned(), verdict.good.into());
    body.insert("reason".to_owned(), verdict.why.into());
    (code, [NO_STORE], Json(body)).into_response()
}

/// Liveness: fails when only a restart helps.
#[utoipa::path(get, path = "/livez", tag = "probes", responses(
    (status = 200, description = "Yes; the body has the reason", body = serde_json::Value),
    (status = 503, description = "No; the body has the reason", body = serde_json::Value),
))]
async fn livez(extract::State(shared): extract::State<AdminShared>) -> Response {
    answer(shared.health.live(), &shared)
}

/// Readiness: whether the process takes the next publisher. With `?follow` the answer has the same status and goes on as
/// server-sent events: `ready` or `unready` with each change.
#[utoipa::path(get, path = "/readyz", tag = "probes",
    params(("follow" = Option<bool>, Query, description = "The answer tells later changes too")),
    responses(
        (status = 200, description = "Yes; the body has the reason", body = serde_json::Value),
        (status = 503, description = "No; the body has the reason", body = serde_json::Value),
    ))]
async fn readyz(
    extract::State(shared): extract::State<AdminShared>,
    extract::RawQuery(query): extract::RawQuery,
) -> Response {
    if query.as_deref() == Some("follow")
        && let Ok(place) = Arc::clone(&shared.followers).try_acquire_owned()
    {
        return follow(shared.health, place);
    }
    answer(shared.health.ready(), &shared)
}

/// The verdict as status, and every later verdict that differs as an event.
fn follow(health: Arc<dyn Health>, place: OwnedSemaphorePermit) -> Response {
    // Subscribed before the verdict is read, so that no change falls between the two.
    let changed = health.changed();
    let ready = health.ready().good;
    let events =
        stream::unfold((health, changed, ready, place), |(health, mut changed, told, place)| async move {
            loop {
                changed.await;
                changed = health.changed();
                let ready = health.ready().good;
                if ready != told {
                    let event = Event::default().data(if ready { "ready" } else { "unready" });
                    return Some((Ok::<_, Infallible>(event), (health, changed, ready, place)));
                }
            }
        });
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(FOLLOWERS_HEAR_EVERY));
    (code, [NO_STORE], events).into_response()
}

/// Whether start-up is complete.
#[utoipa::path(get, path = "/startupz", tag = "probes", responses(
    (status = 200, description = "Yes; the body has the reason", body = serde_json::Value),
    (status = 503, description = "No; the body has the reason", body = serde_json::Value),
))]
async fn startupz(extract::State(shared): extract::State<AdminShared>) -> Response {
    answer(shared.health.started(), &shared)
}

/// The metrics as Prometheus text.
#[utoipa::path(get, path = "/metrics", tag = "status", responses(
    (status = 200, description = "Prometheus text format 0.0.4", body = String, content_type = "text/plain"),
))]
async fn render_metrics(extract::State(shared): extract::State<AdminShared>) -> Response {
    let text_format = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([text_format, NO_STORE], shared.metrics.render()).into_response()
}

/// The status of the process.
#[utoipa::path(get, path = "/status", tag = "status", responses(
    (status = 200, description = "The status, with the results of the probes as `probe`", body = serde_json::Value),
))]
async fn status(extract::State(shared): extract::State<AdminShared>) -> Response {
    ([NO_STORE], Json(whole_status(&shared))).into_response()
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "status", responses(
    (status = 200, description = "OpenAPI 3.1", body = serde_json::Value),
))]
async fn describe(extract::State(shared): extract::State<AdminShared>) -> Response {
    ([NO_STORE], Json(describe_all((shared.describe)()))).into_response()
}

/// The status of the process, with the results of its probes.
pub(crate) fn whole_status(shared: &AdminShared) -> Value {
    let mut status = shared.status.status();
    if let Value::Object(status) = &mut status {
        let verdict = |HealthVerdict { good, why }| json!({"ok": good, "reason": why});
        let mut probe = shared.health.details();
        probe.insert("live".to_owned(), verdict(shared.health.live()));
        probe.insert("ready".to_owned(), verdict(shared.health.ready()));
        status.insert("probe".to_owned(), probe.into());
    }
    status
}

#[cfg(test)]
mod tests;
