//! Decides what is written when: the sans-IO core of publishing. Events, results and the time go in, writes come out.
//! There is no store, no runtime and no clock here; those are in [`super::driver`].
//!
//! Contract: after every [`DeliveryPlan::input`] or [`DeliveryPlan::done`], and at [`DeliveryPlan::wake_at`], call
//! [`DeliveryPlan::poll`] until it returns `None`, then take what the readers of the ledger learn:
//! [`DeliveryPlan::take_listed`], [`DeliveryPlan::next_settled`]. Time is a span since any fixed start and never goes
//! backwards.
//!
//! What belongs here: the state, and the decisions that all kinds of objects share. Each kind has its own file:
//! [`uploads`] (init and media segments), [`playlists`], [`removals`]. What becomes of each segment stands in the
//! [`Ledger`].

mod paced;
mod playlists;
mod removals;
mod spooling;
mod uploads;

use super::settings::{DeliveryCounters, DeliverySettings, Gap};
use super::{DeliveryEvent, Inherited, Playlists};
use bytes::Bytes;
use hls::RungName;
use hls::ledger::{Ledger, Missing, Settled};
use hls::track::Track;
use media::MediaTime;
use paced::PlaylistWriter;
use removals::Removal;
pub(crate) use spooling::SpoolId;
use spooling::{Spooling, is_spool_job};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;
use store::{Expected, Object, ObjectName, StoreError, Stored, Version};
use uploads::Upload;

/// Identifies a job between [`DeliveryPlan::poll`] and [`DeliveryPlan::done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StoreJobId(u64);

/// One attempt to make now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoreJob {
    /// To be passed to [`DeliveryPlan::done`] with the result.
    pub id: StoreJobId,
    /// The operation.
    pub work: StoreWork,
    /// After this long the attempt counts as [`StoreError::Unavailable`].
    pub timeout: Duration,
}

/// The operation of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StoreWork {
    /// [`store::Store::create`]
    Create(ObjectName, Object),
    /// [`store::Store::read`]
    Read(ObjectName),
    /// [`store::Store::replace_if`]
    Replace(ObjectName, Object, Expected),
    /// [`store::Store::remove`]
    Remove(ObjectName),
    /// Write a body to the disk.
    Spool(SpoolId, Bytes),
    /// Read a body back from the disk.
    Unspool(SpoolId),
    /// Remove a body from the disk.
    Discard(SpoolId),
}

/// What a successful attempt returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Answer to [`StoreWork::Create`], [`StoreWork::Remove`], [`StoreWork::Spool`] and [`StoreWork::Discard`].
    Done,
    /// Answer to [`StoreWork::Unspool`].
    Body(Bytes),
    /// Answer to [`StoreWork::Read`].
    Read(Option<Stored>),
    /// Answer to [`StoreWork::Replace`].
    Written(Version),
}

/// A segment that the store's playlists list as readable from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListedSegment {
    /// The rendition.
    pub rung: RungName,
    /// End time of the segment.
    pub end: MediaTime,
}

/// Decides what is written when.
#[derive(Debug)]
pub(crate) struct DeliveryPlan<P> {
    settings: DeliverySettings,
    /// `{app}/{name}`, the prefix of every object's name.
    prefix: String,
    playlists: P,
    tracks: Vec<Track>,
    /// Renditions that were taken over, until the first tracks tell which of these renditions continue.
    inherited: Vec<RungName>,
    ledger: Ledger,
    /// Segments that were listed as readable since [`DeliveryPlan::take_listed`].
    listed: Vec<ListedSegment>,
    /// Init and media segments that are not stored yet, including those that are being written: init segments in
    /// front, then media segments, oldest first.
    uploads: Vec<Upload>,
    /// Attempts in flight whose uploads were given up meanwhile.
    orphans: HashMap<StoreJobId, ObjectName>,
    /// Attempts in flight whose uploads another attempt has completed meanwhile.
    overtaken: HashSet<StoreJobId>,
    /// Bytes of segments per rendition so far, to find the largest rendition.
    rung_bytes: BTreeMap<RungName, u64>,
    /// Whether the last upload attempt that returned had succeeded.
    store_answers: bool,
    /// Shortest time-out of uploads: twice what the last upload took, more when attempts time out.
    patience: Duration,
    /// Earliest time for a late upload while the store does not answer.
    late_not_before: Duration,
    /// Attempts in flight.
    in_flight: HashMap<StoreJobId, Flight>,
    /// Rewritten objects by rung; `None` is the multivariant playlist.
    paced: BTreeMap<Option<RungName>, PlaylistWriter>,
    removals: VecDeque<Removal>,
    spooling: Spooling,
    /// Bytes of segments in `uploads` that are in memory.
    waiting_bytes: usize,
    /// Time of giving up, set when the stream has ended.
    give_up_at: Option<Duration>,
    /// Every segment is settled and the playlists have been told about the end.
    ended: bool,
    /// `give_up_at` has passed.
    gave_up: bool,
    next_id: u64,
    random: fastrand::Rng,
    counters: DeliveryCounters,
}

