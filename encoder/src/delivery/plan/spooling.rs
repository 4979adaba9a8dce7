//! Decides which bodies wait on a local disk while the store is slow, and in which order. File operations are in
//! [`crate::delivery::spool`].
//!
//! Only late segments go to the disk, for the archive: viewers no longer need them, and segments that are on time are
//! uploaded now or never. Spooling begins when half of the memory for segments is taken, so that the disk has time
//! while the other half fills. Newest segments go first, because the oldest are uploaded first. When the disk has no
//! room either, memory fills up; shortly before memory is full, segments of the largest rendition on disk are given up
//! for those of smaller renditions, unless segments of still larger renditions wait in memory: those are given up
//! first, by the memory's own bound, which works as if there were no disk.
//!
//! After a failure the disk is not used for [`REST`]; segments that would have gone there stay in memory. Nothing
//! waits for the disk.

use super::uploads::{Upload, What};
use super::{DeliveryPlan, Flight, StoreJob, StoreWork};
use crate::delivery::{Gap, Playlists};
use bytes::Bytes;
use std::cmp::Reverse;
use std::time::Duration;
use store::StoreError;

/// Identifies a spooled body within its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(pub u64);

/// Concurrent disk writes, and concurrent disk reads.
const AT_A_TIME: usize = 2;
/// Pause after a disk failure.
const REST: Duration = Duration::from_secs(30);
/// Time-out of a disk write or read; then it counts as failed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Concurrent file removals.
const REMOVALS: usize = 4;

/// Where an upload's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyPlace {
    /// In memory.
    Memory,
    /// In memory, and being written to the disk.
    Leaving(SpoolId),
    /// On the disk.
    Disk(SpoolId),
    /// On the disk, and being read.
    Returning(SpoolId),
}

impl BodyPlace {
    pub(super) const fn is_memory(self) -> bool {
        match self {
            Self::Memory | Self::Leaving(_) => true,
            Self::Disk(_) | Self::Returning(_) => false,
        }
    }

    /// Whether memory is reserved for the body.
    pub(super) const fn takes_memory(self) -> bool {
        match self {
            Self::Memory | Self::Leaving(_) | Self::Returning(_) => true,
            Self::Disk(_) => false,
        }
    }

    const fn id(self) -> Option<SpoolId> {
        match self {
            Self::Memory => None,
            Self::Leaving(id) | Self::Disk(id) | Self::Returning(id) => Some(id),
        }
    }
}

/// The disk's part of a plan.
#[derive(Debug, Default)]
pub(super) struct Spooling {
    next: u64,
    /// Bytes of all files on disk, including files being written and files not removed yet.
    bytes: u64,
    /// The spool is full, with hysteresis: set when there is no room, cleared when at most half of the space is used.
    full: bool,
    not_before: Duration,
    /// Files to be removed, with their bytes.
    unneeded: Vec<(SpoolId, u64)>,
    /// Files being written whose upload is already stored or given up.
    orphans: Vec<SpoolId>,
}

impl<P: Playlists> DeliveryPlan<P> {
    /// Bytes on disk.
    pub fn spooled_bytes(&self) -> u64 {
        self.spooling.bytes
    }

    pub(super) fn start_spooling(&mut self, now: Duration) -> Option<StoreJob> {
        self.start_discard().or_else(|| self.start_return(now)).or_else(|| self.start_leaving(now))
    }

    fn flights(&self, wanted: impl Fn(&Flight) -> bool) -> usize {
        self.in_flight.values().filter(|flight| wanted(flight)).count()
    }

    fn start_discard(&mut self) -> Option<StoreJob> {
        if self.gave_up || self.flights(|flight| matches!(flight, Flight::Discard { .. })) >= REMOVALS {
            return None;
        }
        let (id, bytes) = self.spooling.unneeded.pop()?;
        Some(self.job(Flight::Discard { bytes }, StoreWork::Discard(id), TIMEOUT))
    }

