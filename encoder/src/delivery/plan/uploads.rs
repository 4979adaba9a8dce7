//! Uploads of init and media segments: order, memory, attempts, and what becomes of an upload when time or room runs
//! out. The order in which stored segments are listed is in [`hls::ledger`].
//!
//! A segment is **on time** until its deadline, then **late**: a gap in the playlists, whose upload continues where an
//! archive needs it. Uploads that are on time go first, and half of all attempts are reserved for their first
//! attempts. An attempt at a segment that is on time may last until the deadline, and longer when the store has been
//! observed to be slow. A slow attempt is hedged by a second one, and the first answer counts. Both write the same
//! bytes under a name that no other object uses.

use super::jobs::{StoreJobId, StoreWork};
use super::names::ObjectNames;
use super::spooling::{BodyPlace, SpoolId};
use super::upload::{Upload, What};
use crate::delivery::{DeliverySettings, Gap};
use bytes::Bytes;
use hls::packager::InitSegment;
use hls::track::Track;
use hls::{RungName, SegmentInfo};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use store::{Caching, Object, ObjectName, StoreError, content_type};

/// Most init segments that wait; beyond it the oldest one is given up, and segments that need it become gaps. Enough
/// for dozens of epochs while a store is away.
const MAX_WAITING_INITS: usize = 64;
/// An attempt at a segment that is on time may last this many deadlines: a slow store still receives every segment,
/// and a store that hung is used again soon after it has recovered.
const DEADLINES_OF_PATIENCE: u32 = 3;
/// Most concurrent attempts at one upload (hedging).
const MAX_PARALLEL_ATTEMPTS: usize = 2;

/// What others must know of an upload.
#[derive(Debug)]
pub(super) enum UploadOutcome {
    /// An init segment is readable.
    InitStored(InitSegment),
    /// A media segment is readable.
    SegmentStored {
        rung: RungName,
        sequence: u64,
        /// Whether the segment was a gap already.
        late: bool,
        name: ObjectName,
    },
    /// The segment is a gap for viewers, and may still be stored.
    Late { rung: RungName, sequence: u64, reason: Gap },
    /// The segment is given up for good.
    GivenUp { rung: RungName, sequence: u64, reason: Gap },
    /// The last attempt at an upload that was given up has returned: the object may be in the store.
    PerhapsStored(ObjectName),
    /// The file of an upload on its way to the disk, on the disk or on its way back is no longer needed.
    FileUnneeded { place: BodyPlace, bytes: u64 },
}

/// An attempt that has started.
#[derive(Clone, Copy, Debug)]
pub(super) struct UploadAttempt {
    pub(super) started: Duration,
    pub(super) timeout: Duration,
}

/// Attempts in flight that no upload waits for.
#[derive(Debug, Default)]
struct DetachedAttempts {
    /// The uploads were given up meanwhile.
    orphans: HashMap<StoreJobId, ObjectName>,
    /// Another attempt has completed the upload meanwhile.
    overtaken: HashSet<StoreJobId>,
}

/// What the last attempts tell about the store.
#[derive(Debug)]
struct StoreHealth {
    /// Whether the last attempt that returned had succeeded.
    answers: bool,
    /// Shortest time-out: twice what the last upload took, more when attempts time out.
    patience: Duration,
    /// Earliest time for a late upload while the store does not answer.
    late_not_before: Duration,
}

/// Init and media segments that are not stored yet, and the memory that they take.
#[derive(Debug)]
pub(super) struct Uploads {
    settings: Arc<DeliverySettings>,
    names: ObjectNames,
    /// Audio renditions of the current epoch.
    audio: Vec<RungName>,
    /// Uploads that wait or are being written: init segments in front, then media segments, oldest first.
    uploads: Vec<Upload>,
    detached: DetachedAttempts,
    /// Bytes of segments per rendition so far, to find the largest rendition.
    rung_bytes: BTreeMap<RungName, u64>,
    health: StoreHealth,
    /// Bytes of segments in `uploads` that are in memory.
    waiting_bytes: usize,
    random: fastrand::Rng,
}

// === impl DetachedAttempts ===

impl DetachedAttempts {
    fn len(&self) -> usize {
        self.orphans.len() + self.overtaken.len()
    }
}

// === impl StoreHealth ===

