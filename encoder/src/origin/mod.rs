//! The public HTTP server: serves playlists, segments and the player page from memory.
//!
//! What belongs here: which bytes answer which request. What does not: making them (`hls`), storing them
//! ([`store`]), deciding when to remove them ([`crate::stream`] calls the [`ObjectCache`]). Nothing here reads a
//! file: a request can only reach objects that were added to the object cache or embedded in the binary.

mod activity;
mod gzip;
mod http;
mod library;
mod page;
mod reload;
mod serve;

pub use http::router;
pub use library::{ObjectCache, Reloadable, StreamInfo, StreamPath};
pub use serve::{PROTOCOLS, ViewerLimits, serve};
