//! Decides what is written when: the sans-IO core of publishing. Events, results and the time go in, writes come out.
//! There is no store, no runtime and no clock here; those are in [`super::driver`].
//!
//! Contract: after every [`DeliveryPlan::input`] or [`DeliveryPlan::done`], and at [`DeliveryPlan::wake_at`], call
//! [`DeliveryPlan::poll`] until it returns `None`, then take what the readers of the ledger learn:
//! [`DeliveryPlan::take_listed`], [`DeliveryPlan::next_settled`]. Time is a span since any fixed start and never goes
//! backwards.
//!
//! What belongs here: which part gets an event, and who learns what a part returns. Every decision is a part's:
//! [`uploads`] (init and media segments), [`playlists`], [`removals`], [`spooling`] (the disk), [`jobs`] (attempts in
//! flight), [`lifecycle`]. No part knows another. What becomes of each segment stands in the [`Ledger`].

mod jobs;
mod lifecycle;
mod names;
mod paced;
mod playlists;
mod removals;
mod spooling;
mod upload;
mod uploads;

use super::settings::{DeliveryCounters, DeliverySettings, Gap};
use super::{DeliveryEvent, Inherited, Playlists};
use bytes::Bytes;
use hls::ledger::{Ledger, Missing, Settled};
use hls::{RungName, Segment};
pub(crate) use jobs::{Answer, StoreJob, StoreJobId, StoreWork};
use jobs::{Flight, Jobs};
use lifecycle::PlanLifecycle;
use names::ObjectNames;
pub(crate) use playlists::ListedSegment;
use playlists::{PlaylistAttempt, PlaylistOutcome, PlaylistWriters};
use removals::{RemovalOutcome, Removals};
pub(crate) use spooling::SpoolId;
use spooling::{SpoolRoom, Spooling};
use std::sync::Arc;
use std::time::Duration;
use store::{ObjectName, StoreError};
use uploads::{UploadAttempt, UploadOutcome, Uploads};

/// Decides what is written when.
#[derive(Debug)]
pub(crate) struct DeliveryPlan<P> {
    settings: Arc<DeliverySettings>,
    ledger: Ledger,
    uploads: Uploads,
    playlists: PlaylistWriters<P>,
    removals: Removals,
    spooling: Spooling,
    jobs: Jobs,
    lifecycle: PlanLifecycle,
    counters: DeliveryCounters,
}

// === impl DeliveryPlan ===

impl<P: Playlists> DeliveryPlan<P> {
    /// A plan without any events yet. `prefix` is `{app}/{name}`; an empty prefix is the root of the store.
    #[cfg(test)]
    pub(crate) fn new(prefix: impl Into<String>, playlists: P, settings: DeliverySettings) -> Self {
        Self::resume(prefix, playlists, settings, Vec::new())
    }

    /// A plan without any events yet, with playlists that were taken over. `prefix` is `{app}/{name}`; an empty prefix
    /// is the root of the store.
    pub(crate) fn resume(
        prefix: impl Into<String>,
        playlists: P,
        settings: DeliverySettings,
        inherited: Vec<Inherited>,
    ) -> Self {
        let (names, settings) = (ObjectNames::new(prefix), Arc::new(settings));
        Self {
            ledger: Ledger::default(),
            uploads: Uploads::new(names.clone(), settings.clone()),
            playlists: PlaylistWriters::new(playlists, names, settings.clone(), inherited),
            removals: Removals::new(settings.clone()),
            spooling: Spooling::new(settings.clone()),
            jobs: Jobs::default(),
            lifecycle: PlanLifecycle::Open,
            counters: DeliveryCounters::default(),
            settings,
        }
    }

    /// Takes an event. Never waits. Events after [`DeliveryEvent::End`] are ignored, and so is every event once another
    /// encoder has taken over.
    pub(crate) fn input(&mut self, event: DeliveryEvent, now: Duration) {
        if !self.lifecycle.is_open() {
            return;
        }
        match event {
            DeliveryEvent::Tracks(tracks) => {
                self.uploads.set_tracks(&tracks);
                for ended in self.playlists.set_tracks(&tracks) {
                    self.removals.add(ended, now);
                }
            }
            DeliveryEvent::Init(init) => self.uploads.add_init(init, now),
            DeliveryEvent::Segment(segment) => self.add_segment(segment, now),
            DeliveryEvent::End => self.lifecycle.end(now + self.settings.seal_within),
        }
        self.settle(now);
    }

