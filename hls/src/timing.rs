//! The latency knob: one setting becomes every duration that moves the distance from live, with the budget written
//! next to each. No other file of the project holds such a number.
//!
//! What does not belong here: bit rates and sizes (the ladder's), and timeouts that a viewer cannot see.
//!
//! The budget of a viewer on plain HLS, from the camera:
//!
//! ```text
//! transport + encoder delay + one segment being made + upload and poll + HOLD-BACK
//!  ~0.3 s     lookahead/B-frames  1 to 3 s               ~0.9 s         >= 3 x TARGETDURATION
//! ```
//!
//! HOLD-BACK may not be below three target durations (rfc8216bis 4.4.3.8) and a target duration is a whole second at
//! least, so plain HLS ends at a bit over 5 s whatever was asked for: [`Timing::plain_hls_latency`] says what it will
//! be. What is left over above that goes into a longer hold-back, that is, into the viewers' protection from stalls.

use crate::time::{MediaSpan, TICKS_PER_SECOND};
use std::fmt;
use std::str::FromStr;

/// Smallest setting in milliseconds.
const MIN_LATENCY_MS: u32 = 2_000;
/// Largest setting in milliseconds.
const MAX_LATENCY_MS: u32 = 15_000;
/// Publisher's network and jitter, upload to the store, and what polling adds on average: measured playback of 1 s and
/// 2 s segments lies 0.9 to 1.9 s above hold-back, segment and encoder.
const TRANSPORT_MS: i64 = 1_200;
/// Frame rate at which frames of lookahead are counted as time: the slowest of the common ones.
const NOMINAL_FRAME_RATE: u32 = 25;
/// How far a segment may exceed TARGETDURATION: rounding to nearest allows just under half a second; the rest is for
/// timestamps in whole milliseconds.
const OVER_TARGET_MS: i64 = 450;

/// Glass to glass, as the operator asks for it: 2 to 15 seconds, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Latency(u32);

/// A latency setting that cannot be used; the operator's to correct.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// Outside 2 to 15 seconds.
    #[error("latency is 2 to 15 seconds, fractions allowed (4 or 2.5), not {0}")]
    OutOfRange(String),
    /// Not a number.
    #[error("latency is a number of seconds from 2 to 15 (4 or 2.5), not '{0}'")]
    NotANumber(String),
}

impl Latency {
    /// From seconds, to the nearest millisecond.
    ///
    /// # Errors
    /// Outside 2..=15, or not a number.
    pub fn from_secs_f64(seconds: f64) -> Result<Self, TimingError> {
        if !seconds.is_finite() {
            return Err(TimingError::NotANumber(seconds.to_string()));
        }
        let ms = (seconds * 1000.0).round();
        if !(f64::from(MIN_LATENCY_MS)..=f64::from(MAX_LATENCY_MS)).contains(&ms) {
            return Err(TimingError::OutOfRange(seconds.to_string()));
        }
        Ok(Self(ms as u32))
    }

    /// In milliseconds.
    pub const fn as_millis(self) -> u32 {
        self.0
    }

    /// In seconds.
    pub fn as_secs_f64(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl FromStr for Latency {
    type Err = TimingError;

    fn from_str(text: &str) -> Result<Self, TimingError> {
        let seconds = text.trim().parse().map_err(|_| TimingError::NotANumber(text.to_owned()))?;
        Self::from_secs_f64(seconds)
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.as_secs_f64())
    }
}

/// All durations that follow from one [`Latency`]. Constant for a stream's life: players stop for good when target
/// duration or hold-back change between two reloads.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Timing {
    /// What was asked for.
    pub latency: Latency,
    /// Width of the keyframe grid: every encoder puts an IDR frame on the first frame at or after its multiples on the
    /// media axis. Divides `segment`; 2 s at most, so that a viewer switches rungs and starts fast.
    pub gop: MediaSpan,
    /// What a segment lasts, but for the first and the last of an epoch. A viewer is behind by one of these, because a
    /// segment is listed when it is whole.
    pub segment: MediaSpan,
    /// What a segment may last at most: EXTINF rounds to no more than `target_duration`. A keyframe later than this is
    /// not waited for.
    pub max_segment: MediaSpan,
    /// EXT-X-TARGETDURATION in seconds.
    pub target_duration: u32,
    /// HOLD-BACK: how far from the playlist's end players stay. Three target durations, or more where the setting has
    /// room: then it is what protects viewers from late uploads and short outages.
    pub hold_back: MediaSpan,
    /// Least duration of a full playlist; see `min_window_segments`.
    pub window: MediaSpan,
    /// Least number of segments in a full playlist (Apple wants 6 at least; with two more a slow reload finds its next
    /// segment).
    pub min_window_segments: usize,
    /// How long a segment stays readable after it left the playlists: its own duration and that of the longest
    /// playlist that listed it (rfc8216bis 6.2.2), here with the nominal lengths; [`crate::presentation`] measures.
    pub retention: MediaSpan,
    /// Frames the encoder may look ahead: better rate control, each 40 ms later at 25 frames a second.
    pub lookahead_frames: u32,
    /// B-frames in a row at most: smaller video, each one frame later.
    pub b_frames: u32,
    /// Rate-control buffer in milliseconds; not above a segment, so that each segment keeps to the bit rate by itself
    /// and downloads in less than it plays.
    pub vbv_ms: u32,
    /// Media time that may wait before the encoder; beyond it media is shed up to the next keyframe. Spends the
    /// viewers' hold-back when the encoder is slow, so it is a fraction of it.
    pub shed_queue: MediaSpan,
    /// How long an upload may take with all its retries before the segment becomes EXT-X-GAP: a viewer has
    /// `hold_back` in hand, less a target duration for its own download.
    pub upload_deadline: MediaSpan,
    /// How long a worker that is being fed may be silent before it counts as hung.
    pub worker_silence: MediaSpan,
    /// The longest published GOP with which the publisher's keyframes can be the grid.
    pub max_source_gop: MediaSpan,
    /// How far one rendition may fall behind another before its missing segments are listed as gaps: what the shed
    /// queue, the encoder and the discovery of a hung worker may take together, and a second.
    pub stall: MediaSpan,
}

