//! The public HTTP server: playlists, segments and the player page, out of memory.
//!
//! What belongs here: which bytes answer which request. What does not: making them (`hls`), keeping them for later
//! ([`crate::store`]), deciding when they go ([`crate::stream`] tells the [`Library`]). Nothing here reads a file: a
//! request can only ever reach what was put into the library or embedded in the binary.

mod activity;
mod gzip;
mod http;
mod library;
mod page;
mod reload;
mod serve;

pub use http::router;
pub use library::{Library, Reloadable, Stored, StreamInfo, StreamPath};
pub use serve::{Limits, PROTOCOLS, serve};
