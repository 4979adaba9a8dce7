//! See `encoder::testing::fuzzing::tokens`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::tokens(input));
