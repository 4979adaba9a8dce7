//! What flows from a publisher to the packager: media time, access units and their configurations.
//!
//! What belongs here: types and pure functions that several crates need. What does not: parsing of a protocol or a
//! container, sockets, clocks, threads, libav, logging.
#![forbid(unsafe_code)]

mod name;
pub mod time;
mod unit;

pub use name::{MAX_NAME_LEN, is_valid_name};
pub use time::{Anchor, MediaSpan, MediaTime, WallTime};
pub use unit::{AccessUnit, AudioCodec, AudioConfig, Media, UNIT_OVERHEAD, VideoCodec, VideoConfig};
