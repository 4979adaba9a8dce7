//! `encoder lobby`: shares a load balancer with the encoders and answers publishers while all encoders are
//! busy. The lobby speaks RTMP like the encoder and refuses every publisher. It asks the same sources of identity as the
//! encoders, so that a stranger hears nothing about them.
//!
//! The lobby is ready only while no encoder is free, and refuses connections otherwise: as far as it knows, it never
//! takes a publisher that an encoder could have taken. Its knowledge comes from the encoders' own readiness probes, which
//! it follows ([`follow`], [`roll`], [`survey`]). The balancer acts on the same probes, encoders need no registration, and
//! an encoder tells each change as it happens. A balancer that itself knows when no other server is left (HAProxy's
//! `backup`) needs none of this: without `--encoders` the lobby is always ready.

mod follow;
mod roll;
mod survey;

use super::serve::raise_open_files;
use crate::config::LobbyConfig;
use crate::fault::Fault;
use crate::identity::Identity;
use crate::ingest::tls::Listener;
use crate::ingest::{self, Admission, MediaSink};
use crate::listener::ListenerSettings;
use crate::refusals;
use crate::shutdown::{Shutdown, ShutdownStage};
use crate::telemetry;
use probes::{Access, Admin, AdminRoutes, Health, HealthVerdict};
use rtmp::{EndReason, MediaMessage, Metadata, PublishRequest, Refusal};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use survey::{Standing, Unknown};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

/// Liveness fails after this long without a report on the encoders, which comes twice a second.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time for open connections when the lobby is asked to leave: refused publishers close within two seconds.
const GOODBYES: Duration = Duration::from_secs(3);

/// Runs the lobby until it is asked to leave.
///
/// # Errors
/// A port that cannot be bound, or a service that the machine does not provide.
pub(super) async fn run(config: LobbyConfig) -> Result<(), Fault> {
    info!(version = env!("CARGO_PKG_VERSION"), revision = crate::REVISION, "lobby");
    let shutdown = Shutdown::listen()
        .map_err(|error| Fault::Machine { what: "cannot watch signals", why: error.to_string() })?;
    let rtmp_listener = crate::commands::serve::bind_rtmp(config.rtmp_listen).await?;
    let admin_listener = crate::commands::serve::bind("--admin-listen", config.admin_listen).await?;
    let address = |listener: &TcpListener| listener.local_addr().map(|address| address.to_string()).ok();
    info!(listen = address(&rtmp_listener), "publishers: rtmp");
    crate::commands::serve::warn_of_reach(&config.publishers, &[config.rtmp_listen]);
    let encoders = Some(config.encoders.join(", ")).filter(|encoders| !encoders.is_empty());
    info!(listen = address(&admin_listener), encoders, "operators: admin");

    let always = config.encoders.is_empty();
    let standing =
        if always { Standing::AllBusy { encoders: 0 } } else { Standing::Unknown(Unknown::Everything) };
    let identity = Identity::open(&config.publishers)?;
    let lobby = Arc::new(Lobby::new(standing, identity.clone()));
    let machine = |error: &dyn std::fmt::Display| Fault::Machine {
        what: "cannot start the admin server",
        why: error.to_string(),
    };
    let status = {
        let lobby = lobby.clone();
        Arc::new(move || json!({ "lobby": lobby.details() }))
    };
    let listener = admin_listener.into_std().map_err(|error| machine(&error))?;
    let admin = Admin::start(listener, lobby.clone(), status, AdminRoutes::default(), Access::default())
        .map_err(|error| machine(&error))?;
    telemetry::describe();
    probes::metrics::build_info(env!("CARGO_PKG_VERSION"), crate::REVISION);

    // One connection for each encoder.
    raise_open_files();
    let rounds = tokio::spawn(know_the_encoders(config.encoders, lobby.clone()));
    let settings = ListenerSettings { name: "rtmp", proxies: config.publishers.proxies() };
    let rtmp_listener = Listener { socket: rtmp_listener, tls: None, settings };
    let sources = tokio::spawn(identity.attend());
    let options = ingest::ServerOptions {
        key_paths: !config.publishers.has_no_source(),
        ..ingest::ServerOptions::default()
    };
    let publishers = tokio::spawn(ingest::serve(rtmp_listener, lobby.clone(), options, {
        let shutdown = shutdown.clone();
        async move { shutdown.reached(ShutdownStage::Draining).await }
    }));
    shutdown.reached(ShutdownStage::Draining).await;
    rounds.abort();
    lobby.settle(Standing::Leaving);
    let goodbyes = async {
        if let Ok(left) = publishers.await {
            left.finished().await;
        }
    };
    tokio::select! {
        () = goodbyes => {}
        () = shutdown.reached(ShutdownStage::Ending) => {}
        () = tokio::time::sleep(GOODBYES) => {}
    }
    sources.abort();
    info!("lobby leaves");
    admin.stop().map_err(|error| machine(&error))
}

