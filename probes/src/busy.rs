//! The busy state: whether this process takes another stream. Values in, values out; concurrent use is in
//! [`crate::probe`], HTTP in [`crate::admin`].
//!
//! ```text
//! Starting ─Ready─► Free ─StreamAccepted─► Busy ─last StreamEnded─► Free
//!     │              │                      │ └──── recycle limit reached, last StreamEnded ────► Spent
//!     └─── Drain or Fault ──► Spent ◄───────┘
//!                               ▲           └─ Drain or Fault ─► Draining ─last StreamEnded─► Spent
//!                               └── (nothing was running)
//! ```
//! Nothing leaves `Spent`: a process that is done is replaced, not revived.

use std::fmt;
use std::num::NonZeroU32;

/// What the machine is told once, at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Streams at once.
    pub capacity: NonZeroU32,
    /// Streams in all, after which the process takes no more and, when the last of them ended, fails liveness so that
    /// the container restarts. `None`: never.
    pub recycle_after: Option<NonZeroU32>,
}

/// Why no further stream will ever be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was asked to leave (SIGTERM). The process exits by itself: liveness stays good.
    Asked,
    /// It served as many streams as it should ([`Settings::recycle_after`]).
    Recycle,
    /// Something that no further stream can do without is broken.
    Fault(String),
}

/// Where the process stands. `taken` counts accepted streams since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not everything that a stream needs is up.
    Starting,
    /// Nothing runs, a stream is welcome.
    Free {
        /// Streams accepted so far.
        taken: u32,
    },
    /// At least one stream runs; another is welcome while there is room.
    Busy {
        /// Streams that run: 1 to capacity.
        streams: u32,
        /// Streams accepted so far, running ones included.
        taken: u32,
    },
    /// Streams run to their end; none is welcome.
    Draining {
        /// Streams that run: 1 to capacity.
        streams: u32,
        /// What began the drain.
        why: Why,
    },
    /// Nothing runs and nothing will.
    Spent {
        /// What brought it here.
        why: Why,
    },
}

/// What happens to the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything that a stream needs is up.
    Ready,
    /// A publisher asks for a place; on success the place is taken.
    StreamAccepted,
    /// A stream that had a place is over.
    StreamEnded,
    /// Take no more streams, finish those that run.
    Drain,
    /// As `Drain`, because something is broken; what runs may still come to its end.
    Fault(String),
}

/// Why an event was turned down. The state is unchanged then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Later may do: it is not up yet.
    #[error("still starting")]
    Starting,
    /// Later, or another encoder, may do: all places are taken.
    #[error("all places are taken")]
    Full,
    /// Another encoder may do: this one is leaving.
    #[error("taking no more streams")]
    Leaving,
    /// A stream ended that never began: a fault of the caller.
    #[error("no stream was running")]
    NoStream,
}

// === impl State ===

