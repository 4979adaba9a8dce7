//! What publishing is told at its start, and what it counts. Decisions are in [`super::plan`].

use std::collections::BTreeMap;
use std::time::Duration;

/// How a stream is published. Durations that move a viewer's distance from live come from `hls::Timing`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// From a segment's arrival to its acknowledgement at most (`Timing::upload_deadline`); then it becomes a gap.
    pub segment_deadline: Duration,
    /// Between the starts of two writes of one playlist at least; the store's own
    /// [`crate::store::Store::rewrite_interval`] counts where it is longer.
    pub playlist_interval: Duration,
    /// A first attempt at anything but a segment that is on time, at most: that may take until its deadline. Doubles
    /// with each further one up to `longest_attempt`.
    pub attempt_timeout: Duration,
    /// Any attempt, at most.
    pub longest_attempt: Duration,
    /// An attempt at a segment that is on time and has no answer for so long gets a second one beside it: the slow tail
    /// of a store is a few requests, seldom two in a row.
    pub second_attempt_after: Duration,
    /// Pause before the second attempt; doubles with each further one up to `max_backoff`, each cut by a random part
    /// of up to a half, so that encoders do not come back all at once.
    pub first_backoff: Duration,
    /// Longest pause between two attempts.
    pub max_backoff: Duration,
    /// Attempts at init and media segments at a time: half of them for first attempts at what is on time, a quarter
    /// each at most for second ones and for what is late. Playlists and removals are not counted: there are few.
    pub concurrency: usize,
    /// Bytes of segments that wait for the store or are being written, at most.
    pub max_waiting_bytes: usize,
    /// Bytes of late segments that may wait on disk, beside those in memory; 0 is none. Only where an archive is kept.
    pub spool_bytes: u64,
    /// From the end of the stream to the last playlist's acknowledgement at most.
    pub seal_within: Duration,
    /// Whether an archive wants every segment: what left the playlists stays, and what missed its deadline is uploaded
    /// all the same. Otherwise the one is removed and the other dropped.
    pub archive: bool,
    /// Seed of the back-off's jitter.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_deadline: Duration::from_secs(2),
            playlist_interval: Duration::ZERO,
            attempt_timeout: Duration::from_millis(1500),
            longest_attempt: Duration::from_secs(15),
            second_attempt_after: Duration::from_millis(500),
            first_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            concurrency: 16,
            max_waiting_bytes: 64 << 20,
            spool_bytes: 0,
            seal_within: Duration::from_secs(30),
            archive: true,
            seed: 0,
        }
    }
}

/// Why a segment became a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gap {
    /// It came as one.
    Packager,
    /// The store did not take it in time.
    Deadline,
    /// The store refused it, or its name was taken.
    Refused,
    /// Too much was waiting.
    Overflow,
    /// Its init segment was not there in time.
    NoInit,
}

impl Gap {
    /// For metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Packager => "packager",
            Self::Deadline => "deadline",
            Self::Refused => "refused",
            Self::Overflow => "overflow",
            Self::NoInit => "no_init",
        }
    }
}

/// What happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Media segments acknowledged and listed.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Segments that became gaps, by reason.
    pub gaps: BTreeMap<Gap, u64>,
    /// Segments acknowledged after they had become gaps: only the archive has them.
    pub late: u64,
    /// Segments given up for good.
    pub lost: u64,
    /// Segments that waited on disk.
    pub spooled: u64,
    /// Times that the disk's room was used up.
    pub spool_full: u64,
    /// Failures of the disk.
    pub spool_failures: u64,
    /// What the last of them was.
    pub last_spool_failure: Option<String>,
    /// Playlist writes acknowledged.
    pub playlists: u64,
    /// Attempts that failed, at anything.
    pub failures: u64,
    /// What the last of them ran into.
    pub last_failure: Option<String>,
    /// Objects removed.
    pub removed: u64,
    /// Objects that could not be removed and remain.
    pub not_removed: u64,
    /// Whether another encoder was found to write the same playlists: nothing was written from then on.
    pub fenced: bool,
    /// Whether every playlist's last version was acknowledged.
    pub sealed: bool,
}