impl StoreHealth {
    /// Adapts to how an attempt went.
    fn learn(
        &mut self,
        attempt: UploadAttempt,
        result: &Result<(), StoreError>,
        settings: &DeliverySettings,
        now: Duration,
    ) {
        let &DeliverySettings { attempt_timeout, longest_attempt, max_backoff, .. } = settings;
        let took = now.saturating_sub(attempt.started);
        if result.is_ok() {
            self.patience = (took * 2).max(attempt_timeout).min(longest_attempt);
        } else if took >= attempt.timeout {
            self.patience = (self.patience * 2).min(longest_attempt);
        }
        self.answers = matches!(result, Ok(()) | Err(StoreError::Exists));
        if !self.answers {
            self.late_not_before = now + max_backoff;
        }
    }
}

// === impl Uploads ===

impl Uploads {
    pub(super) fn new(names: ObjectNames, settings: Arc<DeliverySettings>) -> Self {
        Self {
            names,
            audio: Vec::new(),
            uploads: Vec::new(),
            detached: DetachedAttempts::default(),
            rung_bytes: BTreeMap::new(),
            health: StoreHealth {
                answers: true,
                patience: settings.attempt_timeout,
                late_not_before: Duration::ZERO,
            },
            waiting_bytes: 0,
            random: fastrand::Rng::with_seed(settings.seed),
            settings,
        }
    }

    /// Sets the renditions of a new epoch.
    pub(super) fn set_tracks(&mut self, tracks: &[Track]) {
        self.audio = tracks.iter().filter(|track| track.is_audio()).map(|track| track.rung.clone()).collect();
    }

    pub(super) fn add_init(&mut self, init: InitSegment, now: Duration) {
        let is_idle_init = |upload: &Upload| matches!(upload.what, What::Init(_)) && upload.is_idle();
        if self.uploads.iter().filter(|upload| is_idle_init(upload)).count() >= MAX_WAITING_INITS
            // Newer init segments are in front of older ones.
            && let Some(oldest) = self.uploads.iter().rposition(is_idle_init)
        {
            self.uploads.remove(oldest);
        }
        let name = self.names.media(&init.rung, &init.name);
        let kind =
            if self.audio.contains(&init.rung) { content_type::AUDIO } else { content_type::VIDEO_INIT };
        let object = Object { body: init.body.clone(), content_type: kind, caching: Caching::Immutable };
        // In front of the waiting segments: they are useless without their init segment.
        self.uploads.insert(0, Upload::new(What::Init(init), name, object, now));
    }

    /// Adds a media segment, whose body is passed separately.
    pub(super) fn add_segment(
        &mut self,
        segment: &SegmentInfo,
        body: Bytes,
        deadline: Duration,
        now: Duration,
    ) -> Vec<UploadOutcome> {
        let (rung, sequence) = (segment.rung.clone(), segment.sequence);
        let name = self.names.media(&rung, &segment.name);
        *self.rung_bytes.entry(rung.clone()).or_default() += body.len() as u64;
        let mut outcomes = self.make_room(body.len());
        if self.waiting_bytes + body.len() > self.settings.max_waiting_bytes {
            // Every waiting segment is being written right now and cannot be given up.
            outcomes.push(UploadOutcome::GivenUp { rung, sequence, reason: Gap::Overflow });
            return outcomes;
        }
        self.waiting_bytes += body.len();
        let kind = if self.audio.contains(&rung) { content_type::AUDIO } else { content_type::VIDEO_SEGMENT };
        let object = Object { body, content_type: kind, caching: Caching::Immutable };
        let what = What::Segment { rung, sequence, deadline, late: false };
        self.uploads.push(Upload::new(what, name, object, now));
        outcomes
    }

    /// Bytes of segments that wait in memory or are being written.
    pub(super) const fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether everything is stored or given up.
    pub(super) fn is_empty(&self) -> bool {
        self.uploads.is_empty()
    }

    /// Bytes of a rendition so far, to find the largest rendition.
    fn rung_size(&self, rung: &RungName) -> u64 {
        self.rung_bytes.get(rung).copied().unwrap_or(0)
    }

    /// Gives up segments that wait in memory until there is room: late ones first, of the largest rendition first,
    /// oldest first. So the other renditions stay complete in the archive, and viewers keep segments that are on time.
    fn make_room(&mut self, bytes: usize) -> Vec<UploadOutcome> {
        let mut outcomes = Vec::new();
        while self.waiting_bytes + bytes > self.settings.max_waiting_bytes {
            let waiting = self.uploads.iter().enumerate().filter_map(|(index, upload)| match &upload.what {
                What::Segment { rung, late, .. } if upload.is_ready() => {
                    let size = self.rung_size(rung);
                    Some(((!*late, Reverse(size), index), index))
                }
                What::Segment { .. } | What::Init(_) => None,
            });
            let Some((_, victim)) = waiting.min() else { break };
            outcomes.extend(self.forget(victim, Gap::Overflow));
        }
        outcomes
    }

