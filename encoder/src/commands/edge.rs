//! `encoder edge`: the composition root of an edge. The order in which its parts start and stop belongs here; what an
//! edge answers is in [`crate::edge`].
//!
//! Start: bind the listeners, open the store, start the admin server, serve viewers, report readiness. Stop: withdraw
//! readiness, go on serving until balancers have noticed, accept no more connections and let answers in progress
//! finish, stop the admin server last.

use super::serve::{bind, bind_https, machine, raise_open_files, serve_viewers};
use crate::config::edge::EdgeConfig;
use crate::edge::{Edge, EdgeAccess, EdgeOptions, Passes, ViewerAccess, Viewers};
use crate::fault::Fault;
use crate::ingest::tls::Listener;
use crate::listener::ListenerSettings;
use crate::origin::{self, ViewerLimits};
use crate::shutdown::{Shutdown, ShutdownStage};
use crate::telemetry;
use audience::viewers::StreamViewers;
use axum::Router;
use probes::{Access, Admin, AdminHandle, AdminRoutes, Health, HealthVerdict};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use store::Store;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// How long an edge that is asked to leave serves on as before: balancers ask once a second or every few seconds whether
/// it is ready, and send viewers until then.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);
/// The edge counts as stuck after this long without a heartbeat: its runtime never blocks.
const PATIENCE: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Descriptors kept back for the process, its admin port, and its connections to encoders and the store.
const KEPT_BACK: u64 = 4096;

/// Runs an edge until it is asked to leave.
///
/// # Errors
/// A port cannot be bound, the store cannot be opened, or the machine does not provide a service.
pub(super) async fn run(config: EdgeConfig) -> Result<(), Fault> {
    info!(version = env!("CARGO_PKG_VERSION"), revision = crate::REVISION, "edge");
    let limits = limits(&config, raise_open_files());
    let shutdown = Shutdown::listen().map_err(|error| machine("cannot watch signals", &error))?;
    let listeners = listeners(&config).await?;
    let admin_listener = bind("--admin-listen", config.admin_listen).await?;
    let store = open_store(&config).await?;
    announce(&config, &listeners, &admin_listener, store.as_ref());
    let viewers = Viewers::new(config.trusted_proxies.clone());
    let options = EdgeOptions {
        viewers: viewers.clone(),
        store,
        secret: config.secret,
        encoders: config.encoders,
        cache_bytes: config.cache_bytes,
    };
    let edge = Edge::new(options).map_err(|error| machine("cannot ask encoders", &error))?;
    let health = Arc::new(EdgeHealth::new(Arc::clone(&edge), viewers.clone()));
    let admin = start_admin(admin_listener, &health)?;
    telemetry::describe();
    crate::edge::show_counters();
    probes::metrics::build_info(env!("CARGO_PKG_VERSION"), crate::REVISION);

    let (stop_serving, serving_stopped) = watch::channel(false);
    let router = router(&edge, &viewers, &config.viewer_access)?;
    let serving = serve_viewers(listeners, router, limits, &serving_stopped);
    if let Some(tls) = &config.tls {
        tokio::spawn(tls.identity.clone().follow_files());
    }
    let attending = tokio::spawn(edge.attend());
    let beating = tokio::spawn(Arc::clone(&health).beat());
    health.ready.store(true, Ordering::SeqCst);
    shutdown.reached(ShutdownStage::Draining).await;

    health.ready.store(false, Ordering::SeqCst);
    info!(seconds = NOTICED_WITHIN.as_secs(), "leaves: balancers have this long to notice");
    tokio::select! {
        () = tokio::time::sleep(NOTICED_WITHIN) => {}
        () = shutdown.reached(ShutdownStage::Ending) => {}
    }
    stop_serving.send_replace(true);
    finish(serving, &shutdown).await;
    attending.abort();
    beating.abort();
    info!("edge leaves");
    admin.stop().map_err(|error| machine("cannot stop the admin server", &error))
}

async fn open_store(config: &EdgeConfig) -> Result<Option<Arc<dyn Store>>, Fault> {
    let Some(output) = &config.output else { return Ok(None) };
    let store = output.open_to_read().await;
    store.map(Some).map_err(|error| Fault::store_to_read("--output", output, &error))
}

/// Says where the edge is reached, and where streams are looked up.
fn announce(
    config: &EdgeConfig,
    listeners: &[Option<Listener>],
    admin: &TcpListener,
    store: Option<&Arc<dyn Store>>,
) {
    let address = |socket: &TcpListener| socket.local_addr().map(|address| address.to_string()).ok();
    for listener in listeners.iter().flatten() {
        info!(listen = address(&listener.socket), "viewers: {}", listener.settings.name);
    }
    info!(listen = address(admin), "operators: admin");
    let location = store.map(|store| store.location());
    let encoders = Some(config.encoders.join(", ")).filter(|encoders| !encoders.is_empty());
    info!(store = location, encoders, cache_bytes = config.cache_bytes, "streams are looked up");
    if store.is_some() && config.secret.is_none() && config.encoders.is_empty() {
        warn!(
            "without --edge-secret the store does not say where encoders are: viewers get every stream from the store, \
             4 to 6 s from live at best; give encoders --advertise and both the same --edge-secret"
        );
    }
}