impl State {
    /// The one transition function.
    pub fn on(&self, event: Event, settings: &Settings) -> Result<Self, Denied> {
        match (self, event) {
            (Self::Starting, Event::Ready) => Ok(Self::Free { taken: 0 }),
            (Self::Starting, Event::StreamAccepted) => Err(Denied::Starting),
            (Self::Starting, Event::StreamEnded) => Err(Denied::NoStream),
            (Self::Starting, Event::Drain) => Ok(Self::Spent { why: Why::Asked }),
            (Self::Starting, Event::Fault(reason)) => Ok(Self::Spent { why: Why::Fault(reason) }),

            (Self::Free { taken }, Event::Ready) => Ok(Self::Free { taken: *taken }),
            (Self::Free { taken }, Event::StreamAccepted) => {
                Ok(Self::Busy { streams: 1, taken: taken.saturating_add(1) })
            }
            (Self::Free { .. }, Event::StreamEnded) => Err(Denied::NoStream),
            (Self::Free { .. }, Event::Drain) => Ok(Self::Spent { why: Why::Asked }),
            (Self::Free { .. }, Event::Fault(reason)) => Ok(Self::Spent { why: Why::Fault(reason) }),

            (Self::Busy { .. }, Event::Ready) => Ok(self.clone()),
            (Self::Busy { streams, taken }, Event::StreamAccepted) => match self.welcome(settings) {
                Ok(()) => Ok(Self::Busy { streams: streams + 1, taken: taken.saturating_add(1) }),
                Err(denied) => Err(denied),
            },
            (Self::Busy { streams, taken }, Event::StreamEnded) => Ok(match (streams - 1, *taken) {
                (0, taken) if settings.used_up(taken) => Self::Spent { why: Why::Recycle },
                (0, taken) => Self::Free { taken },
                (streams, taken) => Self::Busy { streams, taken },
            }),
            (Self::Busy { streams, .. }, Event::Drain) => {
                Ok(Self::Draining { streams: *streams, why: Why::Asked })
            }
            (Self::Busy { streams, .. }, Event::Fault(reason)) => {
                Ok(Self::Draining { streams: *streams, why: Why::Fault(reason) })
            }

            (Self::Draining { .. }, Event::Ready) => Ok(self.clone()),
            (Self::Draining { .. }, Event::StreamAccepted) => Err(Denied::Leaving),
            (Self::Draining { streams, why }, Event::StreamEnded) => Ok(match streams - 1 {
                0 => Self::Spent { why: why.clone() },
                streams => Self::Draining { streams, why: why.clone() },
            }),
            // The first reason stays, but for one: who was asked to leave exits by itself, whatever broke before.
            (Self::Draining { streams, .. }, Event::Drain) => {
                Ok(Self::Draining { streams: *streams, why: Why::Asked })
            }
            (Self::Draining { .. }, Event::Fault(_)) => Ok(self.clone()),

            (Self::Spent { .. }, Event::Ready) => Ok(self.clone()),
            (Self::Spent { .. }, Event::StreamAccepted) => Err(Denied::Leaving),
            (Self::Spent { .. }, Event::StreamEnded) => Err(Denied::NoStream),
            (Self::Spent { .. }, Event::Drain) => Ok(Self::Spent { why: Why::Asked }),
            (Self::Spent { .. }, Event::Fault(_)) => Ok(self.clone()),
        }
    }

    /// Whether a stream would be taken now, and if not, why: readiness.
    pub fn welcome(&self, settings: &Settings) -> Result<(), Denied> {
        match self {
            Self::Starting => Err(Denied::Starting),
            Self::Free { .. } => Ok(()),
            Self::Busy { taken, .. } if settings.used_up(*taken) => Err(Denied::Leaving),
            Self::Busy { streams, .. } if *streams >= settings.capacity.get() => Err(Denied::Full),
            Self::Busy { .. } => Ok(()),
            Self::Draining { .. } | Self::Spent { .. } => Err(Denied::Leaving),
        }
    }

    /// Whether only a restart of the container helps: recycled or broken, and nothing runs that a restart would hurt.
    pub fn wants_restart(&self) -> bool {
        match self {
            Self::Starting | Self::Free { .. } | Self::Busy { .. } | Self::Draining { .. } => false,
            Self::Spent { why } => match why {
                Why::Asked => false,
                Why::Recycle | Why::Fault(_) => true,
            },
        }
    }

    /// Whether a restart is wanted as soon as nothing runs any more, and no further stream is taken until then.
    pub fn restarts_when_done(&self, settings: &Settings) -> bool {
        match self {
            Self::Starting | Self::Free { .. } | Self::Spent { .. } => false,
            Self::Busy { taken, .. } => settings.used_up(*taken),
            Self::Draining { why, .. } => match why {
                Why::Asked => false,
                Why::Recycle | Why::Fault(_) => true,
            },
        }
    }

    /// Streams that run.
    pub fn streams(&self) -> u32 {
        match self {
            Self::Starting | Self::Free { .. } | Self::Spent { .. } => 0,
            Self::Busy { streams, .. } | Self::Draining { streams, .. } => *streams,
        }
    }

    /// Whether no further stream will ever be taken.
    pub fn is_leaving(&self) -> bool {
        match self {
            Self::Starting | Self::Free { .. } | Self::Busy { .. } => false,
            Self::Draining { .. } | Self::Spent { .. } => true,
        }
    }

    /// One word, for metrics and JSON.
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

impl Settings {
    fn used_up(&self, taken: u32) -> bool {
        self.recycle_after.is_some_and(|limit| taken >= limit.get())
    }
}

impl fmt::Display for Why {
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
