//! Runs every file in `fixtures/corpus/{target}` through its fuzz target: seeds, and inputs that a fuzzer found.

#![allow(clippy::unwrap_used)] // A test helper's unwrap is the test's failure.

use encoder::testing::fuzzing::TARGETS;
use std::path::PathBuf;

#[test]
fn the_corpus_passes() {
    let corpus = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures/corpus");
    for (name, target) in TARGETS {
        let mut files = 0;
        for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
            files += 1;
        }
        assert!(files > 0, "{name} has no seeds: run fixtures/corpus/make.py");
    }
}
