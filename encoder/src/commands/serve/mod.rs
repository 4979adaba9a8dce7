//! The composition root of `encoder serve`: the order in which its parts start and stop.
//!
//! Start, with validated settings: bind the listeners, open the store, start the admin server, serve viewers, accept
//! publishers, report readiness. Stop: withdraw readiness and accept no more publishers, wait for the streams to end
//! or end them, complete their writes and archives, disconnect viewers, stop the admin server last.

use crate::archive::{self, ArchiveManager};
use crate::config::{OutputLocation, ServeConfig, TlsConfig};
use crate::delivery::Spool;
use crate::delivery::outputs::OutputOptions;
use crate::fault::Fault;
use crate::fleet::Engine;
use crate::fleet::agones::Agones;
use crate::ingest::{self, tls::Listener};
use crate::logging::Recent;
use crate::origin::{ObjectCache, StreamPath};
use crate::shutdown::{Shutdown, ShutdownStage};
use crate::stream::registry::Registry;
use crate::stream::report::MetricsReport;
use crate::stream::worker::WorkerOptions;
use crate::{admin, origin, telemetry};
use hls::Timing;
use probes::{Admin, Probe, StatusSource};
use rtmp::Refusal;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;
use store::dir::DirStore;
use store::gcs::GcsStore;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// The supervisor counts as stuck after this long without a heartbeat. Its runtime never blocks, so even with every
/// core busy encoding a heartbeat is late by milliseconds only.
const HEARTBEAT_PATIENCE: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Time for ended streams to write their last playlists. Together with the later deadlines this makes the process
/// exit about five seconds after it was told to end its streams.
const SEAL_DEADLINE: Duration = Duration::from_secs(3);
/// Time to complete archives once the process was told to end its streams, typically by an operator at a terminal.
const ARCHIVE_DEADLINE: Duration = Duration::from_millis(1500);
/// Least time to complete archives after a drain, even if the streams used up the drain time-out. Archives of three
/// hours in a bucket are completed in less, and a platform whose grace period is the drain time-out plus half a
/// minute does not have to kill the process.
const ARCHIVES_AT_LEAST: Duration = Duration::from_secs(20);
/// Time for refused or disconnected publishers to read the reason; then they close their connection themselves.
const GOODBYES: Duration = Duration::from_millis(800);
/// Time for viewers to finish reading once all streams have ended.
const LAST_READS: Duration = Duration::from_millis(500);

/// Raises the soft limit of open files to the hard limit: every viewer needs a file descriptor, and shells and
/// service managers allow 1,024 by default. A higher limit would not help, because [`origin::ViewerLimits`] bounds the
/// connections.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        warn!(
            allowed = limit.current,
            %error,
            "cannot raise the limit of open files: it bounds the number of viewers; raise it outside (ulimit -n)"
        );
    }
}

