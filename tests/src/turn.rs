//! Programs that encode in real time take turns: side by side on a small machine they would distort each other's
//! measurements. Under nextest there are no turns: it starts as many tests at a time as the processors carry
//! (`.config/nextest.toml`).

use std::fs::File;

/// An exclusive lock on the machine's processors; released when dropped.
pub struct Turn(#[expect(dead_code, reason = "held for its lock")] Option<File>);

impl Turn {
    /// Waits until no other test or benchmark, in this process or another one, holds the lock.
    pub fn take() -> Self {
        if std::env::var_os("NEXTEST").is_some() {
            return Self(None);
        }
        let path = std::env::temp_dir().join("encoder-tests.turn");
        let file = File::options().create(true).write(true).truncate(false).open(path).expect("a lock file");
        file.lock().expect("a lock");
        Self(Some(file))
    }
}
