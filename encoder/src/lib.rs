//! The encoder: one command, [`main`]. Its modules are private; tests of other crates and fuzz targets get what they
//! need from `testing`, which the release build does not contain.
// Items that `testing` exports are `pub`; without that feature nothing outside reaches them.
#![cfg_attr(not(feature = "testing"), allow(unreachable_pub))]

mod admin;
mod archive;
mod commands;
mod config;
mod delivery;
mod edge;
mod events;
mod fault;
mod fleet;
#[cfg(any(test, feature = "testing"))]
mod fuzzing;
mod identity;
mod ingest;
mod inspect;
mod listener;
mod logging;
mod origin;
mod refusals;
mod retry;
mod shutdown;
mod status;
mod stream;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod wake;
mod web;

pub use commands::main;

/// The commit that this binary was built from, or `unknown` if the build did not set it.
const REVISION: &str = match option_env!("ENCODER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
