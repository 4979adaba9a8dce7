//! The busy state for concurrent use, and liveness as progress. Transitions are in [`crate::busy`]; HTTP responses are
//! in [`crate::admin`].

use crate::busy::{BusyEvent, BusyReason, BusyState, Denied, ProbeSettings};
use crate::health::{Health, HealthVerdict};
use serde_json::{Map, Value, json};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{info, warn};

/// The result of a liveness check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// A recent heartbeat shows progress.
    Alive,
    /// No heartbeat for this long: a deadlock, or a runtime whose threads all block.
    Stuck(Duration),
    /// The process has finished and needs to be replaced (recycling, or a fault).
    Restart(String),
}

/// The process's state, shared by stream admission and probe responses. No call blocks for longer than a transition.
#[derive(Debug)]
pub struct Probe {
    settings: ProbeSettings,
    state: watch::Sender<BusyState>,
    started: Instant,
    /// Milliseconds from `started` to the last heartbeat.
    last_beat_ms: AtomicU64,
    patience: Duration,
}

/// The place of one stream. Dropping it gives the place back.
#[derive(Debug)]
#[must_use = "dropping the permit ends the stream"]
pub struct StreamPermit {
    probe: Arc<Probe>,
}

// === impl Probe ===

impl Probe {
    /// A process that is starting. `patience` is the longest interval between calls of [`Probe::heartbeat`] before
    /// liveness fails. It should be far above the heartbeat's period: a kubelet that kills an encoder for a hiccup does
    /// more harm than the hiccup.
    pub fn new(settings: ProbeSettings, patience: Duration) -> Arc<Self> {
        let probe = Self {
            settings,
            state: watch::Sender::new(BusyState::Starting),
            started: Instant::now(),
            last_beat_ms: AtomicU64::new(0),
            patience,
        };
        probe.set_gauges(&BusyState::Starting);
        Arc::new(probe)
    }

    /// Reports that everything that a stream needs is up.
    pub fn ready(&self) {
        self.apply(BusyEvent::Ready);
    }

    /// Takes no more streams. [`Probe::subscribe`] reports the end of the last one.
    pub fn drain(&self) {
        self.apply(BusyEvent::Drain);
    }

    /// Reports that something that every further stream needs is broken.
    pub fn fault(&self, reason: impl Into<String>) {
        self.apply(BusyEvent::Fault(reason.into()));
    }

    /// Takes a place, or returns the reason for the refusal. Two callers never get the same place.
    pub fn accept_stream(self: &Arc<Self>) -> Result<StreamPermit, Denied> {
        self.transition(BusyEvent::StreamAccepted)?;
        Ok(StreamPermit { probe: Arc::clone(self) })
    }

    /// Reports progress. Call this about once a second from a task of the runtime that carries the streams.
    pub fn heartbeat(&self) {
        self.heartbeat_at(self.started.elapsed());
    }

    /// The current state.
    pub fn state(&self) -> BusyState {
        self.state.borrow().clone()
    }

    /// Subscribes to state changes; the state at the time of the call counts as seen.
    pub fn subscribe(&self) -> watch::Receiver<BusyState> {
        self.state.subscribe()
    }

    /// The capacity and recycling settings.
    pub fn settings(&self) -> &ProbeSettings {
        &self.settings
    }

    /// Readiness: whether a stream would be taken now.
    pub fn readiness(&self) -> Result<(), Denied> {
        self.state.borrow().welcome(&self.settings)
    }

    /// Whether the process is replaced once its last stream has ended. A stream then keeps its place until all its work
    /// is done.
    pub fn restarts_when_done(&self) -> bool {
        self.state.borrow().restarts_when_done(&self.settings)
    }

    /// Current liveness.
    pub fn liveness(&self) -> Liveness {
        self.liveness_at(self.started.elapsed())
    }

    fn heartbeat_at(&self, since_start: Duration) {
        self.last_beat_ms.fetch_max(millis(since_start), Ordering::Relaxed);
    }

    fn liveness_at(&self, since_start: Duration) -> Liveness {
        let state = self.state();
        if let BusyState::Spent { why } = &state
            && state.wants_restart()
        {
            return Liveness::Restart(why.to_string());
        }
        let silent = millis(since_start).saturating_sub(self.last_beat_ms.load(Ordering::Relaxed));
        let silent = Duration::from_millis(silent);
        if silent > self.patience { Liveness::Stuck(silent) } else { Liveness::Alive }
    }

    /// Applies an event that is never refused.
    fn apply(&self, event: BusyEvent) {
        let name = event.name();
        if let Err(denied) = self.transition(event) {
            warn!(event = name, %denied, "busy state turned an event down");
        }
    }