    // --- attempts ---

    /// Starts the next attempt, if one is due; `id` is its job's ID. Returns the operation and its time-out.
    pub(super) fn start(&mut self, id: StoreJobId, now: Duration) -> Option<(StoreWork, Duration)> {
        let index = self.next_upload(now)?;
        let timeout = self.timeout(&self.uploads[index], now);
        let upload = &mut self.uploads[index];
        upload.flying.push(id);
        upload.started = now;
        Some((StoreWork::Create(upload.name.clone(), upload.object.clone()), timeout))
    }

    fn timeout(&self, upload: &Upload, now: Duration) -> Duration {
        let DeliverySettings { segment_deadline, longest_attempt, .. } = *self.settings;
        let patience = self.health.patience;
        match upload.what {
            What::Segment { deadline, late: false, .. } => deadline
                .saturating_sub(now)
                .max(patience.min(segment_deadline * DEADLINES_OF_PATIENCE))
                .min(longest_attempt),
            // Segments that are on time wait for their init segment.
            What::Init(_) => self.settings.timeout(upload.attempts).max(segment_deadline),
            What::Segment { .. } => self.settings.timeout(upload.attempts).max(patience),
        }
    }

    /// The upload to attempt next: on time before late, first attempts before hedged ones, init segments before
    /// segments, older segments before newer ones. Of several init segments the newest goes first: it is the one that
    /// segments on time wait for.
    fn next_upload(&self, now: Duration) -> Option<usize> {
        if self.attempts() >= self.settings.concurrency {
            return None;
        }
        let due = |upload: &Upload| upload.is_ready() && upload.not_before <= now;
        let position = |wanted: &dyn Fn(&Upload) -> bool| self.uploads.iter().position(wanted);
        let on_time = position(&|upload| due(upload) && !upload.is_late());
        let beside = || {
            self.may_start_beside().then_some(())?;
            position(&|upload| self.beside_at(upload).is_some_and(|at| at <= now))
        };
        let late = || {
            self.late_at().filter(|at| *at <= now)?;
            position(&|upload| due(upload) && upload.is_late())
        };
        on_time.or_else(beside).or_else(late)
    }

    /// When a slow attempt may be hedged.
    fn beside_at(&self, upload: &Upload) -> Option<Duration> {
        let slow = !upload.is_late() && (1..MAX_PARALLEL_ATTEMPTS).contains(&upload.flying.len());
        slow.then_some(upload.started + self.settings.second_attempt_after)
    }

    /// Bounds hedged attempts: when the whole store is slow, they must not delay first attempts.
    fn may_start_beside(&self) -> bool {
        let second = |upload: &Upload| upload.flying.len().saturating_sub(1);
        let second: usize = self.uploads.iter().map(second).sum();
        second + self.detached.overtaken.len() < self.settings.concurrency / 4
    }

    /// When the next late upload may start. While the store fails, one late upload at a time, spaced by `max_backoff`,
    /// probes whether the store has recovered.
    fn late_at(&self) -> Option<Duration> {
        let (limit, at) = if self.health.answers {
            ((self.settings.concurrency / 4).max(1), Duration::ZERO)
        } else {
            (1, self.health.late_not_before)
        };
        let flying = self.uploads.iter().filter(|upload| upload.is_late() && !upload.is_idle()).count();
        (flying < limit).then_some(at)
    }

