//! Maps the 32-bit RTMP milliseconds of several tracks to one continuous 90 kHz axis, and counts every repair. Pure: the
//! caller passes arrival times in.
//!
//! What belongs here: wrap, jumps, strictly growing decode times (`order`), audio times from sample counts ([`audio`]),
//! video times on the frame grid ([`video`]). Parsing is in [`crate::flv`], shedding for lack of capacity in
//! `encoder::stream`.
//!
//! How a message is placed:
//! 1. Its 32-bit time is extended from the track's last message to the nearest possible value, so a wrap is a small
//!    step.
//! 2. The message is placed at its time, unless the time *jumped*: more than [`BACKWARD_JUMP`] back, or more than
//!    [`FORWARD_JUMP`] further ahead than the arrival times and the other track explain. A publisher that was silent
//!    for a minute and continues a minute later left a gap, not a jump.
//! 3. A jump is removed: the track continues directly after the newest media, or as much later as the message arrived
//!    later.
//! 4. When another track jumps too, it gets the same correction, so that audio and video stay in sync; until then its
//!    messages are placed with the old correction.

pub mod audio;
mod order;
pub mod video;

use audio::SampleCounter;
use media::{MediaSpan, MediaTime, SoundTrackId};
use order::DecodeOrder;
use std::time::{Duration, Instant};
use video::FrameGrid;

/// Where a stream's axis begins: far enough from zero that no decode time is negative, even if one track starts
/// earlier.
pub const START: MediaTime = MediaTime::from_ticks_90k(10 * 90_000);
/// A step back by more than this is a jump; a smaller one is disorder and is corrected in place.
pub const BACKWARD_JUMP: MediaSpan = MediaSpan::from_millis(500);
/// A step ahead by more than this without an explanation is a jump; a smaller one is a gap.
pub const FORWARD_JUMP: MediaSpan = MediaSpan::from_millis(2_000);
/// If the first messages of two tracks are further apart than this, the tracks use different clock origins.
pub const MAX_START_APART: MediaSpan = MediaSpan::from_millis(5_000);
/// How far after the old end a resumed axis begins: room for a track whose times start earlier but whose messages
/// arrive later.
pub const RESUME_LEAD: MediaSpan = MediaSpan::from_millis(1_000);
/// Minimum step between decode times of pictures: the resolution of RTMP.
pub const MIN_STEP: MediaSpan = MediaSpan::from_millis(1);
/// Largest plausible composition offset; B pictures need at most a second.
pub const MAX_COMPOSITION: MediaSpan = MediaSpan::from_millis(5_000);

/// Step after the newest media when a jump is removed, in ticks: about a frame.
const REBASE_STEP: i64 = 20 * TICKS_PER_MS;
/// Upper bound on the silence that is considered when a jump is sized.
const MAX_SILENCE: Duration = Duration::from_secs(600);
const TICKS_PER_MS: i64 = 90;

macro_rules! repairs {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// Number of repairs by kind since the stream's start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Repairs {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Repairs {
            /// The repairs made since `earlier`.
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($field: self.$field - earlier.$field,)* }
            }

            /// Kinds and counts, for metrics and logs.
            pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }

            /// Sum over all kinds.
            pub fn total(&self) -> u64 {
                0 $(+ self.$field)*
            }
        }
    };
}

repairs! {
    /// The 32-bit clock wrapped; counted per track.
    wraps,
    /// Times jumped ahead; the jump was removed.
    jumps_forward,
    /// Times jumped back; the jump was removed.
    jumps_backward,
    /// A track took over the other track's correction.
    jumps_followed,
    /// Times stepped ahead by more than [`FORWARD_JUMP`], as the arrival times or the other track did: left as a gap.
    gaps,
    /// A track began more than [`MAX_START_APART`] from the other one and was aligned with it.
    separated_starts,
    /// A picture's decode time did not grow and was moved up.
    reordered,
    /// A picture's presentation time was further before its decode time than any before, so that decode times were moved
    /// ahead; or the two were more than [`MAX_COMPOSITION`] apart.
    compositions,
    /// The publisher was found to send presentation times in place of decode times; decode times are made.
    presentation_times,
    /// Audio times and sample count had diverged and were realigned.
    audio_resyncs,
    /// Audio frames dropped because there was more audio than time.
    audio_frames_dropped,
    /// The frame grid no longer fitted.
    grid_losses,
    /// Messages dropped because they are before the start of a resumed axis.
    before_start,
}

