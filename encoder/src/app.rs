//! The composition root of `encoder serve`: what is started in which order, and what is ended in which.
//!
//! Up: settings are good already; listeners are bound, then the store is opened, then the admin server answers, then
//! viewers are served, then publishers are let in, then readiness is said. Down: readiness falls, no publisher is let
//! in, streams end by themselves or are ended, what they wrote is complete, viewers are cut off, the admin server goes
//! last.

use crate::admin;
use crate::archive::{self, Keeper};
use crate::config::{Output, ServeConfig, TlsConfig};
use crate::fault::Fault;
use crate::fleet::Engine;
use crate::fleet::agones::Agones;
use crate::logging::Recent;
use crate::origin;
use crate::origin::{Library, StreamPath};
use crate::publish::Spool;
use crate::rtmp::{self, Refusal};
use crate::shutdown::{Shutdown, Stage};
use crate::store::Store;
use crate::store::dir::DirStore;
use crate::store::gcs::GcsStore;
use crate::stream::OutletOptions;
use crate::stream::registry::Registry;
use crate::telemetry;
use crate::tls::Listener;
use crate::worker::child::WorkerOptions;
use hls::Timing;
use probes::{Admin, Probe, StatusSource};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// The supervisor counts as stuck when its heart has not beaten for this long. Its runtime never blocks, so even with
/// every core encoding a beat is late by milliseconds.
const HEARTBEAT_PATIENCE: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What ended streams get to write their last playlists. With what comes behind it the process is gone five seconds after
/// it was told to end.
const SEAL_DEADLINE: Duration = Duration::from_secs(3);
/// What archives get to be completed when somebody waits at a terminal.
const ARCHIVE_DEADLINE: Duration = Duration::from_millis(1500);
/// What archives get when streams have taken all of the drain's time: three hours in a bucket are completed in less, and
/// whoever gave the process half a minute more than that time does not have to kill it.
const ARCHIVES_AT_LEAST: Duration = Duration::from_secs(20);
/// What publishers that were sent off get to read why: they close by themselves then.
const GOODBYES: Duration = Duration::from_millis(800);
/// What viewers get to read on once streams have ended.
const LAST_READS: Duration = Duration::from_millis(500);

/// Every viewer is an open file, and what a shell or a service manager allows by default is 1,024: takes what the hard
/// limit gives. Not more than [`origin::Limits`] lets in can be open, so more would serve nothing.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        warn!(allowed = ?limit.current, %error, "cannot raise the limit of open files: it bounds the number of viewers");
    }
}

