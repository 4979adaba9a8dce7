//! H.264 (ITU-T H.264, ISO/IEC 14496-15): NAL units in both framings, parameter sets, and the
//! AVCDecoderConfigurationRecord, read and written.
//!
//! What belongs here: what several crates need to know about the codec. Bytes come from outside: every function returns
//! an error or `None` for broken input, and each limit is a constant. What does not: a container's or a protocol's
//! headers, timestamps, decoding; no function reads a slice.

mod nal;
mod record;
mod size;
#[cfg(test)]
mod tests;

pub(crate) use nal::is_sei;
pub use nal::{
    LengthPrefixedUnits, LengthSize, annex_b, annex_b_to_length_prefixed, annex_b_units, facts,
    length_prefixed_units, nal_type, relength,
};
pub(crate) use nal::{find_start_code, without_trailing_zeros};
pub use record::{
    DIMENSIONS, MAX_RECORD, ParameterSets, Record, codecs_string, in_band_config, largest_picture,
    picture_format, read_config, same_parameter_sets,
};

use std::fmt;

/// What is wrong with H.264 data. The sender is at fault; reading the same bytes again fails again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum H264Error {
    /// The configuration record is longer than [`MAX_RECORD`].
    RecordTooLong,
    /// The configuration record is shorter than its fixed fields, or has another version than 1.
    RecordVersion,
    /// The configuration record says that lengths have three bytes, which no version of the standard allows.
    LengthSize,
    /// The configuration record ends before its length fields say.
    RecordTruncated,
    /// A sequence or picture parameter set is missing where one of each is needed.
    NoParameterSets,
    /// The sequence parameter set cannot be parsed, or gives no picture size.
    ParameterSet,
    /// The picture is smaller or larger than [`DIMENSIONS`].
    PictureSize {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
    /// A NAL unit's length reaches beyond the end of the access unit.
    UnitLengths,
}

impl H264Error {
    /// The error in words, without the values in it.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RecordTooLong => "AVC configuration is too long",
            Self::RecordVersion => "AVC configuration of unknown version",
            Self::LengthSize => "AVC configuration with lengths of three bytes",
            Self::RecordTruncated => "AVC configuration ends early",
            Self::NoParameterSets => "AVC configuration without a sequence or a picture parameter set",
            Self::ParameterSet => "sequence parameter set cannot be read",
            Self::PictureSize { .. } => "video is too small or too large",
            Self::UnitLengths => "NAL unit lengths do not fit the picture",
        }
    }
}

impl fmt::Display for H264Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PictureSize { width, height } => {
                let (least, most) = (DIMENSIONS.start(), DIMENSIONS.end());
                write!(f, "video is {width}x{height}; this encoder takes {least} to {most} pixels a side")
            }
            Self::RecordTooLong
            | Self::RecordVersion
            | Self::LengthSize
            | Self::RecordTruncated
            | Self::NoParameterSets
            | Self::ParameterSet
            | Self::UnitLengths => f.write_str(self.reason()),
        }
    }
}

impl std::error::Error for H264Error {}