impl Timing {
    /// The durations for a latency. Pure: the same setting always gives the same numbers.
    pub fn new(latency: Latency) -> Self {
        let ms = i64::from(latency.as_millis());
        let (lookahead_frames, b_frames) = match ms {
            ..3_000 => (4, 0),
            3_000..5_000 => (8, 1),
            5_000..8_000 => (12, 2),
            8_000..12_000 => (20, 2),
            _ => (30, 3),
        };
        let encoder_delay_ms = i64::from((lookahead_frames + b_frames) * 1000 / NOMINAL_FRAME_RATE);
        let fits =
            |seconds: &i64| 3 * seconds * 1000 + seconds * 1000 + encoder_delay_ms + TRANSPORT_MS <= ms;
        let segment_s = [3, 2].into_iter().find(fits).unwrap_or(1);
        let segment_ms = segment_s * 1000;
        let gop_ms = if segment_s == 3 { 1_500 } else { segment_ms };
        let rest_ms = ms - segment_ms - encoder_delay_ms - TRANSPORT_MS;
        let hold_back_ms = rest_ms.max(3 * segment_ms);
        let max_segment_ms = segment_ms + OVER_TARGET_MS;
        let min_window_segments = 8;
        // Apple's player has been seen to stop on short windows; three hold-backs leave a late viewer room.
        let window_ms = 30_000.max(3 * hold_back_ms).max(min_window_segments * max_segment_ms);
        let shed_queue_ms = (ms / 4).clamp(500, 2_000);
        let worker_silence_ms = 2_000 + (ms - 2_000) / 13;
        let span = MediaSpan::from_millis;
        Self {
            latency,
            gop: span(gop_ms),
            segment: span(segment_ms),
            max_segment: span(max_segment_ms),
            target_duration: segment_s as u32,
            hold_back: span(hold_back_ms),
            window: span(window_ms),
            min_window_segments: min_window_segments as usize,
            retention: span(window_ms + 2 * max_segment_ms),
            lookahead_frames,
            b_frames,
            vbv_ms: if ms < 3_000 { 600 } else { segment_ms.min(2_000) as u32 },
            shed_queue: span(shed_queue_ms),
            upload_deadline: span((hold_back_ms - segment_ms).min(6_000)),
            worker_silence: span(worker_silence_ms),
            // Timestamps in whole milliseconds make two keyframes up to 2 ms further apart than they are.
            max_source_gop: span(max_segment_ms - 50),
            stall: span(shed_queue_ms + worker_silence_ms + encoder_delay_ms + 1_000),
        }
    }

    /// What the encoder keeps back: lookahead and B-frames at 25 frames a second.
    pub fn encoder_delay(&self) -> MediaSpan {
        let frames = i64::from(self.lookahead_frames + self.b_frames);
        MediaSpan::from_ticks_90k(frames * TICKS_PER_SECOND / i64::from(NOMINAL_FRAME_RATE))
    }

