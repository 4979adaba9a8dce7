//! What benchmark programs share: settings from the environment, and room for many sockets.

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::str::FromStr;

/// The value of an environment variable, or `default` if the variable is not set.
///
/// # Errors
/// The value cannot be used.
pub fn variable<T: FromStr>(name: &str, default: T) -> anyhow::Result<T> {
    match std::env::var(name) {
        Ok(text) => text.parse().ok().with_context(|| format!("{name}: '{text}' cannot be used")),
        Err(_) => Ok(default),
    }
}

/// Raises the limit of open files to `wanted`, here and, by inheritance, in the servers that are measured.
///
/// # Errors
/// The hard limit is lower.
pub fn raise_open_files(wanted: usize) -> anyhow::Result<()> {
    let (limit, wanted) = (getrlimit(Resource::Nofile), wanted as u64);
    if limit.current.is_some_and(|current| current < wanted) {
        ensure!(
            limit.maximum.is_none_or(|most| most >= wanted),
            "open files are limited to {:?}",
            limit.maximum
        );
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })?;
    }
    Ok(())
}
