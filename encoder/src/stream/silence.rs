//! Silent AAC where a publisher sends no audio: before its audio starts, and in holes. There is always an audio
//! rendition, because players stall when one rendition has a hole, and a multivariant playlist cannot gain an audio
//! group later. Silent frames are for copied audio; a worker that transcodes audio fills its own holes, and is told how far
//! ([`SilenceMarks`]).

use bytes::Bytes;
use media::{AudioCodec, AudioConfig, MediaSpan, MediaTime, Unit, aac};

/// A raw_data_block of one channel element whose spectrum is all zero, then ID_END (ISO 14496-3 4.4.2.1). `max_sfb` is
/// 0, so the same bits are silence at every sample rate.
const SILENT_MONO: &[u8] = &[0x00, 0x00, 0x00, 0x07];
/// The stereo equivalent: one channel pair element with a common window.
const SILENT_STEREO: &[u8] = &[0x21, 0x00, 0x00, 0x00, 0x00, 0x1c];
/// How far audio may lag the video before its absence counts as a hole: publishers interleave within half a second,
/// phones on bad networks within one.
const PATIENCE: MediaSpan = MediaSpan::from_millis(1000);

/// Audio configuration of a stream without published audio: AAC-LC, 48 kHz, stereo.
pub(super) fn silent_config() -> AudioConfig {
    aac::lc_config(48_000, 2).expect("48 kHz has an index")
}

/// A silent access unit for this codec and number of channels; `None` for other codecs than AAC and other numbers than
/// one and two.
pub(super) fn silent_frame(codec: AudioCodec, channels: u8) -> Option<Bytes> {
    match (codec, channels) {
        (AudioCodec::Aac, 1) => Some(Bytes::from_static(SILENT_MONO)),
        (AudioCodec::Aac, 2) => Some(Bytes::from_static(SILENT_STEREO)),
        // Only AAC is passed through.
        (_, _) => None,
    }
}

/// Keeps a copied audio rendition free of holes.
#[derive(Debug)]
pub(super) struct AudioFiller {
    frame: Option<Bytes>,
    sample_rate: u32,
    frame_samples: u32,
    /// Position of the next expected frame; `None` before the first frame.
    next: Option<Position>,
    filled_frames: u64,
    late_frames: u64,
}

/// A position on a grid of frames: `frames` whole frames after `origin`. Whole frames are counted so that 44.1 kHz does
/// not drift on a 90 kHz axis.
#[derive(Clone, Copy, Debug)]
struct Position {
    origin: MediaTime,
    frames: i64,
}

impl AudioFiller {
    /// Creates a filler for audio of this configuration.
    pub(super) fn new(config: &AudioConfig) -> Self {
        Self {
            frame: silent_frame(config.codec, config.channels),
            sample_rate: config.sample_rate,
            frame_samples: config.frame_samples,
            next: None,
            filled_frames: 0,
            late_frames: 0,
        }
    }

    fn time(&self, position: Position) -> MediaTime {
        let samples = position.frames * i64::from(self.frame_samples);
        position.origin + (MediaTime::from_scaled(samples, self.sample_rate) - MediaTime::ZERO)
    }

    fn frame_span(&self) -> MediaSpan {
        MediaTime::from_scaled(self.frame_samples.into(), self.sample_rate) - MediaTime::ZERO
    }

    /// Appends silent frames for a hole that ends at `until` (exclusive). The hole begins at the next expected frame
    /// or, before the first frame, at `start`.
    fn fill(&mut self, start: MediaTime, until: MediaTime, out: &mut Vec<Unit>) {
        let Some(frame) = self.frame.clone() else { return };
        let mut position = self.next.unwrap_or(Position { origin: start, frames: 0 });
        while self.time(Position { frames: position.frames + 1, ..position }) <= until {
            let at = self.time(position);
            out.push(Unit { pts: at, dts: at, key: true, data: frame.clone() });
            position.frames += 1;
            self.filled_frames += 1;
        }
        self.next = Some(position);
    }

