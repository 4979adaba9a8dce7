//! Reports the encoder's state to Agones, so that a busy encoder is never chosen when the fleet shrinks or is
//! updated: Ready while the encoder accepts a stream, Allocate from the first stream on, Shutdown when it will accept
//! no more streams, and Health as long as the process makes progress.
//!
//! [`Lifecycle`] decides, without sockets or clocks; [`Agones`] does the I/O. The wire protocol is in
//! [`super::sidecar`].

use super::sidecar::{Sidecar, SidecarError};
use crate::retry::Backoff;
use probes::{BusyState, Liveness, Probe};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

/// Interval between pings. Agones counts a process as unhealthy after `failureThreshold` times `periodSeconds` without
/// a ping: half a minute with the 6 and 5 s of `deploy/overlays/agones/fleet.yaml`, 15 s with Agones' default of 3 and
/// 5 s.
const PING: Duration = Duration::from_secs(2);
/// Pauses after failed calls, without jitter: the sidecar serves this encoder alone. The sidecar may start later than
/// the encoder, and may restart.
const RETRY: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(2) };
/// Time-out of the final Shutdown call when the process leaves.
const LAST_WORD: Duration = Duration::from_millis(500);

/// The calls to the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SidecarCall {
    /// The encoder is free: Agones counts it among the ready ones.
    Ready,
    /// The encoder is in use: Agones leaves it alone and keeps another one ready.
    Allocate,
    /// The encoder is finished: Agones deletes the pod.
    Shutdown,
    /// The process makes progress.
    Health,
}

impl SidecarCall {
    /// The call's name in log lines.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Allocate => "allocate",
            Self::Shutdown => "shutdown",
            Self::Health => "health",
        }
    }
}

/// Decides which call is due. Calls are sent one at a time, because the sidecar handles concurrent calls in no
/// particular order.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    /// The last state call that the sidecar accepted; `None` if the sidecar may have lost it.
    said: Option<SidecarCall>,
    ping_at: Instant,
    /// No call is due before this time.
    pause_until: Instant,
    /// Failed calls since the last successful one.
    failures: u32,
}

impl Lifecycle {
    /// The start state: no call has been sent.
    pub(crate) fn new(now: Instant) -> Self {
        Self { said: None, ping_at: now, pause_until: now, failures: 0 }
    }

    /// The call that is due, if any. A change of state takes precedence over a ping.
    pub(crate) fn due(&self, state: &BusyState, alive: bool, now: Instant) -> Option<SidecarCall> {
        if now < self.pause_until {
            return None;
        }
        let wanted = match state {
            BusyState::Starting => None,
            BusyState::Free { .. } => Some(SidecarCall::Ready),
            // Draining streams still run, so the encoder must stay protected when the fleet shrinks.
            BusyState::Busy { .. } | BusyState::Draining { .. } => Some(SidecarCall::Allocate),
            BusyState::Spent { .. } => Some(SidecarCall::Shutdown),
        };
        if wanted.is_some() && wanted != self.said {
            return wanted;
        }
        (alive && now >= self.ping_at).then_some(SidecarCall::Health)
    }

    /// When to ask again if nothing happens earlier.
    pub(crate) fn wake_at(&self, now: Instant) -> Instant {
        if now < self.pause_until { self.pause_until } else { self.ping_at }
    }

    /// Records that the sidecar accepted the call.
    pub(crate) fn taken(&mut self, call: SidecarCall, now: Instant) {
        match call {
            SidecarCall::Health => self.ping_at = now + PING,
            SidecarCall::Ready | SidecarCall::Allocate | SidecarCall::Shutdown => self.said = Some(call),
        }
        (self.pause_until, self.failures) = (now, 0);
    }

    /// Records that the call failed. The sidecar may have restarted, so the state is sent again after the backoff.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.said = None;
        self.failures = self.failures.saturating_add(1);
        self.pause_until = now + RETRY.longest_pause(self.failures);
    }

    /// Whether the sidecar has accepted the Shutdown call.
    pub(crate) fn is_finished(&self) -> bool {
        self.said == Some(SidecarCall::Shutdown)
    }
}

/// The task that talks to the sidecar.
#[derive(Debug)]
pub(crate) struct Agones {
    task: JoinHandle<()>,
}

impl Agones {
    /// Starts the task, which reports the probe's state from now on.
    pub(crate) fn start(probe: Arc<Probe>, sidecar: SocketAddr) -> Self {
        Self { task: tokio::spawn(run(probe, sidecar)) }
    }

