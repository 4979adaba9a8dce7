//! The composition root of `encoder serve`: what is started in which order, and what is ended in which.
//!
//! Up: settings are good already; listeners are bound, then the store is opened, then the admin server answers, then
//! viewers are served, then publishers are let in, then readiness is said. Down: readiness falls, no publisher is let
//! in, streams end by themselves or are ended, what they wrote is complete, viewers are cut off, the admin server goes
//! last.

use crate::config::{Output, ServeConfig};
use crate::fault::Fault;
use crate::origin;
use crate::origin::Library;
use crate::rtmp::{self, Refusal};
use crate::shutdown::{Shutdown, Stage};
use crate::store::Store;
use crate::store::dir::DirStore;
use crate::store::gcs::GcsStore;
use crate::stream::OutletOptions;
use crate::stream::registry::Registry;
use crate::worker::child::WorkerOptions;
use probes::{Admin, Probe};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tracing::{info, warn};

/// The supervisor counts as stuck when its heart has not beaten for this long. Its runtime never blocks, so even with
/// every core encoding a beat is late by milliseconds.
const HEARTBEAT_PATIENCE: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What ended streams get to write their last playlists.
const SEAL_DEADLINE: Duration = Duration::from_secs(5);

/// Runs the encoder until it is asked to leave.
pub async fn serve(config: ServeConfig) -> Result<(), Fault> {
    info!(version = env!("CARGO_PKG_VERSION"), revision = crate::REVISION, "encoder");
    let shutdown = Shutdown::listen()
        .map_err(|error| Fault::Machine { what: "cannot watch signals", why: error.to_string() })?;

    let rtmp_listener = bind("--rtmp-listen", config.rtmp_listen).await?;
    let http_listener = bind("--http-listen", config.http_listen).await?;
    let admin_listener = bind("--admin-listen", config.admin_listen).await?;
    let rtmp_address = local(&rtmp_listener, config.rtmp_listen);
    let http_address = local(&http_listener, config.http_listen);
    let admin_address = local(&admin_listener, config.admin_listen);

    let store = open_store(&config.output).await?;
    let probe = Probe::new(
        probes::Settings { capacity: config.capacity, recycle_after: config.recycle_after },
        HEARTBEAT_PATIENCE,
    );
    let library = Library::new();
    let outlet = OutletOptions { library: library.clone(), store: store.clone() };
    let workers = WorkerOptions::this_binary(config.worker_memory_bytes, tracing::Span::none())
        .map_err(|error| Fault::Machine { what: "cannot find this program", why: error.to_string() })?;
    let registry = Registry::new(config.stream.clone(), outlet, workers, probe.clone());

    let status = {
        let registry = registry.clone();
        Arc::new(move || registry.status())
    };
    let machine = |what: &'static str| {
        move |error: &dyn std::fmt::Display| Fault::Machine { what, why: error.to_string() }
    };
    let admin_listener =
        admin_listener.into_std().map_err(|error| machine("cannot start the admin server")(&error))?;
    let admin = Admin::start(admin_listener, probe.clone(), status)
        .map_err(|error| machine("cannot start the admin server")(&error))?;
    describe_metrics();
    probes::metrics::build_info(env!("CARGO_PKG_VERSION"), crate::REVISION);

    let (stop_serving, mut serving_stopped) = tokio::sync::watch::channel(false);
    let viewers = tokio::spawn(origin::serve(
        http_listener,
        origin::router(library),
        origin::Limits::default(),
        async move {
            // A dropped sender stops it as well.
            let _ = serving_stopped.changed().await;
        },
    ));
    let publishers = tokio::spawn(rtmp::serve(
        rtmp_listener,
        registry.clone(),
        rtmp::ServerOptions { read_timeout: config.publish_timeout, ..rtmp::ServerOptions::default() },
        {
            let shutdown = shutdown.clone();
            async move { shutdown.reached(Stage::Draining).await }
        },
    ));
    tokio::spawn(beat(probe.clone()));
    probe.ready();

    announce(&config, rtmp_address, http_address, admin_address, &store.location());

    shutdown.reached(Stage::Draining).await;
    probe.drain();
    registry.drain();
    end_streams(&registry, &shutdown, config.drain_timeout).await;

    publishers.abort();
    // An error means that serving has stopped already.
    let _ = stop_serving.send(true);
    let _ = viewers.await;
    info!("encoder leaves");
    admin.stop().map_err(|error| machine("admin server")(&error))
}

async fn open_store(output: &Output) -> Result<Arc<dyn Store>, Fault> {
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

async fn beat(probe: Arc<Probe>) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        probe.heartbeat();
    }
}

async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| Fault::Listen { flag, address, error })
}

/// With port 0 the system has chosen one.
fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// One line a port, and what to do with them.
fn announce(config: &ServeConfig, rtmp: SocketAddr, http: SocketAddr, admin: SocketAddr, store: &str) {
    info!(listen = %rtmp, capacity = %config.capacity.get(), "publishers: rtmp");
    info!(listen = %http, "viewers: http");
    info!(listen = %admin, "operators: admin");
    info!(
        latency = %config.stream.timing.latency,
        ladder = %config.stream.ladder,
        preset = config.stream.video.preset,
        store,
        "settings"
    );
    let timing = &config.stream.timing;
    let plain = timing.plain_hls_latency();
    if plain > timing.latency.as_secs_f64() + 0.05 {
        warn!(
            asked_seconds = timing.latency.as_secs_f64(),
            seconds = (plain * 10.0).round() / 10.0,
            "plain HLS keeps players three target durations back: viewers may be this far behind"
        );
    }
    info!("publish to rtmp://{}/live/demo", reachable(rtmp));
    info!("watch at   http://{}/", reachable(http));
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

fn describe_metrics() {
    use metrics::describe_counter;
    describe_counter!(
        "encoder_worker_restarts_total",
        "Worker processes that replaced one which died or hung"
    );
    describe_counter!("encoder_worker_hangs_total", "Worker processes that were killed because they hung");
    describe_counter!("encoder_shed_units_total", "Access units dropped because the encoder was too slow");
    describe_counter!("encoder_timestamp_repairs_total", "Repairs of published timestamps, by kind");
    describe_counter!("encoder_rejected_total", "Publishers refused, by reason");
}
