//! All streams of a process: which publisher is admitted, under which name, and how a returning publisher finds its
//! stream. A stream's latency is chosen in [`super::latency`].

mod admit;
mod control;
mod publisher;

pub(crate) use self::control::DEFAULT_REASON;
pub(crate) use self::publisher::Publisher;

use self::admit::{BroadcastEnd, Candidate};
use self::control::PublisherFacts;
use super::bans::Bans;
use super::core::{StreamCore, StreamOver, StreamSettings};
use super::driver::{SharedCore, StreamEnding, drive, now};
use super::latency::{Bounds, Chosen, Latencies, LatencyTable, Origin, RequestedLatency, TableFull};
use crate::config::{DrainReconnect, PublishLimits};
use crate::delivery::outputs::{OutputOptions, Outputs, THUMBNAIL};
use crate::delivery::takeover::{Claim, Lease, LeaseClient, StreamStart};
use crate::edge::Advertised;
use crate::events::{HealthSigns, StreamEvents};
use crate::identity::Identity;
use crate::ingest::ReconnectRequest;
use crate::inspect::{Arrival, Inspector};
use crate::logging::rounded;
use crate::origin::StreamPath;
use crate::status::{LatencySet, SourceStatus, StreamStatus};
use crate::stream::worker::WorkerOptions;
use hls::Timing;
use hls::timing::Latency;
use media::MediaSpan;
use probes::{Denied, Probe};
use rtmp::Refusal;
use rtmp::ingest::Ingest;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use store::Store;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tracing::{Instrument, info, info_span, warn};

/// A publisher that has sent nothing for this long loses its place to another publisher with the same name: its network
/// is probably gone, and its TCP connection has not failed yet. Without this limit a phone that changes from Wi-Fi to
/// mobile is locked out of its own stream for the read time-out.
const STALE_AFTER: Duration = Duration::from_secs(4);

/// How long after it was asked to connect anew a publisher that leaves is taken to move: it ends its group of pictures
/// first.
const MOVES_WITHIN: Duration = Duration::from_secs(30);
/// How long a publisher waits for a stream that is ending, whose name or place it needs: its last segments and playlists
/// are being written. Well below the time-out of an admission.
const ENDING_WITHIN: Duration = Duration::from_secs(5);

