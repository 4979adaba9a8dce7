//! See `encoder::testing::fuzzing::audience`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::audience(input));
