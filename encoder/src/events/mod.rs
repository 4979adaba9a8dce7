//! What happens to streams, for another service (`--events`): CloudEvents over HTTP, signed as Standard Webhooks, at
//! least once, and in order for each stream.
//!
//! - [`event`]: what events say. [`queue`]: which one is sent next, and what is given up. [`health`]: which
//!   problems are worth an event, as [`crate::refusals`] says it of refusals. All sans-IO.
//! - [`delivery`]: HTTP. [`StreamEvents`]: one stream's handle, which its parts tell what happens.
//!
//! To emit an event is to take a lock and to add to the queue: live never waits for the receiver. What belongs here: the
//! events and their delivery. What does not: who may publish ([`crate::identity`]), and the decisions that events tell
//! of.

mod delivery;
mod event;
mod health;
mod queue;
mod stream;

pub(crate) use event::{ArchiveReady, RecordingFile, TrackSummary, TrackSummaryKind};
pub(crate) use health::HealthSigns;
pub(crate) use stream::StreamEvents;

use crate::archive;
use crate::config::EventsConfig;
use crate::fault::Fault;
use crate::origin::StreamPath;
use crate::refusals::{self, RefusalSampler};
use crate::stream::driver::now;
use delivery::Receiver;
use event::{Happening, Subject};
use metrics::{counter, gauge};
use queue::{Attempt, EventQueue, Outcome, QueueLimits, QueuedEvent, Settled};
use rtmp::{PublishRequest, Refusal};
use serde_json::{Map, Value};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tracing::warn;

/// Where events go. Clones share one queue. Without a receiver nothing is kept.
#[derive(Clone, Debug, Default)]
pub struct Events(Option<Arc<EventHub>>);

/// The queue of a process, and the name under which the process sends.
#[derive(Debug)]
struct EventHub {
    /// CloudEvents `source`: `/encoders/HOST/PROCESS`.
    source: String,
    /// Distinguishes the IDs of this process's events from those of all other processes.
    process: String,
    /// Number of the next event.
    next: AtomicU64,
    queue: Mutex<EventQueue>,
    /// Wakes the delivery.
    wake: Notify,
    /// Number of events that are not delivered.
    waiting: watch::Sender<usize>,
    refusals: RefusalSampler,
    /// Events given up for lack of memory since this was logged last.
    overflowed: AtomicU64,
}

// === impl Events ===

impl Events {
    /// Starts to deliver events to a receiver.
    ///
    /// # Errors
    /// TLS cannot be set up on this machine.
    pub(crate) fn start(config: &EventsConfig) -> Result<Self, Fault> {
        Self::start_with(config, QueueLimits::default(), delivery::ATTEMPT)
    }

    fn start_with(config: &EventsConfig, limits: QueueLimits, attempt: Duration) -> Result<Self, Fault> {
        let receiver = Receiver::new(config, attempt)
            .map_err(|why| Fault::Machine { what: "cannot set up the delivery of events (--events)", why })?;
        let hub = Arc::new(EventHub::new(limits));
        // Shown from the start, as zero.
        hub.show(&hub.queue());
        tokio::spawn(delivery::deliver(hub.clone(), receiver));
        Ok(Self(Some(hub)))
    }

    /// The handle of a stream. `metadata` is what the back end wants to find again.
    pub(crate) fn stream(&self, path: StreamPath, metadata: Map<String, Value>) -> StreamEvents {
        StreamEvents::new(self.clone(), path, metadata)
    }

    /// A publisher was refused. `path` is the stream that the publisher asked for, if it is known: never the stream key.
    pub(crate) fn refused(&self, path: Option<&StreamPath>, request: &PublishRequest, refusal: &Refusal) {
        let Some(hub) = &self.0 else { return };
        let reason = refusals::reason(refusal);
        let Some(left_out) = hub.refusals.refused(reason, Instant::now()) else { return };
        let app = Some(request.app.as_str()).filter(|app| media::is_valid_name(app));
        let subject = Subject {
            app: path.map(|path| &*path.app).or(app),
            name: path.map(|path| &*path.name),
            ..Subject::default()
        };
        let (message, peer) = (refusal.to_string(), request.peer.to_string());
        hub.emit(&subject, &Happening::Refused { reason, message, peer, left_out });
    }

