//! Uploads of init and media segments: order, memory, attempts, and what becomes of an upload when time or room runs
//! out. The order in which stored segments are listed is in [`hls::ledger`].
//!
//! A segment is **on time** until its deadline, then **late**: a gap in the playlists, whose upload continues where an
//! archive needs it. Uploads that are on time go first, and half of all attempts are reserved for their first
//! attempts. An attempt at a segment that is on time may last until the deadline, and longer when the store has been
//! observed to be slow. A slow attempt is hedged by a second one, and the first answer counts. Both write the same
//! bytes under a name that no other object uses.

use super::removals::Removal;
use super::spooling::BodyPlace;
use super::{DeliveryPlan, Flight, StoreJob, StoreJobId, StoreWork};
use crate::delivery::{DeliverySettings, Gap, Playlists};
use hls::packager::InitSegment;
use hls::{RungName, Segment};
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

/// A media or init segment that is not stored yet.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) what: What,
    pub(super) name: ObjectName,
    /// The object; its body is empty while the body is on disk.
    pub(super) object: Object,
    /// Where the body is; `size` is its number of bytes.
    pub(super) place: BodyPlace,
    pub(super) size: usize,
    /// Failed attempts.
    attempts: u32,
    pub(super) not_before: Duration,
    /// Attempts in flight.
    flying: Vec<StoreJobId>,
    /// Start of the newest attempt.
    started: Duration,
}

/// The kind of an upload.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Init(InitSegment),
    /// A segment; `late` once it is a gap in the playlists.
    Segment {
        rung: RungName,
        sequence: u64,
        deadline: Duration,
        late: bool,
    },
}

impl Upload {
    pub(super) fn is_late(&self) -> bool {
        matches!(self.what, What::Segment { late: true, .. })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.flying.is_empty()
    }

    /// Whether the body may go to the disk.
    pub(super) fn waits_in_memory_late(&self) -> bool {
        self.is_late() && self.is_idle() && self.place == BodyPlace::Memory
    }

    /// Whether nothing is being done with the segment.
    pub(super) fn may_be_given_up(&self) -> bool {
        self.is_idle() && matches!(self.place, BodyPlace::Memory | BodyPlace::Disk(_))
    }

    /// Whether a first attempt can start: that needs the body in memory.
    fn is_ready(&self) -> bool {
        self.is_idle() && self.place.is_memory()
    }

    /// Bytes that the upload takes of the memory for segments.
    fn bytes(&self) -> usize {
        match self.what {
            What::Segment { .. } if self.place.takes_memory() => self.size,
            What::Init(_) | What::Segment { .. } => 0,
        }
    }
}

impl<P: Playlists> DeliveryPlan<P> {
    pub(super) fn add_init(&mut self, init: InitSegment, now: Duration) {
        let is_idle_init = |upload: &Upload| matches!(upload.what, What::Init(_)) && upload.is_idle();
        if self.uploads.iter().filter(|upload| is_idle_init(upload)).count() >= MAX_WAITING_INITS
            // Newer init segments are in front of older ones.
            && let Some(oldest) = self.uploads.iter().rposition(is_idle_init)
        {
            self.uploads.remove(oldest);
        }
        let name = self.object_name(&init.rung, &init.name);
        let kind = if self.is_audio(&init.rung) { content_type::AUDIO } else { content_type::VIDEO_INIT };
        let object = Object { body: init.body.clone(), content_type: kind, caching: Caching::Immutable };
        // In front of the waiting segments: they are useless without their init segment.
        self.uploads.insert(0, Self::upload(What::Init(init), name, object, now));
    }

    pub(super) fn add_segment(&mut self, segment: Segment, now: Duration) {
        let deadline = now + self.settings.segment_deadline;
        let (info, body) = segment.into_parts();
        let (rung, sequence) = (info.rung.clone(), info.sequence);
        let name = self.object_name(&rung, &info.name);
        self.ledger.enter(info, deadline);
        let Some(body) = body else {
            self.never(&rung, sequence, Gap::Packager);
            return;
        };
        *self.rung_bytes.entry(rung.clone()).or_default() += body.len() as u64;
        self.make_room(body.len());
        if self.waiting_bytes + body.len() > self.settings.max_waiting_bytes {
            // Every waiting segment is being written right now and cannot be given up.
            self.never(&rung, sequence, Gap::Overflow);
            self.counters.lost += 1;
            return;
        }
        self.waiting_bytes += body.len();
        let kind = if self.is_audio(&rung) { content_type::AUDIO } else { content_type::VIDEO_SEGMENT };
        let object = Object { body, content_type: kind, caching: Caching::Immutable };
        let what = What::Segment { rung, sequence, deadline, late: false };
        self.uploads.push(Self::upload(what, name, object, now));
    }