/// The streams of a process.
pub(crate) struct Registry {
    /// Weak reference to this registry, for the tasks that attend to streams.
    me: Weak<Self>,
    /// Settings with some latency; each stream replaces the latency by its own.
    settings: StreamSettings,
    latencies: LatencyTable,
    bans: Bans,
    outputs: OutputOptions,
    workers: WorkerOptions,
    probe: Arc<Probe>,
    identity: Arc<Identity>,
    limits: PublishLimits,
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

/// What a registry is made of.
pub(crate) struct RegistryOptions {
    /// Settings of streams; each stream replaces the latency by its own, and what its publisher's grant says.
    pub(crate) settings: StreamSettings,
    /// The configured latencies.
    pub(crate) latencies: Latencies,
    /// Where streams go.
    pub(crate) outputs: OutputOptions,
    /// How workers are started.
    pub(crate) workers: WorkerOptions,
    /// Counts the places.
    pub(crate) probe: Arc<Probe>,
    /// How publishers beyond the capacity are refused.
    pub(crate) when_full: WhenFull,
    /// Who may publish.
    pub(crate) identity: Arc<Identity>,
    /// What one publisher may cost.
    pub(crate) limits: PublishLimits,
    /// Where edges reach this process.
    pub(crate) advertised: Option<Advertised>,
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
    /// Whether a publisher is connected, for the stream's record in the store.
    published: watch::Sender<bool>,
    events: StreamEvents,
}

/// The holder of a stream's publishing place.
struct Present {
    /// Grows with every publisher, so that a replaced publisher cannot end its successor's stream.
    number: u64,
    last_message_at: Instant,
    send_off: watch::Sender<Option<Refusal>>,
    /// How the publisher is asked to connect anew; `None` if it does not do that.
    reconnect: Option<watch::Sender<Option<ReconnectRequest>>>,
    /// When the publisher was asked to connect anew.
    asked_at: Option<Instant>,
    /// Who publishes, for operators.
    facts: Option<PublisherFacts>,
    /// What the newest publisher sends.
    inspector: Inspector,
}

impl Registry {
    /// Creates a registry without streams.
    pub(crate) fn new(options: RegistryOptions) -> Arc<Self> {
        let (count, _) = watch::channel(0);
        let open = match options.when_full {
            WhenFull::Tell => None,
            WhenFull::Refuse => Some(watch::Sender::new(true)),
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            settings: options.settings,
            latencies: LatencyTable::new(options.latencies),
            bans: Bans::default(),
            outputs: options.outputs,
            workers: options.workers,
            probe: options.probe,
            identity: options.identity,
            limits: options.limits,
            streams: Mutex::new(HashMap::new()),
            lease_client: LeaseClient::new(options.advertised),
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

    /// Looks whether streams have problems, for the receiver of events.
    pub(crate) fn check_health(&self) {
        for entry in self.entries() {
            if !entry.core.look(StreamCore::is_published) {
                continue;
            }
            entry.events.look(|| HealthSigns {
                late: entry.core.look(|core| core.delays().broken()),
                worker_restarts: entry.core.look(|core| core.counters().worker_restarts),
                missing_segments: entry.core.output().store_gaps(),
            });
        }
    }

    /// Shuts the listener gate when every publisher that could connect would be refused, and opens it otherwise. A
    /// publisher that is absent or silent may come back, so its stream keeps the gate open.
    fn review_gate(&self) {
        let Some(open) = &self.open else { return };
        // Evaluated inside the channel's lock, so that of concurrent calls the last evaluation takes effect.
        open.send_if_modified(|open| {
            let proves = self.identity.proves();
            let awaited = || self.entries().iter().any(|entry| entry.awaits_publisher(proves));
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
            entry.events.ending(reason);
            entry.present().send_off.send_replace(Some(reason.clone()));
            entry.core.with(|core, now| core.close(now));
        }
    }

    /// Admits no further publishers: streams end when their publishers leave, and streams without a publisher end now. A
    /// publisher that connects anew when it is asked to is asked, if `to` says where: its stream waits to be taken over.
    pub(crate) fn drain(&self, to: &DrainReconnect) {
        self.leaving.store(true, Ordering::SeqCst);
        let entries: Vec<(StreamPath, Arc<StreamEntry>)> =
            self.lock().iter().map(|(path, entry)| (path.clone(), entry.clone())).collect();
        for (path, entry) in entries {
            entry.events.ending(&Refusal::Draining);
            let asked = to.request(&path.app).is_some_and(|request| entry.ask_to_reconnect(request));
            if !asked {
                entry.core.with(StreamCore::close_after_publisher);
            }
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
        let publish_report = Some(entry.present().inspector.report());
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
            publish_report,
            passed_through: core.plan().is_some_and(|plan| plan.source.is_some()),
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
            viewers: BTreeMap::new(),
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
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamPath, Arc<StreamEntry>>> {
        self.streams.lock().expect("nothing panics while it holds the map")
    }

    /// Finds or starts the stream to publish to, and gives the publisher its place in that stream. For a new stream the
    /// store is read first, for a bounded time.
    async fn take_place(&self, candidate: Candidate) -> Result<Publisher, Refusal> {
        let path = &candidate.path;
        self.refuse_banned(path)?;
        let reserved = match self.placement(&candidate).await? {
            Placement::Stream(publisher) => return Ok(*publisher),
            Placement::Place(reserved) => reserved,
            Placement::Later => return Err(Refusal::Busy),
        };
        self.review_gate();
        let (chosen, requested) = self.latencies.choose(path, &candidate.query, candidate.terms.latency);
        let claim = Claim {
            latency: chosen.latency,
            reconnect_window: self.settings.reconnect_window,
            proven: candidate.proven,
            now: now().wall,
        };
        let claimed = self.lease_client.claim(&self.outputs.store, &path.to_string(), claim).await;
        let (beginning, owner) = claimed.map_err(|why| control::not_claimed(path, why))?;
        tell(path, requested, self.latencies.bounds());
        let mut streams = self.lock();
        if self.leaving.load(Ordering::SeqCst) {
            return Err(Refusal::Draining);
        }
        self.refuse_banned(path)?;
        let entry = self.start(&candidate, chosen, &beginning);
        streams.insert(path.clone(), entry.clone());
        self.count.send_replace(streams.len());
        let outputs = self.outputs_of(&candidate);
        self.attend(path.clone(), entry.clone(), reserved.into_permit(), beginning, owner, outputs);
        self.enter(&candidate, entry)
    }

    /// The outputs of a candidate's stream, as its grant wants them.
    fn outputs_of(&self, candidate: &Candidate) -> OutputOptions {
        let mut outputs = self.outputs.clone();
        if let Some(archive) = &candidate.terms.archive {
            outputs.archive.clone_from(archive);
        }
        outputs
    }

    /// Like [`Self::enter_or_reserve`], but waits for a bounded time while another stream is about to make room:
    /// streamers that stop and start again want to go on at once.
    async fn placement(&self, candidate: &Candidate) -> Result<Placement, Refusal> {
        let deadline = tokio::time::Instant::now() + ENDING_WITHIN;
        let mut count = self.count();
        loop {
            count.mark_unchanged();
            let placement = self.enter_or_reserve(candidate)?;
            // The registry owns the sender, so there is no other error than the deadline.
            if !matches!(placement, Placement::Later)
                || tokio::time::timeout_at(deadline, count.changed()).await.is_err()
            {
                return Ok(placement);
            }
        }
    }

    /// Gives the publisher its place if the stream exists and waits for a publisher; otherwise reserves a place for a
    /// new stream.
    fn enter_or_reserve(&self, candidate: &Candidate) -> Result<Placement, Refusal> {
        let path = &candidate.path;
        // Held until the publisher has entered, so that of two simultaneous publishers only one takes a free place.
        let streams = self.lock();
        match streams.get(path).cloned() {
            Some(_) if self.leaving.load(Ordering::SeqCst) => Err(Refusal::Draining),
            // The stream's last writes are still in progress; a new stream's playlists must be written after them.
            Some(entry) if entry.core.look(StreamCore::is_ending) => Ok(Placement::Later),
            Some(entry) if entry.awaits_publisher(candidate.proven) => {
                Ok(Placement::Stream(Box::new(self.enter(candidate, entry)?)))
            }
            Some(_) => Err(Refusal::AlreadyPublishing),
            None if self.beginning().contains(path) => Err(Refusal::AlreadyPublishing),
            None => {
                let permit = match self.probe.accept_stream() {
                    Ok(permit) => permit,
                    Err(Denied::Full)
                        if streams.values().any(|entry| entry.core.look(StreamCore::is_ending)) =>
                    {
                        return Ok(Placement::Later);
                    }
                    Err(Denied::Full | Denied::NoStream) => return Err(Refusal::Busy),
                    Err(Denied::Starting) => return Err(Refusal::Internal),
                    Err(Denied::Leaving) => return Err(Refusal::Draining),
                };
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
    fn enter(&self, candidate: &Candidate, entry: Arc<StreamEntry>) -> Result<Publisher, Refusal> {
        let Candidate { path, terms, .. } = candidate;
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
            present.reconnect = None;
            present.asked_at = None;
            entry.events.publisher_came();
            present.facts = None;
            present.inspector = Inspector::new(Arrival::Live);
            (present.number, resume)
        };
        let max_pixels = terms.max_pixels.unwrap_or(self.settings.max_pixels);
        let ingest = resume.map_or_else(Ingest::new, Ingest::resume).with_max_pixels(max_pixels);
        let limits = terms.limits(self.limits);
        let ends = BroadcastEnd::new(entry.started, limits, terms.until, now());
        entry.published.send_replace(true);
        Ok(Publisher {
            entry,
            number,
            ingest,
            limits,
            ends,
            over: Box::pin(tokio::time::sleep_until(ends.at.into())),
            counted: Default::default(),
            has_said_goodbye: false,
            sent_off,
            path: path.clone(),
            registry: self.me.clone(),
        })
    }

    fn start(&self, candidate: &Candidate, chosen: Chosen, beginning: &StreamStart) -> Arc<StreamEntry> {
        let Candidate { path, terms, .. } = candidate;
        let latency = match beginning {
            StreamStart::Fresh { .. } => chosen,
            StreamStart::TakenOver(inheritance) => {
                Chosen { latency: inheritance.latency, from: Origin::TakenOver }
            }
        };
        let mut settings = self.settings.at(latency.latency);
        if let Some(ladder) = &terms.ladder {
            settings.ladder.clone_from(ladder);
        }
        settings.max_pixels = terms.max_pixels.unwrap_or(settings.max_pixels);
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
        let events = self.outputs.events.stream(path.clone(), candidate.metadata.clone());
        events.began(matches!(beginning, StreamStart::TakenOver(_)), latency_seconds);
        Arc::new(StreamEntry {
            core: SharedCore::new(core),
            latency,
            timing,
            started: Instant::now(),
            publisher: Mutex::new(Present {
                number: 0,
                last_message_at: Instant::now(),
                send_off,
                reconnect: None,
                asked_at: None,
                facts: None,
                inspector: Inspector::new(Arrival::Live),
            }),
            published: watch::Sender::new(true),
            events,
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
        outputs: OutputOptions,
    ) {
        let span = info_span!("stream", app = %path.app, stream = %path.name);
        // Tasks that the outputs start log with this stream's span.
        let outputs =
            span.in_scope(|| Outputs::new(&outputs, path.clone(), &entry.timing, now().wall, &beginning));
        let outputs = outputs.with_events(&entry.events, &beginning);
        let store = self.outputs.store.clone();
        let driver = drive(entry.core.clone(), outputs, self.workers.clone()).instrument(span.clone());
        let registry = self.me.clone();
        let attendant = async move {
            // Spawned, so that a panic in the driver does not keep the place occupied.
            let driver = tokio::spawn(driver);
            let (ending, owner) = keep_record(driver, owner, &store, entry.published.subscribe()).await;
            let reason = match &ending {
                Ok(StreamEnding::TakenOver) => Refusal::TakenOver,
                Ok(StreamEnding::Ended) | Err(_) => Refusal::Internal,
            };
            entry.events.ended(&ending, entry.present().send_off.borrow().as_ref());
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
            if let Some(_place) = last {
                registry.outputs.archives.idle().await;
            }
        };
        tokio::spawn(attendant.instrument(span));
    }
}

/// Waits for the stream's driver, and meanwhile keeps the stream's record in the store up to date. Returns the lease
/// unless it was lost.
async fn keep_record(
    mut driver: JoinHandle<StreamEnding>,
    owner: Option<Lease>,
    store: &Arc<dyn Store>,
    published: watch::Receiver<bool>,
) -> (Result<StreamEnding, JoinError>, Option<Lease>) {
    let Some(mut lease) = owner else { return (driver.await, None) };
    let ending = tokio::select! {
        ending = &mut driver => ending,
        () = lease.follow(store, published) => driver.await,
    };
    (ending, Some(lease))
}

/// Result of looking for a place for a publisher.
enum Placement {
    /// A place in a stream that waited for its publisher.
    Stream(Box<Publisher>),
    /// A reservation for a new stream.
    Place(Reserved),
    /// Neither yet: a stream that is ending has the name, or the last place.
    Later,
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

    /// Asks the publisher to connect anew; `false` if there is none, or none that does so.
    fn ask_to_reconnect(&self, request: ReconnectRequest) -> bool {
        let mut present = self.present();
        if !self.core.look(StreamCore::is_published) {
            return false;
        }
        let Some(reconnect) = &present.reconnect else { return false };
        reconnect.send_replace(Some(request));
        present.asked_at = Some(Instant::now());
        true
    }

    /// Whether another publisher of this name would be admitted: no publisher is connected, or the connected publisher
    /// has gone silent and the other one has proved (`proven`) that the name is its own.
    fn awaits_publisher(&self, proven: bool) -> bool {
        let (over, published) = self.core.look(|core| (core.is_over(), core.is_published()));
        let is_silent = || self.present().last_message_at.elapsed() >= STALE_AFTER;
        !over && (!published || (proven && is_silent()))
    }
}

#[cfg(test)]
mod tests;