    /// The next attempt to make, if one is due.
    pub(crate) fn poll(&mut self, now: Duration) -> Option<StoreJob> {
        self.expire_deadlines(now);
        self.settle(now);
        let next = self
            .start_playlist(now)
            .or_else(|| self.start_upload(now))
            .or_else(|| self.start_discard())
            .or_else(|| self.start_return(now))
            .or_else(|| self.start_leaving(now))
            .or_else(|| self.start_removal(now));
        // A playlist whose text turned out to be unchanged needs no write.
        self.judge_seal();
        next
    }

    /// Takes the result of an attempt.
    pub(crate) fn done(&mut self, id: StoreJobId, result: Result<Answer, StoreError>, now: Duration) {
        let Some(flight) = self.jobs.finish(id) else {
            debug_assert!(false, "a result for a job that was never given out");
            return;
        };
        // `Changed` is a regular answer, not a failure; disk failures have their own counter.
        if let Err(error) = &result
            && *error != StoreError::Changed
            && !flight.is_on_disk()
        {
            self.counters.failures += 1;
            self.counters.last_failure = Some(error.to_string());
        }
        match flight {
            Flight::Upload(attempt) => {
                let outcomes = self.uploads.done(id, attempt, result.map(drop), now);
                self.apply(outcomes, now);
            }
            Flight::Playlist(rung) => self.playlist_done(rung, result, now),
            Flight::Removal(removal) => match self.removals.done(removal, result.map(drop), now) {
                RemovalOutcome::Removed => self.counters.removed += 1,
                RemovalOutcome::Again => {}
                RemovalOutcome::Left => self.counters.not_removed += 1,
            },
            Flight::Leaving { id, bytes } => self.left(id, bytes, result.map(drop), now),
            Flight::Returning(id) => {
                let body = result.map(|answer| match answer {
                    Answer::Body(body) => body,
                    Answer::Done | Answer::Read(_) | Answer::Written(_) => Bytes::new(),
                });
                self.returned(id, body, now);
            }
            Flight::Discard { bytes } => self.spooling.discarded(bytes),
        }
        self.settle(now);
    }

    /// When [`DeliveryPlan::poll`] may return a job again without further input.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        [
            self.playlists.wake_at(),
            self.uploads.wake_at(),
            self.removals.wake_at(self.playlists.current_at()),
            self.ledger.next_deadline(),
            self.lifecycle.give_up_at(),
            self.uploads.return_at().filter(|_| self.spooling.may_read()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether the stream ended and nothing is left to do; only disk jobs may still be in flight then.
    pub(crate) fn is_finished(&self) -> bool {
        let nothing_left = self.lifecycle.is_ended()
            && self.removals.is_empty()
            && self.uploads.is_empty()
            && self.playlists.is_clean();
        self.jobs.only_disk() && (nothing_left || self.lifecycle.has_given_up())
    }

    /// Name of the multivariant playlist.
    pub(super) fn multivariant(&self) -> ObjectName {
        self.playlists.multivariant()
    }

    /// The counters so far.
    pub(crate) fn counters(&self) -> &DeliveryCounters {
        &self.counters
    }

    /// Segments that were listed as readable since the last call.
    pub(crate) fn take_listed(&mut self) -> Vec<ListedSegment> {
        self.playlists.take_listed()
    }

    /// The next segment with its final fate, for an archive: in order within its rendition.
    pub(crate) fn next_settled(&mut self) -> Option<Settled> {
        self.ledger.next_archived()
    }

    /// Nothing is uploaded any more: [`DeliveryPlan::next_settled`] then returns all remaining segments.
    pub(crate) fn close(&mut self) {
        self.ledger.close();
    }

    /// Bytes of segments that wait in memory or are being written.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.uploads.waiting_bytes()
    }

    /// Bytes on disk.
    pub(crate) fn spooled_bytes(&self) -> u64 {
        self.spooling.bytes()
    }

    // --- attempts ---

