//! The encoder's modules. The binary in `main.rs` assembles them; tests and fuzz targets use them through this
//! library.

pub mod admin;
pub mod app;
pub mod archive;
pub mod bucket;
pub mod cli;
pub mod config;
pub mod fault;
pub mod fleet;
#[doc(hidden)]
pub mod fuzzing;
pub mod ingest;
pub mod ladder;
pub mod lobby;
pub mod logging;
pub mod offline;
pub mod origin;
pub mod publish;
pub mod shutdown;
pub mod stream;
pub mod takeover;
pub mod telemetry;
mod wake;

/// The commit that this binary was built from, or `unknown` if the build did not set it.
pub const REVISION: &str = match option_env!("ENCODER_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};
