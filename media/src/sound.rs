//! Audio codecs besides AAC, as far as an encoder has to know them before libav decodes them: sample rate, channels and
//! samples of a frame, from a configuration or from a frame's own header.
//!
//! What belongs here: what several crates need to know about the codecs. Bytes come from outside: every function returns
//! `None` for what cannot be read. What does not: containers, timestamps, decoding.

use crate::bits::Bits;
use crate::{AudioCodec, AudioConfig};
use bytes::Bytes;

/// Longest configuration accepted, in bytes.
pub const MAX_RECORD: usize = 1024;
/// Bytes of FLAC's STREAMINFO.
const STREAM_INFO: usize = 34;

/// A configuration without a record. `frame_samples` is 0 where it varies.
pub fn config(codec: AudioCodec, sample_rate: u32, channels: u8, frame_samples: u32) -> AudioConfig {
    AudioConfig {
        codec,
        record: Bytes::new(),
        core_type: 0,
        extension: None,
        channel_config: 0,
        sample_rate,
        channels,
        frame_samples,
    }
}

/// The configuration that an MPEG audio frame's header gives (ISO/IEC 11172-3 2.4.2.3, 13818-3): layers I to III.
pub fn mpeg_audio(frame: &[u8]) -> Option<AudioConfig> {
    let mut bits = Bits::new(frame);
    if bits.take(11)? != 0x7ff {
        return None;
    }
    let (version, layer) = (bits.take(2)?, bits.take(2)?);
    bits.flag()?;
    let (bitrate, rate) = (bits.take(4)?, bits.take(2)?);
    bits.take(2)?;
    let mono = bits.take(2)? == 3;
    // Version 1 and layer 0 are reserved, as are the highest bit rate and sample rate.
    if version == 1 || layer == 0 || bitrate == 15 || rate == 3 {
        return None;
    }
    let full = [44_100, 48_000, 32_000][rate as usize];
    let mpeg1 = version == 3;
    let sample_rate = match version {
        3 => full,
        2 => full / 2,
        _ => full / 4,
    };
    // Layers count down: 3 is layer I, 1 is layer III.
    let samples = match (layer, mpeg1) {
        (3, _) => 384,
        (1, false) => 576,
        _ => 1152,
    };
    Some(config(AudioCodec::Mp3, sample_rate, if mono { 1 } else { 2 }, samples))
}

/// Reads OpusHead (RFC 7845, 5.1). Opus is always decoded at 48 kHz; the duration of its frames varies.
pub fn opus(head: &Bytes) -> Option<AudioConfig> {
    let channels = *head.get(9)?;
    if head.len() > MAX_RECORD || !head.starts_with(b"OpusHead") || head.len() < 19 {
        return None;
    }
    known_channels(AudioConfig { record: head.clone(), ..config(AudioCodec::Opus, 48_000, channels, 0) })
}

/// OpusHead for a stream that has none: one or two channels, as the first packet's header says (RFC 6716, 3.1).
pub fn opus_of_packet(packet: &[u8]) -> Option<AudioConfig> {
    let channels = if packet.first()? & 4 == 0 { 1 } else { 2 };
    let mut head = Vec::from(*b"OpusHead\x01");
    head.push(channels);
    // Pre-skip, 48000 Hz, no gain, mapping family 0.
    head.extend([0, 0, 0x80, 0xbb, 0, 0, 0, 0, 0]);
    opus(&Bytes::from(head))
}

/// Reads FLAC's STREAMINFO (RFC 9639, 8.2), with or without the signature and the block header before it. The record of
/// the result is STREAMINFO alone.
pub fn flac(header: &Bytes) -> Option<AudioConfig> {
    let mut at = if header.starts_with(b"fLaC") { 4 } else { 0 };
    // A block header: last-block flag and type 0, then the length in 24 bits.
    if let Some(&[kind, 0, 0, length]) = header.get(at..at + 4)
        && kind & 0x7f == 0
        && usize::from(length) == STREAM_INFO
    {
        at += 4;
    }
    let info = header.get(at..at + STREAM_INFO)?;
    let mut bits = Bits::new(info);
    let (least, most) = (bits.take(16)?, bits.take(16)?);
    bits.skip(24 + 24)?;
    let (rate, channels) = (bits.take(20)?, bits.take(3)? as u8 + 1);
    let samples = if least == most { most } else { 0 };
    let record = header.slice(at..at + STREAM_INFO);
    let known = rate > 0 && rate <= 655_350 && least > 0;
    known.then(|| AudioConfig { record, ..config(AudioCodec::Flac, rate, channels, samples) })
}

