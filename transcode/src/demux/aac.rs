//! Parses AAC descriptions: AudioSpecificConfig (ISO 14496-3 1.6.2.1) and ADTS headers (1.A.2). Pure; no libav.

use bytes::Bytes;
use media::{AudioCodec, AudioConfig};

/// Sampling frequencies in Hz, by index (ISO 14496-3 table 1.18).
const SAMPLE_RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

/// Why AAC data cannot be published. The file is at fault; a retry does not help.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AacError {
    /// The data is too short, has a reserved value, or lacks an ADTS sync word where one is required.
    #[error("malformed AAC")]
    Malformed,
    /// The channel layout is described inside the frames, which a two-byte AudioSpecificConfig cannot express.
    #[error("AAC with a channel layout of its own")]
    ChannelLayout,
}

/// Reads an AudioSpecificConfig. `output_rate` is the decoder's output sample rate in Hz: HE-AAC may be visible only
/// there, because with implicit signalling the decoder doubles the core's rate (ISO 14496-3 1.6.5.3).
pub(crate) fn audio_config(record: &[u8], output_rate: u32) -> Result<AudioConfig, AacError> {
    let mut bits = Bits { bytes: record, at: 0 };
    let object_type = bits.object_type()?;
    let core_rate = bits.sample_rate()?;
    let channels = match bits.take(4)? {
        // 7 is 7.1; 0 means a program config element, whose channels only the decoder knows.
        0 => return Err(AacError::ChannelLayout),
        7 => 8,
        channels => channels as u8,
    };
    let mut declared_rate = core_rate;
    let mut core_type = object_type;
    if matches!(object_type, 5 | 29) {
        declared_rate = bits.sample_rate()?;
        core_type = bits.object_type()?;
    }
    // GASpecificConfig.frameLengthFlag, in the object types that have this flag (4.4.1).
    let short_frames = matches!(core_type, 1..=4 | 6 | 7) && bits.take(1)? == 1;
    let sample_rate = if output_rate == core_rate * 2 { output_rate } else { declared_rate };
    let core_samples = if short_frames { 960 } else { 1024 };
    Ok(AudioConfig {
        codec: AudioCodec::Aac,
        record: Bytes::copy_from_slice(record),
        object_type,
        sample_rate,
        channels,
        frame_samples: if sample_rate == core_rate * 2 { core_samples * 2 } else { core_samples },
    })
}

/// An AudioSpecificConfig for AAC-LC; `None` for rates without an index.
pub(crate) fn lc_record(sample_rate: u32, channels: u8) -> Option<[u8; 2]> {
    let index = SAMPLE_RATES.iter().position(|rate| *rate == sample_rate)? as u8;
    Some(specific_config(2, index, channels))
}

fn specific_config(object_type: u8, rate_index: u8, channels: u8) -> [u8; 2] {
    (u16::from(object_type) << 11 | u16::from(rate_index) << 7 | u16::from(channels) << 3).to_be_bytes()
}

/// One frame of an ADTS stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AdtsFrame<'a> {
    /// The AudioSpecificConfig that the frame's header corresponds to.
    pub(crate) record: [u8; 2],
    /// The raw frame after the header.
    pub(crate) data: &'a [u8],
}

/// Whether a packet begins with an ADTS sync word. A raw AAC frame may begin with the same bits by chance, so call
/// this only where ADTS is possible.
pub(crate) fn is_adts(packet: &[u8]) -> bool {
    matches!(packet, [0xff, second, ..] if second & 0xf6 == 0xf0)
}

/// Splits a packet into its ADTS frames.
pub(crate) fn adts_frames(packet: &[u8]) -> impl Iterator<Item = Result<AdtsFrame<'_>, AacError>> {
    let mut rest = packet;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let frame = adts_frame(rest);
        rest = frame.as_ref().map_or(&[], |(_, behind)| behind);
        Some(frame.map(|(frame, _)| frame))
    })
}

