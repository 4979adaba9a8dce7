//! Tests that encode in real time take turns: side by side on a small machine they would only measure each other.

use std::fs::File;

/// The right to load the machine; given back when dropped.
pub struct Turn(#[expect(dead_code, reason = "held for its lock")] File);

impl Turn {
    /// Waits until no other test, in this process or another, loads the machine.
    pub fn take() -> Self {
        let path = std::env::temp_dir().join("encoder-tests.turn");
        let file = File::options().create(true).write(true).truncate(false).open(path).expect("a lock file");
        file.lock().expect("a lock");
        Self(file)
    }
}
