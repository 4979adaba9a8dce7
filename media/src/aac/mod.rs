//! AAC (ISO/IEC 14496-3): the AudioSpecificConfig (1.6.2.1), read and, for AAC-LC, written; ADTS.
//!
//! What belongs here: what several crates need to know about the codec. Bytes come from outside: every function returns
//! an error or `None` for broken input, and each limit is a constant. What does not: decoding; nothing here reads a
//! frame's spectrum.

mod adts;
mod bits;
#[cfg(test)]
mod tests;

pub use adts::{AdtsFrame, adts_frames};

use crate::bits::Bits;
use crate::{AacExtension, AudioCodec, AudioConfig};
use bytes::Bytes;

/// Longest record accepted, in bytes: real records have 2 to 7, those with a program config element slightly more.
pub const MAX_RECORD: usize = 256;
/// Accepted numbers of channels.
pub const CHANNELS: std::ops::RangeInclusive<u8> = 1..=8;
/// Number of channels assumed where a program config element cannot be read: most players assume stereo.
const ASSUMED_CHANNELS: u8 = 2;
/// Samples in a frame of AAC-LC.
const LC_FRAME_SAMPLES: u32 = 1024;

/// Audio object types (table 1.17).
mod object_type {
    pub(super) const MAIN: u8 = 1;
    pub(super) const LC: u8 = 2;
    pub(super) const LTP: u8 = 4;
    pub(super) const SBR: u8 = 5;
    pub(super) const TWIN_VQ: u8 = 7;
    pub(super) const ER_BSAC: u8 = 22;
    pub(super) const ER_LD: u8 = 23;
    pub(super) const PS: u8 = 29;
    pub(super) const ER_ELD: u8 = 39;
    /// Object types whose configuration begins with a GASpecificConfig.
    pub(super) const GENERAL_AUDIO: [u8; 12] = [1, 2, 3, 4, 6, 7, 17, 19, 20, 21, 22, 23];
}

/// The object type of AAC-LC, in [`AudioConfig::core_type`].
pub const LC: u8 = object_type::LC;

/// What is wrong with AAC data. The sender is at fault; reading the same bytes again fails again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum AacError {
    /// The configuration is longer than [`MAX_RECORD`].
    RecordTooLong,
    /// The configuration ends early, or has a reserved value or a sample rate outside 7350 to 96000 Hz.
    Record,
    /// The configuration has more channels than [`CHANNELS`] allows: 22.2, configuration 13.
    Channels,
    /// An ADTS header is cut short, has a reserved value, or lacks its sync word.
    Adts,
    /// An ADTS header leaves the channels to a program config element inside the frame, which a two-byte
    /// AudioSpecificConfig cannot express.
    AdtsChannels,
}

impl AacError {
    /// The error in words.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RecordTooLong => "AAC configuration is too long",
            Self::Record => "AAC configuration cannot be read",
            Self::Channels => "AAC with more than eight channels",
            Self::Adts => "malformed ADTS",
            Self::AdtsChannels => "AAC with a channel layout of its own",
        }
    }
}

/// Reads an AudioSpecificConfig.
///
/// - SBR and PS that the record signals, hierarchically or backward compatibly, are in [`AudioConfig::extension`]; the
///   sample rate is then the decoder's output rate, and a frame has twice as many samples if that rate is twice the
///   core's.
/// - `decoded_rate` is a decoder's output rate in Hz, where a decoder has been asked. SBR that only the frames signal
///   is visible there alone: the rate is twice the core's (1.6.5.3). Without a decoder such SBR is ignored, as every
///   decoder may do.
/// - Channel configuration 0: a program config element follows and names the channels. Where that element cannot be
///   read, or does not name 1 to 8 channels, two channels are assumed. Callers that need to know find the 0 in
///   [`AudioConfig::channel_config`].
///
/// # Errors
/// [`AacError::RecordTooLong`], [`AacError::Record`] or [`AacError::Channels`].
pub fn read_config(record: &Bytes, decoded_rate: Option<u32>) -> Result<AudioConfig, AacError> {
    if record.len() > MAX_RECORD {
        return Err(AacError::RecordTooLong);
    }
    let parsed = parse(record).ok_or(AacError::Record)?;
    let Parsed { core_type, core_rate, channel_config, mut extension, mut sample_rate, .. } = parsed;
    if extension.is_none() && decoded_rate == Some(2 * core_rate) {
        (extension, sample_rate) = (Some(AacExtension::Sbr), 2 * core_rate);
    }
    let doubled = extension.is_some() && sample_rate == 2 * core_rate;
    let config = AudioConfig {
        codec: AudioCodec::Aac,
        record: record.clone(),
        core_type,
        extension,
        channel_config,
        sample_rate,
        channels: channels(&parsed)?,
        frame_samples: if doubled { 2 * parsed.core_samples } else { parsed.core_samples },
    };
    Ok(config)
}

/// What an AudioSpecificConfig says.
struct Parsed {
    core_type: u8,
    core_rate: u32,
    extension: Option<AacExtension>,
    /// In Hz: the extension's rate if there is one, else the core's.
    sample_rate: u32,
    /// 0 to 15.
    channel_config: u8,
    /// Channels in the program config element, if there is one that can be read.
    program_channels: Option<u32>,
    /// Samples in a frame at the core's rate.
    core_samples: u32,
}

