//! The internal HTTP server: probes, metrics, status, operator page. The server runs on its own thread and runtime, so
//! that it answers while the rest of the process is overloaded. Decisions do not belong here.

use crate::health::{Health, HealthVerdict};
use crate::{metrics, page};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::{Router, extract, routing::get};
use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use serde_json::{Value, json};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tracing::error;

/// Interval at which histograms are drained; otherwise they grow between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
/// Maximum number of operator pages that follow one process at the same time.
const MAX_WATCHERS: usize = 16;

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

#[derive(Clone)]
pub(crate) struct AdminShared {
    pub(crate) health: Arc<dyn Health>,
    pub(crate) status: Arc<dyn StatusSource>,
    metrics: PrometheusHandle,
    /// Limits the pages that follow the status at the same time; further pages are refused.
    pub(crate) watchers: Arc<Semaphore>,
}

// === impl Admin ===

impl Admin {
    /// Serves `listener` on a thread named `admin` until [`AdminHandle::stop`]. `more` are additional routes; their
    /// handlers run on the same thread and must not wait for media or a store either.
    pub fn start(
        listener: TcpListener,
        health: Arc<dyn Health>,
        status: Arc<dyn StatusSource>,
        more: Router,
    ) -> Result<AdminHandle, AdminError> {
        let metrics = metrics::install()?;
        // Values recorded before the recorder was installed are lost; set them again.
        health.publish_gauges();
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let router = router(AdminShared {
            health,
            status,
            metrics: metrics.clone(),
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
        })
        .merge(more);
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
                    served = axum::serve(listener, router).into_future() => served,
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

async fn livez(extract::State(shared): extract::State<AdminShared>) -> Response {
    answer(shared.health.live(), &shared)
}

async fn readyz(extract::State(shared): extract::State<AdminShared>) -> Response {
    answer(shared.health.ready(), &shared)
}

async fn startupz(extract::State(shared): extract::State<AdminShared>) -> Response {
    answer(shared.health.started(), &shared)
}

async fn render_metrics(extract::State(shared): extract::State<AdminShared>) -> Response {
    let text_format = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([text_format, NO_STORE], shared.metrics.render()).into_response()
}

async fn status(extract::State(shared): extract::State<AdminShared>) -> Response {
    ([NO_STORE], Json(whole_status(&shared))).into_response()
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