/// Runs the encoder until it is asked to leave.
pub async fn serve(config: ServeConfig, warnings: Recent) -> Result<(), Fault> {
    info!(version = env!("CARGO_PKG_VERSION"), revision = crate::REVISION, "encoder");
    raise_open_files();
    let shutdown = Shutdown::listen()
        .map_err(|error| Fault::Machine { what: "cannot watch signals", why: error.to_string() })?;

    let rtmp_listener = bind_rtmp(config.rtmp_listen).await?;
    let http_listener = bind("--http-listen", config.http_listen).await?;
    let admin_listener = bind("--admin-listen", config.admin_listen).await?;
    let (rtmps_listener, https_listener) = match &config.tls {
        Some(tls) => bind_tls(tls).await?,
        None => (None, None),
    };
    let addresses = Addresses {
        rtmp: local(&rtmp_listener, config.rtmp_listen),
        rtmps: rtmps_listener.as_ref().and_then(|listener| listener.socket.local_addr().ok()),
        http: local(&http_listener, config.http_listen),
        https: https_listener.as_ref().and_then(|listener| listener.socket.local_addr().ok()),
        admin: local(&admin_listener, config.admin_listen),
    };

    let store = open_store(&config.output).await?;
    let spool = match &config.spool {
        None => None,
        Some((folder, bytes)) => {
            let each = bytes / u64::from(config.capacity.get());
            let opened = Spool::open(folder, each).map_err(|error| Fault::Machine {
                what: "cannot use the spool's folder (--spool)",
                why: format!("{}: {error}", folder.display()),
            });
            Some(opened?)
        }
    };
    let probe = Probe::new(
        probes::Settings { capacity: config.capacity, recycle_after: config.recycle_after },
        HEARTBEAT_PATIENCE,
    );
    let library = Library::new();
    let archives = config.archive.clone().map(|settings| {
        let keeper = Keeper::new(store.clone(), archive::Settings { owner: archive::owner(), ..settings });
        keeper.seal_own(config.stream.reconnect_window, archive::is_dead);
        keeper
    });
    let outlet =
        OutletOptions { library: library.clone(), store: store.clone(), spool, archives: archives.clone() };
    let workers = WorkerOptions::this_binary(config.worker_memory_bytes, tracing::Span::none())
        .map_err(|error| Fault::Machine { what: "cannot find this program", why: error.to_string() })?;
    let registry = Registry::new(
        config.stream.clone(),
        config.latencies.clone(),
        outlet,
        workers,
        probe.clone(),
        config.when_full,
    );

    let status = Arc::new(Status {
        registry: registry.clone(),
        started: Instant::now(),
        ladder: config.stream.ladder.to_string(),
        warnings,
    });
    let machine = |what: &'static str| {
        move |error: &dyn std::fmt::Display| Fault::Machine { what, why: error.to_string() }
    };
    let admin_listener =
        admin_listener.into_std().map_err(|error| machine("cannot start the admin server")(&error))?;
    let admin = Admin::start(admin_listener, probe.clone(), status, admin::router(registry.clone()))
        .map_err(|error| machine("cannot start the admin server")(&error))?;
    telemetry::describe();
    probes::metrics::build_info(env!("CARGO_PKG_VERSION"), crate::REVISION);

    let (stop_serving, serving_stopped) = tokio::sync::watch::channel(false);
    let router = origin::router(library);
    let mut viewers = JoinSet::new();
    for listener in std::iter::once(Listener::from(http_listener)).chain(https_listener) {
        let mut stopped = serving_stopped.clone();
        viewers.spawn(origin::serve(listener, router.clone(), origin::Limits::default(), async move {
            // A dropped sender stops it as well.
            let _ = stopped.changed().await;
        }));
    }
    let mut publishers = JoinSet::new();
    for listener in std::iter::once(Listener::from(rtmp_listener)).chain(rtmps_listener) {
        let options =
            rtmp::ServerOptions { read_timeout: config.publish_timeout, ..rtmp::ServerOptions::default() };
        let shutdown = shutdown.clone();
        publishers.spawn(rtmp::serve(listener, registry.clone(), options, async move {
            shutdown.reached(Stage::Draining).await
        }));
    }
    if let Some(tls) = &config.tls {
        tokio::spawn(tls.identity.clone().follow_files());
    }
    tokio::spawn(beat(probe.clone(), registry.clone()));
    let agones = match config.fleet {
        Engine::None => None,
        Engine::Agones(sidecar) => Some(Agones::start(probe.clone(), sidecar)),
    };
    probe.ready();

    announce(&config, &addresses, &store.location());

    shutdown.reached(Stage::Draining).await;
    probe.drain();
    registry.drain();
    let drained_by = Instant::now() + config.drain_timeout;
    end_streams(&registry, &shutdown, config.drain_timeout).await;
    if let Some(archives) = archives {
        let left = drained_by.saturating_duration_since(Instant::now());
        finish_archives(&archives, &shutdown, left.max(ARCHIVES_AT_LEAST)).await;
    }

    // An error means that serving has stopped already.
    let _ = stop_serving.send(true);
    let leave_fleet = async {
        if let Some(agones) = agones {
            agones.leave().await;
        }
    };
    let last_reads = async { while viewers.join_next().await.is_some() {} };
    let goodbyes = async {
        while let Some(left) = publishers.join_next().await {
            if let Ok(left) = left {
                left.finished().await;
            }
        }
    };
    let _ = tokio::join!(
        tokio::time::timeout(LAST_READS, last_reads),
        tokio::time::timeout(GOODBYES, goodbyes),
        leave_fleet
    );
    info!("encoder leaves");
    admin.stop().map_err(|error| machine("admin server")(&error))
}

/// What operators are shown.
struct Status {
    registry: Arc<Registry>,
    started: Instant,
    ladder: String,
    warnings: Recent,
}

impl StatusSource for Status {
    fn status(&self) -> Value {
        let mut status = self.registry.status();
        status["version"] = json!(env!("CARGO_PKG_VERSION"));
        status["revision"] = json!(crate::REVISION);
        status["uptime_seconds"] = json!(self.started.elapsed().as_secs());
        status["ladder"] = json!(self.ladder);
        status["warnings"] = json!(self.warnings.list());
        status
    }

    fn picture(&self, app: &str, name: &str) -> Option<Vec<u8>> {
        let path = StreamPath::new(app, name).ok()?;
        self.registry.picture(&path).map(Vec::from)
    }
}

pub(crate) async fn open_store(output: &Output) -> Result<Arc<dyn Store>, Fault> {
    match output {
        Output::Directory(path) => match DirStore::open(path).await {
            Ok(store) => Ok(Arc::new(store)),
            Err(error) => Err(Fault::Store { place: output.to_string(), why: error.to_string() }),
        },
        Output::Bucket { location, endpoint } => {
            match GcsStore::open(location.clone(), endpoint.as_deref()).await {
                Ok(store) => Ok(Arc::new(store)),
                Err(error) => Err(Fault::bucket("--output", location, &error)),
            }
        }
    }
}

