//! What flows from a publisher to the packager: media time, access units and their configurations, and the facts about
//! codecs behind them ([`h264`], [`aac`]).
//!
//! What belongs here: types and pure functions that several crates need. What does not: parsing of a protocol or a
//! container, sockets, clocks, threads, libav, logging.
//!
//! To add a codec, add a variant to [`VideoCodec`] or [`AudioCodec`] and a module like [`h264`]. No match over codecs
//! has a catch-all arm, so the compiler then names each place that has to decide.
#![forbid(unsafe_code)]

pub mod aac;
pub mod h264;
mod name;
pub mod time;
mod unit;

pub use name::{MAX_NAME_LEN, is_valid_name};
pub use time::{Anchor, MediaSpan, MediaTime, WallTime};
pub use unit::{AacExtension, AudioCodec, AudioConfig, Media, UNIT_OVERHEAD, Unit, VideoCodec, VideoConfig};
