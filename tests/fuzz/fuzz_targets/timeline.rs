//! See `encoder::testing::fuzzing::timeline`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::timeline(input));
