//! Attempts in flight: each gets an ID when it is given out, and what it is for is remembered until its result comes.

use super::removals::Removal;
use super::spooling::SpoolId;
use super::uploads::UploadAttempt;
use bytes::Bytes;
use hls::RungName;
use std::collections::HashMap;
use std::time::Duration;
use store::{Expected, Object, ObjectName, Stored, Version};

/// Identifies a job between [`DeliveryPlan::poll`](super::DeliveryPlan::poll) and
/// [`DeliveryPlan::done`](super::DeliveryPlan::done).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StoreJobId(pub(super) u64);

/// One attempt to make now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoreJob {
    /// To be passed to [`DeliveryPlan::done`](super::DeliveryPlan::done) with the result.
    pub id: StoreJobId,
    /// The operation.
    pub work: StoreWork,
    /// After this long the attempt counts as [`store::StoreError::Unavailable`].
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

/// What an attempt in flight is for.
#[derive(Debug)]
pub(super) enum Flight {
    Upload(UploadAttempt),
    /// `None` is the multivariant playlist.
    Playlist(Option<RungName>),
    Removal(Removal),
    Leaving {
        id: SpoolId,
        bytes: u64,
    },
    Returning(SpoolId),
    Discard {
        bytes: u64,
    },
}

impl Flight {
    /// Whether the attempt is at a file on the disk, not at an object in the store.
    pub(super) const fn is_on_disk(&self) -> bool {
        match self {
            Self::Leaving { .. } | Self::Returning(_) | Self::Discard { .. } => true,
            Self::Upload(_) | Self::Playlist(_) | Self::Removal(_) => false,
        }
    }
}

/// Attempts in flight.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    next_id: u64,
    in_flight: HashMap<StoreJobId, Flight>,
}

impl Jobs {
    /// The ID that the next job will have.
    pub(super) const fn next_id(&self) -> StoreJobId {
        StoreJobId(self.next_id)
    }

    pub(super) fn start(&mut self, flight: Flight, work: StoreWork, timeout: Duration) -> StoreJob {
        let id = self.next_id();
        self.next_id += 1;
        self.in_flight.insert(id, flight);
        StoreJob { id, work, timeout }
    }

    /// Forgets an attempt, and returns what it was for.
    pub(super) fn finish(&mut self, id: StoreJobId) -> Option<Flight> {
        self.in_flight.remove(&id)
    }

    /// Whether no attempt at the store is in flight.
    pub(super) fn only_disk(&self) -> bool {
        self.in_flight.values().all(Flight::is_on_disk)
    }
}
