//! Audio times from sample counts. FLV's milliseconds turn frames of 21.33 ms into 21 or 22 ms, and muxers read the
//! difference as missing or surplus samples. The count is exact; the milliseconds only show when the count has drifted.

use super::Repairs;
use media::time::{TICKS_PER_SECOND, rescale};

/// Largest average drift in ticks (34 ms) before the count is realigned with the milliseconds: senders that stamp on
/// arrival have less jitter, and the average lags behind: sound stays within 40 ms of the picture.
const MAX_DRIFT: i64 = 34 * 90;
/// A single deviation above this, in ticks (120 ms), means that frames are missing.
const MAX_OFF: i64 = 120 * 90;
/// The average covers about this many frames: 0.7 s of AAC.
const AVERAGE: i64 = 32;

/// Counts samples from an anchor on the axis.
#[derive(Clone, Debug, Default)]
pub struct SampleCounter {
    format: Option<Format>,
    anchor: Option<i64>,
    /// Samples since the anchor.
    samples: i64,
    /// Averaged difference of milliseconds minus count, in ticks.
    drift: i64,
    /// Dropping frames until the time has caught up with the count.
    dropping: bool,
    /// End of the last frame in ticks; no frame begins earlier.
    end: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Format {
    sample_rate: u32,
    frame_samples: u32,
}

impl SampleCounter {
    /// A counter that places every frame after `floor`.
    pub(super) fn behind(floor: i64) -> Self {
        Self { end: floor.saturating_add(1), ..Self::default() }
    }

    /// Sets the format; a new format restarts the count. A format with frames shorter than a millisecond counts as
    /// none.
    pub(super) fn set_format(&mut self, sample_rate: u32, frame_samples: u32) {
        // Frames shorter than a tick could not be told apart.
        let is_sound = sample_rate > 0 && u64::from(frame_samples) * 1000 >= u64::from(sample_rate);
        let format = is_sound.then_some(Format { sample_rate, frame_samples });
        if self.format != format {
            self.format = format;
            self.restart();
        }
    }

    /// Makes the next frame an anchor, no earlier than the last frame's end.
    pub(super) fn restart(&mut self) {
        self.anchor = None;
        self.dropping = false;
    }

    /// Places the frame whose milliseconds map to `axis`; `None` if the frame is dropped.
    pub(super) fn place(&mut self, axis: i64, repairs: &mut Repairs) -> Option<i64> {
        // Without a format, the only requirement is that time advances.
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
