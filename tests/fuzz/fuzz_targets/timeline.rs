//! See `encoder::fuzzing::timeline`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::fuzzing::timeline(input));
