//! Test media, generated on first use by `fixtures/make.sh`.

use crate::encoder_process::workspace;
use std::path::PathBuf;
use std::process::Command;

/// Path of the clip with this name (`fixtures/make.sh --list` shows all names).
#[track_caller]
pub fn clip(name: &str) -> PathBuf {
    let root = workspace();
    let made = Command::new(root.join("fixtures/make.sh")).arg(name).output().expect("fixtures/make.sh runs");
    assert!(made.status.success(), "clip {name}: {}", String::from_utf8_lossy(&made.stderr));
    let folder =
        std::env::var_os("ENCODER_FIXTURES").map_or_else(|| root.join(".cache/fixtures"), PathBuf::from);
    folder.join(format!("{name}.flv"))
}
