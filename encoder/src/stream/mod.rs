//! One stream, from its first published byte to its end: which renditions are encoded and how, worker supervision,
//! shedding, and the transition between epochs. Decisions are sans-IO ([`core`] and the modules that it uses); sockets,
//! processes and clocks are in [`driver`], admission of publishers is in [`registry`].

mod anchor;
pub(crate) mod bans;
pub(crate) mod core;
pub(crate) mod delays;
pub(crate) mod driver;
mod gop;
pub(crate) mod ladder;
pub(crate) mod latency;
mod measured;
mod probe;
pub(crate) mod registry;
pub(crate) mod report;
mod restart;
mod run;
mod shed;
mod silence;
mod sound;
pub(crate) mod worker;

pub use anchor::Now;
pub(crate) use core::{StreamCore, StreamSettings};

#[cfg(test)]
mod core_properties;
#[cfg(test)]
pub(crate) mod core_tests;
#[cfg(test)]
pub(crate) mod tests;