    /// Seconds from glass to glass that a viewer on plain HLS will really see, of an encoder that keeps up. Above the
    /// setting where three target durations do not fit into it: the lowest that plain HLS gives is about 5.4 s. Players
    /// were measured up to a second above this (a reload that just missed a segment stays late).
    pub fn plain_hls_latency(&self) -> f64 {
        let transport = MediaSpan::from_millis(TRANSPORT_MS);
        (self.hold_back + self.segment + self.encoder_delay() + transport).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Timing> {
        (MIN_LATENCY_MS..=MAX_LATENCY_MS).step_by(10).map(|ms| Timing::new(Latency(ms)))
    }

    #[test]
    fn every_setting_obeys_the_rules_of_hls() {
        for t in all() {
            let at = t.latency;
            let td = f64::from(t.target_duration);
            assert!(t.target_duration >= 1, "{at}");
            assert!(t.max_segment.as_secs_f64().round() <= td, "EXTINF above TARGETDURATION at {at}");
            assert!(t.segment <= t.max_segment && t.max_source_gop < t.max_segment, "{at}");
            assert!(t.max_source_gop >= t.segment, "a publisher with our own grid must pass at {at}");
            assert_eq!(t.segment.ticks_90k() % t.gop.ticks_90k(), 0, "{at}");
            assert!(t.gop <= MediaSpan::from_millis(2_000), "{at}");
            assert!(t.hold_back.as_secs_f64() >= 3.0 * td, "HOLD-BACK below 3 x TARGETDURATION at {at}");
            assert!(t.window >= MediaSpan::from_millis(30_000), "{at}");
            assert!(t.window.ticks_90k() >= 8 * t.segment.ticks_90k(), "{at}");
            assert!(t.window.ticks_90k() >= 3 * t.hold_back.ticks_90k(), "{at}");
            assert!(t.retention >= t.window + t.max_segment, "{at}");
            assert!(t.upload_deadline < t.hold_back && t.upload_deadline >= t.segment, "{at}");
            assert!(t.shed_queue < t.hold_back, "{at}");
            assert!((2.0..=3.0).contains(&t.worker_silence.as_secs_f64()), "{at}");
            assert!(t.stall > t.shed_queue + t.worker_silence, "{at}");
            assert!(i64::from(t.vbv_ms) <= t.segment.ticks_90k() / 90, "{at}");
        }
    }

    #[test]
    fn more_latency_never_buys_less() {
        let all: Vec<_> = all().collect();
        for pair in all.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            assert!(
                a.segment <= b.segment
                    && a.lookahead_frames <= b.lookahead_frames
                    && a.b_frames <= b.b_frames
            );
            assert!(a.vbv_ms <= b.vbv_ms && a.shed_queue <= b.shed_queue);
        }
    }

    #[test]
    fn plain_hls_keeps_to_the_setting_where_it_can_and_admits_where_not() {
        for t in all() {
            let asked = t.latency.as_secs_f64();
            let real = t.plain_hls_latency();
            if asked >= 6.0 {
                assert!((real - asked).abs() < 0.001, "asked for {asked}, gives {real}");
            } else {
                assert!(real >= asked && real < 6.0, "asked for {asked}, gives {real}");
            }
        }
    }

    #[test]
    fn table_of_the_settings_people_use() {
        // latency, target duration, gop ms, hold-back ms, lookahead, b-frames, plain HLS latency
        let table = [
            (2.0, 1, 1_000, 3_000, 4, 0, 5.36),
            (4.0, 1, 1_000, 3_000, 8, 1, 5.56),
            (6.0, 1, 1_000, 3_240, 12, 2, 6.0),
            (8.0, 1, 1_000, 4_920, 20, 2, 8.0),
            (10.0, 1, 1_000, 6_920, 20, 2, 10.0),
            (10.5, 2, 2_000, 6_420, 20, 2, 10.5),
            (15.0, 3, 1_500, 9_480, 30, 3, 15.0),
        ];
        for (latency, td, gop, hold_back, lookahead, b_frames, plain) in table {
            let t = Timing::new(Latency::from_secs_f64(latency).unwrap());
            assert_eq!(t.target_duration, td, "{latency}");
            assert_eq!(t.gop, MediaSpan::from_millis(gop), "{latency}");
            assert_eq!(t.hold_back, MediaSpan::from_millis(hold_back), "{latency}");
            assert_eq!((t.lookahead_frames, t.b_frames), (lookahead, b_frames), "{latency}");
            assert!((t.plain_hls_latency() - plain).abs() < 0.001, "{latency}: {}", t.plain_hls_latency());
        }
    }

    #[test]
    fn an_operator_reads_what_is_wrong() {
        assert_eq!("2.5".parse::<Latency>().unwrap().as_millis(), 2_500);
        assert_eq!(
            "1".parse::<Latency>().unwrap_err().to_string(),
            "latency is 2 to 15 seconds, fractions allowed (4 or 2.5), not 1"
        );
        assert_eq!(
            "fast".parse::<Latency>().unwrap_err().to_string(),
            "latency is a number of seconds from 2 to 15 (4 or 2.5), not 'fast'"
        );
        for bad in ["", "NaN", "inf", "-3", "15.001", "1.99", "1e300", "4s"] {
            assert!(bad.parse::<Latency>().is_err(), "{bad}");
        }
    }
}
