//! Playlist text. Which segments are listed is decided in [`crate::presentation`]; what a segment is, in
//! [`crate::packager`].

pub(crate) mod archive;
pub(crate) mod media;
pub(crate) mod multivariant;

/// EXT-X-VERSION of every playlist, the same whatever happens in them: EXT-X-MAP in a playlist of media segments needs 6
/// (rfc8216bis section 8), EXT-X-GAP 8 as hls-parser has it; the tags of low latency need no more.
pub(crate) const VERSION: usize = 8;
