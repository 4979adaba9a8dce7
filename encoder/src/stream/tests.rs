//! Made-up media for this module's tests.

use crate::media::{AccessUnit, AudioCodec, AudioConfig, VideoCodec, VideoConfig};
use bytes::Bytes;
use hls::MediaTime;
use std::time::Instant;

/// A configuration whose record is a label: nothing here parses it.
pub(crate) fn video_config(width: u16, height: u16) -> VideoConfig {
    VideoConfig {
        codec: VideoCodec::H264,
        record: AVCC.to_vec().into_iter().chain(width.to_be_bytes()).chain(height.to_be_bytes()).collect(),
        width,
        height,
        sample_aspect: (1, 1),
        frame_rate: None,
    }
}

/// A record that boxes can be made from: baseline 3.0, one SPS and one PPS.
pub(crate) const AVCC: [u8; 34] = [
    1, 0x42, 0xc0, 0x1e, 0xff, 0xe1, 0, 0x17, 0x67, 0x42, 0xc0, 0x1e, 0xda, 0x02, 0x80, 0xbf, 0xe5, 0xc0, 0x44, 0,
    0, 0x03, 0, 0x04, 0, 0, 0x03, 0, 0xf0, 0x3c, 0x58, 0, 0, 0,
];

/// AAC of the given kind.
pub(crate) fn audio_config(object_type: u8, sample_rate: u32, channels: u8) -> AudioConfig {
    let index = match sample_rate {
        48_000 => 3u8,
        44_100 => 4,
        _ => 11,
    };
    let record = [object_type << 3 | index >> 1, (index & 1) << 7 | channels << 3];
    AudioConfig {
        codec: AudioCodec::Aac,
        record: Bytes::copy_from_slice(&record),
        object_type,
        sample_rate,
        channels,
        frame_samples: 1024,
    }
}

/// A unit `ms` behind the axis' usual start of ten seconds.
pub(crate) fn unit_at(ms: i64, key: bool) -> AccessUnit {
    let at = MediaTime::from_ticks_90k(900_000 + ms * 90);
    AccessUnit { pts: at, dts: at, key, data: Bytes::from_static(&[0, 0, 0, 1, 0x65]), arrived: Instant::now() }
}