async fn know_the_encoders(encoders: Vec<String>, lobby: Arc<Lobby>) {
    if encoders.is_empty() {
        // The standing stays as it was at the start; what is reported is that this task makes progress.
        let mut reports = tokio::time::interval(Duration::from_secs(1));
        loop {
            reports.tick().await;
            lobby.settle(Standing::AllBusy { encoders: 0 });
        }
    }
    follow::follow(encoders, |survey| lobby.settle(survey.standing())).await;
}

/// The lobby's knowledge, shared by the survey task, the RTMP server and the probes.
struct Lobby {
    known: Mutex<Known>,
    open: watch::Sender<bool>,
    identity: Arc<Identity>,
}

#[derive(Clone, Copy)]
struct Known {
    standing: Standing,
    /// When the encoders were reported on last.
    at: Instant,
}

impl Lobby {
    fn new(standing: Standing, identity: Arc<Identity>) -> Self {
        let known = Mutex::new(Known { standing, at: Instant::now() });
        Self { known, open: watch::Sender::new(standing.wants_lobby()), identity }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Both fields are set together; a panic elsewhere cannot leave them inconsistent.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, standing: Standing) {
        let before = std::mem::replace(&mut *self.known(), Known { standing, at: Instant::now() });
        if before.standing.wants_lobby() != standing.wants_lobby() {
            info!(ready = standing.wants_lobby(), why = %standing, "lobby");
        }
        self.open.send_if_modified(|open| std::mem::replace(open, standing.wants_lobby()) != *open);
        self.publish_gauges();
    }
}

impl Health for Lobby {
    fn live(&self) -> HealthVerdict {
        let Known { standing, at } = *self.known();
        match at.elapsed() {
            _ if standing == Standing::Leaving => HealthVerdict::good("leaving"),
            silent if silent > PATIENCE => {
                HealthVerdict::bad(format!("no progress for {:.1} s", silent.as_secs_f64()))
            }
            _ => HealthVerdict::good("alive"),
        }
    }

    fn ready(&self) -> HealthVerdict {
        let standing = self.known().standing;
        HealthVerdict { good: standing.wants_lobby(), why: standing.to_string() }
    }

    fn started(&self) -> HealthVerdict {
        HealthVerdict::good("started")
    }

    fn details(&self) -> Map<String, Value> {
        let standing = self.known().standing;
        let details = [
            ("state", json!(if standing.wants_lobby() { "answering" } else { "waiting" })),
            ("why", json!(standing.to_string())),
        ];
        details.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
    }

    fn publish_gauges(&self) {
        let standing = self.known().standing;
        metrics::gauge!("encoder_lobby_ready").set(f64::from(u8::from(standing.wants_lobby())));
        if let Some(free) = standing.free() {
            metrics::gauge!("encoder_lobby_free_encoders").set(free as f64);
        }
    }
}

/// The media sink of an admitted publisher; it has no values, because the lobby admits none.
enum Nobody {}

impl Admission for Lobby {
    type Sink = Nobody;

    async fn admit(&self, request: PublishRequest) -> Result<Nobody, Refusal> {
        let refusal = match self.identity.decide(&request).await {
            Ok(_) => Refusal::AllBusy,
            Err(refusal) => refusal,
        };
        metrics::counter!("encoder_rejected_total", "reason" => refusals::reason(&refusal)).increment(1);
        Err(refusal)
    }

    fn open(&self) -> Option<watch::Receiver<bool>> {
        Some(self.open.subscribe())
    }
}

impl MediaSink for Nobody {
    fn media(&mut self, _: MediaMessage) -> Result<bool, Refusal> {
        match *self {}
    }

    fn most_bits_per_second(&self) -> u64 {
        match *self {}
    }

    fn metadata(&mut self, _: Metadata) {
        match *self {}
    }

    async fn sent_off(&mut self) -> Refusal {
        match *self {}
    }

    fn end(self, _: EndReason) {
        match self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PublisherConfig;
    use crate::identity::FollowedFile;
    use rtmp::StreamKey;

    #[tokio::test]
    async fn only_those_who_may_publish_hear_that_all_are_busy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.toml");
        std::fs::write(&file, "[[key]]\nkey = \"secretsecret\"\nname = \"camera\"\n").unwrap();
        let keys = Some(FollowedFile::open(file).unwrap());
        let identity = Identity::open(&PublisherConfig { keys, ..PublisherConfig::default() }).unwrap();
        let lobby = Lobby::new(Standing::AllBusy { encoders: 1 }, identity);
        let refusal = async |key: &str| {
            let request = PublishRequest {
                app: "live".into(),
                path: StreamKey::new(String::new()),
                key: StreamKey::new(key.into()),
                query: String::new(),
                peer: "192.0.2.7:5000".parse().unwrap(),
                client: String::new(),
                details: Default::default(),
            };
            lobby.admit(request).await.err().unwrap()
        };
        assert_eq!(refusal("secretsecret").await, Refusal::AllBusy);
        assert!(matches!(refusal("camera").await, Refusal::Forbidden(_)));
    }
}
