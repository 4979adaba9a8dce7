//! The local disk on which bodies wait while the store is slow: its room, its files and its failures. Which bodies go
//! there, and which come back, is decided in [`super::uploads`]; file operations are in [`crate::delivery::spool`].
//!
//! Three rules:
//!
//! 1. Late segments go to the disk, for the archive, while more than half of the memory for segments is taken: viewers
//!    no longer need them, and segments that are on time are uploaded now or never. The newest goes first, because the
//!    oldest is uploaded first.
//! 2. The oldest comes out first, as soon as its upload may start.
//! 3. When the disk is full, and memory too but for an eighth, the largest rendition's oldest late segment goes: from
//!    the disk, or from memory by the memory's own bound.
//!
//! After a failure nothing is written to the disk for [`REST`]; segments that would have gone there stay in memory.
//! Nothing waits for the disk.

use crate::delivery::DeliverySettings;
use std::sync::Arc;
use std::time::Duration;

/// Identifies a spooled body within its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SpoolId(pub u64);

/// Concurrent disk writes, and concurrent disk reads.
const AT_A_TIME: usize = 2;
/// Pause after a disk failure.
const REST: Duration = Duration::from_secs(30);
/// Time-out of a disk write or read; then it counts as failed.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
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

    pub(super) const fn id(self) -> Option<SpoolId> {
        match self {
            Self::Memory => None,
            Self::Leaving(id) | Self::Disk(id) | Self::Returning(id) => Some(id),
        }
    }
}

/// The disk's part of a plan.
#[derive(Debug)]
pub(super) struct Spooling {
    settings: Arc<DeliverySettings>,
    next_id: u64,
    /// Bytes of all files on disk, including files being written and files not removed yet.
    bytes: u64,
    /// The spool is full, with hysteresis: set when there is no room, cleared when at most half of the space is used.
    is_full: bool,
    /// Earliest time for the next write.
    not_before: Duration,
    in_flight: DiskJobs,
    /// Files to be removed, with their bytes.
    unneeded: Vec<(SpoolId, u64)>,
    /// Bytes of the files that are being removed or will be.
    freeing: u64,
    /// Files being written whose upload is already stored or given up.
    orphans: Vec<SpoolId>,
}

/// Numbers of disk jobs in flight.
#[derive(Debug, Default)]
struct DiskJobs {
    writes: usize,
    reads: usize,
    removals: usize,
}

/// Whether a body has room on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpoolRoom {
    /// The file that the body is to be written to.
    Reserved(SpoolId),
    /// The disk is full.
    None {
        /// Whether the disk was not full before.
        is_news: bool,
        /// Whether there will be room once unneeded files are removed.
        will_fit: bool,
    },
}

impl Spooling {
    pub(super) fn new(settings: Arc<DeliverySettings>) -> Self {
        Self {
            settings,
            next_id: 0,
            bytes: 0,
            is_full: false,
            not_before: Duration::ZERO,
            in_flight: DiskJobs::default(),
            unneeded: Vec::new(),
            freeing: 0,
            orphans: Vec::new(),
        }
    }

    /// Bytes on disk.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether another body may be written now.
    pub(super) fn may_write(&self, now: Duration) -> bool {
        self.settings.spool_bytes > 0 && self.not_before <= now && self.in_flight.writes < AT_A_TIME
    }

    /// Reserves room for a body of this size, and begins its write.
    pub(super) fn start_write(&mut self, size: u64) -> SpoolRoom {
        let limit = self.settings.spool_bytes;
        if self.bytes + size > limit {
            let is_news = !std::mem::replace(&mut self.is_full, true);
            return SpoolRoom::None { is_news, will_fit: self.bytes + size <= limit + self.freeing };
        }
        self.is_full &= self.bytes > limit / 2;
        let id = SpoolId(self.next_id);
        self.next_id += 1;
        self.bytes += size;
        self.in_flight.writes += 1;
        SpoolRoom::Reserved(id)
    }

    /// A write has ended. False if the body is not needed on the disk any more.
    pub(super) fn written(&mut self, id: SpoolId, bytes: u64, is_written: bool, now: Duration) -> bool {
        self.in_flight.writes -= 1;
        if !is_written {
            self.rest(now);
            self.bytes -= bytes;
        }
        let Some(index) = self.orphans.iter().position(|orphan| *orphan == id) else { return true };
        self.orphans.swap_remove(index);
        if is_written {
            self.remove(id, bytes);
        }
        false
    }

    /// Whether another body may be read back now.
    pub(super) const fn may_read(&self) -> bool {
        self.in_flight.reads < AT_A_TIME
    }

    pub(super) fn start_read(&mut self) {
        self.in_flight.reads += 1;
    }

    /// A read has ended.
    pub(super) fn read(&mut self) {
        self.in_flight.reads -= 1;
    }

    /// The disk has failed: nothing is written for a while.
    pub(super) fn rest(&mut self, now: Duration) {
        self.not_before = now + REST;
    }

    /// The body of an upload that was in this place is no longer needed.
    pub(super) fn release(&mut self, place: BodyPlace, bytes: u64) {
        match place {
            BodyPlace::Memory => {}
            BodyPlace::Leaving(id) => self.orphans.push(id),
            BodyPlace::Disk(id) | BodyPlace::Returning(id) => self.remove(id, bytes),
        }
    }

    /// A file is no longer needed.
    pub(super) fn remove(&mut self, id: SpoolId, bytes: u64) {
        self.unneeded.push((id, bytes));
        self.freeing += bytes;
    }

    /// The next file to be removed, with its bytes.
    pub(super) fn start_discard(&mut self) -> Option<(SpoolId, u64)> {
        if self.in_flight.removals >= REMOVALS {
            return None;
        }
        let unneeded = self.unneeded.pop()?;
        self.in_flight.removals += 1;
        Some(unneeded)
    }

    /// A file was removed. A file that could not be removed is removed with the folder at the stream's end.
    pub(super) fn discarded(&mut self, bytes: u64) {
        self.in_flight.removals -= 1;
        self.bytes -= bytes;
        self.freeing -= bytes;
    }
}

#[cfg(test)]
mod tests;
