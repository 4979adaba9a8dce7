//! See `encoder::testing::fuzzing::packager`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::testing::fuzzing::packager(input));
