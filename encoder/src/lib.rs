//! The encoder's modules. The binary in `main.rs` assembles them; tests and fuzz targets use them through this
//! library.

pub mod admin;
pub mod archive;
pub mod commands;
pub mod config;
pub mod delivery;
pub mod fault;
pub mod fleet;
#[doc(hidden)]
pub mod fuzzing;
pub mod ingest;
pub mod logging;
pub mod origin;
pub mod shutdown;
pub mod stream;
pub mod telemetry;
mod wake;

/// The commit that this binary was built from, or `unknown` if the build did not set it.
pub const REVISION: &str = match option_env!("ENCODER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
