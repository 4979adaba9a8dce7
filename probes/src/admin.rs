//! The internal HTTP server: probes, metrics, status, operator page. It runs on a thread and runtime of its own, so
//! that it answers while the rest of the process is at its limit; it decides nothing.

use crate::busy::{State, Why};
use crate::metrics;
use crate::probe::{Liveness, Probe};
use axum::extract;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::{Router, routing::get};
use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use serde_json::{Value, json};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::error;

/// How often histograms are drained; without it they would grow between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// What `/status` shows. Called on the admin thread: it may take a short lock and must not wait for media or a store.
pub trait StatusSource: Send + Sync + 'static {
    /// Every stream, rung, lag and counter, as JSON.
    fn status(&self) -> Value;
}

impl<F: Fn() -> Value + Send + Sync + 'static> StatusSource for F {
    fn status(&self) -> Value {
        self()
    }
}

/// Why the admin server did not come up. All are faults of the machine's set-up; a retry does not help.
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

#[derive(Clone)]
struct Shared {
    probe: Arc<Probe>,
    status: Arc<dyn StatusSource>,
    metrics: PrometheusHandle,
}

// === impl Admin ===

impl Admin {
    /// Serves `listener` from a thread named `admin` until [`AdminHandle::stop`]. `more` are further routes; their
    /// handlers run on that thread and must not wait for media or a store either.
    pub fn start(
        listener: TcpListener,
        probe: Arc<Probe>,
        status: Arc<dyn StatusSource>,
        more: Router,
    ) -> Result<AdminHandle, AdminError> {
        let metrics = metrics::install()?;
        // What the probe said before there was a recorder is lost.
        probe.publish_gauges();
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let router = router(Shared { probe, status, metrics: metrics.clone() }).merge(more);
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
                // Not a graceful stop: an idle kept-alive connection would hold the process for as long as it likes.
                tokio::select! {
                    served = axum::serve(listener, router).into_future() => served,
                    () = upkeep => Ok(()),
                    // Whether it was sent or its sender dropped.
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
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops the server and waits for its thread. To be called last: probes outlive what they watch.
    pub fn stop(self) -> io::Result<()> {
        // An error means that the thread is gone already; its own result says why.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the admin thread panicked")))
    }
}

// === router ===

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/metrics", get(render_metrics))
        .route("/status", get(status))
        .route("/", get(operator_page))
        .with_state(shared)
}

const NO_STORE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

fn answer(good: bool, reason: String, shared: &Shared) -> Response {
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let state = shared.probe.state();
    let body = json!({
        "ok": good,
        "reason": reason,
        "state": state.name(),
        "streams": state.streams(),
        "capacity": shared.probe.settings().capacity,
    });
    (code, [NO_STORE], Json(body)).into_response()
}

async fn livez(extract::State(shared): extract::State<Shared>) -> Response {
    match shared.probe.liveness() {
        Liveness::Alive => answer(true, "alive".into(), &shared),
        Liveness::Stuck(silent) => {
            answer(false, format!("no progress for {:.1} s", silent.as_secs_f64()), &shared)
        }
        Liveness::Restart(reason) => answer(false, format!("wants a restart: {reason}"), &shared),
    }
}

async fn readyz(extract::State(shared): extract::State<Shared>) -> Response {
    match shared.probe.readiness() {
        Ok(()) => answer(true, "a stream is welcome".into(), &shared),
        Err(denied) => answer(false, denied.to_string(), &shared),
    }
}

/// A process that is spent before it was ever ready has failed to start, unless it was asked to leave.
async fn startupz(extract::State(shared): extract::State<Shared>) -> Response {
    match shared.probe.state() {
        State::Starting => answer(false, "still starting".into(), &shared),
        State::Spent { why: Why::Fault(reason) } => answer(false, format!("fault: {reason}"), &shared),
        State::Spent { why: Why::Asked | Why::Recycle }
        | State::Free { .. }
        | State::Busy { .. }
        | State::Draining { .. } => answer(true, "started".into(), &shared),
    }
}

async fn render_metrics(extract::State(shared): extract::State<Shared>) -> Response {
    let text_format = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([text_format, NO_STORE], shared.metrics.render()).into_response()
}

async fn status(extract::State(shared): extract::State<Shared>) -> Response {
    ([NO_STORE], Json(shared.status.status())).into_response()
}

async fn operator_page(extract::State(shared): extract::State<Shared>) -> Response {
    let state = shared.probe.state();
    let readiness = match shared.probe.readiness() {
        Ok(()) => "a stream is welcome".to_owned(),
        Err(denied) => denied.to_string(),
    };
    let status =
        serde_json::to_string_pretty(&shared.status.status()).unwrap_or_else(|error| error.to_string());
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2>\
         <meta name=viewport content='width=device-width'><meta name=color-scheme content='dark light'>\
         <title>encoder: {name}</title><h1>encoder: {name}</h1>\
         <p>{streams} of {capacity} places taken; {readiness}.</p>\
         <p><a href=livez>livez</a> <a href=readyz>readyz</a> <a href=startupz>startupz</a> \
         <a href=metrics>metrics</a> <a href=status>status</a></p><pre>{status}</pre>",
        name = state.name(),
        streams = state.streams(),
        capacity = shared.probe.settings().capacity,
        readiness = escape(&readiness),
        status = escape(&status),
    );
    // Publishers choose some of what the status shows: escaped above, and no script could run anyway.
    let policy = (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    let nosniff = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    ([policy, nosniff, NO_STORE], Html(page)).into_response()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests;