fn parse(record: &[u8]) -> Option<Parsed> {
    let mut bits = Bits::new(record);
    let first_type = bits.object_type()?;
    let core_rate = bits.sample_rate()?;
    let mut parsed = Parsed {
        core_type: first_type,
        core_rate,
        extension: None,
        sample_rate: core_rate,
        channel_config: bits.take(4)? as u8,
        program_channels: None,
        core_samples: LC_FRAME_SAMPLES,
    };
    // Explicit hierarchical signalling: the extension's object type comes first, then the core's.
    if matches!(first_type, object_type::SBR | object_type::PS) {
        let ps = first_type == object_type::PS;
        parsed.extension = Some(if ps { AacExtension::SbrAndPs } else { AacExtension::Sbr });
        parsed.sample_rate = bits.sample_rate()?;
        parsed.core_type = bits.object_type()?;
        if parsed.core_type == object_type::ER_BSAC {
            // extensionChannelConfiguration
            bits.take(4)?;
        }
    }
    if object_type::GENERAL_AUDIO.contains(&parsed.core_type) {
        general_audio(&mut bits, &mut parsed)?;
    } else if parsed.core_type == object_type::ER_ELD {
        // ELDSpecificConfig (4.6.20.2) begins with frameLengthFlag.
        parsed.core_samples = if bits.flag()? { 480 } else { 512 };
    }
    Some(parsed)
}

/// Reads a GASpecificConfig (4.4.1) and the extension after it.
fn general_audio(bits: &mut Bits<'_>, parsed: &mut Parsed) -> Option<()> {
    parsed.core_samples = match (bits.flag()?, parsed.core_type) {
        (false, object_type::ER_LD) => 512,
        (true, object_type::ER_LD) => 480,
        (false, _) => LC_FRAME_SAMPLES,
        (true, _) => 960,
    };
    // dependsOnCoreCoder, coreCoderDelay
    if bits.flag()? {
        bits.take(14)?;
    }
    let extension_flag = bits.flag()?;
    if parsed.channel_config == 0 {
        parsed.program_channels = bits.program_channels();
        // The position of what follows is unknown.
        if parsed.program_channels.is_none() {
            return Some(());
        }
    }
    // The extension comes right here for these object types; the others have layer numbers or error protection before
    // it, and no sender is known that signals SBR so.
    let plain = matches!(parsed.core_type, object_type::MAIN..=object_type::LTP | object_type::TWIN_VQ);
    if plain && !extension_flag && parsed.extension.is_none() {
        backward_compatible(bits, parsed);
    }
    Some(())
}

/// Explicit backward-compatible signalling: a sync word, then the extension's object type.
fn backward_compatible(bits: &mut Bits<'_>, parsed: &mut Parsed) {
    if bits.take(11) != Some(0x2b7)
        || bits.object_type() != Some(object_type::SBR)
        || bits.flag() != Some(true)
    {
        return;
    }
    let Some(rate) = bits.sample_rate() else { return };
    let ps = bits.take(11) == Some(0x548) && bits.flag() == Some(true);
    parsed.sample_rate = rate;
    parsed.extension = Some(if ps { AacExtension::SbrAndPs } else { AacExtension::Sbr });
}

/// The number of channels of the decoder's output (table 1.19).
fn channels(parsed: &Parsed) -> Result<u8, AacError> {
    let named = match parsed.channel_config {
        0 => {
            let named = parsed.program_channels.and_then(|count| u8::try_from(count).ok());
            return Ok(named.filter(|count| CHANNELS.contains(count)).unwrap_or(ASSUMED_CHANNELS));
        }
        // PS makes two channels of one.
        1 if parsed.extension == Some(AacExtension::SbrAndPs) => 2,
        config @ 1..=6 => config,
        7 | 12 | 14 => 8,
        11 => 7,
        // 22.2
        13 => 24,
        _reserved => return Err(AacError::Record),
    };
    if CHANNELS.contains(&named) { Ok(named) } else { Err(AacError::Channels) }
}

/// The configuration of AAC-LC without extensions; `None` for sample rates without an index (table 1.18) and for other
/// channel numbers than 1 to 6 and 8.
pub fn lc_config(sample_rate: u32, channels: u8) -> Option<AudioConfig> {
    let channel_config = match channels {
        1..=6 => channels,
        8 => 7,
        _ => return None,
    };
    let record = specific_config(object_type::LC, bits::rate_index(sample_rate)?, channel_config);
    Some(AudioConfig {
        codec: AudioCodec::Aac,
        record: Bytes::copy_from_slice(&record),
        core_type: object_type::LC,
        extension: None,
        channel_config,
        sample_rate,
        channels,
        frame_samples: LC_FRAME_SAMPLES,
    })
}

/// An AudioSpecificConfig of two bytes: frames of 1024 samples, no extension.
fn specific_config(object_type: u8, rate_index: u8, channel_config: u8) -> [u8; 2] {
    (u16::from(object_type) << 11 | u16::from(rate_index) << 7 | u16::from(channel_config) << 3).to_be_bytes()
}

/// The CODECS entry (RFC 6381) `mp4a.40.N`: N is the object type with which the AudioSpecificConfig begins, that is,
/// the extension's where it is signalled hierarchically. `None` when the record is too short.
pub fn codecs_string(record: &[u8]) -> Option<String> {
    Some(format!("mp4a.40.{}", Bits::new(record).object_type()?))
}
