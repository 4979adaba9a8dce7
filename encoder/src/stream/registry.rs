//! All streams of a process: who may publish, under which name, and where a publisher that comes back finds its stream.
//! How far behind live a stream is to be is chosen in [`super::latency`].

mod publisher;

pub use publisher::Publisher;

use super::core::{Settings, StreamCore, StreamOver};
use super::driver::{Ending, SharedCore, drive, now};
use super::latency::{Bounds, Chosen, Latencies, LatencyTable, Origin, TableFull, Wish};
use super::outlet::{Outlet, OutletOptions, THUMBNAIL};
use crate::ingest::Ingest;
use crate::origin::StreamPath;
use crate::rtmp::{Admission, PublishRequest, Refusal};
use crate::takeover::{Beginning, Claimant, Owner, Taken};
use crate::timeline::Repairs;
use crate::worker::child::WorkerOptions;
use hls::names::is_valid_name;
use hls::timing::Latency;
use hls::{MediaSpan, Timing};
use probes::{Denied, Probe};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{Instrument, info, info_span, warn};

/// A publisher that has sent nothing for this long loses its place to another one with the same name: its network is
/// gone and its socket does not know it yet. Without this a phone that changes from Wi-Fi to mobile is locked out of
/// its own stream for the read time-out.
const STALE_AFTER: Duration = Duration::from_secs(4);

/// A publisher of whose messages none could be read for this long is sent off with a reason; otherwise it would hold a
/// place and show nothing.
const UNDERSTOOD_WITHIN: Duration = Duration::from_secs(10);

/// The streams of a process.
pub struct Registry {
    /// Itself, for the tasks that attend to streams.
    me: Weak<Self>,
    /// At some latency; each stream has its own.
    settings: Settings,
    latencies: LatencyTable,
    outlet: OutletOptions,
    workers: WorkerOptions,
    probe: Arc<Probe>,
    streams: Mutex<HashMap<StreamPath, Arc<Entry>>>,
    claimant: Claimant,
    /// Streams of which the store is asked how they begin.
    beginning: Mutex<HashSet<StreamPath>>,
    /// Whether streams that have not begun are not to begin any more.
    leaving: AtomicBool,
    count: watch::Sender<usize>,
    /// Whether anybody could be let in; `None` when everybody is to be heard, and told why not.
    open: Option<watch::Sender<bool>>,
}

/// What becomes of publishers that there is no place for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// They are heard, and told why not.
    Tell,
    /// Their connections are refused, so that a balancer or they themselves try another encoder at once. Whoever was in
    /// already is told.
    Refuse,
}

/// One stream.
struct Entry {
    core: Arc<SharedCore>,
    /// As long as the stream lasts, whatever is set or wished meanwhile.
    latency: Chosen,
    timing: Timing,
    started: Instant,
    publisher: Mutex<Present>,
}

/// Who holds a stream's publishing place.
struct Present {
    /// Grows with every publisher, so that one that was replaced cannot end its successor's stream.
    number: u64,
    heard: Instant,
    send_off: watch::Sender<Option<Refusal>>,
}