    fn upload(what: What, name: ObjectName, object: Object, now: Duration) -> Upload {
        let (size, place, flying) = (object.body.len(), BodyPlace::Memory, Vec::new());
        Upload { what, name, object, place, size, attempts: 0, not_before: now, flying, started: now }
    }

    /// Bytes of a rendition so far, to find the largest rendition.
    pub(super) fn rung_size(&self, rung: &RungName) -> u64 {
        self.rung_bytes.get(rung).copied().unwrap_or(0)
    }

    /// Gives up segments that wait in memory until there is room: late ones first, of the largest rendition first,
    /// oldest first. So the other renditions stay complete in the archive, and viewers keep segments that are on time.
    fn make_room(&mut self, bytes: usize) {
        while self.waiting_bytes + bytes > self.settings.max_waiting_bytes {
            let waiting = self.uploads.iter().enumerate().filter_map(|(index, upload)| match &upload.what {
                What::Segment { rung, late, .. } if upload.is_ready() => {
                    let size = self.rung_size(rung);
                    Some(((!*late, std::cmp::Reverse(size), index), index))
                }
                What::Segment { .. } | What::Init(_) => None,
            });
            let Some((_, victim)) = waiting.min() else { return };
            self.forget(victim, Gap::Overflow);
        }
    }

    pub(super) fn start_upload(&mut self, now: Duration) -> Option<StoreJob> {
        let index = self.next_upload(now)?;
        let upload = &self.uploads[index];
        let longest = self.settings.segment_deadline * DEADLINES_OF_PATIENCE;
        let timeout = match upload.what {
            What::Segment { deadline, late: false, .. } => deadline
                .saturating_sub(now)
                .max(self.patience.min(longest))
                .min(self.settings.longest_attempt),
            // Segments that are on time wait for their init segment.
            What::Init(_) => self.timeout(upload.attempts).max(self.settings.segment_deadline),
            What::Segment { .. } => self.timeout(upload.attempts).max(self.patience),
        };
        let work = StoreWork::Create(upload.name.clone(), upload.object.clone());
        let job = self.job(Flight::Upload { started: now, timeout }, work, timeout);
        let upload = &mut self.uploads[index];
        upload.flying.push(job.id);
        upload.started = now;
        Some(job)
    }