/// A picture's times on the axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Presentation time; never before `dts`.
    pub pts: MediaTime,
    /// Decode time; strictly increasing.
    pub dts: MediaTime,
}

/// Maps one track's clock to the axis. All arithmetic wraps modulo 2^64: the sums are correct as long as the result
/// fits the axis, even if a hostile clock makes intermediate sums overflow.
#[derive(Clone, Copy, Debug)]
struct TimelineTrack {
    /// The last time in milliseconds, extended beyond 32 bits.
    raw_ms: i64,
    /// Axis minus clock in ticks, at the track's start.
    base: i64,
    /// Sum of the corrections applied, in ticks.
    correction: i64,
    /// Where the last message was placed, in ticks.
    axis: i64,
    /// When the last message arrived.
    arrived: Instant,
}

impl TimelineTrack {
    fn place(&self, raw_ms: i64, correction: i64) -> i64 {
        raw_ms.wrapping_mul(TICKS_PER_MS).wrapping_add(self.base).wrapping_add(correction)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimelineKind {
    Video,
    Audio,
    /// A sound track beside the main sound.
    Track(SoundTrackId),
}

/// Where a message is placed on the axis.
struct Placed {
    axis: i64,
    /// The message does not continue its track: state from earlier messages does not apply.
    broken: bool,
}

/// A sound track beside the main sound.
#[derive(Clone, Debug)]
struct SoundTrack {
    id: SoundTrackId,
    place: Option<TimelineTrack>,
    samples: SampleCounter,
}

/// One stream's axis.
#[derive(Clone, Debug)]
pub struct Timeline {
    begin: i64,
    /// Everything is placed strictly after this time, in ticks.
    floor: i64,
    video: Option<TimelineTrack>,
    audio: Option<TimelineTrack>,
    /// Sound tracks beside the main sound: as many as were placed, which the caller bounds.
    tracks: Vec<SoundTrack>,
    /// The latest sum of corrections; a track with another sum has not jumped yet.
    correction: i64,
    /// The newest media of all tracks in ticks, and when it arrived.
    head: Option<(i64, Instant)>,
    grid: FrameGrid,
    order: DecodeOrder,
    samples: SampleCounter,
    repairs: Repairs,
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Timeline {
    /// The axis of a new stream; its first message is placed at [`START`].
    pub fn new() -> Self {
        Self::beginning(START.ticks_90k(), i64::MIN)
    }

    /// The axis of a stream whose publisher reconnected; everything is placed strictly after `after`.
    pub fn resume(after: MediaTime) -> Self {
        Self::beginning((after + RESUME_LEAD).ticks_90k(), after.ticks_90k())
    }

    fn beginning(begin: i64, floor: i64) -> Self {
        Self {
            begin,
            floor,
            video: None,
            audio: None,
            tracks: Vec::new(),
            correction: 0,
            head: None,
            grid: FrameGrid::default(),
            order: DecodeOrder::behind((floor > i64::MIN).then_some(floor)),
            samples: SampleCounter::behind(floor),
            repairs: Repairs::default(),
        }
    }

    /// Sets the publisher's stated frame rate as (numerator, denominator), which is used until pictures contradict it.
    pub fn set_frame_rate(&mut self, rate: Option<(u32, u32)>) {
        self.grid.set_hint(rate);
    }

    /// Sets the sample rate in Hz and the samples per frame of the audio that follows. A format whose frames are
    /// shorter than a millisecond is ignored.
    pub fn set_audio_format(&mut self, sample_rate: u32, frame_samples: u32) {
        self.samples.set_format(sample_rate, frame_samples);
    }

    /// Repairs so far.
    pub fn repairs(&self) -> Repairs {
        self.repairs
    }

    /// Places a picture. `None` if the picture is dropped.
    pub fn video(&mut self, dts_ms: u32, composition_ms: i32, arrived: Instant) -> Option<Stamp> {
        let placed = self.place(TimelineKind::Video, dts_ms, arrived);
        if placed.broken {
            self.grid.restart();
            self.order.restart();
        }
        if placed.axis <= self.floor {
            self.repairs.before_start += 1;
            return None;
        }
        let composition = i64::from(composition_ms) * TICKS_PER_MS;
        let (dts, pts) = self.grid.snap(placed.axis, composition, &mut self.repairs);
        let (dts, pts) = self.order.place(dts, pts, &mut self.repairs);
        Some(Stamp { pts: MediaTime::from_ticks_90k(pts), dts: MediaTime::from_ticks_90k(dts) })
    }

    /// Places an audio frame. `None` if the frame is dropped.
    pub fn audio(&mut self, timestamp_ms: u32, arrived: Instant) -> Option<MediaTime> {
        let placed = self.place(TimelineKind::Audio, timestamp_ms, arrived);
        if placed.broken {
            self.samples.restart();
        }
        if placed.axis <= self.floor {
            self.repairs.before_start += 1;
            return None;
        }
        self.samples.place(placed.axis, &mut self.repairs).map(MediaTime::from_ticks_90k)
    }

    /// Like [`Self::set_audio_format`], for a sound track beside the main sound.
    pub fn set_track_format(&mut self, id: SoundTrackId, sample_rate: u32, frame_samples: u32) {
        self.track(id).samples.set_format(sample_rate, frame_samples);
    }

    /// Like [`Self::audio`], for a sound track beside the main sound. All tracks share one clock.
    pub fn track_audio(
        &mut self,
        id: SoundTrackId,
        timestamp_ms: u32,
        arrived: Instant,
    ) -> Option<MediaTime> {
        let placed = self.place(TimelineKind::Track(id), timestamp_ms, arrived);
        let mut repairs = self.repairs;
        let floor = self.floor;
        let samples = &mut self.track(id).samples;
        if placed.broken {
            samples.restart();
        }
        let time = if placed.axis <= floor {
            repairs.before_start += 1;
            None
        } else {
            samples.place(placed.axis, &mut repairs).map(MediaTime::from_ticks_90k)
        };
        self.repairs = repairs;
        time
    }

    fn track(&mut self, id: SoundTrackId) -> &mut SoundTrack {
        let known = self.tracks.iter().position(|track| track.id == id);
        let index = known.unwrap_or_else(|| {
            self.tracks.push(SoundTrack { id, place: None, samples: SampleCounter::behind(self.floor) });
            self.tracks.len() - 1
        });
        &mut self.tracks[index]
    }

    /// A track's place, and the place of the track that it is compared with: video and the main sound with each other,
    /// a further track with one of these, and every track with any other where there are no such.
    fn places(&self, kind: TimelineKind) -> (Option<TimelineTrack>, Option<TimelineTrack>) {
        let placed = |except: Option<SoundTrackId>| {
            self.tracks.iter().filter(|track| Some(track.id) != except).find_map(|track| track.place)
        };
        match kind {
            TimelineKind::Video => (self.video, self.audio.or_else(|| placed(None))),
            TimelineKind::Audio => (self.audio, self.video.or_else(|| placed(None))),
            TimelineKind::Track(id) => {
                let own = self.tracks.iter().find(|track| track.id == id).and_then(|track| track.place);
                (own, self.video.or(self.audio).or_else(|| placed(Some(id))))
            }
        }
    }

    /// Steps 1 to 4 of the module's description.
    fn place(&mut self, kind: TimelineKind, timestamp_ms: u32, arrived: Instant) -> Placed {
        let (own, other) = self.places(kind);
        let (track, broken) = match (own, other) {
            (Some(own), other) => self.go_on(own, other, timestamp_ms, arrived),
            (None, Some(other)) => (self.join(other, timestamp_ms, arrived), true),
            (None, None) => {
                let raw_ms = i64::from(timestamp_ms);
                let base = self.begin - raw_ms * TICKS_PER_MS;
                (TimelineTrack { raw_ms, base, correction: 0, axis: self.begin, arrived }, true)
            }
        };
        match kind {
            TimelineKind::Video => self.video = Some(track),
            TimelineKind::Audio => self.audio = Some(track),
            TimelineKind::Track(id) => self.track(id).place = Some(track),
        }
        if self.head.is_none_or(|(head, _)| track.axis >= head) {
            self.head = Some((track.axis, arrived));
        }
        Placed { axis: track.axis, broken }
    }

    /// Places the first message of a track that joins another one.
    fn join(&mut self, other: TimelineTrack, timestamp_ms: u32, arrived: Instant) -> TimelineTrack {
        let raw_ms = nearest(other.raw_ms, timestamp_ms);
        let TimelineTrack { base, correction, .. } = other;
        let axis = other.place(raw_ms, correction);
        let track = TimelineTrack { raw_ms, base, correction, axis, arrived };
        let behind_other = axis.wrapping_sub(other.axis);
        let expected = other.axis + elapsed(other.arrived, arrived);
        let apart = MAX_START_APART.ticks_90k();
        if (-apart..=apart).contains(&behind_other) || (expected - apart..=expected + apart).contains(&axis) {
            return track;
        }
        self.repairs.separated_starts += 1;
        TimelineTrack { base: base.wrapping_add(expected.wrapping_sub(axis)), axis: expected, ..track }
    }

    /// Places a message that follows another one of its track. The flag is `true` if it does not continue that message.
    fn go_on(
        &mut self,
        own: TimelineTrack,
        other: Option<TimelineTrack>,
        timestamp_ms: u32,
        arrived: Instant,
    ) -> (TimelineTrack, bool) {
        let raw_ms = nearest(own.raw_ms, timestamp_ms);
        self.repairs.wraps += u64::from(raw_ms >> 32 > own.raw_ms >> 32);
        let silence = elapsed(own.arrived, arrived);
        let here = TimelineTrack { raw_ms, arrived, ..own };

        let as_before = own.place(raw_ms, own.correction);
        let step = as_before.wrapping_sub(own.axis);
        // The other track has already jumped: use the correction that puts this track nearer to its last place.
        if own.correction != self.correction {
            let followed = own.place(raw_ms, self.correction);
            let followed_step = followed.wrapping_sub(own.axis);
            if distance(followed_step, silence) < distance(step, silence)
                && (-FORWARD_JUMP.ticks_90k()..=FORWARD_JUMP.ticks_90k() + silence).contains(&followed_step)
            {
                self.repairs.jumps_followed += 1;
                return (TimelineTrack { correction: self.correction, axis: followed, ..here }, true);
            }
        }

        if step < -BACKWARD_JUMP.ticks_90k() {
            self.repairs.jumps_backward += 1;
            return (self.rebase(here, arrived), true);
        }
        let limit = FORWARD_JUMP.ticks_90k();
        if step > limit {
            let behind_other = other.is_some_and(|other| as_before.wrapping_sub(other.axis) <= limit);
            if step - silence > limit && !behind_other {
                self.repairs.jumps_forward += 1;
                return (self.rebase(here, arrived), true);
            }
            self.repairs.gaps += 1;
        }
        (TimelineTrack { axis: as_before, ..here }, false)
    }

    /// Makes a new correction that puts `track` after the newest media.
    fn rebase(&mut self, track: TimelineTrack, arrived: Instant) -> TimelineTrack {
        let (head, head_arrived) = self.head.unwrap_or((track.axis, track.arrived));
        let axis = head + elapsed(head_arrived, arrived).max(REBASE_STEP);
        self.correction = axis.wrapping_sub(track.place(track.raw_ms, 0));
        TimelineTrack { correction: self.correction, axis, ..track }
    }
}

/// Extends a 32-bit time to the value nearest to the last one.
fn nearest(last_ms: i64, timestamp_ms: u32) -> i64 {
    let step = timestamp_ms.wrapping_sub(last_ms as u32) as i32;
    last_ms.wrapping_add(step.into())
}

/// Time between two arrivals in ticks; not negative, and at most [`MAX_SILENCE`].
fn elapsed(from: Instant, to: Instant) -> i64 {
    MediaSpan::from(to.saturating_duration_since(from).min(MAX_SILENCE)).ticks_90k()
}

/// How far a step is outside the expected range, which is from zero to `silence`.
fn distance(step: i64, silence: i64) -> i64 {
    if step < 0 { step.saturating_neg() } else { (step - silence).max(0) }
}

#[cfg(test)]
mod day_tests;
#[cfg(test)]
mod tests;
