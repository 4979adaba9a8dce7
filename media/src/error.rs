//! What is wrong with coded media, for the codecs that this crate reads only as far as an encoder needs.

use crate::h264::DIMENSIONS;

/// What is wrong with coded media. The sender is at fault; reading the same bytes again fails again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A configuration or an access unit cannot be read.
    #[error("{0}")]
    Broken(&'static str),
    /// The picture is smaller or larger than [`DIMENSIONS`].
    #[error("video is {width}x{height}; this encoder takes {} to {} pixels a side", DIMENSIONS.start(), DIMENSIONS.end())]
    PictureSize {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
}

/// Checks a picture's size in pixels.
pub(crate) fn checked_size(width: u32, height: u32) -> Result<(u16, u16), CodecError> {
    match (u16::try_from(width), u16::try_from(height)) {
        (Ok(w), Ok(h)) if DIMENSIONS.contains(&width) && DIMENSIONS.contains(&height) => Ok((w, h)),
        _ => Err(CodecError::PictureSize { width, height }),
    }
}
