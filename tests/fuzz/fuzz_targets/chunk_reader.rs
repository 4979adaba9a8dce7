//! See `encoder::fuzzing::chunk_reader`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| encoder::fuzzing::chunk_reader(input));