/// The routes with the count of viewers, and in front the check of viewers' passes, if there is one.
fn router(edge: &Arc<Edge>, viewers: &Arc<Viewers>, access: &ViewerAccess) -> Result<Router, Fault> {
    let router = viewers.observe(origin::router(Arc::clone(edge), Arc::new(EdgeAccess::default())));
    let passes = Passes::open(access, viewers.clone())
        .map_err(|error| machine("cannot ask the back end about viewers (--viewer-hook)", &error))?;
    Ok(match passes {
        Some(passes) => {
            info!("only viewers with a pass may watch, at /pass/TOKEN/APP/NAME/index.m3u8");
            passes.guard(router)
        }
        None => router,
    })
}

/// Waits until the answers in progress are finished, or cut off by [`ViewerLimits::drain`] or a further signal.
async fn finish(mut serving: JoinSet<()>, shutdown: &Shutdown) {
    let finished = async { while serving.join_next().await.is_some() {} };
    tokio::select! {
        () = finished => {}
        () = shutdown.reached(ShutdownStage::Ending) => {}
    }
}

fn limits(config: &EdgeConfig, open_files: u64) -> ViewerLimits {
    let ports = 1 + usize::from(config.tls.is_some());
    let allowed = usize::try_from(open_files.saturating_sub(KEPT_BACK)).unwrap_or(usize::MAX) / ports;
    let connections = config.connections.min(allowed.max(64));
    if connections < config.connections {
        warn!(
            open_files,
            connections,
            "the limit of open files allows fewer connections than --connections: raise the limit outside (ulimit -n)"
        );
    }
    ViewerLimits {
        connections,
        idle: config.http_idle_timeout,
        drain: config.drain_timeout,
        ..ViewerLimits::default()
    }
}

async fn listeners(config: &EdgeConfig) -> Result<[Option<Listener>; 2], Fault> {
    let proxies: Option<Arc<[_]>> = config.proxy_protocol.then(|| config.trusted_proxies.clone().into());
    let settings = |name| ListenerSettings { name, proxies: proxies.clone() };
    let socket = bind("--http-listen", config.http_listen).await?;
    let http = Listener { socket, tls: None, settings: settings("http") };
    let https = match &config.tls {
        Some(tls) => bind_https(tls, settings("https")).await?,
        None => None,
    };
    Ok([Some(http), https])
}

fn start_admin(listener: TcpListener, health: &Arc<EdgeHealth>) -> Result<AdminHandle, Fault> {
    const WHAT: &str = "cannot start the admin server";
    let listener = listener.into_std().map_err(|error| machine(WHAT, &error))?;
    let status = {
        let health = Arc::clone(health);
        Arc::new(move || health.status())
    };
    Admin::start(listener, health.clone(), status, AdminRoutes::default(), Access::default())
        .map_err(|error| machine(WHAT, &error))
}

/// What probes and operators are told.
struct EdgeHealth {
    edge: Arc<Edge>,
    viewers: Arc<Viewers>,
    ready: AtomicBool,
    started: Instant,
    /// Milliseconds from the start to the last heartbeat.
    beat: std::sync::atomic::AtomicU64,
}

impl EdgeHealth {
    fn new(edge: Arc<Edge>, viewers: Arc<Viewers>) -> Self {
        let (ready, started) = (AtomicBool::new(false), Instant::now());
        Self { edge, viewers, ready, started, beat: Default::default() }
    }

    async fn beat(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(HEARTBEAT);
        loop {
            ticks.tick().await;
            self.beat.store(self.started.elapsed().as_millis() as u64, Ordering::SeqCst);
        }
    }

    fn status(&self) -> Value {
        let viewers: HashMap<Arc<str>, StreamViewers> =
            self.viewers.streams().into_iter().map(|watched| (watched.stream.clone(), watched)).collect();
        let streams = self.edge.known().into_iter().map(|(path, encoder, playlists)| {
            let watched = viewers.get(path.to_string().as_str());
            json!({
                "stream": path.to_string(),
                "encoder": encoder.map(|address| address.to_string()),
                "playlists": playlists,
                "viewers": watched.map_or(0, |watched| watched.viewers),
                "viewers_by_rung": watched.map(|watched| watched.rungs.iter().cloned().collect::<BTreeMap<_, _>>()),
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "revision": crate::REVISION,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "edge": self.details(),
            "streams": streams.collect::<Vec<_>>(),
        })
    }
}

impl Health for EdgeHealth {
    fn live(&self) -> HealthVerdict {
        let beat = Duration::from_millis(self.beat.load(Ordering::SeqCst));
        let silent = self.started.elapsed().saturating_sub(beat);
        if silent > PATIENCE {
            HealthVerdict::bad(format!("no progress for {:.1} s", silent.as_secs_f64()))
        } else {
            HealthVerdict::good("alive")
        }
    }

    fn ready(&self) -> HealthVerdict {
        match self.ready.load(Ordering::SeqCst) {
            true => HealthVerdict::good("serving"),
            false => HealthVerdict::bad("leaving or starting".to_owned()),
        }
    }

    fn started(&self) -> HealthVerdict {
        HealthVerdict::good("started")
    }

    fn details(&self) -> Map<String, Value> {
        let state = if self.ready.load(Ordering::SeqCst) { "serving" } else { "leaving" };
        Map::from_iter([("state".to_owned(), json!(state))])
    }

    fn publish_gauges(&self) {}
}
