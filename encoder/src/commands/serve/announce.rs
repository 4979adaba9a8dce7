//! The log lines about a start: one line per port, the settings, and URLs to try.

use crate::config::{PublisherConfig, PublisherReach, ServeConfig};
use hls::Timing;
use std::net::SocketAddr;
use tracing::{info, warn};

/// The addresses of all listeners.
pub(super) struct Addresses {
    pub(super) rtmp: SocketAddr,
    pub(super) rtmps: Option<SocketAddr>,
    pub(super) http: SocketAddr,
    pub(super) https: Option<SocketAddr>,
    pub(super) admin: SocketAddr,
}

/// Logs one line per port, the settings, and the URLs to publish and to watch.
pub(super) fn announce(config: &ServeConfig, addresses: &Addresses, store: &str) {
    info!(listen = %addresses.rtmp, capacity = config.capacity.get(), "publishers: rtmp");
    if let Some(rtmps) = addresses.rtmps {
        info!(listen = %rtmps, "publishers: rtmps");
    }
    let listeners: Vec<_> = [Some(addresses.rtmp), addresses.rtmps].into_iter().flatten().collect();
    warn_of_reach(&config.publishers, &listeners);
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

/// Warns when nobody but this machine can publish although the listeners were meant for others, and when everybody can
/// publish.
pub(crate) fn warn_of_reach(publishers: &PublisherConfig, listeners: &[SocketAddr]) {
    match publishers.reach(listeners) {
        PublisherReach::AsConfigured => {}
        PublisherReach::ThisMachine => warn!(
            "nothing says who may publish, so publishers can connect from this machine only: give --publish-keys, \
             --publish-jwks or --publish-hook, or let anybody publish with --publish-anyone"
        ),
        PublisherReach::Everybody => warn!(
            "anybody who reaches this port may publish under any name (--publish-anyone), and no publisher can prove a \
             name, so nobody can take over a live stream: give keys with --publish-keys, or restrict who reaches the port"
        ),
    }
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
