//! Synthetic media for this module's tests.

use bytes::Bytes;
use media::{AudioCodec, AudioConfig, MediaTime, Unit, VideoCodec, VideoConfig};

/// A configuration whose record differs by the last byte of its PPS.
pub(crate) fn video_config(width: u16, height: u16) -> VideoConfig {
    let mut record = AVCC;
    record[AVCC.len() - 1] ^= (width / 16 + height) as u8;
    VideoConfig {
        codec: VideoCodec::H264,
        record: Bytes::copy_from_slice(&record),
        width,
        height,
        sample_aspect: (1, 1),
        frame_rate: None,
    }
}

/// An AVCDecoderConfigurationRecord as x264 writes it for 1280x720 in the baseline profile.
pub(crate) const AVCC: [u8; 38] = [
    0x01, 0x42, 0xc0, 0x1f, 0xff, 0xe1, 0x00, 0x17, 0x67, 0x42, 0xc0, 0x1f, 0xda, 0x01, 0x40, 0x16, 0xec,
    0x04, 0x40, 0x00, 0x00, 0x03, 0x00, 0x40, 0x00, 0x00, 0x0c, 0x83, 0xc6, 0x0c, 0xa8, 0x01, 0x00, 0x04,
    0x68, 0xce, 0x0f, 0xc8,
];

/// An AAC configuration without extension, of the given object type, sample rate in Hz and channel count.
pub(crate) fn audio_config(core_type: u8, sample_rate: u32, channels: u8) -> AudioConfig {
    let index = match sample_rate {
        48_000 => 3u8,
        44_100 => 4,
        _ => 11,
    };
    let record = [core_type << 3 | index >> 1, (index & 1) << 7 | channels << 3];
    AudioConfig {
        codec: AudioCodec::Aac,
        record: Bytes::copy_from_slice(&record),
        core_type,
        extension: None,
        channel_config: channels,
        sample_rate,
        channels,
        frame_samples: 1024,
    }
}

/// An access unit `ms` milliseconds after the media axis' usual start of ten seconds.
pub(crate) fn unit_at(ms: i64, key: bool) -> Unit {
    let at = MediaTime::from_ticks_90k(900_000 + ms * 90);
    Unit { pts: at, dts: at, key, data: Bytes::from_static(&[0, 0, 0, 1, 0x65]) }
}