impl Registry {
    /// No streams yet.
    pub fn new(
        settings: Settings,
        latencies: Latencies,
        outlet: OutletOptions,
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
            outlet,
            workers,
            probe,
            streams: Mutex::new(HashMap::new()),
            claimant: Claimant::default(),
            beginning: Mutex::default(),
            leaving: AtomicBool::new(false),
            count,
            open,
        })
    }

    /// Goes through every lock that a stream needs, and returns when it got them: for liveness. Also looks for
    /// publishers that have gone silent, whose place others may take.
    pub fn pulse(&self) {
        let lags = self.entries().into_iter().map(|entry| {
            let (lag, budget) = (entry.core.look(StreamCore::lag), lag_budget(&entry.timing));
            (lag - budget, lag, budget)
        });
        let idle = || (MediaSpan::ZERO, MediaSpan::ZERO, lag_budget(&self.settings.timing));
        let (_, lag, budget) = lags.max().unwrap_or_else(idle);
        metrics::gauge!("encoder_lag_seconds").set(lag.as_secs_f64());
        metrics::gauge!("encoder_lag_budget_seconds").set(budget.as_secs_f64());
        self.review_door();
    }

    /// Shuts the door when everybody who could come would be turned away, and opens it otherwise. A publisher that is
    /// away or silent may come back, so its stream keeps the door open.
    fn review_door(&self) {
        let Some(open) = &self.open else { return };
        // Looked at inside the channel's lock, so that the last one to look has the last word.
        open.send_if_modified(|open| {
            let awaited = || self.entries().iter().any(|entry| entry.awaits_publisher());
            let welcome = self.probe.readiness().is_ok() || awaited();
            std::mem::replace(open, welcome) != welcome
        });
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.lock().values().cloned().collect()
    }

    /// The number of streams, those in their reconnect window included.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Ends all streams: publishers are told why and sent off, what they sent is flushed, playlists get their end.
    pub fn end_all(&self, reason: &Refusal) {
        for entry in self.entries() {
            entry.present().send_off.send_replace(Some(reason.clone()));
            entry.core.with(|core, now| core.close(now));
        }
    }

    /// Nobody is let in any more: streams end when their publishers go, and those that have none end now.
    pub fn drain(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        for entry in self.entries() {
            entry.core.with(StreamCore::close_after_publisher);
        }
    }

    /// Every stream's state, for operators.
    pub fn status(&self) -> Value {
        let entries: Vec<(StreamPath, Arc<Entry>)> =
            self.lock().iter().map(|(path, entry)| (path.clone(), entry.clone())).collect();
        let streams: Vec<Value> = entries
            .iter()
            .map(|(path, entry)| {
                let (output, stored) = entry.core.output().status();
                entry.core.look(|core| {
                    json!({
                        "app": &*path.app,
                        "name": &*path.name,
                        "latency": entry.latency.latency.as_secs_f64(),
                        "latency_from": entry.latency.from,
                        "next_latency": self.latencies.next(path).latency.as_secs_f64(),
                        "published": core.is_published(),
                        "age_seconds": entry.started.elapsed().as_secs(),
                        "source": core.source().map(|source| json!({
                            "width": source.width,
                            "height": source.height,
                            "frame_rate": source.fps(),
                        })),
                        "passed_through": core.plan().is_some_and(|plan| plan.source),
                        "rungs": core.plan().map(|plan| &plan.rungs),
                        "counters": core.counters(),
                        "worker": core.progress(),
                        "lag_seconds": core.lag().as_secs_f64(),
                        "lag_budget_seconds": lag_budget(&entry.timing).as_secs_f64(),
                        "delays": core.delays().status(),
                        "output": output,
                        "stored": stored,
                        "picture": self.picture(path).is_some(),
                    })
                })
            })
            .collect();
        let set: Vec<Value> = (self.latencies.all_set().iter())
            .map(|(path, latency)| {
                json!({ "app": &*path.app, "name": &*path.name, "latency": latency.as_secs_f64() })
            })
            .collect();
        json!({ "streams": streams, "latencies_set": set })
    }

    /// A stream's newest picture, a JPEG.
    pub fn picture(&self, stream: &StreamPath) -> Option<bytes::Bytes> {
        Some(self.outlet.library.get(stream, THUMBNAIL)?.object.body.clone())
    }

    /// A stream's latency in force, while there is such a stream, and the one that its next beginning will have unless
    /// its publisher wishes another.
    pub fn latency(&self, path: &StreamPath) -> (Option<Chosen>, Chosen) {
        (self.lock().get(path).map(|entry| entry.latency), self.latencies.next(path))
    }

    /// Sets the latency that a stream has from its next beginning on; `None`: what is configured.
    ///
    /// # Errors
    /// Too many others are set.
    pub fn set_latency(&self, path: &StreamPath, latency: Option<Latency>) -> Result<(), TableFull> {
        match latency {
            Some(latency) => self.latencies.set(path, latency)?,
            None => self.latencies.unset(path),
        }
        info!(stream = %path, latency = ?latency.map(Latency::as_secs_f64), "latency of its next beginning was set");
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamPath, Arc<Entry>>> {
        self.streams.lock().expect("nothing panics while it holds the map")
    }

    /// The stream to publish to, new or waiting for its publisher; and the publisher's place in it. `query` is what the
    /// publisher sent behind its key. Of a new one the store is asked first, for a bounded time.
    async fn take_place(&self, path: &StreamPath, query: &str) -> Result<Publisher, Refusal> {
        let reserved = match self.enter_or_reserve(path)? {
            Found::Stream(publisher) => return Ok(*publisher),
            Found::Place(reserved) => reserved,
        };
        self.review_door();
        let (chosen, wish) = self.latencies.choose(path, query);
        let (store, window) = (&self.outlet.store, self.settings.reconnect_window);
        let claimed = self.claimant.claim(store, &path.to_string(), chosen.latency, window, now().wall).await;
        let (beginning, owner) = claimed.map_err(|Taken| {
            warn!(stream = %path, "another encoder has just taken this stream: its publisher is turned away here");
            Refusal::AlreadyPublishing
        })?;
        tell(path, wish, self.latencies.bounds());
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

    /// A place in the stream of that name, if there is one and it waits for a publisher; otherwise room for it.
    fn enter_or_reserve(&self, path: &StreamPath) -> Result<Found, Refusal> {
        // Held until the publisher is in: of two that come at once one is in the place of nobody.
        let streams = self.lock();
        match streams.get(path).cloned() {
            // Its last writes are under way; a new stream's playlists must come behind them.
            Some(entry) if entry.core.look(StreamCore::is_over) => Err(Refusal::Busy),
            Some(entry) if entry.awaits_publisher() => Ok(Found::Stream(Box::new(self.enter(path, entry)?))),
            Some(_) => Err(Refusal::AlreadyPublishing),
            None if self.beginning().contains(path) => Err(Refusal::AlreadyPublishing),
            None => {
                let permit = self.probe.accept_stream().map_err(|denied| match denied {
                    Denied::Full | Denied::NoStream => Refusal::Busy,
                    Denied::Starting => Refusal::Internal,
                    Denied::Leaving => Refusal::Draining,
                })?;
                self.beginning().insert(path.clone());
                Ok(Found::Place(Reserved {
                    path: path.clone(),
                    registry: self.me.clone(),
                    permit: Some(permit),
                }))
            }
        }
    }

    fn beginning(&self) -> MutexGuard<'_, HashSet<StreamPath>> {
        // Nothing panics while it is held, and a set of names is whole.
        self.beginning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a publisher its place in a stream.
    fn enter(&self, path: &StreamPath, entry: Arc<Entry>) -> Result<Publisher, Refusal> {
        if entry.core.look(StreamCore::is_published) {
            warn!(stream = %path, "publisher has gone silent and another one came: it takes the place");
            entry.present().send_off.send_replace(Some(Refusal::AlreadyPublishing));
        }
        let (send_off, sent_off) = watch::channel(None);
        let (number, resume) = {
            // Held until the core knows, so that whoever is replaced cannot end or feed what is its successor's.
            let mut present = entry.present();
            // It may have ended since it was looked at.
            let resume = entry.core.with(StreamCore::publisher_came).map_err(|StreamOver| Refusal::Busy)?;
            present.number += 1;
            present.heard = Instant::now();
            present.send_off = send_off;
            (present.number, resume)
        };
        let ingest = resume.map_or_else(Ingest::new, Ingest::resume);
        Ok(Publisher {
            entry,
            number,
            ingest,
            since: None,
            understood: false,
            counted: Repairs::default(),
            sent_off,
            path: path.clone(),
            registry: self.me.clone(),
        })
    }

    fn start(&self, path: &StreamPath, chosen: Chosen, beginning: &Beginning) -> Arc<Entry> {
        let latency = match beginning {
            Beginning::Anew { .. } => chosen,
            Beginning::TakenOver(inheritance) => {
                Chosen { latency: inheritance.latency, from: Origin::TakenOver }
            }
        };
        let settings = self.settings.at(latency.latency);
        let timing = settings.timing.clone();
        let core = match beginning {
            Beginning::Anew { above, .. } => {
                // Seconds since 1970: segments last a second at least, so the numbers never go back, neither with the
                // next publish under this name nor after a restart of this process, whatever the store says. Players
                // stall on numbers that do.
                let seconds = u64::try_from(now().wall.unix_micros() / 1_000_000).unwrap_or(0);
                StreamCore::new(settings, seconds.max(*above), Instant::now())
            }
            Beginning::TakenOver(inheritance) => {
                StreamCore::resume(settings, &inheritance.past, Instant::now())
            }
        };
        info!(stream = %path, latency = %latency.latency, from = ?latency.from, "stream begins");
        let (send_off, _) = watch::channel(None);
        Arc::new(Entry {
            core: SharedCore::new(core),
            latency,
            timing,
            started: Instant::now(),
            publisher: Mutex::new(Present { number: 0, heard: Instant::now(), send_off }),
        })
    }

    /// Drives a stream to its end and takes it off the list.
    fn attend(
        &self,
        path: StreamPath,
        entry: Arc<Entry>,
        permit: Option<probes::StreamPermit>,
        beginning: Beginning,
        owner: Option<Owner>,
    ) {
        let span = info_span!("stream", app = %path.app, stream = %path.name);
        // What it starts speaks of this stream in the log.
        let outlet =
            span.in_scope(|| Outlet::new(&self.outlet, path.clone(), &entry.timing, now().wall, &beginning));
        let store = self.outlet.store.clone();
        let driver = drive(entry.core.clone(), outlet, self.workers.clone()).instrument(span.clone());
        let registry = self.me.clone();
        let attendant = async move {
            // A panic must not leave the place taken for ever.
            let ending = tokio::spawn(driver).await;
            let reason = match &ending {
                Ok(Ending::TakenOver) => Refusal::TakenOver,
                Ok(Ending::Ended) | Err(_) => Refusal::Internal,
            };
            match &ending {
                Ok(Ending::Ended) => {
                    if let Some(owner) = owner {
                        owner.release(&store).await;
                    }
                }
                Ok(Ending::TakenOver) => metrics::counter!("encoder_fenced_total").increment(1),
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
            // Where this place's end is the process's, all that streams have left is completed before.
            let last = permit.filter(|_| registry.probe.restarts_when_done());
            registry.review_door();
            registry.count.send_replace(count);
            // Nobody hears a core without its driver. After an orderly end there is no publisher.
            entry.core.with(|core, now| core.close(now));
            entry.present().send_off.send_if_modified(|told| {
                let untold = told.is_none();
                told.get_or_insert(reason);
                untold
            });
            info!(seconds = entry.started.elapsed().as_secs(), "stream has ended");
            if let (Some(_place), Some(archives)) = (last, &registry.outlet.archives) {
                archives.idle().await;
            }
        };
        tokio::spawn(attendant.instrument(span));
    }
}

/// What there is for a publisher.
enum Found {
    /// A place in a stream that waited for it.
    Stream(Box<Publisher>),
    /// Room for a new stream.
    Place(Reserved),
}

/// Room for a stream that has not begun; given back when dropped.
struct Reserved {
    path: StreamPath,
    registry: Weak<Registry>,
    permit: Option<probes::StreamPermit>,
}

impl Reserved {
    /// The stream is on the list.
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
            registry.review_door();
        }
    }
}

