//! A stream's lease: the record stored beside the playlists, and how an encoder judges a stream that it finds. Access
//! to the store and the clock do not belong here.

use super::FreshReason;
use hls::Timing;
use hls::resume::Past;
use hls::timing::Latency;
use media::{MediaSpan, WallTime};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Object name of the lease, below `{app}/{name}`.
pub(super) const OWNER: &str = "owner.json";

/// A claim younger than this is a race: the second claimant loses. If this were longer, a publisher that is cut off
/// right after it connected would be kept waiting; if shorter, two publishers that reconnect automatically would take
/// the stream from each other endlessly, and viewers would see no more than moments of either.
pub(super) const AT_ONCE: Duration = Duration::from_secs(4);

/// The lease record. It names its encoder by a random number only, because buckets may be public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwnerRecord {
    /// Random identifier of the process.
    pub(super) encoder: String,
    /// Number of the claim within the process.
    pub(super) claim: u64,
    /// Time of the claim, in milliseconds since 1970.
    pub(super) since_ms: i64,
    /// The stream's latency in milliseconds, for an encoder that takes the stream over: players stop when the latency
    /// changes.
    pub(super) latency_ms: u32,
    /// Whether the stream has ended in order.
    #[serde(default)]
    pub(super) released: bool,
}

impl OwnerRecord {
    /// Parses a record; `None` if it is unreadable, which counts as no lease.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    pub(super) fn body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("words and numbers can be written")
    }

    /// Whether `encoder`, claiming at `now`, loses to this lease: another encoder claimed the lease at about the same
    /// time and has not released it.
    pub(super) fn keeps_out(&self, encoder: &str, now: WallTime) -> bool {
        let age_ms = (now.unix_micros() / 1000).abs_diff(self.since_ms);
        !self.released && self.encoder != encoder && u128::from(age_ms) < AT_ONCE.as_millis()
    }

    fn latency(&self) -> Option<Latency> {
        Latency::from_secs_f64(f64::from(self.latency_ms) / 1000.0).ok()
    }
}

/// The terms on which this encoder claims a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Latency that a new stream would be run with.
    pub(super) latency: Latency,
    /// How long a publisher may be absent.
    pub(super) reconnect_window: Duration,
    /// Time of the claim.
    pub(super) now: WallTime,
}

impl Terms {
    /// Decides whether to continue the stream, and with which latency: the stream's own latency where it is known,
    /// because a change would move the hold-back that players were given; otherwise this encoder's latency, if it leads
    /// to the same target duration.
    pub(super) fn judge(self, past: &Past, owner: Option<&OwnerRecord>) -> Result<Latency, FreshReason> {
        if past.ended() {
            return Err(FreshReason::Ended);
        }
        // The last stored segment ended before the publisher left; the segment unfinished at that time is shorter than
        // the target duration.
        let window = MediaSpan::from(self.reconnect_window)
            + MediaSpan::from_millis(i64::from(past.target_duration()) * 1000);
        if self.now > past.ended_at() + window {
            return Err(FreshReason::WindowOver);
        }
        let fits = |latency: &Latency| Timing::new(*latency).target_duration == past.target_duration();
        let own = owner.and_then(OwnerRecord::latency).filter(fits);
        own.or(Some(self.latency).filter(fits)).ok_or(FreshReason::TargetDuration)
    }
}
