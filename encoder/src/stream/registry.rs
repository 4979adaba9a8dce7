//! All streams of a process: which publisher is admitted, under which name, and how a returning publisher finds its
//! stream. A stream's latency is chosen in [`super::latency`].

mod publisher;

pub(crate) use self::publisher::Publisher;

use super::core::{StreamCore, StreamOver, StreamSettings};
use super::driver::{SharedCore, StreamEnding, drive, now};
use super::latency::{Bounds, Chosen, Latencies, LatencyTable, Origin, RequestedLatency, TableFull};
use crate::delivery::outputs::{OutputOptions, Outputs, THUMBNAIL};
use crate::delivery::takeover::{AlreadyOwned, Lease, LeaseClient, StreamStart};
use crate::ingest::Admission;
use crate::logging::rounded;
use crate::origin::StreamPath;
use crate::status::{LatencySet, SourceStatus, StreamStatus};
use crate::stream::worker::WorkerOptions;
use hls::Timing;
use hls::timing::Latency;
use media::{MediaSpan, is_valid_name};
use probes::{Denied, Probe};
use rtmp::ingest::Ingest;
use rtmp::{PublishRequest, Refusal};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{Instrument, info, info_span, warn};

/// A publisher that has sent nothing for this long loses its place to another publisher with the same name: its network
/// is probably gone, and its TCP connection has not failed yet. Without this limit a phone that changes from Wi-Fi to
/// mobile is locked out of its own stream for the read time-out.
const STALE_AFTER: Duration = Duration::from_secs(4);

/// A publisher none of whose messages could be read as media for this long is disconnected with a reason; otherwise it
/// would hold a place and show nothing.
const UNDERSTOOD_WITHIN: Duration = Duration::from_secs(10);

/// The streams of a process.
pub(crate) struct Registry {
    /// Weak reference to this registry, for the tasks that attend to streams.
    me: Weak<Self>,
    /// Settings with some latency; each stream replaces the latency by its own.
    settings: StreamSettings,
    latencies: LatencyTable,
    outputs: OutputOptions,
    workers: WorkerOptions,
    probe: Arc<Probe>,
    streams: Mutex<HashMap<StreamPath, Arc<StreamEntry>>>,
    lease_client: LeaseClient,
    /// Streams that have not begun: the store is being read to find out how they begin.
    beginning: Mutex<HashSet<StreamPath>>,
    /// Whether the process is draining: streams that have not begun must not begin.
    leaving: AtomicBool,
    count: watch::Sender<usize>,
    /// Whether the listener gate is open; `None` if every connection is accepted, and refused with a reason where
    /// necessary.
    open: Option<watch::Sender<bool>>,
}

/// How publishers are refused when the encoder is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Their connections are accepted, and refused with a reason.
    Tell,
    /// Their TCP connections are refused, so that a load balancer or the publisher itself tries another encoder
    /// immediately. A publisher whose connection was accepted earlier is refused with a reason.
    Refuse,
}

/// One stream.
struct StreamEntry {
    core: Arc<SharedCore>,
    /// Fixed for the life of the stream, even if another latency is set or requested meanwhile.
    latency: Chosen,
    timing: Timing,
    started: Instant,
    publisher: Mutex<Present>,
}

/// The holder of a stream's publishing place.
struct Present {
    /// Grows with every publisher, so that a replaced publisher cannot end its successor's stream.
    number: u64,
    last_message_at: Instant,
    send_off: watch::Sender<Option<Refusal>>,
}

