//! The errors that end the process, with exit codes that tell a platform where the fault lies (sysexits.h).

use crate::config::BadSetting;
use std::fmt;
use store::{Location, OpenError};

/// Exit code for wrong usage or settings: a retry does not help.
pub(crate) const EXIT_USAGE: u8 = 64;
/// Exit code for an input file that cannot be used.
pub(crate) const EXIT_INPUT: u8 = 66;
/// Exit code for a missing service of the machine: a port, a folder, memory. A retry may help.
pub(crate) const EXIT_MACHINE: u8 = 71;

/// Exit code after a signal that left nothing to report, as of shells (128 + SIGINT).
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// An error that ends the process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// All invalid settings.
    #[error("{}", list(.0))]
    Settings(Vec<BadSetting>),
    /// A port is in use or may not be bound.
    #[error("cannot listen on {address} ({flag}): {error}")]
    Listen {
        /// The flag that set the address.
        flag: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// The cause.
        error: std::io::Error,
    },
    /// The store for segments cannot be used.
    #[error("cannot {what} {place} (--output): {why}")]
    Store {
        /// What the process does with the store.
        what: &'static str,
        /// The store's location.
        place: String,
        /// The cause.
        why: String,
    },
    /// An input file cannot be used.
    #[error("cannot read {file}: {why}")]
    Input {
        /// The file.
        file: String,
        /// The cause.
        why: String,
    },
    /// Any other service that the machine should have provided.
    #[error("{what}: {why}")]
    Machine {
        /// The action that failed.
        what: &'static str,
        /// The cause.
        why: String,
    },
    /// A signal came before there was a result.
    #[error("{what}")]
    Interrupted {
        /// What was missing at that time.
        what: &'static str,
    },
    /// `publish` failed.
    #[error(transparent)]
    #[cfg(feature = "publish")]
    Publish(#[from] publisher::PublishError),
}

impl Fault {
    /// The fault for a store that cannot be opened to keep segments: what an operator must correct counts as an invalid
    /// setting, anything else is a fault of the store.
    pub(crate) fn store(flag: &'static str, location: &Location, error: &OpenError) -> Self {
        Self::store_for("keep segments in", flag, location, error)
    }

    /// The same for a store that is only read.
    pub(crate) fn store_to_read(flag: &'static str, location: &Location, error: &OpenError) -> Self {
        Self::store_for("read streams in", flag, location, error)
    }

    fn store_for(what: &'static str, flag: &'static str, location: &Location, error: &OpenError) -> Self {
        let (place, why) = (location.to_string(), error.to_string());
        if error.is_setting() {
            Self::Settings(vec![BadSetting { flag, value: place, problem: why }])
        } else {
            Self::Store { what, place, why }
        }
    }

    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) => EXIT_USAGE,
            Self::Input { .. } => EXIT_INPUT,
            Self::Interrupted { .. } => EXIT_INTERRUPTED,
            Self::Listen { .. } | Self::Store { .. } | Self::Machine { .. } => EXIT_MACHINE,
            #[cfg(feature = "publish")]
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
