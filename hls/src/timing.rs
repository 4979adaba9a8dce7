//! The latency knob: derives from one setting every duration that affects the distance from live, with the budget
//! written next to each. No other file of the project holds such a duration.
//!
//! What does not belong here: bit rates and sizes (the ladder's), and time-outs that a viewer cannot see.
//!
//! The budget from the camera to the screen, for a viewer on our own origin:
//!
//! ```text
//! knob = CAPTURE + WORK + encoder delay + VIEWER + hold-back
//!        0.30 s    0.10   lookahead and    0.15     the rest: the player's reserve
//!                         B-frames                  against stalls
//! ```
//!
//! Players stay a hold-back before the *end* of the playlist and let that end advance by their own clock between
//! reloads (hls.js `LatencyController`), so the duration of a segment or part is not in the sum; it only sets the
//! minimum of the hold-back. That minimum is three target durations (rfc8216bis 4.4.3.8), each a whole second or more,
//! for players of whole segments, and three parts (Apple 14.3) for players that support parts. Settings below
//! [`PARTS_BELOW_MS`] get parts; from there on whole segments leave enough room, need a third of the requests and are
//! easier on a CDN.
//!
//! A bucket cannot hold requests: a viewer of a store finds a segment by polling, after it was written; see
//! [`Timing::store_latency`].

use media::MediaSpan;
use media::time::TICKS_PER_SECOND;
use std::fmt;
use std::str::FromStr;

/// Smallest setting in milliseconds.
const MIN_LATENCY_MS: u32 = 2_000;
/// Largest setting in milliseconds.
const MAX_LATENCY_MS: u32 = 15_000;
/// Delay before a frame arrives here: camera, publisher's encoder and publisher's network. Phones need more, which
/// leaves their viewers less reserve against stalls.
const CAPTURE_MS: i64 = 300;
/// Decoding, scaling, encoding and packaging of one frame, plus the following frame, which ends a segment or part.
const WORK_MS: i64 = 100;
/// Download of the newly listed segment or part, and the viewer's decoder and screen.
const VIEWER_MS: i64 = 150;
/// Upload to a store plus the average delay of polling; everything except the encoder. Measured playback of 1 s and 2 s
/// segments lies 0.9 to 1.9 s above the sum of hold-back, segment and encoder delay.
const STORE_MS: i64 = 1_200;
/// Settings below this get parts.
pub const PARTS_BELOW_MS: u32 = 6_000;
/// Frame rate for converting frames of lookahead to time: the slowest common rate.
const NOMINAL_FRAME_RATE: u32 = 25;
/// `PARTS_BELOW_MS` as a bound of a range.
const PARTS_BELOW: i64 = PARTS_BELOW_MS as i64;
/// How far a segment may exceed TARGETDURATION: rounding to the nearest second allows just under half a second; the
/// difference to half a second is for timestamps in whole milliseconds.
const OVER_TARGET_MS: i64 = 450;

/// Glass-to-glass latency that the operator requests: 2 to 15 seconds, stored in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Latency(u32);

/// An unusable latency setting, for the operator to correct.
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

/// Durations of parts (EXT-X-PART), for players that can be nearer to live than three target durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// A part ends with the first frame at or after a multiple of this, counted from its segment's start. Divides the
    /// segment duration.
    pub grid: MediaSpan,
    /// PART-TARGET: no part lasts longer. One frame at 24 frames per second above `grid`, so that every part lasts at
    /// least 85 % of the target at all common frame rates (rfc8216bis 4.4.4.9).
    pub target: MediaSpan,
    /// PART-HOLD-BACK: how far before the end of the playlist players of parts stay.
    pub hold_back: MediaSpan,
}

impl Parts {
    /// 85 % of PART-TARGET: only a segment's last part is shorter, as far as frame durations allow (rfc8216bis
    /// 4.4.4.9).
    pub(crate) fn shortest(&self) -> MediaSpan {
        MediaSpan::from_ticks_90k((self.target.ticks_90k() * 85 + 99) / 100)
    }
}

