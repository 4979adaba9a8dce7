//! VP8 (RFC 6386) and VP9 (VP9 bitstream specification): which frames are keyframes, and their size. Both have no
//! configuration outside their frames that a decoder needs.
//!
//! What belongs here: what several crates need to know about the codecs. What does not: containers, timestamps, decoding.

use crate::bits::Bits;
use crate::error::{CodecError, checked_size};
use crate::{VideoCodec, VideoConfig};
use bytes::Bytes;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether decoding can start here.
    pub key: bool,
    /// A keyframe's configuration.
    pub config: Option<VideoConfig>,
}

/// Reads the beginning of a VP8 frame (RFC 6386, 9.1).
///
/// # Errors
/// [`CodecError`].
pub fn read_vp8(frame: &[u8]) -> Result<Frame, CodecError> {
    const BROKEN: CodecError = CodecError::Broken("VP8 frame cannot be read");
    let first = *frame.first().ok_or(BROKEN)?;
    if first & 1 == 1 {
        return Ok(Frame { key: false, config: None });
    }
    let Some(&[_, _, _, 0x9d, 0x01, 0x2a, a, b, c, d]) = frame.first_chunk::<10>() else {
        return Err(BROKEN);
    };
    // The two highest bits are a scale for players.
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    let config = config(VideoCodec::Vp8, side(a, b), side(c, d))?;
    Ok(Frame { key: true, config: Some(config) })
}

/// Reads the beginning of a VP9 frame or superframe (6.2).
///
/// # Errors
/// [`CodecError`].
pub fn read_vp9(frame: &[u8]) -> Result<Frame, CodecError> {
    vp9_header(frame).ok_or(CodecError::Broken("VP9 frame cannot be read"))?
}

fn vp9_header(frame: &[u8]) -> Option<Result<Frame, CodecError>> {
    const INTER: Frame = Frame { key: false, config: None };
    let mut bits = Bits::new(frame);
    // frame_marker
    if bits.take(2)? != 2 {
        return None;
    }
    let profile = bits.take(1)? | bits.take(1)? << 1;
    if profile == 3 {
        bits.flag()?;
    }
    let show_existing_frame = bits.flag()?;
    if show_existing_frame || bits.flag()? {
        return Some(Ok(INTER));
    }
    // show_frame, error_resilient_mode
    bits.take(2)?;
    if bits.take(24)? != 0x49_8342 {
        return None;
    }
    if profile >= 2 {
        bits.flag()?;
    }
    const SRGB: u32 = 7;
    if bits.take(3)? != SRGB {
        bits.flag()?;
        if profile & 1 == 1 {
            bits.take(3)?;
        }
    } else if profile & 1 == 1 {
        bits.flag()?;
    }
    let (width, height) = (bits.take(16)? + 1, bits.take(16)? + 1);
    Some(config(VideoCodec::Vp9, width, height).map(|config| Frame { key: true, config: Some(config) }))
}

fn config(codec: VideoCodec, width: u32, height: u32) -> Result<VideoConfig, CodecError> {
    let (width, height) = checked_size(width, height)?;
    Ok(VideoConfig { codec, record: Bytes::new(), width, height, sample_aspect: (1, 1), frame_rate: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bytes;

    #[test]
    fn vp9_keyframes_bring_their_size() {
        // libvpx by FFmpeg 9: a keyframe of 320x180, and what follows.
        let key = read_vp9(&bytes("824983420013f00b360438241c184a0009507fdd")).unwrap();
        assert!(key.key);
        assert_eq!(key.config.map(|config| (config.width, config.height)), Some((320, 180)));
        assert_eq!(read_vp9(&bytes("86004092f0e1")).unwrap(), Frame { key: false, config: None });
        assert_eq!(
            read_vp9(&bytes("88")).unwrap(),
            Frame { key: false, config: None },
            "an existing frame shown"
        );
        for broken in ["", "02", "8249834300", "8249834200"] {
            assert!(read_vp9(&bytes(broken)).is_err(), "{broken}");
        }
    }

    #[test]
    fn vp8_keyframes_bring_their_size() {
        let key = read_vp8(&bytes("1002009d012a4001b400")).unwrap();
        assert_eq!(key.config.map(|config| (config.width, config.height)), Some((320, 180)));
        assert!(!read_vp8(&bytes("1102")).unwrap().key);
        for broken in ["", "1002009d012b4001b400", "1002009d012a4001", "1002009d012a00000000"] {
            assert!(read_vp8(&bytes(broken)).is_err(), "{broken}");
        }
    }
}