    fn start_playlist(&mut self, now: Duration) -> Option<StoreJob> {
        let PlaylistAttempt { rung, work, timeout } = self.playlists.start(now)?;
        Some(self.jobs.start(Flight::Playlist(rung), work, timeout))
    }

    fn start_upload(&mut self, now: Duration) -> Option<StoreJob> {
        let (work, timeout) = self.uploads.start(self.jobs.next_id(), now)?;
        let attempt = UploadAttempt { started: now, timeout };
        Some(self.jobs.start(Flight::Upload(attempt), work, timeout))
    }

    fn start_removal(&mut self, now: Duration) -> Option<StoreJob> {
        let removal = self.removals.start(self.playlists.current_at(), now)?;
        let work = StoreWork::Remove(removal.name.clone());
        Some(self.jobs.start(Flight::Removal(removal), work, self.settings.attempt_timeout))
    }

    /// After giving up, files that remain on disk are removed with their folder.
    fn start_discard(&mut self) -> Option<StoreJob> {
        if self.lifecycle.has_given_up() {
            return None;
        }
        let (id, bytes) = self.spooling.start_discard()?;
        Some(self.jobs.start(Flight::Discard { bytes }, StoreWork::Discard(id), spooling::TIMEOUT))
    }

    fn start_return(&mut self, now: Duration) -> Option<StoreJob> {
        self.spooling.may_read().then_some(())?;
        let id = self.uploads.start_return(now)?;
        self.spooling.start_read();
        Some(self.jobs.start(Flight::Returning(id), StoreWork::Unspool(id), spooling::TIMEOUT))
    }

    /// The newest late segment in memory goes to the disk, where there is room.
    fn start_leaving(&mut self, now: Duration) -> Option<StoreJob> {
        let bytes = self.uploads.next_to_leave().filter(|_| self.spooling.may_write(now))?;
        match self.spooling.start_write(bytes) {
            SpoolRoom::Reserved(id) => {
                let work = StoreWork::Spool(id, self.uploads.leave(id)?);
                Some(self.jobs.start(Flight::Leaving { id, bytes }, work, spooling::TIMEOUT))
            }
            SpoolRoom::None { is_news, will_fit } => {
                self.counters.spool_full += u64::from(is_news);
                if !will_fit {
                    // The file of what was given up is removed first; then the write is considered again.
                    let outcomes = self.uploads.make_spool_room();
                    self.apply(outcomes, now);
                }
                self.start_discard()
            }
        }
    }

    // --- consequences ---

    fn add_segment(&mut self, segment: Segment, now: Duration) {
        let deadline = now + self.settings.segment_deadline;
        let (info, body) = segment.into_parts();
        let (rung, sequence) = (info.rung.clone(), info.sequence);
        let outcomes = body.map(|body| self.uploads.add_segment(&info, body, deadline, now));
        self.ledger.enter(info, deadline);
        match outcomes {
            Some(outcomes) => self.apply(outcomes, now),
            None => self.never(&rung, sequence, Gap::Packager),
        }
    }

    /// Passes on what became of uploads.
    fn apply(&mut self, outcomes: Vec<UploadOutcome>, now: Duration) {
        for outcome in outcomes {
            match outcome {
                UploadOutcome::InitStored(init) => {
                    self.playlists.add_init(&init);
                    self.ledger.init_readable(&init);
                }
                UploadOutcome::SegmentStored { rung, sequence, late, name } => {
                    let on_time = self.ledger.readable(&rung, sequence);
                    debug_assert!(late || on_time, "on time and not awaited");
                    if !on_time {
                        self.counters.late += u64::from(self.settings.archive);
                        self.remove_unnamed(name, now);
                    }
                }
                UploadOutcome::Late { rung, sequence, reason } => self.late(&rung, sequence, reason),
                UploadOutcome::GivenUp { rung, sequence, reason } => {
                    self.never(&rung, sequence, reason);
                    self.counters.lost += 1;
                }
                UploadOutcome::PerhapsStored(name) => self.remove_unnamed(name, now),
                UploadOutcome::FileUnneeded { place, bytes } => self.spooling.release(place, bytes),
            }
        }
    }

