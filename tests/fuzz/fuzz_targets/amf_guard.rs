//! See `encoder::fuzzing::amf_guard`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::fuzzing::amf_guard(input));