    /// Takes a published audio frame, and appends the frames to be packaged to `out`. If the first frame comes later
    /// than `start`, silence fills the time between.
    pub(super) fn audio(&mut self, start: MediaTime, unit: Unit, out: &mut Vec<Unit>) {
        let expected = self.next.map_or(start, |next| self.time(next));
        // Silence or an earlier frame already occupies this time.
        let half = MediaSpan::from_ticks_90k(self.frame_span().ticks_90k() / 2);
        if self.next.is_some() && unit.pts + half < expected {
            self.late_frames += 1;
            return;
        }
        if unit.pts - expected > self.frame_span() {
            self.fill(start, unit.pts, out);
        }
        self.next = Some(Position { origin: unit.pts, frames: 1 });
        out.push(unit);
    }

    /// A video frame with the time `pts` arrived. Where audio has been missing for longer than `PATIENCE`, appends
    /// silence up to `PATIENCE` before `pts`; where no audio is published (`has_audio` is false), up to `pts`. If there
    /// was no audio frame yet, the silence starts at `start`.
    pub(super) fn video_at(
        &mut self,
        start: MediaTime,
        pts: MediaTime,
        has_audio: bool,
        out: &mut Vec<Unit>,
    ) {
        // Without published audio there is nothing to wait for.
        let until = if has_audio { pts - PATIENCE } else { pts };
        let from = self.next.map_or(start, |next| self.time(next));
        if until > from {
            self.fill(start, until, out);
        }
    }

    /// Number of silent frames inserted since the last call.
    pub(super) fn take_filled(&mut self) -> u64 {
        std::mem::take(&mut self.filled_frames)
    }

    /// Number of published frames dropped since the last call, because silence had taken their place.
    pub(super) fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late_frames)
    }
}

/// Tells the worker how far a transcoded audio rendition has to be silent. The worker fills up to a mark what no audio
/// has filled before.
#[derive(Debug, Default)]
pub(super) struct SilenceMarks {
    /// The newest audio or mark; `None` before the first.
    until: Option<MediaTime>,
}

impl SilenceMarks {
    /// Distance of marks: the worker fills two seconds at most at once.
    const STEP: MediaSpan = MediaSpan::from_millis(500);

    /// A published audio frame with the time `pts` arrived. Returns the mark at which a rendition begins whose first
    /// frame comes later than `start`.
    pub(super) fn audio(&mut self, start: MediaTime, pts: MediaTime) -> Option<MediaTime> {
        let begins = self.until.is_none() && pts > start;
        self.until = self.until.max(Some(pts));
        begins.then_some(start)
    }

