//! See `encoder::fuzzing::flv`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::fuzzing::flv(input));
