//! The test pattern's audio: a beep at every mark, a quiet tone between beeps. Pure.

use super::FrameRate;
use std::f64::consts::TAU;

/// Sample rate of the tone, in Hz.
const RATE: u64 = 48_000;
/// Frequency of the beep at every mark, in Hz.
const BEEP_HZ: u64 = 1_000;
const BEEP_SAMPLES: u64 = RATE / 10;
const BEEP_LEVEL: f64 = 0.5;
/// Frequency of the quiet tone between beeps, in Hz; with this tone, silence always means a fault.
const QUIET_HZ: u64 = 400;
const QUIET_LEVEL: f64 = 0.02;

/// Fills `samples`; `first` is the index of the first sample, counted from the pattern's start.
pub(super) fn fill(samples: &mut [f32], first: u64, frame_rate: FrameRate) {
    for (sample, at) in samples.iter_mut().zip(first..) {
        *sample = level(at, frame_rate) as f32;
    }
}

/// Level of the sample with index `at`, -1 to 1.
fn level(at: u64, frame_rate: FrameRate) -> f64 {
    let wave = |hertz: u64, samples: u64| (TAU * ((samples * hertz % RATE) as f64 / RATE as f64)).sin();
    match beep_at(at, frame_rate) {
        Some(into_beep) => BEEP_LEVEL * wave(BEEP_HZ, into_beep),
        None => QUIET_LEVEL * wave(QUIET_HZ, at),
    }
}

/// Offset of the sample with index `at` from the start of its beep, in samples; `None` outside a beep. Beeps begin
/// with the marked frame, which at fractional frame rates comes up to a frame after the full second.
fn beep_at(at: u64, frame_rate: FrameRate) -> Option<u64> {
    let second = at / RATE;
    [Some(second), second.checked_sub(1)]
        .into_iter()
        .flatten()
        .map(|second| frame_rate.mark_sample(second, RATE))
        .find(|start| *start <= at)
        .map(|start| at - start)
        .filter(|into_beep| *into_beep < BEEP_SAMPLES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIRTY: FrameRate = FrameRate { num: 30, den: 1 };
    const NTSC: FrameRate = FrameRate { num: 30_000, den: 1_001 };

    #[test]
    fn loud_for_a_tenth_of_each_second_and_never_silent() {
        let mut samples = vec![0.0; 96_000];
        fill(&mut samples, 0, THIRTY);
        let peak =
            |range: std::ops::Range<usize>| samples[range].iter().fold(0.0_f32, |peak, s| peak.max(s.abs()));
        for second in [0, 48_000] {
            assert!((peak(second..second + 4_800) - 0.5).abs() < 0.01);
            assert!((peak(second + 4_800..second + 48_000) - 0.02).abs() < 0.001);
        }
    }

    #[test]
    fn beeps_begin_with_the_marked_frame() {
        // At 29.97 frames per second the first frame at or after 1 s is the 30th, at 1.001 s.
        assert_eq!(beep_at(48_000, NTSC), None);
        assert_eq!(beep_at(48_048, NTSC), Some(0));
        assert_eq!(beep_at(48_000, THIRTY), Some(0));
    }
}
