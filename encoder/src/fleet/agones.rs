//! Tells Agones what this encoder is doing, so that a busy one is never chosen when the fleet shrinks or is updated:
//! Ready while a stream is welcome, Allocate from the first stream on, Shutdown when nothing more will be taken, and
//! Health for as long as the process makes progress.
//!
//! It speaks the sidecar's HTTP (`sdk.proto`'s `google.api.http` bindings, port 9358), not its gRPC: four posts of an
//! empty object to the same machine. The crate `agones` 1.61.0 needs protoc at build time and a tonic two versions
//! behind the one that the rest of the program may use.
//!
//! [`Lifecycle`] decides and knows neither sockets nor clocks; [`Agones`] is its rim.

use super::neighbour;
use probes::{Liveness, Probe, State};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

/// Where the sidecar listens for HTTP unless told otherwise.
pub const DEFAULT_PORT: u16 = 9358;

/// Between two pings. Agones counts a process as unhealthy after three times `periodSeconds` (5 s) without one.
const PING: Duration = Duration::from_secs(2);
/// What the sidecar may take to answer: it only takes a note.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pauses behind calls that failed, first and longest. The sidecar may start after us, and restart.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// What the last word may take when the process leaves.
const LAST_WORD: Duration = Duration::from_millis(500);

/// What the sidecar can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Free: count it as one that waits.
    Ready,
    /// Taken: leave it alone, and have another one wait.
    Allocate,
    /// Done: delete the pod.
    Shutdown,
    /// It makes progress.
    Health,
}

impl Call {
    /// The path of the sidecar's HTTP binding.
    pub fn path(self) -> &'static str {
        match self {
            Self::Ready => "/ready",
            Self::Allocate => "/allocate",
            Self::Shutdown => "/shutdown",
            Self::Health => "/health",
        }
    }
}

/// What is to be said next. Calls go one at a time: the sidecar handles them in no particular order.
#[derive(Debug)]
pub struct Lifecycle {
    /// What the sidecar has heard of the state last; `None` when it may have forgotten.
    said: Option<Call>,
    ping_at: Instant,
    /// Nothing is said before, but for the last word.
    pause_until: Instant,
    pause: Duration,
}

impl Lifecycle {
    /// Nothing was said yet.
    pub fn new(now: Instant) -> Self {
        Self { said: None, ping_at: now, pause_until: now, pause: RETRY.0 }
    }

    /// The call that is due, if any. A state beats a ping.
    pub fn due(&self, state: &State, alive: bool, now: Instant) -> Option<Call> {
        if now < self.pause_until {
            return None;
        }
        let wanted = match state {
            State::Starting => None,
            State::Free { .. } => Some(Call::Ready),
            // Draining: whoever shrinks the fleet must go on leaving it alone.
            State::Busy { .. } | State::Draining { .. } => Some(Call::Allocate),
            State::Spent { .. } => Some(Call::Shutdown),
        };
        if wanted.is_some() && wanted != self.said {
            return wanted;
        }
        (alive && now >= self.ping_at).then_some(Call::Health)
    }

    /// When to ask again, if nothing happens before.
    pub fn wake_at(&self, now: Instant) -> Instant {
        if now < self.pause_until { self.pause_until } else { self.ping_at }
    }

    /// The sidecar has taken the call.
    pub fn taken(&mut self, call: Call, now: Instant) {
        match call {
            Call::Health => self.ping_at = now + PING,
            Call::Ready | Call::Allocate | Call::Shutdown => self.said = Some(call),
        }
        (self.pause_until, self.pause) = (now, RETRY.0);
    }

    /// It has not, and perhaps it is another one when it answers again: the state is told once more.
    pub fn failed(&mut self, now: Instant) {
        self.said = None;
        self.pause_until = now + self.pause;
        self.pause = (self.pause * 2).min(RETRY.1);
    }

    /// Whether the last word was heard.
    pub fn is_finished(&self) -> bool {
        self.said == Some(Call::Shutdown)
    }
}

/// The task that talks to the sidecar.
#[derive(Debug)]
pub struct Agones {
    task: JoinHandle<()>,
}

impl Agones {
    /// Follows the probe's state from now on.
    pub fn start(probe: Arc<Probe>, sidecar: SocketAddr) -> Self {
        Self { task: tokio::spawn(run(probe, sidecar)) }
    }