    fn transition(&self, event: BusyEvent) -> Result<(), Denied> {
        let mut result = Ok(());
        self.state.send_if_modified(|state| match state.on(event, &self.settings) {
            Ok(next) if next == *state => false,
            Ok(next) => {
                info!(from = state.name(), to = next.name(), streams = next.streams(), "busy state");
                // Set the gauges inside the lock, so that they change in the order of the states.
                self.set_gauges(&next);
                *state = next;
                true
            }
            Err(denied) => {
                result = Err(denied);
                false
            }
        });
        result
    }

    /// At most one of the three gauges is 1, because autoscalers sum them up: `available` takes precedence over `busy`
    /// where there is room left.
    fn set_gauges(&self, state: &BusyState) {
        let available = state.welcome(&self.settings).is_ok();
        let draining = state.is_leaving();
        let busy = state.streams() > 0 && !available && !draining;
        crate::metrics::busy_gauges(available, busy, draining, state.streams());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

// === impl Health ===

impl Health for Probe {
    fn live(&self) -> HealthVerdict {
        match self.liveness() {
            Liveness::Alive => HealthVerdict::good("alive"),
            Liveness::Stuck(silent) => {
                HealthVerdict::bad(format!("no progress for {:.1} s", silent.as_secs_f64()))
            }
            Liveness::Restart(why) => HealthVerdict::bad(format!("wants a restart: {why}")),
        }
    }

    fn ready(&self) -> HealthVerdict {
        match self.readiness() {
            Ok(()) => HealthVerdict::good("a stream is welcome"),
            Err(denied) => HealthVerdict::bad(denied.to_string()),
        }
    }

    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let mut state = self.state.subscribe();
        Box::pin(async move {
            if state.changed().await.is_err() {
                // The process ends.
                std::future::pending().await
            }
        })
    }

    /// A process that is spent before it was ever ready has failed to start, unless it was asked to leave.
    fn started(&self) -> HealthVerdict {
        match self.state() {
            BusyState::Starting => HealthVerdict::bad("still starting"),
            BusyState::Spent { why: why @ BusyReason::Fault(_) } => HealthVerdict::bad(why.to_string()),
            BusyState::Spent { why: BusyReason::Asked | BusyReason::Recycle }
            | BusyState::Free { .. }
            | BusyState::Busy { .. }
            | BusyState::Draining { .. } => HealthVerdict::good("started"),
        }
    }

    fn details(&self) -> Map<String, Value> {
        let state = self.state();
        let details = [
            ("state", json!(state.name())),
            ("streams", json!(state.streams())),
            ("capacity", json!(self.settings.capacity)),
        ];
        details.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
    }

    fn publish_gauges(&self) {
        self.set_gauges(&self.state.borrow());
    }
}

// === impl StreamPermit ===

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.probe.apply(BusyEvent::StreamEnded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    fn probe(capacity: u32, recycle_after: u32) -> Arc<Probe> {
        let settings = ProbeSettings {
            capacity: NonZeroU32::new(capacity).unwrap(),
            recycle_after: NonZeroU32::new(recycle_after),
        };
        Probe::new(settings, Duration::from_secs(10))
    }

    #[test]
    fn many_publishers_at_once_never_get_more_places_than_there_are() {
        let probe = probe(3, 0);
        probe.ready();
        let permits: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| probe.accept_stream())).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect()
        });
        assert_eq!(permits.len(), 3);
        assert_eq!(probe.readiness(), Err(Denied::Full));
        drop(permits);
        assert_eq!(probe.readiness(), Ok(()));
    }

    #[test]
    fn liveness_fails_after_the_bound_and_recovers_with_progress() {
        let probe = probe(1, 0);
        assert_eq!(
            probe.liveness_at(Duration::from_secs(10)),
            Liveness::Alive,
            "start-up has the same patience"
        );
        assert_eq!(probe.liveness_at(Duration::from_secs(11)), Liveness::Stuck(Duration::from_secs(11)));
        probe.heartbeat_at(Duration::from_secs(12));
        assert_eq!(probe.liveness_at(Duration::from_secs(20)), Liveness::Alive);
    }

    #[test]
    fn a_recycled_process_asks_for_its_restart() {
        let probe = probe(1, 1);
        probe.ready();
        drop(probe.accept_stream().unwrap());
        assert!(matches!(probe.liveness(), Liveness::Restart(_)));
        assert_eq!(probe.accept_stream().unwrap_err(), Denied::Leaving);
    }

    #[tokio::test]
    async fn drain_can_be_waited_for() {
        let probe = probe(1, 0);
        probe.ready();
        let permit = probe.accept_stream().unwrap();
        probe.drain();
        let mut states = probe.subscribe();
        assert!(matches!(*states.borrow(), BusyState::Draining { streams: 1, .. }));
        drop(permit);
        states.wait_for(|state| matches!(state, BusyState::Spent { .. })).await.unwrap();
        assert_eq!(probe.liveness(), Liveness::Alive, "who was asked to leave is not restarted");
    }
}
