//! Warnings about the encoders and the store, which would otherwise be logged once for each request. What is warned of
//! belongs to the callers.

use crate::edge::lock;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Least interval between two warnings of one kind.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// When a warning of one kind was last logged.
#[derive(Debug, Default)]
pub(super) struct OncePerMinute(Mutex<Option<Instant>>);

impl OncePerMinute {
    /// Whether the warning is to be logged now. If so, it counts as logged.
    pub(super) fn is_due(&self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&self, now: Instant) -> bool {
        let mut logged = lock(&self.0);
        let is_due = logged.is_none_or(|logged| now.saturating_duration_since(logged) >= WARN_EVERY);
        if is_due {
            *logged = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_logged_once_a_minute() {
        let (warning, start) = (OncePerMinute::default(), Instant::now());
        let due = |secs| warning.is_due_at(start + Duration::from_secs(secs));
        assert_eq!([0, 0, 59, 60, 61, 120].map(due), [true, false, false, true, false, true]);
    }
}
