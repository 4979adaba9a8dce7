//! See `encoder::fuzzing::packager`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::fuzzing::packager(input));
