//! Where log lines go and how they look. What is logged is said where it happens.
//!
//! Levels: *error* is a fault of ours or of the machine that somebody must look at; *warn* is a loss for somebody that was
//! dealt with; *info* is the life of process and streams, a few lines each; *debug* is the rest, strangers included.

mod cloud;
mod recent;

pub use recent::Recent;

use crate::config::LogFormat;
use std::io::{self, IsTerminal};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt};

/// Logs to standard error from now on. `RUST_LOG` chooses what; without it `info` and worse. Answers what keeps the last
/// warnings.
pub fn start(format: LogFormat) -> Recent {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let recent = Recent::default();
    let registry = tracing_subscriber::registry().with(filter).with(recent.clone());
    // An error means that a subscriber is there already, as in tests: then that one is used.
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
