//! Decides which bodies wait on a local disk while the store is slow, and in which order. File operations are in
//! [`crate::delivery::spool`].
//!
//! Three rules:
//!
//! 1. Late segments go to the disk, for the archive, while more than half of the memory for segments is taken: viewers
//!    no longer need them, and segments that are on time are uploaded now or never. The newest goes first, because the
//!    oldest is uploaded first.
//! 2. The oldest comes out first, as soon as its upload may start.
//! 3. When the disk is full, and memory too but for an eighth, the largest rendition's oldest late segment goes: from
//!    the disk here, from memory by the memory's own bound ([`DeliveryPlan::make_room`]).
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
pub(crate) struct SpoolId(pub u64);

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
    /// Bytes of the files that are being removed or will be.
    freeing: u64,
    /// Files being written whose upload is already stored or given up.
    orphans: Vec<SpoolId>,
}

impl Spooling {
    /// A file is no longer needed.
    fn remove(&mut self, id: SpoolId, bytes: u64) {
        self.unneeded.push((id, bytes));
        self.freeing += bytes;
    }
}

impl<P: Playlists> DeliveryPlan<P> {
    /// Bytes on disk.
    pub(crate) fn spooled_bytes(&self) -> u64 {
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

    /// The newest late segment in memory goes to the disk, where there is room.
    fn start_leaving(&mut self, now: Duration) -> Option<StoreJob> {
        if !self.may_leave(now) {
            return None;
        }
        // A larger segment would never find enough memory to be read back.
        let largest = (self.settings.max_waiting_bytes as u64 / 2).min(self.settings.spool_bytes);
        let leaves = |upload: &Upload| upload.waits_in_memory_late() && upload.size as u64 <= largest;
        let index = self.uploads.iter().rposition(leaves)?;
        let size = self.uploads[index].size as u64;
        if self.spooling.bytes + size > self.settings.spool_bytes {
            self.make_spool_room(size);
            return self.start_discard();
        }
        self.spooling.full &= self.spooling.bytes > self.settings.spool_bytes / 2;
        let id = SpoolId(self.spooling.next);
        self.spooling.next += 1;
        self.spooling.bytes += size;
        let upload = &mut self.uploads[index];
        upload.place = BodyPlace::Leaving(id);
        let body = upload.object.body.clone();
        Some(self.job(Flight::Leaving { id, bytes: size }, StoreWork::Spool(id, body), TIMEOUT))
    }

    fn may_leave(&self, now: Duration) -> bool {
        self.settings.spool_bytes > 0
            && self.waiting_bytes > self.settings.max_waiting_bytes / 2
            && self.spooling.not_before <= now
            && !self.gave_up
            && self.flights(|flight| matches!(flight, Flight::Leaving { .. })) < AT_A_TIME
    }

    /// The disk is full: gives up the largest rendition's oldest late segment if that is on the disk, and if memory is
    /// nearly full. Its file is removed first, and what wants to leave memory is considered again afterwards.
    fn make_spool_room(&mut self, size: u64) {
        if !std::mem::replace(&mut self.spooling.full, true) {
            self.counters.spool_full += 1;
        }
        let limit = self.settings.max_waiting_bytes;
        let is_crowded = self.waiting_bytes >= limit - limit / 8;
        let will_fit = self.spooling.bytes + size <= self.settings.spool_bytes + self.spooling.freeing;
        if is_crowded
            && !will_fit
            && let Some(oldest) = self.oldest_late_of_largest()
            && matches!(self.uploads[oldest].place, BodyPlace::Disk(_))
        {
            self.forget(oldest, Gap::Overflow);
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
            BodyPlace::Disk(id) | BodyPlace::Returning(id) => self.spooling.remove(id, upload.size as u64),
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
                self.spooling.remove(id, bytes);
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
            self.spooling.remove(id, bytes);
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
                self.spooling.remove(id, upload.size as u64);
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
        self.spooling.freeing -= bytes;
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

#[cfg(test)]
mod tests;
