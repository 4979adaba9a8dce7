//! Settings and counters of publishing. Decisions are in [`super::plan`].

use crate::retry::Backoff;
use std::collections::BTreeMap;
use std::time::Duration;
use store::StoreError;

/// How a stream is published. Durations that move a viewer's distance from live come from `hls::Timing`.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliverySettings {
    /// Longest time from a segment's arrival to its acknowledgement (`Timing::upload_deadline`); then it becomes a
    /// gap.
    pub segment_deadline: Duration,
    /// Shortest time between the starts of two writes of one playlist; the store's own
    /// [`store::Store::rewrite_interval`] applies where it is longer.
    pub playlist_interval: Duration,
    /// Time-out of the first attempt; doubles with each failed attempt up to `longest_attempt`. Init segments get
    /// `segment_deadline` at least, late segments as long as recent uploads took, and a segment that is on time may
    /// take until its deadline. Removals are not doubled.
    pub attempt_timeout: Duration,
    /// Longest time-out of any attempt.
    pub longest_attempt: Duration,
    /// An attempt at a segment that is on time is hedged by a second attempt after this long without an answer: a
    /// store's slow tail is a few requests, seldom two in a row.
    pub second_attempt_after: Duration,
    /// Pause before the second attempt; doubles with each further attempt up to `max_backoff`. Jitter shortens each
    /// pause by up to a half, so that encoders do not all retry at the same moment.
    pub first_backoff: Duration,
    /// Longest pause between two attempts.
    pub max_backoff: Duration,
    /// Concurrent attempts at init and media segments: half of them for first attempts at what is on time, a quarter
    /// each at most for second attempts and for late segments. Playlists and removals are not counted, because they
    /// are few.
    pub concurrency: usize,
    /// Most bytes of segments that wait for the store or are being written.
    pub max_waiting_bytes: usize,
    /// Most bytes of late segments that may wait on disk, in addition to those in memory; 0 disables the disk. Only
    /// used where an archive is kept.
    pub spool_bytes: u64,
    /// Longest time from the end of the stream to the last playlist's acknowledgement.
    pub seal_within: Duration,
    /// Whether an archive needs every segment: segments that left the playlists are kept, and segments that missed
    /// their deadline are still uploaded. Otherwise the former are removed and the latter dropped.
    pub archive: bool,
    /// Seed of the backoff's jitter.
    pub seed: u64,
}

impl Default for DeliverySettings {
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

impl DeliverySettings {
    /// Pause after that many failed attempts in a row.
    pub(super) fn pause(&self, error: &StoreError, failures: u32, random: &mut fastrand::Rng) -> Duration {
        if error.is_retryable() {
            Backoff { first: self.first_backoff, most: self.max_backoff }.pause(failures, random)
        } else {
            // What the store refuses now (a full disk, a bucket that became read-only) may be accepted later.
            self.max_backoff
        }
    }

    /// Time-out of an attempt after that many failed attempts. The time-out grows with each failure: even a store that
    /// is slow for every request must receive the object eventually.
    pub(super) fn timeout(&self, failures: u32) -> Duration {
        self.attempt_timeout.saturating_mul(1 << failures.min(16)).min(self.longest_attempt)
    }
}

/// Why a segment became a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gap {
    /// The packager delivered the segment as a gap.
    Packager,
    /// The store did not acknowledge the segment by its deadline.
    Deadline,
    /// The store refused the segment, or its name was taken.
    Refused,
    /// Too many bytes were waiting ([`DeliverySettings::max_waiting_bytes`]).
    Overflow,
    /// Its init segment was not acknowledged in time.
    NoInit,
}

impl Gap {
    /// The reason as a metric label.
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

/// Counters of one stream's publishing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounters {
    /// Media segments acknowledged and listed.
    pub segments: u64,
    /// Bytes of those segments.
    pub bytes: u64,
    /// Segments that became gaps, by reason.
    pub gaps: BTreeMap<Gap, u64>,
    /// Segments acknowledged after they had become gaps: only the archive has them.
    pub late: u64,
    /// Segments given up for good.
    pub lost: u64,
    /// Segments that were moved to the disk.
    pub spooled: u64,
    /// Times that the spool became full.
    pub spool_full: u64,
    /// Failed operations on the spool.
    pub spool_failures: u64,
    /// The last spool failure.
    pub last_spool_failure: Option<String>,
    /// Playlist writes acknowledged.
    pub playlists: u64,
    /// Attempts that failed, at anything.
    pub failures: u64,
    /// The error of the last failed attempt.
    pub last_failure: Option<String>,
    /// Objects removed.
    pub removed: u64,
    /// Objects that could not be removed and remain in the store.
    pub not_removed: u64,
    /// Whether another encoder was found to write the same playlists: nothing was written from then on.
    pub fenced: bool,
    /// Whether every playlist's last version was acknowledged.
    pub sealed: bool,
}

impl DeliveryCounters {
    /// Gaps by the name of their reason, for log lines.
    pub(super) fn gaps_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.gaps.iter().map(|(reason, count)| (reason.as_str(), *count))
    }

    /// Counts of what an orderly stream does not have, for log lines.
    pub(super) fn troubles(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [
            ("late", self.late),
            ("lost", self.lost),
            ("spooled", self.spooled),
            ("spool_full", self.spool_full),
            ("spool_failures", self.spool_failures),
            ("failures", self.failures),
            ("not_removed", self.not_removed),
        ]
        .into_iter()
    }
}
