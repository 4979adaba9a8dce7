//! Audio times from sample counts. FLV's milliseconds make frames of 21 or 22 ms out of 21.33, and muxers take the
//! difference for missing or surplus samples; the count is exact, and the milliseconds only tell when it has come off.

use super::Repairs;
use hls::time::{TICKS_PER_SECOND, rescale};

/// Milliseconds may be off this far on average before the count is brought back: jitter of senders that stamp at
/// arrival is less, and sound 40 ms early is not noticed.
const MAX_DRIFT: i64 = 40 * 90;
/// Off this far at once: frames are missing.
const MAX_OFF: i64 = 120 * 90;
/// The average runs over about this many frames.
const AVERAGE: i64 = 16;

/// Counts samples from an anchor on the axis.
#[derive(Clone, Debug, Default)]
pub struct SampleCounter {
    format: Option<Format>,
    anchor: Option<i64>,
    /// Samples since the anchor.
    samples: i64,
    /// Averaged milliseconds less count, in ticks.
    drift: i64,
    /// Leaving frames out until time has caught up.
    dropping: bool,
    /// No frame begins before: the last one's end.
    end: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    sample_rate: u32,
    frame_samples: u32,
}

impl SampleCounter {
    /// Every frame will be behind `floor`.
    pub(super) fn behind(floor: i64) -> Self {
        Self { end: floor.saturating_add(1), ..Self::default() }
    }

    /// A new format restarts the count. One with frames of less than a millisecond is none.
    pub(super) fn set_format(&mut self, sample_rate: u32, frame_samples: u32) {
        // Frames of less than a tick could not be told apart.
        let is_sound = sample_rate > 0 && u64::from(frame_samples) * 1000 >= u64::from(sample_rate);
        let format = is_sound.then_some(Format { sample_rate, frame_samples });
        if self.format != format {
            self.format = format;
            self.restart();
        }
    }

    /// The next frame is an anchor, no earlier than the last one's end.
    pub(super) fn restart(&mut self) {
        self.anchor = None;
        self.dropping = false;
    }

    /// Where the frame is that its milliseconds put at `axis`; None when it is left out.
    pub(super) fn place(&mut self, axis: i64, repairs: &mut Repairs) -> Option<i64> {
        // Without a format nothing is known but that time goes on.
        let Some(Format { sample_rate, frame_samples }) = self.format else {
            let place = axis.max(self.end);
            self.end = place + 1;
            return Some(place);
        };
        let due =
            self.anchor.map(|anchor| anchor + rescale(self.samples, sample_rate.into(), TICKS_PER_SECOND));
        let place = match due {
            None => self.anchor_at(axis.max(self.end)),
            Some(due) => {
                let off = axis - due;
                self.drift += (off - self.drift) / AVERAGE;
                let frame = rescale(frame_samples.into(), sample_rate.into(), TICKS_PER_SECOND);
                let is_off = off.abs() > MAX_OFF || self.drift.abs() > MAX_DRIFT;
                if self.dropping && off < -frame / 2 {
                    repairs.audio_frames_dropped += 1;
                    return None;
                }
                if self.dropping {
                    self.dropping = false;
                    self.drift = 0;
                    due
                } else if is_off && off > 0 {
                    repairs.audio_resyncs += 1;
                    self.anchor_at(axis)
                } else if is_off && off < -frame / 2 {
                    repairs.audio_resyncs += 1;
                    repairs.audio_frames_dropped += 1;
                    self.dropping = true;
                    return None;
                } else {
                    due
                }
            }
        };
        self.samples += i64::from(frame_samples);
        let anchor = self.anchor.unwrap_or(place);
        self.end = anchor + rescale(self.samples, sample_rate.into(), TICKS_PER_SECOND);
        Some(place)
    }

    fn anchor_at(&mut self, axis: i64) -> i64 {
        self.anchor = Some(axis);
        self.samples = 0;
        self.drift = 0;
        axis
    }
}