    /// Waits up to half a second for the final Shutdown call. Call this once the probe is spent.
    pub(crate) async fn leave(self) {
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
        // Only a stuck process stops its pings. A process that wants to be replaced reports this by its state.
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
                debug!(call = call.as_str(), "agones");
                if std::mem::take(&mut failing) {
                    info!("agones: the sidecar answers");
                }
                lifecycle.taken(call, Instant::now());
            }
            Err(error) => {
                // Logged once per outage.
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "agones: the sidecar does not answer: check the pod's sidecar container");
                }
                sidecar = None;
                lifecycle.failed(Instant::now());
            }
        }
    }
    info!("agones: told to shut down");
}

/// Sends a call, on a new connection if there is none.
async fn tell(
    sidecar: &mut Option<Sidecar>,
    address: SocketAddr,
    call: SidecarCall,
) -> Result<(), SidecarError> {
    let sidecar = match sidecar {
        Some(sidecar) => sidecar,
        None => sidecar.insert(Sidecar::connect(address).await?),
    };
    sidecar.tell(call).await
}

/// Waits for the end of the connection, if there is one.
async fn lost(sidecar: &mut Option<Sidecar>) -> SidecarError {
    match sidecar {
        Some(sidecar) => sidecar.lost().await,
        None => std::future::pending().await,
    }
}

async fn wake(at: Instant, alive: bool) {
    tokio::time::sleep_until(at.into()).await;
    // The process is stuck and its ping overdue: pause so that the loop does not spin.
    if !alive {
        tokio::time::sleep(RETRY.first).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use probes::BusyReason;

    const FREE: BusyState = BusyState::Free { taken: 0 };
    const BUSY: BusyState = BusyState::Busy { streams: 1, taken: 1 };
    const DRAINING: BusyState = BusyState::Draining { streams: 1, why: BusyReason::Asked };
    const SPENT: BusyState = BusyState::Spent { why: BusyReason::Recycle };

    #[test]
    fn each_state_is_told_once_and_in_order() {
        let now = Instant::now();
        let mut lifecycle = Lifecycle::new(now);
        let mut said = Vec::new();
        for state in [BusyState::Starting, FREE, BUSY, DRAINING, FREE, BUSY, SPENT] {
            while let Some(call) = lifecycle.due(&state, true, now) {
                said.push(call);
                lifecycle.taken(call, now);
            }
        }
        use SidecarCall::*;
        assert_eq!(said, [Health, Ready, Allocate, Ready, Allocate, Shutdown]);
        assert!(lifecycle.is_finished());
    }

    #[test]
    fn pings_come_in_time_and_only_with_progress() {
        let start = Instant::now();
        let mut lifecycle = Lifecycle::new(start);
        lifecycle.taken(SidecarCall::Ready, start);
        lifecycle.taken(SidecarCall::Health, start);
        assert_eq!(lifecycle.due(&FREE, true, start + PING / 2), None);
        assert_eq!(lifecycle.wake_at(start), start + PING);
        assert_eq!(lifecycle.due(&FREE, true, start + PING), Some(SidecarCall::Health));
        assert_eq!(lifecycle.due(&FREE, false, start + PING), None, "a stuck process does not claim health");
    }

    #[test]
    fn after_an_outage_the_state_is_told_again() {
        let start = Instant::now();
        let mut lifecycle = Lifecycle::new(start);
        lifecycle.taken(SidecarCall::Allocate, start);
        lifecycle.failed(start);
        assert_eq!(lifecycle.due(&BUSY, true, start), None, "not at once");
        let later = lifecycle.wake_at(start);
        assert!(later <= start + RETRY.first);
        assert_eq!(
            lifecycle.due(&BUSY, true, later),
            Some(SidecarCall::Allocate),
            "the sidecar may be a new one"
        );
    }

    #[test]
    fn pauses_grow_to_a_bound_and_start_over() {
        let mut now = Instant::now();
        let mut lifecycle = Lifecycle::new(now);
        for _ in 0..20 {
            lifecycle.failed(now);
            assert!(lifecycle.wake_at(now) <= now + RETRY.most);
            now = lifecycle.wake_at(now);
        }
        lifecycle.taken(SidecarCall::Ready, now);
        lifecycle.failed(now);
        assert!(lifecycle.due(&FREE, true, now + RETRY.first).is_some());
    }
}
