//! Starts the parts of `encoder serve`: listeners, store, admin server, servers for viewers and publishers.

use super::announce::Addresses;
use super::{ServeParts, Status};
use crate::archive::{self, ArchiveManager};
use crate::config::{AdminToken, ServeConfig, TlsConfig};
use crate::delivery::outputs::OutputOptions;
use crate::delivery::{self, Spool};
use crate::events::Events;
use crate::fault::Fault;
use crate::fleet::Engine;
use crate::fleet::agones::Agones;
use crate::identity::Identity;
use crate::ingest::{self, tls::Listener};
use crate::listener::ListenerSettings;
use crate::listener::descriptors::{self, Shares};
use crate::logging::Recent;
use crate::origin::ObjectCache;
use crate::shutdown::{Shutdown, ShutdownStage};
use crate::stream::registry::{Registry, RegistryOptions};
use crate::stream::report::MetricsReport;
use crate::stream::worker::WorkerOptions;
use crate::{admin, origin, telemetry};
use axum::Router;
use probes::{Access, Admin, AdminHandle, Probe};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::Store;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};
use transcode::confine::{Confinement, SandboxMode};

/// The supervisor counts as stuck after this long without a heartbeat. Its runtime never blocks, so even with every
/// core busy encoding a heartbeat is late by milliseconds only.
const HEARTBEAT_PATIENCE: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Binds every listener, opens the store and starts all servers. A failure leaves nothing running.
pub(super) async fn build(config: ServeConfig, warnings: Recent) -> Result<ServeParts, Fault> {
    info!(version = env!("CARGO_PKG_VERSION"), revision = crate::REVISION, "encoder");
    let open_files = raise_open_files();
    let shutdown = Shutdown::listen().map_err(|error| machine("cannot watch signals", &error))?;
    let listeners = Listeners::bind(&config).await?;
    let addresses = listeners.addresses(&config);
    let shares = share_descriptors(open_files, &config, &listeners);
    let store =
        config.output.open().await.map_err(|error| Fault::store("--output", &config.output, &error))?;
    let spool = open_spool(&config)?;
    let probe = Probe::new(
        probes::ProbeSettings { capacity: config.capacity, recycle_after: config.recycle_after },
        HEARTBEAT_PATIENCE,
    );
    let cache = ObjectCache::new();
    let events = config.events.as_ref().map(Events::start).transpose()?.unwrap_or_default();
    let archives = keep_archives(&config, &store, &events);
    let outputs = OutputOptions {
        cache: cache.clone(),
        store: store.clone(),
        spool,
        archives: archives.clone(),
        archive: config.archive.clone(),
        events: events.clone(),
    };
    let workers = WorkerOptions::this_binary(&config.workers, tracing::Span::none())
        .map_err(|error| machine("cannot find this program", &error))?;
    let confinement = confinement(&workers, &config).await?;
    let identity = Identity::open(&config.publishers)?;
    tokio::spawn(identity.clone().attend());
    let registry = Registry::new(RegistryOptions {
        settings: config.stream.clone(),
        latencies: config.latencies.clone(),
        outputs,
        workers,
        probe: probe.clone(),
        when_full: config.when_full,
        identity,
        limits: config.publish_limits,
        advertised: config.edges.advertised(addresses.http),
    });
    let admin = start_admin(listeners.admin, &config, &probe, &registry, warnings, confinement)?;
    show_metrics();

    let (stop_serving, serving_stopped) = watch::channel(false);
    let limits = viewer_limits(&config, shares);
    let router = origin::router(cache, Arc::new(config.edges.access.clone()));
    let viewers = serve_viewers([Some(listeners.http), listeners.https], router, limits, &serving_stopped);
    let options = publisher_options(&config, shares);
    let publishers =
        accept_publishers([Some(listeners.rtmp), listeners.rtmps], options, &registry, &shutdown);
    if let Some(tls) = &config.tls {
        tokio::spawn(tls.identity.clone().follow_files());
    }
    tokio::spawn(beat(probe.clone(), registry.clone()));
    let agones = match config.fleet {
        Engine::None => None,
        Engine::Agones(sidecar) => Some(Agones::start(probe.clone(), sidecar)),
    };
    let location = store.location();
    Ok(ServeParts {
        shutdown,
        probe,
        registry,
        archives,
        events,
        stop_serving,
        viewers,
        publishers,
        agones,
        admin,
        config,
        addresses,
        location,
    })
}