/// Says what became of a publisher's wish.
fn tell(path: &StreamPath, wish: Wish, bounds: Option<Bounds>) {
    match (wish, bounds) {
        (Wish::None | Wish::Granted, _) => {}
        (Wish::Bounded { wished }, Some(Bounds { least, most })) => {
            warn!(stream = %path, wished, %least, %most, "publisher wishes a latency outside --latency-bounds");
        }
        (Wish::NotANumber, _) => {
            warn!(stream = %path, "publisher's wish for a latency is not a number: it is ignored");
        }
        (Wish::NotAllowed, _) | (Wish::Bounded { .. }, None) => {
            info!(stream = %path, "publisher's wish for a latency is ignored: --latency-bounds is not set");
        }
    }
}

/// Published media that may be in no segment yet: a segment in the making, and what the queue before the worker holds.
/// Beyond it pictures are shed, and viewers' hold-back is being spent.
fn lag_budget(timing: &Timing) -> MediaSpan {
    timing.max_segment + timing.shed_queue
}

impl Entry {
    fn present(&self) -> MutexGuard<'_, Present> {
        // A number and a time are whole whatever panicked.
        self.publisher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a publisher with this stream's key would be let in: nobody is there, or somebody who has gone silent.
    fn awaits_publisher(&self) -> bool {
        let (over, published) = self.core.look(|core| (core.is_over(), core.is_published()));
        !over && (!published || self.present().heard.elapsed() >= STALE_AFTER)
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
        self.review_door();
        let result = if taken.is_ok() { "accepted" } else { "refused" };
        metrics::counter!("encoder_publish_total", "result" => result).increment(1);
        if let Err(refusal) = &taken {
            let reason = match refusal {
                Refusal::BadName(_) => "bad_name",
                Refusal::AlreadyPublishing | Refusal::TakenOver => "already_publishing",
                Refusal::Busy | Refusal::AllBusy => "busy",
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
