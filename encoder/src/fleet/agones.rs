//! Tells Agones what this encoder is doing, so that a busy one is never chosen when the fleet shrinks or is updated:
//! Ready while a stream is welcome, Allocate from the first stream on, Shutdown when nothing more will be taken, and
//! Health for as long as the process makes progress.
//!
//! [`Lifecycle`] decides and knows neither sockets nor clocks; [`Agones`] is its rim. What goes over the wire is in
//! [`super::sidecar`].

use super::sidecar::{Sidecar, SidecarError};
use probes::{Liveness, Probe, State};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

/// Between two pings. Agones counts a process as unhealthy after three times `periodSeconds` (5 s) without one.
const PING: Duration = Duration::from_secs(2);
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

async fn run(probe: Arc<Probe>, address: SocketAddr) {
    info!(sidecar = %address, "agones: telling the sidecar");
    let mut states = probe.subscribe();
    let mut lifecycle = Lifecycle::new(Instant::now());
    let mut sidecar = None;
    let mut failing = false;
    while !lifecycle.is_finished() {
        let state = states.borrow_and_update().clone();
        // A process that wants to be replaced says so by its state; only a stuck one keeps silent.
        let alive = !matches!(probe.liveness(), Liveness::Stuck(_));
        let now = Instant::now();
        let told = match lifecycle.due(&state, alive, now) {
            Some(call) => tell(&mut sidecar, address, call).await.map(|()| Some(call)),
            None => tokio::select! {
                changed = states.changed() => if changed.is_err() { return } else { Ok(None) },
                () = wake(lifecycle.wake_at(now), alive) => Ok(None),
                error = lost(&mut sidecar) => Err(error),
            },
        };
        match told {
            Ok(None) => {}
            Ok(Some(call)) => {
                debug!(?call, "agones");
                if std::mem::take(&mut failing) {
                    info!("agones: the sidecar answers");
                }
                lifecycle.taken(call, Instant::now());
            }
            Err(error) => {
                // Once for each outage.
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "agones: the sidecar does not answer");
                }
                sidecar = None;
                lifecycle.failed(Instant::now());
            }
        }
    }
    info!("agones: told to shut down");
}

/// Says it, on a new connection where there is none.
async fn tell(sidecar: &mut Option<Sidecar>, address: SocketAddr, call: Call) -> Result<(), SidecarError> {
    let sidecar = match sidecar {
        Some(sidecar) => sidecar,
        None => sidecar.insert(Sidecar::connect(address).await?),
    };
    sidecar.tell(call).await
}

/// Waits for the end of the connection, where there is one.
async fn lost(sidecar: &mut Option<Sidecar>) -> SidecarError {
    match sidecar {
        Some(sidecar) => sidecar.lost().await,
        None => std::future::pending().await,
    }
}

async fn wake(at: Instant, alive: bool) {
    tokio::time::sleep_until(at.into()).await;
    // Stuck and overdue: not a reason to spin.
    if !alive {
        tokio::time::sleep(RETRY.0).await;
    }
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
