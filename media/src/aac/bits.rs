//! The fields of an AudioSpecificConfig, bit by bit.

use crate::bits::Bits;

/// Sample rates in Hz by index (table 1.18).
pub(super) const SAMPLE_RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
/// Sample rates in Hz accepted as an explicit frequency.
const EXPLICIT_RATES: std::ops::RangeInclusive<u32> = 7_350..=96_000;
/// Audio object type 31: the type is 32 plus the next six bits.
const ESCAPE: u8 = 31;

/// The index of a sample rate in Hz.
pub(super) fn rate_index(sample_rate: u32) -> Option<u8> {
    SAMPLE_RATES.iter().position(|rate| *rate == sample_rate).and_then(|index| u8::try_from(index).ok())
}

impl Bits<'_> {
    /// Reads an audio object type, 1 to 95; `None` for the reserved 0 too.
    pub(super) fn object_type(&mut self) -> Option<u8> {
        match self.take(5)? as u8 {
            0 => None,
            ESCAPE => Some(32 + self.take(6)? as u8),
            object_type => Some(object_type),
        }
    }

    /// Reads a sample rate, by index or explicit; `None` for reserved indices and rates out of range too.
    pub(super) fn sample_rate(&mut self) -> Option<u32> {
        match self.take(4)? {
            15 => self.take(24).filter(|rate| EXPLICIT_RATES.contains(rate)),
            index => SAMPLE_RATES.get(index as usize).copied(),
        }
    }

    /// Reads a program_config_element (4.4.1.1) to its end, and returns its number of channels: one for each single
    /// channel or LFE element, two for each channel pair element.
    pub(super) fn program_channels(&mut self) -> Option<u32> {
        // element_instance_tag, object_type, sampling_frequency_index
        self.take(4 + 2 + 4)?;
        let (front, side, back) = (self.take(4)?, self.take(4)?, self.take(4)?);
        let (lfe, data, coupling) = (self.take(2)?, self.take(3)?, self.take(4)?);
        // Mono, stereo and matrix mixdown: a flag each, and what follows where the flag is set.
        for size in [4, 4, 3] {
            if self.flag()? {
                self.take(size)?;
            }
        }
        let mut channels = lfe;
        for _ in 0..front + side + back {
            channels += if self.flag()? { 2 } else { 1 };
            self.take(4)?;
        }
        self.skip(4 * (lfe + data) + 5 * coupling)?;
        // byte_alignment counts from the first bit of the AudioSpecificConfig.
        self.align();
        let comment_bytes = self.take(8)?;
        self.skip(8 * comment_bytes)?;
        Some(channels)
    }
}
