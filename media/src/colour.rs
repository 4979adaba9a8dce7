//! How the samples of pictures are stored and which colours they mean, as sequence headers and parameter sets say.
//!
//! What belongs here: facts that the three codecs of [`crate::VideoConfig::picture_format`] have in common. What does not:
//! where they stand in a header.

use crate::{VideoCodec, VideoConfig, av1, h264, hevc};

/// Colours, by the code points of ISO/IEC 23091-2 (ITU-T H.273).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    /// ColourPrimaries; 2 is "unspecified".
    pub primaries: u8,
    /// TransferCharacteristics; 2 is "unspecified", 16 is PQ, 18 is HLG.
    pub transfer: u8,
    /// MatrixCoefficients; 2 is "unspecified".
    pub matrix: u8,
    /// Whether samples use their full range of values.
    pub full_range: bool,
}

impl Colour {
    /// A stream that says nothing: players assume BT.709 or BT.601.
    pub const UNSPECIFIED: Self = Self { primaries: 2, transfer: 2, matrix: 2, full_range: false };
}

/// The format of a stream's pictures, apart from their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureFormat {
    /// chroma_format_idc: 0 is monochrome, 1 is 4:2:0, 2 is 4:2:2, 3 is 4:4:4.
    pub chroma: u8,
    /// Bits of a luma sample, 8 to 16.
    pub bit_depth: u8,
    /// Colours.
    pub colour: Colour,
}

impl VideoConfig {
    /// The format of the pictures; `None` where the record has none that can be read, and for VP8 and VP9.
    pub fn picture_format(&self) -> Option<PictureFormat> {
        picture_format(self.codec, &self.record)
    }
}

/// The picture format that a codec's configuration record gives, as [`VideoConfig::picture_format`].
pub fn picture_format(codec: VideoCodec, record: &[u8]) -> Option<PictureFormat> {
    match codec {
        VideoCodec::H264 => h264::picture_format(record),
        VideoCodec::Hevc => hevc::picture_format(record),
        VideoCodec::Av1 => av1::picture_format(record),
        VideoCodec::Vp9 | VideoCodec::Vp8 => None,
    }
}
