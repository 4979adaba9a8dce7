//! See `encoder::testing::fuzzing::chunk_reader`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::chunk_reader(input));
