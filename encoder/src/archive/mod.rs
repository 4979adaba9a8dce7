//! What remains of a broadcast: playlists over all of it (EVENT while it goes on, VOD when it is over) and one MP4 per
//! rung that was asked for, both from the segments that are stored anyway. Nothing is uploaded twice, and no media passes
//! through this process: recordings are composed by the store behind an index that is made here.
//!
//! What belongs here: which objects an archive is made of, when they are written, how it is finished. What does not:
//! segments and when they are uploaded ([`crate::publish`]), sample tables (`hls::recording`), the store's protocol.
//!
//! - [`names`]: where the objects are. [`page`]: the index as it is stored. [`contents`]: what follows from it.
//! - [`recorder`]: sans-IO, while a broadcast goes on; [`driver`] runs it, live never waits for it.
//! - [`load`], [`seal`], [`compose`]: afterwards. They know nothing but the store, so anybody can finish an archive:
//!   the encoder whose broadcast ended, the next one that takes the stream, `encoder archive seal`.
//!
//! **Going on in another process.** [`load::load`] gives the pages and, behind them, what is stored in no page;
//! [`Recorder::resume`] takes both, and [`Keeper::record`] writes on. The page that comes next has a number that nobody
//! else has: an encoder that was thought dead finds it taken and stops.

pub mod command;
pub mod compose;
pub mod contents;
pub mod driver;
mod each;
pub mod load;
pub mod names;
pub mod page;
pub mod recorder;
pub mod seal;
#[cfg(test)]
pub(crate) mod testing;

pub use driver::{Archive, Keeper, Observed, Recording};
pub use each::Failure;
pub use names::Place;
pub use recorder::{Recorder, Settings};
