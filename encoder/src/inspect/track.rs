//! One track's figures: rate, steps, gaps and bitrates. What is particular to video is in [`super`].

use super::report::Spread;
use super::{KEPT, SECOND, keep, median, ms};
use media::MediaTime;
use std::collections::VecDeque;

/// A step between pictures above this many ticks, and above [`GAP_TIMES`] of the mean step, is a gap (1 s): slide shows
/// have none.
pub(super) const VIDEO_GAP: i64 = SECOND;
/// The same for audio frames (150 ms).
pub(super) const AUDIO_GAP: i64 = SECOND * 15 / 100;
/// See [`VIDEO_GAP`].
const GAP_TIMES: i64 = 5;
/// A step before the mean is known is a gap above this many ticks (2 s).
const FIRST_GAP: i64 = 2 * SECOND;
/// Steps that differ from their median by less than this many ticks (2 ms) count as equal: containers round to
/// milliseconds.
const ROUNDING: i64 = SECOND / 500;

/// The figures of one track.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    first: Option<MediaTime>,
    newest: Option<MediaTime>,
    units: u64,
    bytes: u64,
    /// Steps that are no gaps: how many, and their sum in ticks.
    regular: (u64, i64),
    /// The last steps that are no gaps, in ticks.
    steps: VecDeque<i64>,
    gaps: u64,
    longest_gap: i64,
    backward: u64,
    /// The second of media in progress, counted without gaps: its number and bytes.
    second: (i64, u64),
    peak_bytes: u64,
}

impl Track {
    /// Takes an access unit; returns the step in ticks since the one before. `gap` is the least gap in ticks.
    pub(super) fn unit(&mut self, dts: MediaTime, bytes: u64, gap: i64) -> Option<i64> {
        self.units += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.first = Some(self.first.map_or(dts, |first| first.min(dts)));
        let step = self.newest.replace(dts).map(|former| (dts - former).ticks_90k());
        match step {
            None => {}
            Some(step) if step <= 0 => self.backward += 1,
            Some(step) if step > self.gap_above(gap) => {
                self.gaps += 1;
                self.longest_gap = self.longest_gap.max(step);
            }
            Some(step) => {
                self.regular.0 += 1;
                self.regular.1 = self.regular.1.saturating_add(step);
                keep(&mut self.steps, step);
            }
        }
        let second = self.regular.1 / SECOND;
        if second != self.second.0 {
            self.peak_bytes = self.peak_bytes.max(self.second.1);
            self.second = (second, 0);
        }
        self.second.1 = self.second.1.saturating_add(bytes);
        step
    }

    fn gap_above(&self, least: i64) -> i64 {
        match self.mean_step() {
            0 => FIRST_GAP,
            mean => least.max(mean.saturating_mul(GAP_TIMES)),
        }
    }

    /// The first access unit's time, or an earlier one.
    pub(super) fn first(&self) -> Option<MediaTime> {
        self.first
    }

    /// The newest access unit's time.
    pub(super) fn newest(&self) -> Option<MediaTime> {
        self.newest
    }

    /// Access units so far.
    pub(super) fn units(&self) -> u64 {
        self.units
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gaps so far.
    pub(super) fn gaps(&self) -> u64 {
        self.gaps
    }

    /// The longest gap in ticks; 0 without one.
    pub(super) fn longest_gap(&self) -> i64 {
        self.longest_gap
    }

    /// Steps that did not go forward.
    pub(super) fn backward(&self) -> u64 {
        self.backward
    }

    /// The mean of steps that are no gaps, in ticks; 0 before the first one.
    pub(super) fn mean_step(&self) -> i64 {
        self.regular.1.checked_div(i64::try_from(self.regular.0).unwrap_or(i64::MAX)).unwrap_or(0)
    }

    /// Access units per second of the time without gaps.
    pub(super) fn rate(&self) -> Option<f64> {
        let (count, sum) = self.regular;
        (sum > 0).then(|| count as f64 * SECOND as f64 / sum as f64)
    }

    /// Whether nine of ten of the last steps are equal, but for rounding.
    pub(super) fn is_steady(&self) -> bool {
        let Some(median) = median(&self.steps) else { return true };
        let tolerance = ROUNDING.max(median / 10);
        let equal = self.steps.iter().filter(|step| (*step - median).abs() <= tolerance).count();
        equal * 10 >= self.steps.len() * 9
    }

    /// Least, median and greatest of the last steps.
    pub(super) fn spread(&self) -> Option<Spread> {
        let (least, most) = (self.steps.iter().min()?, self.steps.iter().max()?);
        let median = median(&self.steps)?;
        Some(Spread { least: ms(*least as f64), median: ms(median as f64), most: ms(*most as f64) })
    }

    /// Average bitrate over the time without gaps.
    pub(super) fn bits_per_second(&self) -> u64 {
        let ticks = self.regular.1.saturating_add(self.mean_step());
        if ticks <= 0 { 0 } else { (self.bytes as f64 * 8.0 * SECOND as f64 / ticks as f64).round() as u64 }
    }

    /// Bits in the second that had most; the average where no second is over.
    pub(super) fn peak_bits_per_second(&self) -> u64 {
        self.bits_per_second().max(self.peak_bytes.saturating_mul(8))
    }
}

// The bound of the module's description.
const _: () = assert!(3 * KEPT * size_of::<i64>() < 8 << 10);
