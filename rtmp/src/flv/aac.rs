//! AAC: the AudioSpecificConfig (ISO 14496-3, 1.6.2.1).

use super::FlvError;
use bytes::Bytes;
use media::{AudioCodec, AudioConfig};

/// Longest record accepted, in bytes: real records have 2 to 7, those with a program config element slightly more.
const MAX_RECORD: usize = 256;
/// Sample rates in Hz by index (table 1.18).
const SAMPLE_RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];
/// Sample rates in Hz accepted as an explicit frequency.
const EXPLICIT_RATES: std::ops::RangeInclusive<u32> = 7_350..=96_000;

/// Audio object types (table 1.17).
mod object_type {
    pub(super) const SBR: u8 = 5;
    pub(super) const ER_BSAC: u8 = 22;
    pub(super) const PS: u8 = 29;
    pub(super) const ESCAPE: u8 = 31;
    /// Object types whose configuration begins with a GASpecificConfig.
    pub(super) const GENERAL_AUDIO: [u8; 12] = [1, 2, 3, 4, 6, 7, 17, 19, 20, 21, 22, 23];
}

/// Reads a configuration record. With explicit SBR the sample rate is the decoder's output rate and a frame has 2048
/// samples. SBR that is signalled only in the frames is ignored, as every decoder may do.
pub fn read_config(record: &Bytes) -> Result<AudioConfig, FlvError> {
    if record.len() > MAX_RECORD {
        return Err(FlvError::Malformed("AAC configuration is too long"));
    }
    parse(record).ok_or(FlvError::Malformed("AAC configuration cannot be read"))
}

fn parse(record: &Bytes) -> Option<AudioConfig> {
    let mut bits = Bits { bytes: record, at: 0 };
    let mut object = bits.object_type()?;
    let core_rate = bits.sample_rate()?;
    let channel_config = bits.take(4)?;
    let mut output_rate = core_rate;
    let mut sbr = false;
    let mut ps = false;
    // Explicit hierarchical signalling: the extension's object type comes first, then the core's.
    if object == object_type::SBR || object == object_type::PS {
        sbr = true;
        ps = object == object_type::PS;
        output_rate = bits.sample_rate()?;
        object = bits.object_type()?;
        if object == object_type::ER_BSAC {
            bits.take(4)?;
        }
    }
    let mut frame_samples = 1024;
    if object_type::GENERAL_AUDIO.contains(&object) {
        if bits.take(1)? == 1 {
            frame_samples = 960;
        }
        if bits.take(1)? == 1 {
            bits.take(14)?;
        }
        let extension = bits.take(1)?;
        // Explicit backward-compatible signalling follows, unless layers or a program config element come in between.
        if !sbr && extension == 0 && channel_config != 0 {
            let mut tail = bits;
            if tail.take(11) == Some(0x2b7)
                && tail.object_type() == Some(object_type::SBR)
                && tail.take(1) == Some(1)
            {
                output_rate = tail.sample_rate()?;
                sbr = true;
                ps = tail.take(11) == Some(0x548) && tail.take(1) == Some(1);
            }
        }
    }
    let channels = match channel_config {
        // A program config element gives the channels: most players assume stereo.
        0 => 2,
        1 if ps => 2,
        1..=6 => channel_config as u8,
        7 => 8,
        11 => 7,
        12 | 14 => 8,
        _ => return None,
    };
    if sbr && output_rate == 2 * core_rate {
        frame_samples *= 2;
    }
    Some(AudioConfig {
        codec: AudioCodec::Aac,
        record: record.clone(),
        object_type: object,
        sample_rate: output_rate,
        channels,
        frame_samples,
    })
}

/// A bit reader, most significant bit first.
#[derive(Clone, Copy)]
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// Reads up to 32 bits.
    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = *self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn object_type(&mut self) -> Option<u8> {
        let object = self.take(5)? as u8;
        match object {
            0 => None,
            object_type::ESCAPE => Some(32 + self.take(6)? as u8),
            _ => Some(object),
        }
    }

    fn sample_rate(&mut self) -> Option<u32> {
        match self.take(4)? {
            15 => self.take(24).filter(|rate| EXPLICIT_RATES.contains(rate)),
            index => SAMPLE_RATES.get(index as usize).copied(),
        }
    }
}
