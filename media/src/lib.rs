//! What flows from a publisher to the packager: media time, access units and their configurations, and the facts about
//! codecs behind them ([`h264`], [`hevc`], [`av1`], [`vpx`], [`aac`], [`sound`], [`captions`]).
//!
//! What belongs here: types and pure functions that several crates need. What does not: parsing of a protocol or a
//! container, sockets, clocks, threads, libav, logging.
//!
//! To add a codec, add a variant to [`VideoCodec`] or [`AudioCodec`] and a module like [`h264`]. No match over codecs
//! has a catch-all arm, so the compiler then names each place that has to decide.
#![forbid(unsafe_code)]

pub mod aac;
pub mod av1;
mod bits;
pub mod captions;
mod colour;
mod error;
pub mod framing;
pub mod h264;
pub mod hevc;
mod name;
mod picture;
pub mod sound;
#[cfg(test)]
mod testing;
pub mod time;
mod unit;
pub mod vpx;

pub use colour::{Colour, PictureFormat, picture_format};
pub use error::CodecError;
pub use name::{MAX_NAME_LEN, is_valid_name};
pub use time::{Anchor, MediaSpan, MediaTime, WallTime};
pub use unit::{
    AacExtension, AudioCodec, AudioConfig, MAX_SOUND_TRACKS, Media, SoundTrackId, UNIT_OVERHEAD, Unit,
    VideoCodec, VideoConfig,
};

/// The frame rate `frames / per` as a reduced fraction, if it is plausible: 1 to 240 frames per second.
fn plausible_rate(frames: u64, per: u64) -> Option<(u32, u32)> {
    if per == 0 || !(per..=per.saturating_mul(240)).contains(&frames) {
        return None;
    }
    let divisor = gcd(frames, per);
    Some((u32::try_from(frames / divisor).ok()?, u32::try_from(per / divisor).ok()?))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
