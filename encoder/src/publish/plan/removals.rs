//! Objects that nothing names any more, on their way out of the store. In no hurry, and given up easily: what stays
//! behind costs room and nothing else.

use super::{Flight, Job, Plan, Work};
use crate::publish::Playlists;
use crate::store::{ObjectName, StoreError};
use hls::RungName;
use std::time::Duration;

/// Removals at a time: they are in no hurry and shall not compete with segments.
pub(super) const REMOVALS_AT_A_TIME: usize = 2;
/// Attempts at a removal before the object is left where it is.
const REMOVAL_ATTEMPTS: u32 = 4;
/// Removals that wait; beyond it objects are left where they are. An hour of five renditions at 1 s segments.
const MAX_REMOVALS: usize = 18_000;

/// An object to be removed, and when.
#[derive(Debug)]
pub(super) struct Removal {
    name: ObjectName,
    attempts: u32,
    pub(super) not_before: Duration,
}

impl Removal {
    pub(super) fn new(name: ObjectName, not_before: Duration) -> Self {
        Self { name, attempts: 0, not_before }
    }
}

impl<P: Playlists> Plan<P> {
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

    pub(super) fn start_removal(&mut self, now: Duration) -> Option<Job> {
        if self.removals_in_flight() >= REMOVALS_AT_A_TIME {
            return None;
        }
        let index = self.removals.iter().position(|removal| removal.not_before <= now)?;
        let removal = self.removals.remove(index)?;
        let work = Work::Remove(removal.name.clone());
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

    pub(super) fn removals_in_flight(&self) -> usize {
        self.in_flight.values().filter(|flight| matches!(flight, Flight::Removal(_))).count()
    }
}
