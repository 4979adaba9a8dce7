//! Placeholder.

mod av;
mod contribution;
pub mod demux;
pub mod pattern;
