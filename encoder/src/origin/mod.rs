//! The public HTTP server: serves playlists, segments and the player page from memory.
//!
//! What belongs here: which bytes answer which request. What does not: making them (`hls`), storing them
//! ([`store`]), deciding when to remove them ([`crate::stream`] calls the [`ObjectCache`]). Nothing here reads a
//! file: a request can only reach objects that were added to the object cache or embedded in the binary.

mod activity;
pub(crate) mod cache;
mod caching;
mod gzip;
mod http;
mod page;
mod reload;
mod serve;
pub(crate) mod source;
pub(crate) mod told;

pub(crate) use cache::{CachedObject, ObjectCache, Reloadable, StreamInfo, StreamPath};
pub(crate) use http::{ViewerAddress, router, split};
pub(crate) use serve::{PROTOCOLS, ViewerLimits, serve};
