//! Init and media segments on their way to the store: their order, their room, their attempts, and what they become
//! when time or attempts run out. In which order what is stored gets listed is in [`super::lanes`].

use super::lanes::Outcome;
use super::{Flight, Job, Plan, Work};
use crate::publish::{Gap, Playlists};
use crate::store::{Caching, Object, ObjectName, StoreError, content_type};
use hls::RungName;
use hls::packager::{InitSegment, Segment};
use std::time::Duration;

/// Init segments that wait; beyond it the oldest is given up with its segments. Dozens of epochs while a store is away.
const MAX_WAITING_INITS: usize = 64;

/// A segment or init that waits for its next attempt.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) what: What,
    name: ObjectName,
    object: Object,
    attempts: u32,
    pub(super) not_before: Duration,
}

/// What an upload is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Init(InitSegment),
    Segment { rung: RungName, sequence: u64, deadline: Duration },
}

impl<P: Playlists> Plan<P> {
    pub(super) fn add_init(&mut self, init: InitSegment, now: Duration) {
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

    pub(super) fn add_segment(&mut self, mut segment: Segment, now: Duration) {
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

    pub(super) fn start_upload(&mut self, now: Duration) -> Option<Job> {
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

    pub(super) fn upload_done(&mut self, mut upload: Upload, result: Result<(), StoreError>, now: Duration) {
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

    pub(super) fn drop_segment(&mut self, upload: Upload, reason: Gap) {
        if let What::Segment { rung, sequence, .. } = upload.what {
            self.waiting_bytes -= upload.object.body.len();
            self.give_up(&rung, sequence, reason);
        }
    }

    pub(super) fn give_up(&mut self, rung: &RungName, sequence: u64, reason: Gap) {
        if self.lanes.set(rung, sequence, Outcome::Gap) {
            *self.counters.gaps.entry(reason).or_default() += 1;
        }
    }

    pub(super) fn uploads_in_flight(&self) -> usize {
        self.in_flight.values().filter(|flight| matches!(flight, Flight::Upload(_))).count()
    }
}
