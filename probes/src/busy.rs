//! The busy state: whether this process takes another stream. Pure transitions on values; concurrent use is in
//! [`crate::probe`], HTTP in [`crate::admin`].
//!
//! ```text
//! Starting ─Ready─► Free ─StreamAccepted─► Busy ─last StreamEnded─► Free
//!     │              │                      │ └──── recycle limit reached, last StreamEnded ────► Spent
//!     └─── Drain or Fault ──► Spent ◄───────┘
//!                               ▲           └─ Drain or Fault ─► Draining ─last StreamEnded─► Spent
//!                               └── (nothing was running)
//! ```
//! No state follows `Spent`: a process in this state is replaced, not reused.

use std::fmt;
use std::num::NonZeroU32;

/// Settings of the state machine, constant for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSettings {
    /// Maximum number of concurrent streams.
    pub capacity: NonZeroU32,
    /// Total number of streams after which the process takes no more. When the last of these streams has ended,
    /// liveness fails and the container restarts. `None`: no limit.
    pub recycle_after: Option<NonZeroU32>,
}

/// Why the process will never take another stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusyReason {
    /// The process was asked to leave (SIGTERM) and exits by itself: liveness stays good.
    Asked,
    /// The process served its maximum number of streams ([`ProbeSettings::recycle_after`]).
    Recycle,
    /// Something that every further stream needs is broken.
    Fault(String),
}

/// The state of the process. `taken` counts accepted streams since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusyState {
    /// Some of what a stream needs is not up yet.
    Starting,
    /// No stream runs; the process takes a stream.
    Free {
        /// Streams accepted so far.
        taken: u32,
    },
    /// At least one stream runs; the process takes another while there is room.
    Busy {
        /// Running streams: 1 to capacity.
        streams: u32,
        /// Streams accepted so far, running ones included.
        taken: u32,
    },
    /// Running streams may finish; no new stream is taken.
    Draining {
        /// Running streams: 1 to capacity.
        streams: u32,
        /// The reason for the drain.
        why: BusyReason,
    },
    /// No stream runs, and none will.
    Spent {
        /// The reason for this state.
        why: BusyReason,
    },
}

/// An event that changes the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusyEvent {
    /// Everything that a stream needs is up.
    Ready,
    /// A publisher requests a place; on success the place is taken.
    StreamAccepted,
    /// A stream that held a place has ended.
    StreamEnded,
    /// Take no more streams; running streams may finish.
    Drain,
    /// Like `Drain`, because something is broken; running streams may finish.
    Fault(String),
}

impl BusyEvent {
    /// The event's name in log lines.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::StreamAccepted => "stream accepted",
            Self::StreamEnded => "stream ended",
            Self::Drain => "drain",
            Self::Fault(_) => "fault",
        }
    }
}

/// Why an event was refused. The state is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The process is not up yet; a later retry may succeed.
    #[error("still starting")]
    Starting,
    /// All places are taken; a later retry or another encoder may succeed.
    #[error("all places are taken")]
    Full,
    /// This process is leaving; another encoder may succeed.
    #[error("taking no more streams")]
    Leaving,
    /// A stream ended that never began: the caller's mistake.
    #[error("no stream was running")]
    NoStream,
}

// === impl State ===