    fn start_leaving(&mut self, now: Duration) -> Option<StoreJob> {
        let due = self.settings.spool_bytes > 0
            && self.waiting_bytes > self.settings.max_waiting_bytes / 2
            && self.spooling.not_before <= now
            && !self.gave_up
            && self.flights(|flight| matches!(flight, Flight::Leaving { .. })) < AT_A_TIME;
        if !due {
            return None;
        }
        // As long as there is room in memory, nothing on disk is given up for another segment.
        let limit = self.settings.max_waiting_bytes;
        let crowded = self.waiting_bytes >= limit - limit / 8;
        // Nothing on disk is given up either while memory holds segments of larger renditions: those are given up in
        // memory.
        let in_memory = self.largest_late_in_memory();
        let largest = self.largest_on_disk().filter(|(size, _)| crowded && *size >= in_memory);
        let largest = largest.map_or(0, |(size, _)| size);
        let index = self.uploads.iter().rposition(|upload| match &upload.what {
            What::Segment { rung, .. } if upload.waits_in_memory_late() => {
                let room = self.has_spool_room(upload.size) || self.rung_size(rung) < largest;
                // A larger segment would never find enough memory to be read back.
                room && upload.size <= limit / 2
            }
            What::Segment { .. } | What::Init(_) => false,
        });
        let Some(index) = index else {
            self.spool_is_full();
            return None;
        };
        let name = self.uploads[index].name.clone();
        if !self.make_spool_room(index) {
            return self.start_discard();
        }
        let id = SpoolId(self.spooling.next);
        self.spooling.next += 1;
        // The indices may have changed: making room may have given up other uploads.
        let upload = self.uploads.iter_mut().find(|upload| upload.name == name)?;
        upload.place = BodyPlace::Leaving(id);
        let (body, bytes) = (upload.object.body.clone(), upload.size as u64);
        self.spooling.bytes += bytes;
        Some(self.job(Flight::Leaving { id, bytes }, StoreWork::Spool(id, body), TIMEOUT))
    }

    fn has_spool_room(&self, size: usize) -> bool {
        self.spooling.bytes + size as u64 <= self.settings.spool_bytes
    }

    /// Size of the largest rendition that has late segments in memory.
    fn largest_late_in_memory(&self) -> u64 {
        let late = self.uploads.iter().filter_map(|upload| match &upload.what {
            What::Segment { rung, late: true, .. } if upload.place == BodyPlace::Memory => {
                Some(self.rung_size(rung))
            }
            What::Segment { .. } | What::Init(_) => None,
        });
        late.max().unwrap_or(0)
    }

    /// The oldest segment of the largest rendition on disk: that rendition's size, and the segment's index.
    fn largest_on_disk(&self) -> Option<(u64, usize)> {
        let on_disk = self.uploads.iter().enumerate().filter_map(|(index, upload)| match &upload.what {
            What::Segment { rung, .. } if matches!(upload.place, BodyPlace::Disk(_)) => {
                Some((self.rung_size(rung), Reverse(index)))
            }
            What::Segment { .. } | What::Init(_) => None,
        });
        on_disk.max().map(|(size, Reverse(index))| (size, index))
    }

    /// Makes room on the disk for an upload, if needed by giving up a segment of the largest rendition there. True if
    /// there is room now.
    fn make_spool_room(&mut self, index: usize) -> bool {
        let size = self.uploads[index].size;
        if self.has_spool_room(size) {
            self.spooling.full &= self.spooling.bytes > self.settings.spool_bytes / 2;
            return true;
        }
        self.spool_is_full();
        let being_removed = self.in_flight.values().map(|flight| match flight {
            Flight::Discard { bytes } => *bytes,
            Flight::Upload { .. }
            | Flight::Playlist(_)
            | Flight::Removal(_)
            | Flight::Leaving { .. }
            | Flight::Returning { .. } => 0,
        });
        let to_be_removed = self.spooling.unneeded.iter().map(|(_, bytes)| *bytes);
        let being_freed: u64 = to_be_removed.chain(being_removed).sum();
        let soon = self.spooling.bytes + size as u64 <= self.settings.spool_bytes + being_freed;
        if !soon && let Some((_, victim)) = self.largest_on_disk() {
            // The victim's file is removed first; this upload is considered again afterwards.
            self.forget(victim, Gap::Overflow);
        }
        false
    }

    /// Marks the spool as full and counts that, if late segments wait in memory without room on the disk.
    fn spool_is_full(&mut self) {
        if self.uploads.iter().any(Upload::waits_in_memory_late)
            && !std::mem::replace(&mut self.spooling.full, true)
        {
            self.counters.spool_full += 1;
        }
    }