/// Lets streams end by themselves, then ends them, then leaves them.
async fn end_streams(registry: &Registry, shutdown: &Shutdown, drain_timeout: Duration) {
    let mut count = registry.count();
    let mut none_left = async || {
        // The registry, and so the sender, outlives this wait.
        let _ = count.wait_for(|count| *count == 0).await;
    };
    tokio::select! {
        () = none_left() => return,
        () = shutdown.reached(Stage::Ending) => {}
        () = tokio::time::sleep(drain_timeout) => warn!("drain time-out: running streams are ended"),
    }
    registry.end_all(&Refusal::Draining);
    tokio::select! {
        () = none_left() => {}
        () = shutdown.reached(Stage::Leaving) => warn!("left without waiting for the last writes"),
        () = tokio::time::sleep(SEAL_DEADLINE) => warn!("left with last writes unfinished"),
    }
}

/// Lets archives be completed: all of them where the process was asked to leave in peace, those that are nearly done
/// otherwise. What remains is found by the next encoder that takes the stream, or by `encoder archive seal`.
async fn finish_archives(archives: &Keeper, shutdown: &Shutdown, within: Duration) {
    let hurried = async {
        shutdown.clone().reached(Stage::Ending).await;
        tokio::time::sleep(ARCHIVE_DEADLINE).await;
    };
    tokio::select! {
        () = archives.idle() => return,
        () = hurried => {}
        () = shutdown.reached(Stage::Leaving) => {}
        () = tokio::time::sleep(within) => {}
    }
    warn!("left with archives unfinished: `encoder archive seal` completes them");
}

/// The heart beats for as long as the runtime runs tasks and every stream's locks can be had.
async fn beat(probe: Arc<Probe>, registry: Arc<Registry>) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        registry.pulse();
        probe.heartbeat();
    }
}

pub(crate) async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| Fault::Listen { flag, address, error })
}

/// As [`bind`]. A port that the kernel chose would be lost when the socket refuses connections for a while, one that was
/// asked for is not: so it is asked for.
pub(crate) async fn bind_rtmp(address: SocketAddr) -> Result<TcpListener, Fault> {
    let listener = bind("--rtmp-listen", address).await?;
    let chosen = local(&listener, address);
    if chosen == address {
        return Ok(listener);
    }
    drop(listener);
    bind("--rtmp-listen", chosen).await
}

/// The listeners for RTMPS and HTTPS.
async fn bind_tls(tls: &TlsConfig) -> Result<(Option<Listener>, Option<Listener>), Fault> {
    let listener = async |flag, address: Option<SocketAddr>, protocols: &[&[u8]]| {
        let Some(address) = address else { return Ok(None) };
        let acceptor = tls
            .identity
            .acceptor(protocols)
            .map_err(|error| Fault::Machine { what: "cannot set up TLS", why: error.to_string() })?;
        Ok::<_, Fault>(Some(Listener { socket: bind(flag, address).await?, tls: Some(acceptor) }))
    };
    Ok((
        listener("--rtmps-listen", tls.rtmps_listen, &[]).await?,
        listener("--https-listen", tls.https_listen, &origin::PROTOCOLS).await?,
    ))
}

/// With port 0 the system has chosen one.
fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// Where the process listens.
struct Addresses {
    rtmp: SocketAddr,
    rtmps: Option<SocketAddr>,
    http: SocketAddr,
    https: Option<SocketAddr>,
    admin: SocketAddr,
}

/// One line a port, and what to do with them.
fn announce(config: &ServeConfig, addresses: &Addresses, store: &str) {
    info!(listen = %addresses.rtmp, capacity = %config.capacity.get(), "publishers: rtmp");
    if let Some(rtmps) = addresses.rtmps {
        info!(listen = %rtmps, "publishers: rtmps");
    }
    info!(listen = %addresses.http, "viewers: http");
    if let Some(https) = addresses.https {
        info!(listen = %https, "viewers: https");
    }
    info!(listen = %addresses.admin, "operators: admin");
    info!(
        latency = %config.latencies,
        ladder = %config.stream.ladder,
        preset = config.stream.video.preset,
        store,
        "settings"
    );
    for (app, latency) in config.latencies.each() {
        let timing = Timing::new(latency);
        let asked_seconds = latency.as_secs_f64();
        let above =
            |seconds: f64| (seconds > asked_seconds + 0.05).then_some((seconds * 10.0).round() / 10.0);
        if let Some(seconds) = above(timing.origin_latency(false)) {
            warn!(
                app,
                asked_seconds, seconds, "players that do not understand parts (plain HLS) are further behind"
            );
        }
        if let Some(seconds) = above(timing.store_latency()) {
            warn!(
                app,
                asked_seconds, seconds, "viewers who read from the store, without parts, are further behind"
            );
        }
    }
    info!("publish to rtmp://{}/live/demo", reachable(addresses.rtmp));
    info!("watch at   http://{}/", reachable(addresses.http));
}

/// An address that works in a URL on this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    };
    SocketAddr::new(ip, address.port())
}