impl BusyState {
    /// The only transition function.
    pub fn on(&self, event: BusyEvent, settings: &ProbeSettings) -> Result<Self, Denied> {
        match (self, event) {
            (Self::Starting, BusyEvent::Ready) => Ok(Self::Free { taken: 0 }),
            (Self::Starting, BusyEvent::StreamAccepted) => Err(Denied::Starting),
            (Self::Starting, BusyEvent::StreamEnded) => Err(Denied::NoStream),
            (Self::Starting, BusyEvent::Drain) => Ok(Self::Spent { why: BusyReason::Asked }),
            (Self::Starting, BusyEvent::Fault(reason)) => Ok(Self::Spent { why: BusyReason::Fault(reason) }),

            (Self::Free { taken }, BusyEvent::Ready) => Ok(Self::Free { taken: *taken }),
            (Self::Free { taken }, BusyEvent::StreamAccepted) => {
                Ok(Self::Busy { streams: 1, taken: taken.saturating_add(1) })
            }
            (Self::Free { .. }, BusyEvent::StreamEnded) => Err(Denied::NoStream),
            (Self::Free { .. }, BusyEvent::Drain) => Ok(Self::Spent { why: BusyReason::Asked }),
            (Self::Free { .. }, BusyEvent::Fault(reason)) => {
                Ok(Self::Spent { why: BusyReason::Fault(reason) })
            }

            (Self::Busy { .. }, BusyEvent::Ready) => Ok(self.clone()),
            (Self::Busy { streams, taken }, BusyEvent::StreamAccepted) => match self.welcome(settings) {
                Ok(()) => Ok(Self::Busy { streams: streams + 1, taken: taken.saturating_add(1) }),
                Err(denied) => Err(denied),
            },
            (Self::Busy { streams, taken }, BusyEvent::StreamEnded) => Ok(match (streams - 1, *taken) {
                (0, taken) if settings.used_up(taken) => Self::Spent { why: BusyReason::Recycle },
                (0, taken) => Self::Free { taken },
                (streams, taken) => Self::Busy { streams, taken },
            }),
            (Self::Busy { streams, .. }, BusyEvent::Drain) => {
                Ok(Self::Draining { streams: *streams, why: BusyReason::Asked })
            }
            (Self::Busy { streams, .. }, BusyEvent::Fault(reason)) => {
                Ok(Self::Draining { streams: *streams, why: BusyReason::Fault(reason) })
            }

            (Self::Draining { .. }, BusyEvent::Ready) => Ok(self.clone()),
            (Self::Draining { .. }, BusyEvent::StreamAccepted) => Err(Denied::Leaving),
            (Self::Draining { streams, why }, BusyEvent::StreamEnded) => Ok(match streams - 1 {
                0 => Self::Spent { why: why.clone() },
                streams => Self::Draining { streams, why: why.clone() },
            }),
            // The first reason stays, with one exception: after a drain request the process exits by itself, even after
            // a fault.
            (Self::Draining { streams, .. }, BusyEvent::Drain) => {
                Ok(Self::Draining { streams: *streams, why: BusyReason::Asked })
            }
            (Self::Draining { .. }, BusyEvent::Fault(_)) => Ok(self.clone()),

            (Self::Spent { .. }, BusyEvent::Ready) => Ok(self.clone()),
            (Self::Spent { .. }, BusyEvent::StreamAccepted) => Err(Denied::Leaving),
            (Self::Spent { .. }, BusyEvent::StreamEnded) => Err(Denied::NoStream),
            (Self::Spent { .. }, BusyEvent::Drain) => Ok(Self::Spent { why: BusyReason::Asked }),
            (Self::Spent { .. }, BusyEvent::Fault(_)) => Ok(self.clone()),
        }
    }

    /// Readiness: whether a stream would be taken now, and if not, the reason.
    pub fn welcome(&self, settings: &ProbeSettings) -> Result<(), Denied> {
        match self {
            Self::Starting => Err(Denied::Starting),
            Self::Free { .. } => Ok(()),
            Self::Busy { taken, .. } if settings.used_up(*taken) => Err(Denied::Leaving),
            Self::Busy { streams, .. } if *streams >= settings.capacity.get() => Err(Denied::Full),
            Self::Busy { .. } => Ok(()),
            Self::Draining { .. } | Self::Spent { .. } => Err(Denied::Leaving),
        }
    }

    /// Whether the container needs a restart: the process is recycled or broken, and no stream runs that a restart
    /// would hurt.
    pub fn wants_restart(&self) -> bool {
        match self {
            Self::Starting | Self::Free { .. } | Self::Busy { .. } | Self::Draining { .. } => false,
            Self::Spent { why } => match why {
                BusyReason::Asked => false,
                BusyReason::Recycle | BusyReason::Fault(_) => true,
            },
        }
    }

    /// Whether the process needs a restart after its last stream has ended and takes no further stream until then.
    pub fn restarts_when_done(&self, settings: &ProbeSettings) -> bool {
        match self {
            Self::Starting | Self::Free { .. } | Self::Spent { .. } => false,
            Self::Busy { taken, .. } => settings.used_up(*taken),
            Self::Draining { why, .. } => match why {
                BusyReason::Asked => false,
                BusyReason::Recycle | BusyReason::Fault(_) => true,
            },
        }
    }

    /// Number of running streams.
    pub fn streams(&self) -> u32 {
        match self {
            Self::Starting | Self::Free { .. } | Self::Spent { .. } => 0,
            Self::Busy { streams, .. } | Self::Draining { streams, .. } => *streams,
        }
    }

    /// Whether the process will never take another stream.
    pub fn is_leaving(&self) -> bool {
        match self {
            Self::Starting | Self::Free { .. } | Self::Busy { .. } => false,
            Self::Draining { .. } | Self::Spent { .. } => true,
        }
    }

    /// The state as one word, for metrics and JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Free { .. } => "free",
            Self::Busy { .. } => "busy",
            Self::Draining { .. } => "draining",
            Self::Spent { .. } => "spent",
        }
    }
}

impl ProbeSettings {
    fn used_up(&self, taken: u32) -> bool {
        self.recycle_after.is_some_and(|limit| taken >= limit.get())
    }
}

impl fmt::Display for BusyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked to leave"),
            Self::Recycle => f.write_str("served as many streams as it should"),
            Self::Fault(reason) => write!(f, "fault: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests;