/// Runs the encoder until it is asked to leave.
///
/// # Errors
/// A port cannot be bound, the store or the spool cannot be opened, or the machine does not provide a service.
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
        probes::ProbeSettings { capacity: config.capacity, recycle_after: config.recycle_after },
        HEARTBEAT_PATIENCE,
    );
    let library = ObjectCache::new();
    let archives = config.archive.clone().map(|settings| {
        let keeper = ArchiveManager::new(
            store.clone(),
            archive::ArchiveSettings { owner: archive::owner(), ..settings },
        );
        keeper.seal_own(config.stream.reconnect_window, archive::is_dead);
        keeper
    });
    let outlet =
        OutputOptions { library: library.clone(), store: store.clone(), spool, archives: archives.clone() };
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
    // Every counter of a stream is shown from the start, as zero.
    MetricsReport::default().bring_up(Default::default(), Default::default());
    probes::metrics::build_info(env!("CARGO_PKG_VERSION"), crate::REVISION);

    let (stop_serving, serving_stopped) = tokio::sync::watch::channel(false);
    let router = origin::router(library);
    let mut viewers = JoinSet::new();
    for listener in std::iter::once(Listener::from(http_listener)).chain(https_listener) {
        let mut stopped = serving_stopped.clone();
        viewers.spawn(origin::serve(listener, router.clone(), origin::ViewerLimits::default(), async move {
            // A dropped sender stops serving as well.
            let _ = stopped.changed().await;
        }));
    }
    let mut publishers = JoinSet::new();
    for listener in std::iter::once(Listener::from(rtmp_listener)).chain(rtmps_listener) {
        let options = ingest::ServerOptions {
            read_timeout: config.publish_timeout,
            ..ingest::ServerOptions::default()
        };
        let shutdown = shutdown.clone();
        publishers.spawn(ingest::serve(listener, registry.clone(), options, async move {
            shutdown.reached(ShutdownStage::Draining).await
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

    shutdown.reached(ShutdownStage::Draining).await;
    probe.drain();
    registry.drain();
    let drained_by = Instant::now() + config.drain_timeout;
    end_streams(&registry, &shutdown, config.drain_timeout).await;
    if let Some(archives) = archives {
        let left = drained_by.saturating_duration_since(Instant::now());
        finish_archives(&archives, &shutdown, left.max(ARCHIVES_AT_LEAST)).await;
    }

    // An error means that serving has already stopped.
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

/// The source of the operator's status page.
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

pub(crate) async fn open_store(output: &OutputLocation) -> Result<Arc<dyn Store>, Fault> {
    match output {
        OutputLocation::Directory(path) => match DirStore::open(path).await {
            Ok(store) => Ok(Arc::new(store)),
            Err(error) => Err(Fault::Store { place: output.to_string(), why: error.to_string() }),
        },
        OutputLocation::Bucket { location, endpoint } => {
            match GcsStore::open(location.clone(), endpoint.as_deref()).await {
                Ok(store) => Ok(Arc::new(store)),
                Err(error) => Err(Fault::bucket("--output", location, &error)),
            }
        }
    }
}

/// Waits until the streams end by themselves; on the drain time-out or a signal ends them; on a further signal or the
/// deadline stops waiting.
async fn end_streams(registry: &Registry, shutdown: &Shutdown, drain_timeout: Duration) {
    let mut count = registry.count();
    let mut none_left = async || {
        // The registry owns the sender and outlives this wait, so there is no error.
        let _ = count.wait_for(|count| *count == 0).await;
    };
    tokio::select! {
        () = none_left() => return,
        () = shutdown.reached(ShutdownStage::Ending) => {}
        () = tokio::time::sleep(drain_timeout) => warn!("drain time-out (--drain-timeout): running streams are ended"),
    }
    registry.end_all(&Refusal::Draining);
    tokio::select! {
        () = none_left() => {}
        () = shutdown.reached(ShutdownStage::Leaving) => warn!("left without waiting for the last writes"),
        () = tokio::time::sleep(SEAL_DEADLINE) => warn!("left with last writes unfinished"),
    }
}

/// Waits for archives to be completed: for all archives within the time limit, or only for [`ARCHIVE_DEADLINE`] after
/// a signal to end. The next encoder that takes the stream, or `encoder archive seal`, completes the remaining
/// archives.
async fn finish_archives(archives: &ArchiveManager, shutdown: &Shutdown, within: Duration) {
    let hurried = async {
        shutdown.clone().reached(ShutdownStage::Ending).await;
        tokio::time::sleep(ARCHIVE_DEADLINE).await;
    };
    tokio::select! {
        () = archives.idle() => return,
        () = hurried => {}
        () = shutdown.reached(ShutdownStage::Leaving) => {}
        () = tokio::time::sleep(within) => {}
    }
    warn!("left with archives unfinished: `encoder archive seal` completes them");
}

/// Sends heartbeats as long as the runtime runs tasks and the locks of every stream can be acquired.
async fn beat(probe: Arc<Probe>, registry: Arc<Registry>) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        registry.check_locks();
        probe.heartbeat();
    }
}

pub(crate) async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| Fault::Listen { flag, address, error })
}

/// Like [`bind`] for the RTMP port. If the kernel chose the port (port 0), binds that port again explicitly: closing
/// the listener gate for a while would lose a port that the kernel chose, but not one that was requested.
pub(crate) async fn bind_rtmp(address: SocketAddr) -> Result<TcpListener, Fault> {
    let listener = bind("--rtmp-listen", address).await?;
    let chosen = local(&listener, address);
    if chosen == address {
        return Ok(listener);
    }
    drop(listener);
    bind("--rtmp-listen", chosen).await
}

/// Binds the listeners for RTMPS and HTTPS.
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

/// The listener's actual address: for port 0 the kernel has chosen the port.
fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// The addresses of all listeners.
struct Addresses {
    rtmp: SocketAddr,
    rtmps: Option<SocketAddr>,
    http: SocketAddr,
    https: Option<SocketAddr>,
    admin: SocketAddr,
}

/// Logs one line per port, the settings, and the URLs to publish and to watch.
fn announce(config: &ServeConfig, addresses: &Addresses, store: &str) {
    info!(listen = %addresses.rtmp, capacity = config.capacity.get(), "publishers: rtmp");
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

/// Replaces an unspecified address by one that works in a URL on this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other.ip(),
    };
    SocketAddr::new(ip, address.port())
}
