//! What is written when: the sans-IO core of publishing. Events, results and the time go in, writes come out. No
//! store, no runtime, no clock here; those are in [`super::driver`].
//!
//! Contract: after every [`Plan::input`] or [`Plan::done`], and at [`Plan::wake_at`], call [`Plan::poll`] until it
//! returns `None`. Time is a span since any fixed start and never goes backwards.

mod lanes;
mod paced;

use super::settings::{Counters, Gap, Settings};
use super::{Event, Playlists};
use crate::store::{Caching, Object, ObjectName, StoreError, content_type};
use bytes::Bytes;
use hls::RungName;
use hls::packager::{InitSegment, Segment};
use hls::track::{Track, TrackKind};
use lanes::{Lanes, Outcome};
use paced::Paced;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// Names a write between [`Plan::poll`] and [`Plan::done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

/// One attempt to be made now.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// To be given back with the result.
    pub id: JobId,
    /// What to do.
    pub work: Work,
    /// After this long it counts as [`StoreError::Unavailable`].
    pub timeout: Duration,
}

/// What an attempt does.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// [`crate::store::Store::create`]
    Create(ObjectName, Object),
    /// [`crate::store::Store::replace`]
    Replace(ObjectName, Object),
    /// [`crate::store::Store::remove`]
    Remove(ObjectName),
}

/// Removals at a time: they are in no hurry and shall not compete with segments.
const REMOVALS_AT_A_TIME: usize = 2;
/// Attempts at a removal before the object is left where it is.
const REMOVAL_ATTEMPTS: u32 = 4;
/// Removals that wait; beyond it objects are left where they are. An hour of five renditions at 1 s segments.
const MAX_REMOVALS: usize = 18_000;
/// Init segments that wait; beyond it the oldest is given up with its segments. Dozens of epochs while a store is away.
const MAX_WAITING_INITS: usize = 64;

/// Decides what is written when.
#[derive(Debug)]
pub struct Plan<P> {
    settings: Settings,
    /// `{app}/{name}`, in front of every object's name.
    prefix: String,
    playlists: P,
    tracks: Vec<Track>,
    lanes: Lanes,
    /// Init and media segments to write, oldest first.
    uploads: VecDeque<Upload>,
    /// Segments and inits that are being written.
    in_flight: HashMap<JobId, Flight>,
    /// Rewritten objects by rung; `None` is the multivariant playlist.
    paced: BTreeMap<Option<RungName>, Paced>,
    removals: VecDeque<Removal>,
    /// Bytes of segments in `uploads` and `in_flight`.
    waiting_bytes: usize,
    /// When nothing more is tried, once the stream ended.
    give_up_at: Option<Duration>,
    /// Everything is settled and the playlists know of the end.
    ended: bool,
    /// `give_up_at` has passed.
    gave_up: bool,
    next_id: u64,
    random: fastrand::Rng,
    counters: Counters,
}

/// A segment or init that waits for its next attempt.
#[derive(Debug)]
struct Upload {
    what: What,
    name: ObjectName,
    object: Object,
    attempts: u32,
    not_before: Duration,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Init(InitSegment),
    Segment { rung: RungName, sequence: u64, deadline: Duration },
}

#[derive(Debug)]
struct Removal {
    name: ObjectName,
    attempts: u32,
    not_before: Duration,
}

#[derive(Debug)]
enum Flight {
    Upload(Upload),
    Playlist(Option<RungName>),
    Removal(Removal),
}

// === impl Plan ===

impl<P: Playlists> Plan<P> {
    /// Nothing is published yet. `prefix` is `{app}/{name}`; empty is the root of the store.
    pub fn new(prefix: impl Into<String>, playlists: P, settings: Settings) -> Self {
        Self {
            random: fastrand::Rng::with_seed(settings.seed),
            settings,
            prefix: prefix.into(),
            playlists,
            tracks: Vec::new(),
            lanes: Lanes::default(),
            uploads: VecDeque::new(),
            in_flight: HashMap::new(),
            paced: BTreeMap::new(),
            removals: VecDeque::new(),
            waiting_bytes: 0,
            give_up_at: None,
            ended: false,
            gave_up: false,
            next_id: 0,
            counters: Counters::default(),
        }
    }

    /// Something is to be published. Never waits; events after [`Event::End`] are ignored.
    pub fn input(&mut self, event: Event, now: Duration) {
        if self.give_up_at.is_some() {
            return;
        }
        match event {
            Event::Tracks(tracks) => {
                self.playlists.set_tracks(&tracks);
                self.tracks = tracks;
                self.mark_all();
            }
            Event::Init(init) => self.add_init(init, now),
            Event::Segment(segment) => self.add_segment(segment, now),
            Event::Expired(files) => self.expire(files, now),
            Event::End => self.give_up_at = Some(now + self.settings.seal_within),
        }
        self.settle(now);
    }

