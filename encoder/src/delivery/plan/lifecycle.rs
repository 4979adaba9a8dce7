//! From the first event to the end of writing.

use std::time::Duration;

/// How far a stream's delivery is. A state follows the states above it; any state may be
/// skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlanLifecycle {
    /// Events are taken.
    Open,
    /// The stream has ended; some segment's fate is not known yet.
    Ending { give_up_at: Duration },
    /// Every segment is listed, and the playlists have been told about the end.
    Ended { give_up_at: Duration },
    /// Nothing is started any more: `give_up_at` has passed, or another encoder has taken the stream over.
    GaveUp {
        /// Whether the playlists had been told about the end.
        is_ended: bool,
    },
}

impl PlanLifecycle {
    /// Whether events are taken.
    pub(super) const fn is_open(self) -> bool {
        match self {
            Self::Open => true,
            Self::Ending { .. } | Self::Ended { .. } | Self::GaveUp { .. } => false,
        }
    }

    /// The stream has ended.
    pub(super) fn end(&mut self, give_up_at: Duration) {
        if self.is_open() {
            *self = Self::Ending { give_up_at };
        }
    }

    /// Every segment is listed. True if the playlists are to be told about the end now.
    pub(super) fn all_listed(&mut self) -> bool {
        match *self {
            Self::Ending { give_up_at } => {
                *self = Self::Ended { give_up_at };
                true
            }
            Self::Open | Self::Ended { .. } | Self::GaveUp { .. } => false,
        }
    }

    /// Time of giving up.
    pub(super) const fn give_up_at(self) -> Option<Duration> {
        match self {
            Self::Ending { give_up_at } | Self::Ended { give_up_at } => Some(give_up_at),
            Self::Open | Self::GaveUp { .. } => None,
        }
    }

    pub(super) fn give_up(&mut self) {
        *self = Self::GaveUp { is_ended: self.is_ended() };
    }

    pub(super) const fn has_given_up(self) -> bool {
        match self {
            Self::GaveUp { .. } => true,
            Self::Open | Self::Ending { .. } | Self::Ended { .. } => false,
        }
    }

    /// Whether the playlists have been told about the end.
    pub(super) const fn is_ended(self) -> bool {
        match self {
            Self::Ended { .. } => true,
            Self::GaveUp { is_ended } => is_ended,
            Self::Open | Self::Ending { .. } => false,
        }
    }
}