fn adts_frame(bytes: &[u8]) -> Result<(AdtsFrame<'_>, &[u8]), AacError> {
    if bytes.len() < 7 || !is_adts(bytes) {
        return Err(AacError::Malformed);
    }
    let header_len = if bytes[1] & 1 == 1 { 7 } else { 9 };
    let (object_type, rate_index) = ((bytes[2] >> 6) + 1, bytes[2] >> 2 & 0xf);
    let channels = (bytes[2] & 1) << 2 | bytes[3] >> 6;
    let len = usize::from(bytes[3] & 3) << 11 | usize::from(bytes[4]) << 3 | usize::from(bytes[5] >> 5);
    if usize::from(rate_index) >= SAMPLE_RATES.len() || len <= header_len || len > bytes.len() {
        return Err(AacError::Malformed);
    }
    if channels == 0 {
        return Err(AacError::ChannelLayout);
    }
    let (frame, behind) = bytes.split_at(len);
    let record = specific_config(object_type, rate_index, channels);
    Ok((AdtsFrame { record, data: &frame[header_len..] }, behind))
}

/// Reads bits, most significant first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Result<u32, AacError> {
        (0..count).try_fold(0, |value, _| {
            let byte = self.bytes.get(self.at / 8).ok_or(AacError::Malformed)?;
            let bit = byte >> (7 - self.at % 8) & 1;
            self.at += 1;
            Ok(value << 1 | u32::from(bit))
        })
    }

    fn object_type(&mut self) -> Result<u8, AacError> {
        match self.take(5)? {
            0 => Err(AacError::Malformed),
            31 => Ok(32 + self.take(6)? as u8),
            object_type => Ok(object_type as u8),
        }
    }

    fn sample_rate(&mut self) -> Result<u32, AacError> {
        match self.take(4)? as usize {
            15 => self.take(24).and_then(|rate| if rate == 0 { Err(AacError::Malformed) } else { Ok(rate) }),
            index => SAMPLE_RATES.get(index).copied().ok_or(AacError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lc() {
        let config = audio_config(&[0x12, 0x10], 44_100).unwrap();
        assert_eq!((config.object_type, config.sample_rate, config.channels), (2, 44_100, 2));
        assert_eq!(config.frame_samples, 1024);
    }

    #[test]
    fn he_aac_signalled_by_the_decoder_only_has_long_frames_at_twice_the_rate() {
        // AAC-LC, 24 kHz (index 6), stereo.
        let config = audio_config(&[0x13, 0x10], 48_000).unwrap();
        assert_eq!((config.sample_rate, config.frame_samples), (48_000, 2048));
    }

    #[test]
    fn he_aac_signalled_in_the_record() {
        // Object type 5, core 24 kHz, stereo, extension 48 kHz, then object type 2.
        let config = audio_config(&[0x2b, 0x11, 0x88, 0x00], 48_000).unwrap();
        assert_eq!((config.object_type, config.sample_rate, config.frame_samples), (5, 48_000, 2048));
    }

    #[test]
    fn written_and_read_back() {
        assert_eq!(lc_record(48_000, 2), Some([0x11, 0x90]));
        assert_eq!(lc_record(47_999, 2), None);
        assert_eq!(audio_config(&[0x11, 0x90], 48_000).unwrap().sample_rate, 48_000);
    }

    #[test]
    fn adts_frames_are_split_and_bared() {
        // AAC-LC 48 kHz stereo, no CRC, 9 bytes in all.
        let frame = [0xff, 0xf1, 0x4c, 0x80, 0x01, 0x3f, 0xfc, 0xaa, 0xbb];
        let two = [frame, frame].concat();
        let frames: Vec<_> = adts_frames(&two).collect();
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[1], Ok(AdtsFrame { record: [0x11, 0x90], data: &[0xaa, 0xbb] }));
        assert_eq!(adts_frames(&frame[..8]).collect::<Vec<_>>(), [Err(AacError::Malformed)]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer(bytes: Vec<u8>, rate: u32) {
            let _ = audio_config(&bytes, rate);
            let _ = adts_frames(&bytes).count();
        }
    }
}
