//! The destination and format of log lines. The lines themselves are written where the events happen.
//!
//! Levels: *error* is a fault of the encoder or the machine that an operator must look at; *warn* is a loss for a
//! user that was dealt with; *info* covers the life of the process and its streams, a few lines each; *debug* is
//! everything else, including requests from strangers.

mod cloud;
mod recent;

pub use recent::Recent;

use crate::config::LogFormat;
use std::io::{self, IsTerminal};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt};

/// Logs to standard error from now on. `RUST_LOG` sets the filter; the default is `info` and above. Returns the list
/// of the last warnings.
pub fn start(format: LogFormat) -> Recent {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let recent = Recent::default();
    let registry = tracing_subscriber::registry().with(filter).with(recent.clone());
    // An error means that a subscriber is already installed, as in tests: then that subscriber is used.
    let _ = match format {
        LogFormat::Text => registry
            .with(
                fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(io::stderr().is_terminal()),
            )
            .try_init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .with_writer(io::stderr)
                    .fmt_fields(fmt::format::JsonFields::new())
                    .event_format(cloud::CloudFormat::from_env()),
            )
            .try_init(),
    };
    recent
}
