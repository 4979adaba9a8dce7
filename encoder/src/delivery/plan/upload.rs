//! One init or media segment on its way to the store.

use super::jobs::StoreJobId;
use super::spooling::BodyPlace;
use hls::RungName;
use hls::packager::InitSegment;
use std::time::Duration;
use store::{Object, ObjectName};

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
    pub(super) attempts: u32,
    pub(super) not_before: Duration,
    /// Attempts in flight.
    pub(super) flying: Vec<StoreJobId>,
    /// Start of the newest attempt.
    pub(super) started: Duration,
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
    pub(super) fn new(what: What, name: ObjectName, object: Object, now: Duration) -> Self {
        let (size, place, flying) = (object.body.len(), BodyPlace::Memory, Vec::new());
        Self { what, name, object, place, size, attempts: 0, not_before: now, flying, started: now }
    }

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
    pub(super) fn is_ready(&self) -> bool {
        self.is_idle() && self.place.is_memory()
    }

    /// Bytes that the upload takes of the memory for segments.
    pub(super) fn bytes(&self) -> usize {
        match self.what {
            What::Segment { .. } if self.place.takes_memory() => self.size,
            What::Init(_) | What::Segment { .. } => 0,
        }
    }

    pub(super) fn deadline_passed(&self, now: Duration) -> bool {
        matches!(self.what, What::Segment { deadline, late: false, .. } if deadline <= now)
    }
}