impl Registry {
    /// Creates a registry without streams.
    pub(crate) fn new(
        settings: StreamSettings,
        latencies: Latencies,
        outputs: OutputOptions,
        workers: WorkerOptions,
        probe: Arc<Probe>,
        when_full: WhenFull,
    ) -> Arc<Self> {
        let (count, _) = watch::channel(0);
        let open = match when_full {
            WhenFull::Tell => None,
            WhenFull::Refuse => Some(watch::Sender::new(true)),
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            settings,
            latencies: LatencyTable::new(latencies),
            outputs,
            workers,
            probe,
            streams: Mutex::new(HashMap::new()),
            lease_client: LeaseClient::default(),
            beginning: Mutex::default(),
            leaving: AtomicBool::new(false),
            count,
            open,
        })
    }

    /// Liveness check: takes every lock that a stream needs, and returns once it got them. Also updates the lag
    /// metrics, and the listener gate: a publisher may have gone silent, so that another publisher may take its place.
    pub(crate) fn check_locks(&self) {
        let lags = self.entries().into_iter().map(|entry| {
            let (lag, budget) = (entry.core.look(StreamCore::lag), lag_budget(&entry.timing));
            (lag - budget, lag, budget)
        });
        let idle = || (MediaSpan::ZERO, MediaSpan::ZERO, lag_budget(&self.settings.timing));
        let (_, lag, budget) = lags.max().unwrap_or_else(idle);
        metrics::gauge!("encoder_lag_seconds").set(lag.as_secs_f64());
        metrics::gauge!("encoder_lag_budget_seconds").set(budget.as_secs_f64());
        metrics::gauge!("encoder_origin_bytes").set(self.outputs.cache.total_bytes() as f64);
        self.review_gate();
    }

    /// Shuts the listener gate when every publisher that could connect would be refused, and opens it otherwise. A
    /// publisher that is absent or silent may come back, so its stream keeps the gate open.
    fn review_gate(&self) {
        let Some(open) = &self.open else { return };
        // Evaluated inside the channel's lock, so that of concurrent calls the last evaluation takes effect.
        open.send_if_modified(|open| {
            let awaited = || self.entries().iter().any(|entry| entry.awaits_publisher());
            let welcome = self.probe.readiness().is_ok() || awaited();
            std::mem::replace(open, welcome) != welcome
        });
    }

    fn entries(&self) -> Vec<Arc<StreamEntry>> {
        self.lock().values().cloned().collect()
    }

    /// The number of streams, including streams in their reconnect window.
    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Ends all streams: publishers get the reason and are disconnected, received media is flushed, and playlists get
    /// EXT-X-ENDLIST.
    pub(crate) fn end_all(&self, reason: &Refusal) {
        for entry in self.entries() {
            entry.present().send_off.send_replace(Some(reason.clone()));
            entry.core.with(|core, now| core.close(now));
        }
    }

    /// Admits no further publishers: streams end when their publishers leave, and streams without a publisher end now.
    pub(crate) fn drain(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        for entry in self.entries() {
            entry.core.with(StreamCore::close_after_publisher);
        }
    }

    /// State of every stream, for operators.
    pub(crate) fn status(&self) -> Vec<StreamStatus> {
        let entries: Vec<(StreamPath, Arc<StreamEntry>)> =
            self.lock().iter().map(|(path, entry)| (path.clone(), entry.clone())).collect();
        entries.iter().map(|(path, entry)| self.stream_status(path, entry)).collect()
    }

    fn stream_status(&self, path: &StreamPath, entry: &StreamEntry) -> StreamStatus {
        let (output, stored) = entry.core.output().status();
        let worker_memory_bytes = entry.core.output().worker_memory_bytes();
        entry.core.look(|core| StreamStatus {
            app: path.app.to_string(),
            name: path.name.to_string(),
            latency: entry.latency.latency.as_secs_f64(),
            latency_from: entry.latency.from,
            next_latency: self.latencies.next(path).latency.as_secs_f64(),
            published: core.is_published(),
            age_seconds: entry.started.elapsed().as_secs(),
            source: core.source().map(|source| SourceStatus {
                width: source.width,
                height: source.height,
                frame_rate: source.fps(),
            }),
            passed_through: core.plan().is_some_and(|plan| plan.source),
            rungs: core.plan().map(|plan| plan.rungs.clone()),
            counters: core.counters(),
            packager: core.packager_counters().into(),
            worker_memory_bytes,
            worker: core.progress(),
            lag_seconds: core.lag().as_secs_f64(),
            lag_budget_seconds: lag_budget(&entry.timing).as_secs_f64(),
            delays: core.delays().status(),
            output,
            stored,
            picture: self.picture(path).is_some(),
        })
    }

    /// The latencies that are set for single streams.
    pub(crate) fn latencies_set(&self) -> Vec<LatencySet> {
        (self.latencies.all_set().iter())
            .map(|(path, latency)| LatencySet {
                app: path.app.to_string(),
                name: path.name.to_string(),
                latency: latency.as_secs_f64(),
            })
            .collect()
    }

    /// Bytes of all objects in the origin's memory.
    pub(crate) fn origin_bytes(&self) -> u64 {
        self.outputs.cache.total_bytes()
    }

    /// A stream's newest thumbnail, a JPEG.
    pub(crate) fn picture(&self, stream: &StreamPath) -> Option<bytes::Bytes> {
        Some(self.outputs.cache.get(stream, THUMBNAIL)?.object.body.clone())
    }

    /// A stream's latency in force (`None` if there is no such stream), and the latency that its next start will have
    /// unless its publisher requests another.
    pub(crate) fn latency(&self, path: &StreamPath) -> (Option<Chosen>, Chosen) {
        (self.lock().get(path).map(|entry| entry.latency), self.latencies.next(path))
    }

    /// Sets the latency that a stream has from its next start on; `None` restores the configured latency.
    ///
    /// # Errors
    /// Too many other streams have a latency set.
    pub(crate) fn set_latency(&self, path: &StreamPath, latency: Option<Latency>) -> Result<(), TableFull> {
        match latency {
            Some(latency) => self.latencies.set(path, latency)?,
            None => self.latencies.unset(path),
        }
        let latency_seconds = self.latencies.next(path).latency.as_secs_f64();
        match latency {
            Some(_) => info!(stream = %path, latency_seconds, "latency of its next beginning was set"),
            None => {
                info!(stream = %path, latency_seconds, "latency of its next beginning is the configured one")
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamPath, Arc<StreamEntry>>> {
        self.streams.lock().expect("nothing panics while it holds the map")
    }

    /// Finds or starts the stream to publish to, and gives the publisher its place in that stream. `query` is the query
    /// that the publisher sent after its stream key. For a new stream the store is read first, for a bounded time.
    async fn take_place(&self, path: &StreamPath, query: &str) -> Result<Publisher, Refusal> {
        let reserved = match self.enter_or_reserve(path)? {
            Placement::Stream(publisher) => return Ok(*publisher),
            Placement::Place(reserved) => reserved,
        };
        self.review_gate();
        let (chosen, requested) = self.latencies.choose(path, query);
        let (store, window) = (&self.outputs.store, self.settings.reconnect_window);
        let claimed =
            self.lease_client.claim(store, &path.to_string(), chosen.latency, window, now().wall).await;
        let (beginning, owner) = claimed.map_err(|AlreadyOwned| {
            warn!(stream = %path, "another encoder has just taken this stream: its publisher is turned away here");
            Refusal::AlreadyPublishing
        })?;
        tell(path, requested, self.latencies.bounds());
        let mut streams = self.lock();
        if self.leaving.load(Ordering::SeqCst) {
            return Err(Refusal::Draining);
        }
        let entry = self.start(path, chosen, &beginning);
        streams.insert(path.clone(), entry.clone());
        self.count.send_replace(streams.len());
        self.attend(path.clone(), entry.clone(), reserved.into_permit(), beginning, owner);
        self.enter(path, entry)
    }

    /// Gives the publisher its place if the stream exists and waits for a publisher; otherwise reserves a place for a
    /// new stream.
    fn enter_or_reserve(&self, path: &StreamPath) -> Result<Placement, Refusal> {
        // Held until the publisher has entered, so that of two simultaneous publishers only one takes a free place.
        let streams = self.lock();
        match streams.get(path).cloned() {
            // The stream's last writes are still in progress; a new stream's playlists must be written after them.
            Some(entry) if entry.core.look(StreamCore::is_over) => Err(Refusal::Busy),
            Some(entry) if entry.awaits_publisher() => {
                Ok(Placement::Stream(Box::new(self.enter(path, entry)?)))
            }
            Some(_) => Err(Refusal::AlreadyPublishing),
            None if self.beginning().contains(path) => Err(Refusal::AlreadyPublishing),
            None => {
                let permit = self.probe.accept_stream().map_err(|denied| match denied {
                    Denied::Full | Denied::NoStream => Refusal::Busy,
                    Denied::Starting => Refusal::Internal,
                    Denied::Leaving => Refusal::Draining,
                })?;
                self.beginning().insert(path.clone());
                Ok(Placement::Place(Reserved {
                    path: path.clone(),
                    registry: self.me.clone(),
                    permit: Some(permit),
                }))
            }
        }
    }

    fn beginning(&self) -> MutexGuard<'_, HashSet<StreamPath>> {
        // Nothing panics while the lock is held, and a set of names is always consistent.
        self.beginning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a publisher its place in a stream.
    fn enter(&self, path: &StreamPath, entry: Arc<StreamEntry>) -> Result<Publisher, Refusal> {
        if entry.core.look(StreamCore::is_published) {
            warn!(stream = %path, "publisher has gone silent and another one came: it takes the place");
            entry.present().send_off.send_replace(Some(Refusal::AlreadyPublishing));
        }
        let (send_off, sent_off) = watch::channel(None);
        let (number, resume) = {
            // Held until the core knows the new publisher, so that the replaced publisher can no longer end or feed the
            // stream.
            let mut present = entry.present();
            // The stream may have ended since it was looked up.
            let resume = entry.core.with(StreamCore::publisher_came).map_err(|StreamOver| Refusal::Busy)?;
            present.number += 1;
            present.last_message_at = Instant::now();
            present.send_off = send_off;
            (present.number, resume)
        };
        let ingest =
            resume.map_or_else(Ingest::new, Ingest::resume).with_max_pixels(self.settings.max_pixels);
        Ok(Publisher {
            entry,
            number,
            ingest,
            since: None,
            understood: false,
            counted: Default::default(),
            sent_off,
            path: path.clone(),
            registry: self.me.clone(),
        })
    }

    fn start(&self, path: &StreamPath, chosen: Chosen, beginning: &StreamStart) -> Arc<StreamEntry> {
        let latency = match beginning {
            StreamStart::Fresh { .. } => chosen,
            StreamStart::TakenOver(inheritance) => {
                Chosen { latency: inheritance.latency, from: Origin::TakenOver }
            }
        };
        let settings = self.settings.at(latency.latency);
        let timing = settings.timing.clone();
        let core = match beginning {
            StreamStart::Fresh { above, .. } => {
                // Start at the Unix time in seconds. Segments last a second at least, so the numbers never decrease,
                // neither at the next publish under this name nor after a restart of this process, regardless of what
                // the store says. Players stall when numbers decrease.
                let seconds = u64::try_from(now().wall.unix_micros() / 1_000_000).unwrap_or(0);
                StreamCore::new(settings, seconds.max(*above), Instant::now())
            }
            StreamStart::TakenOver(inheritance) => {
                StreamCore::resume(settings, &inheritance.past, Instant::now())
            }
        };
        let latency_seconds = latency.latency.as_secs_f64();
        info!(stream = %path, latency_seconds, latency_from = latency.from.as_str(), "stream begins");
        let (send_off, _) = watch::channel(None);
        Arc::new(StreamEntry {
            core: SharedCore::new(core),
            latency,
            timing,
            started: Instant::now(),
            publisher: Mutex::new(Present { number: 0, last_message_at: Instant::now(), send_off }),
        })
    }

    /// Drives a stream to its end and removes it from the map.
    fn attend(
        &self,
        path: StreamPath,
        entry: Arc<StreamEntry>,
        permit: Option<probes::StreamPermit>,
        beginning: StreamStart,
        owner: Option<Lease>,
    ) {
        let span = info_span!("stream", app = %path.app, stream = %path.name);
        // Tasks that the outputs start log with this stream's span.
        let outputs = span
            .in_scope(|| Outputs::new(&self.outputs, path.clone(), &entry.timing, now().wall, &beginning));
        let store = self.outputs.store.clone();
        let driver = drive(entry.core.clone(), outputs, self.workers.clone()).instrument(span.clone());
        let registry = self.me.clone();
        let attendant = async move {
            // Spawned, so that a panic in the driver does not keep the place occupied.
            let ending = tokio::spawn(driver).await;
            let reason = match &ending {
                Ok(StreamEnding::TakenOver) => Refusal::TakenOver,
                Ok(StreamEnding::Ended) | Err(_) => Refusal::Internal,
            };
            match &ending {
                Ok(StreamEnding::Ended) => {
                    if let Some(owner) = owner {
                        owner.release(&store).await;
                    }
                }
                Ok(StreamEnding::TakenOver) => metrics::counter!("encoder_fenced_total").increment(1),
                Err(error) => tracing::error!(%error, "stream's driver failed: the stream is given up"),
            }
            let Some(registry) = registry.upgrade() else { return };
            let count = {
                let mut streams = registry.lock();
                if streams.get(&path).is_some_and(|listed| Arc::ptr_eq(listed, &entry)) {
                    streams.remove(&path);
                }
                streams.len()
            };
            // Dropping the permit frees the place. If the process restarts once its places are free, the permit is kept
            // until all archives are complete.
            let last = permit.filter(|_| registry.probe.restarts_when_done());
            registry.review_gate();
            registry.count.send_replace(count);
            // Without its driver the core handles no events: refuse and disconnect publishers. After an orderly end
            // there is no publisher.
            entry.core.with(|core, now| core.close(now));
            entry.present().send_off.send_if_modified(|told| {
                let untold = told.is_none();
                told.get_or_insert(reason);
                untold
            });
            info!(seconds = entry.started.elapsed().as_secs(), "stream has ended");
            if let (Some(_place), Some(archives)) = (last, &registry.outputs.archives) {
                archives.idle().await;
            }
        };
        tokio::spawn(attendant.instrument(span));
    }
}

/// Result of looking for a place for a publisher.
enum Placement {
    /// A place in a stream that waited for its publisher.
    Stream(Box<Publisher>),
    /// A reservation for a new stream.
    Place(Reserved),
}

/// A reservation for a stream that has not begun; released when dropped.
struct Reserved {
    path: StreamPath,
    registry: Weak<Registry>,
    permit: Option<probes::StreamPermit>,
}

impl Reserved {
    /// Takes the permit out, once the stream is in the map.
    fn into_permit(mut self) -> Option<probes::StreamPermit> {
        self.permit.take()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        registry.beginning().remove(&self.path);
        if let Some(permit) = self.permit.take() {
            drop(permit);
            registry.review_gate();
        }
    }
}

/// Logs a requested latency that is not granted as requested.
fn tell(path: &StreamPath, requested: RequestedLatency, bounds: Option<Bounds>) {
    match (requested, bounds) {
        (RequestedLatency::None | RequestedLatency::Granted, _) => {}
        (RequestedLatency::Bounded { wished }, Some(Bounds { least, most })) => {
            warn!(
                stream = %path,
                wished_seconds = rounded(wished),
                least_seconds = least.as_secs_f64(),
                most_seconds = most.as_secs_f64(),
                "publisher wishes a latency outside --latency-bounds: the nearest bound applies"
            );
        }
        (RequestedLatency::NotANumber, _) => {
            warn!(stream = %path, "publisher's requested for a latency is not a number, as in ?latency=5: it is ignored");
        }
        (RequestedLatency::NotAllowed, _) | (RequestedLatency::Bounded { .. }, None) => {
            info!(stream = %path, "publisher's requested for a latency is ignored: --latency-bounds is not set");
        }
    }
}

/// Published media that may not be in a segment yet: one unfinished segment, and what the queue in front of the worker
/// holds. Beyond this budget video is shed, and viewers' hold-back is being used up.
fn lag_budget(timing: &Timing) -> MediaSpan {
    timing.max_segment + timing.shed_queue
}

impl StreamEntry {
    fn present(&self) -> MutexGuard<'_, Present> {
        // A number and a time are consistent even after a panic.
        self.publisher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a publisher with this stream's key would be admitted: no publisher is connected, or the connected
    /// publisher has gone silent.
    fn awaits_publisher(&self) -> bool {
        let (over, published) = self.core.look(|core| (core.is_over(), core.is_published()));
        !over && (!published || self.present().last_message_at.elapsed() >= STALE_AFTER)
    }
}

impl Admission for Registry {
    type Sink = Publisher;

    fn open(&self) -> Option<watch::Receiver<bool>> {
        self.open.as_ref().map(watch::Sender::subscribe)
    }

    async fn admit(&self, request: PublishRequest) -> Result<Publisher, Refusal> {
        if !is_valid_name(&request.app) {
            return Err(Refusal::BadName("the application's name is 1 to 64 of A-Z a-z 0-9 _ -".into()));
        }
        // Without configured keys the key is the name.
        let Ok(path) = StreamPath::new(&request.app, request.key.expose()) else {
            return Err(Refusal::BadName("the stream's name is 1 to 64 of A-Z a-z 0-9 _ -".into()));
        };
        let taken = self.take_place(&path, &request.query).await;
        self.review_gate();
        let result = if taken.is_ok() { "accepted" } else { "refused" };
        metrics::counter!("encoder_publish_total", "result" => result).increment(1);
        if let Err(refusal) = &taken {
            let reason = match refusal {
                Refusal::BadName(_) => "bad_name",
                Refusal::AlreadyPublishing | Refusal::TakenOver => "already_publishing",
                Refusal::Busy | Refusal::AllBusy => "busy",
                Refusal::Forbidden(_) => "forbidden",
                Refusal::AdmissionDown => "admission_down",
                Refusal::EndedByOperator(_) => "ended_by_operator",
                Refusal::OverLimit(_) => "over_limit",
                Refusal::Draining => "draining",
                Refusal::Unsupported(_) => "unsupported",
                Refusal::Internal => "internal",
            };
            metrics::counter!("encoder_rejected_total", "reason" => reason).increment(1);
        }
        taken
    }
}

#[cfg(test)]
mod tests;
