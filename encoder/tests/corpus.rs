//! Runs every input in `fixtures/corpus` through its fuzz target: seeds, and inputs that a fuzzer found.

use encoder::testing::fuzzing::{TARGETS, corpus};

#[test]
fn the_corpus_passes() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(!inputs.is_empty(), "{name} has no seeds: run fixtures/corpus/make.py");
        for (index, input) in inputs.iter().enumerate() {
            println!("{name} {index}");
            target(input);
        }
    }
}
