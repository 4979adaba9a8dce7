//! The latency knob: one setting becomes every duration that moves the distance from live, with the budget written
//! next to each. No other file of the project holds such a number.
//!
//! What does not belong here: bit rates and sizes (the ladder's), and timeouts that a viewer cannot see.
//!
//! The budget, from the camera to the screen, of a viewer on our own origin:
//!
//! ```text
//! knob = CAPTURE + WORK + encoder delay + VIEWER + hold-back
//!        0.30 s    0.10   lookahead and    0.15     the rest: what the player has in hand
//!                         B-frames                  against stalls
//! ```
//!
//! Players stay a hold-back behind the *end* of what is listed and let that end move on by their clock in between
//! (hls.js `LatencyController`), so the length of a segment or part is not in the sum: it is why the hold-back has a
//! least value. That is three target durations (rfc8216bis 4.4.3.8), a whole second each, for players of whole
//! segments; three parts (Apple 14.3) for those that understand parts. Parts are made below [`PARTS_BELOW_MS`]; from
//! there on whole segments leave room enough, cost a third of the requests and are kinder to a CDN.
//!
//! A bucket holds no requests: whoever reads from a store finds a segment by polling, after it was written, see
//! [`Timing::store_latency`].

use crate::time::{MediaSpan, TICKS_PER_SECOND};
use std::fmt;
use std::str::FromStr;

/// Smallest setting in milliseconds.
const MIN_LATENCY_MS: u32 = 2_000;
/// Largest setting in milliseconds.
const MAX_LATENCY_MS: u32 = 15_000;
/// The camera, the publisher's own encoder, and its network: what is gone when a frame arrives here. Phones need more
/// and then have less in hand against stalls.
const CAPTURE_MS: i64 = 300;
/// Decoding, scaling, encoding and packaging of one frame, and the frame behind it that ends a segment or part.
const WORK_MS: i64 = 100;
/// Download of what was just listed, and the viewer's decoder and screen.
const VIEWER_MS: i64 = 150;
/// Upload to a store, and what polling adds on average, on top of everything but the encoder: measured playback of 1 s
/// and 2 s segments lies 0.9 to 1.9 s above hold-back, segment and encoder.
const STORE_MS: i64 = 1_200;
/// Settings below this get parts.
pub const PARTS_BELOW_MS: u32 = 6_000;
/// Frame rate at which frames of lookahead are counted as time: the slowest of the common ones.
const NOMINAL_FRAME_RATE: u32 = 25;
/// The same as a bound of a range.
const PARTS_BELOW: i64 = PARTS_BELOW_MS as i64;
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

/// Parts of segments (EXT-X-PART), for players that can be nearer than three target durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// A part ends with the first frame at or behind a multiple of this, counted from its segment's start. Divides
    /// the segment.
    pub grid: MediaSpan,
    /// PART-TARGET: no part lasts longer. Above `grid` by a frame at 24 a second, so that each keeps to 85 % of it at
    /// least, at all common frame rates (rfc8216bis 4.4.4.9).
    pub target: MediaSpan,
    /// PART-HOLD-BACK: how far from the playlist's end players of parts stay.
    pub hold_back: MediaSpan,
}