    /// The media that leads the run has come to `pts`. Where audio has been missing for longer than `PATIENCE`, returns
    /// the marks up to `PATIENCE` before `pts`.
    pub(super) fn lead_at(&mut self, start: MediaTime, pts: MediaTime) -> Vec<MediaTime> {
        let limit = pts - PATIENCE;
        let mut marks = Vec::new();
        let mut until = match self.until {
            Some(until) => until,
            None if limit < start => return marks,
            None => {
                marks.push(start);
                start
            }
        };
        while until + Self::STEP <= limit {
            until += Self::STEP;
            marks.push(until);
        }
        self.until = Some(until);
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> MediaTime {
        MediaTime::from_ticks_90k(ms * 90)
    }

    fn unit(pts: MediaTime) -> Unit {
        Unit { pts, dts: pts, key: true, data: Bytes::from_static(b"x") }
    }

    fn gaps(units: &[Unit]) -> Vec<i64> {
        units.windows(2).map(|pair| (pair[1].pts - pair[0].pts).ticks_90k()).collect()
    }

    #[test]
    fn silence_runs_from_the_start_with_the_video() {
        let mut filler = AudioFiller::new(&silent_config());
        let mut out = Vec::new();
        for ms in (1000..2000).step_by(33) {
            filler.video_at(at(1000), at(ms), false, &mut out);
        }
        assert_eq!(out[0].pts, at(1000));
        assert!(gaps(&out).iter().all(|gap| *gap == 1920));
        assert_eq!(out.len(), 46);
    }

    #[test]
    fn silence_at_44_1_khz_does_not_drift() {
        let config = AudioConfig { sample_rate: 44_100, ..silent_config() };
        let mut filler = AudioFiller::new(&config);
        let mut out = Vec::new();
        filler.video_at(at(0), at(3_600_000), false, &mut out);
        assert_eq!(out.len() as i64, 3600 * 44_100 / 1024);
        let last = out.last().unwrap().pts;
        assert!((at(3_600_000) - last).ticks_90k() < 2 * 2090);
    }

    #[test]
    fn late_audio_joins_without_overlap_or_hole() {
        let mut filler = AudioFiller::new(&silent_config());
        let mut out = Vec::new();
        filler.video_at(at(0), at(500), false, &mut out);
        for frame in 0..40 {
            filler.audio(at(0), unit(at(400) + MediaSpan::from_ticks_90k(1920 * frame)), &mut out);
        }
        assert!(gaps(&out).iter().all(|gap| (960..=2880).contains(gap)), "{:?}", gaps(&out));
        assert!(filler.take_late() > 0);
    }

    #[test]
    fn audio_that_begins_behind_the_video_has_silence_before_it() {
        let mut filler = AudioFiller::new(&silent_config());
        let mut out = Vec::new();
        filler.video_at(at(1000), at(1000), true, &mut out);
        filler.audio(at(1000), unit(at(1100)), &mut out);
        assert_eq!(out[0].pts, at(1000), "a player would begin with a hole");
        assert!(gaps(&out).iter().all(|gap| (1920..=3840).contains(gap)), "{:?}", gaps(&out));
        let before_video = &mut AudioFiller::new(&silent_config());
        out.clear();
        before_video.audio(at(1000), unit(at(950)), &mut out);
        assert_eq!(out.len(), 1, "nothing is missing");
    }

    #[test]
    fn marks_follow_the_leading_media_where_audio_is_late_or_ends() {
        let ms =
            |marks: Vec<MediaTime>| -> Vec<i64> { marks.iter().map(|mark| mark.ticks_90k() / 90).collect() };
        let mut late = SilenceMarks::default();
        assert_eq!(ms(late.lead_at(at(1000), at(1990))), [] as [i64; 0]);
        assert_eq!(ms(late.lead_at(at(1000), at(2600))), [1000, 1500]);
        assert_eq!(ms(late.lead_at(at(1000), at(2900))), [] as [i64; 0]);
        assert_eq!(late.audio(at(1000), at(2700)), None, "the rendition has begun");
        assert_eq!(ms(late.lead_at(at(1000), at(4100))), [] as [i64; 0], "audio came up to here");
        assert_eq!(ms(late.lead_at(at(1000), at(5000))), [3200, 3700]);
        let mut soon = SilenceMarks::default();
        assert_eq!(soon.audio(at(1000), at(1300)), Some(at(1000)));
        assert_eq!(SilenceMarks::default().audio(at(1000), at(980)), None);
    }

    #[test]
    fn a_hole_in_the_audio_is_filled_only_after_patience() {
        let mut filler = AudioFiller::new(&silent_config());
        let mut out = Vec::new();
        filler.audio(at(0), unit(at(0)), &mut out);
        filler.video_at(at(0), at(900), true, &mut out);
        assert_eq!(out.len(), 1, "audio may still come");
        filler.video_at(at(0), at(3000), true, &mut out);
        assert!(out.len() > 90, "{}", out.len());
        filler.audio(at(0), unit(at(3000)), &mut out);
        assert!(gaps(&out).iter().all(|gap| (1920..=3840).contains(gap)), "{:?}", gaps(&out));
    }
}