    /// Removes an object that no playlist will ever name, unless an archive needs it.
    fn remove_unnamed(&mut self, name: ObjectName, now: Duration) {
        if !self.settings.archive {
            self.removals.add(name, now);
        }
    }

    /// The segment is a gap for viewers, and may still be stored.
    fn late(&mut self, rung: &RungName, sequence: u64, reason: Gap) {
        if self.ledger.late(rung, sequence) {
            *self.counters.gaps.entry(reason).or_default() += 1;
        }
    }

    /// The segment is never stored.
    fn never(&mut self, rung: &RungName, sequence: u64, reason: Gap) {
        if self.ledger.never(rung, sequence) {
            *self.counters.gaps.entry(reason).or_default() += 1;
        }
    }

    fn playlist_done(&mut self, rung: Option<RungName>, result: Result<Answer, StoreError>, now: Duration) {
        match self.playlists.done(rung, result, now) {
            PlaylistOutcome::Written => self.counters.playlists += 1,
            PlaylistOutcome::Again => {}
            // Another encoder has taken the stream over in the store: this encoder writes no more of its objects.
            PlaylistOutcome::Foreign => {
                self.counters.fenced = true;
                self.give_up(now);
            }
        }
    }

    /// A body was written to the disk, or not.
    fn left(&mut self, id: SpoolId, bytes: u64, result: Result<(), StoreError>, now: Duration) {
        let is_written = result.is_ok();
        if let Err(error) = result {
            self.spool_failed(&error);
        }
        if !self.spooling.written(id, bytes, is_written, now) {
            return;
        }
        if self.uploads.left(id, is_written) {
            self.counters.spooled += 1;
        } else if is_written {
            self.spooling.remove(id, bytes);
        }
    }

    /// A body was read back from the disk, or not.
    fn returned(&mut self, id: SpoolId, body: Result<Bytes, StoreError>, now: Duration) {
        self.spooling.read();
        let (error, outcomes) = self.uploads.returned(id, body, now);
        if let Some(error) = error {
            self.spooling.rest(now);
            self.spool_failed(&error);
        }
        self.apply(outcomes, now);
    }

    fn spool_failed(&mut self, error: &StoreError) {
        self.counters.spool_failures += 1;
        self.counters.last_spool_failure = Some(error.to_string());
    }

    /// Turns segments past their deadline into gaps, whether they wait, are being written or lack their init segment.
    fn expire_deadlines(&mut self, now: Duration) {
        let outcomes = self.uploads.expire(now);
        self.apply(outcomes, now);
        for (rung, sequence, missing) in self.ledger.overdue(now) {
            let reason = match missing {
                Missing::Segment => Gap::Deadline,
                Missing::Init => Gap::NoInit,
            };
            self.late(&rung, sequence, reason);
        }
        if self.lifecycle.give_up_at().is_some_and(|at| at <= now) {
            self.give_up(now);
        }
    }

    /// Starts nothing more; attempts in flight end by their own time-outs.
    fn give_up(&mut self, now: Duration) {
        self.lifecycle.give_up();
        let outcomes = self.uploads.forget_all();
        self.apply(outcomes, now);
        self.counters.not_removed += self.removals.give_up() as u64;
        self.playlists.give_up();
    }

    /// Lists settled segments in order, and ends the playlists when every segment is settled.
    fn settle(&mut self, now: Duration) {
        while let Some(segment) = self.ledger.next_live() {
            if let Some(bytes) = segment.bytes {
                self.counters.segments += 1;
                self.counters.bytes += bytes;
            }
            self.playlists.list(segment);
        }
        self.remove_expired(now);
        if self.ledger.is_listed() && self.lifecycle.all_listed() {
            self.playlists.end();
        }
        self.judge_seal();
    }

    /// Removes segments that left the playlists, unless an archive needs them.
    fn remove_expired(&mut self, now: Duration) {
        let expired = self.playlists.take_expired();
        for name in expired.into_iter().filter(|_| !self.settings.archive) {
            self.counters.not_removed += u64::from(!self.removals.add_expired(name, now));
        }
    }

    fn judge_seal(&mut self) {
        self.counters.sealed =
            self.lifecycle.is_ended() && !self.counters.fenced && self.playlists.is_sealed();
    }
}

#[cfg(test)]
mod tests;