impl Parts {
    /// 85 % of PART-TARGET: only a segment's last part is shorter, as far as frames allow (rfc8216bis 4.4.4.9).
    pub(crate) fn shortest(&self) -> MediaSpan {
        MediaSpan::from_ticks_90k((self.target.ticks_90k() * 85 + 99) / 100)
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
    /// HOLD-BACK of our own origin: how far from the playlist's end players of whole segments stay. Three target
    /// durations, or more where the setting has room: then it is what protects viewers from short outages.
    pub hold_back: MediaSpan,
    /// HOLD-BACK in a store's playlists; see [`Timing::store_latency`].
    pub store_hold_back: MediaSpan,
    /// How segments are divided; `None` where whole segments keep to the setting.
    pub parts: Option<Parts>,
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
    /// `store_hold_back` in hand, less a target duration for its own download.
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
        // More lookahead costs memory (5 MiB a frame over 720p, 480p and 360p) and delay, and was measured to give nothing:
        // 5, 10 and 20 frames are within 0.4 VMAF of each other.
        let (lookahead_frames, b_frames) = match ms {
            ..3_000 => (4, 0),
            3_000..5_000 => (5, 1),
            5_000..12_000 => (5, 2),
            _ => (5, 3),
        };
        let encoder_delay_ms = i64::from((lookahead_frames + b_frames) * 1000 / NOMINAL_FRAME_RATE);
        // Chosen for viewers through a store, who cannot be nearer than this; the origin's have room then.
        let store_rest = |segment_ms: i64| ms - segment_ms - encoder_delay_ms - STORE_MS;
        let segment_s = [3, 2].into_iter().find(|s| store_rest(s * 1000) >= 3 * s * 1000).unwrap_or(1);
        let segment_ms = segment_s * 1000;
        let gop_ms = if segment_s == 3 { 1_500 } else { segment_ms };
        let rest_ms = ms - CAPTURE_MS - WORK_MS - encoder_delay_ms - VIEWER_MS;
        let hold_back_ms = rest_ms.max(3 * segment_ms);
        let store_hold_back_ms = store_rest(segment_ms).max(3 * segment_ms);
        let parts = match ms {
            ..3_000 => Some((3, 375)),
            3_000..PARTS_BELOW => Some((2, 550)),
            _ => None,
        };
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
            store_hold_back: span(store_hold_back_ms),
            parts: parts.map(|(per_segment, target_ms)| Parts {
                grid: MediaSpan::from_ticks_90k(segment_s * TICKS_PER_SECOND / per_segment),
                target: span(target_ms),
                hold_back: span(rest_ms),
            }),
            window: span(window_ms),
            min_window_segments: min_window_segments as usize,
            retention: span(window_ms + 2 * max_segment_ms),
            lookahead_frames,
            b_frames,
            vbv_ms: if ms < 3_000 { 600 } else { segment_ms.min(2_000) as u32 },
            shed_queue: span(shed_queue_ms),
            upload_deadline: span((store_hold_back_ms - segment_ms).min(6_000)),
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

    /// Age at which media arrives at most, counted from when it would have without delay on its way.
    pub fn arrival_budget(&self) -> MediaSpan {
        MediaSpan::from_millis(CAPTURE_MS)
    }

    /// Age at which media is encoded and can be read from our own origin at most, from the same start.
    pub fn origin_budget(&self) -> MediaSpan {
        self.arrival_budget() + MediaSpan::from_millis(WORK_MS) + self.encoder_delay()
    }

    /// Age at which a store has acknowledged media at most, from the same start.
    pub fn store_budget(&self) -> MediaSpan {
        self.encoder_delay() + MediaSpan::from_millis(CAPTURE_MS + STORE_MS)
    }

    /// Seconds from glass to glass that a viewer on our own origin will see, of an encoder that keeps up, with a player
    /// that understands parts, or with one that does not.
    pub fn origin_latency(&self, understands_parts: bool) -> f64 {
        let hold_back = match self.parts {
            Some(parts) if understands_parts => parts.hold_back,
            _ => self.hold_back,
        };
        let rest = MediaSpan::from_millis(CAPTURE_MS + WORK_MS + VIEWER_MS);
        (hold_back + self.encoder_delay() + rest).as_secs_f64()
    }

    /// Seconds from glass to glass that a viewer will see who reads from a store, by polling, with nothing in between
    /// that keeps playlists. Above the setting where three target durations do not fit into it: the lowest that a
    /// store can give is about 5.4 s. Players were measured up to a second above this (a reload that just missed a
    /// segment stays late).
    pub fn store_latency(&self) -> f64 {
        let transport = MediaSpan::from_millis(STORE_MS);
        (self.store_hold_back + self.segment + self.encoder_delay() + transport).as_secs_f64()
    }

    /// The same without parts: for where nobody could ask for them.
    pub fn without_parts(self) -> Self {
        Self { parts: None, ..self }
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
            for hold_back in [t.hold_back, t.store_hold_back] {
                assert!(hold_back.as_secs_f64() >= 3.0 * td, "HOLD-BACK below 3 x TARGETDURATION at {at}");
            }
            assert!(t.window >= MediaSpan::from_millis(30_000), "{at}");
            assert!(t.window.ticks_90k() >= 8 * t.segment.ticks_90k(), "{at}");
            assert!(t.window.ticks_90k() >= 3 * t.hold_back.ticks_90k(), "{at}");
            assert!(t.retention >= t.window + t.max_segment, "{at}");
            assert!(t.upload_deadline < t.store_hold_back && t.upload_deadline >= t.segment, "{at}");
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
    fn players_of_parts_are_at_the_setting_over_its_whole_range() {
        for t in all() {
            let asked = t.latency.as_secs_f64();
            assert!((t.origin_latency(true) - asked).abs() < 0.001, "{asked}: {}", t.origin_latency(true));
        }
    }

    #[test]
    fn parts_obey_the_rules_of_low_latency() {
        for t in all() {
            let at = t.latency;
            let Some(parts) = t.parts else {
                assert!(at.as_millis() >= PARTS_BELOW_MS, "{at}");
                continue;
            };
            let frame = MediaSpan::from_ticks_90k(TICKS_PER_SECOND / 24);
            assert_eq!(t.segment.ticks_90k() % parts.grid.ticks_90k(), 0, "{at}");
            assert!(
                parts.target >= parts.grid + frame,
                "a part of the grid fits at 24 frames a second: {at}"
            );
            assert!(parts.grid.ticks_90k() * 100 >= parts.target.ticks_90k() * 85, "85 % at {at}");
            assert!(parts.hold_back.ticks_90k() >= 3 * parts.target.ticks_90k(), "Apple 14.3 at {at}");
            assert!(parts.grid >= MediaSpan::from_millis(200), "players are unstable below: {at}");
        }
    }

    #[test]
    fn other_players_are_told_what_they_will_see() {
        for t in all() {
            let asked = t.latency.as_secs_f64();
            let (plain, store) = (t.origin_latency(false), t.store_latency());
            if asked >= 4.0 {
                assert!((plain - asked).abs() < 0.001, "asked for {asked}, gives {plain}");
            } else {
                assert!(plain >= asked && plain < 4.0, "asked for {asked}, gives {plain}");
            }
            if asked >= 6.0 {
                assert!((store - asked).abs() < 0.001, "asked for {asked}, gives {store}");
            } else {
                assert!(store >= asked && store < 6.0, "asked for {asked}, gives {store}");
            }
        }
    }

    #[test]
    fn table_of_the_settings_people_use() {
        // latency, target duration, gop ms, part target ms, part hold-back ms, hold-back ms, store hold-back ms,
        // lookahead, b-frames
        let table = [
            (2.0, 1, 1_000, Some((375, 1_290)), 3_000, 3_000, 4, 0),
            (3.0, 1, 1_000, Some((550, 2_210)), 3_000, 3_000, 5, 1),
            (4.0, 1, 1_000, Some((550, 3_210)), 3_210, 3_000, 5, 1),
            (6.0, 1, 1_000, None, 5_170, 3_520, 5, 2),
            (8.0, 1, 1_000, None, 7_170, 5_520, 5, 2),
            (10.0, 2, 2_000, None, 9_170, 6_520, 5, 2),
            (15.0, 3, 1_500, None, 14_130, 10_480, 5, 3),
        ];
        for (latency, td, gop, parts, hold_back, store_hold_back, lookahead, b_frames) in table {
            let t = Timing::new(Latency::from_secs_f64(latency).unwrap());
            let ms = MediaSpan::from_millis;
            assert_eq!(t.target_duration, td, "{latency}");
            assert_eq!(t.gop, ms(gop), "{latency}");
            let seen = t.parts.map(|parts| (parts.target, parts.hold_back));
            assert_eq!(seen, parts.map(|(target, hold_back)| (ms(target), ms(hold_back))), "{latency}");
            assert_eq!((t.hold_back, t.store_hold_back), (ms(hold_back), ms(store_hold_back)), "{latency}");
            assert_eq!((t.lookahead_frames, t.b_frames), (lookahead, b_frames), "{latency}");
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
