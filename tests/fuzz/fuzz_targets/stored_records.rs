//! See `encoder::testing::fuzzing::stored_records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::stored_records(input));
