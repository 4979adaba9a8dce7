//! Who writes a stream, as it stands in the store beside its playlists; and what a newcomer makes of what it finds. No
//! store and no clock here.

use super::Why;
use hls::resume::Past;
use hls::timing::Latency;
use hls::{MediaSpan, Timing, WallTime};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Below `{app}/{name}`.
pub(super) const OWNER: &str = "owner.json";

/// Whoever finds somebody else who came as recently as this has come at the same time, and is turned away. Longer and a
/// publisher that is cut off right after it came would be kept waiting; shorter and two that come back by themselves
/// would take a stream from each other for ever without anybody seeing more than a moment of it.
pub(super) const AT_ONCE: Duration = Duration::from_secs(4);

/// The record. Who it is from is not said in words: buckets may be public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The process.
    pub(super) encoder: String,
    /// Which of its streams.
    pub(super) claim: u64,
    /// Milliseconds since 1970.
    pub(super) since_ms: i64,
    /// What the stream is run with, for whoever takes it over: players stop when it changes.
    pub(super) latency_ms: u32,
    /// Whether it has ended in order.
    #[serde(default)]
    pub(super) released: bool,
}

impl Record {
    /// What cannot be read is nobody's.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    pub(super) fn body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("words and numbers can be written")
    }

    /// Whether its owner has come at the same time as `encoder` comes now.
    pub(super) fn keeps_out(&self, encoder: &str, now: WallTime) -> bool {
        let age_ms = (now.unix_micros() / 1000).abs_diff(self.since_ms);
        !self.released && self.encoder != encoder && u128::from(age_ms) < AT_ONCE.as_millis()
    }

    fn latency(&self) -> Option<Latency> {
        Latency::from_secs_f64(f64::from(self.latency_ms) / 1000.0).ok()
    }
}

/// What a newcomer would do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Its own latency, were there nothing to go on from.
    pub(super) latency: Latency,
    /// How long a publisher may be gone.
    pub(super) reconnect_window: Duration,
    /// What time it is.
    pub(super) now: WallTime,
}

impl Terms {
    /// Whether to go on, and with which latency: the stream's own where it is known, because it moves the hold-back that
    /// players were told; this encoder's where that makes segments of the same target duration.
    pub(super) fn judge(self, past: &Past, owner: Option<&Record>) -> Result<Latency, Why> {
        if past.ended() {
            return Err(Why::Ended);
        }
        // The last segment ended before its publisher went, by less than what it had begun.
        let window = MediaSpan::from(self.reconnect_window)
            + MediaSpan::from_millis(i64::from(past.target_duration()) * 1000);
        if self.now > past.ended_at() + window {
            return Err(Why::WindowOver);
        }
        let fits = |latency: &Latency| Timing::new(*latency).target_duration == past.target_duration();
        let own = owner.and_then(Record::latency).filter(fits);
        own.or(Some(self.latency).filter(fits)).ok_or(Why::TargetDuration)
    }
}