    /// The next attempt to make, if one is due.
    pub fn poll(&mut self, now: Duration) -> Option<Job> {
        self.expire_deadlines(now);
        self.settle(now);
        self.start_playlist(now).or_else(|| self.start_upload(now)).or_else(|| self.start_removal(now))
    }

    /// How an attempt went.
    pub fn done(&mut self, id: JobId, result: Result<(), StoreError>, now: Duration) {
        let Some(flight) = self.in_flight.remove(&id) else {
            debug_assert!(false, "a result for a job that was never given out");
            return;
        };
        if let Err(error) = &result {
            self.counters.failures += 1;
            self.counters.last_failure = Some(error.to_string());
        }
        match flight {
            Flight::Upload(upload) => self.upload_done(upload, result, now),
            Flight::Playlist(rung) => self.playlist_done(rung, result, now),
            Flight::Removal(removal) => self.removal_done(removal, result, now),
        }
        self.settle(now);
    }

    /// When [`Plan::poll`] may have something again although nothing happened.
    pub fn wake_at(&self) -> Option<Duration> {
        let uploads = (self.uploads_in_flight() < self.settings.concurrency)
            .then(|| self.uploads.iter().map(|upload| upload.not_before).min())
            .flatten();
        let removals = (self.removals_in_flight() < REMOVALS_AT_A_TIME)
            .then(|| self.removals.iter().map(|removal| removal.not_before).min())
            .flatten();
        let playlists = self.paced.iter().filter(|(key, _)| self.may_write(key)).filter_map(|(_, p)| p.due());
        let deadline = self.lanes.next_deadline();
        let give_up = self.give_up_at.filter(|_| !self.gave_up);
        playlists.chain(uploads).chain(removals).chain(deadline).chain(give_up).min()
    }

