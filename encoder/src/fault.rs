//! What ends the process, with the exit code that tells a platform whose fault it was (sysexits.h).

use crate::config::BadSetting;
use crate::store::gcs::{Location, OpenError};
use std::fmt;

/// Wrong usage or settings: a retry does not help.
pub const EXIT_USAGE: u8 = 64;
/// The input file cannot be used.
pub const EXIT_INPUT: u8 = 66;
/// Something that the machine should provide is not there: a port, a folder, memory. A retry may help.
pub const EXIT_MACHINE: u8 = 71;

/// Why the process ends other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Settings that cannot work; all of them.
    #[error("{}", list(.0))]
    Settings(Vec<BadSetting>),
    /// A port is taken or may not be used.
    #[error("cannot listen on {address} ({flag}): {error}")]
    Listen {
        /// Which flag chose it.
        flag: &'static str,
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// The place for segments cannot be used.
    #[error("cannot keep segments in {place} (--output): {why}")]
    Store {
        /// Which place.
        place: String,
        /// Why not.
        why: String,
    },
    /// An input file cannot be used.
    #[error("cannot read {file}: {why}")]
    Input {
        /// Which file.
        file: String,
        /// Why not.
        why: String,
    },
    /// Anything else that the machine should have provided.
    #[error("{what}: {why}")]
    Machine {
        /// What was tried.
        what: &'static str,
        /// What went wrong.
        why: String,
    },
    /// `publish` did not come to a good end.
    #[error(transparent)]
    Publish(#[from] crate::broadcast::PublishError),
}

impl Fault {
    /// What an operator must mend at a bucket counts as a bad setting; what may pass does not.
    pub fn bucket(flag: &'static str, location: &Location, error: &OpenError) -> Self {
        if error.is_retryable() {
            return Self::Store { place: location.to_string(), why: error.to_string() };
        }
        Self::Settings(vec![BadSetting { flag, value: location.to_string(), problem: error.to_string() }])
    }

    /// The process' exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) => EXIT_USAGE,
            Self::Input { .. } => EXIT_INPUT,
            Self::Listen { .. } | Self::Store { .. } | Self::Machine { .. } => EXIT_MACHINE,
            Self::Publish(error) => error.exit_code(),
        }
    }
}

fn list(bad: &[BadSetting]) -> impl fmt::Display {
    struct List(String);
    impl fmt::Display for List {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }
    let lines: Vec<String> = bad.iter().map(|bad| format!("\n  {bad}")).collect();
    List(format!("{} bad setting{}:{}", bad.len(), if bad.len() == 1 { "" } else { "s" }, lines.concat()))
}