    /// Gives the last word a moment. To be called once the probe is spent.
    pub async fn leave(self) {
        if tokio::time::timeout(LAST_WORD, self.task).await.is_err() {
            warn!("left without telling Agones");
        }
    }
}

async fn run(probe: Arc<Probe>, sidecar: SocketAddr) {
    info!(%sidecar, "agones: telling the sidecar");
    let mut states = probe.subscribe();
    let mut lifecycle = Lifecycle::new(Instant::now());
    let mut failing = false;
    while !lifecycle.is_finished() {
        let state = states.borrow_and_update().clone();
        // A process that wants to be replaced says so by its state; only a stuck one keeps silent.
        let alive = !matches!(probe.liveness(), Liveness::Stuck(_));
        let now = Instant::now();
        let Some(call) = lifecycle.due(&state, alive, now) else {
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(lifecycle.wake_at(now).into()) => {}
            }
            // Stuck and overdue: not a reason to spin.
            if !alive {
                tokio::time::sleep(RETRY.0).await;
            }
            continue;
        };
        let outcome = neighbour::post(sidecar, call.path(), PATIENCE).await;
        let now = Instant::now();
        match outcome {
            Ok(status) if status.is_success() => {
                debug!(?call, "agones");
                if std::mem::take(&mut failing) {
                    info!("agones: the sidecar answers");
                }
                lifecycle.taken(call, now);
            }
            outcome => {
                let why = outcome.map_or_else(|error| error.to_string(), |status| status.to_string());
                // Once for each outage.
                if !std::mem::replace(&mut failing, true) {
                    warn!(?call, why, "agones: the sidecar does not answer");
                }
                lifecycle.failed(now);
            }
        }
    }
    info!("agones: told to shut down");
}

#[cfg(test)]
mod tests {
    use super::*;
    use probes::Why;

    const FREE: State = State::Free { taken: 0 };
    const BUSY: State = State::Busy { streams: 1, taken: 1 };
    const DRAINING: State = State::Draining { streams: 1, why: Why::Asked };
    const SPENT: State = State::Spent { why: Why::Recycle };

    #[test]
    fn each_state_is_told_once_and_in_order() {
        let now = Instant::now();
        let mut lifecycle = Lifecycle::new(now);
        let mut said = Vec::new();
        for state in [State::Starting, FREE, BUSY, DRAINING, FREE, BUSY, SPENT] {
            while let Some(call) = lifecycle.due(&state, true, now) {
                said.push(call);
                lifecycle.taken(call, now);
            }
        }
        use Call::*;
        assert_eq!(said, [Health, Ready, Allocate, Ready, Allocate, Shutdown]);
        assert!(lifecycle.is_finished());
    }

    #[test]
    fn pings_come_in_time_and_only_with_progress() {
        let start = Instant::now();
        let mut lifecycle = Lifecycle::new(start);
        lifecycle.taken(Call::Ready, start);
        lifecycle.taken(Call::Health, start);
        assert_eq!(lifecycle.due(&FREE, true, start + PING / 2), None);
        assert_eq!(lifecycle.wake_at(start), start + PING);
        assert_eq!(lifecycle.due(&FREE, true, start + PING), Some(Call::Health));
        assert_eq!(lifecycle.due(&FREE, false, start + PING), None, "a stuck process does not claim health");
    }

    #[test]
    fn after_an_outage_the_state_is_told_again() {
        let start = Instant::now();
        let mut lifecycle = Lifecycle::new(start);
        lifecycle.taken(Call::Allocate, start);
        lifecycle.failed(start);
        assert_eq!(lifecycle.due(&BUSY, true, start), None, "not at once");
        let later = lifecycle.wake_at(start);
        assert!(later <= start + RETRY.0);
        assert_eq!(lifecycle.due(&BUSY, true, later), Some(Call::Allocate), "the sidecar may be a new one");
    }

    #[test]
    fn pauses_grow_to_a_bound_and_start_over() {
        let mut now = Instant::now();
        let mut lifecycle = Lifecycle::new(now);
        for _ in 0..20 {
            lifecycle.failed(now);
            assert!(lifecycle.wake_at(now) <= now + RETRY.1);
            now = lifecycle.wake_at(now);
        }
        lifecycle.taken(Call::Ready, now);
        lifecycle.failed(now);
        assert!(lifecycle.due(&FREE, true, now + RETRY.0).is_some());
    }
}