    fn start_return(&mut self, now: Duration) -> Option<StoreJob> {
        let index = self.next_to_return(now)?;
        let upload = &mut self.uploads[index];
        let BodyPlace::Disk(id) = upload.place else { return None };
        upload.place = BodyPlace::Returning(id);
        self.waiting_bytes += upload.size;
        Some(self.job(Flight::Returning { id }, StoreWork::Unspool(id), TIMEOUT))
    }

    /// The oldest upload on disk, if what is in memory will soon be uploaded.
    fn next_to_return(&self, now: Duration) -> Option<usize> {
        if self.gave_up || self.flights(|flight| matches!(flight, Flight::Returning { .. })) >= AT_A_TIME {
            return None;
        }
        self.late_at().filter(|at| *at <= now)?;
        let waiting = self.uploads.iter().filter(|upload| upload.is_late() && upload.place.takes_memory());
        if waiting.count() >= if self.store_answers { self.settings.concurrency / 2 } else { 1 } {
            return None;
        }
        let index = self.uploads.iter().position(|upload| matches!(upload.place, BodyPlace::Disk(_)))?;
        let fits = self.waiting_bytes + self.uploads[index].size <= self.settings.max_waiting_bytes / 2;
        fits.then_some(index)
    }

    /// When an upload on disk may be read back without further input.
    pub(super) fn spooling_wake_at(&self) -> Option<Duration> {
        let at = self.late_at()?;
        self.next_to_return(at).map(|_| at)
    }

    /// An upload is stored or given up: its file is no longer needed.
    pub(super) fn leave_spool(&mut self, upload: &Upload) {
        match upload.place {
            BodyPlace::Memory => {}
            BodyPlace::Leaving(id) => self.spooling.orphans.push(id),
            BodyPlace::Disk(id) | BodyPlace::Returning(id) => {
                self.spooling.unneeded.push((id, upload.size as u64))
            }
        }
    }

    pub(super) fn left(&mut self, id: SpoolId, bytes: u64, result: Result<(), StoreError>, now: Duration) {
        if let Err(error) = &result {
            self.spool_failed(error, now);
            self.spooling.bytes -= bytes;
        }
        if let Some(index) = self.spooling.orphans.iter().position(|orphan| *orphan == id) {
            self.spooling.orphans.swap_remove(index);
            if result.is_ok() {
                self.spooling.unneeded.push((id, bytes));
            }
            return;
        }
        let Some(upload) = self.uploads.iter_mut().find(|upload| upload.place.id() == Some(id)) else {
            return;
        };
        upload.place = BodyPlace::Memory;
        if result.is_err() {
            return;
        }
        if !upload.is_idle() {
            self.spooling.unneeded.push((id, bytes));
            return;
        }
        upload.place = BodyPlace::Disk(id);
        upload.object.body = Bytes::new();
        self.waiting_bytes -= upload.size;
        self.counters.spooled += 1;
    }

    pub(super) fn returned(&mut self, id: SpoolId, result: Result<Bytes, StoreError>, now: Duration) {
        let Some(index) = self.uploads.iter().position(|upload| upload.place == BodyPlace::Returning(id))
        else {
            return;
        };
        let upload = &mut self.uploads[index];
        match result {
            Ok(body) if body.len() == upload.size => {
                upload.object.body = body;
                upload.place = BodyPlace::Memory;
                upload.not_before = now;
                let bytes = upload.size as u64;
                self.spooling.unneeded.push((id, bytes));
            }
            Ok(_) => {
                self.spool_failed(
                    &StoreError::Unavailable("a spooled file is not what was written".into()),
                    now,
                );
                self.forget(index, Gap::Refused);
            }
            Err(error) => {
                self.spool_failed(&error, now);
                self.forget(index, Gap::Refused);
            }
        }
    }

    pub(super) fn discarded(&mut self, bytes: u64) {
        // A file that could not be removed is removed with the folder at the stream's end.
        self.spooling.bytes -= bytes;
    }

    fn spool_failed(&mut self, error: &StoreError, now: Duration) {
        self.spooling.not_before = now + REST;
        self.counters.spool_failures += 1;
        self.counters.last_spool_failure = Some(error.to_string());
    }
}

/// Whether a job was a disk job.
pub(super) fn is_spool_job(flight: &Flight) -> bool {
    matches!(flight, Flight::Leaving { .. } | Flight::Returning { .. } | Flight::Discard { .. })
}