/// Learns from a first worker what confines workers, and says what is missing: better now than with the first stream.
async fn confinement(workers: &WorkerOptions, config: &ServeConfig) -> Result<Confinement, Fault> {
    let confinement = workers.confinement().await.map_err(|why| Fault::Machine {
        what: "cannot confine the processes that decode (--worker-sandbox)",
        why,
    })?;
    let missing: Vec<String> = confinement.missing.iter().map(ToString::to_string).collect();
    let missing = (!missing.is_empty()).then(|| missing.join(", "));
    let encoder = config.stream.video.encoder.as_str();
    match confinement.mode {
        SandboxMode::Off => warn!(
            "the processes that decode what publishers send are not confined (--worker-sandbox off): a fault in a \
             decoder gives a publisher this machine; use strict"
        ),
        SandboxMode::BestEffort if missing.is_some() => {
            warn!(missing, "workers are confined less than they should be (--worker-sandbox best-effort)");
        }
        SandboxMode::Strict | SandboxMode::BestEffort => info!(missing, "workers are confined"),
    }
    if config.workers.devices && confinement.mode != SandboxMode::Off {
        warn!(encoder, "this encoder needs device files: its workers may open files and are confined less");
    }
    Ok(confinement)
}

/// Raises the soft limit of open files to the hard limit, and returns the limit: every viewer needs a file descriptor,
/// and shells and service managers allow 1,024 by default.
pub(crate) fn raise_open_files() -> u64 {
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
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn share_descriptors(open_files: u64, config: &ServeConfig, listeners: &Listeners) -> Shares {
    let ports = |second: &Option<Listener>| 1 + usize::from(second.is_some());
    let capacity = config.capacity.get();
    let shares = descriptors::shares(open_files, capacity, ports(&listeners.https), ports(&listeners.rtmps));
    let Shares { viewers, waiting, suffices } = shares;
    if !suffices {
        warn!(
            open_files,
            capacity,
            viewers,
            "the limit of open files is too low for the capacity: many viewers could starve streams and probes; raise \
             the limit outside (ulimit -n), or lower --capacity"
        );
    } else {
        debug!(open_files, viewers, waiting, "connections per port");
    }
    shares
}

/// The bound listeners.
struct Listeners {
    rtmp: Listener,
    rtmps: Option<Listener>,
    http: Listener,
    https: Option<Listener>,
    admin: TcpListener,
}

impl Listeners {
    async fn bind(config: &ServeConfig) -> Result<Self, Fault> {
        let proxies = config.publishers.proxies();
        let settings = |name| ListenerSettings { name, proxies: proxies.clone() };
        let socket = bind_rtmp(config.rtmp_listen).await?;
        let rtmp = Listener { socket, tls: None, settings: settings("rtmp") };
        let socket = bind("--http-listen", config.http_listen).await?;
        let http = Listener { socket, tls: None, settings: settings("http") };
        let admin = bind("--admin-listen", config.admin_listen).await?;
        let (rtmps, https) = match &config.tls {
            Some(tls) => bind_tls(tls, &settings).await?,
            None => (None, None),
        };
        Ok(Self { rtmp, rtmps, http, https, admin })
    }

    fn addresses(&self, config: &ServeConfig) -> Addresses {
        let of = |listener: &Option<Listener>| listener.as_ref()?.socket.local_addr().ok();
        Addresses {
            rtmp: local(&self.rtmp.socket, config.rtmp_listen),
            rtmps: of(&self.rtmps),
            http: local(&self.http.socket, config.http_listen),
            https: of(&self.https),
            admin: local(&self.admin, config.admin_listen),
        }
    }
}

/// The machine does not provide a service.
pub(crate) fn machine(what: &'static str, why: &dyn fmt::Display) -> Fault {
    Fault::Machine { what, why: why.to_string() }
}

/// Opens the spool, whose size is shared out evenly among the streams.
fn open_spool(config: &ServeConfig) -> Result<Option<Arc<Spool>>, Fault> {
    let Some((folder, bytes)) = &config.spool else { return Ok(None) };
    let each = bytes / u64::from(config.capacity.get());
    let opened = Spool::open(folder, each).map_err(|error| Fault::Machine {
        what: "cannot use the spool's folder (--spool)",
        why: format!("{}: {error}", folder.display()),
    });
    Ok(Some(opened?))
}

/// Starts to keep archives, and to complete those that an earlier process of this encoder left behind.
fn keep_archives(config: &ServeConfig, store: &Arc<dyn Store>, events: &Events) -> Arc<ArchiveManager> {
    let manager = ArchiveManager::with_events(store.clone(), archive::owner(), events.clone());
    // A grant may say that a stream is archived although others are not.
    if config.archive.is_some() || !config.publishers.has_no_source() {
        manager.seal_own(config.stream.reconnect_window, archive::is_dead);
    }
    manager
}

fn start_admin(
    listener: TcpListener,
    config: &ServeConfig,
    probe: &Arc<Probe>,
    registry: &Arc<Registry>,
    warnings: Recent,
    confinement: Confinement,
) -> Result<AdminHandle, Fault> {
    const WHAT: &str = "cannot start the admin server";
    let status = Arc::new(Status {
        registry: registry.clone(),
        started: Instant::now(),
        ladder: config.stream.ladder.to_string(),
        warnings,
        confinement,
        reports: config.edges.access.reports.clone(),
    });
    let token = config.admin_access.token.as_ref().map(AdminToken::expose);
    let access = Access::new(config.admin_access.hosts.clone(), token);
    if !local(&listener, config.admin_listen).ip().is_loopback() && !access.has_token() {
        info!(
            "the admin port is open to other machines, for reading alone: --admin-token lets them change something"
        );
    }
    let listener = listener.into_std().map_err(|error| machine(WHAT, &error))?;
    Admin::start(listener, probe.clone(), status, admin::routes(registry.clone()), access)
        .map_err(|error| machine(WHAT, &error))
}

/// Describes the metrics, and shows every counter of a stream from the start, as zero.
fn show_metrics() {
    telemetry::describe();
    MetricsReport::default().bring_up(Default::default(), Default::default());
    delivery::show_counters();
    ingest::show_counters();
    telemetry::show(&[
        "encoder_worker_restarts_total",
        "encoder_worker_hangs_total",
        "encoder_shed_units_total",
        "encoder_fenced_total",
    ]);
    probes::metrics::build_info(env!("CARGO_PKG_VERSION"), crate::REVISION);
}

fn viewer_limits(config: &ServeConfig, shares: Shares) -> origin::ViewerLimits {
    let (connections, idle) = (shares.viewers, config.http_idle_timeout);
    // On one connection an edge holds a request for each playlist that its viewers follow, on another one for each part.
    let streams = 1024;
    origin::ViewerLimits { connections, idle, streams, ..origin::ViewerLimits::default() }
}

fn publisher_options(config: &ServeConfig, shares: Shares) -> ingest::ServerOptions {
    ingest::ServerOptions {
        read_timeout: config.publish_timeout,
        max_waiting: shares.waiting,
        key_paths: !config.publishers.has_no_source(),
        ..ingest::ServerOptions::default()
    }
}

pub(crate) fn serve_viewers(
    listeners: [Option<Listener>; 2],
    router: Router,
    limits: origin::ViewerLimits,
    serving_stopped: &watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut viewers = JoinSet::new();
    for listener in listeners.into_iter().flatten() {
        let mut stopped = serving_stopped.clone();
        viewers.spawn(origin::serve(listener, router.clone(), limits, async move {
            // A dropped sender stops serving as well.
            let _ = stopped.changed().await;
        }));
    }
    viewers
}

fn accept_publishers(
    listeners: [Option<Listener>; 2],
    options: ingest::ServerOptions,
    registry: &Arc<Registry>,
    shutdown: &Shutdown,
) -> JoinSet<ingest::Publishers> {
    let mut publishers = JoinSet::new();
    for listener in listeners.into_iter().flatten() {
        let shutdown = shutdown.clone();
        publishers.spawn(ingest::serve(listener, registry.clone(), options, async move {
            shutdown.reached(ShutdownStage::Draining).await
        }));
    }
    publishers
}

/// Sends heartbeats as long as the runtime runs tasks and the locks of every stream can be acquired.
async fn beat(probe: Arc<Probe>, registry: Arc<Registry>) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        registry.check_locks();
        registry.check_health();
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
async fn bind_tls(
    tls: &TlsConfig,
    settings: &impl Fn(&'static str) -> ListenerSettings,
) -> Result<(Option<Listener>, Option<Listener>), Fault> {
    let rtmps = bind_with_tls("--rtmps-listen", tls.rtmps_listen, tls, &[], settings("rtmps")).await?;
    Ok((rtmps, bind_https(tls, settings("https")).await?))
}

/// Binds the listener for HTTPS, if there is one.
pub(crate) async fn bind_https(
    tls: &TlsConfig,
    settings: ListenerSettings,
) -> Result<Option<Listener>, Fault> {
    bind_with_tls("--https-listen", tls.https_listen, tls, &origin::PROTOCOLS, settings).await
}

async fn bind_with_tls(
    flag: &'static str,
    address: Option<SocketAddr>,
    tls: &TlsConfig,
    protocols: &[&[u8]],
    settings: ListenerSettings,
) -> Result<Option<Listener>, Fault> {
    let Some(address) = address else { return Ok(None) };
    let acceptor = tls.identity.acceptor(protocols).map_err(|error| machine("cannot set up TLS", &error))?;
    let socket = bind(flag, address).await?;
    Ok(Some(Listener { socket, tls: Some(acceptor), settings }))
}

/// The listener's actual address: for port 0 the kernel has chosen the port.
fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
