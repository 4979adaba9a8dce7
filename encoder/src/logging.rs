//! Where log lines go and how they look. What is logged is said where it happens.

use crate::config::LogFormat;
use std::io::{self, IsTerminal};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt};

/// Logs to standard error from now on. `RUST_LOG` chooses what; without it `info` and worse.
pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    // An error means that a subscriber is there already, as in tests: then that one is used.
    let _ = match format {
        LogFormat::Text => registry
            .with(
                fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(io::stderr().is_terminal()),
            )
            .try_init(),
        LogFormat::Json => registry.with(tracing_stackdriver::layer().with_writer(io::stderr)).try_init(),
    };
}
