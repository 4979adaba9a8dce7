//! The destination and format of log lines. The lines themselves are written where the events happen.
//!
//! Levels: *error* is a fault of the encoder or the machine that an operator must look at; *warn* is a loss for a
//! user that was dealt with; *info* covers the life of the process and its streams, a few lines each; *debug* is
//! everything else, including requests from strangers.

//!
//! Fields: a name ends in its unit (`_seconds`, `_ms`, `_bytes`, or is one of these words), seconds have three decimals
//! at most ([`rounded`]), counts that are zero are left out ([`nonzero`], [`counts`]), and no field is Rust's debug
//! output: `scripts/log-fields.sh` checks this. A warning says what an operator can do, where there is something.

mod cloud;
mod recent;

pub(crate) use recent::Recent;

use crate::config::LogFormat;
use std::io::{self, IsTerminal};
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, fmt};

/// Seconds with at most three decimals, for a field.
pub(crate) fn rounded(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

/// A count as a field that is left out when the count is zero.
pub(crate) fn nonzero(count: u64) -> Option<u64> {
    (count > 0).then_some(count)
}

/// Counts that are not zero, as one field: `gaps=2 reordered=1`. `None`, and so no field, when all counts are zero.
pub(crate) fn counts(kinds: impl Iterator<Item = (&'static str, u64)>) -> Option<String> {
    let counted: Vec<String> =
        kinds.filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{kind}={count}")).collect();
    (!counted.is_empty()).then(|| counted.join(" "))
}

/// Logs to standard error from now on. `RUST_LOG` sets the filter; the default is `info` and above. Returns the list
/// of the last warnings.
pub(crate) fn start(format: LogFormat) -> Recent {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_zero_becomes_a_field() {
        assert_eq!(
            counts([("gaps", 2), ("wraps", 0), ("reordered", 1)].into_iter()).unwrap(),
            "gaps=2 reordered=1"
        );
        assert_eq!(counts([("gaps", 0)].into_iter()), None);
        assert_eq!((nonzero(0), nonzero(3)), (None, Some(3)));
    }

    #[test]
    fn seconds_have_three_decimals_at_most() {
        assert_eq!(rounded(12.345_678_9).to_string(), "12.346");
        assert_eq!(rounded(6.0).to_string(), "6");
    }
}