/// The configuration that an AC-3 or E-AC-3 frame's header gives (ETSI TS 102 366, 4.3 and E.1.2).
pub fn ac3(frame: &[u8]) -> Option<AudioConfig> {
    const RATES: [u32; 3] = [48_000, 44_100, 32_000];
    let mut bits = Bits::new(frame);
    if bits.take(16)? != 0x0b77 {
        return None;
    }
    let mut ahead = bits;
    ahead.skip(24)?;
    let version = ahead.take(5)?;
    if version <= 10 {
        // crc1, then fscod and frmsizecod, bsid and bsmod.
        bits.skip(16)?;
        let rate = *RATES.get(bits.take(2)? as usize)?;
        bits.skip(6 + 5 + 3)?;
        let mode = bits.take(3)?;
        // Mix levels, where the mode has what they mix.
        if mode & 1 == 1 && mode != 1 {
            bits.take(2)?;
        }
        if mode & 4 != 0 {
            bits.take(2)?;
        }
        if mode == 2 {
            bits.take(2)?;
        }
        let channels = mode_channels(mode) + u8::from(bits.flag()?);
        return Some(config(AudioCodec::Ac3, rate, channels, 1536));
    }
    // strmtyp, substreamid, frmsiz
    bits.skip(2 + 3 + 11)?;
    let (rate, blocks) = match bits.take(2)? {
        3 => (RATES.get(bits.take(2)? as usize)? / 2, 6),
        index => (RATES[index as usize], [1, 2, 3, 6][bits.take(2)? as usize]),
    };
    let mode = bits.take(3)?;
    let channels = mode_channels(mode) + u8::from(bits.flag()?);
    (version <= 16).then(|| config(AudioCodec::Eac3, rate, channels, 256 * blocks))
}

/// Channels of an audio coding mode (table 4.3), without LFE.
fn mode_channels(mode: u32) -> u8 {
    [2, 1, 2, 3, 3, 4, 4, 5][mode as usize & 7]
}

fn known_channels(config: AudioConfig) -> Option<AudioConfig> {
    crate::aac::CHANNELS.contains(&config.channels).then_some(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bytes;

    fn shape(config: Option<AudioConfig>) -> Option<(AudioCodec, u32, u8, u32)> {
        config.map(|config| (config.codec, config.sample_rate, config.channels, config.frame_samples))
    }

    /// Headers as FFmpeg 9 writes them: stereo at 48 kHz.
    #[test]
    fn headers_say_what_ffprobe_says() {
        let stereo = |codec, samples| Some((codec, 48_000, 2, samples));
        assert_eq!(shape(mpeg_audio(&bytes("fffb94640000"))), stereo(AudioCodec::Mp3, 1152));
        assert_eq!(shape(ac3(&bytes("0b77fe95144043e106f46370"))), stereo(AudioCodec::Ac3, 1536));
        assert_eq!(shape(ac3(&bytes("0b77017f3487c0002084"))), stereo(AudioCodec::Eac3, 1536));
        let head = bytes("4f707573486561640102380180bb0000000000");
        assert_eq!(shape(opus(&head)), stereo(AudioCodec::Opus, 0));
        let info = bytes("040004000000000010980bb802f00000000000000000000000000000000000000000");
        assert_eq!(shape(flac(&info)), stereo(AudioCodec::Flac, 0x400));
    }

    #[test]
    fn flac_with_and_without_what_stands_before_it() {
        let info = bytes("040004000000000010980bb802f00000000000000000000000000000000000000000");
        for before in ["", "664c6143 80000022", "80000022", "00000022"] {
            let header = Bytes::from([&bytes(before)[..], &info].concat());
            let config = flac(&header).unwrap();
            assert_eq!(
                (config.sample_rate, config.channels, config.frame_samples),
                (48_000, 2, 0x400),
                "{before}"
            );
            assert_eq!(config.record, info, "{before}");
        }
        assert_eq!(flac(&info.slice(..33)), None);
    }

    #[test]
    fn mpeg_audio_of_all_versions_and_layers() {
        let table = [
            ("fffb90c4", Some((AudioCodec::Mp3, 44_100, 1, 1152))),
            ("fff390c4", Some((AudioCodec::Mp3, 22_050, 1, 576))),
            ("ffe39004", Some((AudioCodec::Mp3, 11_025, 2, 576))),
            ("fffd9404", Some((AudioCodec::Mp3, 48_000, 2, 1152))),
            ("ffff9404", Some((AudioCodec::Mp3, 48_000, 2, 384))),
            ("fff19404", None),
            ("ffeb9404", None),
            ("fffbf404", None),
            ("fffb9c04", None),
            ("fffb", None),
        ];
        for (frame, expected) in table {
            assert_eq!(shape(mpeg_audio(&bytes(frame))), expected, "{frame}");
        }
    }

    #[test]
    fn opus_without_its_head() {
        assert_eq!(opus_of_packet(&[0xfc]).map(|config| config.channels), Some(2));
        assert_eq!(opus_of_packet(&[0xf8]).map(|config| config.channels), Some(1));
        assert_eq!(opus_of_packet(&[]), None);
        assert_eq!(opus(&bytes("4f707573486561640109380180bb0000000000")), None, "nine channels");
    }
}
