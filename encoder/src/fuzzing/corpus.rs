//! Reads `fixtures/corpus`: the seeds of a fuzz target, which `make.py` makes, and the inputs that a guided fuzzer found
//! on new ways through the code.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;

/// Every input for this target. The seeds are files of the folder `{target}`; the found inputs are lines of the file
/// `found/{target}`, in Base64.
///
/// # Panics
///
/// When the files cannot be read.
#[allow(clippy::expect_used, reason = "a corpus that cannot be read is the caller's mistake")]
pub fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/corpus");
    let entries = std::fs::read_dir(folder.join(target)).expect("fixtures/corpus/make.py has made the seeds");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    let mut inputs: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).expect("readable")).collect();
    let found =
        std::fs::read_to_string(folder.join("found").join(target)).expect("scripts/fuzz.sh wrote the file");
    inputs.extend(found.lines().map(|line| STANDARD.decode(line).expect("Base64")));
    inputs
}
