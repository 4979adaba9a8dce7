//! See `encoder::testing::fuzzing::proxy_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::proxy_header(input));
