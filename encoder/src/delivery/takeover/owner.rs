//! A stream's lease: the record stored beside the playlists, and how an encoder judges a stream that it finds. Access
//! to the store and the clock do not belong here.

use super::FreshReason;
use hls::Timing;
use hls::resume::Past;
use hls::timing::Latency;
use media::{MediaSpan, WallTime};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::ObjectName;

/// Object name of the lease of the stream `{app}/{name}`.
pub(crate) fn lease_name(stream: &str) -> ObjectName {
    ObjectName::new(format!("{stream}/owner.json"))
}

/// A claim younger than this is a race: the second claimant loses. If this were longer, a publisher that is cut off
/// right after it connected would be kept waiting; if shorter, two publishers that reconnect automatically would take
/// the stream from each other endlessly, and viewers would see no more than moments of either.
pub(super) const AT_ONCE: Duration = Duration::from_secs(4);

/// How long after its newest stored media a publisher counts as alive, if its encoder has not said that the publisher is
/// gone: segments are stored within the latency, 15 s at most. An encoder that was killed keeps strangers out for this
/// long; a publisher that has proved who it is need not wait.
pub(super) const ALIVE_FOR: MediaSpan = MediaSpan::from_millis(20_000);

/// The lease record. It names its encoder by a random number and a sealed address only, because buckets may be public.
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
    /// Whether a publisher is connected; `false` while the stream waits for its publisher.
    #[serde(default = "connected")]
    pub(super) published: bool,
    /// Time until which an operator lets nobody publish the stream, in milliseconds since 1970. The reason is not
    /// recorded, because buckets may be public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) banned_until_ms: Option<i64>,
    /// Where edges reach the encoder, sealed ([`crate::edge::secret`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<String>,
}

/// What an edge reads in a lease record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    /// The encoder's address, sealed.
    pub(crate) sealed: Option<String>,
    /// Distinguishes the claim from all others.
    pub(crate) claim: String,
    /// Time of the claim.
    pub(crate) since: WallTime,
    /// Whether the stream has ended in order.
    pub(crate) ended: bool,
}

impl Whereabouts {
    /// Parses a record; `None` if it is unreadable.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let OwnerRecord { encoder, claim, since_ms, released, at, .. } = OwnerRecord::parse(body)?;
        let since = WallTime::from_unix_micros(since_ms.saturating_mul(1000));
        Some(Self { sealed: at, claim: format!("{encoder} {claim}"), since, ended: released })
    }
}

/// Records of earlier versions do not say whether a publisher is connected.
fn connected() -> bool {
    true
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

    /// Whether the stream's publisher is alive at an encoder other than `encoder`, as far as the store tells. `past` is what the stored playlists list, if they can be read.
    pub(super) fn is_alive_for(&self, encoder: &str, past: Option<&Past>, now: WallTime) -> bool {
        let since = WallTime::from_unix_micros(self.since_ms.saturating_mul(1000));
        let newest = past.map_or(since, |past| past.ended_at().max(since));
        let fresh = now <= newest + ALIVE_FOR;
        !self.released && self.published && self.encoder != encoder && fresh
    }

    /// The time until which nobody may publish the stream, if that time is not over.
    pub(super) fn banned_until(&self, now: WallTime) -> Option<WallTime> {
        let until = WallTime::from_unix_micros(self.banned_until_ms?.saturating_mul(1000));
        (until > now).then_some(until)
    }

    fn latency(&self) -> Option<Latency> {
        Latency::from_secs_f64(f64::from(self.latency_ms) / 1000.0).ok()
    }
}

/// An encoder's claim to a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// Latency that a new stream would be run with.
    pub(crate) latency: Latency,
    /// How long a publisher may be absent.
    pub(crate) reconnect_window: Duration,
    /// Whether the publisher has proved that the name is its own: only then is the stream taken from a publisher that
    /// is alive at another encoder.
    pub(crate) proven: bool,
    /// Time of the claim.
    pub(crate) now: WallTime,
}

impl Claim {
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