    /// Whether the stream ended and nothing is left to do; nothing may be in flight then.
    pub fn is_finished(&self) -> bool {
        let nothing_left = self.ended
            && self.removals.is_empty()
            && self.uploads.is_empty()
            && self.paced.values().all(Paced::is_clean);
        self.in_flight.is_empty() && (nothing_left || self.gave_up)
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes of segments that wait or are being written.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    // --- inputs ---

    fn add_init(&mut self, init: InitSegment, now: Duration) {
        let waiting = self.uploads.iter().filter(|upload| matches!(upload.what, What::Init(_))).count();
        if waiting >= MAX_WAITING_INITS
            && let Some(oldest) = self.uploads.iter().position(|upload| matches!(upload.what, What::Init(_)))
        {
            self.uploads.remove(oldest);
        }
        let name = self.object_name(&init.rung, &init.name);
        let object = Object {
            body: init.body.clone(),
            content_type: if self.is_audio(&init.rung) {
                content_type::AUDIO
            } else {
                content_type::VIDEO_INIT
            },
            caching: Caching::Immutable,
        };
        // In front of the segments that wait: they are worth nothing without it.
        let upload = Upload { what: What::Init(init), name, object, attempts: 0, not_before: now };
        self.uploads.push_front(upload);
    }

    fn add_segment(&mut self, mut segment: Segment, now: Duration) {
        let deadline = now + self.settings.segment_deadline;
        let (rung, sequence) = (segment.rung.clone(), segment.sequence);
        let body = segment.body.take();
        let name = self.object_name(&rung, &segment.name);
        self.lanes.push(segment, deadline);
        let Some(body) = body else {
            self.give_up(&rung, sequence, Gap::Packager);
            return;
        };
        self.make_room(body.len());
        if self.waiting_bytes + body.len() > self.settings.max_waiting_bytes {
            // All that waits is being written right now and cannot be taken back.
            self.give_up(&rung, sequence, Gap::Overflow);
            return;
        }
        self.waiting_bytes += body.len();
        let kind = if self.is_audio(&rung) { content_type::AUDIO } else { content_type::VIDEO_SEGMENT };
        self.uploads.push_back(Upload {
            what: What::Segment { rung, sequence, deadline },
            name,
            object: Object { body, content_type: kind, caching: Caching::Immutable },
            attempts: 0,
            not_before: now,
        });
    }

    fn make_room(&mut self, bytes: usize) {
        while self.waiting_bytes + bytes > self.settings.max_waiting_bytes {
            let oldest = self.uploads.iter().position(|upload| matches!(upload.what, What::Segment { .. }));
            let Some(upload) = oldest.and_then(|index| self.uploads.remove(index)) else { return };
            self.drop_segment(upload, Gap::Overflow);
        }
    }

    fn expire(&mut self, files: Vec<(RungName, String)>, now: Duration) {
        if !self.settings.remove_expired {
            return;
        }
        for (rung, file) in files {
            if self.removals.len() >= MAX_REMOVALS {
                self.counters.not_removed += 1;
                continue;
            }
            let name = self.object_name(&rung, &file);
            self.removals.push_back(Removal { name, attempts: 0, not_before: now });
        }
    }

    // --- starting ---

    fn start_playlist(&mut self, now: Duration) -> Option<Job> {
        let key = self
            .paced
            .iter()
            .find(|(key, paced)| paced.due().is_some_and(|due| due <= now) && self.may_write(key))
            .map(|(key, _)| key.clone())?;
        let text = match &key {
            Some(rung) => self.playlists.media_playlist(rung),
            None => self.playlists.multivariant(),
        };
        let paced = self.paced.get_mut(&key)?;
        let Some(text) = text.filter(|text| paced.is_news(text)) else {
            paced.nothing_new();
            return self.start_playlist(now);
        };
        paced.start(text.clone(), now);
        let name = match &key {
            Some(rung) => self.object_name(rung, "index.m3u8"),
            None => self.below_prefix("index.m3u8"),
        };
        let body = Bytes::from(text);
        let object = Object { body, content_type: content_type::PLAYLIST, caching: Caching::None };
        Some(self.job(Flight::Playlist(key), Work::Replace(name, object), self.settings.attempt_timeout))
    }

    /// The multivariant playlist waits for those that it may name: all that have something to list.
    fn may_write(&self, key: &Option<RungName>) -> bool {
        let is_there = |rung: &RungName| {
            let acknowledged = self.paced.get(&Some(rung.clone())).is_some_and(Paced::is_acknowledged);
            acknowledged || self.playlists.media_playlist(rung).is_none()
        };
        let current = self.tracks.iter().map(|track| &track.rung);
        key.is_some() || current.chain(self.paced.keys().flatten()).all(is_there)
    }

    fn start_upload(&mut self, now: Duration) -> Option<Job> {
        if self.uploads_in_flight() >= self.settings.concurrency {
            return None;
        }
        let index = self.uploads.iter().position(|upload| upload.not_before <= now)?;
        let upload = self.uploads.remove(index)?;
        let timeout = match &upload.what {
            What::Init(_) => self.settings.attempt_timeout,
            What::Segment { deadline, .. } => {
                self.settings.attempt_timeout.min(deadline.saturating_sub(now)).max(Duration::from_millis(1))
            }
        };
        let work = Work::Create(upload.name.clone(), upload.object.clone());
        Some(self.job(Flight::Upload(upload), work, timeout))
    }

    fn start_removal(&mut self, now: Duration) -> Option<Job> {
        if self.removals_in_flight() >= REMOVALS_AT_A_TIME {
            return None;
        }
        let index = self.removals.iter().position(|removal| removal.not_before <= now)?;
        let removal = self.removals.remove(index)?;
        let work = Work::Remove(removal.name.clone());
        Some(self.job(Flight::Removal(removal), work, self.settings.attempt_timeout))
    }

    fn job(&mut self, flight: Flight, work: Work, timeout: Duration) -> Job {
        let id = JobId(self.next_id);
        self.next_id += 1;
        self.in_flight.insert(id, flight);
        Job { id, work, timeout }
    }

    // --- results ---

    fn upload_done(&mut self, mut upload: Upload, result: Result<(), StoreError>, now: Duration) {
        let first = upload.attempts == 0;
        upload.attempts += 1;
        let result = match result {
            // An earlier attempt's answer was lost: the name is ours alone, so the object is.
            Err(StoreError::Exists) if !first => Ok(()),
            result => result,
        };
        let deadline = match &upload.what {
            What::Init(_) => None,
            What::Segment { deadline, .. } => Some(*deadline),
        };
        match result {
            Ok(()) => self.stored(upload),
            Err(error) if deadline.is_none() => {
                // Everything behind it needs it, and what is refused now (a full disk) may be taken later.
                let pause = self.backoff(upload.attempts);
                let pause = if error.is_retryable() { pause } else { self.settings.max_backoff };
                self.retry(upload, now + pause);
            }
            Err(error) if !error.is_retryable() => self.drop_segment(upload, Gap::Refused),
            Err(_) => {
                let again = now + self.backoff(upload.attempts);
                if deadline.is_some_and(|deadline| again >= deadline) {
                    self.drop_segment(upload, Gap::Deadline);
                } else {
                    self.retry(upload, again);
                }
            }
        }
    }

    fn retry(&mut self, mut upload: Upload, at: Duration) {
        if self.gave_up {
            return;
        }
        upload.not_before = at;
        // Older ones first: it was started before those that still wait.
        self.uploads.push_front(upload);
    }

    fn stored(&mut self, upload: Upload) {
        match upload.what {
            What::Init(init) => {
                self.playlists.add_init(&init);
                self.mark_all();
                self.lanes.init_stored(&init);
            }
            What::Segment { rung, sequence, .. } => {
                let bytes = upload.object.body.len();
                self.waiting_bytes -= bytes;
                // Too late for one that its deadline made a gap: the object stays, unnamed.
                self.lanes.set(&rung, sequence, Outcome::Stored(bytes as u64));
            }
        }
    }

    fn drop_segment(&mut self, upload: Upload, reason: Gap) {
        if let What::Segment { rung, sequence, .. } = upload.what {
            self.waiting_bytes -= upload.object.body.len();
            self.give_up(&rung, sequence, reason);
        }
    }

    fn give_up(&mut self, rung: &RungName, sequence: u64, reason: Gap) {
        if self.lanes.set(rung, sequence, Outcome::Gap) {
            *self.counters.gaps.entry(reason).or_default() += 1;
        }
    }

    fn playlist_done(&mut self, key: Option<RungName>, result: Result<(), StoreError>, now: Duration) {
        let backoff = self.settings.max_backoff.min(self.backoff(1));
        let interval = self.settings.playlist_interval;
        let Some(paced) = self.paced.get_mut(&key) else { return };
        match result {
            Ok(()) => {
                self.counters.playlists += 1;
                let first = paced.acknowledged(interval);
                if first {
                    self.mark(None);
                }
            }
            // Refused ones are tried again too: the disk may have room by then, and the last one must be written.
            Err(error) => {
                let pause = if error.is_retryable() { backoff } else { self.settings.max_backoff };
                paced.failed(now + pause, interval);
            }
        }
    }

    fn removal_done(&mut self, mut removal: Removal, result: Result<(), StoreError>, now: Duration) {
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

    // --- consequences ---

    /// Segments whose time is over become gaps, whether they wait, are being written or lack their init segment.
    fn expire_deadlines(&mut self, now: Duration) {
        while let Some(index) = self
            .uploads
            .iter()
            .position(|upload| matches!(upload.what, What::Segment { deadline, .. } if deadline <= now))
        {
            if let Some(upload) = self.uploads.remove(index) {
                self.drop_segment(upload, Gap::Deadline);
            }
        }
        for (late, reason) in self.lanes.late(now) {
            let (rung, sequence) = late;
            self.give_up(&rung, sequence, reason);
        }
        if !self.gave_up && self.give_up_at.is_some_and(|at| at <= now) {
            self.gave_up = true;
            // What is in flight ends by its own time-out; nothing else is started.
            self.uploads.clear();
            self.counters.not_removed += self.removals.len() as u64;
            self.removals.clear();
            self.paced.values_mut().for_each(Paced::abandon);
        }
    }

    /// Lists what is settled, in order, and ends when all is.
    fn settle(&mut self, now: Duration) {
        let mut changed = false;
        while let Some((segment, bytes)) = self.lanes.pop() {
            self.playlists.add(&segment, bytes);
            if let Some(bytes) = bytes {
                self.counters.segments += 1;
                self.counters.bytes += bytes;
            }
            self.mark(Some(segment.rung));
            changed = true;
        }
        if changed {
            self.mark(None);
            // One rendition's segment may move the window of all.
            self.mark_all();
        }
        let expired = self.playlists.take_expired();
        self.expire(expired, now);
        if self.give_up_at.is_some() && !self.ended && self.lanes.is_empty() {
            self.ended = true;
            self.playlists.end();
            self.mark_all();
        }
        self.counters.sealed = self.ended && self.paced.values().all(Paced::is_sealed);
    }

    fn mark(&mut self, key: Option<RungName>) {
        self.paced.entry(key).or_default().mark();
    }

    /// What says nothing new when its time comes is not written.
    fn mark_all(&mut self) {
        self.paced.values_mut().for_each(Paced::mark);
    }

    fn backoff(&mut self, attempts: u32) -> Duration {
        let doubled = self.settings.first_backoff.saturating_mul(1 << attempts.saturating_sub(1).min(16));
        doubled.min(self.settings.max_backoff).mul_f64(1.0 - self.random.f64() / 2.0)
    }

    fn uploads_in_flight(&self) -> usize {
        self.in_flight.values().filter(|flight| matches!(flight, Flight::Upload(_))).count()
    }

    fn removals_in_flight(&self) -> usize {
        self.in_flight.values().filter(|flight| matches!(flight, Flight::Removal(_))).count()
    }

    fn is_audio(&self, rung: &RungName) -> bool {
        self.tracks.iter().any(|track| track.rung == *rung && matches!(track.kind, TrackKind::Audio(_)))
    }

    /// An empty prefix is the store's root.
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
