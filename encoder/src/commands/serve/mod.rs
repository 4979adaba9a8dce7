//! The composition root of `encoder serve`: the order in which its parts start and stop.
//!
//! Start ([`build`], then [`ServeParts::run`]), with validated settings: bind the listeners, open the store, start the
//! admin server, serve viewers, accept publishers, report readiness. Stop ([`ServeParts::drain`]): withdraw readiness
//! and accept no more publishers, wait for the streams to end or end them, complete their writes and archives,
//! disconnect viewers, stop the admin server last.

mod announce;
mod build;
mod drain;

pub(crate) use announce::warn_of_reach;
pub(crate) use build::{bind, bind_https, bind_rtmp, machine, raise_open_files, serve_viewers};

use crate::archive::ArchiveManager;
use crate::config::ServeConfig;
use crate::edge::EdgeReports;
use crate::events::Events;
use crate::fault::Fault;
use crate::fleet::agones::Agones;
use crate::ingest;
use crate::logging::Recent;
use crate::origin::StreamPath;
use crate::shutdown::{Shutdown, ShutdownStage};
use crate::status::{EncoderStatus, StreamStatus};
use crate::stream::registry::Registry;
use announce::Addresses;
use probes::{AdminHandle, Probe, StatusSource};
use serde_json::Value;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinSet;
use transcode::confine::Confinement;

/// The running parts of `encoder serve`, in the order in which the shutdown uses them.
struct ServeParts {
    /// Says when to leave, and when a further signal shortens a wait.
    shutdown: Shutdown,
    /// Withdraws readiness first; its heartbeat and its answers go on to the end.
    probe: Arc<Probe>,
    /// Admits no more publishers, then ends the streams that do not end by themselves.
    registry: Arc<Registry>,
    /// Completed once the streams have ended.
    archives: Arc<ArchiveManager>,
    /// Delivered once the archives are complete.
    events: Events,
    /// Tells the viewers' servers to stop, after streams and archives.
    stop_serving: watch::Sender<bool>,
    /// The servers for viewers: they get [`drain::LAST_READS`] to finish their answers.
    viewers: JoinSet<()>,
    /// The servers for publishers: they stop accepting by themselves when the shutdown begins; their last connections
    /// get [`drain::GOODBYES`].
    publishers: JoinSet<ingest::Publishers>,
    /// Tells Agones that the process leaves, at the same time; `None` without Agones.
    agones: Option<Agones>,
    /// Answers probes to the end: stopped last.
    admin: AdminHandle,
    /// The settings: the shutdown uses the drain time-out.
    config: ServeConfig,
    /// The addresses of the listeners; the shutdown does not use them.
    addresses: Addresses,
    /// The name of the store; the shutdown does not use it.
    location: String,
}

/// Runs the encoder until it is asked to leave.
///
/// # Errors
/// A port cannot be bound, the store or the spool cannot be opened, or the machine does not provide a service.
pub(super) async fn serve(config: ServeConfig, warnings: Recent) -> Result<(), Fault> {
    // On the heap: everything that is opened here makes a large future.
    let parts = Box::pin(build::build(config, warnings)).await?;
    parts.run().await;
    parts.drain().await
}

impl ServeParts {
    /// Reports readiness, and waits until the encoder is asked to leave.
    async fn run(&self) {
        self.probe.ready();
        announce::announce(&self.config, &self.addresses, &self.location);
        self.shutdown.reached(ShutdownStage::Draining).await;
    }
}

/// The source of the operator's status page.
struct Status {
    registry: Arc<Registry>,
    started: Instant,
    ladder: String,
    warnings: Recent,
    confinement: Confinement,
    reports: EdgeReports,
}

impl Status {
    /// The streams, with their viewers at edges.
    fn streams(&self) -> Vec<StreamStatus> {
        let mut streams = self.registry.status();
        for stream in &mut streams {
            if let Ok(path) = StreamPath::new(&stream.app, &stream.name) {
                stream.viewers = self.reports.viewers(&path);
            }
        }
        streams
    }
}

impl StatusSource for Status {
    fn status(&self) -> Value {
        let status = EncoderStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: crate::REVISION.to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ladder: self.ladder.clone(),
            warnings: self.warnings.list(),
            streams: self.streams(),
            latencies_set: self.registry.latencies_set(),
            origin_bytes: self.registry.origin_bytes(),
            worker_sandbox: self.confinement.clone(),
        };
        // Only a map with keys that are not text could fail.
        serde_json::to_value(status).unwrap_or_default()
    }

    fn picture(&self, app: &str, name: &str) -> Option<Vec<u8>> {
        let path = StreamPath::new(app, name).ok()?;
        self.registry.picture(&path).map(Vec::from)
    }
}
