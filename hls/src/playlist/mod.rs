//! Playlist text. Which segments are listed is decided in [`crate::presentation`]; segments themselves are made in
//! [`crate::packager`].

pub(crate) mod archive;
pub mod edit;
pub(crate) mod media;
pub(crate) mod multivariant;

/// EXT-X-VERSION of every playlist, constant regardless of content. EXT-X-MAP in a playlist of media segments needs 6
/// (rfc8216bis section 8), EXT-X-GAP needs 8 according to hls-parser; the low-latency tags need no more.
pub(crate) const VERSION: usize = 8;