    /// The upload to attempt next: on time before late, first attempts before hedged ones, init segments before
    /// segments, older segments before newer ones. Of several init segments the newest goes first: it is the one that
    /// segments on time wait for.
    fn next_upload(&self, now: Duration) -> Option<usize> {
        if self.upload_attempts() >= self.settings.concurrency {
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
        self.uploads.iter().map(second).sum::<usize>() + self.overtaken.len() < self.settings.concurrency / 4
    }

    /// When the next late upload may start. While the store fails, one late upload at a time, spaced by `max_backoff`,
    /// probes whether the store has recovered.
    pub(super) fn late_at(&self) -> Option<Duration> {
        let (limit, at) = if self.store_answers {
            ((self.settings.concurrency / 4).max(1), Duration::ZERO)
        } else {
            (1, self.late_not_before)
        };
        let flying = self.uploads.iter().filter(|upload| upload.is_late() && !upload.is_idle()).count();
        (flying < limit).then_some(at)
    }

    pub(super) fn uploads_wake_at(&self) -> Option<Duration> {
        if self.upload_attempts() >= self.settings.concurrency {
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

    pub(super) fn upload_done(&mut self, id: StoreJobId, result: Result<(), StoreError>, now: Duration) {
        self.store_answers = matches!(result, Ok(()) | Err(StoreError::Exists));
        if !self.store_answers {
            self.late_not_before = now + self.settings.max_backoff;
        }
        if let Some(name) = self.orphans.remove(&id) {
            self.remove_unnamed(name, now);
            return;
        }
        if self.overtaken.remove(&id) {
            return;
        }
        let Some(index) = self.uploads.iter().position(|upload| upload.flying.contains(&id)) else {
            debug_assert!(false, "a result for an upload that was never started");
            return;
        };
        let upload = &mut self.uploads[index];
        upload.flying.retain(|flying| *flying != id);
        let Err(error) = result else {
            let upload = self.uploads.remove(index);
            self.stored(upload, now);
            return;
        };
        upload.attempts += 1;
        let attempts = upload.attempts;
        // What the store refuses now (a full disk, a bucket that became read-only) may be accepted later.
        let pause = if error.is_retryable() { self.backoff(attempts) } else { self.settings.max_backoff };
        let upload = &mut self.uploads[index];
        upload.not_before = now + pause;
        let reason = match error {
            // Another object has the name: no retry can help.
            StoreError::Exists => {
                self.forget(index, Gap::Refused);
                return;
            }
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
        if self.gave_up {
            self.forget(index, reason);
        } else if too_late {
            self.is_late(index, reason);
        }
    }

    /// Turns segments past their deadline into gaps.
    pub(super) fn expire_uploads(&mut self, now: Duration) {
        let expired = |upload: &Upload| matches!(upload.what, What::Segment { deadline, late: false, .. } if deadline <= now);
        while let Some(index) = self.uploads.iter().position(expired) {
            self.is_late(index, Gap::Deadline);
        }
    }

    /// The segment becomes a gap for viewers; the archive, where there is one, still gets it.
    fn is_late(&mut self, index: usize, reason: Gap) {
        if !self.settings.archive {
            self.forget(index, reason);
            return;
        }
        if let What::Segment { rung, sequence, late, .. } = &mut self.uploads[index].what
            && !std::mem::replace(late, true)
        {
            let (rung, sequence) = (rung.clone(), *sequence);
            self.late(&rung, sequence, reason);
        }
    }

    /// Gives an upload up for good. An attempt in flight may still succeed.
    pub(super) fn forget(&mut self, index: usize, reason: Gap) {
        let upload = self.uploads.remove(index);
        self.waiting_bytes -= upload.bytes();
        self.leave_spool(&upload);
        if let What::Segment { rung, sequence, .. } = upload.what {
            self.never(&rung, sequence, reason);
            self.counters.lost += 1;
        }
        self.orphans.extend(upload.flying.into_iter().map(|id| (id, upload.name.clone())));
    }

    fn stored(&mut self, upload: Upload, now: Duration) {
        self.waiting_bytes -= upload.bytes();
        self.leave_spool(&upload);
        self.overtaken.extend(upload.flying);
        match upload.what {
            What::Init(init) => {
                self.playlists.add_init(&init);
                self.mark_all();
                self.ledger.init_readable(&init);
            }
            What::Segment { rung, sequence, late, .. } => {
                if self.ledger.readable(&rung, sequence) {
                    return;
                }
                debug_assert!(late || self.gave_up, "on time and not awaited");
                if self.settings.archive {
                    self.counters.late += 1;
                } else {
                    self.remove_unnamed(upload.name, now);
                }
            }
        }
    }

    /// Removes an object that no playlist will ever name, unless an archive needs it.
    fn remove_unnamed(&mut self, name: ObjectName, now: Duration) {
        if !self.settings.archive && !self.gave_up {
            self.removals.push_back(Removal::new(name, now));
        }
    }

    /// The segment is a gap for viewers, and may still be stored.
    pub(super) fn late(&mut self, rung: &RungName, sequence: u64, reason: Gap) {
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

    /// Adapts `patience` to how an attempt went.
    pub(super) fn learn(&mut self, good: bool, took: Duration, timeout: Duration) {
        let DeliverySettings { attempt_timeout, longest_attempt, .. } = self.settings;
        if good {
            self.patience = (took * 2).max(attempt_timeout).min(longest_attempt);
        } else if took >= timeout {
            self.patience = (self.patience * 2).min(longest_attempt);
        }
    }

    /// The time-out grows with each failure: even a store that is slow for every request must receive the object
    /// eventually.
    pub(super) fn timeout(&self, failures: u32) -> Duration {
        let doubled = self.settings.attempt_timeout.saturating_mul(1 << failures.min(16));
        doubled.min(self.settings.longest_attempt)
    }

    pub(super) fn upload_attempts(&self) -> usize {
        self.uploads.iter().map(|upload| upload.flying.len()).sum::<usize>()
            + self.orphans.len()
            + self.overtaken.len()
    }
}