    /// Waits until everything is delivered or given up, and for `within` at most; events that pause are sent at once.
    pub(crate) async fn finish(&self, within: Duration) {
        let Some(hub) = &self.0 else { return };
        hub.queue().hurry();
        hub.wake.notify_one();
        let mut waiting = hub.waiting.subscribe();
        // Cannot fail otherwise than by the time-out: the hub owns the sender.
        let _ = tokio::time::timeout(within, waiting.wait_for(|waiting| *waiting == 0)).await;
    }

    /// The process ends: says how many events are not delivered, and returns that number.
    pub(crate) fn leave(&self) -> usize {
        let left = self.0.as_ref().map_or(0, |hub| hub.queue().len());
        if left > 0 {
            counter!("encoder_events_total", "result" => "left").increment(left as u64);
            warn!(left, "events were not delivered before the end: is their receiver up (--events)?");
        }
        left
    }

    fn emit(&self, subject: &Subject<'_>, happening: &Happening) {
        if let Some(hub) = &self.0 {
            hub.emit(subject, happening);
        }
    }

    /// Like [`Self::emit`] with an ID of the caller's, for an event that several processes may tell of.
    fn emit_as(&self, id: &str, subject: &Subject<'_>, happening: &Happening) {
        if let Some(hub) = &self.0 {
            hub.emit_as(id, subject, happening);
        }
    }

    fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
impl Events {
    /// Events that go nowhere: a test takes them.
    pub(crate) fn kept() -> Self {
        Self(Some(Arc::new(EventHub::new(QueueLimits::default()))))
    }

    /// Takes all events that wait, in the order in which they came.
    pub(crate) fn take(&self) -> Vec<Value> {
        let Some(hub) = &self.0 else { return Vec::new() };
        let mut taken = Vec::new();
        while let Some(attempt) = { hub.queue().next(Instant::now()) } {
            taken.push(serde_json::from_slice(&attempt.body).expect("events are JSON"));
            hub.settle(&attempt, Outcome::Delivered);
        }
        taken
    }
}

// === impl EventHub ===

impl EventHub {
    fn new(limits: QueueLimits) -> Self {
        // The standard library seeds this from the system's random numbers.
        let random = RandomState::new().hash_one(std::process::id());
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-._/".contains(c) { c } else { '_' };
        Self {
            source: format!("/encoders/{}", archive::owner()).chars().map(plain).collect(),
            process: format!("{:x}-{random:016x}", now().wall.unix_micros()),
            next: AtomicU64::new(0),
            queue: Mutex::new(EventQueue::new(limits, random)),
            wake: Notify::new(),
            waiting: watch::Sender::new(0),
            refusals: RefusalSampler::default(),
            overflowed: AtomicU64::new(0),
        }
    }

    fn emit(&self, subject: &Subject<'_>, happening: &Happening) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.emit_as(&format!("{}-{number}", self.process), subject, happening);
    }

    fn emit_as(&self, id: &str, subject: &Subject<'_>, happening: &Happening) {
        let now = now();
        let event = QueuedEvent {
            id: id.into(),
            stream: subject.path().unwrap_or_default().into(),
            importance: happening.importance(),
            body: event::to_json(id, &self.source, subject, happening, now.wall).into(),
        };
        let mut queue = self.queue();
        let given_up = queue.push(event, now.instant).len() as u64;
        self.show(&queue);
        drop(queue);
        if given_up > 0 {
            self.overflowed.fetch_add(given_up, Ordering::Relaxed);
            counter!("encoder_events_total", "result" => "given_up_full").increment(given_up);
        }
        self.wake.notify_one();
    }

    /// Settles an attempt, and counts it.
    fn settle(&self, attempt: &Attempt, outcome: Outcome) -> Settled {
        let mut queue = self.queue();
        let settled = queue.settle(attempt, outcome, Instant::now());
        self.show(&queue);
        drop(queue);
        let result = match settled {
            Settled::Delivered => "delivered",
            Settled::Retried => "retried",
            Settled::Refused => "given_up_refused",
            Settled::Expired => "given_up_expired",
        };
        counter!("encoder_events_total", "result" => result).increment(1);
        settled
    }

    /// Shows the number of events that wait.
    fn show(&self, queue: &EventQueue) {
        gauge!("encoder_events_waiting").set(queue.len() as f64);
        self.waiting.send_replace(queue.len());
    }

    fn queue(&self) -> MutexGuard<'_, EventQueue> {
        // The code that holds the lock cannot panic; if it did, live must not.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
