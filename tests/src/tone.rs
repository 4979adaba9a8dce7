//! Which tone a file of sound has.
//!
//! What belongs here: the strength of a tone, measured in decoded samples. What does not: when a sound begins (`probe`).

use anyhow::{Context, ensure};
use std::path::Path;
use std::process::Command;

/// Samples per second of the decoded sound.
const RATE: f64 = 8000.0;
/// Samples in a stretch that is measured by itself: half a second.
const STRETCH: usize = 4000;

/// The loudest of these tones (in Hz) in each half second of a file's sound; 0 where none is louder than silence.
///
/// # Errors
/// The file cannot be decoded.
pub fn loudest(file: &Path, tones: &[u32]) -> anyhow::Result<Vec<u32>> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(file);
    let done =
        command.args(["-vn", "-ac", "1", "-ar", "8000", "-f", "s16le", "-"]).output().context("ffmpeg")?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let samples: Vec<f64> = done
        .stdout
        .chunks_exact(2)
        .map(|pair| f64::from(i16::from_le_bytes([pair[0], pair[1]])) / 32_768.0)
        .collect();
    Ok(samples.chunks_exact(STRETCH).map(|stretch| loudest_in(stretch, tones)).collect())
}

fn loudest_in(samples: &[f64], tones: &[u32]) -> u32 {
    /// Amplitude below which nothing is heard: -60 dB.
    const SILENT: f64 = 0.001;
    let measured = tones.iter().map(|tone| (amplitude(samples, *tone), *tone));
    measured
        .filter(|(amplitude, _)| *amplitude > SILENT)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(0, |found| found.1)
}

/// Amplitude of a tone, by the algorithm of Goertzel.
fn amplitude(samples: &[f64], tone: u32) -> f64 {
    let coefficient = 2.0 * (std::f64::consts::TAU * f64::from(tone) / RATE).cos();
    let (mut last, mut before) = (0.0, 0.0);
    for sample in samples {
        (last, before) = (sample + coefficient * last - before, last);
    }
    let power = last * last + before * before - coefficient * last * before;
    2.0 * power.max(0.0).sqrt() / samples.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loudest_tone_is_found_and_silence_has_none() {
        let sine = |tone: f64, level: f64| -> Vec<f64> {
            (0..STRETCH).map(|n| level * (std::f64::consts::TAU * tone * n as f64 / RATE).sin()).collect()
        };
        let tones = [440, 880, 1320];
        for tone in tones {
            assert_eq!(loudest_in(&sine(tone.into(), 0.01), &tones), tone);
        }
        assert_eq!(loudest_in(&sine(1000.0, 0.5), &[1000, 440]), 1000);
        assert_eq!(loudest_in(&sine(440.0, 0.0001), &tones), 0);
    }
}