#[derive(Debug)]
enum Flight {
    Upload { started: Duration, timeout: Duration },
    Playlist(Option<RungName>),
    Removal(Removal),
    Leaving { id: SpoolId, bytes: u64 },
    Returning { id: SpoolId },
    Discard { bytes: u64 },
}

// === impl Plan ===

impl<P: Playlists> DeliveryPlan<P> {
    /// A plan without any events yet. `prefix` is `{app}/{name}`; an empty prefix is the root of the store.
    pub(crate) fn new(prefix: impl Into<String>, playlists: P, settings: DeliverySettings) -> Self {
        Self {
            random: fastrand::Rng::with_seed(settings.seed),
            patience: settings.attempt_timeout,
            settings,
            prefix: prefix.into(),
            playlists,
            tracks: Vec::new(),
            inherited: Vec::new(),
            ledger: Ledger::default(),
            listed: Vec::new(),
            uploads: Vec::new(),
            orphans: HashMap::new(),
            overtaken: HashSet::new(),
            rung_bytes: BTreeMap::new(),
            store_answers: true,
            late_not_before: Duration::ZERO,
            in_flight: HashMap::new(),
            paced: BTreeMap::new(),
            removals: VecDeque::new(),
            spooling: Spooling::default(),
            waiting_bytes: 0,
            give_up_at: None,
            ended: false,
            gave_up: false,
            next_id: 0,
            counters: DeliveryCounters::default(),
        }
    }

    /// Like [`DeliveryPlan::new`], with playlists that were taken over.
    pub(crate) fn resume(
        prefix: impl Into<String>,
        playlists: P,
        settings: DeliverySettings,
        inherited: Vec<Inherited>,
    ) -> Self {
        let mut plan = Self::new(prefix, playlists, settings);
        if !inherited.is_empty() {
            // Removals must wait until this playlist is rewritten: the former owner's text still names those objects.
            plan.paced.entry(None).or_default();
        }
        for Inherited { rung, text, version } in inherited {
            let interval = plan.settings.playlist_interval;
            plan.paced.insert(Some(rung.clone()), PlaylistWriter::inherited(text, version, interval));
            plan.inherited.push(rung);
        }
        plan
    }

    /// Takes an event. Never waits. Events after [`DeliveryEvent::End`] are ignored, and so is every event once another
    /// encoder has taken over.
    pub(crate) fn input(&mut self, event: DeliveryEvent, now: Duration) {
        if self.give_up_at.is_some() || self.gave_up {
            return;
        }
        match event {
            DeliveryEvent::Tracks(tracks) => {
                self.playlists.set_tracks(&tracks);
                self.tracks = tracks;
                self.remove_playlists_that_ended(now);
                self.mark_all();
            }
            DeliveryEvent::Init(init) => self.add_init(init, now),
            DeliveryEvent::Segment(segment) => self.add_segment(segment, now),
            DeliveryEvent::End => self.give_up_at = Some(now + self.settings.seal_within),
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
            .or_else(|| self.start_spooling(now))
            .or_else(|| self.start_removal(now));
        // A playlist whose text turned out to be unchanged needs no write.
        self.judge_seal();
        next
    }

    /// Takes the result of an attempt.
    pub(crate) fn done(&mut self, id: StoreJobId, result: Result<Answer, StoreError>, now: Duration) {
        let Some(flight) = self.in_flight.remove(&id) else {
            debug_assert!(false, "a result for a job that was never given out");
            return;
        };
        // `Changed` is a regular answer, not a failure; disk failures have their own counter.
        if let Err(error) = &result
            && *error != StoreError::Changed
            && !is_spool_job(&flight)
        {
            self.counters.failures += 1;
            self.counters.last_failure = Some(error.to_string());
        }
        match flight {
            Flight::Upload { started, timeout } => {
                self.learn(result.is_ok(), now.saturating_sub(started), timeout);
                self.upload_done(id, result.map(drop), now);
            }
            Flight::Playlist(rung) => self.playlist_done(rung, result, now),
            Flight::Removal(removal) => self.removal_done(removal, result.map(drop), now),
            Flight::Leaving { id, bytes } => self.left(id, bytes, result.map(drop), now),
            Flight::Returning { id } => {
                let body = result.map(|answer| match answer {
                    Answer::Body(body) => body,
                    Answer::Done | Answer::Read(_) | Answer::Written(_) => Bytes::new(),
                });
                self.returned(id, body, now);
            }
            Flight::Discard { bytes } => self.discarded(bytes),
        }
        self.settle(now);
    }

    /// When [`DeliveryPlan::poll`] may return a job again without further input.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        let uploads = self.uploads_wake_at();
        let removals = self.removals_wake_at();
        let playlists = self.paced.iter().filter(|(key, _)| self.may_write(key)).filter_map(|(_, p)| p.due());
        let deadline = self.ledger.next_deadline();
        let give_up = self.give_up_at.filter(|_| !self.gave_up);
        let spooling = self.spooling_wake_at();
        playlists.chain(uploads).chain(removals).chain(deadline).chain(give_up).chain(spooling).min()
    }

