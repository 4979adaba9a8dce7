//! See `encoder::testing::fuzzing::codec_facts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::codec_facts(input));
