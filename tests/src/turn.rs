//! Tests that encode in real time take turns: side by side on a small machine they would distort each other's
//! measurements.

use std::fs::File;

/// An exclusive lock on the machine's processors; released when dropped.
pub struct Turn(#[expect(dead_code, reason = "held for its lock")] File);

impl Turn {
    /// Waits until no other test, in this process or another one, holds the lock.
    pub fn take() -> Self {
        let path = std::env::temp_dir().join("encoder-tests.turn");
        let file = File::options().create(true).write(true).truncate(false).open(path).expect("a lock file");
        file.lock().expect("a lock");
        Self(file)
    }
}
