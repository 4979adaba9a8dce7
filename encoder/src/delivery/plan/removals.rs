//! Removal of objects that no playlist names any more. Removals have low priority and few attempts: an object that
//! remains costs storage and nothing else.
//!
//! Only the store's playlists count: while they cannot be rewritten, the old ones name objects that the newest text
//! does not, and removals wait for the rewrite.

use crate::delivery::DeliverySettings;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use store::{ObjectName, StoreError};

/// Concurrent removals: few, so that they do not compete with segments.
const REMOVALS_AT_A_TIME: usize = 2;
/// Attempts at a removal before the object is left in the store.
const REMOVAL_ATTEMPTS: u32 = 4;
/// Most removals that wait; beyond it objects are left in the store. An hour of five renditions at 1 s segments.
const MAX_REMOVALS: usize = 18_000;

/// An object to be removed, and when.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) name: ObjectName,
    attempts: u32,
    /// Playlists rendered from this time on do not name the object.
    unnamed_since: Duration,
    not_before: Duration,
}

/// What became of an attempt at a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RemovalOutcome {
    Removed,
    /// There will be another attempt.
    Again,
    /// The object remains in the store.
    Left,
}

/// Objects to be removed.
#[derive(Debug)]
pub(super) struct Removals {
    settings: Arc<DeliverySettings>,
    waiting: VecDeque<Removal>,
    in_flight: usize,
    /// Nothing is removed any more.
    gave_up: bool,
    random: fastrand::Rng,
}

impl Removals {
    pub(super) fn new(settings: Arc<DeliverySettings>) -> Self {
        let random = fastrand::Rng::with_seed(settings.seed);
        Self { settings, waiting: VecDeque::new(), in_flight: 0, gave_up: false, random }
    }

    /// Removes an object that playlists rendered from now on do not name.
    pub(super) fn add(&mut self, name: ObjectName, now: Duration) {
        if !self.gave_up {
            self.waiting.push_back(Removal { name, attempts: 0, unnamed_since: now, not_before: now });
        }
    }

    /// Like [`Removals::add`], for a segment that left the playlists. False if too many removals wait: the object
    /// remains in the store.
    pub(super) fn add_expired(&mut self, name: ObjectName, now: Duration) -> bool {
        let has_room = self.waiting.len() < MAX_REMOVALS;
        if has_room {
            self.add(name, now);
        }
        has_room
    }

    /// The next removal, if one is due. `current_at` is when the oldest of the stored playlists was rendered.
    pub(super) fn start(&mut self, current_at: Duration, now: Duration) -> Option<Removal> {
        if self.in_flight >= REMOVALS_AT_A_TIME {
            return None;
        }
        let due = |removal: &Removal| removal.not_before <= now && removal.unnamed_since <= current_at;
        let index = self.waiting.iter().position(due)?;
        let removal = self.waiting.remove(index)?;
        self.in_flight += 1;
        Some(removal)
    }

    pub(super) fn done(
        &mut self,
        mut removal: Removal,
        result: Result<(), StoreError>,
        now: Duration,
    ) -> RemovalOutcome {
        self.in_flight -= 1;
        removal.attempts += 1;
        match result {
            Ok(()) => RemovalOutcome::Removed,
            Err(error) if error.is_retryable() && removal.attempts < REMOVAL_ATTEMPTS && !self.gave_up => {
                removal.not_before = now + self.settings.pause(&error, removal.attempts, &mut self.random);
                self.waiting.push_back(removal);
                RemovalOutcome::Again
            }
            Err(_) => RemovalOutcome::Left,
        }
    }

    /// When [`Removals::start`] may return a removal without further input. Removals that wait for a playlist are
    /// considered again when the playlist is acknowledged.
    pub(super) fn wake_at(&self, current_at: Duration) -> Option<Duration> {
        if self.in_flight >= REMOVALS_AT_A_TIME {
            return None;
        }
        let free = self.waiting.iter().filter(|removal| removal.unnamed_since <= current_at);
        free.map(|removal| removal.not_before).min()
    }

    /// Removes nothing more; returns the number of objects that remain in the store.
    pub(super) fn give_up(&mut self) -> usize {
        self.gave_up = true;
        std::mem::take(&mut self.waiting).len()
    }

    /// Whether no removal waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