    /// When [`Uploads::start`] may start an attempt without further input.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        if self.attempts() >= self.settings.concurrency {
            return None;
        }
        let late_at = self.late_at();
        let idle = self.uploads.iter().filter(|upload| upload.is_ready()).filter_map(|upload| {
            if upload.is_late() {
                late_at.map(|at| at.max(upload.not_before))
            } else {
                Some(upload.not_before)
            }
        });
        let beside = self.uploads.iter().filter(|_| self.may_start_beside());
        let beside = beside.filter_map(|upload| self.beside_at(upload));
        idle.chain(beside).min()
    }

    /// Attempts in flight.
    fn attempts(&self) -> usize {
        self.uploads.iter().map(|upload| upload.flying.len()).sum::<usize>() + self.detached.len()
    }

    pub(super) fn done(
        &mut self,
        id: StoreJobId,
        attempt: UploadAttempt,
        result: Result<(), StoreError>,
        now: Duration,
    ) -> Vec<UploadOutcome> {
        self.health.learn(attempt, &result, &self.settings, now);
        if let Some(name) = self.detached.orphans.remove(&id) {
            return vec![UploadOutcome::PerhapsStored(name)];
        }
        if self.detached.overtaken.remove(&id) {
            return Vec::new();
        }
        let Some(index) = self.uploads.iter().position(|upload| upload.flying.contains(&id)) else {
            debug_assert!(false, "a result for an upload that was never started");
            return Vec::new();
        };
        self.uploads[index].flying.retain(|flying| *flying != id);
        match result {
            Ok(()) => self.stored(index),
            Err(error) => self.failed(index, &error, now),
        }
    }

    fn stored(&mut self, index: usize) -> Vec<UploadOutcome> {
        let upload = self.uploads.remove(index);
        self.waiting_bytes -= upload.bytes();
        let file = unneeded_file(&upload);
        self.detached.overtaken.extend(upload.flying);
        let stored = match upload.what {
            What::Init(init) => UploadOutcome::InitStored(init),
            What::Segment { rung, sequence, late, .. } => {
                UploadOutcome::SegmentStored { rung, sequence, late, name: upload.name }
            }
        };
        file.into_iter().chain([stored]).collect()
    }

    fn failed(&mut self, index: usize, error: &StoreError, now: Duration) -> Vec<UploadOutcome> {
        let upload = &mut self.uploads[index];
        upload.attempts += 1;
        upload.not_before = now + self.settings.pause(error, upload.attempts, &mut self.random);
        let reason = match error {
            // Another object has the name: no retry can help.
            StoreError::Exists => return self.forget(index, Gap::Refused),
            StoreError::Unavailable(_) => Gap::Deadline,
            StoreError::Refused(_) | StoreError::Changed | StoreError::Missing => Gap::Refused,
        };
        let too_late = match upload.what {
            // Every later segment of the rendition needs the init segment.
            What::Init(_) => false,
            What::Segment { deadline, .. } => {
                reason == Gap::Refused || (upload.is_idle() && upload.not_before >= deadline)
            }
        };
        if too_late { self.late(index, reason) } else { Vec::new() }
    }

    // --- time and room run out ---

    /// Turns segments past their deadline into gaps.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<UploadOutcome> {
        let mut outcomes = Vec::new();
        while let Some(index) = self.uploads.iter().position(|upload| upload.deadline_passed(now)) {
            outcomes.extend(self.late(index, Gap::Deadline));
        }
        outcomes
    }

    /// The segment becomes a gap for viewers; the archive, where there is one, still gets it.
    fn late(&mut self, index: usize, reason: Gap) -> Vec<UploadOutcome> {
        if !self.settings.archive {
            return self.forget(index, reason);
        }
        match &mut self.uploads[index].what {
            What::Segment { rung, sequence, late, .. } if !*late => {
                *late = true;
                vec![UploadOutcome::Late { rung: rung.clone(), sequence: *sequence, reason }]
            }
            What::Segment { .. } | What::Init(_) => Vec::new(),
        }
    }

    /// Gives everything up for good. Attempts in flight may still succeed.
    pub(super) fn forget_all(&mut self) -> Vec<UploadOutcome> {
        let mut outcomes = Vec::new();
        while !self.uploads.is_empty() {
            outcomes.extend(self.forget(self.uploads.len() - 1, Gap::Deadline));
        }
        outcomes
    }

    /// Gives an upload up for good. An attempt in flight may still succeed.
    fn forget(&mut self, index: usize, reason: Gap) -> Vec<UploadOutcome> {
        let upload = self.uploads.remove(index);
        self.waiting_bytes -= upload.bytes();
        let file = unneeded_file(&upload);
        self.detached.orphans.extend(upload.flying.into_iter().map(|id| (id, upload.name.clone())));
        let given_up = match upload.what {
            What::Segment { rung, sequence, .. } => Some(UploadOutcome::GivenUp { rung, sequence, reason }),
            What::Init(_) => None,
        };
        file.into_iter().chain(given_up).collect()
    }

    // --- the disk ---

    /// Size of the newest late segment in memory that may go to the disk. A larger segment would never find enough
    /// memory to be read back. None while at most half of the memory is taken.
    pub(super) fn next_to_leave(&self) -> Option<u64> {
        let index = self.leaving_index()?;
        Some(self.uploads[index].size as u64)
    }

    /// The segment of [`Uploads::next_to_leave`] goes to the disk as this file; returns its body.
    pub(super) fn leave(&mut self, id: SpoolId) -> Option<Bytes> {
        let index = self.leaving_index()?;
        let upload = &mut self.uploads[index];
        upload.place = BodyPlace::Leaving(id);
        Some(upload.object.body.clone())
    }

    fn leaving_index(&self) -> Option<usize> {
        if self.waiting_bytes <= self.settings.max_waiting_bytes / 2 {
            return None;
        }
        let largest = (self.settings.max_waiting_bytes as u64 / 2).min(self.settings.spool_bytes);
        let leaves = |upload: &Upload| upload.waits_in_memory_late() && upload.size as u64 <= largest;
        self.uploads.iter().rposition(leaves)
    }

    /// A body was written to the disk, or not. True if it is only there from now on; false if it stays in memory and
    /// the file, if there is one, is not needed.
    pub(super) fn left(&mut self, id: SpoolId, is_written: bool) -> bool {
        let Some(upload) = self.uploads.iter_mut().find(|upload| upload.place.id() == Some(id)) else {
            return false;
        };
        upload.place = BodyPlace::Memory;
        let leaves = is_written && upload.is_idle();
        if leaves {
            upload.place = BodyPlace::Disk(id);
            upload.object.body = Bytes::new();
            self.waiting_bytes -= upload.size;
        }
        leaves
    }

    /// The disk has no room for another body. While memory is nearly full too, gives up the largest rendition's oldest
    /// late segment if that is on the disk.
    pub(super) fn make_spool_room(&mut self) -> Vec<UploadOutcome> {
        let limit = self.settings.max_waiting_bytes;
        let is_crowded = self.waiting_bytes >= limit - limit / 8;
        match self.oldest_late_of_largest().filter(|_| is_crowded) {
            Some(oldest) if matches!(self.uploads[oldest].place, BodyPlace::Disk(_)) => {
                self.forget(oldest, Gap::Overflow)
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// The oldest late segment, in memory or on disk, of the largest rendition that has any.
    fn oldest_late_of_largest(&self) -> Option<usize> {
        let late = self.uploads.iter().enumerate().filter_map(|(index, upload)| match &upload.what {
            What::Segment { rung, late: true, .. } if upload.may_be_given_up() => {
                Some((self.rung_size(rung), Reverse(index)))
            }
            What::Segment { .. } | What::Init(_) => None,
        });
        late.max().map(|(_, Reverse(index))| index)
    }

    /// Reserves memory for the next body to be read back, if one is due.
    pub(super) fn start_return(&mut self, now: Duration) -> Option<SpoolId> {
        let index = self.next_to_return(now)?;
        let upload = &mut self.uploads[index];
        let BodyPlace::Disk(id) = upload.place else { return None };
        upload.place = BodyPlace::Returning(id);
        self.waiting_bytes += upload.size;
        Some(id)
    }

    /// The oldest upload on disk, if what is in memory will soon be uploaded.
    fn next_to_return(&self, now: Duration) -> Option<usize> {
        self.late_at().filter(|at| *at <= now)?;
        let waiting = self.uploads.iter().filter(|upload| upload.is_late() && upload.place.takes_memory());
        if waiting.count() >= if self.health.answers { self.settings.concurrency / 2 } else { 1 } {
            return None;
        }
        let index = self.uploads.iter().position(|upload| matches!(upload.place, BodyPlace::Disk(_)))?;
        let fits = self.waiting_bytes + self.uploads[index].size <= self.settings.max_waiting_bytes / 2;
        fits.then_some(index)
    }

    /// When [`Uploads::start_return`] may return a body without further input.
    pub(super) fn return_at(&self) -> Option<Duration> {
        let at = self.late_at()?;
        self.next_to_return(at).map(|_| at)
    }

    /// A body was read back. The error is the disk's; then the segment is given up. Nothing happens where the segment
    /// was given up meanwhile.
    pub(super) fn returned(
        &mut self,
        id: SpoolId,
        body: Result<Bytes, StoreError>,
        now: Duration,
    ) -> (Option<StoreError>, Vec<UploadOutcome>) {
        let returning = |upload: &Upload| upload.place == BodyPlace::Returning(id);
        let Some(index) = self.uploads.iter().position(returning) else { return (None, Vec::new()) };
        let upload = &mut self.uploads[index];
        let error = match body {
            Ok(body) if body.len() == upload.size => {
                let file = unneeded_file(upload);
                upload.object.body = body;
                upload.place = BodyPlace::Memory;
                upload.not_before = now;
                return (None, file.into_iter().collect());
            }
            Ok(_) => StoreError::Unavailable("a spooled file is not what was written".into()),
            Err(error) => error,
        };
        (Some(error), self.forget(index, Gap::Refused))
    }
}

/// The file that an upload leaves when it is stored, given up or read back.
fn unneeded_file(upload: &Upload) -> Option<UploadOutcome> {
    let (place, bytes) = (upload.place, upload.size as u64);
    place.id().map(|_| UploadOutcome::FileUnneeded { place, bytes })
}
