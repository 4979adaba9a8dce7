//! Removal of objects that no playlist names any more. Removals have low priority and few attempts: an object that
//! remains costs storage and nothing else.
//!
//! Only the store's playlists count: while they cannot be rewritten, the old ones name objects that the newest text
//! does not, and removals wait for the rewrite.

use super::{DeliveryPlan, Flight, StoreJob, StoreWork};
use crate::delivery::Playlists;
use hls::RungName;
use std::time::Duration;
use store::{ObjectName, StoreError};

/// Concurrent removals: few, so that they do not compete with segments.
pub(super) const REMOVALS_AT_A_TIME: usize = 2;
/// Attempts at a removal before the object is left in the store.
const REMOVAL_ATTEMPTS: u32 = 4;
/// Most removals that wait; beyond it objects are left in the store. An hour of five renditions at 1 s segments.
const MAX_REMOVALS: usize = 18_000;

/// An object to be removed, and when.
#[derive(Debug)]
pub(super) struct Removal {
    name: ObjectName,
    attempts: u32,
    /// Playlists rendered from this time on do not name the object.
    unnamed_since: Duration,
    not_before: Duration,
}

impl Removal {
    pub(super) fn new(name: ObjectName, now: Duration) -> Self {
        Self { name, attempts: 0, unnamed_since: now, not_before: now }
    }
}

impl<P: Playlists> DeliveryPlan<P> {
    pub(super) fn expire(&mut self, files: Vec<(RungName, String)>, now: Duration) {
        if self.settings.archive {
            return;
        }
        for (rung, file) in files {
            if self.removals.len() >= MAX_REMOVALS {
                self.counters.not_removed += 1;
                continue;
            }
            let name = self.object_name(&rung, &file);
            self.removals.push_back(Removal::new(name, now));
        }
    }

    pub(super) fn start_removal(&mut self, now: Duration) -> Option<StoreJob> {
        if self.removals_in_flight() >= REMOVALS_AT_A_TIME {
            return None;
        }
        let current = self.playlists_current_at();
        let due = |removal: &Removal| removal.not_before <= now && removal.unnamed_since <= current;
        let index = self.removals.iter().position(due)?;
        let removal = self.removals.remove(index)?;
        let work = StoreWork::Remove(removal.name.clone());
        Some(self.job(Flight::Removal(removal), work, self.settings.attempt_timeout))
    }

    pub(super) fn removal_done(
        &mut self,
        mut removal: Removal,
        result: Result<(), StoreError>,
        now: Duration,
    ) {
        removal.attempts += 1;
        match result {
            Ok(()) => self.counters.removed += 1,
            Err(error) if error.is_retryable() && removal.attempts < REMOVAL_ATTEMPTS && !self.gave_up => {
                removal.not_before = now + self.backoff(removal.attempts);
                self.removals.push_back(removal);
            }
            Err(_) => self.counters.not_removed += 1,
        }
    }

    pub(super) fn removals_wake_at(&self) -> Option<Duration> {
        if self.removals_in_flight() >= REMOVALS_AT_A_TIME {
            return None;
        }
        // Removals that wait for a playlist are considered again when the playlist is acknowledged.
        let current = self.playlists_current_at();
        let free = self.removals.iter().filter(|removal| removal.unnamed_since <= current);
        free.map(|removal| removal.not_before).min()
    }

    /// When the oldest of the playlist texts in the store was rendered.
    fn playlists_current_at(&self) -> Duration {
        self.paced.values().map(|paced| paced.current_at().unwrap_or_default()).min().unwrap_or_default()
    }

    fn removals_in_flight(&self) -> usize {
        self.in_flight.values().filter(|flight| matches!(flight, Flight::Removal(_))).count()
    }
}
