//! See `encoder::testing::fuzzing::flv`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::flv(input));