    /// Whether the stream ended and nothing is left to do; only disk jobs may still be in flight then.
    pub(crate) fn is_finished(&self) -> bool {
        let nothing_left = self.ended
            && self.removals.is_empty()
            && self.uploads.is_empty()
            && self.paced.values().all(PlaylistWriter::is_clean);
        // Files that remain on disk are removed with their folder.
        self.in_flight.values().all(is_spool_job) && (nothing_left || self.gave_up)
    }

    /// The counters so far.
    pub(crate) fn counters(&self) -> &DeliveryCounters {
        &self.counters
    }

    /// Segments that were listed as readable since the last call.
    pub(crate) fn take_listed(&mut self) -> Vec<ListedSegment> {
        std::mem::take(&mut self.listed)
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
        self.waiting_bytes
    }

    // --- consequences ---

    /// Turns segments past their deadline into gaps, whether they wait, are being written or lack their init segment.
    fn expire_deadlines(&mut self, now: Duration) {
        self.expire_uploads(now);
        for (rung, sequence, missing) in self.ledger.overdue(now) {
            let reason = match missing {
                Missing::Segment => Gap::Deadline,
                Missing::Init => Gap::NoInit,
            };
            self.late(&rung, sequence, reason);
        }
        if !self.gave_up && self.give_up_at.is_some_and(|at| at <= now) {
            self.stop();
        }
    }

    /// Starts nothing more; attempts in flight end by their own time-outs.
    fn stop(&mut self) {
        self.gave_up = true;
        while !self.uploads.is_empty() {
            self.forget(self.uploads.len() - 1, Gap::Deadline);
        }
        self.counters.not_removed += self.removals.len() as u64;
        self.removals.clear();
        self.paced.values_mut().for_each(PlaylistWriter::abandon);
    }

    /// Lists settled segments in order, and ends the playlists when every segment is settled.
    fn settle(&mut self, now: Duration) {
        let mut changed = false;
        while let Some(segment) = self.ledger.next_live() {
            if let Some(bytes) = segment.bytes {
                self.counters.segments += 1;
                self.counters.bytes += bytes;
                self.listed.push(ListedSegment { rung: segment.rung.clone(), end: segment.end() });
            }
            self.mark(Some(segment.rung.clone()));
            self.playlists.add(segment);
            changed = true;
        }
        if changed {
            self.mark(None);
            // One rendition's segment may move the window of all renditions.
            self.mark_all();
        }
        let expired = self.playlists.take_expired();
        self.expire(expired, now);
        if self.give_up_at.is_some() && !self.ended && self.ledger.is_listed() {
            self.ended = true;
            self.playlists.end();
            self.mark_all();
        }
        self.judge_seal();
    }

    fn judge_seal(&mut self) {
        self.counters.sealed =
            self.ended && !self.counters.fenced && self.paced.values().all(PlaylistWriter::is_sealed);
    }

    // --- shared by the submodules ---

    fn job(&mut self, flight: Flight, work: StoreWork, timeout: Duration) -> StoreJob {
        let id = StoreJobId(self.next_id);
        self.next_id += 1;
        self.in_flight.insert(id, flight);
        StoreJob { id, work, timeout }
    }

    fn backoff(&mut self, attempts: u32) -> Duration {
        let doubled = self.settings.first_backoff.saturating_mul(1 << attempts.saturating_sub(1).min(16));
        doubled.min(self.settings.max_backoff).mul_f64(1.0 - self.random.f64() / 2.0)
    }

    fn is_audio(&self, rung: &RungName) -> bool {
        self.tracks.iter().any(|track| track.rung == *rung && track.is_audio())
    }

    /// With an empty prefix, names start at the store's root.
    fn below_prefix(&self, path: &str) -> ObjectName {
        ObjectName::new(if self.prefix.is_empty() {
            path.to_owned()
        } else {
            format!("{}/{path}", self.prefix)
        })
    }

    fn object_name(&self, rung: &RungName, file: &str) -> ObjectName {
        self.below_prefix(&format!("{rung}/{file}"))
    }
}

#[cfg(test)]
mod tests;
