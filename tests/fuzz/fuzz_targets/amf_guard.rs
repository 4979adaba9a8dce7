//! See `encoder::testing::fuzzing::amf_guard`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::amf_guard(input));