/// All durations that follow from one [`Latency`]. Constant for a stream's life: players stop for good when target
/// duration or hold-back change between two reloads.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Timing {
    /// The requested latency.
    pub latency: Latency,
    /// Width of the keyframe grid: every encoder makes the first frame at or after each multiple on the media axis an
    /// IDR frame. Divides `segment`; 2 s at most, so that viewers start and switch rungs fast.
    pub gop: MediaSpan,
    /// Duration of a segment, except the first and the last of an epoch. Viewers are later by one segment duration,
    /// because a segment is listed only when it is complete.
    pub segment: MediaSpan,
    /// Longest duration of a segment: EXTINF rounds to at most `target_duration`. A later keyframe is not waited for.
    pub max_segment: MediaSpan,
    /// EXT-X-TARGETDURATION in seconds.
    pub target_duration: u32,
    /// HOLD-BACK of our own origin: how far before the end of the playlist players of whole segments stay. Three target
    /// durations, or more where the setting has room; the surplus protects viewers from short outages.
    pub hold_back: MediaSpan,
    /// HOLD-BACK in a store's playlists; see [`Timing::store_latency`].
    pub store_hold_back: MediaSpan,
    /// Parts of a segment; `None` where whole segments meet the setting.
    pub parts: Option<Parts>,
    /// Minimum duration of a full playlist; see `min_window_segments`.
    pub window: MediaSpan,
    /// Minimum number of segments in a full playlist. Apple requires 6; with two more, a slow reload still finds its
    /// next segment.
    pub min_window_segments: usize,
    /// How long a segment stays readable after it left the playlists: its own duration plus that of the longest
    /// playlist that listed it (rfc8216bis 6.2.2). Computed from nominal durations; [`crate::presentation`] measures
    /// the real ones.
    pub retention: MediaSpan,
    /// Frames of encoder lookahead: each improves rate control and adds 40 ms of delay at 25 frames per second.
    pub lookahead_frames: u32,
    /// Maximum number of consecutive B-frames: each makes video smaller and adds one frame of delay.
    pub b_frames: u32,
    /// Rate-control buffer in milliseconds. Not above a segment, so that each segment meets the bit rate by itself and
    /// downloads in less time than it plays.
    pub vbv_ms: u32,
    /// Media time that may queue before the encoder; beyond it media is shed up to the next keyframe. A fraction of the
    /// viewers' hold-back, because a slow encoder uses up that hold-back.
    pub shed_queue: MediaSpan,
    /// Time-out of an upload including retries; then the segment becomes EXT-X-GAP. Below `store_hold_back`, the
    /// viewer's reserve, less a target duration for the viewer's own download.
    pub upload_deadline: MediaSpan,
    /// How long a worker that receives input may send nothing before it counts as hung.
    pub worker_silence: MediaSpan,
    /// The longest published GOP for which the publisher's keyframes can serve as the grid.
    pub max_source_gop: MediaSpan,
    /// How far one rendition may lag another before its missing segments are listed as gaps: the sum of the shed queue,
    /// the encoder delay and the detection of a hung worker, plus a second.
    pub stall: MediaSpan,
}

impl Timing {
    /// Derives the durations from a latency. Pure: the same setting always gives the same durations.
    pub fn new(latency: Latency) -> Self {
        let ms = i64::from(latency.as_millis());
        // More lookahead costs memory (5 MiB per frame over 720p, 480p and 360p) and delay, and measurements showed no
        // gain: 5, 10 and 20 frames are within 0.4 VMAF of each other.
        let (lookahead_frames, b_frames) = match ms {
            ..3_000 => (4, 0),
            3_000..5_000 => (5, 1),
            5_000..12_000 => (5, 2),
            _ => (5, 3),
        };
        let encoder_delay_ms = i64::from((lookahead_frames + b_frames) * 1000 / NOMINAL_FRAME_RATE);
        // The store decides the segment duration, because its viewers cannot be nearer than this; origin viewers then
        // have room.
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
        // Apple's player stopped on short windows in tests; three hold-backs leave room for a viewer who is late.
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
            // Timestamps in whole milliseconds can increase the distance of two keyframes by up to 2 ms.
            max_source_gop: span(max_segment_ms - 50),
            stall: span(shed_queue_ms + worker_silence_ms + encoder_delay_ms + 1_000),
        }
    }

    /// Delay of the encoder: lookahead and B-frames at 25 frames per second.
    pub fn encoder_delay(&self) -> MediaSpan {
        let frames = i64::from(self.lookahead_frames + self.b_frames);
        MediaSpan::from_ticks_90k(frames * TICKS_PER_SECOND / i64::from(NOMINAL_FRAME_RATE))
    }

    /// Maximum age of media on arrival, counted from when it would have arrived without transport delay.
    pub fn arrival_budget(&self) -> MediaSpan {
        MediaSpan::from_millis(CAPTURE_MS)
    }

    /// Maximum age of media when it is encoded and readable from our own origin, counted like
    /// [`Timing::arrival_budget`].
    pub fn origin_budget(&self) -> MediaSpan {
        self.arrival_budget() + MediaSpan::from_millis(WORK_MS) + self.encoder_delay()
    }

    /// Maximum age of media when a store has acknowledged it, counted like [`Timing::arrival_budget`].
    pub fn store_budget(&self) -> MediaSpan {
        self.encoder_delay() + MediaSpan::from_millis(CAPTURE_MS + STORE_MS)
    }

    /// Glass-to-glass latency in seconds for a viewer on our own origin while the encoder keeps up, with a player that
    /// supports parts or one that does not.
    pub fn origin_latency(&self, understands_parts: bool) -> f64 {
        let hold_back = match self.parts {
            Some(parts) if understands_parts => parts.hold_back,
            _ => self.hold_back,
        };
        let rest = MediaSpan::from_millis(CAPTURE_MS + WORK_MS + VIEWER_MS);
        (hold_back + self.encoder_delay() + rest).as_secs_f64()
    }

    /// Glass-to-glass latency in seconds for a viewer who polls a store, with no playlist cache in between. Above the
    /// setting where three target durations do not fit into the setting: the minimum for a store is about 5.4 s.
    /// Players were measured up to a second above this value (a player whose reload just missed a segment stays late).
    pub fn store_latency(&self) -> f64 {
        let transport = MediaSpan::from_millis(STORE_MS);
        (self.store_hold_back + self.segment + self.encoder_delay() + transport).as_secs_f64()
    }

    /// The same durations without parts, for viewers that cannot request parts.
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
